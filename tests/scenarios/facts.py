# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Run inside a host, from standard input: what is there, read with the host's own tools. Prints JSON."""

import glob
import hashlib
import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request

SHOWN = ("LoadState", "ActiveState", "UnitFileState")


def unit(name: str) -> dict[str, str]:
    argv = ["systemctl", "show", "-p", ",".join(SHOWN), name]
    lines = subprocess.run(argv, stdout=subprocess.PIPE, check=True, universal_newlines=True).stdout.split()
    return dict(line.split("=", 1) for line in lines)


def files(patterns: list[str]) -> dict[str, str]:
    """Path -> digest, or what else it is."""
    found = {}
    for pattern in patterns:
        for path in sorted(glob.glob(pattern, recursive=True, include_hidden=True)):
            if os.path.islink(path):
                found[path] = "link to " + os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as stream:
                    found[path] = hashlib.sha256(stream.read()).hexdigest()
    return found


def ask(url: str, method: str) -> dict[str, object]:
    request = urllib.request.Request(url, method=method, data=b"a=b" if method == "POST" else None)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            return {"status": answer.status, "tombstone": answer.headers.get("Sunset-Tombstone", "")}
    except urllib.error.HTTPError as answer:
        return {"status": answer.code, "tombstone": answer.headers.get("Sunset-Tombstone", "")}
    except OSError as error:
        return {"status": 0, "tombstone": "", "error": str(error)}


def listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    wanted = json.loads(sys.argv[1])
    seen = {
        "units": {name: unit(name) for name in wanted.get("units", [])},
        "files": files(wanted.get("files", [])),
        "web": {url: {method: ask(url, method) for method in ("GET", "POST")} for url in wanted.get("web", [])},
        "ports": {str(port): listens(port) for port in wanted.get("ports", [])},
    }
    json.dump(seen, sys.stdout)


main()
