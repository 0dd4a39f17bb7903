# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles: the shipped ones load, a user's faults are told with their place, and the plan gets what the proof needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import profiles, survey
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import filling

SHIPPED = sorted(path.stem for path in profiles.SHIPPED.glob("*.yml"))
GOOD = "profile: 1\nname: mine\ntitle: Mine\n"


def test_six_products_are_shipped() -> None:
    assert SHIPPED == ["creme", "dolibarr", "espocrm", "odoo", "suitecrm", "vtiger"]


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_profile_loads(name: str) -> None:
    profile = profiles.load(name)
    assert {"accounts", "contacts", "opportunities", "activities", "documents", "notes"} & set(profile["entities"])
    assert profile["attachments"] and profile["secrets"] and profile["filestores"]
    for entity in profiles.entities(profile).values():
        assert all(isinstance(value, str) for values in entity["where"].values() for value in values)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_truth_is_spelt_for_every_engine_of_the_product(name: str) -> None:
    """PostgreSQL prints true and false, MariaDB and SQLite 1 and 0: a flag in one spelling only would never be seen on the others."""
    profile = profiles.load(name)
    engines = set(profile["database"]["engines"])
    for title, entity in profiles.entities(profile).items():
        wheres = [entity.get("where") or {}, *(one.get("where") or {} for one in (entity.get("lists") or {}).values())]
        flags = [values for where in wheres for values in where.values()] + [(entity.get("deleted") or {"values": []})["values"]]
        for values in flags:
            for printed, counted in (("true", "1"), ("false", "0")):
                if {printed, counted} & set(values):
                    assert printed in values or "postgresql" not in engines, (title, values)
                    assert counted in values or not {"mariadb", "sqlite"} & engines, (title, values)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("entitys: {}", "entitys is not known here"),
        ("units: one", "units is 'one'; expected a list"),
        ("entities: {a: {join: {}}}", "entities.a.table is missing"),
        ("entities: {a: {table: 7}}", "entities.a.table is 7; expected text"),
        ("entities: {A: {table: t}}", "a name has small letters"),
        ("entities: {a: {table: t, join: {o: {table: u, on: {id: x}}}}}", "entities.a.join.o.match is missing"),
        ("entities: {a: {table: t, join: {o: {table: u, match: {id: owner.x}}}}}", "owner.x names owner, which is none of its joins"),
        ("entities: {a: {table: t, deleted: {column: d, values: 1}}}", "deleted.values is 1; expected a list"),
        ("attachments: [{filestore: f, rows: [{table: t, path: x}]}]", "holds no column in braces"),
        ("allowed_differences: [{table: t}]", "allowed_differences[0].why is missing"),
        ("profile: 2", "profile is 2; expected one of 1"),
        ("profile: true", "profile is True"),
        ("name: other", "name is 'other'; expected 'mine'"),
        ("x: [", "is no YAML"),
        ("- a", "is no YAML"),
    ],
)
def test_the_faults_of_an_own_profile_are_named(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "mine.yml").write_text(GOOD + text + "\n")
    with pytest.raises(Refusal) as caught:
        profiles.load("mine", [tmp_path])
    assert words in str(caught.value) and "mine.yml" in str(caught.value)


def test_an_own_profile_goes_first_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "odoo.yml").write_text(GOOD.replace("mine", "odoo"))
    assert profiles.load("odoo", [tmp_path])["title"] == "Mine"
    with pytest.raises(Refusal, match="there is no profile 'nix'"):
        profiles.load("nix", [tmp_path])
    with pytest.raises(Refusal, match="expected small letters"):
        profiles.load("../../etc/passwd")


def store(name: str, path: str, host: str = "app1") -> dict[str, Any]:
    return {"id": f"filestore:{name}", "kind": "filestore", "host": host, "stands_on": [], "expects": {"path": path}}


def test_attachments_find_their_file_store() -> None:
    espo = profiles.load("espocrm")
    (one,) = profiles.pairs(espo, {"database": "e"}, [store("a", "/var/www/espo/data")])
    assert (one["filestore"], one["package"], one["prefix"]) == ("filestore:a", "app1", "upload/")
    assert one["rows"][0]["where"]["deleted"] == ["0", "false"]
    (one,) = profiles.pairs(espo, {"database": "e"}, [store("a", "/x/data"), store("b", "/x/data/upload/")])
    assert one["filestore"] == "filestore:b" and "prefix" not in one
    (one,) = profiles.pairs(
        profiles.load("odoo"), {"database": "shop"}, [store("a", "/o/filestore/other"), store("b", "/o/filestore/shop")]
    )
    assert one["filestore"] == "filestore:b"
    (one,) = profiles.pairs(espo, {"database": "e"}, [store("a", "/x/metadata")])
    assert "rows" not in one and one["why"].startswith("none of the planned file stores")


def items(**database: Any) -> list[dict[str, Any]]:
    return [
        {"id": "database:d", "kind": "database", "host": "db1", "stands_on": [], "expects": {"engine": "postgresql", "database": "d", **database}},
        {"id": "application:a", "kind": "application", "host": "app1", "stands_on": ["database:d", "filestore:up"], "expects": {"profile": "creme"}},
        store("up", "/srv/creme/media/upload"),
        store("alien", "/other/media/upload"),
    ]  # fmt: skip


def laid(given: list[dict[str, Any]], **settings: Any) -> tuple[dict[str, Any], list[str]]:
    lacks: list[str] = []
    profiles.lay_out(given, profiles.load, settings, lacks)
    return given[0]["expects"], lacks


def test_the_plan_stands_for_itself() -> None:
    expects, lacks = laid(items())
    assert lacks == [] and expects["product"] == "creme" and expects["allowed_differences"] == []
    assert expects["readable"]["entities"]["contacts"]["deleted"] == {"column": "entity.is_deleted", "values": ["true", "1"]}
    assert [one["filestore"] for one in expects["pairs"]] == ["filestore:up"]


def test_what_the_inventory_says_goes_before_the_profile() -> None:
    expects, _lacks = laid(items(product="odoo", pairs=[], readable={"entities": ["leads"]}), readable={"xlsx": False})
    assert expects["pairs"] == [] and list(expects["readable"]["entities"]) == ["leads"] and expects["readable"]["xlsx"] is False
    assert expects["allowed_differences"] == [{"table": "ir_config_parameter", "where": {"key": ["database.uuid"]}}]
    assert laid(items(readable={"entities": False}))[0]["readable"]["entities"] == {}
    assert "has no entity 'cars'" in laid(items(readable={"entities": ["cars"]}))[1][0]
    assert "there is no profile 'nix'" in laid(items(product="nix"))[1][0]


def test_a_database_of_no_known_product_is_exported_by_its_tables() -> None:
    given = items()
    del given[1]["expects"]["profile"]
    expects, lacks = laid(given)
    assert lacks == [] and expects["readable"] == {"tables": True, "xlsx": True} and "pairs" not in expects


def test_the_dump_is_told_what_is_hashed_apart() -> None:
    """Without it the proof could only allow the whole table."""
    expects, _lacks = laid(items(product="odoo", engine="postgresql", database="o", staging="/s"))
    item = {"id": "database:o", "kind": "database", "expects": expects}
    assert filling._database_dump(item, None, None, "")["apart"] == expects["allowed_differences"]  # type: ignore[arg-type]
    expects["allowed_differences"] = ["whole"]
    assert filling._database_dump(item, None, None, "")["apart"] == []  # type: ignore[arg-type]


def test_the_proof_is_told_what_the_plan_says() -> None:
    assert set(filling.PLANNED["vault_prove"]) == {"readable", "pairs", "allowed_differences"}
    assert survey.profiles is profiles
