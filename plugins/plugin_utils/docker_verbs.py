# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The three verbs on a set of containers: stop it, save it, start it again. Core and engine put together."""

from __future__ import annotations

import hashlib
import json
import posixpath
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import guests, relay
from ansible_collections.sunset.crm.plugins.plugin_utils.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.docker_engine import Engine, name_of, record_of
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

SETTLE = 1.0  # seconds between the last start and the reading that counts: what dies at once has died by then


@dataclass(frozen=True)
class Limits:
    """How long a container may take from its request, and whether, when and on whose word it is killed before that."""

    timeout: float
    force_after: float | None = None
    allowed_by: str = ""


def _records(seen: Iterable[guests.Guest]) -> dict[str, Any]:
    return {guest.name: {k: v for k, v in guest.record.items() if k != "former"} for guest in seen}


def stop(
    engine: Engine,
    account: Account,
    expected: Sequence[str],
    limits: Limits,
    former: Mapping[str, Any],
    note: Callable[[dict[str, Any]], None],
    check: bool,
) -> dict[str, Any]:
    """Nothing brings them back, then all are asked to end; each is seen to be off, and how it ended."""
    before = engine.observe()
    guests.check_set(expected, before, f"containers with the label {engine.label}")
    account.before, account.tools = _records(before), engine.tools()
    held, ending = guests.to_stop(before)
    keep = guests.former_of(before, former)
    if check or not (held or ending):
        result = _stopped(engine, before, before, {g.name: guests.Course(g, phase="off") for g in before}, keep)
        account.after = account.before
        if check and (held or ending):
            return account.done(True, "unknown", {"former": keep, "would_hold": held, "would_stop": ending})
        return account.done(False, "yes", result)
    # Before the first change: an interrupted run must not take its own doing for the former state.
    note({"former": keep})
    courses = guests.bring_down(engine, before, limits.timeout, limits.force_after, account.did)
    after = engine.observe()
    account.after = _records(after)
    result = _stopped(engine, before, after, courses, keep)
    if limits.force_after is not None:
        result["force_allowed_by"] = limits.allowed_by
    if any(course.phase in ("late", "kept") for course in courses.values()):
        return account.failed(guests.late_message(courses, limits.timeout, limits.force_after), result)
    problems = guests.differences(expected, after)
    problems += [f"{name} {one['detail']}" for name, one in result["guests"].items() if one["how"] == guests.STILL_ON]
    problems += [f"{guest.name} still has its {guest.returns}" for guest in after if guest.returns]
    if problems:
        return account.failed(
            f"read again after all had ended: {'; '.join(problems)}. Something else works on these containers; find it, "
            "stop it, and run the same command again.",
            result,
        )
    return account.done(True, "yes", result)


def _stopped(
    engine: Engine,
    before: Sequence[guests.Guest],
    after: Sequence[guests.Guest],
    courses: Mapping[str, guests.Course],
    former: Mapping[str, Any],
) -> dict[str, Any]:
    ends = guests.endings(engine, courses, after)
    now = {guest.key: guest for guest in after}
    rows: dict[str, Any] = {}
    for guest in before:
        course, end, seen = courses[guest.name], ends[guest.name], now.get(guest.key)
        seconds = None
        if course.asked_at is not None and course.ended_at is not None:
            seconds = round(course.ended_at - course.asked_at, 2)
        rows[guest.name] = {
            "id": guest.key,
            "how": end.how,
            "graceful": end.graceful,
            "detail": end.detail,
            "seconds": seconds,
            "before": _short(guest),
            "after": _short(seen) if seen else {},
            "policy_before": former[guest.name]["policy"]["Name"],
            "policy_after": seen.record["policy"]["Name"] if seen else "",
        }
    _verdict, way = guests.verdict(ends.values(), all(not guest.returns for guest in after))
    return {"guests": rows, "former": dict(former), "way": way, "forced": [n for n, c in courses.items() if c.forced]}


def _short(guest: guests.Guest) -> dict[str, Any]:
    return {key: guest.record[key] for key in ("status", "exit_code", "oom_killed", "started", "finished")}


def start(
    engine: Engine,
    account: Account,
    former: Mapping[str, Any],
    timeout: float,
    check: bool,
) -> dict[str, Any]:
    """Exactly those run again that ran, with exactly the restart policies that they had."""
    if not former:
        raise Refusal("there is no record of what ran before (former is empty), so nothing can be put back")
    before = engine.observe()
    account.before, account.tools = _records(before), engine.tools()
    plan = [step for step in guests.to_start(before, former) if step.release or step.start]
    result: dict[str, Any] = {
        "started": [step.name for step in plan if step.start],
        "released": [step.name for step in plan if step.release],
    }
    if check:
        account.after = account.before
        return account.done(bool(plan), "unknown" if plan else "yes", result)
    after = before
    if plan:
        failed = guests.bring_up(engine, before, former, plan, timeout, account.did)
        time.sleep(SETTLE)
        after = engine.observe()
    else:
        failed = []
    account.after = _records(after)
    result["guests"] = {guest.name: {**_short(guest), "policy": guest.record["policy"]["Name"]} for guest in after}
    down = sorted({*failed, *guests.not_back(after, former)})
    loose = [step.name for step in guests.to_start(after, former) if step.release]
    if down or loose:
        return account.failed(
            f"after the start {', '.join(down) or 'no container'} does not run as it did and "
            f"{', '.join(loose) or 'none'} lacks its former restart policy. "
            "Read the container's log, mend it, and run the same command again.",
            result,
        )
    return account.done(bool(plan), "yes", result)


# --- save -----------------------------------------------------------------------------------------------------------------


def gzip_stream(chunks: Iterable[bytes], plain: Any, count: list[int]) -> Iterator[bytes]:
    """Compress and digest on the way through. No time stamp in the header: equal input gives equal output."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    for chunk in chunks:
        plain.update(chunk)
        count[0] += len(chunk)
        yield packer.compress(chunk)
    yield packer.flush()


def record_path(staging: str, name: str, key: str) -> str:
    return posixpath.join(staging, f"{name}-{key[:12]}.saved.json")


def still_saved(record: Mapping[str, Any], inspect: Mapping[str, Any]) -> bool:
    """Whether this record of an earlier run is about the container as it is now."""
    return (record.get("id"), record.get("finished")) == (inspect["Id"], inspect["State"]["FinishedAt"])


def save(
    engine: Engine,
    account: Account,
    reach: relay.Reach,
    item: str,
    expected: Sequence[str],
    staging: str,
    check: bool,
) -> dict[str, Any]:
    """Each container's definition and own layer as files on its host, with digests taken in the stream."""
    found = engine.observe()
    guests.check_set(expected, found, f"containers with the label {engine.label}")
    running = sorted(guest.name for guest in found if guest.power != "off")
    # In check mode nothing was stopped yet; by its turn in a real run it will be.
    if running and not check:
        raise Refusal(
            f"{', '.join(running)} still runs; what is saved of a running container is torn. Stop the set first "
            "(state: stopped), then save it."
        )
    inspects = engine.inspects()
    account.before, account.tools = _records(found), engine.tools()
    kept: dict[str, Mapping[str, Any]] = {}
    for one in inspects:
        raw = relay.read(reach, record_path(staging, name_of(one), one["Id"]))
        record = _parsed(raw)
        if still_saved(record, one):
            kept[name_of(one)] = record
    paths = [artefact["path"] for record in kept.values() for artefact in record["artefacts"]]
    there = relay.digests(reach, paths)
    intact = {
        name: record
        for name, record in kept.items()
        if all(there[a["path"]] == {"sha256": a["sha256"], "bytes": a["bytes"]} for a in record["artefacts"])
    }
    missing = [one for one in inspects if name_of(one) not in intact]
    if check and missing:
        account.after = account.before
        return account.done(True, "unknown", {"would_save": [name_of(one) for one in missing], "still_runs": running})
    for one in missing:
        intact[name_of(one)] = _save_one(engine, account, reach, item, one, staging)
    artefacts = [artefact for name in sorted(intact) for artefact in intact[name]["artefacts"]]
    seen = relay.digests(reach, [artefact["path"] for artefact in artefacts]) if missing else there
    account.after = _records(engine.observe())
    result = {
        "artefacts": artefacts,
        "volumes": engine.volumes(inspects),
        "source": {name_of(one): {"id": one["Id"], "image": one["Config"]["Image"], "image_id": one["Image"]} for one in inspects},
    }
    torn = [a["path"] for a in artefacts if seen[a["path"]] != {"sha256": a["sha256"], "bytes": a["bytes"]}]
    if torn:
        return account.failed(f"read again, {', '.join(torn)} is not what was written; check the medium of {staging}", result)
    return account.done(bool(missing), "yes", result)


def _parsed(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _save_one(engine: Engine, account: Account, reach: relay.Reach, item: str, inspect: Mapping[str, Any], staging: str) -> dict[str, Any]:
    name, key = name_of(inspect), inspect["Id"]
    stem = posixpath.join(staging, f"{name}-{key[:12]}")
    artefacts = []

    text = json.dumps(inspect, sort_keys=True, indent=1).encode("utf-8")
    artefacts.append(_staged(reach, f"{name}-inspect", "inspect", f"{stem}.inspect.json", [text]))

    reference, made = engine.snapshot(inspect, item)
    account.did(did="committed" if made else "found the commit of an earlier run", guest=name, image=reference)
    plain, count = hashlib.sha256(), [0]
    stream = gzip_stream(engine.image_stream(reference), plain, count)
    image = _staged(reach, f"{name}-image", "image", f"{stem}.image.tar.gz", stream)
    image.update(plain_sha256=plain.hexdigest(), plain_bytes=count[0], codec="gzip")
    artefacts.append(image)

    record = {"id": key, "finished": inspect["State"]["FinishedAt"], "artefacts": artefacts, "record": record_of(inspect)}
    relay.put(reach, record_path(staging, name, key), [json.dumps(record, sort_keys=True).encode("utf-8")])
    account.did(did="saved", guest=name, bytes=image["bytes"])
    # The container itself is what resume starts; the image has done its work once it lies in staging.
    engine.drop_snapshot(reference)
    account.did(did="removed the image of the commit", guest=name, image=reference)
    return record


def _staged(reach: relay.Reach, name: str, role: str, path: str, chunks: Iterable[bytes]) -> dict[str, Any]:
    put = relay.put(reach, path, chunks, timeout=6 * 3600)
    return {
        "name": name,
        "role": role,
        "path": path,
        **put,
        "plain_sha256": put["sha256"],
        "plain_bytes": put["bytes"],
        "codec": "none",
    }
