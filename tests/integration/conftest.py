# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The order of the files, and fixtures that several of them share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Two workers share the files: the longest begin, so that none of them is left over for one worker at the end.
LONGEST = (
    "test_rescue",
    "test_vault_transfer",
    "test_traps_mariadb",
    "test_vault",
    "test_host_power",
    "test_vault_life",
    "test_libvirt_guests",
    "test_docker_engines",
    "test_docker_systemd",
    "test_docker_swarm",
    "test_docker_newest",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))


# --- a simulated Proxmox VE cluster (pve_fake.py); imported where it is used, for other files need none of it ---------------


@pytest.fixture
def quick_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """The waits of a real cluster, which show nothing of a simulated one."""
    from ansible_collections.sunset.crm.plugins.plugin_utils.guests import verbs as guest_verbs
    from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import api as proxmox_api, cluster as proxmox_cluster

    monkeypatch.setattr(guest_verbs, "SETTLE", 0.0)
    monkeypatch.setattr(proxmox_cluster, "RETRY", 0.3)
    monkeypatch.setattr(proxmox_cluster, "BACKSTOP", 3.0)
    monkeypatch.setattr(proxmox_api, "PAUSE", 0.1)


def _cluster(folder: Path, answers: str) -> Iterator[Any]:
    from tests.integration import pve_fake

    with pve_fake.serving(folder, answers=answers) as one:
        one.grant()
        yield one


@pytest.fixture(params=["fake", "real"])
def both(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A cluster with the simulator's own answers, and with those of the real thing where they differ."""
    yield from _cluster(tmp_path, request.param)


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Any]:
    """A cluster with the answers of the real thing."""
    yield from _cluster(tmp_path, "real")
