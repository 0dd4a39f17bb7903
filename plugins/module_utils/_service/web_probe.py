# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask a web server, and see whether it has let go of its old configuration.

Private to the collection; it may change at any time. Valid for Python 3.6.
"""

import http.client
import re
import socket
import ssl
from typing import Any, Dict, List, Optional
from urllib.parse import urlsplit

from ansible_collections.sunset.crm.plugins.module_utils._service import proc as service_proc, web as service_web

# "nginx: worker process is shutting down": it still finishes requests under the old configuration
OLD_WORKER = re.compile(r"^nginx: worker process is shutting down")
SERVING = re.compile(r"^nginx: (master|worker) process")


def url_problem(url: str) -> Optional[str]:
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) and not parts.username:
            return None
    except ValueError:
        pass
    return "%r is no probe; expected something like http://127.0.0.1/path without a user name" % url


def ask(url: str, method: str, timeout: float = 10.0) -> Dict[str, Any]:
    """{url, method, status, marker}; without an answer status is None and error says why. Follows no redirect."""
    parts = urlsplit(url)
    result: Dict[str, Any] = {"url": url, "method": method, "status": None, "marker": ""}
    try:
        if parts.scheme == "https":
            # Who answers is not the question here, the address is: a certificate may be of any name or have ended.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname or "", parts.port, timeout=timeout, context=context
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout)
        try:
            target = (parts.path or "/") + ("?" + parts.query if parts.query else "")
            body = b"sunset=probe" if method == "POST" else None
            headers = {"User-Agent": "sunset.crm", "Connection": "close"}
            if body:
                headers["Content-Type"] = "application/x-www-form-urlencoded"
            connection.request(method, target, body=body, headers=headers)
            answer = connection.getresponse()
            answer.read(65536)
            result.update(status=answer.status, marker=answer.getheader(service_web.MARKER) or "")
        finally:
            connection.close()
    except (OSError, http.client.HTTPException, socket.timeout) as err:
        result["error"] = "%s: %s" % (type(err).__name__, err)
    return result


def ask_all(urls: List[str], item: str, write_too: bool) -> List[Dict[str, Any]]:
    """GET each; POST too where the tombstone answered the GET, never to an application that is still open."""
    found = []
    for url in urls:
        got = ask(url, "GET")
        found.append(got)
        if write_too:
            if service_web.probe_closed(got, item):
                found.append(ask(url, "POST"))
            else:
                found.append({"url": url, "method": "POST", "status": None, "marker": "", "error": "not tried"})
    return found


def old_workers(unit: str) -> List[Dict[str, Any]]:
    """Workers of this unit that still serve requests under an older configuration."""
    rows = service_proc.processes_of_units([unit])[unit]
    return [row for row in rows if OLD_WORKER.match(" ".join(service_proc.argv_of(row["pid"])))]


def is_serving(unit: str) -> bool:
    rows = service_proc.processes_of_units([unit])[unit]
    return any(SERVING.match(" ".join(service_proc.argv_of(row["pid"]))) for row in rows)
