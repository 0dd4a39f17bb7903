# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The estate-host modules against real systemd, cron, nginx, PostgreSQL and MariaDB in one throw-away container.

Each state-changing module is called four times (check, real, check, real: changed, changed, same, same), there and
back, and killed at every command that it runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.engine_acts import heeds
from tests.integration.host_container import Failed, HostContainer

ITEM = "application:crm"
UNITS = "/etc/systemd/system"
WEB = """[Unit]
Description=CRM, web
[Service]
WorkingDirectory=/srv/crm
ExecStart=/usr/bin/python3 -m http.server 8000 --bind 127.0.0.1
[Install]
WantedBy=multi-user.target
"""
JOBS = """[Service]
ExecStart=/bin/sleep 100000
[Install]
WantedBy=multi-user.target
"""
DIGEST_SERVICE = """[Service]
Type=oneshot
ExecStart=/bin/true
"""
DIGEST_TIMER = """[Timer]
OnCalendar=daily
[Install]
WantedBy=timers.target
"""
SOCKET = """[Socket]
ListenStream=127.0.0.1:8100
Accept=no
[Install]
WantedBy=sockets.target
"""
SOCKET_SERVICE = """[Service]
ExecStart=/bin/sleep 100000
"""
STUBBORN = """[Service]
ExecStart=/bin/sh -c 'trap "" TERM; while :; do sleep 0.2; done'
TimeoutStopSec=%s
"""
CRON = "MAILTO=root\n0 0 29 2 * root sleep 4711 > /dev/null\n"
SITE = """# the vhost of the CRM
map $http_upgrade $crm_upgrade { default close; websocket upgrade; }
server {
    listen 80 default_server;
    listen 8080;
    server_name crm.example _;
    location /static/ { alias /srv/crm/; }
    location / { proxy_pass http://127.0.0.1:8000; }
}
"""
# Stands before a program and stops, on demand, at one of its verbs: a place where the module can be killed.
SHIM = """#!/bin/sh
hang=$(cat /tmp/hang 2>/dev/null || true)
for word in "$@"; do [ "$word" = "$hang" ] && exec sleep 7777; done
exec %s "$@"
"""
SERVICES: list[dict[str, Any]] = [
    {"unit": "crm-web.service", "ports": [8000]},
    {"unit": "crm-sock.service", "ports": [8100]},
]
SCHEDULER: dict[str, Any] = {
    "units": ["crm-digest.timer", "crm-jobs.service", "crm-idle.service"],
    "cron_files": ["/etc/cron.d/crm"],
}
SITE_OPTIONS: dict[str, Any] = {
    "site": "/etc/nginx/sites-enabled/crm",
    "probes": ["http://127.0.0.1/", "http://127.0.0.1:8080/static/x", "http://localhost/login/"],
    "timeout": 20,
}


@pytest.fixture(scope="module")
def host() -> Iterator[HostContainer]:
    with HostContainer(f"sunset-test-host-{os.getpid()}") as one:
        for name, text in {
            "crm-web.service": WEB,
            "crm-jobs.service": JOBS,
            "crm-idle.service": JOBS,
            "crm-digest.timer": DIGEST_TIMER,
            "crm-digest.service": DIGEST_SERVICE,
            "crm-sock.socket": SOCKET,
            "crm-sock.service": SOCKET_SERVICE,
            "crm-stubborn.service": STUBBORN % "1s",
            "crm-endless.service": STUBBORN % "infinity",
            "crm-needs-jobs.service": "[Unit]\nRequires=crm-jobs.service\n" + JOBS,
            "stranger.service": WEB.replace("8000", "9099"),
            "redis-server.service.d/test.conf": "[Service]\nPrivateUsers=no\n",
        }.items():
            one.write(f"{UNITS}/{name}", text)
        one.write("/srv/crm/index.html", "the CRM")
        one.write("/etc/cron.d/crm", CRON)
        one.write("/etc/cron.d/stranger", "@daily root true\n")
        one.write("/etc/nginx/sites-available/crm", SITE)
        for name in ("systemctl", "nginx"):
            real = one.run("which", name).strip()
            one.write(f"/usr/local/bin/{name}", SHIM % real, "0755")
        one.shell(
            "ln -s ../sites-available/crm /etc/nginx/sites-enabled/crm; systemctl daemon-reload;"
            "systemctl -q enable --now crm-web crm-jobs crm-digest.timer crm-sock.socket stranger nginx cron redis-server"
        )
        yield one


@pytest.fixture(scope="module")
def postgresql(host: HostContainer) -> None:
    host.shell("pg_createcluster --locale C.UTF-8 15 main --start >/dev/null; systemctl start postgresql@15-main")
    host.run("runuser", "-u", "postgres", "--", "psql", "-q", stdin="CREATE DATABASE crm; CREATE DATABASE forgotten;")
    fill = 'CREATE SCHEMA "o""dd"; CREATE TABLE "o""dd"."Ses sion" (k text);'
    fill += "CREATE TABLE sessions (k text); INSERT INTO sessions SELECT 'k'||n FROM generate_series(1,7) n;"
    fill += """INSERT INTO "o""dd"."Ses sion" VALUES ('a');"""
    host.run("runuser", "-u", "postgres", "--", "psql", "-q", "-d", "crm", stdin=fill)


@pytest.fixture(scope="module")
def mariadb(host: HostContainer) -> None:
    host.shell("mariadb-install-db --user=mysql --skip-test-db >/dev/null 2>&1; systemctl start mariadb")
    host.run("mariadb", stdin="CREATE DATABASE old; CREATE DATABASE other; CREATE TABLE old.`ses``sion` (k int);"
             "INSERT INTO old.`ses``sion` VALUES (1),(2),(3);")  # fmt: skip


def four(host: HostContainer, name: str, **options: Any) -> dict[str, Any]:
    """check, real, check, real; the second answer."""
    answers = [host.module(name, check=check, item=ITEM, **options) for check in (True, False, True, False)]
    assert [answer["changed"] for answer in answers] == [True, True, False, False]
    assert [answer["evidence"]["verdict"] for answer in answers] == ["unknown", "yes", "yes", "yes"]
    assert answers[0]["evidence"]["actions"] == []
    assert answers[1]["result"].get("former") == answers[3]["result"].get("former")
    return answers[1]


def killed_at(host: HostContainer, verb: str, name: str, **options: Any) -> bool:
    """Run a module and kill it when it is about to run this verb. False if it never came to it."""
    host.write("/tmp/hang", verb)
    process = host.start_module(name, item=ITEM, **options)

    def waits_or_ends() -> bool:
        return process.poll() is not None or bool(host.shell("pgrep -f '^sleep 7777' || true"))

    host.wait(waits_or_ends)
    reached = process.poll() is None
    host.kill_module()
    host.shell("rm -f /tmp/hang; pkill -f '^sleep 7777' || true")
    process.communicate()
    return reached


def active(host: HostContainer, unit: str) -> bool:
    return host.run("systemctl", "is-active", unit, check=False).strip() == "active"


def status(host: HostContainer, url: str, method: str = "GET") -> str:
    return host.run("curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, "-m", "10", url, check=False)


def refused(call: Callable[[], Any], *words: str) -> dict[str, Any]:
    with pytest.raises(Failed) as caught:
        call()
    for word in words:
        assert word in str(caught.value), str(caught.value)
    return caught.value.answer


# --- scheduler_state -------------------------------------------------------------------------------------------------


def test_scheduler_there_and_back(host: HostContainer) -> None:
    before = host.snapshot("/etc/cron.d", UNITS)
    frozen = four(host, "scheduler_state", state="frozen", **SCHEDULER)
    former = frozen["result"]["former"]
    assert former["units"]["crm-jobs.service"] == {"active": "active", "unit_file_state": "enabled"}
    assert former["units"]["crm-idle.service"]["active"] == "inactive"
    assert former["cron_files"]["/etc/cron.d/crm"]["present"] is True
    assert set(frozen["result"]["dead"]) == {"crm-digest.timer", "crm-digest.service", "crm-jobs.service", "crm-idle.service"}
    assert frozen["result"]["dead"]["crm-jobs.service"]["ended"] == "graceful"
    assert frozen["result"]["dead"]["crm-idle.service"]["ended"] == "was_off"
    host.run("systemctl", "start", "crm-jobs.service", check=False)
    host.run("systemctl", "start", "crm-digest.timer", check=False)
    # what is pulled in by another unit is held by the condition, not by the refusal of manual starts
    host.run("systemd-run", "--wait", "-q", "-p", "Wants=crm-jobs.service", "-p", "After=crm-jobs.service", "true")
    assert not active(host, "crm-jobs.service") and not active(host, "crm-digest.timer")
    assert "crm\n" not in host.run("ls", "/etc/cron.d")
    four(host, "scheduler_state", state="restored", former=former, **SCHEDULER)
    assert active(host, "crm-jobs.service") and active(host, "crm-digest.timer") and not active(host, "crm-idle.service")
    after = host.snapshot("/etc/cron.d", UNITS)
    assert without_directories(before) == without_directories(after)


def without_directories(snapshot: str) -> list[str]:
    """A directory's own time stamp may move; everything in it must be what it was."""
    return [line for line in snapshot.splitlines() if " d " not in line]


@pytest.mark.parametrize("verb", ["daemon-reload", "stop", "start"])
def test_scheduler_killed_while_freezing(host: HostContainer, verb: str) -> None:
    before = host.snapshot("/etc/cron.d", UNITS)
    assert killed_at(host, verb, "scheduler_state", state="frozen", **SCHEDULER)
    answer = host.module("scheduler_state", item=ITEM, state="frozen", **SCHEDULER)
    assert answer["result"]["former"]["units"]["crm-jobs.service"]["active"] == "active"
    assert answer["result"]["former"]["cron_files"]["/etc/cron.d/crm"]["present"] is True
    assert not active(host, "crm-jobs.service")
    # no former is given: the host's own record is enough
    assert killed_at(host, verb, "scheduler_state", state="restored", **SCHEDULER) is (verb != "stop")
    host.module("scheduler_state", item=ITEM, state="restored", **SCHEDULER)
    assert active(host, "crm-jobs.service") and not active(host, "crm-idle.service")
    assert without_directories(before) == without_directories(host.snapshot("/etc/cron.d", UNITS))


def test_scheduler_waits_for_a_running_cron_job(host: HostContainer) -> None:
    host.shell("setsid sh -c 'sleep 4711 > /dev/null' >/dev/null 2>&1 &")
    host.wait(lambda: host.shell("pgrep -f '^sleep 4711' || true"))
    options = dict(SCHEDULER, units=[], timeout=1)
    refused(lambda: host.module("scheduler_state", item=ITEM, **options), "still run", "nothing was killed")
    host.shell("pkill -f '^sleep 4711'")
    host.module("scheduler_state", item=ITEM, **options)
    host.module("scheduler_state", item=ITEM, state="restored", **options)
    assert host.read("/etc/cron.d/crm") == CRON


def test_scheduler_refusals(host: HostContainer) -> None:
    def freeze(**options: Any) -> Callable[[], Any]:
        return lambda: host.module("scheduler_state", item=ITEM, **options)

    refused(freeze(units=["no-such.service"]), "no-such.service", "not-found", "sunset_items")
    refused(freeze(units=["crm-jobs"]), "whole one")
    refused(freeze(cron_files=["/etc/cron.d/no-such"]), "/etc/cron.d/no-such", "neither")
    refused(lambda: host.module("scheduler_state", item=ITEM, receipt={}, **SCHEDULER), "no receipt")
    host.run("systemctl", "start", "crm-needs-jobs")
    refused(freeze(units=["crm-jobs.service"]), "would also stop crm-needs-jobs.service")
    assert active(host, "crm-jobs.service")
    host.run("systemctl", "stop", "crm-needs-jobs")
    # a configuration tool puts the file back with other content while it is frozen
    host.module("scheduler_state", item=ITEM, units=[], cron_files=["/etc/cron.d/crm"])
    host.write("/etc/cron.d/crm", "# another\n")
    refused(freeze(units=[], cron_files=["/etc/cron.d/crm"]), "both", "differ")
    host.run("rm", "/etc/cron.d/crm")
    host.module("scheduler_state", item=ITEM, state="restored", units=[], cron_files=["/etc/cron.d/crm"])


# --- service_state ---------------------------------------------------------------------------------------------------


def test_service_there_and_back(host: HostContainer) -> None:
    before = host.snapshot(UNITS)
    stopped = four(host, "service_state", state="stopped", services=SERVICES)
    assert stopped["result"]["ports"] == {"8000": "closed", "8100": "closed"}
    assert set(stopped["result"]["dead"]) == {"crm-web.service", "crm-sock.socket", "crm-sock.service"}
    assert host.run("systemctl", "start", "crm-web.service", check=False) == "" and not active(host, "crm-web.service")
    four(host, "service_state", state="started", services=SERVICES, former=stopped["result"]["former"])
    assert active(host, "crm-web.service") and active(host, "crm-sock.socket") and not active(host, "crm-sock.service")
    assert status(host, "http://127.0.0.1:8000/") == "200"
    assert without_directories(before) == without_directories(host.snapshot(UNITS))


@pytest.mark.parametrize("verb", ["daemon-reload", "stop", "start"])
def test_service_killed(host: HostContainer, verb: str) -> None:
    assert killed_at(host, verb, "service_state", state="stopped", services=SERVICES)
    answer = host.module("service_state", item=ITEM, state="stopped", services=SERVICES)
    assert answer["result"]["former"]["units"]["crm-web.service"]["active"] == "active"
    assert killed_at(host, verb, "service_state", state="started", services=SERVICES) is (verb != "stop")
    host.module("service_state", item=ITEM, state="started", services=SERVICES)
    assert active(host, "crm-web.service") and active(host, "crm-sock.socket")
    assert host.module("service_state", item=ITEM, state="started", services=SERVICES)["changed"] is False


def test_service_two_modules_hold_one_unit(host: HostContainer) -> None:
    """Each takes back only its own hold, and says who still holds."""
    services = [{"unit": "crm-jobs.service"}]
    frozen = host.module("scheduler_state", item=ITEM, **SCHEDULER)["result"]["former"]
    stopped = host.module("service_state", item=ITEM, services=services)["result"]["former"]
    assert stopped["units"]["crm-jobs.service"]["active"] == "inactive"
    host.module("scheduler_state", item=ITEM, state="frozen", **SCHEDULER)
    options = dict(SCHEDULER, state="restored", former=frozen)
    refused(lambda: host.module("scheduler_state", item=ITEM, **options), "kept off by zz-sunset-service.conf")
    host.module("service_state", item=ITEM, state="started", services=services, former=stopped)
    host.module("scheduler_state", item=ITEM, **options)
    assert active(host, "crm-jobs.service")


def deaf(host: HostContainer, unit: str) -> None:
    """Its script has come to where it ignores SIGTERM; before, it would end of it."""
    pid = int(host.run("systemctl", "show", "-p", "MainPID", "--value", unit))
    assert heeds(pid, read=lambda place: host.run("cat", place)), f"{unit} has ended"


def test_service_that_systemd_had_to_kill(host: HostContainer) -> None:
    services = [{"unit": "crm-stubborn.service"}]
    host.run("systemctl", "start", "crm-stubborn")
    deaf(host, "crm-stubborn")
    for _again in range(2):
        answer = refused(lambda: host.module("service_state", item=ITEM, services=services), "were killed by systemd", "timeout")
        assert answer["result"]["dead"]["crm-stubborn.service"]["ended"] == "forced"
    accepted = host.module("service_state", item=ITEM, services=services, forced="accept")
    assert accepted["result"]["dead"]["crm-stubborn.service"]["ended"] == "forced"
    host.module("service_state", item=ITEM, services=services, state="started")
    assert active(host, "crm-stubborn.service")
    host.shell("systemctl kill -s KILL crm-stubborn; systemctl stop crm-stubborn")


def test_service_that_does_not_end(host: HostContainer) -> None:
    services = [{"unit": "crm-endless.service"}]
    host.run("systemctl", "start", "crm-endless")
    deaf(host, "crm-endless")
    refused(lambda: host.module("service_state", item=ITEM, services=services, timeout=1), "did not end within", "Nothing was killed")
    assert host.shell("systemctl show -p ActiveState --value crm-endless").strip() == "deactivating"
    host.shell("systemctl kill -s KILL crm-endless")
    host.module("service_state", item=ITEM, services=services, forced="accept")
    host.module("service_state", item=ITEM, services=services, state="started")
    host.shell("systemctl kill -s KILL crm-endless; systemctl reset-failed crm-endless || true")


def test_service_port_of_another_unit(host: HostContainer) -> None:
    services = [{"unit": "crm-web.service", "ports": [8000, 9099]}]
    refused(lambda: host.module("service_state", item=ITEM, services=services), "somebody still listens", "stranger.service")
    host.module("service_state", item=ITEM, services=services, state="started")
    refused(lambda: host.module("service_state", item=ITEM, services=[{"unit": "gone.service"}]), "gone.service", "not-found")


# --- web_closed ------------------------------------------------------------------------------------------------------


def test_web_there_and_back(host: HostContainer) -> None:
    before = host.snapshot("/etc/nginx")
    assert status(host, "http://127.0.0.1/") == "200"
    closed = four(host, "web_closed", state="closed", title='Gone "$uri" <b>', message="Frag' die Öffentlichkeit: 5 $", **SITE_OPTIONS)
    assert {(p["method"], p["status"]) for p in closed["result"]["probes"]} == {("GET", 503), ("POST", 503)}
    for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS"):
        assert status(host, "http://127.0.0.1:8080/any/path?x=1", method) == "503"
    page = host.run("curl", "-s", "-i", "http://127.0.0.1/")
    assert "Sunset-Tombstone: application:crm" in page and "&quot;&#36;uri&quot; &lt;b&gt;" in page and "Öffentlichkeit: 5 &#36;" in page
    assert host.run("readlink", "/etc/nginx/sites-enabled/crm").strip() == "../sites-available/crm"
    # another text makes the tombstone stale, once
    assert host.module("web_closed", item=ITEM, state="closed", title="Other", **SITE_OPTIONS)["changed"] is True
    opened = four(host, "web_closed", state="open", **SITE_OPTIONS)
    assert opened["result"]["site_sha256"] == closed["result"]["site_sha256"]
    assert status(host, "http://127.0.0.1/") == "200"
    assert without_directories(before) == without_directories(host.snapshot("/etc/nginx"))


@pytest.mark.parametrize("verb", ["-t", "reload"])
def test_web_killed(host: HostContainer, verb: str) -> None:
    before = host.snapshot("/etc/nginx")
    assert killed_at(host, verb, "web_closed", state="closed", **SITE_OPTIONS)
    assert host.module("web_closed", item=ITEM, state="closed", **SITE_OPTIONS)["changed"] is True
    assert status(host, "http://127.0.0.1/", "POST") == "503"
    assert killed_at(host, verb, "web_closed", state="open", **SITE_OPTIONS)
    assert host.module("web_closed", item=ITEM, state="open", **SITE_OPTIONS)["changed"] is True
    assert without_directories(before) == without_directories(host.snapshot("/etc/nginx"))


def test_web_that_nginx_refuses(host: HostContainer) -> None:
    """The test of the configuration fails: everything is as it was, nothing was reloaded."""
    before = host.snapshot("/etc/nginx/sites-available", "/etc/nginx/sites-enabled")
    host.write("/etc/nginx/conf.d/broken.conf", "no such directive;\n")
    refused(lambda: host.module("web_closed", item=ITEM, state="closed", **SITE_OPTIONS), "nginx refuses", "not reloaded")
    host.run("rm", "/etc/nginx/conf.d/broken.conf")
    after = host.snapshot("/etc/nginx/sites-available", "/etc/nginx/sites-enabled")
    assert without_directories(before) == without_directories(after)
    host.module("web_closed", item=ITEM, state="closed", **SITE_OPTIONS)
    host.write("/etc/nginx/conf.d/broken.conf", "no such directive;\n")
    refused(lambda: host.module("web_closed", item=ITEM, state="open", **SITE_OPTIONS), "tombstone stays")
    host.run("rm", "/etc/nginx/conf.d/broken.conf")
    assert host.module("web_closed", item=ITEM, state="closed", **SITE_OPTIONS)["changed"] is False
    host.module("web_closed", item=ITEM, state="open", **SITE_OPTIONS)


def test_web_old_worker_keeps_it_from_being_closed(host: HostContainer) -> None:
    """A request that began before the closing still goes through the old configuration."""
    host.write("/etc/nginx/conf.d/slow.conf", "server { listen 127.0.0.1:8090; location / { limit_rate 1; root /usr/lib; } }\n")
    # nginx opens the new port when it has read its configuration again.
    retry = "--retry 60 --retry-connrefused --retry-delay 1"
    host.shell(f"systemctl reload nginx; setsid curl -s {retry} -o /dev/null http://127.0.0.1:8090/os-release >/dev/null 2>&1 &")
    host.wait(lambda: host.shell("ss -Htn state established dport = 8090").strip())
    options = dict(SITE_OPTIONS, timeout=2)
    refused(lambda: host.module("web_closed", item=ITEM, state="closed", **options), "still serve requests")
    host.shell("pkill -x curl; rm /etc/nginx/conf.d/slow.conf; systemctl reload nginx")
    host.module("web_closed", item=ITEM, state="closed", **SITE_OPTIONS)
    host.module("web_closed", item=ITEM, state="open", **SITE_OPTIONS)


def test_web_refusals(host: HostContainer) -> None:
    def close(**options: Any) -> Callable[[], Any]:
        return lambda: host.module("web_closed", item=ITEM, state="closed", **{**SITE_OPTIONS, **options})

    refused(close(site="/etc/nginx/sites-enabled/none"), "/etc/nginx/sites-enabled/none", "no such file")
    refused(close(probes=[]), "no probe")
    refused(close(probes=["ftp://x/"]), "no probe")
    refused(close(unit="crm-web.service"), "no running nginx")
    refused(close(message="x" * 5000), "shorten the message")
    # a probe that another server answers: the tombstone stays, and the module says that it proves nothing
    answer = refused(close(probes=["http://127.0.0.1:9099/"]), "not every probe meets it", "correct `site` or `probes`")
    assert answer["evidence"]["verdict"] == "no"
    host.module("web_closed", item=ITEM, state="open", **SITE_OPTIONS)


# --- session_end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("table", "count"), [("sessions", 7), ('o"dd.Ses sion', 1)])
def test_sessions_of_postgresql(host: HostContainer, postgresql: None, table: str, count: int) -> None:
    ended = four(host, "session_end", engine="postgresql", database="crm", table=table, port=5432)
    assert ended["result"] == {"before_count": count, "after_count": 0}
    assert ended["evidence"]["tools"]["postgresql"].startswith("15.")


def test_sessions_of_mariadb(host: HostContainer, mariadb: None) -> None:
    ended = four(host, "session_end", engine="mariadb", database="old", table="ses`sion", port=3306)
    assert ended["result"] == {"before_count": 3, "after_count": 0}


def test_sessions_refusals(host: HostContainer, postgresql: None, mariadb: None) -> None:
    def end(engine: str, **options: Any) -> Callable[[], Any]:
        return lambda: host.module("session_end", item=ITEM, engine=engine, **options)

    refused(end("postgresql", database="crm", table="nothing"), "no table nothing", "sunset_items")
    refused(end("postgresql", database="none", table="sessions"), "none", "does not exist")
    refused(end("postgresql", database="crm", table="sessions", port=5999), "5999")
    refused(end("mariadb", database="old", table="nothing"), "no table nothing")
    refused(end("mariadb", database="old", table="ses`sion", port=3307), "3306", "3307")
    refused(end("postgresql", database="crm", table=""), "table")


# --- host_survey -----------------------------------------------------------------------------------------------------


def declared() -> list[dict[str, Any]]:
    return [
        {
            "kind": "application", "name": "crm", "profile": "crm",
            "schedulers": SCHEDULER, "services": SERVICES, "web": {"server": "nginx", "site": SITE_OPTIONS["site"]},
        },
        {
            "kind": "database", "name": "crm", "engine": "postgresql", "database": "crm", "port": 5432,
            "unit": "postgresql@15-main.service", "data": "/var/lib/postgresql", "staging": "/var/lib/postgresql/staging",
        },
        {
            "kind": "database", "name": "old", "engine": "mariadb", "database": "old", "port": 3306,
            "unit": "mariadb.service", "data": "/var/lib/mysql",
        },
        {"kind": "filestore", "name": "files", "path": "/srv/crm", "staging": "/srv"},
    ]  # fmt: skip


def test_survey(host: HostContainer, postgresql: None, mariadb: None) -> None:
    before = host.snapshot("/etc", "/srv", "/root")
    options: dict[str, Any] = {"items": declared(), "profiles": {"crm": {"units": ["redis-server.service"]}}}
    seen = host.module("host_survey", check=True, **options)
    assert seen["changed"] is False
    survey = seen["survey"]
    assert {name: facts["found"] for name, facts in survey["expected"].items()} == {
        "application:crm": "yes", "database:crm": "yes", "database:old": "yes", "filestore:files": "yes",
    }  # fmt: skip
    assert survey["expected"]["database:crm"]["identity"]["system_identifier"].isdigit()
    assert survey["expected"]["database:old"]["identity"]["datadir"] == "/var/lib/mysql/"
    assert len(survey["machine_id"]) == 32
    assert {finding["id"] for finding in survey["findings"]} == {
        "listener:tcp/9099:stranger.service",
        "database:postgresql/5432/forgotten",
        "database:mariadb/3306/other",
        "cron:/etc/cron.d/stranger",
    }
    staging = survey["staging"]
    assert sorted(staging) == ["database:crm", "filestore:files"] and staging["database:crm"]["problem"] == ""
    assert "staging /srv is open to others (mode 0755) and holds" in staging["filestore:files"]["problem"]
    assert before == host.snapshot("/etc", "/srv", "/root")
    # frozen and closed it is still the same estate
    host.module("scheduler_state", item=ITEM, **SCHEDULER)
    host.module("web_closed", item=ITEM, **SITE_OPTIONS)
    again = host.module("host_survey", **options)["survey"]
    assert again["expected"] == survey["expected"] and again["findings"] == survey["findings"]
    host.module("web_closed", item=ITEM, state="open", **SITE_OPTIONS)
    host.module("scheduler_state", item=ITEM, state="restored", **SCHEDULER)


def test_survey_finds_what_is_not_declared(host: HostContainer, postgresql: None, mariadb: None) -> None:
    host.shell("install -m 0600 /dev/stdin /var/spool/cron/crontabs/nobody <<C\n@daily true\nC")
    host.shell("mkdir -p /var/lib/lxd && touch /var/lib/lxd/unix.socket")
    ids = {finding["id"] for finding in host.module("host_survey", items=[])["survey"]["findings"]}
    assert ids >= {
        "listener:tcp/80:nginx.service",
        "listener:tcp/8000:crm-web.service",
        "listener:tcp/8100:crm-sock.socket",
        "listener:tcp/5432:postgresql@15-main.service",
        "listener:tcp/3306:mariadb.service",
        "listener:tcp/6379:redis-server.service",
        "database:postgresql:/var/lib/postgresql/15/main",
        "database:mariadb:/var/lib/mysql",
        "cron:/etc/cron.d/crm",
        "cron:timer/crm-digest.timer",
        "cron:/var/spool/cron/crontabs/nobody",
        "engine:lxd",
    }
    host.shell("rm -r /var/lib/lxd /var/spool/cron/crontabs/nobody")


def test_survey_three_values(host: HostContainer, postgresql: None) -> None:
    """Absent is no; what nobody could answer for is unknown, never no."""
    database = {"kind": "database", "engine": "postgresql", "port": 5432}
    items = [
        dict(database, name="absent", database="absent"),
        dict(database, name="elsewhere", database="crm", data="/srv/elsewhere"),
        dict(database, name="silent", database="crm", port=5999),
        {"kind": "filestore", "name": "gone", "path": "/srv/gone"},
        {"kind": "medium", "name": "gone", "device": "/dev/no-such-device"},
        {"kind": "application", "name": "gone", "services": [{"unit": "gone.service"}]},
        {"kind": "container", "name": "stack"},
    ]
    expected = host.module("host_survey", items=items)["survey"]["expected"]
    assert {name: facts["found"] for name, facts in expected.items()} == {
        "database:absent": "no", "database:elsewhere": "no", "database:silent": "unknown", "filestore:gone": "no",
        "medium:gone": "no", "application:gone": "no", "container:stack": "unknown",
    }  # fmt: skip
    assert all(facts["detail"] for facts in expected.values())
    refused(lambda: host.module("host_survey", items=[{"kind": "filestore", "name": "x"}]), "filestore:x", "path")
