# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is saved of containers: images of their own layers, volumes, and what there is of services and of what a unit has removed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.docker.facts import image_name, name_of
from ansible_collections.sunset.crm.plugins.plugin_utils.docker.reading import Reader
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests.guests import Guest

# Without it Reader has refused before anything here is called.
with contextlib.suppress(ImportError):
    import docker.errors

SAVED = "org.sunset-crm.saved"


def other_sources(engine: Reader, found: Sequence[Guest]) -> list[dict[str, Any]]:
    """What there is to save of guests that are no container any more, in the form of one: services, and what its unit removed."""
    rows = []
    for guest in found:
        if guest.key not in engine.known_services and not guest.record.get("gone_with_unit"):
            continue
        service = {k: v for k, v in engine.known_services.get(guest.key, {}).items() if k != "tasks"}
        spec = ((service.get("Spec") or {}).get("TaskTemplate") or {}).get("ContainerSpec") or {}
        image = str(guest.record["image"] or guest.record.get("image_id"))
        rows.append(
            {
                "Own": False,
                "Id": guest.key,
                "Name": f"/{guest.name}",
                "Image": _image_id(engine, guest.name, str(guest.record.get("image_id") or image)),
                "Config": {
                    "Image": image,
                    "Entrypoint": spec.get("Command"),
                    "Cmd": spec.get("Args"),
                    "User": spec.get("User"),
                    "WorkingDir": spec.get("Dir"),
                },
                # Its definition: another one is another thing to save. The number of replicas is not part of it.
                "State": {"FinishedAt": str((service.get("Spec") or {}).get("TaskTemplate", {}))},
                "Service": service,
                "Unit": guest.record.get("unit", ""),
            }
        )
    return rows


def _image_id(engine: Reader, name: str, reference: str) -> str:
    def read() -> str:
        try:
            return str(engine.api.inspect_image(reference)["Id"])  # type: ignore[no-untyped-call]
        except docker.errors.ImageNotFound:
            raise Refusal(
                f"{name}: its image {reference} is not on this node, so it cannot be saved; pull it here (docker pull {reference.partition('@')[0]})"
            ) from None

    return engine.sure(name, read)


def volumes(engine: Reader, inspects: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The named volumes of the set: where the engine keeps them on its host, and who uses them."""
    users: dict[str, list[str]] = {}
    for one in inspects:
        for mount in one.get("Mounts") or ():
            if mount["Type"] == "volume":
                users.setdefault(mount["Name"], []).append(name_of(one))
    result = []
    for name in sorted(users):
        with engine.errors(name):
            volume = engine.api.inspect_volume(name)
        options = volume.get("Options") or {}
        result.append(
            {
                "name": name,
                "driver": volume["Driver"],
                "options": sorted(options),
                "mountpoint": volume["Mountpoint"],
                "containers": sorted(users[name]),
            }
        )
    return result


def reference(inspect: Mapping[str, Any], item: str) -> str:
    """The name of the image that a container is saved as."""
    return f"sunset-saved/{image_name(item)}:{name_of(inspect)}-{inspect['Id'][:12]}"


def snapshot(engine: Reader, inspect: Mapping[str, Any], item: str) -> tuple[str, bool]:
    """(reference, made now) of an image of the container's own layer; one that an interrupted run left is taken."""
    finished = inspect["State"]["FinishedAt"]
    tagged = reference(inspect, item)
    with engine.errors(name_of(inspect)):
        for image in engine.api.images(name=tagged):
            labels = image.get("Labels") or {}
            if labels.get(f"{SAVED}.id") == inspect["Id"] and labels.get(f"{SAVED}.finished") == finished:
                return tagged, False
        repository, _colon, tag = tagged.rpartition(":")
        engine.api.commit(
            inspect["Id"],
            repository=repository,
            tag=tag,
            changes=[f"LABEL {SAVED}.id={inspect['Id']}", f"LABEL {SAVED}.finished={finished}"],
        )
    return tagged, True


def image_stream(engine: Reader, reference: str) -> Iterator[bytes]:
    """What C(docker save) would write."""
    with engine.errors(reference):
        yield from engine.api.get_image(reference)


def drop_snapshot(engine: Reader, reference: str) -> None:
    with engine.errors(reference):
        try:
            engine.api.remove_image(reference, noprune=True)
        except docker.errors.ImageNotFound:
            return
