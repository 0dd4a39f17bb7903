# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The gates: what must have been seen before a step may be taken. Pure: plan, view and statements in, words out.

Rules are relations between items, never between hosts that happened to answer: a data set is dumped when everything that
writes to it is stopped, a host goes off when everything that stands on it is, a medium is wiped when every data set on it
is proven.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import orders, packages
from ansible_collections.sunset.crm.plugins.plugin_utils.plan import DATA_SETS, RUNNING, SETS, Item, Plan, from_within
from ansible_collections.sunset.crm.plugins.plugin_utils.statements import Statement, Statements, covers, expired, moment
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import Step
from ansible_collections.sunset.crm.plugins.plugin_utils.view import View

SHUTDOWN = "playbooks/shutdown.yml"
SURVEY = "playbooks/survey.yml"
WIPE = "ansible-playbook playbooks/wipe.yml"
NOT_IN_RESCUE = "not seen to be in its rescue since it was woken"


@dataclass(frozen=True)
class Context:
    """Everything a gate may look at. waves: those that the open run works on."""

    plan: Plan
    view: View
    statements: Statements
    approver: str
    operator: str
    waves: tuple[str, ...]
    now: datetime
    phase: str
    login: str = ""
    check: bool = False


@dataclass(frozen=True)
class Missing:
    """One piece that is missing: on which item, what, and the command or act that would mend it."""

    item: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.item}: {self.what} (mend: {self.mend})"


def missing(step: Step, item: Item, context: Context, vault: str = "") -> list[Missing]:
    """What keeps this step on this item from being taken; an empty list if nothing does."""
    found = _of_phase(step, item, context) + _of_wave(step, item, context)
    if step.back:
        return found + _no_wipe(item, context)
    return found + RULES[step.aspect, step.value](item, context, vault)


def _of_phase(step: Step, item: Item, context: Context) -> list[Missing]:
    """A run does what it was opened, and confirmed, for."""
    wanted = step.phase if step.phase in ("wipe", "resume", "expire") else "shutdown"
    if context.phase == wanted:
        return []
    return [Missing(item["id"], f"this run is a {context.phase}, {step.phase} belongs to a {wanted}", f"run playbooks/{wanted}.yml")]


def _of_wave(step: Step, item: Item, context: Context) -> list[Missing]:
    plan, wave = context.plan, item["wave"]
    if wave not in context.waves:
        return [
            Missing(
                item["id"],
                f"it belongs to wave {wave}, this run works on {', '.join(context.waves)}",
                f"run it with -e sunset_wave_wanted={wave}",
            )
        ]
    if step.back or step.phase == "expire":
        return []
    waves = plan.waves[: plan.waves.index(wave)] + ([wave] if step.phase == "wipe" else [])
    return [
        Missing(item["id"], f"wave {other} is not accepted yet", f"ansible-playbook {SHUTDOWN} -e sunset_wave_wanted={other}")
        for other in waves
        if other not in context.view.accepted and not (context.check and other in context.waves)
    ]


def _need(item: str, aspect: str, value: str, context: Context, mend: str) -> list[Missing]:
    if context.view.value(item, aspect) == value:
        return []
    interrupted = any(e.record["item"] == item and e.record["aspect"] == aspect for e in context.view.interrupted)
    what = f"not seen to be {value} ({aspect})" + (", an earlier try was interrupted" if interrupted else "")
    return [Missing(item, what, mend)]


def _again(context: Context) -> str:
    return f"ansible-playbook {SHUTDOWN} -e sunset_wave_wanted={','.join(context.waves)}"


def _web(item: Item, context: Context, vault: str) -> list[Missing]:
    if not item["expects"].get("schedulers"):
        return []
    return _need(item["id"], "scheduler", "frozen", context, _again(context))


def _frozen(item: Item, context: Context) -> list[Missing]:
    found = _web(item, context, "")
    if item["expects"].get("web"):
        found += _need(item["id"], "web", "closed", context, _again(context))
    return found


def _session(item: Item, context: Context, vault: str) -> list[Missing]:
    return _frozen(item, context)


def _quiet(item: Item, context: Context) -> list[Missing]:
    """An application is frozen and its users' sessions have ended."""
    found = _frozen(item, context)
    if item["expects"].get("sessions"):
        found += _need(item["id"], "session", "ended", context, _again(context))
    return found


def _stopped(item: Item, context: Context) -> list[Missing]:
    """A set of containers or guests is stopped; an application is quiet and so is every service that it declares."""
    if item["kind"] in SETS:
        return _need(item["id"], "guest", "stopped", context, _again(context))
    found = _quiet(item, context)
    if item["expects"].get("services"):
        found += _need(item["id"], "service", "stopped", context, _again(context))
    return found


def _above_stopped(item: Item, context: Context) -> list[Missing]:
    """Everything that runs and stands on this item is stopped."""
    return [lack for above in context.plan.standing_on(item["id"]) if above["kind"] in RUNNING for lack in _stopped(above, context)]


def _service(item: Item, context: Context, vault: str) -> list[Missing]:
    found = _above_stopped(item, context)
    if item["kind"] == "application":
        found += _quiet(item, context)
    if item["kind"] == "database":
        # One server may carry several of the plan's databases: none may still need it.
        server = (item["host"], item["expects"].get("unit"))
        for other in context.plan.of("database"):
            if (other["host"], other["expects"].get("unit")) == server:
                found += _proven(other, context)
        # After this nobody can look into the server again, so what else is on it must have been looked at.
        host = context.plan.items[f"host:{item['host']}"]
        found += _packed(host, context) + _looked(host, context)
    return found


def _guest(item: Item, context: Context, vault: str) -> list[Missing]:
    """Containers that serve databases stop when those are dumped: the dump needs the server, the archive of its volume that it rests."""
    found = _above_stopped(item, context)
    for database in context.plan.served_by(item["id"]):
        found += _dumped(database, context)
    # A host of the plan that runs inside a guest goes off by its own step, which asks for everything on it.
    for above in context.plan.standing_on(item["id"]):
        if above["kind"] == "host":
            found += _need(above["id"], "power", "off", context, _again(context))
    return found


def _dump(item: Item, context: Context, vault: str) -> list[Missing]:
    found = _above_stopped(item, context)
    return found + (_stopped(item, context) if item["kind"] in SETS else [])


def _dumped(item: Item, context: Context) -> list[Missing]:
    if context.view.dump(context.plan, item) is not None:
        return []
    stale = context.view.get(item["id"], "dump") is not None
    what = "its dump is older than a start of something that writes to it" if stale else "no dump of it was seen"
    return [Missing(item["id"], what, _again(context))]


def _copy(item: Item, context: Context, vault: str) -> list[Missing]:
    return _dumped(item, context) + _package_open(item, context, vault)


def _package_open(item: Item, context: Context, vault: str) -> list[Missing]:
    package = f"host:{item['host']}"
    if context.view.value(package, f"package@{vault}") in ("open", "sealed"):
        return []
    return [Missing(package, f"it has no package on the vault {vault}", _again(context))]


def _proof(item: Item, context: Context, vault: str) -> list[Missing]:
    lacks = _dumped(item, context)
    if not lacks and vault not in context.view.proven_at(context.plan, item, "copy"):
        lacks = [Missing(item["id"], f"the vault {vault} has no copy of its current dump", _again(context))]
    return lacks


def _sealed(item: Item, context: Context, vault: str) -> list[Missing]:
    found = []
    for data_set in context.plan.of(*DATA_SETS, host=item["host"]):
        if vault in context.view.proven_at(context.plan, data_set):
            found += _paired(data_set, context, vault) + _whole(data_set, context)
        else:
            found.append(Missing(data_set["id"], f"not proven on the vault {vault}", _again(context)))
    return found


def _paired(item: Item, context: Context, vault: str) -> list[Missing]:
    """Every row of an attachment has its file. A copy may be equal and yet of a source that had lost some: a person has to know."""
    seen = context.view.get(item["id"], f"proof@{vault}")
    if not item["expects"].get("pairs") or seen is None or seen.predicted:
        return []
    pair = seen.result.get("pair") or {}
    if pair.get("verdict") == "paired" or waiver("pair", item, context):
        return []
    what = f"it is {pair.get('verdict', 'unknown')} whether each row of an attachment has its file"
    if pair.get("verdict") == "unpaired":
        what = f"{pair.get('missing')} of {pair.get('rows')} rows of attachments have no file"
    mend = "mend the source and dump again, or hand in a signed waiver of the gate 'pair' (docs/operator.md, 'Rows without files')"
    return [Missing(item["id"], f"{what} (vault {vault})", mend)]


def _whole(item: Item, context: Context) -> list[Missing]:
    """Tables whose rows lie on another server (foreign, federated) are in no copy, however equal it is."""
    dump = context.view.get(item["id"], "dump")
    tables = (dump.result.get("source") or {}).get("data_elsewhere") if dump else None
    if not tables or waiver("elsewhere", item, context):
        return []
    what = f"the rows of {', '.join(sorted(tables)[:5])}{' and others' if len(tables) > 5 else ''} lie on another server and are in no copy"
    mend = "plan that server's database too, or hand in a signed waiver of the gate 'elsewhere'"
    return [Missing(item["id"], what, mend)]


def proofs_required(plan: Plan) -> int:
    """How many vaults must hold a proven copy: the setting, else two where there are two, else one. Never none."""
    return max(1, int(plan.setting("proofs_required", min(2, len(plan.vaults)))))


def _proven(item: Item, context: Context) -> list[Missing]:
    lacks = _dumped(item, context)
    if lacks:
        return lacks
    vaults = context.view.proven_at(context.plan, item)
    wanted = proofs_required(context.plan)
    if len(vaults) >= wanted:
        return []
    return [Missing(item["id"], f"restored and compared on {len(vaults)} of {wanted} vaults", _again(context))]


def _classified(host: str, context: Context) -> list[Missing]:
    return [
        Missing(
            f"host:{host}",
            f"found but neither planned nor classified by a person: {finding['id']} ({finding['what']})",
            f"classify it (sunset_classified), then {SURVEY} and a new approval",
        )
        for finding in context.plan.unclassified(host)
    ]


def _power(item: Item, context: Context, vault: str) -> list[Missing]:
    plan, view, host = context.plan, context.view, item["host"]
    found = _classified(host, context)
    for other in [*plan.of(*RUNNING, host=host), *(one for one in plan.guests_on(host) if one["host"] != host)]:
        found += _stopped(other, context)
    for data_set in plan.data_on(host):
        found += _proven(data_set, context)
        if data_set["kind"] == "database" and data_set["expects"].get("unit"):
            found += _need(data_set["id"], "service", "stopped", context, _again(context))
    if plan.of(*DATA_SETS, host=host):
        found += _packed(item, context)
        for vault in plan.vaults:
            if view.value(item["id"], f"access@{vault}") == "present":
                found.append(Missing(item["id"], f"the read access of the vault {vault} is not taken back", _again(context)))
    found += _looked(item, context)
    for above in plan.hosts_before(host):
        found += _need(f"host:{above}", "power", "off", context, _again(context))
    return found


def _packed(item: Item, context: Context) -> list[Missing]:
    """The package of this host is sealed on as many vaults as the plan asks for, and on the shelf of those that have one."""
    plan, view = context.plan, context.view
    sealed = [vault for vault in plan.vaults if view.value(item["id"], f"package@{vault}") in ("sealed", "forgotten")]
    if len(sealed) < proofs_required(plan):
        return [Missing(item["id"], f"its package is sealed on {len(sealed)} of {proofs_required(plan)} vaults", _again(context))]
    bare = [vault for vault in sealed if plan.data["vaults"][vault].get("shelf") and not view.shelved(item["host"], vault)]
    if len(sealed) - len(bare) >= proofs_required(plan):
        return []
    return [Missing(item["id"], f"its package is not on the shelf of the vault {vault}", _again(context)) for vault in bare]


def _shelf(item: Item, context: Context, vault: str) -> list[Missing]:
    if context.view.value(item["id"], f"package@{vault}") in ("sealed", "forgotten"):
        return []
    return [Missing(item["id"], f"its package on {vault} is not sealed", _again(context))]


def _looked(item: Item, context: Context) -> list[Missing]:
    """The host was surveyed again after its last dump, and nothing new was there."""
    look = context.view.get(item["id"], "look")
    dumps = [context.view.get(data_set["id"], "dump") for data_set in context.plan.data_on(item["host"])]
    if look is not None and all(dump is None or dump.first < look.number for dump in dumps):
        return []
    return [Missing(item["id"], "it was not surveyed again after its last dump (look)", _again(context))]


def _forgotten(item: Item, context: Context, vault: str) -> list[Missing]:
    value = context.view.value(item["id"], f"package@{vault}")
    if value == "forgotten":
        return []
    found = [] if value == "sealed" else [Missing(item["id"], f"its package on {vault} is not sealed", _again(context))]
    attested = openers(item, context, vault)
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
    return "identity (both: data and keys)" if identity_digest(item, context.view, vault, "keys_identity_digest") else "identity"


def openers(item: Item, context: Context, vault: str) -> set[str]:
    """Custodians who have shown that every identity of the package on this vault opens: the second one too, where there is one."""
    found = {statement.signer for statement in attestations(item, context, vault)}
    if identity_digest(item, context.view, vault, "keys_identity_digest"):
        found &= {statement.signer for statement in attestations(item, context, vault, "keys_identity_digest")}
    return found


def attestations(item: Item, context: Context, vault: str, which: str = "identity_digest") -> list[Statement]:
    """Custodians' statements that the very identity of the package on this vault opens, newest word of each."""
    digest = identity_digest(item, context.view, vault, which)
    custodians = {custodian.get("name") for custodian in context.plan.data.get("custodians", [])}
    return [
        statement
        for statement in context.statements.of("attestation")
        if digest
        and statement.signer in custodians
        and statement.document.get("about") == f"package:{item['host']}"
        and statement.document.get("identity_digest") == digest
        and not expired(statement.document, context.now)
    ]


def identity_digest(item: Item, view: View, vault: str, which: str = "identity_digest") -> str | None:
    """Digest of an age identity of a host's package, as the vault reported it."""
    seen = view.get(item["id"], f"package@{vault}")
    return seen.result.get(which) if seen else None


def authorisation(item: Item, context: Context) -> tuple[Statement | None, list[str]]:
    """The authorisation that names this medium, and why others that name it do not count."""
    reasons = []
    for statement in context.statements.of("authorisation"):
        media = statement.document.get("media")
        named = [entry for entry in media if isinstance(entry, dict) and entry.get("item") == item["id"]] if isinstance(media, list) else []
        if not named:
            continue
        wrong = _authorisation_faults(statement, named[0], item, context)
        if not wrong:
            return statement, []
        reasons.append(f"{statement.name} does not count: {'; '.join(wrong)}")
    return None, reasons


def _authorisation_faults(statement: Statement, named: dict[str, Any], item: Item, context: Context) -> list[str]:
    wrong = []
    if "expires" not in statement.document:
        wrong.append("it has no expiry")
    elif expired(statement.document, context.now):
        wrong.append(f"it expired at {statement.document['expires']}")
    for name in ("serial", "size"):
        if not item["identity"].get(name):
            wrong.append(f"the plan knows no {name} of it, so nobody can name it")
        elif named.get(name) != item["identity"][name]:
            wrong.append(f"it names {name} {named.get(name)!r}, the plan has {item['identity'].get(name)!r}")
    if named.get("method") != item["wipe"].get("method", "overwrite"):
        wrong.append(f"it names the method {named.get('method')!r}, the plan has {item['wipe'].get('method', 'overwrite')!r}")
    if _own_word(statement, context):
        wrong.append("its signer is the operator of this run")
    if context.plan.dual and statement.signer == context.approver:
        wrong.append("its signer is also the one who approved the plan, a second person is needed")
    return wrong


def _own_word(statement: Statement, context: Context) -> bool:
    """Whether the operator of this run signed it: under dual control nobody opens a gate for himself."""
    return context.plan.dual and statement.signer in (context.operator, context.login)


def held(item_ids: list[str], context: Context) -> list[Statement]:
    """Legal holds that speak of one of these items and were not lifted."""
    gone = lifted(context)
    return [
        statement
        for statement in context.statements.of("hold")
        if not statement.document.get("lifts")
        and statement.sha256 not in gone
        and any(covers(statement.document, item_id) for item_id in item_ids)
    ]


def lifted(context: Context) -> set[Any]:
    """Digests of the holds that somebody else than the operator has lifted."""
    return {s.document.get("lifts") for s in context.statements.of("hold") if not _own_word(s, context)} - {None}


def _destroyed(item: Item, context: Context, vault: str) -> list[Missing]:
    """A package ends when its retention has, no hold stands, and a person other than the operator has signed for this very one."""
    subjects = [item["id"], *(data_set["id"] for data_set in context.plan.of(*DATA_SETS, host=item["host"]))]
    lacks = packages.obstacles(item, vault, context, held(subjects, context), lifted(context))
    return [Missing(item["id"], what, mend) for what, mend in lacks]


def said(step: Step, item: Item, context: Context, vault: str) -> dict[str, Any]:
    """The options of a step on a package that come from people's signed words and are not the task's to choose."""
    if step.value == "sealed":
        subjects = [item["id"], *(data_set["id"] for data_set in context.plan.of(*DATA_SETS, host=item["host"]))]
        hold = bool(held(subjects, context) or context.statements.doubtful_holds)
        return {"retention": packages.retention(context.plan, item["host"], hold=hold, now=context.now)}
    if step.value == "forgotten":
        names = {"attestation_sha256": "identity_digest", "keys_attestation_sha256": "keys_identity_digest"}
        words = {name: attestations(item, context, vault, which) for name, which in names.items()}
        return {name: found[0].sha256 for name, found in words.items() if found}
    if (step.aspect, step.value) == ("power", "off"):
        word = waiver("idle", item, context)
        return {"idle_waiver": word.sha256} if word else {}
    if step.value == "destroyed":
        statement, _entry, _reasons = packages.destruction(item, vault, context)
        known = {name: value for name, value in packages.digests(item, context.view, vault).items() if value}
        return {**known, **({"statement_sha256": statement.sha256} if statement else {})}
    return {}


def waiver(gate: str, item: Item, context: Context) -> Statement | None:
    """A signed word to go on without one piece of evidence about this item."""
    for statement in context.statements.of("waiver"):
        document = statement.document
        fits = document.get("gate") == gate and covers(document, item["id"])
        if fits and not expired(document, context.now) and not _own_word(statement, context):
            return statement
    return None


def _grace(item: Item, context: Context, hosts: list[str]) -> list[Missing]:
    seconds = float(context.plan.setting("grace_seconds", 14 * 86400))
    since = [moment(seen.at) for host in hosts if (seen := context.view.get(f"host:{host}", "power")) and seen.at]
    ends = max((start for start in since if start), default=None)
    if ends is not None and context.now >= ends + timedelta(seconds=seconds):
        return []
    if waiver("grace", item, context):
        return []
    until = (ends + timedelta(seconds=seconds)).isoformat() if ends else "unknown, the hosts are not off"
    return [Missing(item["id"], f"the grace period has not ended (until {until})", "wait, or hand in a signed waiver of the gate 'grace'")]


def _wipe(item: Item, context: Context, vault: str) -> list[Missing]:
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


def _wake(item: Item, context: Context, vault: str) -> list[Missing]:
    """A host that was off is on again for the wipe alone: when every medium that it is to wipe may be wiped at once."""
    media = [medium for medium in context.plan.wiped_from_within(item["host"]) if not _disposed(medium, context)]
    if not media:
        return [Missing(item["id"], "no medium of it is to be wiped from within (way: kexec)", "wipe its media at the station")]
    # One that is wiped asks for nothing more: its authorisation may have run out since, and the host still has to end.
    left = [medium for medium in media if context.view.value(medium["id"], "wipe") != "wiped"]
    return list(dict.fromkeys(lack for medium in left for lack in _ready(medium, context)))


def _rescue(item: Item, context: Context, vault: str) -> list[Missing]:
    return _wake(item, context, vault) + _need(item["id"], "wake", "woken", context, WIPE)


def _disposed(medium: Item, context: Context) -> bool:
    """Whether a person has accounted for a medium that could not be wiped: it holds nothing up any more."""
    return bool(orders.excuse(medium, context.statements, (context.operator, context.login) if context.plan.dual else ()))


def _ended(item: Item, context: Context, vault: str) -> list[Missing]:
    """Off for good only when every medium that it was woken for is seen wiped: until then it stays up and can be asked."""
    media = [medium for medium in context.plan.wiped_from_within(item["host"]) if not _disposed(medium, context)]
    return [lack for medium in media for lack in _need(medium["id"], "wipe", "wiped", context, WIPE)]


def _ready(item: Item, context: Context) -> list[Missing]:
    """What must hold before a medium is wiped, whoever does it."""
    plan, view = context.plan, context.view
    data_sets = plan.carried_by(item["id"])
    hosts = plan.media_hosts(item)
    found = [lack for host in hosts for lack in _need(f"host:{host}", "power", "off", context, _again(context))]
    found += [lack for host in hosts for lack in _classified(host, context)]
    found += [lack for data_set in data_sets for lack in _proven(data_set, context)]
    for host in sorted({data_set["host"] for data_set in data_sets}):
        package = plan.items[f"host:{host}"]
        for name in plan.vaults:
            if _never_there(host, name, context):
                continue
            if view.value(package["id"], f"package@{name}") != "forgotten":
                lacks = _forgotten(package, context, name)
                found += lacks or [
                    Missing(
                        package["id"], f"the vault {name} still holds the identity of its package", "ansible-playbook playbooks/wipe.yml"
                    )
                ]
    found += _grace(item, context, hosts)
    for name in context.statements.doubtful_holds:
        what = f"{name} says that it is a legal hold, but cannot be counted: {context.statements.rejected.get(name, '')}"
        found.append(Missing(item["id"], what, "have it signed again, or cleared up by the one whose hold it is"))
    for hold in held([item["id"], *(data_set["id"] for data_set in data_sets)], context):
        found.append(Missing(item["id"], f"legal hold {hold.name} by {hold.signer}", "have it lifted by a signed statement"))
    for name in packages.vanished("hold", [item["id"], *(data_set["id"] for data_set in data_sets)], context, lifted(context)):
        what = f"the legal hold {name}, which the ledger knows, is no longer among the statements"
        found.append(Missing(item["id"], what, "put it back, or have it lifted by a signed statement"))
    statement, reasons = authorisation(item, context)
    if statement is None:
        what = "no authorisation names it" if not reasons else "; ".join(reasons)
        found.append(Missing(item["id"], what, "have it authorised by a second person (docs/operator.md, 'Authorising the wipe')"))
    return found


def _never_there(host: str, vault: str, context: Context) -> bool:
    """Nothing of this host was ever begun on this vault, so it holds no identity: it was away while the host was retired."""
    here = {item["id"] for item in context.plan.items.values() if item["host"] == host}
    return not any(item in here and aspect.endswith(f"@{vault}") for item, aspect in context.view.begun)


def _no_wipe(item: Item, context: Context) -> list[Missing]:
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
            "restore from the vault (docs/operator.md, 'Opening a package')",
        )
        for medium in sorted(media)
        if context.view.wipe_begun(medium)
    ]


def _boot(item: Item, context: Context, vault: str) -> list[Missing]:
    """A host that was never seen off could be at work for somebody."""
    return _need(item["id"], "power", "off", context, _again(context))


def _first(item: Item, context: Context, vault: str) -> list[Missing]:
    """Steps before which nothing but the wave has to be in order."""
    return []


RULES: dict[tuple[str, str], Callable[[Item, Context, str], list[Missing]]] = {
    ("scheduler", "frozen"): _first,
    ("package", "open"): _first,
    ("access", "absent"): _first,
    ("web", "closed"): _web,
    ("session", "ended"): _session,
    ("service", "stopped"): _service,
    ("guest", "stopped"): _guest,
    ("dump", "saved"): _dump,
    ("access", "present"): _package_open,
    ("copy", "stored"): _copy,
    ("proof", "equal"): _proof,
    ("package", "sealed"): _sealed,
    ("shelf", "stored"): _shelf,
    ("package", "forgotten"): _forgotten,
    ("package", "destroyed"): _destroyed,
    ("look", "clear"): _first,
    ("power", "off"): _power,
    ("boot", "rescue"): _boot,
    ("boot", "usual"): _first,
    ("wake", "woken"): _wake,
    ("rescue", "entered"): _rescue,
    ("wipe", "wiped"): _wipe,
    ("wake", "ended"): _ended,
}
