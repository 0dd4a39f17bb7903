# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the tests of guests on Proxmox VE do again and again: one call of a verb, as the action makes it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import verbs as guest_verbs
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Clock
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import copies as proxmox_copies, saves as proxmox_saves
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.api import Api
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox.cluster import Cluster
from tests.integration.pve_fake import Serving

ITEM = "guest:crm"
QUICK = Clock(time.monotonic, lambda seconds: time.sleep(min(seconds, 0.1)))


def patient(seen: Callable[[], bool]) -> Clock:
    """A clock whose time begins to pass when something was seen, or a minute has passed in vain."""
    begun = time.monotonic()
    return Clock(lambda: time.monotonic() if seen() or time.monotonic() > begun + 60 else begun, QUICK.sleep)


class Ledger:
    """What a run notes, and the next run remembers."""

    def __init__(self) -> None:
        self.former: dict[str, Any] = {}
        self.asked: dict[str, Any] = {}

    def note(self, entry: dict[str, Any]) -> None:
        if entry["kind"] == "found":
            self.former = entry["former"]
        elif entry["kind"] == "forced":
            self.asked[entry["guest"]]["forced"] = entry["allowed_by"]
        else:
            self.asked[entry["guest"]] = {"life": entry["life"], "at": entry["at_seconds"]}


@contextmanager
def cluster(serving: Serving, names: list[str], api: dict[str, Any] | None = None, **options: Any) -> Iterator[Cluster]:
    with Api(api or serving.api()) as client, Cluster(client, names, **{"clock": QUICK, **options}) as one:
        yield one


def stop(
    serving: Serving,
    names: list[str],
    ledger: Ledger | None = None,
    check: bool = False,
    timeout: float = 60,
    force_after: float | None = None,
    **options: Any,
) -> dict[str, Any]:
    ledger = ledger or Ledger()
    order = guest_verbs.Order(names, timeout=timeout, force_after=force_after, allowed_by="alice" if force_after else "")
    with cluster(serving, names, timeout=timeout, force_after=force_after, **options) as one:
        found = one.prepare(["stopped"])
        if not check:
            one.settle(found)
        memory = guest_verbs.Memory(ledger.former, ledger.asked, ledger.note)
        done = guest_verbs.stop(one, Account("proxmox_guests", ITEM), order, memory, check)
        done["calls"] = one.api.calls
        return done


def start(serving: Serving, names: list[str], ledger: Ledger, check: bool = False, timeout: float = 60, **options: Any) -> dict[str, Any]:
    with cluster(serving, names, timeout=timeout, **options) as one:
        one.prepare(["started"])
        done = guest_verbs.start(one, Account("proxmox_guests", ITEM), ledger.former, timeout, check)
        if done.get("changed") and not check:
            ledger.former, ledger.asked = {}, {}
        return done


def save(serving: Serving, names: list[str], staging: Path, check: bool = False, **wish: Any) -> dict[str, Any]:
    with cluster(serving, names) as one:
        verbs = [verb for verb, wished in (("snapshot", wish.get("snapshot")), ("backup", wish.get("storage"))) if wished] or ["survey"]
        found = one.prepare(verbs, wish.get("storage") or "")
        if not check:
            one.settle(found)
        whole = proxmox_copies.Wish(ITEM, names, str(staging), **{"timeout": 20.0, "copy_timeout": 20.0, **wish})
        return proxmox_saves.save(one, Account("proxmox_guests", ITEM), relay.here(), whole, check)


def ends(done: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {name: (row["how"], row["graceful"]) for name, row in done["result"]["guests"].items()}


def asked(serving: Serving, method: str, end: str) -> list[dict[str, Any]]:
    return [values for made, path, values in serving.pve.seen if made == method and path.endswith(end)]


def three(serving: Serving) -> tuple[Any, Any, Any]:
    """A database, an application under HA, a container; one on each node."""
    config = {"scsi0": "local-lvm:vm-100-disk-0", "onboot": 1, "startup": "order=1", "smbios1": "uuid=8c1d6d1e-0001"}
    db = serving.pve.add_vm(100, "crm-db", node="pve2", status="running", config=config)
    app = serving.pve.add_vm(101, "crm-app", node="pve1", status="running")
    serving.pve.ha(app, "started")
    serving.pve.ha_lag = 10
    web = serving.pve.add_ct(200, "crm-web", node="pve3", status="running", config={"onboot": 1})
    return db, app, web


NAMES = ["100", "crm-app", "crm-web"]
