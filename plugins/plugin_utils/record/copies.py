# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies of the ledger on the vaults, in a place that the control node can append to but not rewrite.

The place is an account whose only command is the ledger receiver (roles/vault/files/ledger_receiver.py).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate

Receiver = dict[str, Any]


LOCAL = ("local", "ansible.builtin.local")


def on_control_node(variables: Mapping[str, Any]) -> bool:
    """Whether a vault is a directory on the control node: whoever can rewrite the ledger here could rewrite a copy there as well."""
    return str(variables.get("ansible_connection", "")) in LOCAL


def command(receiver: Receiver) -> list[str]:
    """The ssh call that reaches a receiver: pinned host key, its own key, no terminal, no forwarding."""
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "UserKnownHostsFile": receiver["known_hosts"],
        "IdentitiesOnly": "yes",
        "ConnectTimeout": "15",
        "ControlPath": "none",
    }
    flags = [part for name, value in options.items() for part in ("-o", f"{name}={value}")]
    return [
        "ssh", "-T", *flags, "-i", receiver["key"], "-p", str(receiver.get("port") or 22),
        f"{receiver['user']}@{receiver['address']}",
    ]  # fmt: skip


def _talk(receiver: Receiver, header: dict[str, Any], lines: list[bytes]) -> dict[str, Any]:
    data = b"".join(line + b"\n" for line in [json.dumps(header).encode(), *lines])
    try:
        done = subprocess.run(command(receiver), input=data, capture_output=True, timeout=120, check=False)
        parsed = json.loads(done.stdout or b"{}")
        answer: dict[str, Any] = parsed if isinstance(parsed, dict) else {"error": f"it answered {parsed!r}"[:300]}
    except subprocess.TimeoutExpired:
        return {"ok": False, "error": "no answer within 120 seconds"}
    except ValueError:
        answer = {"error": done.stdout.decode(errors="replace")[-300:]}
    if done.returncode != 0 or not answer.get("ok"):
        reason = answer.get("error") or done.stderr.decode(errors="replace").strip()[-300:]
        return {"ok": False, "error": f"{reason} (exit code {done.returncode})"}
    return answer


def send(estate: Estate, receivers: list[Receiver], *, required: bool) -> list[dict[str, Any]]:
    """Append what a receiver lacks, with the signed head. Returns one row a vault: vault, ok, lines, head or error."""
    if not estate.ledger_file.exists():
        return []
    current = estate.sign_head()
    lines = estate.ledger_file.read_bytes().splitlines()[: current["lines"]]
    if not receivers:
        return []
    # All at once: each takes two logins, and every wipe waits for them.
    with ThreadPoolExecutor(len(receivers)) as pool:
        answers = list(pool.map(lambda receiver: _send_one(estate, receiver, current, lines), receivers))
    rows = [{"vault": receiver["vault"], **answer} for receiver, answer in zip(receivers, answers, strict=True)]
    failed = [row for row in rows if not row["ok"]]
    if failed and required:
        raise Refusal(
            "the ledger could not be copied to the vault before a step that needs it: "
            + "; ".join(f"{row['vault']}: {row['error']}" for row in failed)
        )
    return rows


def _send_one(estate: Estate, receiver: Receiver, current: dict[str, Any], lines: list[bytes]) -> dict[str, Any]:
    name = estate.plan().estate
    there = _talk(receiver, {"op": "head", "estate": name}, [])
    if not there["ok"]:
        return there
    if not isinstance(there.get("lines"), int):
        return {"ok": False, "error": f"it did not say how many lines it holds: {there}"[:300]}
    have = int(there["lines"])
    kept = lines[have - 1] if 0 < have <= len(lines) else None
    if have > len(lines) or (kept is not None and ledger.line_hash(kept) != there.get("head")):
        raise Refusal(
            f"the ledger here is not the one that the vault {receiver['vault']} holds (line {have} differs or is gone). Nothing was "
            "touched. Find out who changed it before anything else is done."
        )
    header = {"op": "append", "estate": name, "from_line": have, "head": current["document"], "head_signature": current["signature"]}
    done = _talk(receiver, header, lines[have:])
    if done["ok"] and done.get("head") != current["head"]:
        return {"ok": False, "error": f"it holds {done.get('lines')} lines with another head after the copy"}
    return done
