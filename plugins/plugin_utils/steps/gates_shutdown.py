# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates up to the power-off: stopped before copied, proven before sealed, all of it before a host goes off. Pure."""

from __future__ import annotations

from ansible_collections.sunset.crm.plugins.plugin_utils.guests import foreign
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signed
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import DATA_SETS, RUNNING, SETS, Item
from ansible_collections.sunset.crm.plugins.plugin_utils.steps.grounds import SURVEY, Context, Missing, again, need


def web(item: Item, context: Context, vault: str) -> list[Missing]:
    if not item["expects"].get("schedulers"):
        return []
    return need(item["id"], "scheduler", "frozen", context, again(context))


def _frozen(item: Item, context: Context) -> list[Missing]:
    found = web(item, context, "")
    if item["expects"].get("web"):
        found += need(item["id"], "web", "closed", context, again(context))
    return found


def session(item: Item, context: Context, vault: str) -> list[Missing]:
    return _frozen(item, context)


def _quiet(item: Item, context: Context) -> list[Missing]:
    """An application is frozen and its users' sessions have ended."""
    found = _frozen(item, context)
    if item["expects"].get("sessions"):
        found += need(item["id"], "session", "ended", context, again(context))
    return found


def stopped(item: Item, context: Context) -> list[Missing]:
    """A set of containers or guests is stopped; an application is quiet and so is every service that it declares."""
    if item["kind"] in SETS:
        return need(item["id"], "guest", "stopped", context, again(context))
    found = _quiet(item, context)
    if item["expects"].get("services"):
        found += need(item["id"], "service", "stopped", context, again(context))
    return found


def _above_stopped(item: Item, context: Context) -> list[Missing]:
    """Everything that runs and stands on this item is stopped."""
    return [lack for above in context.plan.standing_on(item["id"]) if above["kind"] in RUNNING for lack in stopped(above, context)]


def service(item: Item, context: Context, vault: str) -> list[Missing]:
    found = _above_stopped(item, context)
    if item["kind"] == "application":
        found += _quiet(item, context)
    if item["kind"] == "database":
        # One server may carry several of the plan's databases: none may still need it.
        server = (item["host"], item["expects"].get("unit"))
        for other in context.plan.of("database"):
            if (other["host"], other["expects"].get("unit")) == server:
                found += proven(other, context)
        # After this nobody can look into the server again, so what else is on it must have been looked at.
        host = context.plan.items[f"host:{item['host']}"]
        found += _packed(host, context) + _looked(host, context)
    return found


def guest(item: Item, context: Context, vault: str) -> list[Missing]:
    """Containers that serve databases stop when those are dumped: the dump needs the server, the archive of its volume that it rests."""
    found = _above_stopped(item, context)
    for database in context.plan.served_by(item["id"]):
        # This server is not asked again before it stops, as the others are: what nobody knows has to be found out now.
        found += _dumped(database, context) + _still(database, context, ("no", "unknown"))
    # A host of the plan that runs inside a guest goes off by its own step, which asks for everything on it.
    for above in context.plan.standing_on(item["id"]):
        if above["kind"] == "host":
            found += need(above["id"], "power", "off", context, again(context))
    return found


def dump(item: Item, context: Context, vault: str) -> list[Missing]:
    found = _above_stopped(item, context)
    return found + (stopped(item, context) if item["kind"] in SETS else [])


def _dumped(item: Item, context: Context) -> list[Missing]:
    if context.view.dump(context.plan, item) is not None:
        return []
    stale = context.view.get(item["id"], "dump") is not None
    what = "its dump is older than a start of something that writes to it" if stale else "no dump of it was seen"
    return [Missing(item["id"], what, again(context))]


def copy(item: Item, context: Context, vault: str) -> list[Missing]:
    return _dumped(item, context) + package_open(item, context, vault)


def package_open(item: Item, context: Context, vault: str) -> list[Missing]:
    package = f"host:{item['host']}"
    if context.view.value(package, f"package@{vault}") in ("open", "sealed"):
        return []
    return [Missing(package, f"it has no package on the vault {vault}", again(context))]


def proof(item: Item, context: Context, vault: str) -> list[Missing]:
    lacks = _dumped(item, context)
    if not lacks and vault not in context.view.proven_at(context.plan, item, "copy"):
        lacks = [Missing(item["id"], f"the vault {vault} has no copy of its current dump", again(context))]
    return lacks


def sealed(item: Item, context: Context, vault: str) -> list[Missing]:
    found = []
    for data_set in context.plan.of(*DATA_SETS, host=item["host"]):
        if vault in context.view.proven_at(context.plan, data_set):
            found += _paired(data_set, context, vault) + _whole(data_set, context) + _still(data_set, context)
        else:
            found.append(Missing(data_set["id"], f"not proven on the vault {vault}", again(context)))
    return found


def _paired(item: Item, context: Context, vault: str) -> list[Missing]:
    """Every row of an attachment has its file. A copy may be equal and yet of a source that had lost some: a person has to know."""
    seen = context.view.get(item["id"], f"proof@{vault}")
    if not item["expects"].get("pairs") or seen is None or seen.predicted:
        return []
    pair = seen.result.get("pair") or {}
    if pair.get("verdict") == "paired" or signed.waiver("pair", item, context):
        return []
    what = f"it is {pair.get('verdict', 'unknown')} whether each row of an attachment has its file"
    if pair.get("verdict") == "unpaired":
        what = f"{pair.get('missing')} of {pair.get('rows')} rows of attachments have no file"
    mend = "mend the source and dump again, or hand in a signed waiver of the gate 'pair' (docs/operator/data.md, 'Rows without files')"
    return [Missing(item["id"], f"{what} (vault {vault})", mend)]


def _whole(item: Item, context: Context) -> list[Missing]:
    """Tables whose rows lie on another server (foreign, federated) are in no copy, however equal it is."""
    dump = context.view.get(item["id"], "dump")
    tables = (dump.result.get("source") or {}).get("data_elsewhere") if dump else None
    if not tables or signed.waiver("elsewhere", item, context):
        return []
    what = f"the rows of {', '.join(sorted(tables)[:5])}{' and others' if len(tables) > 5 else ''} lie on another server and are in no copy"
    mend = "plan that server's database too, or hand in a signed waiver of the gate 'elsewhere'"
    return [Missing(item["id"], what, mend)]


def _still(item: Item, context: Context, open_answers: tuple[str, ...] = ("no",)) -> list[Missing]:
    """A snapshot is whole though somebody writes, but what is written after it is in no copy. A later run that reads the same again
    shows that nothing came after it."""
    dump = context.view.get(item["id"], "dump")
    writers = (dump.result.get("source") or {}).get("writers") if dump else None
    quiet = str(writers.get("quiet") or "unknown") if writers else "yes"
    if not dump or quiet not in open_answers or dump.number != dump.first or signed.waiver("writers", item, context):
        return []
    what = "somebody wrote to it while it was copied, and what came after the moment of the copy is in no copy"
    if quiet != "no":
        what = "it is unknown whether somebody wrote to it while it was copied"
    mend = (
        "find out who and stop it, run the same command again (it reads the source again), or hand in a signed waiver of the gate 'writers'"
    )
    return [Missing(item["id"], what, mend)]


def proven(item: Item, context: Context) -> list[Missing]:
    lacks = _dumped(item, context)
    if lacks:
        return lacks
    vaults = context.view.proven_at(context.plan, item)
    wanted = context.plan.proofs_required
    if len(vaults) >= wanted:
        return []
    return [Missing(item["id"], f"restored and compared on {len(vaults)} of {wanted} vaults", again(context))]


def classified(host: str, context: Context) -> list[Missing]:
    return [
        Missing(
            f"host:{host}",
            f"found but neither planned nor classified by a person: {finding['id']} ({finding['what']})",
            f"classify it (sunset_classified), then {SURVEY} and a new approval",
        )
        for finding in context.plan.unclassified(host)
    ]


def dark_engines(host: str, context: Context, *kinds: str) -> list[Missing]:
    """Engines that nobody here can drive are dark by a person's signed word, or not at all."""
    return [Missing(f"host:{host}", what, mend) for what, mend in foreign.obstacles(host, context, kinds)]


def power(item: Item, context: Context, vault: str) -> list[Missing]:
    found = _dark(item, context)
    if context.plan.cluster_of(item["host"]):
        found += need(item["id"], "cluster", "aside", context, again(context))
    return found


def cluster(item: Item, context: Context, vault: str) -> list[Missing]:
    """HA and Ceph are set aside when the node could go off: everything on it is over."""
    if context.plan.cluster_of(item["host"]):
        return _dark(item, context)
    return [Missing(item["id"], "no set of guests of the plan says that it is a node of a Proxmox VE cluster", f"{SURVEY}")]


def _dark(item: Item, context: Context) -> list[Missing]:
    """Nothing of this host is needed any more."""
    plan, view, host = context.plan, context.view, item["host"]
    found = classified(host, context) + dark_engines(host, context, foreign.ENGINE)
    for other in [*plan.of(*RUNNING, host=host), *(one for one in plan.guests_on(host) if one["host"] != host)]:
        found += stopped(other, context)
    for data_set in plan.data_on(host):
        found += proven(data_set, context)
        if data_set["kind"] == "database" and data_set["expects"].get("unit"):
            found += need(data_set["id"], "service", "stopped", context, again(context))
    if plan.of(*DATA_SETS, host=host):
        found += _packed(item, context)
        for vault in plan.vaults:
            if view.value(item["id"], f"access@{vault}") == "present":
                found.append(Missing(item["id"], f"the read access of the vault {vault} is not taken back", again(context)))
    found += _looked(item, context)
    for above in plan.hosts_before(host):
        found += need(f"host:{above}", "power", "off", context, again(context))
    return found


def _packed(item: Item, context: Context) -> list[Missing]:
    """The package of this host is sealed on as many vaults as the plan asks for, and on the shelf of those that have one."""
    plan, view = context.plan, context.view
    sealed = [vault for vault in plan.vaults if view.value(item["id"], f"package@{vault}") in ("sealed", "forgotten")]
    if len(sealed) < plan.proofs_required:
        return [Missing(item["id"], f"its package is sealed on {len(sealed)} of {plan.proofs_required} vaults", again(context))]
    bare = [vault for vault in sealed if plan.data["vaults"][vault].get("shelf") and not view.shelved(item["host"], vault)]
    if len(sealed) - len(bare) >= plan.proofs_required:
        return []
    return [Missing(item["id"], f"its package is not on the shelf of the vault {vault}", again(context)) for vault in bare]


def shelf(item: Item, context: Context, vault: str) -> list[Missing]:
    if context.view.value(item["id"], f"package@{vault}") in ("sealed", "forgotten"):
        return []
    return [Missing(item["id"], f"its package on {vault} is not sealed", again(context))]


def _looked(item: Item, context: Context) -> list[Missing]:
    """The host was surveyed again after its last dump, and nothing new was there."""
    look = context.view.get(item["id"], "look")
    dumps = [context.view.get(data_set["id"], "dump") for data_set in context.plan.data_on(item["host"])]
    if look is not None and all(dump is None or dump.first < look.number for dump in dumps):
        return []
    return [Missing(item["id"], "it was not surveyed again after its last dump (look)", again(context))]


def boot(item: Item, context: Context, vault: str) -> list[Missing]:
    """A host that was never seen off could be at work for somebody."""
    return need(item["id"], "power", "off", context, again(context))
