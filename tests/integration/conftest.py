# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two workers share the files: the longest begin, so that none of them is left over for one worker at the end."""

from __future__ import annotations

import pytest

LONGEST = (
    "test_rescue",
    "test_vault_transfer",
    "test_traps_mariadb",
    "test_vault",
    "test_host_power",
    "test_vault_life",
    "test_libvirt_guests",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONGEST)))
