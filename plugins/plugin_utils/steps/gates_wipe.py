# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates of what nobody can take back: a key forgotten, a medium wiped, a package destroyed. Pure."""

from __future__ import annotations

from datetime import timedelta

from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import orders
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import foreign
from ansible_collections.sunset.crm.plugins.plugin_utils.people import key_copies, signed
from ansible_collections.sunset.crm.plugins.plugin_utils.people.statements import moment
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Item, from_within, in_place
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import gates_shutdown
from ansible_collections.sunset.crm.plugins.plugin_utils.steps.grounds import Context, Missing, again, need
from ansible_collections.sunset.crm.plugins.plugin_utils.vaults import packages

WIPE = "ansible-playbook playbooks/wipe.yml"
NOT_IN_RESCUE = "not seen to be in its rescue since it was woken"


def forgotten(item: Item, context: Context, vault: str) -> list[Missing]:
    value = context.view.value(item["id"], f"package@{vault}")
    if value == "forgotten":
        return []
    found = [] if value == "sealed" else [Missing(item["id"], f"its package on {vault} is not sealed", again(context))]
    attested = signed.openers(item, context, vault)
    wanted = max(1, int(context.plan.setting("custodians_required", 1)))
    if len(attested) < wanted:
        found.append(
            Missing(
                item["id"],
                f"{len(attested)} of {wanted} custodians have shown that the wrapped {_identities(item, context, vault)} of its package on "
                f"{vault} opens",
                "a custodian runs scripts/custodian challenge on the own machine and hands in the signed attestation",
            )
        )
    return found


def _identities(item: Item, context: Context, vault: str) -> str:
    """In the words of a refusal: a package with keys of the CRM in it has two."""
    return "identity (both: data and keys)" if signed.identity_digest(item, context.view, vault, "keys_identity_digest") else "identity"


def _ready(item: Item, context: Context) -> list[Missing]:
    """What must hold before a medium is wiped, whoever does it."""
    plan, view = context.plan, context.view
    data_sets = plan.carried_by(item["id"])
    hosts = plan.media_hosts(item)
    found = [lack for host in hosts for lack in need(f"host:{host}", "power", "off", context, again(context))]
    found += [lack for host in hosts for lack in gates_shutdown.classified(host, context)]
    found += [lack for host in hosts for lack in gates_shutdown.dark_engines(host, context, foreign.ENGINE, foreign.HYPERVISOR)]
    found += [lack for data_set in data_sets for lack in gates_shutdown.proven(data_set, context)]
    if in_place(item):
        found += [lack for data_set in data_sets for lack in gates_shutdown.stopped(data_set, context)]
    for host in sorted({data_set["host"] for data_set in data_sets}):
        package = plan.items[f"host:{host}"]
        for name in plan.vaults:
            if _never_there(host, name, context):
                continue
            if view.value(package["id"], f"package@{name}") != "forgotten":
                lacks = forgotten(package, context, name)
                found += lacks or [
                    Missing(
                        package["id"], f"the vault {name} still holds the identity of its package", "ansible-playbook playbooks/wipe.yml"
                    )
                ]
    found += _no_vaults_disk(item, context)
    found += _grace(item, context, hosts)
    for name in context.statements.doubtful_holds:
        what = f"{name} says that it is a legal hold, but cannot be counted: {context.statements.rejected.get(name, '')}"
        found.append(Missing(item["id"], what, "have it signed again, or cleared up by the one whose hold it is"))
    subjects = plan.held_by(item)
    for name, unknown in signed.pointless(context):
        what = f"the legal hold {name} speaks of {unknown}, which the plan does not have: nobody can say what is held"
        found.append(Missing(item["id"], what, "have it signed for items of the plan and then this one lifted"))
    for hold in signed.held(subjects, context):
        found.append(Missing(item["id"], f"legal hold {hold.name} by {hold.signer}", "have it lifted by a signed statement"))
    for name in packages.vanished("hold", subjects, context, signed.lifted(context)):
        what = f"the legal hold {name}, which the ledger knows, is no longer among the statements"
        found.append(Missing(item["id"], what, "put it back, or have it lifted by a signed statement"))
    found += [Missing(item["id"], what, key_copies.MEND) for what in key_copies.lacks(item, context.statements, signed.insiders(context))]
    statement, reasons = signed.authorisation(item, context)
    if statement is None:
        what = "no authorisation names it" if not reasons else "; ".join(reasons)
        found.append(Missing(item["id"], what, "have it authorised by a second person (docs/operator/wipe.md, 'Authorising the wipe')"))
    return found


def _never_there(host: str, vault: str, context: Context) -> bool:
    """Nothing of this host was ever begun on this vault, so it holds no identity: it was away while the host was retired."""
    here = {item["id"] for item in context.plan.items.values() if item["host"] == host}
    return not any(item in here and aspect.endswith(f"@{vault}") for item, aspect in context.view.begun)


def _no_vaults_disk(item: Item, context: Context) -> list[Missing]:
    if signed.waiver("vault-disks", item, context):
        return []
    return [
        Missing(
            item["id"],
            f"the vault {vault} did not tell which disks it uses, so nobody can say that this is none of them",
            "have it answer and start the run again, or hand in a signed waiver of the gate 'vault-disks'",
        )
        for vault in context.unseen_vaults
    ]


def _grace(item: Item, context: Context, hosts: list[str]) -> list[Missing]:
    seconds = float(context.plan.setting("grace_seconds", 14 * 86400))
    ends_of = [(f"host:{host}", "power") for host in hosts]
    if in_place(item):
        ends_of += [(data_set["id"], "guest") for data_set in context.plan.carried_by(item["id"])]
    since = [moment(seen.at) for end in ends_of if (seen := context.view.get(*end)) and seen.at]
    ends = max((start for start in since if start), default=None)
    if ends is not None and context.now >= ends + timedelta(seconds=seconds):
        return []
    if signed.waiver("grace", item, context):
        return []
    until = (ends + timedelta(seconds=seconds)).isoformat() if ends else "unknown, the hosts are not off"
    return [Missing(item["id"], f"the grace period has not ended (until {until})", "wait, or hand in a signed waiver of the gate 'grace'")]


def wipe(item: Item, context: Context, vault: str) -> list[Missing]:
    """At a station nothing more; from within, its host must have been seen in the rescue since it was woken."""
    found = _ready(item, context)
    if from_within(item):
        found += _in_rescue(f"host:{item['wipe']['host']}", context)
    return found


def _in_rescue(host: str, context: Context) -> list[Missing]:
    woken, rescue = context.view.get(host, "wake"), context.view.get(host, "rescue")
    if woken is not None and woken.value == "woken" and rescue is not None and rescue.number > woken.number:
        return []
    return [Missing(host, NOT_IN_RESCUE, WIPE)]


def wake(item: Item, context: Context, vault: str) -> list[Missing]:
    """A host that was off is on again for the wipe alone: when every medium that it is to wipe may be wiped at once."""
    media = [medium for medium in context.plan.wiped_from_within(item["host"]) if not _disposed(medium, context)]
    if not media:
        return [
            Missing(
                item["id"], "no medium of it is to be wiped from within (way: kexec, virtual_media, pxe)", "wipe its media at the station"
            )
        ]
    # One that is wiped asks for nothing more: its authorisation may have run out since, and the host still has to end.
    left = [medium for medium in media if context.view.value(medium["id"], "wipe") != "wiped"]
    return list(dict.fromkeys(lack for medium in left for lack in _ready(medium, context)))


def rescue(item: Item, context: Context, vault: str) -> list[Missing]:
    return wake(item, context, vault) + need(item["id"], "wake", "woken", context, WIPE)


def _disposed(medium: Item, context: Context) -> bool:
    """Whether a person has accounted for a medium that could not be wiped: it holds nothing up any more."""
    return bool(orders.excuse(medium, context.statements, signed.insiders(context)))


def ended(item: Item, context: Context, vault: str) -> list[Missing]:
    """Off for good only when every medium that it was woken for is seen wiped: until then it stays up and can be asked."""
    media = [medium for medium in context.plan.wiped_from_within(item["host"]) if not _disposed(medium, context)]
    return [lack for medium in media for lack in need(medium["id"], "wipe", "wiped", context, WIPE)]


def no_wipe(item: Item, context: Context) -> list[Missing]:
    plan = context.plan
    below = {item["id"]}
    frontier = [item["id"]]
    while frontier:
        for parent in plan.items[frontier.pop()]["stands_on"]:
            if parent not in below:
                below.add(parent)
                frontier.append(parent)
    media = {
        medium
        for other in plan.items.values()
        if other["id"] in below or (item["kind"] == "host" and other["host"] == item["host"])
        for medium in other.get("media", [])
    }
    return [
        Missing(
            item["id"],
            f"the wipe of {medium} has begun: there is no way back from here",
            "restore from the vault (docs/operator/packages.md, 'Opening a package')",
        )
        for medium in sorted(media)
        if context.view.wipe_begun(medium)
    ]


def destroyed(item: Item, context: Context, vault: str) -> list[Missing]:
    """A package ends when its retention has, no hold stands, and a person other than the operator has signed for this very one."""
    holds = signed.held(context.plan.held_by(item), context)
    lacks = packages.obstacles(item, vault, context, holds, signed.lifted(context), signed.pointless(context))
    return [Missing(item["id"], what, mend) for what, mend in lacks]
