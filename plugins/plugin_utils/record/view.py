# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the ledger says about each item: the last positive evidence, and what was interrupted. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import DATA_SETS, Item, Plan, subject
from ansible_collections.sunset.crm.plugins.plugin_utils.record.ledger import Entry

# Sides of an item that, put back, let something write again.
WAKING = ("service", "guest", "scheduler", "web")


@dataclass(frozen=True)
class Seen:
    """The last outcome with positive evidence for one aspect of one item."""

    value: str
    number: int
    hash: str
    at: str
    result: dict[str, Any]
    before: dict[str, Any]
    about: dict[str, Any]
    predicted: bool = False
    # Number of the intent: what was changed after it may be missing in what it brought.
    begun: int = -1
    # Number of the outcome that first brought this very dump; a later one may only have seen that it is still the same.
    first: int = -1


@dataclass
class View:
    """seen: (item, aspect) -> Seen. touched: (item, aspect) -> number of the last intent that undoes or destroys.
    former: (item, aspect) -> the state found before the first act, which a resume puts back."""

    seen: dict[tuple[str, str], Seen] = field(default_factory=dict)
    touched: dict[tuple[str, str], int] = field(default_factory=dict)
    former: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    # Whatever was ever begun, however it ended.
    begun: set[tuple[str, str]] = field(default_factory=set)
    interrupted: list[Entry] = field(default_factory=list)
    # Interrupted once, and brought to an end by a later run.
    mended: list[Entry] = field(default_factory=list)
    accepted: dict[str, Entry] = field(default_factory=dict)
    # (host item, package@vault) -> the last seal of it: what a destruction must name, whatever became of a try to destroy it.
    sealed: dict[tuple[str, str], Seen] = field(default_factory=dict)
    # (host item, package@vault) -> number of the last intent to destroy it: from there on it proves nothing.
    doomed: dict[tuple[str, str], int] = field(default_factory=dict)
    # Digest -> what was noted of a signed hold, lift or extension, so that none can be taken out of the folder unseen.
    words: dict[str, dict[str, Any]] = field(default_factory=dict)
    genesis: dict[str, Any] | None = None

    def get(self, item: str, aspect: str) -> Seen | None:
        return self.seen.get((item, aspect))

    def value(self, item: str, aspect: str) -> str | None:
        found = self.get(item, aspect)
        return found.value if found else None

    def is_off(self, host_item: str) -> bool:
        return self.value(host_item, "power") == "off"

    def wipe_begun(self, medium: str) -> bool:
        return (medium, "wipe") in self.touched

    def dump(self, plan: Plan, item: Item) -> Seen | None:
        """The dump of a data set, unless it holds nothing, or something that may write to the data set was started again
        since the dump began: its server, its host, or a service, job manager, web or container that stands on it."""
        found = self.get(item["id"], "dump")
        if found is None or item["kind"] not in DATA_SETS or not (found.predicted or found.result.get("artefacts")):
            return None
        writers = [(above["id"], aspect) for above in (item, *plan.standing_on(item["id"])) for aspect in WAKING]
        writers += [(name, "guest") for name in plan.serving(item)]
        writers.append((f"host:{item['host']}", "power"))
        # A host that runs inside a guest of this set.
        writers += [(above["id"], "power") for above in plan.standing_on(item["id"]) if above["kind"] == "host"]
        return None if any(self.touched.get(key, -1) > found.begun for key in writers) else found

    def proven_at(self, plan: Plan, item: Item, aspect: str = "proof") -> list[str]:
        """The vaults that hold a copy (aspect C(copy)) or a proof of the very dump that is current.

        A proof is one of the copy that the vault still holds: of the same dump, in the package that is open or sealed now."""
        dump = self.dump(plan, item)
        if dump is None:
            return []
        wanted = dump_id(dump.result)
        return [vault for vault in plan.vaults if all(self._about(item, part, vault, wanted) for part in {"copy", aspect})]

    def _about(self, item: Item, aspect: str, vault: str, wanted: str) -> bool:
        seen = self.get(item["id"], f"{aspect}@{vault}")
        told, now = (seen.about.get("package") if seen else None), self.identity(item["host"], vault)
        alive = seen is not None and seen.number > self.doomed.get((f"host:{item['host']}", f"package@{vault}"), -1)
        return seen is not None and alive and seen.about.get("dump") == wanted and (None in (told, now) or told == now)

    def shelved(self, host: str, vault: str) -> bool:
        """Whether the package that is sealed now lies on the vault's shelf, and not an earlier one of the same host."""
        seen = self.get(f"host:{host}", f"shelf@{vault}")
        told, now = (seen.about.get("package") if seen else None), self.identity(host, vault)
        return seen is not None and seen.value == "stored" and (told == now or seen.predicted)

    def identity(self, host: str, vault: str) -> str | None:
        """Digest of the age identity of a host's package, as the vault reported it."""
        package = self.get(f"host:{host}", f"package@{vault}")
        return package.result.get("identity_digest") if package else None


def dump_id(result: dict[str, Any]) -> str:
    """The name of one dump: its own id, or the digests of its artefacts."""
    if result.get("dump_id"):
        return str(result["dump_id"])
    return "+".join(sorted(str(artefact["sha256"])[:12] for artefact in result.get("artefacts", []))) or "predicted"


def build(entries: Iterable[Entry], predicted: Iterable[dict[str, Any]] = (), plan: Plan | None = None) -> View:
    """Fold the ledger, and in check mode the outcomes that this run predicts, into a view.

    plan: outcomes about another thing that had the name of one of its items (other identity or host) are not counted.
    """
    view = View()
    subjects = {item["id"]: subject(item) for item in plan.items.values()} if plan else {}
    begun: dict[str, int] = {}
    open_intents: dict[str, Entry] = {}
    last = -1
    for entry in entries:
        record, last = entry.record, entry.number
        kind = record.get("kind")
        if kind == "genesis":
            view.genesis = record
        elif kind == "intent":
            open_intents[entry.hash] = entry
            begun[entry.hash] = entry.number
            _intent(view, entry.number, record)
        elif kind == "outcome":
            open_intents.pop(record.get("intent", ""), None)
            known = record.get("subject") in (None, subjects.get(record["item"], record.get("subject")))
            if record["status"] == "done":
                key = (record["item"], record["aspect"])
                later = [open_intents.pop(e.hash) for e in list(open_intents.values()) if (e.record["item"], e.record["aspect"]) == key]
                view.mended += later
            _outcome(view, entry, record, begun.get(record.get("intent", ""), -1), known=known)
        elif kind == "word":
            view.words[record["sha256"]] = record
        elif kind == "accepted":
            view.accepted[record["wave"]] = entry
    for record in predicted:
        last += 1
        _intent(view, last, record)
        _outcome(view, Entry(last, "predicted", {"at": "", **record}), record, last, predicted=True)
    view.interrupted = list(open_intents.values())
    return view


def _intent(view: View, number: int, record: dict[str, Any]) -> None:
    key = (record["item"], record["aspect"])
    view.begun.add(key)
    if record["value"] == "destroyed":
        view.doomed[key] = number
    if record.get("back") or record.get("irreversible"):
        # From here on the world may differ from what was seen, whether the act ends well or not.
        view.touched[key] = number
        view.seen.pop(key, None)
        if record.get("back"):
            # The wave is no longer retired whole, and users may have logged in again.
            view.accepted.pop(record.get("wave", ""), None)
            view.seen.pop((record["item"], "session"), None)
    elif record.get("former"):
        # A retry after an interrupted try finds a half-changed state: the first record stays.
        view.former.setdefault(key, record["former"])


def _outcome(view: View, entry: Entry, record: dict[str, Any], begun: int, *, known: bool = True, predicted: bool = False) -> None:
    key = (record["item"], record["aspect"])
    evidence = record.get("evidence") or {}
    if not known:
        view.seen.pop(key, None)
    elif record["status"] == "done":
        if record.get("back"):
            for undone in [k for k in view.former if k[0] == record["item"] and k[1] == record["aspect"]]:
                view.former.pop(undone)
        earlier, result = view.seen.get(key), evidence.get("result", {})
        same = earlier is not None and record["aspect"] == "dump" and record.get("changed") is False
        view.seen[key] = Seen(
            record["value"],
            entry.number,
            entry.hash,
            entry.record.get("at", ""),
            result,
            evidence.get("before", {}),
            record.get("about", {}),
            predicted,
            begun,
            earlier.first if earlier is not None and same and dump_id(earlier.result) == dump_id(result) else entry.number,
        )
        if record["value"] == "sealed":
            view.sealed[key] = view.seen[key]
    elif record["status"] == "failed":
        view.seen.pop(key, None)
