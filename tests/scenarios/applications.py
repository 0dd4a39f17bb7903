# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The applications on app1: freeze, stop, resume."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import world
from .base import NOWHERE, Declaration, Moment, Scenario, facts

SERVE = """import signal, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

def end(*_):
    time.sleep(float(sys.argv[2]))
    sys.exit(0)

signal.signal(signal.SIGTERM, end)
HTTPServer(("127.0.0.1", int(sys.argv[1])), BaseHTTPRequestHandler).serve_forever()
"""
UNIT = """[Unit]
Description={description}

[Service]
ExecStart={command}
Restart=always

[Install]
WantedBy=multi-user.target
"""
SITE = """server {{
    listen 127.0.0.1:{port};
    location / {{ return 200 "the application"; }}
}}
"""
BASE = {"freeze": 8300, "stop": 8400, "resume": 8500}


def unit(name: str, command: str = "/bin/sleep infinity") -> dict[str, str]:
    return {f"/etc/systemd/system/{name}.service": UNIT.format(description=name, command=command)}


class Application(Scenario):
    """Three applications of one making: one is retired undisturbed, one by a run that is killed, one is never touched."""

    comes_back = ""  # the unit that is tried to be started when the ledger says that one of these ends was seen
    ends: tuple[str, ...] = ()

    def label(self, part: str) -> str:
        return f"{self.name}-{part}"

    def port(self, part: str, more: int = 0) -> int:
        return BASE[self.name] + world.PARTS.index(part) + more

    def site(self, part: str) -> str:
        return f"/etc/nginx/sites-enabled/{self.label(part)}.conf"

    def cron(self, part: str) -> str:
        return f"/etc/cron.d/{self.label(part)}"

    def url(self, part: str) -> str:
        return f"http://127.0.0.1:{self.port(part)}/"

    def schedulers(self, part: str) -> dict[str, Any]:
        return {"units": [f"{self.label(part)}-jobs.service", f"{self.label(part)}-off.service"], "cron_files": [self.cron(part)]}

    def services(self, part: str) -> list[dict[str, Any]]:
        name = self.label(part)
        return [{"unit": f"{name}-web.service", "ports": [self.port(part, 10)]}, {"unit": f"{name}-spare.service", "ports": []}]

    def files(self, part: str) -> dict[str, str]:
        name = self.label(part)
        serve = f"/usr/bin/python3 -I /usr/local/lib/molecule/serve.py {self.port(part, 10)} 1.5"
        return {
            **unit(f"{name}-jobs"),
            **unit(f"{name}-off"),
            **unit(f"{name}-web", serve),
            **unit(f"{name}-spare"),
            self.cron(part): f"5 2 * * * root /bin/true {name}\n",
            self.site(part): SITE.format(port=self.port(part)),
        }

    def lay(self) -> None:
        # What is called -off and -spare was off from the start, and has to stay so.
        names = [self.label(part) for part in world.PARTS]
        world.shell("app1", f"systemctl stop '{self.name}-*' 2>/dev/null || true\n{self._rm()}")
        world.write_files("app1", {path: text for part in world.PARTS for path, text in self.files(part).items()})
        world.write_files("app1", {"/usr/local/lib/molecule/serve.py": SERVE})
        units = " ".join(f"{name}-jobs.service {name}-web.service" for name in names)
        world.shell("app1", f"systemctl daemon-reload\nsystemctl --quiet enable --now {units}\nsystemctl reload nginx.service\n")

        seen = {part: facts("app1", files=self._places(part))["files"] for part in world.PARTS}
        self.first.write_text(json.dumps(seen))

    def _comes_back(self, part: str) -> dict[str, str]:
        """What is said to be down and kept from coming back is started: does it run?"""
        down = self.comes_back if any(f"{self.label(part)} {end}" in done for done in self.book()["done"] for end in self.ends) else ""
        if not down:
            return {}
        unit_ = f"{self.label(part)}-{down}.service"
        said = world.shell("app1", f"systemctl start {unit_} 2>/dev/null || true\nsystemctl is-active {unit_} || true")
        return {"comes_back": said.strip()}

    @property
    def first(self) -> Path:
        return self.folder / "first.json"

    def _places(self, part: str) -> list[str]:
        return [f"/etc/{where}/**/*{self.label(part)}*" for where in ("systemd/system", "cron.d", "nginx")]

    def _rm(self) -> str:
        return f"find /etc/systemd/system /run/systemd/system /etc/cron.d /etc/nginx -name '*{self.name}-*' -exec rm -rf {{}} +\n"

    def look(self) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for part in world.PARTS:
            name = self.label(part)
            found = facts(
                "app1",
                units=[f"{name}-{kind}.service" for kind in ("jobs", "off", "web", "spare")],
                files=self._places(part),
                web=[self.url(part)],
                ports=[self.port(part, 10)],
            )
            seen[part] = {
                "units": {unit_.removeprefix(f"{name}-").removesuffix(".service"): state for unit_, state in found["units"].items()},
                "files": found["files"],
                "cron": self.cron(part) in found["files"],
                "web": found["web"][self.url(part)],
                "listens": found["ports"][str(self.port(part, 10))],
                "first": json.loads(self.first.read_text()).get(part, {}),
                **self._comes_back(part),
            }
        return seen


class Freeze(Application):
    name = "freeze"
    comes_back, ends = "jobs", ("scheduler frozen",)
    moment = Moment(0.2, "application:freeze-torn", "web")

    def lay(self) -> None:
        super().lay()
        for part in world.PARTS:
            database = f"freeze_{part}"
            world.psql("postgres", f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")
            world.psql("postgres", f"CREATE DATABASE {database}")
            world.psql(
                database, "CREATE TABLE sessions AS SELECT n FROM generate_series(1, 20) AS n; CREATE TABLE people AS TABLE sessions"
            )

    def declared(self) -> dict[str, list[Declaration]]:
        databases = [
            {
                "kind": "database",
                "name": f"freeze-{part}",
                "engine": "postgresql",
                "database": f"freeze_{part}",
                "port": 5432,
                "staging": "/srv/s",
            }
            for part in world.PARTS
        ]
        applications = [
            {
                "kind": "application",
                "name": f"freeze-{part}",
                "uses": [f"database:freeze-{part}"],
                "schedulers": self.schedulers(part),
                "web": {"server": "nginx", "site": self.site(part), "probes": [self.url(part)]},
                "sessions": {"database": f"database:freeze-{part}", "table": "sessions"},
            }
            for part in world.PARTS
        ]
        return {"app1": applications, "data1": [*databases, nowhere()]}

    def look(self) -> dict[str, Any]:
        seen = super().look()
        for part in world.PARTS:
            counted = world.psql(f"freeze_{part}", "SELECT (SELECT count(*) FROM sessions), (SELECT count(*) FROM people)")
            sessions, people = counted.split("|")
            seen[part].update(sessions=int(sessions), people=int(people))
        return seen


class Stop(Application):
    name = "stop"
    comes_back, ends = "web", ("service stopped",)
    moment = Moment(0.9, "application:stop-torn", "service")

    def declared(self) -> dict[str, list[Declaration]]:
        items: list[Declaration] = [
            {"kind": "application", "name": f"stop-{part}", "services": self.services(part)} for part in world.PARTS
        ]
        items[-1]["schedulers"] = self.schedulers("kept")
        return {"app1": items}


class Resume(Application):
    name = "resume"
    moment = Moment(0.15, "application:resume-torn", "service")

    def declared(self) -> dict[str, list[Declaration]]:
        return {
            "app1": [
                {
                    "kind": "application",
                    "name": f"resume-{part}",
                    "schedulers": self.schedulers(part),
                    "web": {"server": "nginx", "site": self.site(part), "probes": [self.url(part)]},
                    "services": self.services(part),
                }
                for part in world.PARTS
            ]
        }


def nowhere() -> Declaration:
    return {"kind": "medium", "name": "nowhere", "device": "/dev/null", "identity": NOWHERE, "wipe": {"way": "station", "host": "station1"}}
