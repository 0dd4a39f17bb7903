# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host boots from next, set and put back by its management controller, and always read back: controllers accept what they do not do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.power import controllers, witness
from ansible_collections.sunset.crm.plugins.plugin_utils.power.controllers import Controller, Silent
from ansible_collections.sunset.crm.plugins.plugin_utils.power.ipmi import Ipmi
from ansible_collections.sunset.crm.plugins.plugin_utils.power.powering import shown
from ansible_collections.sunset.crm.plugins.plugin_utils.power.redfish import Redfish
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger

WAYS = ("media", "pxe")
TARGETS = {"media": "Cd", "pxe": "Pxe"}
IPMI_TARGETS = {"pxe": "network"}

State = dict[str, Any]


def described(boot: Mapping[str, Any]) -> dict[str, Any]:
    """C(sunset_rescue_boot) as it must be: how the host comes into its rescue system."""
    way = boot.get("way")
    if way not in WAYS:
        raise Refusal(f"sunset_rescue_boot has the way {way!r}; known are {', '.join(WAYS)}")
    sources = [name for name in ("image", "serve", "publish") if boot.get(name)]
    if way == "media" and len(sources) != 1:
        raise Refusal(
            "sunset_rescue_boot with the way media needs one of image (the address, http or https, of a medium of your own), serve "
            "(ADDRESS:PORT of the control node, where it gives out the rescue it makes) and publish with url (a folder of the control node, "
            f"and the address under which your web server gives it out), each as the controller reaches it; it has {', '.join(sources) or 'none'}"
        )
    known = {"way", "image", "serve", "publish", "url"} if way == "media" else {"way", "publish"}
    if strange := sorted(set(boot) - known):
        raise Refusal(f"sunset_rescue_boot does not know {', '.join(strange)} with the way {way}; it takes {', '.join(sorted(known))}")
    if bool(boot.get("publish")) != bool(boot.get("url")) and way == "media":
        raise Refusal(
            "sunset_rescue_boot needs publish and url together: the folder, and the address under which your web server gives it out"
        )
    for name in ("image", "url"):
        if boot.get(name) and not (str(boot[name]).startswith(("http://", "https://")) and urlsplit(str(boot[name])).hostname):
            raise Refusal(f"sunset_rescue_boot: {name} is {boot[name]!r}; expected an address that begins with http:// or https://")
    if boot.get("serve"):
        listening(str(boot["serve"]))
    if boot.get("publish") and not Path(str(boot["publish"])).is_absolute():
        raise Refusal(f"sunset_rescue_boot: publish is {boot['publish']!r}; expected a folder of the control node, as an absolute path")
    return dict(boot)


def listening(serve: str) -> tuple[str, int]:
    """C(serve) as address and port. Raises Refusal."""
    parts = urlsplit(f"//{serve}")
    try:
        found = (parts.hostname or "", parts.port or 0)
    except ValueError:
        found = ("", 0)
    if not all(found) or parts.path or parts.username:
        raise Refusal(f"sunset_rescue_boot: serve is {serve!r}; expected ADDRESS:PORT of the control node, as the controller reaches it")
    return found


def addressed(boot: Mapping[str, Any], token: str) -> dict[str, Any]:
    """The same with the address of the medium that the control node makes. Nobody guesses the token; it is the same in each run."""
    if boot.get("serve"):
        return {**boot, "image": f"http://{boot['serve']}/{token}/rescue.iso" if token else ""}
    if boot["way"] == "media" and boot.get("publish"):
        return {**boot, "image": f"{str(boot['url']).rstrip('/')}/{token}.iso" if token else ""}
    return dict(boot)


def remembered(entries: Iterable[ledger.Entry], item: str) -> State:
    """The override that was noted before a run changed it; empty if none was."""
    found: State = {}
    for entry in entries:
        record = entry.record
        if (record.get("kind"), record.get("item"), record.get("aspect")) == ("found", item, "boot"):
            found = dict(record.get("former") or {})
    return found


def own_controller(item: str, watch: witness.Watch, board: Mapping[str, Any]) -> Controller:
    """The controller among the witnesses, known to be that of this host. Raises Refusal or Silent."""
    controller = watch.controller()
    if controller is None:
        raise Refusal(f"{item} has no management controller (a witness of kind redfish or ipmi), so nothing can be set at it")
    declared = next(one for one in watch.witnesses if one["kind"] in witness.CONTROLLERS)
    reading = watch.look()
    seen = {name: shown(reading, name) for name in ("uuid", "serial")}
    if controllers.same_machine({**board, **declared}, seen, {}) != "yes":
        raise Refusal(
            f"{item}: nothing shows that the controller is that of this host; another machine could be booted into a rescue "
            "system. Nothing was changed. Give the witness the serial or the uuid that the controller shows."
        )
    return watch.controller() or controller


def set_for(state: Mapping[str, Any], boot: Mapping[str, Any]) -> bool:
    """Whether the host boots from there next. Pure."""
    there = state["target"] in (TARGETS[boot["way"]], IPMI_TARGETS.get(boot["way"])) and state["enabled"] in ("Once", "Continuous")
    return there and (boot["way"] != "media" or (bool(state["inserted"]) and state["image"] == boot["image"]))


def usual(state: Mapping[str, Any], boot: Mapping[str, Any], former: Mapping[str, Any]) -> bool:
    """Whether nothing of ours is left: the medium is out, and the override is off or what it was. Pure."""
    if boot["way"] == "media" and state["inserted"] and state["image"] == boot["image"]:
        return False
    if state["enabled"] == "Disabled" or state["target"] in ("None", "default"):
        return True
    return bool(former) and (state["target"], state["enabled"]) == (former.get("target"), former.get("enabled"))


def former_of(state: Mapping[str, Any], boot: Mapping[str, Any]) -> State:
    """What must be put back. What already points to where we would set it is an earlier run's doing, and no state to go back to. Pure."""
    if state["target"] in (TARGETS[boot["way"]], IPMI_TARGETS.get(boot["way"])):
        return {}
    return {"target": state["target"], "enabled": state["enabled"]}


# --- the world ---------------------------------------------------------------------------------------------------------------------


def read(controller: Controller, boot: Mapping[str, Any]) -> State:
    """target, enabled (Once, Continuous, Disabled), and what lies in the virtual drive."""
    if isinstance(controller, Redfish):
        with controller.errors("was asked what it boots from"):
            controller.system.refresh(force=True)
            found = controller.system.json.get("Boot") or {}
            state = {"target": found.get("BootSourceOverrideTarget"), "enabled": found.get("BootSourceOverrideEnabled")}
            drive = _drive(controller) if boot["way"] == "media" else None
            held = drive.json if drive is not None else {}
        return {**state, "image": held.get("Image"), "inserted": held.get("Inserted"), "drive": drive.path if drive is not None else None}
    ipmi = _ipmi(controller)
    with ipmi.errors("was asked what it boots from"):
        found = ipmi.command.get_bootdev()
    device = str(found.get("bootdev"))
    enabled = "Disabled" if device == "default" else "Continuous" if found.get("persistent") else "Once"
    return {"target": device, "enabled": enabled, "image": None, "inserted": False, "drive": None}


def into_rescue(controller: Controller, boot: Mapping[str, Any], state: Mapping[str, Any]) -> list[str]:
    """Insert the medium and set the override, where they are not; the words of what was sent."""
    done = []
    if not isinstance(controller, Redfish):
        ipmi = _ipmi(controller)
        if boot["way"] not in IPMI_TARGETS:
            raise Refusal(f"the IPMI controller {ipmi.address} has no virtual drive; its way into a rescue system is pxe")
        with ipmi.errors("was told what to boot from"):
            ipmi.command.set_bootdev(IPMI_TARGETS[boot["way"]], persist=False)
        return ["chassis bootdev pxe"]
    from sushy import BootSource, BootSourceOverrideEnabled

    if boot["way"] == "media" and not (state["inserted"] and state["image"] == boot["image"]):
        if state["inserted"] and state["image"]:
            raise Refusal(
                f"the virtual drive {state['drive']} holds {state['image']}, which nobody here put in. Take it out by hand first."
            )
        with controller.errors("was asked to insert the medium"):
            _drive(controller).insert_media(boot["image"], inserted=True, write_protected=True)
        done.append(f"InsertMedia {boot['image']}")
    with controller.errors("was told what to boot from"):
        controller.system.set_system_boot_options(target=BootSource(TARGETS[boot["way"]]), enabled=BootSourceOverrideEnabled.ONCE)
    return [*done, f"boot override {TARGETS[boot['way']]}, Once"]


def back(controller: Controller, boot: Mapping[str, Any], state: Mapping[str, Any], former: Mapping[str, Any]) -> list[str]:
    """Take the medium out and put the override back; the words of what was sent. A medium that is not ours stays."""
    done = []
    if not isinstance(controller, Redfish):
        ipmi = _ipmi(controller)
        with ipmi.errors("was told what to boot from"):
            ipmi.command.set_bootdev("default")
        return ["chassis bootdev none"]
    from sushy import BootSource, BootSourceOverrideEnabled

    if boot["way"] == "media" and state["inserted"] and state["image"] == boot["image"]:
        with controller.errors("was asked to eject the medium"):
            _drive(controller).eject_media()
        done.append("EjectMedia")
    if not usual({**state, "inserted": False}, boot, former):
        with controller.errors("was told what to boot from"):
            # Where it was off, it is switched off; no target goes with that.
            enabled = former.get("enabled") or "Disabled"
            target = former.get("target") if enabled != "Disabled" else None
            controller.system.set_system_boot_options(
                target=BootSource(target) if target else None,
                enabled=BootSourceOverrideEnabled(enabled),
            )
        done.append(f"boot override {target or 'none'}, {enabled}")
    return done


def _drive(controller: Redfish) -> Any:
    """The virtual drive for optical media: at the system (newer) or at one of its managers."""
    import sushy

    groups = []
    try:
        groups.append(controller.system.virtual_media.get_members())
    except (sushy.exceptions.MissingAttributeError, AttributeError):
        groups += [manager.virtual_media.get_members() for manager in controller.system.managers]
    for drive in (one for group in groups for one in group):
        drive.refresh(force=True)
        if {"CD", "DVD"} & set(drive.json.get("MediaTypes") or []):
            return drive
    raise Refusal(f"the Redfish controller {controller.address} has no virtual drive for a CD or DVD (often a matter of its licence)")


def _ipmi(controller: Controller) -> Ipmi:
    if not isinstance(controller, Ipmi):
        raise Silent(f"a controller of kind {controller.kind} cannot be told what to boot from")
    return controller
