# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options that a step takes from the plan and the ledger, never from the task.

A task that could name its own units, devices or digests could make evidence about something else than the item. So the
action fills these in, and a task that gives another value is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils._wipe import decide as wipe_decide, firmware as wipe_firmware
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import sets as guest_sets
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import virtual_media
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import BOOTED, DATA_SETS, Item, Plan, from_within, in_place
from ansible_collections.sunset.crm.plugins.plugin_utils.record.view import View
from ansible_collections.sunset.crm.plugins.plugin_utils.steps.steps import Step

Options = dict[str, Any]

# What a task may choose: which step, how patiently, how fast, in what words, and what only makes a step stricter or is recorded as weaker.
FREE = {
    "item", "state", "vault", "timeout", "wait", "stall", "rate", "title", "message", "again", "protected", "forced", "force_after", "force_allowed_by",
    "ask_controller",
}  # fmt: skip
# What says where a module looks: from the item's declaration (C(sunset_items)), or the module's default.
PLANNED = {
    "database_dump": ("socket", "config", "password_file", "direct"),
    "filestore_archive": ("only", "leave_out", "direct"),
    "session_end": ("socket",),
    "web_closed": ("unit",),
    "docker_guests": ("socket", "prove"),
    "libvirt_guests": ("uri", "snapshot", "copy"),
    "proxmox_guests": (
        "api", "snapshot", "snapshot_name", "copy", "copy_timeout", "storage", "keep_off", "lock_wait", "leave_out",
    ),
    "vault_access": ("user", "reader_dir"),
    "media_wipe": ("state_directory", "psid_directory"),
    "volume_wipe": ("state_directory", "pool_limit"),
    # Laid out by plan_build from the product's profile.
    "vault_prove": ("readable", "pairs", "allowed_differences"),
}  # fmt: skip
# The kinds of items that each module is a step for.
KINDS = {
    "scheduler_state": ("application",),
    "web_closed": ("application",),
    "session_end": ("application",),
    "service_state": ("application", "database"),
    "database_dump": ("database",),
    "filestore_archive": ("filestore",),
    "docker_guests": ("container",),
    "libvirt_guests": ("guest",),
    "proxmox_guests": ("guest",),
    "host_look": ("host",),
    "host_power": ("host",),
    "host_boot": ("host",),
    "proxmox_nodes": ("host",),
    "vault_package": ("host",),
    "vault_destroy": ("host",),
    "vault_access": ("host",),
    "vault_shelf": ("host",),
    "vault_pull": DATA_SETS,
    "vault_prove": DATA_SETS,
    "media_wipe": ("medium",),
    "volume_wipe": ("medium",),
    "rescue_boot": ("host",),
}

# Modules whose way back needs what was found before; the others keep it beside the thing itself or need nothing.
TAKES_FORMER = ("scheduler_state", "service_state", "docker_guests", "libvirt_guests", "proxmox_guests", "proxmox_nodes")


def options(step: Step, item: Item, plan: Plan, view: View, vault: str) -> Options:
    """The options of this step that are not the task's to choose."""
    try:
        filled = _FILL[step.module](item, plan, view, vault)
    except KeyError as exc:
        raise Refusal(
            f"{step.module}: the plan declares no {exc} for {item['id']}; mend the inventory (sunset_items), then survey again"
        ) from None
    filled = {**{name: item["expects"][name] for name in PLANNED.get(step.module, ()) if name in item["expects"]}, **filled}
    if step.back and step.module in TAKES_FORMER:
        filled["former"] = view.former.get((item["id"], step.aspect), {})
    return filled


def merged(given: Options, filled: Options, module: str) -> Options:
    """The task's options with the filled ones. Raises Refusal for one that contradicts the plan, or is not the task's to choose."""
    for name, value in given.items():
        if value is None or name in FREE or (name in filled and filled[name] == value):
            continue
        said = f"the plan says {filled[name]!r}" if name in filled else "the plan says nothing of it"
        raise Refusal(
            f"{module}: the task sets {name} to {value!r}, {said}. Leave the option out: it comes from the plan and the ledger.",
            f"the task sets {name}, which is not its to choose",
        )
    return {**{name: value for name, value in given.items() if value is not None}, **filled}


def _scheduler_state(item: Item, plan: Plan, view: View, vault: str) -> Options:
    schedulers = item["expects"].get("schedulers", {})
    return {"units": schedulers.get("units", []), "cron_files": schedulers.get("cron_files", [])}


def _web_closed(item: Item, plan: Plan, view: View, vault: str) -> Options:
    web = item["expects"]["web"]
    return {"server": web.get("server", "nginx"), "site": web["site"], "probes": web["probes"]}


def _session_end(item: Item, plan: Plan, view: View, vault: str) -> Options:
    sessions = item["expects"]["sessions"]
    database = plan.items[sessions["database"]]["expects"]
    return {
        "engine": database["engine"],
        "database": database["database"],
        "table": sessions["table"],
        "port": database.get("port"),
    }


def _service_state(item: Item, plan: Plan, view: View, vault: str) -> Options:
    expects = item["expects"]
    if item["kind"] == "database":
        return {"services": [{"unit": expects["unit"], "ports": [expects["port"]] if expects.get("port") else []}]}
    return {"services": expects.get("services", [])}


def _database_dump(item: Item, plan: Plan, view: View, vault: str) -> Options:
    expects = item["expects"]
    filled = {name: expects.get(name) for name in ("engine", "database", "port", "staging", "reach")}
    if (expects.get("reach") or {}).get("kind") == "container":
        # Its container stops before the vaults pull, so nothing could be sent to them without staging.
        filled["direct"] = "never"
    filled["apart"] = [rule for rule in expects.get("allowed_differences", []) if isinstance(rule, dict)]
    return filled


def _filestore_archive(item: Item, plan: Plan, view: View, vault: str) -> Options:
    return {name: item["expects"].get(name) for name in ("path", "staging")}


def _containers(item: Item) -> list[str]:
    return list(item["expects"].get("containers") or item["identity"].get("containers") or [])


def _docker_guests(item: Item, plan: Plan, view: View, vault: str) -> Options:
    label = item["expects"]["label"]
    same = [one for one in plan.of("container", host=item["host"]) if one is not item and one["expects"].get("label") == label]
    return {
        "label": label,
        "containers": _containers(item),
        "others": sorted({name for one in same for name in _containers(one)}),
        "held_units": sorted(_held_units(item["host"], plan, view)),
        "owned": item["identity"].get("units") or {},
        "engines": plan.items[f"host:{item['host']}"]["expects"].get("engines") or {},
        "staging": item["expects"].get("staging"),
    }


def _held_units(host: str, plan: Plan, view: View) -> set[str]:
    """Units of this host's applications that were seen stopped, and are held off. A container of such a unit is started by nothing else."""
    return {
        str(service["unit"])
        for one in plan.of("application", host=host)
        if view.value(one["id"], "service") == "stopped"
        for service in one["expects"].get("services") or ()
        if service.get("unit")
    }


def _guests(backend: str) -> Callable[[Item, Plan, View, str], Options]:
    """The options that every backend of guests has.

    others: guests of the same hypervisor that belong to other items. hosts: guests that are hosts of the plan, which go off by
    their own step; of those, ran: that were on before that step, so that a resume starts them."""

    def fill(item: Item, plan: Plan, view: View, vault: str) -> Options:
        if item["expects"]["backend"] != backend:
            raise Refusal(
                f"{item['id']} has the backend {item['expects']['backend']}, {guest_sets.BACKENDS[backend]} is for {backend}; "
                "use the module of its backend"
            )
        here = guest_sets.place(item)
        same = [one for one in plan.of("guest") if one is not item and guest_sets.place(one) == here]
        within = guest_sets.inhabitants(item, plan.items)
        return {
            "guests": guest_sets.names(item),
            "identity": item["identity"],
            "others": sorted({name for one in same for name in guest_sets.names(one)}),
            "hosts": {name: host["host"] for name, host in sorted(within.items())},
            "ran": sorted(name for name, host in within.items() if _was_on(host, view)),
            "staging": item["expects"].get("staging"),
        }

    return fill


def _was_on(host: Item, view: View) -> bool:
    """Whether this host was on when its power-off began, and was not put back since."""
    former = view.former.get((host["id"], "power")) or {}
    return bool(former.get("power") == "on" or (former.get("witness") or {}).get("power") == "on")


def _host_look(item: Item, plan: Plan, view: View, vault: str) -> Options:
    """The declarations of the host's items, as the survey was given them."""
    declared = [other for other in plan.items.values() if other["host"] == item["host"] and other["kind"] != "host"]
    return {
        "items": [{"kind": other["kind"], "name": other["id"].partition(":")[2], **other["expects"]} for other in declared],
        "profiles": item["expects"].get("profiles", {}),
    }


def _host_power(item: Item, plan: Plan, view: View, vault: str) -> Options:
    known = {"machine_id": item["identity"]["machine_id"]} if item["identity"].get("machine_id") else {}
    databases = plan.of("database", host=item["host"])
    return {
        "witness": item["expects"]["power"],
        "board": item["expects"].get("board") or {},
        "excused": excused(plan, item["host"]),
        "ports": sorted({int(one["expects"]["port"]) for one in databases if one["expects"].get("port") and one["expects"].get("unit")}),
        **({"cluster": _cluster(item, plan)} if plan.cluster_of(item["host"]) else {}),
        **known,
    }


def _cluster(item: Item, plan: Plan) -> Options:
    """The cluster that a node belongs to, with the guests that a person has classified on any of its nodes."""
    found = plan.cluster_of(item["host"])
    if found is None:
        raise Refusal(f"{item['id']} is no node of a Proxmox VE cluster: no set of guests of the plan stands on a cluster that has it")
    together = sorted(host for host in found["hosts"] if plan.items[f"host:{host}"]["wave"] == item["wave"])
    return {**found, "together": together, "excused": sorted({name for host in found["hosts"] for name in excused(plan, host)})}


def _proxmox_nodes(item: Item, plan: Plan, view: View, vault: str) -> Options:
    return {"cluster": _cluster(item, plan)}


def _host_boot(item: Item, plan: Plan, view: View, vault: str) -> Options:
    seen = view.get(item["id"], "boot")
    return {
        "witness": item["expects"]["power"],
        "board": item["expects"].get("board") or {},
        "boot": item["expects"].get("rescue_boot") or {},
        "former": (seen.result.get("former") if seen else None) or {},
    }


def excused(plan: Plan, host: str) -> list[str]:
    """Guests of a host that a person has classified: they are nobody's data and may run until the host goes off."""
    kinds = ("container", "guest", "domain", "machine")
    found = [found["id"].partition(":") for found in plan.data.get("findings", []) if found["host"] == host and found.get("classified")]
    return sorted({name for kind, _colon, name in found if kind in kinds})


def package_settings(plan: Plan, vault: str, host: str) -> Options:
    """What every vault module is told about the package of a host."""
    detail = plan.data["vaults"][vault]
    places = {"live_dir": detail["live_dir"]} if "live_dir" in detail else {}
    return {**places, "root": detail["root"], "estate": plan.estate, "package": host}


def _vault_package(item: Item, plan: Plan, view: View, vault: str) -> Options:
    # A package that is sealed while a dump is newer than its proof is begun again beside the old one.
    stale = view.value(item["id"], f"package@{vault}") in ("sealed", "forgotten")
    secret = any(other["expects"].get("secret") for other in plan.of(*DATA_SETS, host=item["host"]))
    custodians = plan.data["custodians"]
    return {**package_settings(plan, vault, item["host"]), "custodians": custodians, "supersede": stale, "secret": secret}


def _vault_destroy(item: Item, plan: Plan, view: View, vault: str) -> Options:
    return package_settings(plan, vault, item["host"])


def _vault_access(item: Item, plan: Plan, view: View, vault: str) -> Options:
    package = view.get(item["id"], f"package@{vault}")
    return {
        "public_key": (package.result.get("pull_public_key") if package else None) or "",
        "directories": sorted({data_set["expects"]["staging"] for data_set in plan.of(*DATA_SETS, host=item["host"])}),
    }


def _artefacts(item: Item, view: View) -> list[dict[str, Any]]:
    seen = view.get(item["id"], "dump")
    return seen.result.get("artefacts", []) if seen else []


def _vault_pull(item: Item, plan: Plan, view: View, vault: str) -> Options:
    host = plan.items[f"host:{item['host']}"]
    return {
        **package_settings(plan, vault, item["host"]),
        "source": host["expects"]["reach"],
        "artefacts": _artefacts(item, view),
        "secret": bool(item["expects"].get("secret")),
    }


def _vault_prove(item: Item, plan: Plan, view: View, vault: str) -> Options:
    proof = {"filestore": "filestore", "container": "image", "guest": "guest"}.get(item["kind"]) or item["expects"]["engine"]
    seen = view.get(item["id"], "dump")
    detail = plan.data["vaults"][vault]
    return {
        **package_settings(plan, vault, item["host"]),
        **({"scratch": detail["scratch"]} if "scratch" in detail else {}),
        "proof": proof,
        "artefacts": _artefacts(item, view),
        "secret": bool(item["expects"].get("secret")),
        "source": seen.result.get("source", {}) if seen else {},
    }


def _vault_shelf(item: Item, plan: Plan, view: View, vault: str) -> Options:
    if not plan.data["vaults"][vault].get("shelf"):
        raise Refusal(f"the plan gives the vault {vault} no shelf (sunset_vault_shelf); mend the inventory, survey again")
    return {**package_settings(plan, vault, item["host"]), "shelf": plan.data["vaults"][vault]["shelf"]}


def _media_wipe(item: Item, plan: Plan, view: View, vault: str) -> Options:
    """The method is what the authorisation names, too: the gate has compared them."""
    wipe = item["wipe"]
    if in_place(item):
        raise Refusal(f"{item['id']} is a virtual disk, which is wiped in place: use volume_wipe")
    technique = wipe_firmware.canonical(str(wipe.get("method", "overwrite")))
    if problem := wipe_firmware.unusable(technique):
        raise Refusal(f"{item['id']}: the plan's method of wiping it cannot be used: {problem}")
    for name, words in (("verify", ("full", "sample")), ("final", ("stream", "zeros"))):
        if wipe.get(name, words[0]) not in words:
            raise Refusal(f"{item['id']}: the plan's wipe.{name} is {wipe[name]!r}; expected {' or '.join(words)}")
    return {
        "device": wipe.get("device", item["expects"]["device"]),
        "identity": item["identity"],
        "technique": technique,
        "verify": wipe.get("verify", "full" if technique == wipe_firmware.OVERWRITE else "sample"),
        "final": wipe.get("final", "stream"),
        "policy": wipe_policy(item, plan),
        **({"in_rescue": True} if from_within(item) else {}),
    }


def wipe_policy(item: Item, plan: Plan) -> Options:
    """What is asked for this medium: the plan's policy, and the medium's own word over it."""
    policy = {"asked": "clear", **plan.setting("wipe_policy", {}), **(item["expects"].get("sanitisation") or {})}
    for name in (
        "protected",
        "waiver",
        "luks",
        "volume",
    ):  # what people sign, and what the control node sees, is not the inventory's to say
        policy.pop(name, None)
    if problem := wipe_decide.policy_problem(policy):
        raise Refusal(f"{item['id']}: {problem}. Mend sunset_wipe_policy or the medium's sanitisation in the inventory, survey again")
    return policy


def _volume_wipe(item: Item, plan: Plan, view: View, vault: str) -> Options:
    """The layers as the survey found them, what the save of the guests has put on top since, and what it has staged of them."""
    if not in_place(item):
        raise Refusal(f"{item['id']} is no virtual disk of a host that stays: use media_wipe")
    if word := virtual_media.by_hand(item):
        raise Refusal(f"{item['id']}: {word}")
    media = [one for one in plan.of("medium", host=item["host"]) if in_place(one) and one["expects"].get("layers")]
    tops = {one["id"]: _overlays(one, plan, view) for one in media}
    known = {layer["path"] for one in media for layer in (*tops[one["id"]], *one["expects"]["layers"])}
    guests = {name for one in plan.of("guest", host=item["host"]) for name in guest_sets.names(one)}
    staged = [
        copy
        for data_set in plan.carried_by(item["id"])
        if (seen := view.get(data_set["id"], "dump")) and _first_of(item, data_set, plan)
        for copy in virtual_media.copies(
            item, seen.result.get("artefacts", []), seen.result.get("source", {}), str(data_set["expects"]["staging"])
        )
    ]
    return {
        "identity": item["identity"],
        "layers": item["expects"]["layers"],
        "overlays": tops[item["id"]],
        "copies": staged,
        "known": sorted(known),
        "guests": sorted(guests),
        "policy": wipe_policy(item, plan),
        "remove": bool(item["wipe"].get("remove")),
    }


def _overlays(item: Item, plan: Plan, view: View) -> list[Options]:
    found: list[Options] = []
    for data_set in plan.carried_by(item["id"]):
        seen = view.get(data_set["id"], "dump")
        try:
            found += virtual_media.overlays(item, seen.result.get("chains", {}) if seen else {})
        except ValueError as exc:
            raise Refusal(f"{item['id']}: {exc}") from None
    return found


def _first_of(item: Item, data_set: Item, plan: Plan) -> bool:
    """Whether this is the medium that takes a guest's staged copies with it: the first that is that guest's alone."""
    guests = [guest for guest, _target in item["expects"]["guests"]]
    same = [
        one["id"]
        for one in plan.of("medium", host=item["host"])
        if one["id"] in data_set.get("media", []) and [guest for guest, _target in one["expects"].get("guests", [])] == guests
    ]
    return len(guests) == 1 and same[:1] == [item["id"]]


def _rescue_boot(item: Item, plan: Plan, view: View, vault: str) -> Options:
    """What must not be awake there, and how its rescue's kernel is to be started."""
    services = [service for other in plan.of("application", host=item["host"]) for service in other["expects"].get("services", [])]
    for base in plan.of("database", host=item["host"]):
        if base["expects"].get("unit"):
            services.append({"unit": base["expects"]["unit"], "ports": [base["expects"]["port"]] if base["expects"].get("port") else []})
    way = plan.rescue_way(item["host"])
    through = {
        "witness": item["expects"]["power"],
        "board": item["expects"].get("board") or {},
        "boot": item["expects"].get("rescue_boot") or {},
    }
    return {
        "services": services,
        "kernel_arguments": item["expects"].get("rescue", {}).get("kernel_arguments", []),
        **({"way": way, **through} if way in BOOTED else {}),
    }


_FILL = {
    "scheduler_state": _scheduler_state,
    "web_closed": _web_closed,
    "session_end": _session_end,
    "service_state": _service_state,
    "database_dump": _database_dump,
    "filestore_archive": _filestore_archive,
    "docker_guests": _docker_guests,
    "libvirt_guests": _guests("libvirt"),
    "proxmox_guests": _guests("proxmox"),
    "host_look": _host_look,
    "host_power": _host_power,
    "host_boot": _host_boot,
    "proxmox_nodes": _proxmox_nodes,
    "vault_package": _vault_package,
    "vault_destroy": _vault_destroy,
    "vault_access": _vault_access,
    "vault_pull": _vault_pull,
    "vault_prove": _vault_prove,
    "vault_shelf": _vault_shelf,
    "media_wipe": _media_wipe,
    "volume_wipe": _volume_wipe,
    "rescue_boot": _rescue_boot,
}
