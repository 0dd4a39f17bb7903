# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import pytest

from ansible_collections.sunset.crm.plugins.module_utils._survey import rules as survey_rules

ANY = ".".join("0000")
ITEMS = [
    {
        "kind": "application", "name": "crm", "profile": "p", "services": [{"unit": "web.service"}],
        "schedulers": {"units": ["jobs.service"], "cron_files": ["/etc/cron.d/crm"]}, "web": {"server": "nginx"},
    },
    {"kind": "database", "name": "crm", "engine": "postgresql", "database": "crm", "unit": "postgresql@15-main.service"},
]  # fmt: skip
RANGE = (32768, 60999)


def ids(findings):
    return [one["id"] for one in findings]


def row(port, unit=None, comm="x", address=ANY, proto="tcp", uid=0):
    return {"proto": proto, "address": address, "port": port, "unit": unit, "comm": comm, "uid": uid, "inode": port}


def test_declared_units():
    covered = survey_rules.covered_units(ITEMS, {"p": {"units": ["redis.service"]}})
    assert covered == {"web.service", "jobs.service", "nginx.service", "postgresql@15-main.service", "redis.service"}
    assert "docker.service" in survey_rules.covered_units([{"kind": "container", "name": "x"}], {})


def test_listeners():
    covered = survey_rules.covered_units(ITEMS, {})
    rows = [
        row(8000, "web.service"), row(22, "ssh.service"), row(9099, "old.service"), row(9099, "old.service", address="::"),
        row(9098, None, "nc"), row(9097, None, None), row(50000, "rpc.service"), row(9096, "session-4.scope", "python3"),
    ]  # fmt: skip
    found = survey_rules.judge_listeners(rows, covered, RANGE)
    assert ids(found) == [
        "listener:tcp/9096:login:python3",
        "listener:tcp/9097:unknown",
        "listener:tcp/9098:nc",
        "listener:tcp/9099:old.service",
        "listener:tcp/dynamic:rpc.service",
    ]
    assert "0.0.0.0, ::" in found[3]["what"]


def test_a_holder_that_cannot_be_seen_is_known_by_the_sockets_user():
    rows = [row(5432, comm=None, uid=901), row(8000, comm=None, uid=905), row(8001, comm=None, uid=906), row(53, comm=None, uid=7)]
    candidates = {
        901: {"postgresql@15-main.service": "postgres"},
        905: {"web.service": "gunicorn", "jobs.service": "creme"},
        906: {"web.service": "gunicorn", None: "nc"},
    }
    covered = survey_rules.covered_units(ITEMS, {})
    survey_rules.attribute_by_uid(rows, candidates, covered)
    assert ids(survey_rules.judge_listeners(rows, covered, RANGE)) == ["listener:tcp/53:unknown", "listener:tcp/8001:user 906"]


def test_the_engines_own_name_server_is_no_finding():
    rows = [row(40000, comm=None, address="127.0.0.11"), row(40001, comm="nc", address="127.0.0.11")]
    assert survey_rules.drop_resolver(rows, "nameserver 127.0.0.11\n") == rows[1:]
    assert survey_rules.drop_resolver(rows, "nameserver 10.0.0.1\n") == rows


def test_databases():
    names = {"crm": 9, "postgres": 0, "template0": None, "template1": 0, "forgotten": 3, "locked": None}
    found = survey_rules.judge_databases("postgresql", "5432", names, {"crm"})
    assert ids(found) == ["database:postgresql/5432/forgotten", "database:postgresql/5432/locked"]
    assert "unknown number" in found[1]["what"]
    # somebody put tables into the maintenance database
    assert ids(survey_rules.judge_databases("postgresql", "5432", {"postgres": 1}, set())) == ["database:postgresql/5432/postgres"]
    assert ids(survey_rules.judge_databases("mariadb", "3306", {"mysql": 30, "sys": 1, "test": 0}, set())) == ["database:mariadb/3306/test"]


def test_cron():
    files = {
        "/etc/cron.d/crm": {"lines": 1},
        "/etc/cron.d/.crm.sunset-frozen": {"lines": 1},
        "/etc/cron.d/.other.sunset-frozen": {"lines": 1},
        "/etc/cron.d/.placeholder": {"lines": 0},
        "/etc/cron.d/e2scrub_all": {"lines": 2},
        "/etc/cron.d/empty": {"lines": 0},
        "/etc/cron.d/locked": {"lines": None},
        "/etc/cron.daily/logrotate": {"lines": 1},
        "/etc/cron.daily/backup": {"lines": 1},
        "/var/spool/cron/crontabs/bob": {"lines": 3},
    }
    found = survey_rules.judge_cron(files, {"/etc/cron.d/crm"})
    assert ids(found) == [
        "cron:/etc/cron.d/.other.sunset-frozen",
        "cron:/etc/cron.d/locked",
        "cron:/etc/cron.daily/backup",
        "cron:/var/spool/cron/crontabs/bob",
    ]
    assert "unreadable" in found[1]["what"] and "user bob" in found[3]["what"]


def test_timers():
    timers = {
        "apt-daily.timer": {"triggers": "apt-daily.service"},
        "systemd-tmpfiles-clean.timer": {"triggers": "x"},
        "crm.timer": {"triggers": "jobs.service"},
        "certbot.timer": {"triggers": "certbot.service"},
    }
    assert ids(survey_rules.judge_timers(timers, survey_rules.covered_units(ITEMS, {}))) == ["cron:timer/certbot.timer"]


def test_crontab_of_the_base_system():
    text = "17 * * * * root cd / && run-parts --report /etc/cron.hourly\n"
    assert survey_rules.base_commands(text) == 0
    assert survey_rules.base_commands(text + "1 * * * * root backup\n") == 1


MOUNTS = """22 1 254:0 / / rw shared:1 - ext4 /dev/sda1 rw
30 22 8:17 / /srv/crm\\040files rw,relatime shared:2 - xfs /dev/sdb1 rw
31 22 8:33 / /mnt/old rw - ext4 /dev/sdc1 rw
32 31 8:33 /sub /mnt/again rw - ext4 /dev/sdc1 rw
33 22 0:5 / /proc rw - proc proc rw
broken
"""


def test_mounts():
    mounts = survey_rules.parse_mountinfo(MOUNTS)
    assert [one["point"] for one in mounts] == ["/", "/srv/crm files", "/mnt/old", "/mnt/again", "/proc"]
    assert survey_rules.mount_of("/srv/crm files/a/b", mounts)["number"] == "8:17"
    assert survey_rules.mount_of("/srv/crm filesystem", mounts)["number"] == "254:0"
    assert ids(survey_rules.judge_mounts(mounts, set(), {"254:0", "8:17", "0:5"})) == ["mount:/mnt/old"]


@pytest.mark.parametrize(
    "items, word",
    [
        (["x"], "item 1"),
        ([{"kind": "database"}], "item 1"),
        ([{"kind": "filestore", "name": "a"}], "filestore:a: path missing"),
        ([{"kind": "host", "name": "a"}, {"kind": "host", "name": "a"}], "host:a is declared twice"),
    ],
)
def test_bad_declarations(items, word):
    assert word in survey_rules.declaration_problem(items)


def test_good_declarations():
    assert survey_rules.declaration_problem(ITEMS) is None
