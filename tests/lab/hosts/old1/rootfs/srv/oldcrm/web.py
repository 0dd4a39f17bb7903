# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The old system's web pages: how many contacts there are, and a way to write a note (POST)."""

import subprocess
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def sql(statement: str) -> str:
    return subprocess.run(
        ["mariadb", "--defaults-file=/srv/oldcrm/my.cnf", "-N", "oldcrm", "-e", statement],
        stdout=subprocess.PIPE,
        check=True,
        universal_newlines=True,
    ).stdout.strip()


class Page(BaseHTTPRequestHandler):
    def answer(self, text: str) -> None:
        body = ("<!doctype html><title>Old CRM</title><p>%s\n" % text).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self.answer(sql("SELECT COUNT(*) FROM contacts") + " contacts")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        sql("INSERT INTO notes (contact_id, body) VALUES (1, 'written by web')")
        self.answer("noted")


ThreadingHTTPServer(("127.0.0.1", 8100), Page).serve_forever()
