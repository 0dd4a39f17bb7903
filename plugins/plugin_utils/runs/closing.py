# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What each phase must leave behind, item by item, and the table that shows it. Pure but for accept()."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._wipe.firmware import LUKS_KEYS, OVERWRITE
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import foreign
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import Statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import SETS, Item, Plan
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import Seen, View, dump_id

# The ends of a shutdown that a resume puts back.
DARK = {("scheduler", "frozen"), ("web", "closed"), ("service", "stopped"), ("guest", "stopped"), ("cluster", "aside"), ("power", "off")}


@dataclass(frozen=True)
class Row:
    """One item: what was done, the proof, the ledger line that holds the evidence, and whether it is finished."""

    item: str
    wave: str
    done: str
    proof: str
    evidence: str
    finished: bool


def row(item: Item, plan: Plan, view: View, phase: str, excuse: str = "") -> Row:
    """The state of one item against what the phase owes it. excuse: how a person accounts for a medium that was not wiped."""
    if phase == "resume":
        return _resumed(item, view)
    if item["kind"] == "medium":
        return _medium(item, view, excuse, owed=phase == "wipe")
    if item["kind"] == "host":
        return _woken(item, plan, view, excuse) if phase == "wipe" else _host(item, view)
    if item["kind"] in ("database", "filestore"):
        return _data_set(item, plan, view)
    return _running(item, plan, view)


def unfinished(plan: Plan, view: View, phase: str, waves: list[str], excuses: Mapping[str, str] | None = None) -> list[Row]:
    """Items of these waves that the phase has not brought to evidence. excuses: item -> how a person accounts for it."""
    known = excuses or {}
    rows = [row(item, plan, view, phase, known.get(item["id"], "")) for item in plan.items.values() if item["wave"] in waves]
    return [found for found in rows if not found.finished]


def undestroyed(view: View, named: list[list[str]]) -> list[str]:
    """Of the packages (name, vault) that a run was to destroy, those that are not."""
    return [f"host:{package} on {vault}" for package, vault in named if view.value(f"host:{package}", f"package@{vault}") != "destroyed"]


def _line(seen: Seen | None) -> str:
    return f"ledger {seen.number + 1}:{seen.hash[:12]}" if seen else "-"


def _made(item: Item, done: str, proof: str, seen: Seen | None, finished: bool) -> Row:
    return Row(item["id"], item["wave"], done, proof, _line(seen), finished)


def _running(item: Item, plan: Plan, view: View) -> Row:
    if item["kind"] not in SETS:
        return _application(item, view)
    seen = view.get(item["id"], "guest")
    stopped = seen is not None and seen.value == "stopped"
    copy = _data_set(item, plan, view)
    how = sorted({str(guest.get("how")) for guest in (seen.result.get("guests") or {}).values()}) if seen else []
    done = f"stopped ({', '.join(how)}), saved" if stopped else "not stopped"
    if stopped and seen is not None and seen.result.get("forced"):
        done += f"; {', '.join(sorted(seen.result['forced']))} cut off, allowed by {seen.result.get('force_allowed_by')}"
    return _made(item, done, copy.proof, seen, stopped and copy.finished)


def _application(item: Item, view: View) -> Row:
    """Each side that an application declares must have been seen in its end state."""
    sides = {
        "schedulers": ("scheduler", "frozen"),
        "web": ("web", "closed"),
        "sessions": ("session", "ended"),
        "services": ("service", "stopped"),
    }
    owed = [side for name, side in sides.items() if item["expects"].get(name)]
    lacks = [f"{aspect} not {value}" for aspect, value in owed if view.value(item["id"], aspect) != value]
    last = view.get(item["id"], owed[-1][0]) if owed else None
    down = bool(owed) and not lacks
    done = "frozen, stopped, kept from coming back" if down else "; ".join(lacks) or "nothing to stop is declared"
    return _made(item, done, "processes and ports seen gone" if down else "-", last, down)


def _data_set(item: Item, plan: Plan, view: View) -> Row:
    dump = view.dump(plan, item)
    vaults = view.proven_at(plan, item)
    enough = len(vaults) >= plan.proofs_required
    last = view.get(item["id"], f"proof@{vaults[-1]}") if vaults else dump
    done = f"copied (dump {dump_id(dump.result)[:12]})" if dump else "no current copy"
    proof = f"{_proof_word(item, dump)} on {', '.join(vaults)}" if vaults else "not proven"
    ended = [vault for vault in plan.vaults if view.value(f"host:{item['host']}", f"package@{vault}") == "destroyed"]
    if ended:
        # Past its retention, by a signed word: no longer proven, and not owed any more.
        last = view.get(f"host:{item['host']}", f"package@{ended[-1]}")
        proof = (f"{proof}; " if vaults else "") + f"package destroyed on record on {', '.join(ended)}"
        enough = len(vaults) + len(ended) >= plan.proofs_required
    return _made(item, done, proof, last, enough)


def _proof_word(item: Item, dump: Seen | None) -> str:
    # An image is read back and its layers' digests are compared; it was started only where that was asked for and seen.
    # Of a guest its definition and copied disks are read back and compared; it is not started from them.
    if item["kind"] == "container":
        starts = [str(one.get("starts")) for one in (dump.result.get("starts") or {}).values()] if dump else []
        if not starts:
            return "image structure verified, not started,"
        began = starts.count("yes")
        return f"image structure verified, {'' if began == len(starts) else f'{began} of {len(starts)} '}started without network,"
    return "read back and compared, not started," if item["kind"] == "guest" else "restored and compared"


def _host(item: Item, view: View) -> Row:
    if item["expects"].get("stays"):
        # Nothing is owed of it but that no vault can still read there.
        open_to = sorted(aspect for (name, aspect), one in view.seen.items() if name == item["id"] and one.value == "present")
        done = f"stays in use, and is still open to {', '.join(open_to)}" if open_to else "stays in use"
        return _made(item, done, "-", None, not open_to)
    seen = view.get(item["id"], "power")
    off = seen is not None and seen.value == "off"
    if off and view.get(item["id"], "look") is None:
        return _made(item, "powered off, but not surveyed again before", "-", seen, False)
    kind = seen.result.get("proof", "unknown") if seen else ""
    done = "powered off"
    if off and seen is not None:
        if seen.result.get("forced"):
            done += f" by force (allowed by {seen.result.get('force_allowed_by')})"
        if seen.result.get("stays_off") == "no":
            done += ", comes back when its mains do"
        if seen.result.get("attested"):
            done += f"; {foreign.spoken(seen.result['attested'])}"
    return _made(item, done if off else "not seen to be off", f"seen by its outside witness ({kind})" if off else "-", seen, off)


def _woken(item: Item, plan: Plan, view: View, excuse: str) -> Row:
    """A host that wiped its own disks owes its end as well; the others have been off since the shutdown."""
    if not plan.wiped_from_within(item["host"]):
        return _host(item, view)
    seen = view.get(item["id"], "wake")
    ended = seen is not None and seen.value == "ended"
    if excuse and seen is None:
        return _made(item, excuse, "a person's signed word", seen, True)
    done = {None: "not woken for the wipe yet", "woken": "woken for the wipe, still on"}.get(seen.value if seen else None, "off for good")
    proof = f"seen by its outside witness ({seen.result.get('proof', 'unknown')})" if seen and ended else "-"
    return _made(item, done, proof, seen, ended)


def _medium(item: Item, view: View, excuse: str, *, owed: bool) -> Row:
    seen = view.get(item["id"], "wipe")
    wiped = seen is not None and seen.value == "wiped"
    if excuse and not wiped:
        return _made(item, excuse, "a person's signed word", seen, True)
    done = "wiped" if wiped else ("not wiped" if owed else "kept until the wipe")
    logical = "logical sanitisation, " if item["wipe"].get("way") == "in-place" else ""
    proof = f"{logical}{_read_back(seen.result)}, certificate" if seen is not None and wiped else "-"
    return _made(item, done, proof, seen, wiped or not owed)


def _read_back(result: Mapping[str, Any]) -> str:
    """How a medium was seen to be wiped, and no more than that."""
    mode = (result.get("verification") or {}).get("mode", "full")
    technique = str(result.get("technique") or OVERWRITE)
    if technique == LUKS_KEYS:
        said = "headers and key slots read back against the keyed stream, the ciphertext is left"
    elif technique != OVERWRITE:
        said = f"by the drive itself ({technique}), none of the keyed blocks left in a {'full look' if mode == 'full' else 'sample of a tenth'}"
    else:
        said = f"{'full read-back' if mode == 'full' else 'read-back of a sample (a tenth)'} against the keyed stream"
    return said + (", with exceptions" if result.get("exceptions") else "")


def _resumed(item: Item, view: View) -> Row:
    # What was found before the first change stays in the view until it was seen to be put back, whatever happened in between.
    left = {aspect for (item_id, aspect) in view.former if item_id == item["id"]}
    ends = {aspect for (item_id, aspect), seen in view.seen.items() if item_id == item["id"] and (aspect, seen.value) in DARK}
    dark = sorted(left | ends)
    return _made(item, "as it was before" if not dark else f"still changed: {', '.join(dark)}", "-", None, not dark)


def acceptable(plan: Plan, view: View, words: Statements, waves: list[str]) -> dict[str, str]:
    """Those of the waves that may be accepted now, each with the word for it: all of it has evidence, and a person has signed where that is set."""
    found: dict[str, str] = {}
    for wave in waves:
        if wave in view.accepted or unfinished(plan, view, "shutdown", [wave]):
            continue
        if plan.setting("acceptance", "automatic") == "automatic":
            found[wave] = "full evidence"
        for statement in words.of("acceptance"):
            if wave in statement.document.get("waves", []):
                found[wave] = f"{statement.signer} ({statement.sha256})"
    return found


def accept(book: Path, plan: Plan, view: View, words: Statements, waves: list[str]) -> None:
    """Append the acceptance of those of the waves that may be accepted now."""
    for wave, word in acceptable(plan, view, words, waves).items():
        ledger.append(book, {"kind": "accepted", "wave": wave, "by": word})


def waves_accepted(plan: Plan, view: View) -> list[str]:
    return [wave for wave in plan.waves if wave in view.accepted]
