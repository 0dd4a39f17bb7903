# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A saved image, started: loaded back from the archive in staging, run without network and volumes, watched, removed."""

from __future__ import annotations

import contextlib
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.docker import images as docker_images
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.facts import NEVER, PROOF, image_name, name_of
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

# Without it docker_engine.Engine has refused before anything here is called.
with contextlib.suppress(ImportError):
    import docker.errors

WATCH = 5.0  # seconds for which a started container is watched
PAUSE = 0.25


def judged(state: Mapping[str, Any], ran_before: bool, seconds: float) -> dict[str, Any]:
    """What the state of the proof's container says. starts: yes, no, unknown. Pure.

    Without network and volumes many a program ends at once: that it began is known, that it would work is not.
    """
    code = state.get("ExitCode")
    if state.get("StartedAt", NEVER) == NEVER or state.get("Error"):
        told = str(state.get("Error") or "it was not started")
        return {"starts": "no" if ran_before else "unknown", "detail": f"the engine could not start it: {told}", "exit_code": code}
    if state.get("Status") == "running":
        return {"starts": "yes", "detail": f"it still ran after {seconds:g} s", "exit_code": None}
    if code == 0:
        return {"starts": "yes", "detail": "it ran and ended with exit code 0", "exit_code": 0}
    return {"starts": "unknown", "detail": f"it began and ended with exit code {code}, without network and volumes", "exit_code": code}


def clean(engine: Any, item: str) -> list[str]:
    """Remove what an interrupted proof of this item has left. What was removed, in words."""
    gone = []
    for row in engine.sure("", lambda: engine.api.containers(all=True, filters={"label": f"{PROOF}={item}"})):
        _remove(engine, row["Id"])
        gone.append(f"container {row['Id'][:12]}")
    for tag in _tags(engine):
        if f"/{tag}".rpartition(":")[0].endswith(f"/{repository(item)}"):
            docker_images.drop_snapshot(engine, tag)
            gone.append(f"image {tag}")
    return gone


def repository(item: str) -> str:
    return f"sunset-proof/{image_name(item)}"


def prove(
    engine: Any, reach: relay.Reach, item: str, inspect: Mapping[str, Any], artefacts: Sequence[Mapping[str, Any]], watch: float
) -> dict[str, Any]:
    """Start the image that lies in staging and say what came of it. Nothing of it is left."""
    name = name_of(inspect)
    image = next(artefact for artefact in artefacts if artefact["role"] == "image")
    scratch = f"{repository(item)}:{inspect['Id'][:12]}"
    own = bool(inspect.get("Own", True))
    with relay.stream(reach, image["path"]) as archive:
        # Podman takes no compressed archive.
        loaded = _load(engine, name, _unpacked(archive))
    made = ""
    try:
        engine.sure(name, lambda: engine.api.tag(loaded, *scratch.rsplit(":", 1)))
        if own:
            # The name that the archive gave it: what a later run looks for is the scratch name.
            docker_images.drop_snapshot(engine, docker_images.reference(inspect, item))
        made = _create(engine, item, name, scratch, inspect)
        error = _start(engine, made)
        deadline, state = time.monotonic() + watch, {}
        while True:
            state = engine.inspect(made)["State"]
            if error or state["Status"] not in ("running", "restarting") or time.monotonic() >= deadline:
                break
            time.sleep(PAUSE)
        if error:
            state = {**state, "Error": error}
        ran = inspect["State"].get("StartedAt", "") not in ("", NEVER) or not own
        return judged(state, ran, watch)
    finally:
        if made:
            _remove(engine, made)
        docker_images.drop_snapshot(engine, scratch)


def _tags(engine: Any) -> set[str]:
    return {tag for image in engine.sure("", lambda: engine.api.images()) for tag in image.get("RepoTags") or ()}


def _unpacked(chunks: Iterator[bytes]) -> Iterator[bytes]:
    opened = zlib.decompressobj(31)
    for chunk in chunks:
        yield opened.decompress(chunk)
    yield opened.flush()


def _load(engine: Any, name: str, archive: Iterator[bytes]) -> str:
    """The id or name of the image that the engine loaded."""
    said = []
    with engine.errors(f"{name}: loading the saved image"):
        for line in engine.api.load_image(archive) or ():
            said.append(str(line.get("stream") or line.get("error") or ""))
    for text in said:
        for start in ("Loaded image ID: ", "Loaded image: ", "Loaded image(s): "):
            if text.startswith(start):
                return text[len(start) :].strip().split(",")[0]
    raise Refusal(f"{name}: the engine did not say which image it loaded ({' '.join(said).strip()[:300] or 'no word'})")


def _create(engine: Any, item: str, name: str, image: str, inspect: Mapping[str, Any]) -> str:
    config = inspect["Config"]
    host = engine.api.create_host_config(
        network_mode="none", restart_policy={"Name": "no"} if not engine.podman else None, init=inspect.get("HostConfig", {}).get("Init")
    )
    ulimits = inspect.get("HostConfig", {}).get("Ulimits")
    if ulimits:
        host["Ulimits"] = [{**one, "Name": str(one["Name"]).lower().removeprefix("rlimit_")} for one in ulimits]
    with engine.errors(f"{name}: making a container of the saved image"):
        made = engine.api.create_container(
            image,
            command=config.get("Cmd"),
            entrypoint=config.get("Entrypoint"),
            user=config.get("User") or None,
            working_dir=config.get("WorkingDir") or None,
            # The labels of the image are those of the container: with them it would count as one of the set.
            labels={**dict.fromkeys(config.get("Labels") or {}, ""), engine.label.partition("=")[0]: "", PROOF: item},
            host_config=host,
        )
    return str(made["Id"])


def _start(engine: Any, key: str) -> str:
    """What the engine has against starting it; empty if nothing."""
    try:
        with engine.errors():
            try:
                engine.api.start(key)
            except docker.errors.APIError as exc:
                return str(exc.explanation or exc)
    except Refusal as exc:
        return str(exc)
    return ""


def _remove(engine: Any, key: str) -> None:
    def remove() -> None:
        with contextlib.suppress(docker.errors.NotFound):
            engine.api.remove_container(key, force=True, v=True)

    engine.sure(key[:12], remove)
