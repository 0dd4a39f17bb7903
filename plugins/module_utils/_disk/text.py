# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The words of other tools about a device, where the device did not answer us itself.

Private to the collection; it may change at any time. Valid for Python 3.6. Their text and JSON changed from version to version:
what is missing there is unknown, never no; a line that says "not" says no; and nothing here overrules an answer of the device.
"""

import json
import os
import re
import subprocess
from typing import Any, Callable, List, Optional

from ansible_collections.sunset.crm.plugins.module_utils._disk.words import UNKNOWN, YES, Row, clean, tri

ATA_LINES = (
    ("security", "supported", r"supported$"),
    ("security", "enabled", r"enabled$"),
    ("security", "locked", r"locked$"),
    ("security", "frozen", r"frozen$"),
    ("security", "count_expired", r"expired: security count$"),
    ("security", "enhanced", r"supported: enhanced erase$"),
)
SANITIZE_STATUS = re.compile(r"^\((\d)\)|^0x[0-9a-f]*?([0-7])$|^(\d+)$", re.I)


def hdparm(text: str) -> Row:
    """hdparm -I. {security, sanitize, serial, model, firmware}; without a Security section its facts stay unknown: old versions and
    bridges leave the section out, and a drive without it is not proven to be without security."""
    found: Row = {"security": {}, "sanitize": {}}
    for name, pattern in (
        ("model", r"Model Number:\s*(.+)"),
        ("serial", r"Serial Number:\s*(.+)"),
        ("firmware", r"Firmware Revision:\s*(.+)"),
    ):
        match = re.search(pattern, text)
        found[name] = clean(match.group(1)) if match else None
    section = re.search(r"^Security:\s*\n((?:[ \t].*\n?)+)", text, re.M)
    for line in section.group(1).splitlines() if section else []:
        line = line.strip()
        denied = bool(re.match(r"not\b", line))
        word = re.sub(r"^not\s*", "", line)
        for group, name, pattern in ATA_LINES:
            if re.match("^" + pattern, word):
                found[group][name] = tri(not denied)
        times = re.match(r"(\d+)min for SECURITY ERASE UNIT\.(?:\s+(\d+)min for ENHANCED)?", line)
        if times:
            found["security"]["minutes"] = int(times.group(1))
            found["security"]["enhanced_minutes"] = int(times.group(2)) if times.group(2) else None
    if re.search(r"^\s*\*\s+SANITIZE feature set$", text, re.M):
        found["sanitize"]["supported"] = YES
        for name, word in (("block", "BLOCK_ERASE_EXT"), ("crypto", "CRYPTO_SCRAMBLE_EXT"), ("overwrite", "OVERWRITE_EXT")):
            found["sanitize"][name] = tri(bool(re.search(r"^\s*\*\s+%s command$" % word, text, re.M)))
    return found


def nvme_controller(text: str) -> Row:
    """nvme id-ctrl -o json: sanicap, oacs and fna as numbers. A field that is not there, or is no number, is unknown."""
    data: Any = _json(text)
    found: Row = {"sanitize": {}, "format": {}}
    sanicap, oacs, fna = (data.get(name) for name in ("sanicap", "oacs", "fna"))
    if _number(sanicap):
        found["sanitize"] = {"crypto": tri(bool(sanicap & 1)), "block": tri(bool(sanicap & 2)), "overwrite": tri(bool(sanicap & 4))}
        found["sanitize"]["supported"] = tri(bool(sanicap & 7))
    if _number(oacs) and _number(fna):
        found["format"] = {"supported": tri(bool(oacs & 2)), "crypto": tri(bool(oacs & 2 and fna & 4))}
        found["format"].update(all_namespaces=tri(bool(fna & 1)), erase_all_namespaces=tri(bool(fna & 2)))
    for ours, theirs in (("serial", "sn"), ("model", "mn"), ("firmware", "fr")):
        found[ours] = clean(data.get(theirs)) if isinstance(data.get(theirs), str) else None
    return found


def nvme_sanitize_log(text: str) -> str:
    """The state in nvme sanitize-log -o json, whatever its shape: keyed by device or flat, sstat a number or an object with text."""
    data = _json(text)
    if "sstat" not in data:
        inner = [value for value in data.values() if isinstance(value, dict) and "sstat" in value]
        data = inner[0] if len(inner) == 1 else {}
    value: Any = data.get("sstat")
    if isinstance(value, dict):
        value = value.get("status")
    if isinstance(value, str):
        match = re.match(r"^\((\d)\)", value)
        value = int(match.group(1)) if match else None
    if not _number(value):
        return UNKNOWN
    return {0: "never", 1: "succeeded", 2: "running", 3: "failed", 4: "succeeded"}.get(value & 7, UNKNOWN)


def smartctl(text: str) -> Row:
    """smartctl -j -i: names alone, which a RAID controller or a bridge may keep from us."""
    data = _json(text)
    wwn = data.get("wwn")
    found: Row = {"model": data.get("model_name"), "serial": data.get("serial_number"), "firmware": data.get("firmware_version")}
    found = {name: clean(value) if isinstance(value, str) else None for name, value in found.items()}
    if isinstance(wwn, dict) and all(_number(wwn.get(part)) for part in ("naa", "oui", "id")):
        found["wwn"] = "%x%06x%09x" % (wwn["naa"], wwn["oui"], wwn["id"])
    rate: Any = data.get("rotation_rate")
    found["rotational"] = tri(rate > 0) if _number(rate) else UNKNOWN
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _json(text: str) -> Row:
    try:
        data = json.loads(text)
    except ValueError:
        return {}
    return data if isinstance(data, dict) else {}


def run_tool(argv: List[str]) -> str:
    """What a tool printed; empty if it is not there, failed, or does not end. Needs nothing of Ansible: it also serves in a rescue system."""
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ, LC_ALL="C")
        )
    except OSError:
        return ""
    try:
        out = child.communicate(timeout=30)[0]
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return ""
    return out.decode("utf-8", "replace") if child.returncode == 0 else ""


def fill(fact: Row, run: Optional[Callable[[Any], str]] = None) -> None:
    """Ask the tools that are there for what the device did not tell us; fill unknowns, overrule nothing."""
    run = run or run_tool
    if fact["sources"].get("identify") not in (None, "none"):
        return
    name = fact["name"]
    if name.startswith("nvme"):
        found = nvme_controller(run(["nvme", "id-ctrl", "-o", "json", fact["path"]]))
        source = "tool: nvme id-ctrl"
        if fact["sanitize"]["state"] == UNKNOWN:
            fact["sanitize"]["state"] = nvme_sanitize_log(run(["nvme", "sanitize-log", "-o", "json", fact["path"]]))
    elif (fact["vendor"] or "").upper() == "ATA":
        found, source = hdparm(run(["hdparm", "-I", fact["path"]])), "tool: hdparm -I"
    else:
        found, source = smartctl(run(["smartctl", "-j", "-i", fact["path"]])), "tool: smartctl -j -i"
    used = False
    for group in ("security", "sanitize", "format"):
        for field, value in found.get(group, {}).items():
            if fact[group].get(field) in (UNKNOWN, None) and value not in (UNKNOWN, None):
                fact[group][field] = value
                used = True
    for field in ("serial", "model", "firmware", "wwn"):
        if not fact[field] and found.get(field):
            fact[field] = found[field]
            used = True
    if used:
        fact["sources"]["identify"] = source
