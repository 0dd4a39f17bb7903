# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every request that was made, held against the schema of the API as it was in each version of Proxmox VE.

The schema is Proxmox' own (AGPL) and is no part of this collection: it lies beside the checkout, in shared/facts. What was held against
it and found good is noted in pve_requests.json (method, path, parameters, for each version). Where the schema is not there, a request
that is not in the notes is a failure; where it is, every request is held against it, and the notes must have it too
(write them anew with SUNSET_PVE_NOTE=1).
"""

from __future__ import annotations

import fcntl
import functools
import json
import os
import re
import subprocess
import urllib.parse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

TOP = Path(__file__).resolve().parents[2]
VERSIONS = ("7.4", "8.0", "8.4", "9.0", "9.1", "9.2")
NOTES = Path(__file__).with_name("pve_requests.json")
NOTING = bool(os.environ.get("SUNSET_PVE_NOTE"))
RELEASES = {"7.4": "7.4-16", "8.0": "8.0.9", "8.4": "8.4.5", "9.0": "9.0.10", "9.1": "9.1.4", "9.2": "9.2.11"}


def _facts() -> Path | None:
    places = [TOP.parent / "shared"]
    done = subprocess.run(["git", "-C", str(TOP), "rev-parse", "--git-common-dir"], capture_output=True, text=True, check=False)
    if done.returncode == 0:  # a work tree of its own lies elsewhere; shared/ is beside the checkout that it belongs to
        places.append((TOP / done.stdout.strip()).resolve().parents[1] / "shared")
    found = [place / "facts" / "pve-apidata.json" for place in places if (place / "facts" / "pve-apidata.json").is_file()]
    return found[0] if found else None


@functools.cache
def _paths() -> dict[str, Any]:
    facts = _facts()
    paths: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))["paths"] if facts else {}
    return paths


def _notes() -> dict[str, dict[str, list[str]]]:
    """Version -> "METHOD /path/{template}" -> the parameters that were given and found good."""
    noted: dict[str, dict[str, list[str]]] = json.loads(NOTES.read_text(encoding="utf-8"))
    return noted


def _note(good: dict[str, set[str]], version: str) -> None:
    with NOTES.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        noted = _notes() if NOTES.exists() else {}
        mine = noted.setdefault(version, {})
        for request, names in good.items():
            mine[request] = sorted(names | set(mine.get(request, [])))
        NOTES.write_text(json.dumps(noted, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@functools.cache
def _patterns() -> list[tuple[re.Pattern[str], str]]:
    # The more words a template has of its own, the earlier it is tried.
    templates = set(_paths()) or {request.split(" ", 1)[1] for requests in _notes().values() for request in requests}
    order = sorted(templates, key=lambda template: template.count("{"))
    return [(re.compile(re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(template)) + "$"), template) for template in order]


def template_of(path: str) -> str | None:
    return next((template for pattern, template in _patterns() if pattern.match(path)), None)


def _number(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.lstrip("<=").split("."))


def _there(entry: dict[str, Any], version: str) -> bool:
    since = str(entry.get("since") or "<=6.4")
    return since.startswith("<=") or _number(since) <= _number(version)


def _value(spec: dict[str, Any], value: str) -> str:
    if spec.get("type") == "boolean" and value not in ("0", "1"):
        return "is no boolean"
    if spec.get("type") == "integer":
        if not re.fullmatch(r"-?\d+", value):
            return "is no whole number"
        if not int(spec.get("minimum", int(value))) <= int(value) <= int(spec.get("maximum", int(value))):
            return "is out of range"
    if spec.get("enum") and value not in spec["enum"]:
        return f"is none of {spec['enum']}"
    if len(value) > int(spec.get("maxLength", len(value))):
        return "is too long"
    return ""


def problems(requests: Iterable[tuple[str, str, dict[str, Any]]], version: str) -> list[str]:
    """What that version would refuse, each once."""
    found = []
    good: dict[str, set[str]] = {}
    noted = {} if NOTING else _notes().get(version, {})
    for method, raw, given in requests:
        path = "/".join(urllib.parse.unquote(part) for part in raw.split("/"))
        if path == "/access/ticket":
            continue
        template = template_of(raw)
        request, before = f"{method} {template}", len(found)
        if not NOTING and (request not in noted or set(given) - set(noted[request])):
            found.append(f"{version}: {request} with {', '.join(sorted(given)) or 'nothing'} is not noted as one that this version knows")
        if not _paths():
            continue
        entry = (_paths().get(template or "") or {}).get(method)
        if template is None or entry is None or not _there(entry, version):
            found.append(f"{version} has no {method} {template or path}")
            continue
        if entry.get("no_token"):
            found.append(f"{method} {template} refuses tokens")
        params = entry.get("params") or {}
        for name, value in given.items():
            spec = params.get(name)
            if spec is None or not _there(spec, version):
                found.append(f"{version}: {method} {template} has no {name}")
            elif wrong := _value(spec, urllib.parse.unquote_plus(str(value))):
                found.append(f"{version}: {method} {template}: {name}={value} {wrong}")
        in_path = set(re.findall(r"\{(\w+)\}", template))
        lacks = [name for name, spec in params.items() if not spec.get("optional") and name not in in_path and name not in given]
        found += [f"{version}: {method} {template} needs {name}" for name in lacks]
        if len(found) == before:
            good.setdefault(request, set()).update(given)
    if NOTING:
        _note(good, version)
    return sorted(set(found))
