# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Profiles of CRM products: reading and checking one, and what of it a proof is told through the approved plan.

A profile is data (profiles/*.yml). (YAML reads the bare word "on" as true, so no key is called that.) A user's own one lies in a folder that is looked at first. Every fault is named with its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

Profile = dict[str, Any]
Facts = dict[str, Any]
SCHEMA = 1
SHIPPED = Path(__file__).resolve().parents[3] / "profiles"
NAME = re.compile(r"^[a-z0-9][a-z0-9_-]{0,63}$")

# --- the schema: a small one of our own, so that a fault can be told in a person's words ---

Check = Callable[[Any, str], list[str]]


def _is(kind: type | tuple[type, ...], words: str) -> Check:
    def check(value: Any, place: str) -> list[str]:
        # A bool is an int to Python and never meant as one here.
        fits = isinstance(value, kind) and not (isinstance(value, bool) and kind is int)
        return [] if fits else [f"{place} is {value!r}; expected {words}"]

    return check


TEXT = _is(str, "text")
FLAG = _is(bool, "true or false")
SCALAR = _is((str, int, bool), "text, a number, true or false")
ANY_MAPPING = _is(dict, "a mapping")


def _one_of(*words: Any) -> Check:
    return lambda value, place: (
        []
        if isinstance(value, (str, int)) and not isinstance(value, bool) and value in words
        else [f"{place} is {value!r}; expected one of {', '.join(map(str, words))}"]
    )


def _list(inner: Check) -> Check:
    def check(value: Any, place: str) -> list[str]:
        if not isinstance(value, list):
            return [f"{place} is {value!r}; expected a list"]
        return [fault for number, one in enumerate(value) for fault in inner(one, f"{place}[{number}]")]

    return check


def _mapping(inner: Check) -> Check:
    def check(value: Any, place: str) -> list[str]:
        if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
            return [f"{place} is {value!r}; expected a mapping with names"]
        return [fault for key, one in value.items() for fault in inner(one, f"{place}.{key}")]

    return check


def _either(*checks: Check) -> Check:
    """The first check that finds nothing wrong; otherwise what the first one says."""
    return lambda value, place: [] if any(not check(value, place) for check in checks) else checks[0](value, place)


def _keys(required: dict[str, Check], optional: dict[str, Check]) -> Check:
    def check(value: Any, place: str) -> list[str]:
        if not isinstance(value, dict):
            return [f"{place or 'the profile'} is {value!r}; expected a mapping"]
        known = {**required, **optional}
        dot = f"{place}." if place else ""
        faults = [f"{dot}{key} is not known here; known are {', '.join(sorted(known))}" for key in value if key not in known]
        faults += [f"{dot}{key} is missing" for key in required if key not in value]
        return faults + [fault for key, one in value.items() if key in known for fault in known[key](one, f"{dot}{key}")]

    return check


CONDITIONS = _mapping(_either(_list(SCALAR), SCALAR))
MATCH = _mapping(TEXT)
COLUMNS = _either(_list(TEXT), _one_of("all"))
JOIN = _mapping(_keys({"table": TEXT, "match": MATCH}, {"columns": COLUMNS, "where": CONDITIONS, "translated": _list(TEXT)}))
LISTS = _mapping(_keys({"table": TEXT, "match": MATCH, "value": TEXT}, {"label": TEXT, "where": CONDITIONS, "join": JOIN}))
ENTITY = _keys(
    {"table": TEXT},
    {
        "title": TEXT,
        "where": CONDITIONS,
        "join": JOIN,
        "lists": LISTS,
        "deleted": _keys({"column": TEXT, "values": _list(SCALAR)}, {}),
    },
)
ROWS = _keys({"table": TEXT, "path": TEXT}, {"where": CONDITIONS, "needs": _list(TEXT), "strip": TEXT, "optional": FLAG})
ATTACHMENTS = _keys(
    {"filestore": TEXT, "rows": _list(ROWS)},
    {"path_ends": _either(TEXT, _mapping(TEXT)), "unneeded": _list(TEXT)},
)
PROFILE = _keys(
    {"profile": _one_of(SCHEMA), "name": TEXT, "title": TEXT},
    {
        "versions": _list(TEXT),
        "identify": _keys({}, {"package": TEXT, "files": _list(TEXT), "url": _keys({"path": TEXT, "status": _is(int, "a number")}, {})}),
        "units": _list(TEXT),
        "maintenance": _one_of("none", "config", "database", "command"),
        "freeze": ANY_MAPPING,
        "services": _list(ANY_MAPPING),
        "config": _list(_keys({"path": TEXT, "holds": _list(TEXT)}, {})),
        "secrets": _list(_keys({"key": TEXT, "in": TEXT}, {"opens": _list(TEXT)})),
        "filestores": _list(_keys({"name": TEXT, "path": TEXT}, {"holds": TEXT})),
        "leave_out": _list(TEXT),
        "database": ANY_MAPPING,
        "entities": _mapping(ENTITY),
        "attachments": _list(ATTACHMENTS),
        "allowed_differences": _list(_keys({"table": TEXT, "why": TEXT}, {"where": CONDITIONS, "columns": _list(TEXT)})),
    },
)


def faults(profile: Any) -> list[str]:
    """Everything that is wrong with a parsed profile."""
    found = PROFILE(profile, "")
    if found:
        return found
    for name, entity in profile.get("entities", {}).items():
        if not NAME.match(name):
            found.append(f"entities.{name}: a name has small letters, digits, _ and - only; it becomes the name of a file")
        aliases = {"base", *entity.get("join", {})}
        said = [column for one in entity.get("join", {}).values() for column in one["match"].values()]
        said += [*entity.get("where", {}), *([entity["deleted"]["column"]] if "deleted" in entity else [])]
        for column in said:
            alias = column.rpartition(".")[0]
            if alias and alias not in aliases:
                found.append(f"entities.{name}: {column} names {alias}, which is none of its joins ({', '.join(sorted(aliases))})")
    for number, one in enumerate(profile.get("attachments", [])):
        for row in one["rows"]:
            if not re.search(r"\{[^{}]+\}", row["path"]):
                found.append(f"attachments[{number}]: the path {row['path']!r} holds no column in braces")
    return found


def load(name: str, folders: Iterable[Path] = ()) -> Profile:
    """The profile of that name from the first folder that has it. Raises Refusal naming every fault."""
    if not NAME.match(name):
        raise Refusal(f"the profile is called {name!r}; expected small letters, digits, _ and -, as the file profiles/<name>.yml is called")
    places = [*folders, SHIPPED]
    for folder in places:
        path = Path(folder) / f"{name}.yml"
        if path.is_file():
            return read(path)
    looked = ", ".join(str(place) for place in places)
    raise Refusal(
        f"there is no profile {name!r} (looked for {name}.yml in {looked}); write one (docs/operator/data.md, 'Profiles of your own') or correct the name"
    )


def read(path: Path) -> Profile:
    try:
        profile = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise Refusal(f"the profile {path} is no YAML: {' '.join(str(exc).split())}") from None
    except OSError as exc:
        raise Refusal(f"the profile {path} cannot be read: {exc.strerror}") from None
    wrong = faults(profile)
    if not wrong and profile["name"] != path.stem:
        wrong = [f"name is {profile['name']!r}; expected {path.stem!r}, as the file is called"]
    if wrong:
        raise Refusal(f"the profile {path} cannot be used:\n" + "\n".join(f"  - {one}" for one in wrong[:20]))
    return dict(profile)


# --- what the plan takes from it ---


def _words(values: Any) -> list[str]:
    """Values as a database prints them."""
    listed = values if isinstance(values, list) else [values]
    return [str(one).lower() if isinstance(one, bool) else str(one) for one in listed]


def _conditions(where: Facts) -> Facts:
    return {column: _words(values) for column, values in where.items()}


def _joins(joins: Facts) -> Facts:
    return {alias: {**one, **({"where": _conditions(one["where"])} if "where" in one else {})} for alias, one in joins.items()}


def entities(profile: Profile) -> Facts:
    """The entities in the form that the proof takes: every value is text."""
    found = {}
    for name, entity in profile.get("entities", {}).items():
        one = {**entity, "join": _joins(entity.get("join", {})), "where": _conditions(entity.get("where", {}))}
        one["lists"] = {
            title: {**part, "join": _joins(part.get("join", {})), "where": _conditions(part.get("where", {}))}
            for title, part in entity.get("lists", {}).items()
        }
        if "deleted" in entity:
            one["deleted"] = {"column": entity["deleted"]["column"], "values": _words(entity["deleted"]["values"])}
        found[name] = one
    return found


def _allowed(one: Facts) -> str | Facts:
    """What may differ: a whole table by its name, or the rows and columns of it that are named."""
    parts = {
        **({"where": _conditions(one["where"])} if one.get("where") else {}),
        **({"columns": one["columns"]} if one.get("columns") else {}),
    }
    return {"table": one["table"], **parts} if parts else str(one["table"])


def _suffixes(attachment: Facts, database: str) -> dict[str, str]:
    """Suffix of the file store's path -> folder in it below which the paths of the rows begin. Longest first."""
    ends = attachment.get("path_ends", {})
    found = {ends: ""} if isinstance(ends, str) else ends
    named = {suffix.replace("{database}", database).strip("/"): prefix for suffix, prefix in found.items()}
    return dict(sorted(named.items(), key=lambda one: -len(one[0])))


def pairs(profile: Profile, database: Facts, filestores: list[Facts]) -> list[Facts]:
    """The attachments of a profile against the file stores of the plan. database: the item's expects. Nothing is dropped: an
    attachment without its file store says why."""
    found = []
    for one in profile.get("attachments", []):
        rows = [{**row, **({"where": _conditions(row["where"])} if "where" in row else {})} for row in one["rows"]]
        hits: list[tuple[Facts, str]] = []
        for suffix, prefix in _suffixes(one, str(database.get("database", ""))).items():
            # The longest suffix that fits any file store decides.
            fitting = [store for store in filestores if ("/" + str(store["expects"].get("path", "")).strip("/")).endswith("/" + suffix)]
            hits = hits or [(store, prefix) for store in fitting]
        if not hits:
            hits = [(store, "") for store in filestores if store["id"] == f"filestore:{one['filestore']}"]
        if len(hits) != 1:
            why = "none" if not hits else "several"
            found.append(
                {
                    "filestore": one["filestore"],
                    "why": f"{why} of the planned file stores is the {one['filestore']} of {profile['title']} "
                    f"(a path that ends in {' or '.join(_suffixes(one, str(database.get('database', '')))) or 'no said way'})",
                }
            )
            continue
        store, prefix = hits[0]
        root = str(store["expects"].get("path", ""))
        pair = {"filestore": store["id"], "package": store["host"], "root": root, "rows": rows, "unneeded": one.get("unneeded", [])}
        found.append({**pair, **({"prefix": prefix} if prefix else {})})
    return found


def of_database(item: Facts, items: list[Facts]) -> str | None:
    """The product whose database this is: its own word, or the profile of the application that uses it."""
    said = item["expects"].get("product")
    if said:
        return str(said)
    users = [one for one in items if one["kind"] == "application" and item["id"] in one["stands_on"] and one["expects"].get("profile")]
    return str(users[0]["expects"]["profile"]) if users else None


def lay_out(items: list[Facts], load_profile: Callable[[str], Profile], settings: Facts, lacks: list[str]) -> None:
    """Write into every database of the plan what its proof needs, so that the approved plan stands for itself.

    What the inventory itself says of an item (readable, pairs, allowed_differences) goes before the profile.
    """
    for item in items:
        # What lies in a Redis has no tables: nothing of it is exported or paired.
        if item["kind"] != "database" or item["expects"].get("engine") == "redis":
            continue
        expects, name = item["expects"], of_database(item, items)
        readable = {"tables": True, "xlsx": True, **settings.get("readable", {}), **expects.get("readable", {})}
        if name:
            try:
                profile = load_profile(name)
            except Refusal as exc:
                lacks.append(f"{item['id']}: {exc}")
                continue
            expects["product"] = name
            chosen = readable.get("entities", True)
            known = entities(profile)
            if isinstance(chosen, list):
                lacks += [f"{item['id']}: the profile {name} has no entity {one!r}" for one in chosen if one not in known]
                known = {one: known[one] for one in chosen if one in known}
            if not isinstance(chosen, dict):
                readable["entities"] = known if chosen else {}
            readable["title"] = f"{profile['title']}: {item['id']}"
            stores = _stores(item, items)
            expects.setdefault("pairs", pairs(profile, expects, stores))
            expects.setdefault("allowed_differences", [_allowed(one) for one in profile.get("allowed_differences", [])])
        elif not isinstance(readable.get("entities", {}), dict):
            readable.pop("entities")
        expects["readable"] = readable


def _stores(item: Facts, items: list[Facts]) -> list[Facts]:
    """The file stores that may belong to a database: those of the applications that use it, else all."""
    stores = [one for one in items if one["kind"] == "filestore"]
    used = {name for one in items if one["kind"] == "application" and item["id"] in one["stands_on"] for name in one["stands_on"]}
    return [one for one in stores if one["id"] in used] or stores
