# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""RFC 3161 time stamps of certificates: asked of the service that the plan names, judged with stock OpenSSL before they are kept.

The query and the answer lie beside the file (``NAME.tsq``, ``NAME.tsr``); an auditor checks them with ``openssl ts -verify``.
"""

from __future__ import annotations

import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

MOST = 1 << 20  # bytes that an answer may have
TIMEOUT = 30.0


def faults(setting: Any) -> list[str]:
    """What is wrong with the setting C(timestamp) of a plan: a mapping C(url) and C(ca) (PEM text of the certificates to trust)."""
    if not isinstance(setting, dict) or set(setting) - {"url", "ca"}:
        return [f"the setting timestamp is {setting!r}; expected a mapping with url and ca"]
    wrong = []
    if not str(setting.get("url", "")).startswith(("http://", "https://")):
        wrong.append(f"the setting timestamp.url is {setting.get('url')!r}; expected http:// or https://")
    if "-----BEGIN CERTIFICATE-----" not in str(setting.get("ca", "")):
        wrong.append("the setting timestamp.ca holds no PEM certificate; give the text of the service's root (lookup('file', ...))")
    return wrong


def stamp(path: Path, setting: Mapping[str, str]) -> Path:
    """Make sure that the file has a time stamp that verifies; returns the answer's path. Raises Refusal if the service gives none."""
    answer, query = path.with_name(path.name + ".tsr"), path.with_name(path.name + ".tsq")
    if not lack(path, setting):
        return answer
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".stamp-") as folder:
        new_query, new_answer = Path(folder) / "tsq", Path(folder) / "tsr"
        _openssl("-query", "-data", str(path), "-sha256", "-cert", "-out", str(new_query))
        new_answer.write_bytes(_ask(setting["url"], new_query.read_bytes()))
        wrong = problem(path, new_query, new_answer, setting["ca"])
        if wrong:
            raise Refusal(f"the time stamp of {setting['url']} for {path.name} is not valid: {wrong}")
        # The answer last: one that can be seen always has its query beside it.
        new_query.replace(query)
        new_answer.replace(answer)
    return answer


def lack(path: Path, setting: Mapping[str, str]) -> str:
    """Why a file has not the time stamp that the plan wants; empty if it has."""
    answer, query = path.with_name(path.name + ".tsr"), path.with_name(path.name + ".tsq")
    if not (answer.exists() and query.exists()):
        return "is missing"
    wrong = problem(path, query, answer, setting["ca"])
    return f"does not hold: {wrong}" if wrong else ""


def problem(path: Path, query: Path, answer: Path, ca: str) -> str:
    """Why the answer is no valid time stamp of this very file by a service under this root; empty if it is one."""
    with tempfile.NamedTemporaryFile("w", encoding="ascii", prefix="sunset-ca-") as trusted:
        trusted.write(ca)
        trusted.flush()
        # Against the query for its nonce, against the file because the query may have been about another one.
        for what in (("-queryfile", str(query)), ("-data", str(path))):
            done = _openssl("-verify", *what, "-in", str(answer), "-CAfile", trusted.name, check=False)
            if done.returncode != 0 or b"Verification: OK" not in done.stdout + done.stderr:
                lines = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
                return lines[-1].strip() if lines else f"openssl ended with {done.returncode}"
    return ""


def when(answer: Path) -> str:
    """The time in a stamp, as OpenSSL prints it."""
    for line in _openssl("-reply", "-in", str(answer), "-text").stdout.decode(errors="replace").splitlines():
        if line.startswith("Time stamp:"):
            return line.split(":", 1)[1].strip()
    raise Refusal(f"{answer.name} names no time")


def _openssl(*argv: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
    try:
        done = subprocess.run(["openssl", "ts", *argv], stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise Refusal(f"time stamps need the program openssl: {exc}") from None
    if check and done.returncode != 0:
        raise Refusal(f"openssl ts {argv[0]} failed: {done.stderr.decode(errors='replace').strip()[-300:]}")
    return done


def _ask(url: str, query: bytes) -> bytes:
    """RFC 3161, 3.4: the query over HTTP."""
    request = urllib.request.Request(url, data=query, headers={"Content-Type": "application/timestamp-query"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:  # noqa: S310
            kind, body = reply.headers.get_content_type(), reply.read(MOST)
    except (urllib.error.URLError, OSError, ValueError) as exc:
        raise Refusal(f"the time stamp service {url} does not answer: {exc}. Run the same command again when it does.") from None
    if kind != "application/timestamp-reply":
        raise Refusal(f"the time stamp service {url} answered with {kind}, not with a time stamp")
    return bytes(body)
