# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines that are not handled: refused by name with what to do, or taken in by a signed attestation, which the report names."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._survey import foreign as survey_foreign
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.guests import foreign, reading as guest_reading
from ansible_collections.sunset.crm.plugins.plugin_utils.people import signed, statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import plan
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing, report
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import gates, steps
from tests.unit.builders import NOW, Book, allowed_signers, complete, context, make_keys, make_plan, plan_bytes, plan_data, said

SCRIPT = Path(__file__).resolve().parents[5] / "scripts" / "statement"
NAMED = ("kubernetes", "incus", "lxd", "lxc", "xen", "vmware", "virtualbox")
BELOW = ("vmware", "hyperv", "xen", "virtualbox")
OFF = steps.find("host_power", {"state": "off"})
WIPE = steps.find("media_wipe", {})


def book(*findings: dict[str, Any], host: str = "db1") -> Book:
    data = plan_data(findings=[{**found, "host": host, "classified": None} for found in findings])
    return complete(make_plan(data), forgotten=True)


def word(about: str, signer: str = "carol", **changes: Any) -> statements.Statement:
    document = {
        "about": about, "items": ["host:db1"], "guests": ["web-1", "web-2"], "seen": "kubectl get pods shows none",
        "at": "2026-11-20T10:00Z", "expires": (NOW + timedelta(days=1)).isoformat(), **changes,
    }  # fmt: skip
    return said("attestation", signer, **{name: value for name, value in document.items() if value is not None})


def lacks(one: Book, *words: statements.Statement, step: steps.Step = OFF, item: str = "host:db1", **changes: Any) -> list[str]:
    given = {"phase": "wipe" if step is WIPE else "shutdown", **changes}
    return [str(lack) for lack in gates.missing(step, one.plan.items[item], context(one, words, **given)) if "authoris" not in str(lack)]


@pytest.mark.parametrize("name", NAMED)
def test_the_gate_refuses_an_engine_by_name_with_what_to_do_and_lets_it_pass_on_a_signed_word(name: str) -> None:
    one = book(survey_foreign.finding(name, ["a sign"]))
    found = lacks(one)
    assert len(found) == 1 and survey_foreign.TITLES[name] in found[0] and survey_foreign.INSTEAD[name] in found[0]
    assert f"--about engine:{name}" in found[0]
    assert lacks(one, word(f"engine:{name}")) == []
    # The wipe of its disks asks for the same word.
    assert any(survey_foreign.TITLES[name] in lack for lack in lacks(one, step=WIPE, item="medium:pgdata"))
    assert lacks(one, word(f"engine:{name}"), step=WIPE, item="medium:pgdata") == []
    # Another host is not concerned.
    assert lacks(one, item="host:app1") == []


@pytest.mark.parametrize("name", BELOW)
def test_the_guest_of_a_hypervisor_that_is_not_handled_may_go_off_and_is_not_wiped_without_a_word(name: str) -> None:
    one = book(survey_foreign.finding_below(name))
    assert lacks(one) == []
    found = lacks(one, step=WIPE, item="medium:pgdata")
    assert len(found) == 1 and f"a guest of {survey_foreign.TITLES[name]}" in found[0] and "snapshots" in found[0]
    assert lacks(one, word(f"hypervisor:{name}", guests=[]), step=WIPE, item="medium:pgdata") == []
    assert lacks(one, word(f"engine:{name}"), step=WIPE, item="medium:pgdata") != []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"items": ["host:app1"]}, "no attestation says"),
        ({"about": "engine:lxd"}, "no attestation says"),
        ({"expires": (NOW - timedelta(days=1)).isoformat()}, "it expired"),
        ({"expires": None}, "it has no expiry"),
        ({"guests": None}, "it does not list the guests"),
        ({"guests": "web-1"}, "it does not list the guests"),
        ({"seen": None}, "how it was seen"),
        ({"at": ""}, "does not say when"),
        ({"signer": "olga"}, "its signer is the operator"),
    ],
)
def test_a_word_that_does_not_count(changes: dict[str, Any], why: str) -> None:
    about = changes.pop("about", "engine:kubernetes")
    found = lacks(book(survey_foreign.finding("kubernetes", ["kubelet"])), word(about, **changes))
    assert len(found) == 1 and why in found[0], found


def test_a_classification_does_not_settle_it_and_its_absence_does_not_stop_the_survey() -> None:
    found = {**survey_foreign.finding("lxd", ["lxd"]), "host": "db1", "classified": {"by": "alice", "as": "irrelevant"}}
    one = complete(make_plan(plan_data(findings=[found])))
    assert any("LXD" in lack for lack in lacks(one))
    assert book(survey_foreign.finding("lxd", ["lxd"])).plan.unclassified() == []


def test_a_custodians_word_about_a_package_is_none_about_an_engine() -> None:
    one = book(survey_foreign.finding("kubernetes", ["kubelet"]))
    assert lacks(one, said("attestation", "carol", about="package:db1", identity_digest="x")) != []


@pytest.mark.parametrize("backend", ["vmware", "ESXi", "hyper-v", "xen", "kubernetes", "incus", "lxd"])
def test_a_set_of_guests_of_such_an_engine_is_refused_by_name(backend: str) -> None:
    with pytest.raises(Refusal, match="is not driven by this collection") as caught:
        guest_reading.read(None, [{"kind": "guest", "name": "crm", "backend": backend, "guests": ["a"], "staging": "/s"}])
    name = survey_foreign.known(backend)
    assert name and survey_foreign.TITLES[name] in str(caught.value) and survey_foreign.INSTEAD[name] in str(caught.value)


def test_the_evidence_and_the_report_say_by_whose_word() -> None:
    one = book(survey_foreign.finding("kubernetes", ["kubelet"]))
    given = word("engine:kubernetes")
    step, item = OFF, one.plan.items["host:db1"]
    told = signed.said(step, item, context(one, [given]), "")
    assert told == {
        "attested": {
            "engine:kubernetes": {"signer": "carol", "sha256": given.sha256, "guests": ["web-1", "web-2"], "at": "2026-11-20T10:00Z"}
        }
    }
    one.step("host:db1", "host_power", "off", result={"proof": "redfish", **told})
    row = closing.row(item, one.plan, one.view(), "shutdown")
    assert row.finished and "Kubernetes: 2 guests dark by the signed word of carol, not seen" in row.done
    words = statements.Statements([given], {})
    facts = report.facts(one.plan, one.view(), one.entries, words, "alice", [], [], "now")
    assert facts["findings"][0]["attested"] == "carol, at the power-off"
    page = report.page(facts)
    assert "attested by carol, at the power-off" in page and "nobody has attested" not in page
    bare = book(survey_foreign.finding("kubernetes", ["kubelet"]))
    assert "nobody has attested" in report.page(
        report.facts(bare.plan, bare.view(), bare.entries, statements.Statements([], {}), "alice", [], [], "now")
    )


def test_a_person_signs_with_the_script_and_the_gate_reads_it(tmp_path: Path) -> None:
    keys = make_keys(tmp_path)
    data = plan_data(
        findings=[{**survey_foreign.finding("kubernetes", ["kubelet"]), "host": "db1", "classified": None}],
        allowed_signers=allowed_signers({name: keys[name] for name in ("alice", "carol")}),
    )
    (tmp_path / "plan.json").write_bytes(plan_bytes(data))
    argv = [
        sys.executable, str(SCRIPT), "attest", "--key", str(keys["carol"]), "--yes", "acme", "--about", "engine:kubernetes",
        "--guest", "web-1", "--seen", "kubectl get pods shows none, kubelet is disabled", "--at", "2026-11-20T10:00Z", "--days", "30",
        "--reason", "node drained", "--out", str(tmp_path / "words"), str(tmp_path / "plan.json"),
    ]  # fmt: skip
    strange = subprocess.run([*argv, "host:app1"], capture_output=True, check=False)
    assert strange.returncode != 0 and b"engine:kubernetes on host:db1" in strange.stderr
    subprocess.run([*argv, "host:db1"], capture_output=True, check=True)
    current = plan.load(tmp_path / "plan.json")
    words = statements.read(tmp_path / "words", current)
    assert words.rejected == {} and [one.signer for one in words.valid] == ["carol"]
    one = complete(current)
    # The script dates it by the clock, the gate by the time of the run.
    later = context(one, words.valid, now=NOW)
    assert foreign.obstacles("db1", later, (foreign.ENGINE,)) == []
