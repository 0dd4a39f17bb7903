# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import re

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._service import scheduler as service_scheduler

CRONTAB = """
# m h dom mon dow user command
SHELL=/bin/bash
 MAILTO = admin@example.org
*/10 * * * * creme cd /srv && run --all   # not a comment for cron
@reboot root  /usr/local/bin/start
0 3 * * 1 root echo 50\\%% done%input
5 * * * * root
"""


def test_the_frozen_name_is_ignored_by_every_cron():
    frozen = service_scheduler.frozen_name("/etc/cron.d/crm")
    assert frozen == "/etc/cron.d/.crm.sunset-frozen"
    name = frozen.rsplit("/", 1)[1]
    assert not re.match(r"^[A-Za-z0-9_-]+$", name)  # Debian's cron reads only such names
    assert name.startswith(".")  # cronie passes over these


@pytest.mark.parametrize("path", ["/etc/cron.d/crm", "/etc/cron.d/a.b"])
def test_the_name_comes_back(path):
    assert service_scheduler.thawed_name(service_scheduler.frozen_name(path)) == path


@pytest.mark.parametrize("path", ["/etc/cron.d/crm", "/etc/cron.d/.sunset-frozen", "/etc/cron.d/.placeholder"])
def test_what_is_no_frozen_file(path):
    assert service_scheduler.thawed_name(path) is None


def test_commands_as_the_shell_gets_them():
    assert service_scheduler.cron_commands(CRONTAB) == [
        "cd /srv && run --all   # not a comment for cron",
        "/usr/local/bin/start",
        "echo 50%",
    ]
    assert service_scheduler.cron_commands("@daily true\n1 2 3 4 5 a b\n", with_user=False) == ["true", "a b"]


@pytest.mark.parametrize(
    "argv, yes",
    [
        (["/bin/sh", "-c", "cd /srv && run --all"], True),
        (["/bin/sh", "-c", " cd /srv && run --all "], True),
        (["cd", "/srv", "&&", "run", "--all"], True),
        (["/bin/sh", "-c", "cd /srv && run"], False),
        (["run", "--all"], False),
        ([], False),
    ],
)
def test_running_jobs_are_known_by_their_command(argv, yes):
    assert service_scheduler.is_run_of(argv, ["it's broken", "cd /srv && run --all"]) is yes


@pytest.mark.parametrize(
    "plain, frozen, verdict",
    [("a", None, "active"), (None, "a", "frozen"), ("a", "a", "active"), ("a", "b", "conflict"), (None, None, "absent")],
)
def test_verdict_on_a_file(plain, frozen, verdict):
    found, message = service_scheduler.file_verdict("/etc/cron.d/crm", plain, frozen)
    assert found == verdict
    assert bool(message) == (verdict in ("conflict", "absent"))


def test_files_as_they_lie(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("x")
    (tmp_path / ".two.sunset-frozen").write_text("y")
    found = service_scheduler.observe_files([str(one), str(two)])
    assert (found[str(one)]["state"], found[str(one)]["present"]) == ("active", True)
    assert (found[str(two)]["state"], found[str(two)]["present"]) == ("frozen", False)
    assert found[str(two)]["sha256"] and not found[str(two)]["leftover"]
