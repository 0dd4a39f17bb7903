# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One step through the class over which every state-changing module's action is written, with a module that is made up."""

from __future__ import annotations

import resource
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.module_utils._recorded import receipt_problem
from ansible_collections.sunset.crm.plugins.plugin_utils.actions import recording
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import RecordedAction, judged
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signatures
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import media
from ansible_collections.sunset.crm.plugins.plugin_utils.power import witness
from ansible_collections.sunset.crm.plugins.plugin_utils.record import estate as estates, ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import predictions
from tests.unit.builders import Book, complete, make_estate, make_plan, plan_data, say, sign

APP, DB, PGDATA = "application:creme", "database:creme", "medium:pgdata"
ITEM = make_plan().items[DB]
Result = dict[str, Any]


def evidence(item: str, verdict: str = "yes", **result: Any) -> Result:
    """What a module returns."""
    told: Result = {"item": item, "before": {"was": 1}, "actions": [], "after": {}, "verdict": verdict, "result": result}
    return {"changed": True, "evidence": told, "evidence_sha256": digest(told), "result": result}


class Bench:
    """An estate with an open run, and an action whose module is a function of the test."""

    def __init__(self, estate: Estate, book: Book) -> None:
        self.estate, self.book = estate, book
        self.calls: list[tuple[Result, bool]] = []
        self.shown: list[str] = []
        self.world: Callable[[Result, bool], Result] = lambda args, check: evidence(args["item"])

    def open(self, phase: str = "shutdown", **changes: Any) -> None:
        run: Result = {"run": "r1", "estate": "acme", "phase": phase, "waves": ["pilot", "main"], "operator": "olga", "since": "now"}
        told = {"vault_disks": {vault: [{"serial": f"OF-{vault}"}] for vault in self.estate.plan().vaults}} if phase == "wipe" else {}
        run |= {"owner": estates.controller(), "plan_sha256": self.estate.plan().sha256, **told, **changes}
        estates.open_run(self.estate, run)

    def do(self, module: str, item: str, host: str, *, check: bool = False, delegate_to: str | None = None, **options: Any) -> Result:
        bench = self

        class Action(RecordedAction):
            name = module  # type: ignore[assignment]

            def perform(self, args: Result, task_vars: Result, check: bool) -> Result:
                bench.calls.append((args, check))
                return bench.world(args, check)

        action = object.__new__(Action)
        action._display = SimpleNamespace(display=self.shown.append)
        action._task = SimpleNamespace(args={"item": item, **options}, check_mode=check, delegate_to=delegate_to)
        done: Result = action._step({"inventory_hostname": host, "sunset_estate_dir": str(self.estate.root)})
        return done

    @property
    def acts(self) -> list[Result]:
        """Arguments of the calls that were allowed to change something."""
        return [args for args, check in self.calls if not check]

    def lines(self, kind: str = "") -> list[Result]:
        found = [entry.record for entry in ledger.read(self.estate.ledger_file)]
        return [record for record in found[len(self.book.entries) :] if kind in ("", record["kind"])]


def make(tmp_path: Path, keys: dict[str, Path], book: Book, data: Result | None = None) -> Bench:
    return Bench(make_estate(tmp_path / "acme", keys, data, book), book)


@pytest.fixture(autouse=True)
def outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, str]:
    """The outside witnesses, by container name; off unless a test says otherwise. And a private folder for predictions."""
    powers: dict[str, str] = {}

    def read(told: Result) -> Result:
        return {"power": powers.get(told["container"], "off"), "kind": "docker", "detail": {}, "at": "now"}

    monkeypatch.setattr(witness, "read", read)
    monkeypatch.setattr(recording, "read_witness", read)
    monkeypatch.setattr(predictions, "_path", lambda: tmp_path / "predicted.jsonl")
    monkeypatch.setattr(media, "own_disks", lambda folder: [{"serial": "OF-control"}])
    return powers


@pytest.fixture
def fresh(tmp_path: Path, keys: dict[str, Path]) -> Bench:
    """The pilot is accepted, nothing of the main wave is done."""
    book = Book(make_plan())
    book.add(kind="accepted", wave="pilot")
    made = make(tmp_path, keys, book)
    made.open()
    return made


@pytest.fixture
def ready(tmp_path: Path, keys: dict[str, Path]) -> Bench:
    """All is off and forgotten; a wipe run is open; bob has authorised the database's medium."""
    made = make(tmp_path, keys, complete(make_plan(), forgotten=True))
    authorise(made, keys["bob"])
    # The power-off in this ledger is of this moment: the grace period has to be waived.
    word = {"kind": "waiver", "estate": "acme", "gate": "grace", "items": ["*"]}
    say(made.estate.statements_folder, "grace", keys["bob"], signatures.WAIVER, word)
    made.open("wipe")
    return made


def authorise(bench: Bench, key: Path, hours: float = 1, **changes: Any) -> None:
    identity = bench.estate.plan().items[PGDATA]["identity"]
    entry = {"item": PGDATA, "serial": identity["serial"], "size": identity["size"], "method": "overwrite", **changes}
    expires = (datetime.now(UTC) + timedelta(hours=hours)).isoformat()
    document = {"kind": "authorisation", "estate": "acme", "media": [entry], "expires": expires}
    say(bench.estate.statements_folder, "wipe", key, signatures.AUTHORISATION, document)


# --- intent, act, outcome ---


def test_intent_act_outcome(fresh: Bench) -> None:
    done = fresh.do("scheduler_state", APP, "app1", state="frozen")
    intent, outcome = fresh.lines()
    assert [args["receipt"]["intent"] for args, _ in fresh.calls] == ["observed", ledger.read(fresh.estate.ledger_file)[-2].hash]
    assert (intent["kind"], outcome["kind"], outcome["status"]) == ("intent", "outcome", "done")
    assert outcome["intent"] == done["ledger"]["intent"]
    assert outcome["evidence"] == done["evidence"]
    assert intent["former"] == {"was": 1}, "what was found is on the disk before anything is changed"
    assert fresh.acts[0]["units"] == ["creme-jobs.service"]
    assert fresh.acts[0]["receipt"]["machine"] == "id-of-app1"


def test_the_receipt_is_good_for_this_module_item_machine_and_mode_only(fresh: Bench) -> None:
    fresh.do("scheduler_state", APP, "app1", state="frozen")
    (seen, _), (act, _) = fresh.calls
    assert receipt_problem(act["receipt"], "scheduler_state", APP, False, "id-of-app1") is None
    for args in (("media_wipe", APP), ("scheduler_state", "application:old")):
        assert receipt_problem(act["receipt"], *args, False, "id-of-app1")
    assert "this is the machine other" in str(receipt_problem(act["receipt"], "scheduler_state", APP, False, "other"))
    assert "without an id" in str(receipt_problem(act["receipt"], "scheduler_state", APP, False, ""))
    assert "check mode" in str(receipt_problem(seen["receipt"], "scheduler_state", APP, False, "id-of-app1"))
    assert receipt_problem({**seen["receipt"], "check": False}, "scheduler_state", APP, False, "id-of-app1")


def test_a_long_step_is_told_of_and_called_again_under_the_same_intent(fresh: Bench) -> None:
    visits: list[Result] = []

    def slow(args: Result, check: bool) -> Result:
        visit = args["receipt"].get("visit", {})
        visits.append(visit)
        if check or visit.get("waited"):
            return evidence(args["item"])
        return {"changed": True, "pending": {"progress": {"phase": "dump"}, "visit": {"waited": 20, "carried": {"before": {"was": 1}}}}}

    fresh.world = slow
    fresh.do("scheduler_state", APP, "app1", state="frozen")
    assert [one for one in visits if one] == [
        {"patience": recording.FIRST_PATIENCE},
        {"waited": 20, "carried": {"before": {"was": 1}}, "patience": recording.PATIENCE},
    ]
    assert [line["kind"] for line in fresh.lines()] == ["intent", "outcome"]
    assert fresh.shown == ["app1: application:creme: dump"]


def test_a_second_time_nothing_is_written(fresh: Bench) -> None:
    fresh.do("scheduler_state", APP, "app1", state="frozen")
    before = fresh.estate.ledger_file.read_bytes()
    fresh.world = lambda args, check: {**evidence(args["item"]), "changed": False}
    assert fresh.do("scheduler_state", APP, "app1", state="frozen")["changed"] is False
    assert fresh.estate.ledger_file.read_bytes() == before


def test_what_was_done_by_hand_before_is_recorded_as_seen(fresh: Bench) -> None:
    fresh.world = lambda args, check: {**evidence(args["item"]), "changed": False}
    assert fresh.do("scheduler_state", APP, "app1", state="frozen")["changed"] is False
    assert [record["kind"] for record in fresh.lines()] == ["intent", "outcome"]
    assert fresh.acts == []


def test_check_mode_decides_the_same_and_writes_nothing(fresh: Bench) -> None:
    before = fresh.estate.ledger_file.read_bytes()
    assert fresh.do("scheduler_state", APP, "app1", state="frozen", check=True)["changed"] is True
    assert fresh.do("web_closed", APP, "app1", state="closed", check=True)["changed"] is True
    with pytest.raises(Refusal, match="not seen to be ended"):
        fresh.do("service_state", APP, "app1", state="stopped", check=True)
    assert fresh.estate.ledger_file.read_bytes() == before
    assert fresh.acts == []
    with pytest.raises(Refusal, match="not seen to be frozen"):
        fresh.do("web_closed", APP, "app1", state="closed")


@pytest.mark.parametrize("error", [ConnectionError("cut"), KeyboardInterrupt(), SystemExit(1)])
def test_an_act_without_an_end_is_unknown_and_the_error_goes_on(fresh: Bench, error: BaseException) -> None:
    def cut(args: Result, check: bool) -> Result:
        if check:
            return evidence(args["item"])
        raise error

    fresh.world = cut
    with pytest.raises(type(error)):
        fresh.do("scheduler_state", APP, "app1", state="frozen")
    assert [record.get("status") for record in fresh.lines()] == [None, "unknown"]


@pytest.mark.parametrize(
    ("done", "status"),
    [
        ({"changed": True}, "unknown"),
        ({"failed": True, "msg": "no", "changed": True}, "unknown"),
        ({**evidence(DB), "evidence_sha256": "0" * 64}, "unknown"),
        ({**evidence(DB), "evidence": {**evidence(DB)["evidence"], "before": {"port": "********"}}}, "unknown"),
        ({**evidence(DB), "failed": True, "msg": "no"}, "failed"),
        (evidence(DB, "no"), "failed"),
        (evidence(DB, "unknown"), "unknown"),
        (evidence(DB, ""), "unknown"),
        (evidence("database:old"), "unknown"),
        (evidence(DB, source={"identity": {"system_identifier": "another", "oid": 16384}}), "failed"),
        (evidence(DB, source={"identity": ITEM["identity"]}), "done"),
        (evidence(DB, source={"identity": {"oid": None}}), "done"),
        (evidence(DB), "done"),
    ],
)
def test_only_positive_evidence_about_this_item_is_done(done: Result, status: str) -> None:
    assert judged(done, ITEM)["status"] == status


def test_a_result_without_evidence_fails_the_task(fresh: Bench) -> None:
    fresh.world = lambda args, check: evidence(args["item"]) if check else {"changed": True}
    assert fresh.do("scheduler_state", APP, "app1", state="frozen")["failed"] is True
    assert fresh.lines("outcome")[0]["status"] == "unknown"


# --- refusals ---


def refused(bench: Bench, words: str, *args: str, **options: Any) -> str:
    """The step is refused with these words, on record, and no module was called."""
    before = len(bench.lines("refused"))
    with pytest.raises(Refusal) as refusal:
        bench.do(*args, **options)
    assert words in str(refusal.value)
    assert bench.acts == []
    records = bench.lines("refused")[before:]
    assert len(records) == 1
    assert records[0]["missing"]
    return str(records[0])


def test_a_closed_gate_names_what_is_missing_and_records_it(fresh: Bench) -> None:
    record = refused(fresh, "application:creme: not seen to be frozen", "web_closed", APP, "app1", state="closed")
    assert "not seen to be frozen (scheduler)" in record


@pytest.mark.parametrize(
    ("words", "args", "options"),
    [
        ("is to be handled on app1, this task runs on db1", ("scheduler_state", APP, "db1"), {"state": "frozen"}),
        ("was delegated to db1", ("scheduler_state", APP, "app1"), {"state": "frozen", "delegate_to": "db1"}),
        ("the plan has no item 'application:x'", ("scheduler_state", "application:x", "app1"), {"state": "frozen"}),
        ("is no step for database:creme", ("media_wipe", DB, "station1"), {}),
        ("is no step for medium:pgdata", ("filestore_archive", PGDATA, "db1"), {}),
        ("is no vault of the plan", ("vault_prove", DB, "db1"), {}),
        ("is no step that can be gated", ("scheduler_state", APP, "app1"), {"state": "gone"}),
        ("the task sets units to ['nothing.service']", ("scheduler_state", APP, "app1"), {"state": "frozen", "units": ["nothing.service"]}),
        ("this run is a shutdown", ("scheduler_state", APP, "app1"), {"state": "restored"}),
        ("this run is a shutdown", ("media_wipe", PGDATA, "station1"), {}),
    ],
)
def test_a_task_that_is_not_the_plans_is_refused(fresh: Bench, words: str, args: tuple[str, ...], options: Result) -> None:
    if options.get("state") == "restored":
        fresh.do("scheduler_state", APP, "app1", state="frozen")
        fresh.calls.clear()
    refused(fresh, words, *args, **options)


def test_what_a_task_was_given_never_enters_the_ledger(fresh: Bench) -> None:
    refused(fresh, "hunter2", "scheduler_state", APP, "app1", state="frozen", units=["hunter2"])
    assert b"hunter2" not in fresh.estate.ledger_file.read_bytes()


def test_without_a_run_nothing_acts(fresh: Bench) -> None:
    estates.close_run(fresh.estate)
    with pytest.raises(Refusal, match="no run is open"):
        fresh.do("scheduler_state", APP, "app1", state="frozen")
    assert fresh.calls == []


def test_a_plan_that_was_changed_under_the_run_stops_it(fresh: Bench, keys: dict[str, Path]) -> None:
    fresh.estate.plan_file.write_bytes(fresh.estate.plan_file.read_bytes() + b" ")
    with pytest.raises(Refusal, match="changed while this run was open"):
        fresh.do("scheduler_state", APP, "app1", state="frozen")
    sign(fresh.estate.plan_file, keys["alice"], signatures.APPROVAL)
    with pytest.raises(Refusal, match="changed while this run was open"):
        fresh.do("scheduler_state", APP, "app1", state="frozen")
    fresh.open()
    assert fresh.do("scheduler_state", APP, "app1", state="frozen")["changed"]


def test_a_run_that_was_opened_in_check_mode_lets_no_task_act(fresh: Bench) -> None:
    fresh.open(check=True)
    with pytest.raises(Refusal, match="opened in check mode"):
        fresh.do("scheduler_state", APP, "app1", state="frozen")
    assert fresh.do("scheduler_state", APP, "app1", state="frozen", check=True)["changed"]


def test_a_ledger_that_cannot_be_written_stops_the_step_before_it_starts(fresh: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    true = ledger.append

    def short(path: Path, record: Result, **more: Any) -> ledger.Entry:
        old = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, old[1]))
        try:
            return true(path, record, **more)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)

    monkeypatch.setattr(ledger, "append", short)
    with pytest.raises(Refusal, match="could not be written"):
        fresh.do("scheduler_state", APP, "app1", state="frozen")
    assert fresh.acts == []
    assert fresh.lines() == []


def test_an_outcome_that_cannot_be_written_fails_with_the_evidence_in_hand(fresh: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    true = ledger.append

    def full(path: Path, record: Result, **more: Any) -> ledger.Entry:
        if record["kind"] == "outcome":
            raise Refusal("the disk is full")
        return true(path, record, **more)

    monkeypatch.setattr(ledger, "append", full)
    done = fresh.do("scheduler_state", APP, "app1", state="frozen")
    assert done["failed"]
    assert "the disk is full" in done["msg"]
    assert done["evidence"]["verdict"] == "yes"


def test_one_act_at_a_time_on_an_item(fresh: Bench) -> None:
    with fresh.estate.item_lock(APP):
        refused(fresh, "another task is at work on application:creme", "scheduler_state", APP, "app1", state="frozen")


# --- hosts that are off ---


def test_a_host_that_is_off_is_answered_for_by_ledger_and_witness(ready: Bench, outside: dict[str, str]) -> None:
    ready.open("shutdown")
    done = ready.do("scheduler_state", APP, "app1", state="frozen")
    assert done["changed"] is False
    assert "app1 is off, says docker" in done["msg"]
    assert ready.calls == []
    for power in ("on", "unknown"):
        outside["app1"] = power
        with pytest.raises(Refusal, match=f"now says {power}"):
            ready.do("scheduler_state", APP, "app1", state="frozen")


def test_a_step_that_was_never_seen_is_not_made_up_for_a_host_that_is_off(tmp_path: Path, keys: dict[str, Path]) -> None:
    bench = make(tmp_path, keys, complete(make_plan()).without((APP, "session")))
    bench.open()
    with pytest.raises(Refusal, match="db1 is off since .* session ended was never seen"):
        bench.do("session_end", APP, "db1")


def test_a_sealed_package_needs_no_look(ready: Bench) -> None:
    ready.open("shutdown")
    for module in ("vault_pull", "vault_prove"):
        assert ready.do(module, DB, "vault1")["changed"] is False
    assert ready.do("vault_access", "host:db1", "db1", state="present", vault="vault1")["changed"] is False
    assert ready.calls == []


def test_what_was_never_changed_is_not_put_back(fresh: Bench) -> None:
    fresh.open("resume")
    assert "was never changed" in fresh.do("scheduler_state", APP, "app1", state="restored")["msg"]
    assert fresh.calls == []


def test_a_resume_is_given_what_was_found_first(fresh: Bench) -> None:
    fresh.do("scheduler_state", APP, "app1", state="frozen")
    fresh.open("resume")
    fresh.do("scheduler_state", APP, "app1", state="restored")
    assert fresh.acts[-1]["former"] == {"was": 1}
    assert "was never changed" in fresh.do("scheduler_state", APP, "app1", state="restored")["msg"]


# --- the wipe ---


def test_a_wipe_is_given_key_and_authorisation_by_the_action_alone(ready: Bench) -> None:
    done = ready.do("media_wipe", PGDATA, "station1")
    assert done["changed"] is True
    act = ready.acts[0]
    assert len(bytes.fromhex(act["stream_key"])) == 32
    assert len(act["authorisation_sha256"]) == 64
    assert act["identity"] == ready.estate.plan().items[PGDATA]["identity"]
    assert act["stream_key"].encode() not in ready.estate.ledger_file.read_bytes()
    assert (ready.estate.root / "ledger.head.json.sig").exists()


def test_a_wipe_is_given_the_disks_that_it_must_not_be_and_a_task_can_only_add_to_them(ready: Bench) -> None:
    ready.do("media_wipe", PGDATA, "station1", protected=[{"serial": "MINE"}])
    assert [disk["serial"] for disk in ready.acts[0]["protected"]] == ["MINE", "OF-control", "OF-vault1", "OF-vault2"]
    assert ready.acts[0]["policy"] == {"asked": "clear"}


@pytest.mark.parametrize("told", [{}, {"vault_disks": {"vault1": []}}, {"vault_disks": {"vault1": [], "vault2": None}}])
def test_a_vault_that_does_not_tell_its_disks_stops_the_wipe_unless_it_is_waived(ready: Bench, keys: dict[str, Path], told: Result) -> None:
    ready.open("wipe", **{"vault_disks": {}, **told})
    refused(ready, "the vault vault2 did not tell which disks it uses", "media_wipe", PGDATA, "station1")
    word = {"kind": "waiver", "estate": "acme", "gate": "vault-disks", "items": [PGDATA]}
    say(ready.estate.statements_folder, "disks", keys["bob"], signatures.WAIVER, word)
    assert ready.do("media_wipe", PGDATA, "station1")["changed"]
    assert {"serial": "OF-control"} in ready.acts[0]["protected"]


def test_a_part_that_the_drive_hides_is_left_by_a_signed_word_alone(ready: Bench, keys: dict[str, Path]) -> None:
    with pytest.raises(Refusal, match="the plan says nothing of it"):
        ready.do("media_wipe", PGDATA, "station1", hidden_waiver="a" * 64)
    word = {"kind": "waiver", "estate": "acme", "gate": "hidden", "items": [PGDATA]}
    say(ready.estate.statements_folder, "hidden", keys["bob"], signatures.WAIVER, word)
    ready.do("media_wipe", PGDATA, "station1")
    assert len(ready.acts[0]["hidden_waiver"]) == 64


@pytest.mark.parametrize("power", ["on", "unknown"])
def test_a_host_that_somebody_switched_on_keeps_its_media(ready: Bench, outside: dict[str, str], power: str) -> None:
    outside["db1"] = power
    refused(ready, f"now says {power}", "media_wipe", PGDATA, "station1")


def test_other_media_are_not_covered(ready: Bench) -> None:
    refused(ready, "no authorisation names it", "media_wipe", "medium:uploads", "station1")


@pytest.mark.parametrize("who", ["alice", "operator"])
def test_the_approver_and_a_stranger_cannot_authorise(ready: Bench, keys: dict[str, Path], who: str) -> None:
    authorise(ready, keys[who])
    refused(ready, "not counted" if who == "operator" else "a second person is needed", "media_wipe", PGDATA, "station1")


def test_one_changed_bit_is_enough(ready: Bench) -> None:
    path = ready.estate.statements_folder / "wipe.json"
    path.write_bytes(path.read_bytes().replace(b'"overwrite"', b'"overwritd"'))
    refused(ready, "wipe.json: the signature by bob does not hold", "media_wipe", PGDATA, "station1")


def test_an_approval_that_is_gone_stops_everything(ready: Bench) -> None:
    ready.estate.approval_file.unlink()
    with pytest.raises(Refusal, match="is not approved"):
        ready.do("media_wipe", PGDATA, "station1")
    assert ready.calls == []


def test_a_vault_that_cannot_take_the_ledger_stops_the_wipe(ready: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from ansible_collections.sunset.crm.plugins.plugin_utils.record import copies

    monkeypatch.setattr(copies, "command", lambda receiver: ["false"])
    ready.open("wipe", receivers=[{"vault": "vault1"}])
    refused(ready, "the ledger could not be copied to the vault", "media_wipe", PGDATA, "station1")


def test_a_wiped_medium_is_looked_at_again_without_a_new_word(ready: Bench, keys: dict[str, Path]) -> None:
    ready.do("media_wipe", PGDATA, "station1")
    key, count = ready.acts[0]["stream_key"], len(ready.lines())
    authorise(ready, keys["bob"], hours=-1)
    ready.world = lambda args, check: {**evidence(args["item"]), "changed": False} if args.get("stream_key") == key else {"failed": True}
    assert ready.do("media_wipe", PGDATA, "station1")["changed"] is False
    assert len(ready.acts) == 1
    assert len(ready.lines()) == count
    ready.world = lambda args, check: evidence(args["item"])
    with pytest.raises(Refusal, match="it expired at"):
        ready.do("media_wipe", PGDATA, "station1")
    assert len(ready.acts) == 1, "a medium that does not hold its stream any more is not wiped again without a word"


def running(item: str) -> Result:
    done = evidence(item)
    inner = {**done["evidence"], "verdict": "unknown", "result": {"state": "running"}}
    return {**done, "evidence": inner, "evidence_sha256": digest(inner), "result": inner["result"]}


def test_a_wipe_that_was_only_begun_is_neither_a_failure_nor_done(ready: Bench) -> None:
    ready.world = lambda args, check: running(args["item"])
    begun = ready.do("media_wipe", PGDATA, "station1", wait=0)
    assert not begun.get("failed")
    assert ready.lines()[-1]["status"] == "unknown"
    assert ready.do("media_wipe", PGDATA, "station1", wait=30)["failed"], "who wanted to wait has not seen its end"
    ready.world = lambda args, check: evidence(args["item"])
    assert not ready.do("media_wipe", PGDATA, "station1").get("failed")
    assert ready.lines()[-1]["status"] == "done"


def test_an_interrupted_wipe_closes_the_way_back(ready: Bench) -> None:
    def killed(args: Result, check: bool) -> Result:
        raise SystemExit(9)

    ready.world = killed
    with pytest.raises(SystemExit):
        ready.do("media_wipe", PGDATA, "station1")
    ready.open("resume")
    with pytest.raises(Refusal, match="there is no way back"):
        ready.do("host_power", "host:db1", "db1", state="on")


def test_a_plan_without_a_machine_id_binds_no_machine(tmp_path: Path, keys: dict[str, Path]) -> None:
    data = plan_data()
    for item in data["items"]:
        item["identity"].pop("machine_id", None)
    bench = make(tmp_path, keys, Book(make_plan(data)), data)
    bench.open()
    bench.do("scheduler_state", "application:old", "old1", state="frozen")
    assert bench.acts[0]["receipt"]["machine"] == ""
