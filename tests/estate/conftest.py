# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The story of one estate, from the first survey to the audit, told in session fixtures.

Each fixture brings the estate one step further and keeps what was seen on the way; the tests judge that. The files are
numbered because the estate goes one way only. A single test can be run alone: its fixtures first take the estate there.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests import lab
from tests.estate import world
from tests.estate.driver import CLASSIFIED, HERE, LEDGER, Done, Play, play, wave
from tests.lab import demo, engine, paths, persons
from tests.lab.layout import HOSTS, HYPERVISOR, SIMULATED
from tests.lab.shell import no_more_lines, together, wait_for

PILOT, MAIN = wave("pilot"), wave("main")
# Bytes a second, so that there is a middle to be killed in: half a megabyte of dump, 320 MB of disk.
SLOW_DUMP, SLOW_WIPE = "12000", "60000000"


@dataclass
class Killed:
    """A run that was killed, and what went on without it."""

    step: dict[str, Any]
    run: str
    progress: dict[str, Any] = field(default_factory=dict)


@dataclass
class First:
    """What the estate was like before anybody touched it."""

    world: dict[str, Any]
    files: dict[str, str]
    checked: Done | None = None


def killed_at(action: Play, item: str, aspect: str, *, workers: bool = True) -> Killed:
    """Kill the run as soon as the ledger says that it is about to do this."""
    before = len(LEDGER.entries())
    step = action.until(f"{aspect} of {item}", lambda: [e for e in LEDGER.find("intent", item=item, aspect=aspect) if e["n"] >= before])[0]
    with no_more_lines(LEDGER.file):
        action.kill(workers=workers)
    return Killed(step, step["run"])


def again(*arguments: str, tries: int = 3) -> Done:
    """The same command until it is through: work that outlived a killed controller may still have its hands on an item."""
    for _ in range(tries):
        done = play(*arguments)
        if done.rc == 0 or "is at work on" not in done.flat:
            break
        time.sleep(2)
    return done


@pytest.fixture(scope="session")
def fresh() -> None:
    """The estate as on the first day, with an empty folder on the control node."""
    assert os.geteuid() == 0, "the lab needs root"
    lab.reset()


@pytest.fixture(scope="session")
def planned(fresh: None) -> Done:
    """Surveyed with a person's classification of what nobody planned, approved by alice."""
    done = play("survey", *CLASSIFIED).well()
    persons.approve()
    return done


@pytest.fixture(scope="session")
def untouched(planned: Done) -> First:
    files = {"/etc/cron.d/creme": "app1", "/etc/cron.d/oldcrm": "old1", "/etc/nginx/sites-available/creme.conf": "app1"}
    return First(world.snapshot(), {path: world.file_digest(host, path) for path, host in files.items()})


@pytest.fixture(scope="session")
def checked(untouched: First) -> First:
    """The whole shutdown in check mode, every wave."""
    if LEDGER.lines():
        pytest.fail("the estate is not untouched any more")
    untouched.checked = play("shutdown", "--check")
    return untouched


# The pilot: two crashes


@pytest.fixture(scope="session")
def pilot_without_vault2(untouched: First) -> Done:
    """The second vault runs on, but nobody reaches it."""
    with world.unreachable("vault2"):
        return play("shutdown", *PILOT)


@pytest.fixture(scope="session")
def pilot_killed_in_dump(pilot_without_vault2: Done) -> Killed:
    action = Play("shutdown", *PILOT, "-e", f"preserve_rate={SLOW_DUMP}")
    step = action.until("the dump", LEDGER.has("intent", item="database:oldcrm", aspect="dump"))[0]
    progress = action.until("the dumper at work", lambda: (now := dump_progress()).get("phase") == "dump" and now)
    action.kill()
    return Killed(step, step["run"], progress)


def dump_progress() -> dict[str, Any]:
    return world.progress("old1", "/srv/mydata/.sunset-staging/*/job-*/progress.json")


@pytest.fixture(scope="session")
def dump_attached(pilot_killed_in_dump: Killed) -> Done:
    """Another run that comes to the dump while the first one's job is still at it."""
    return play(str(HERE / "plays" / "straight_to_dump.yml"), *PILOT)


@pytest.fixture(scope="session")
def pilot_killed_in_power_off(dump_attached: Done) -> Killed:
    """The run that went on after the first crash, killed in turn: the main process alone, its workers live on."""
    return killed_at(Play("shutdown", *PILOT), "host:old1", "power", workers=False)


@pytest.fixture(scope="session")
def pilot(pilot_killed_in_power_off: Killed) -> Done:
    return again("shutdown", *PILOT).well()


# The main wave: a crash and a way back, a host that cannot be reached, another crash, another way back, then at last the whole


@pytest.fixture(scope="session")
def main_killed_in_freeze(pilot: Done) -> Killed:
    return killed_at(Play("shutdown", *MAIN), "application:creme", "service")


@pytest.fixture(scope="session")
def resumed_after_freeze(main_killed_in_freeze: Killed) -> Done:
    return again("resume", *MAIN)


@pytest.fixture(scope="session")
def main_without_app1(resumed_after_freeze: Done) -> Done:
    """app1 is lost when everything on it is preserved and stopped, just before the first host is powered off."""
    action = Play("shutdown", *MAIN)
    before = len(LEDGER.entries())
    stopped = LEDGER.has("outcome", item="database:creme-queue", aspect="service", status="done")
    action.until("the last service of app1 to be stopped", lambda: [e for e in stopped() if e["n"] >= before])
    with ExitStack() as cut:
        with no_more_lines(LEDGER.file):
            cut.enter_context(world.unreachable("app1"))
        done = action.wait()
        on = world.powered()
    return Done(done.rc, done.seconds, f"{done.text}\nstill on: {' '.join(sorted(name for name in on if on[name]))}")


@pytest.fixture(scope="session")
def main_killed_in_power_off(main_without_app1: Done) -> Killed:
    return killed_at(Play("shutdown", *MAIN), "host:app1", "power")


@pytest.fixture(scope="session")
def main_dark(main_killed_in_power_off: Killed) -> Done:
    return again("shutdown", *MAIN).well()


@pytest.fixture(scope="session")
def resumed_from_dark(main_dark: Done) -> Done:
    return again("resume", *MAIN)


@pytest.fixture(scope="session")
def main(resumed_from_dark: Done) -> Done:
    """The main wave from end to end without a break: the first run that the second is measured against."""
    if world.powered()["app1"]:
        assert lab.web.creme_login() is not None
    return play("shutdown", *MAIN).well()


@pytest.fixture(scope="session")
def lines_before_second(main: Done) -> int:
    return len(LEDGER.entries())


@pytest.fixture(scope="session")
def second(main: Done, lines_before_second: int) -> Done:
    """The same command again, with everything off."""
    return play("shutdown", *MAIN)


@dataclass
class Rebooted:
    """What ran on the hypervisors after they had been switched on again by hand, and once more after their daemons were restarted."""

    real: list[dict[str, set[str]]]
    simulated: list[dict[str, Any]]


@pytest.fixture(scope="session")
def rebooted(second: Done) -> Rebooted:
    """Both hypervisors booted past the collection, their daemons restarted, switched off again."""
    seen = Rebooted([], [])
    hypervisors = {HYPERVISOR: "libvirtd.service", SIMULATED: "pveproxy.service"}
    together(lab.start, hypervisors)

    def look() -> None:
        wait_for("libvirt answers", lambda: engine.answers(HOSTS[HYPERVISOR].container, ["virsh", "list"]))
        wait_for("the simulation answers", world.simulation_answers)
        seen.real.append(world.real_guests())
        seen.simulated.append(world.simulated_guests())

    look()
    for name, unit in hypervisors.items():
        lab.execute(name, ["systemctl", "restart", unit])
    look()
    together(lab.stop, hypervisors)
    return seen


# The wipe


@pytest.fixture(scope="session")
def dark_media(rebooted: Rebooted) -> dict[str, str]:
    """Digest of each medium, with every host off and nothing wiped."""
    # The last who has a file system mounted, in whatever namespace, writes to it when he lets it go.
    wait_for("all file systems of the media to be let go", lambda: not world.mounted_somewhere(), 600)
    return world.media_digests()


@pytest.fixture(scope="session")
def attested(dark_media: dict[str, str]) -> list[tuple[str, str]]:
    """Bob has shown that every package of every vault opens with his key."""
    found = demo.packages()
    for package, vault in found:
        persons.challenge(package, vault)
    return found


@pytest.fixture(scope="session")
def authorised(attested: list[tuple[str, str]]) -> None:
    """Nothing is missing any more: waiver of the grace period, authorisation by the second person."""
    persons.waive_grace("*")
    persons.authorise()


@pytest.fixture(scope="session")
def wipe_killed(authorised: None) -> Killed:
    action = Play("wipe", "-e", f"wipe_rate={SLOW_WIPE}")
    step = action.until("the first wipe", LEDGER.has("intent", aspect="wipe"))[0]
    progress = action.until("bytes of the wipe", lambda: (now := wipe_progress()).get("percent", 0) > 5 and now)
    action.kill()
    return Killed(step, step["run"], progress)


def wipe_progress() -> dict[str, Any]:
    return world.progress("station1", "/var/lib/sunset-crm/wipe/*/progress.json")


@pytest.fixture(scope="session")
def wiped(wipe_killed: Killed) -> Done:
    return again("wipe").well()


@pytest.fixture(scope="session")
def certificates(wiped: Done) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((paths.ESTATE / "certificates").iterdir())}
