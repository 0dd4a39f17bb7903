# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a set of containers has beyond the verbs of all guests: those that belong to systemd units, and saving with proof."""

from __future__ import annotations

import hashlib
import json
import posixpath
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import images as docker_images, proof as docker_proof, way as docker_way
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.engine import Engine
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.facts import name_of
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import guests, verbs as guest_verbs


def _records(seen: Iterable[guests.Guest]) -> dict[str, Any]:
    return {guest.name: {k: v for k, v in guest.record.items() if k != "former"} for guest in seen}


def stop(
    engine: Engine,
    account: Account,
    order: guest_verbs.Order,
    memory: guest_verbs.Memory,
    check: bool,
    engines: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """All of the set off, and in the evidence what of their engine could bring them back. engines: what the survey saw of the host's engines."""
    account.more["engine"] = docker_way.standing(engine.tools(), engines or {}, engine.podman)
    return guest_verbs.stop(engine, account, order, memory, check)


def start(engine: Engine, account: Account, former: Mapping[str, Any], timeout: float, check: bool) -> dict[str, Any]:
    """Exactly those run again that ran. Containers of systemd units are left to their unit, which is started by its own step."""
    units = {name: str(before["unit"]) for name, before in former.items() if before.get("unit")}
    mine = {name: before for name, before in former.items() if name not in units}
    if units and not mine:
        account.tools = engine.tools()
        return account.done(False, "yes", {"started": [], "released": [], "left_to_units": units})
    done = guest_verbs.start(engine, account, mine, timeout, check)
    return {**done, "result": {**done["result"], "left_to_units": units}} if units else done


# --- save -----------------------------------------------------------------------------------------------------------------


def gzip_stream(chunks: Iterable[bytes], plain: Any, count: list[int]) -> Iterator[bytes]:
    """Compress and digest on the way through. No time stamp in the header: equal input gives equal output."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    for chunk in chunks:
        plain.update(chunk)
        count[0] += len(chunk)
        yield packer.compress(chunk)
    yield packer.flush()


@dataclass(frozen=True)
class Saving:
    """What is saved where. prove: start the saved image, and for how long it is watched."""

    item: str
    expected: Sequence[str]
    staging: str
    prove: bool = False
    watch: float = docker_proof.WATCH


def record_path(staging: str, name: str, key: str) -> str:
    return posixpath.join(staging, f"{name}-{key[:12]}.saved.json")


def still_saved(record: Mapping[str, Any], inspect: Mapping[str, Any]) -> bool:
    """Whether this record of an earlier run is about the container as it is now."""
    return (record.get("id"), record.get("finished")) == (inspect["Id"], inspect["State"]["FinishedAt"])


def save(engine: Engine, account: Account, reach: relay.Reach, saving: Saving, check: bool) -> dict[str, Any]:
    """Each container's definition and own layer as files on its host, with digests taken in the stream; started from them if asked."""
    found = engine.observe()
    guests.check_set(saving.expected, found, engine.what)
    running = sorted(guest.name for guest in found if guest.power != "off")
    # In check mode nothing was stopped yet; by its turn in a real run it will be.
    if running and not check:
        raise Refusal(
            f"{', '.join(running)} still runs; what is saved of a running container is torn. Stop the set first "
            "(state: stopped), then save it."
        )
    inspects = engine.inspects()
    sources = {name_of(one): one for one in [*inspects, *docker_images.other_sources(engine, found)]}
    account.before, account.tools = _records(found), engine.tools()
    kept: dict[str, dict[str, Any]] = {}
    for name, one in sources.items():
        record = _parsed(relay.read(reach, record_path(saving.staging, name, one["Id"])))
        if still_saved(record, one):
            kept[name] = record
    there = relay.digests(reach, [artefact["path"] for record in kept.values() for artefact in record["artefacts"]])
    intact = {
        name: record
        for name, record in kept.items()
        if all(there[a["path"]] == {"sha256": a["sha256"], "bytes": a["bytes"]} for a in record["artefacts"])
    }
    missing = [name for name in sorted(sources) if name not in intact]
    unproven = [name for name in sorted(sources) if saving.prove and "starts" not in intact.get(name, {})]
    if check and (missing or unproven):
        account.after = account.before
        return account.done(True, "unknown", {"would_save": missing, "would_prove": unproven, "still_runs": running})
    if not check:
        for left in docker_proof.clean(engine, saving.item):
            account.did(did="removed what an interrupted proof had left", left=left)
    for name in missing:
        intact[name] = _save_one(engine, account, reach, saving.item, sources[name], saving.staging)
    for name in unproven:
        record, one = intact[name], sources[name]
        record["starts"] = docker_proof.prove(engine, reach, saving.item, one, record["artefacts"], saving.watch)
        account.did(did="started from the saved image, without network and volumes", guest=name, **record["starts"])
        relay.put(reach, record_path(saving.staging, name, one["Id"]), [json.dumps(record, sort_keys=True).encode("utf-8")])
    artefacts = [artefact for name in sorted(intact) for artefact in intact[name]["artefacts"]]
    seen = relay.digests(reach, [artefact["path"] for artefact in artefacts]) if missing else there
    after = engine.observe()
    account.after = _records(after)
    starts = {name: one["starts"] for name, one in intact.items() if "starts" in one}
    result = {
        "artefacts": artefacts,
        "volumes": docker_images.volumes(engine, inspects),
        "source": {name: {"id": one["Id"], "image": one["Config"]["Image"], "image_id": one["Image"]} for name, one in sources.items()},
        "starts": {name: starts[name] for name in sorted(starts)},
    }
    moved = stirred(found, after)
    if moved and not check:
        return account.failed(f"{', '.join(moved)} was started or made anew while it was saved; stop it, then save it again", result)
    torn = [a["path"] for a in artefacts if seen[a["path"]] != {"sha256": a["sha256"], "bytes": a["bytes"]}]
    if torn:
        return account.failed(f"read again, {', '.join(torn)} is not what was written; check the medium of {saving.staging}", result)
    dead = [
        f"{name} ({intact[name]['starts']['detail']})" for name, one in sorted(starts.items()) if saving.prove and one["starts"] == "no"
    ]
    if dead:
        return account.failed(
            f"the saved image cannot be started: {', '.join(dead)}. Mend the cause, remove the files of that container from {saving.staging}, "
            "and run the same command again; or take prove out of the declaration, then the report says that nothing was started.",
            result,
        )
    return account.done(bool(missing or unproven), "yes", result)


def stirred(before: Iterable[guests.Guest], after: Iterable[guests.Guest]) -> list[str]:
    """Names of those that did not rest from one reading to the other: they run, ran meanwhile, or are others. Pure."""

    def life(one: guests.Guest) -> tuple[Any, ...]:
        return (one.key, one.power, one.record.get("started"), one.record.get("finished"))

    now = {one.name: life(one) for one in after}
    return sorted(one.name for one in before if now.get(one.name) != life(one))


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

    if inspect.get("Own", True):
        reference, made = docker_images.snapshot(engine, inspect, item)
        account.did(did="committed" if made else "found the commit of an earlier run", guest=name, image=reference)
    else:
        # A task or a container of a unit is gone with its own layer: the image that it was made of is what there is.
        reference = inspect["Image"]
    plain, count = hashlib.sha256(), [0]
    stream = gzip_stream(docker_images.image_stream(engine, reference), plain, count)
    image = _staged(reach, f"{name}-image", "image", f"{stem}.image.tar.gz", stream)
    image.update(plain_sha256=plain.hexdigest(), plain_bytes=count[0], codec="gzip")
    artefacts.append(image)

    record = {"id": key, "finished": inspect["State"]["FinishedAt"], "artefacts": artefacts}
    relay.put(reach, record_path(staging, name, key), [json.dumps(record, sort_keys=True).encode("utf-8")])
    account.did(did="saved", guest=name, bytes=image["bytes"])
    if inspect.get("Own", True):
        # The container itself is what resume starts; the image has done its work once it lies in staging.
        docker_images.drop_snapshot(engine, reference)
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
