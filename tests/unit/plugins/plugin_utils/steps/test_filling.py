# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a step is about comes from the plan and the ledger; a task that says something else is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import runs
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import filling, steps
from tests.unit.builders import Book, complete, guest, host, item_of, make_plan, plan_data, virtual_medium
from tests.unit.documented import documentation

SHELF = {"kind": "s3", "endpoint": "https://s3.example.org", "bucket": "archive"}
PLAN = make_plan(plan_data(vaults={"vault1": {"root": "/srv/vault", "shelf": SHELF}, "vault2": {"root": "/srv/vault"}}))
BOOK = complete(PLAN)
MODULES = Path(__file__).parents[5] / "plugins/modules"


def filled(item: str, module: str, state: str | None = None, vault: str = "vault1", book: Book = BOOK) -> dict[str, Any]:
    return filling.options(steps.find(module, {"state": state}), book.plan.items[item], book.plan, book.view(), vault)


WIPE = {
    "device": "/dev/loop7",
    "identity": PLAN.items["medium:pgdata"]["identity"],
    "technique": "overwrite-keyed",
    "verify": "full",
    "final": "stream",
    "policy": {"asked": "clear"},
}


@pytest.mark.parametrize(
    ("item", "module", "expected"),
    [
        ("application:creme", "scheduler_state", {"units": ["creme-jobs.service"], "cron_files": ["/etc/cron.d/creme"]}),
        ("application:creme", "session_end", {"engine": "postgresql", "database": "creme", "table": "django_session", "port": 5432}),
        ("application:creme", "service_state", {"services": [{"unit": "creme-web.service", "ports": [8000]}]}),
        ("database:creme", "service_state", {"services": [{"unit": "postgresql@15-main.service", "ports": [5432]}]}),
        ("filestore:uploads", "filestore_archive", {"path": "/srv/uploads", "staging": "/srv/uploads/.sunset-staging"}),
        (
            "host:db1",
            "host_power",
            {
                "witness": {"kind": "docker", "container": "db1"},
                "machine_id": "id-of-db1",
                "board": {},
                "excused": [],
                "ports": [5432],
            },
        ),
        ("medium:pgdata", "media_wipe", WIPE),
    ],
)
def test_the_plan_says_what_a_step_is_about(item: str, module: str, expected: dict[str, Any]) -> None:
    states = {"scheduler_state": "frozen", "service_state": "stopped", "host_power": "off"}
    assert filled(item, module, states.get(module)) == expected


def test_the_station_may_see_the_device_under_another_name() -> None:
    data = plan_data()
    item_of(data, "medium:pgdata")["wipe"]["device"] = "/dev/sdx"
    assert filled("medium:pgdata", "media_wipe", book=complete(make_plan(data)))["device"] == "/dev/sdx"


def test_the_ledger_says_what_is_copied_and_proven() -> None:
    artefacts = [{"name": "a", "role": "dump", "sha256": "ab" * 32}]
    assert filled("database:creme", "vault_pull")["artefacts"] == artefacts
    prove = filled("database:creme", "vault_prove")
    assert (prove["artefacts"], prove["proof"], prove["package"]) == (artefacts, "postgresql", "db1")
    assert filled("container:shop", "vault_prove")["proof"] == "image"
    assert filled("filestore:uploads", "vault_prove")["proof"] == "filestore"
    access = filled("host:dock1", "vault_access", "present")
    assert access["directories"] == ["/srv/shop-data/.sunset-staging", "/srv/shop/.sunset-staging"]


def test_a_step_back_is_given_what_the_ledger_recorded_as_found() -> None:
    assert filled("application:creme", "scheduler_state", "restored")["former"] == {"units": {}}
    assert "former" not in filled("application:creme", "scheduler_state", "frozen")


@pytest.mark.parametrize(
    ("item", "module", "given"),
    [
        ("database:creme", "database_dump", {"database": "template1"}),
        ("database:creme", "database_dump", {"socket": "/tmp/another"}),
        ("filestore:uploads", "filestore_archive", {"path": "/srv/empty"}),
        ("medium:pgdata", "media_wipe", {"identity": {"serial": "other"}}),
        ("medium:pgdata", "media_wipe", {"device": "/dev/sda"}),
        ("medium:pgdata", "media_wipe", {"technique": "nvme-format-ses1"}),
        ("medium:pgdata", "media_wipe", {"verify": "sample"}),
        ("medium:pgdata", "media_wipe", {"final": "zeros", "policy": {"asked": "clear"}}),
        ("medium:pgdata", "media_wipe", {"stream_key": "00" * 32}),
        ("medium:pgdata", "media_wipe", {"identity_waiver": "ab" * 32}),
        ("medium:pgdata", "media_wipe", {"authorisation_sha256": "ab" * 32}),
        ("medium:pgdata", "media_wipe", {"state_directory": "/tmp/forged"}),
        ("medium:pgdata", "media_wipe", {"receipt": {"seal": "x"}}),
        ("host:db1", "host_power", {"witness": {"kind": "silence", "address": "192.0.2.1"}}),
        ("host:db1", "host_power", {"silence_seconds": 0}),
        ("host:db1", "vault_package", {"root": "/tmp/elsewhere"}),
        ("host:db1", "vault_package", {"live_dir": "/tmp/empty"}),
        ("host:db1", "vault_package", {"custodians": []}),
        ("host:db1", "vault_package", {"attestation_sha256": "ab" * 32}),
        ("database:creme", "vault_prove", {"artefacts": []}),
        ("database:creme", "vault_prove", {"source": {"tables": 1}}),
        ("container:shop", "docker_guests", {"label": "stack=empty"}),
        ("container:shop", "docker_guests", {"containers": []}),
        ("container:shop", "docker_guests", {"socket": "/tmp/docker.sock"}),
    ],
)
def test_a_task_that_says_something_else_is_refused(item: str, module: str, given: dict[str, Any]) -> None:
    states = {"host_power": "off", "vault_package": "open", "docker_guests": "stopped"}
    with pytest.raises(Refusal, match=f"the task sets {next(iter(given))} to"):
        filling.merged(given, filled(item, module, states.get(module)), module)


def test_a_task_may_repeat_the_plan_and_choose_what_is_its_own() -> None:
    given = {"item": "medium:pgdata", "rate": 5, "device": "/dev/loop7", "identity": None}
    merged = filling.merged(given, filled("medium:pgdata", "media_wipe"), "media_wipe")
    assert merged == {"item": "medium:pgdata", "rate": 5, **WIPE}


@pytest.mark.parametrize(
    ("declared", "technique", "verify"),
    [
        ({}, "overwrite-keyed", "full"),
        ({"method": "overwrite", "verify": "sample"}, "overwrite-keyed", "sample"),
        ({"method": "nvme-sanitize-block"}, "nvme-sanitize-block", "sample"),
        ({"method": "nvme-format-ses1", "verify": "full"}, "nvme-format-ses1", "full"),
    ],
)
def test_the_way_of_wiping_is_the_plans(declared: dict[str, str], technique: str, verify: str) -> None:
    data = plan_data()
    item_of(data, "medium:pgdata")["wipe"].update(declared)
    given = filled("medium:pgdata", "media_wipe", book=complete(make_plan(data)))
    assert (given["technique"], given["verify"]) == (technique, verify)


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("method", "shred", "is no technique"),
        ("verify", "quick", "expected full or sample"),
        ("final", "ones", "expected stream or zeros"),
    ],
)
def test_a_way_that_cannot_be_gone_is_refused_by_name(name: str, value: str, word: str) -> None:
    data = plan_data()
    item_of(data, "medium:pgdata")["wipe"][name] = value
    with pytest.raises(Refusal, match=word):
        filled("medium:pgdata", "media_wipe", book=complete(make_plan(data)))


def test_a_way_to_reach_a_thing_comes_from_its_declaration() -> None:
    data = plan_data()
    item_of(data, "database:creme")["expects"]["socket"] = "/run/pg"
    assert filled("database:creme", "database_dump", book=complete(make_plan(data)))["socket"] == "/run/pg"


@pytest.mark.parametrize(
    ("engine", "declared", "work"),
    [
        ("sqlite", {"database": "/srv/crm.sqlite3"}, ["database"]),
        ("redis", {"database": "all", "socket": "/run/r", "config": "/etc/r.conf", "unit": "redis-server.service", "port": 6379},
         ["database", "database_service"]),
    ],
)  # fmt: skip
def test_an_engine_without_a_server_and_one_that_is_no_sql(engine: str, declared: dict[str, Any], work: list[str]) -> None:
    data = plan_data()
    expects = item_of(data, "database:creme")["expects"]
    expects.pop("unit")
    expects.pop("port")
    expects.update(declared, engine=engine)
    book = complete(make_plan(data))
    options = filled("database:creme", "database_dump", book=book)
    assert {name: options.get(name) for name in declared if name != "unit"} == {n: v for n, v in declared.items() if n != "unit"}
    assert filled("database:creme", "vault_prove", book=book)["proof"] == engine
    told = {(m["host"], m["place"]): m["items"] for m in runs.members(book.plan, ["main"])}["db1", "estate"]
    assert [name for name in ("database", "database_service") if "database:creme" in told.get(name, [])] == work
    if "unit" in declared:
        stop = filled("database:creme", "service_state", "stopped", book=book)
        assert stop == {"services": [{"unit": "redis-server.service", "ports": [6379]}]}


def test_a_side_that_is_not_declared_is_said() -> None:
    data = plan_data()
    item_of(data, "application:creme")["expects"].pop("web")
    with pytest.raises(Refusal, match="declares no 'web' for application:creme"):
        filled("application:creme", "web_closed", "closed", book=complete(make_plan(data)))


@pytest.mark.parametrize("module", sorted({step.module for step in steps.STEPS}))
def test_every_option_is_the_tasks_or_the_plans(module: str) -> None:
    """No option of a recorded module is left to chance: filled here, taken from the declaration, or free on purpose."""
    data = plan_data(vaults=PLAN.data["vaults"])
    data["items"] += [guest("libvirt", "db1", "main", ["a"]), guest("proxmox", "db1", "main", ["b"], backend="proxmox")]
    data["items"][-1]["identity"]["hypervisor"] = {"cluster": "c", "nodes": ["db1"]}
    if module == "volume_wipe":
        data["items"] += [virtual_medium("virtual", "hyper", "main"), {**host("hyper", "main")}]
        data["items"][-1]["expects"]["stays"] = True
    plan = make_plan(data)
    options = set(documentation(MODULES / f"{module}.py")["options"])
    kinds = {"application": "application:creme", "database": "database:creme", "filestore": "filestore:uploads", "host": "host:db1"}
    kinds |= {"container": "container:shop", "medium": "medium:pgdata", "guest": f"guest:{module.split('_')[0]}"}
    kinds |= {"medium": "medium:virtual"} if module == "volume_wipe" else {}
    known = {"receipt", *filling.FREE, *filling.PLANNED.get(module, ())}
    for step in (one for one in steps.STEPS if one.module == module):
        known |= set(filling.options(step, plan.items[kinds[filling.KINDS[module][0]]], plan, BOOK.view(), "vault1"))
    # Given by the action itself, from the statements and the estate's secrets.
    known |= {"stream_key", "authorisation_sha256", "identity_waiver", "attestation_sha256", "keys_attestation_sha256"}
    known |= {"idle_waiver", "hidden_waiver", "key_copies", "attested"}
    known |= {"retention", "signature", "statement_sha256", "tagmanifest_sha256", "identity_digest", "keys_identity_digest"}
    known |= {"marker", "host_key", "authorized_key"}
    # Only of a medium that its own host wipes.
    known |= {"in_rescue"}
    # Stay at their defaults unless the plan's declaration says otherwise; a task cannot set them.
    fixed = {
        "vault_package": {"live_dir"},
        "vault_destroy": {"live_dir"},
        "vault_pull": {"live_dir"},
        "vault_prove": {"live_dir", "scratch"},
        "vault_shelf": {"live_dir"},
        "host_power": {"silence_seconds"},
        # The others only of a host that boots its rescue over its controller.
        "rescue_boot": {"directory", "way", "boot", "board", "witness"},
    }
    assert options - known - fixed.get(module, set()) == set()
    assert not set(filling.options(step, plan.items[kinds[filling.KINDS[module][0]]], plan, BOOK.view(), "vault1")) - options


def test_guests_that_a_person_classified_may_run() -> None:
    data = plan_data()
    word = {"by": "alice", "as": "irrelevant"}
    data["findings"] = [
        {"id": "container:agent", "host": "db1", "kind": "container", "what": "x", "classified": word},
        {"id": "container:strange", "host": "db1", "kind": "container", "what": "x", "classified": None},
        {"id": "container:other", "host": "app1", "kind": "container", "what": "x", "classified": word},
        {"id": "listener:tcp/1:agent", "host": "db1", "kind": "listener", "what": "x", "classified": word},
    ]
    assert filling.excused(make_plan(data), "db1") == ["agent"]


def test_the_policy_of_a_wipe_is_the_plans_and_the_mediums_own_goes_before() -> None:
    data = plan_data(settings={"wipe_policy": {"asked": "purge", "prefer": "speed"}})
    plan = make_plan(data)
    item = plan.items["medium:pgdata"]
    assert filling.wipe_policy(item, plan) == {"asked": "purge", "prefer": "speed"}
    item["expects"]["sanitisation"] = {"asked": "clear", "protected": [], "waiver": True}
    assert filling.wipe_policy(item, plan) == {"asked": "clear", "prefer": "speed"}, (
        "what only people and the control node say is not the inventory's"
    )
    item["expects"]["sanitisation"] = {"asked": "a bit"}
    with pytest.raises(Refusal, match="medium:pgdata: policy: asked is 'a bit'"):
        filling.wipe_policy(item, plan)


def test_a_policy_that_nobody_can_read_is_no_plan() -> None:
    with pytest.raises(Refusal, match="wipe_policy cannot be used: policy: asked is 'wipe'"):
        make_plan(plan_data(settings={"wipe_policy": {"asked": "wipe"}}))
