# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Brings the estate up, takes it down, puts single parts back. Safe to be killed at any point and called again.

What is finished is marked in the thing itself: a laid medium by a file beside its image, a set-up host by a file
inside it. What has no mark is made anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

from . import engine, image, inventory, loops, paths, people, prepared, stack, tree, web
from .layout import CONTAINER_HOST, HOSTS, HYPERVISOR, MEDIA, Host, Medium, devices_of, media_of
from .loops import Loop
from .shell import LabError, locked, run, say, together, wait_for

READY = "/etc/lab/ready"
RECIPE, WIRING = f"{paths.NAME}.recipe", f"{paths.NAME}.wiring"
CONSOLE = "/var/log/crm-wiki.console"
LOCK = paths.STATE / "lock"


def _daemon() -> None:
    run([str(paths.TOP / "scripts/dockerd-up")])


# Media


def _mark(medium: Medium) -> Path:
    return loops.file_of(medium).with_suffix(".laid")


def _laid(medium: Medium) -> bool:
    """The medium has its content: nobody was interrupted while laying it, nobody has wiped it since."""
    return _mark(medium).exists() and loops.label(medium) == medium.name


def _lay(medium: Medium, loop: Loop) -> None:
    # A medium that still has to be filled gets its mark when that is done.
    if prepared.lay(medium, loop):
        _mark(medium).touch()


def _attach_all() -> dict[str, Loop]:
    return {medium.name: loops.attach(medium) for medium in MEDIA.values()}


def _lay_missing(attached: dict[str, Loop]) -> None:
    missing = [medium for medium in MEDIA.values() if not _laid(medium)]
    if any(medium.name in prepared.PREPARED for medium in missing) and not prepared.there():
        # Filled together or not at all: Creme's database and its uploads belong to each other.
        missing = [medium for medium in MEDIA.values() if medium in missing or medium.name in prepared.PREPARED]
        for medium in missing:
            _mark(medium).unlink(missing_ok=True)
    for medium in missing:
        for host, _where in medium.mounts:
            engine.remove(HOSTS[host].container)  # it would have the old content mounted
        if medium.name == "shopvol":
            stack.remove()
    together(lambda medium: _lay(medium, attached[medium.name]), missing)


# Hosts


def _set_up(host: Host) -> bool:
    return engine.answers(host.container, ["test", "-e", READY])


def _finished(host: Host, running: bool) -> bool:
    """The same of a host that may be off."""
    return _set_up(host) if running else run(["docker", "cp", f"{host.container}:{READY}", "-"], check=False).returncode == 0


def _hash(*parts: bytes) -> str:
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _recipe(host: Host) -> str:
    return image.guests_recipe_hash() if host.guests else image.recipe_hash()


def _labels(tar: bytes, host: Host, devices: list[str], address: str) -> dict[str, str]:
    """What the container was made of, and how it is wired to this machine: two labels."""
    script = tree.script(host.name, "setup.sh", "start.sh") or b""
    return {
        RECIPE: _hash(tar, script, repr(host).encode(), _recipe(host).encode()),
        WIRING: _hash(repr((devices, address)).encode()),
    }


def _usable(host: Host, labels: dict[str, str]) -> bool:
    """There is a container for this host that an earlier run finished, or one that this very recipe began."""
    facts = engine.inspect(host.container)
    if facts is None:
        return False
    found = facts["Config"]["Labels"]
    if found.get(WIRING) != labels[WIRING]:
        return False
    if found.get(RECIPE) == labels[RECIPE]:
        return True
    if not _finished(host, facts["State"]["Running"]):
        return False
    say(f"{host.name} was made from an older recipe; `reset {host.name}` would renew it")
    return True


def _switch_on(host: Host) -> None:
    engine.start(host.container)
    wait_for(
        f"{host.name} to have booted",
        lambda: engine.answers(host.container, ["systemctl", "is-active", "--quiet", "multi-user.target"]),
    )


def _run_script(host: Host, *names: str) -> None:
    text = tree.script(host.name, *names)
    if text is not None:
        engine.execute(host.container, ["bash", "-s"], stdin=text)


class Up:
    """One run of `up`: what was found out once is kept here."""

    def __init__(self) -> None:
        _daemon()
        people.ensure()
        # One after the other: two builds at once take as long on two cores.
        self.images = {False: image.ensure_host_image(), True: image.ensure_guests_image()}
        image.ensure_mini_image()
        self.addresses = engine.ensure_network()
        self.subnet = self.addresses["app1"].rsplit(".", 1)[0] + ".0/24"
        self.loops = _attach_all()
        _lay_missing(self.loops)
        self.volume = stack.ensure_volume(self.loops["shopvol"])
        inventory.write(self.addresses, self.loops, self.volume)

    def host(self, host: Host) -> None:
        """The host runs and is set up. One that is set up stays as it is, even if its recipe is another by now."""
        devices = [self.loops[medium.name].device for medium in devices_of(host.name)]
        tar = tree.build(host, self.loops, self.volume, self.subnet, self.addresses[host.name])
        labels = _labels(tar, host, devices, self.addresses[host.name])
        if not _usable(host, labels):
            engine.remove(host.container)
            engine.create(host, self.images[host.guests], self.addresses, devices, labels)
            engine.put(host.container, tar)
        if not engine.running(host.container):
            _switch_on(host)
        if not _set_up(host):
            _run_script(host, "setup.sh")
            engine.execute(host.container, ["touch", READY])
            say(f"{host.name} is set up")

    def fill(self) -> None:
        """The first time: fills Creme and the old system through the real servers, and keeps the media."""
        say("filling Creme CRM and the old system (two minutes, the first time only)")
        together(lambda work: work(), [self._fill_creme, self._fill_old])
        carriers = [HOSTS[name] for name in ("app1", "db1", "old1")]
        together(lambda host: engine.stop(host.container), carriers)
        prepared.keep(self.loops)
        for medium in MEDIA.values():
            _mark(medium).touch()
        together(_switch_on, carriers)

    def _fill_creme(self) -> None:
        _run_script(HOSTS["app1"], "fill.sh")
        code = (paths.HERE / "hosts/app1/fill.py").read_bytes()
        argv = ["env", "-C", "/srv/creme/cremeproj", "DJANGO_SETTINGS_MODULE=cremeproj.settings", "PYTHONPATH=.:/usr/local/lib/lab"]
        engine.execute(HOSTS["app1"].container, [*argv, "/opt/creme/venv/bin/python", "-"], stdin=code, user="creme")

    def _fill_old(self) -> None:
        sql = run(["env", "-C", str(paths.TOP), sys.executable, "-m", "tests.lab.hosts.old1.fill"]).stdout
        engine.execute(HOSTS["old1"].container, ["mariadb", "oldcrm"], stdin=sql)

    def everything(self) -> None:
        together(self.host, HOSTS.values())
        stack.ensure()
        if not all(_laid(medium) for medium in MEDIA.values()):
            self.fill()
        for name in ("app1", "old1", HYPERVISOR):
            _run_script(HOSTS[name], "start.sh")
        together(lambda name: self.ready(HOSTS[name]), HOSTS)

    def ready(self, host: Host) -> None:
        """Seen from outside: SSH answers, and where there is a web site, it does."""
        argv = ["ssh-keyscan", "-T", "2", self.addresses[host.name]]
        wait_for(f"SSH of {host.name}", lambda: bool(run(argv, check=False).stdout))
        if host.name == HYPERVISOR:
            # It says so when it can hear the power button.
            wait_for("the Linux guest to have booted", lambda: engine.answers(host.container, ["grep", "-q", "^\\*", CONSOLE]), 300, 1)
        page = {"app1": "/creme_login/", "old1": "/"}.get(host.name)
        if page is not None:
            browser = web.Browser(host.name)
            wait_for(f"{browser.base}{page}", lambda: browser.ask(page)[0] == 200)


def up() -> None:
    """The whole estate, up and filled."""
    with locked(LOCK):
        Up().everything()
        say(f"the estate is up; inventory: {paths.INVENTORY}")


def filled() -> Path:
    """The folder with the filled media of Creme. A machine that has none gets it; an estate that was not there is taken down again."""
    if not prepared.there():
        alone = all(state == "absent" for _part, state in status())
        up()
        if not prepared.there():
            raise LabError("the lab that is up is not as on its first day, so its media cannot be kept: make lab-reset")
        if alone:
            down()
    return prepared.folder()


def down(remove_images: bool = False) -> None:
    """Removes all that the lab made on this machine; its caches stay, its images too unless asked."""
    with locked(LOCK):
        if run(["docker", "info"], check=False).returncode == 0:
            together(engine.remove, engine.ours())
            engine.remove_volumes_and_network()
            if remove_images:
                image.remove_images()
        for medium in MEDIA.values():
            loops.detach(medium)
            _mark(medium).unlink(missing_ok=True)
        for folder in (paths.MEDIA, paths.KEYS, paths.PEOPLE, paths.INVENTORY, paths.ESTATE):
            shutil.rmtree(folder, ignore_errors=True)
        paths.KNOWN_HOSTS.unlink(missing_ok=True)
        paths.FACTS.unlink(missing_ok=True)
        say("nothing of the lab is left" + ("" if remove_images else " but its images and caches"))


def host_of(name: str) -> Host:
    if name not in HOSTS:
        raise LabError(f"there is no host {name}; the lab has: {', '.join(HOSTS)}")
    return HOSTS[name]


def reset(*names: str) -> None:
    """Hosts as on the first day: container, media and, on the container host, the stack. Without names: all of them.

    All of them also means an empty estate folder: no plan, no ledger, no keys of an earlier run.
    """
    hosts = [host_of(name) for name in names or HOSTS]
    with locked(LOCK):
        together(lambda host: engine.remove(host.container), hosts)
        for host in hosts:
            if host.name == CONTAINER_HOST:
                stack.remove()
            for medium, _where in media_of(host.name):
                _mark(medium).unlink(missing_ok=True)
        if len(hosts) == len(HOSTS):
            shutil.rmtree(paths.ESTATE, ignore_errors=True)
        Up().everything()
        say(f"{', '.join(host.name for host in hosts)}: as on the first day")


def start(name: str) -> None:
    """Switches a host on, as its power button would."""
    _switch_on(host_of(name))


def stop(name: str) -> None:
    """Switches a host off, gracefully."""
    engine.stop(host_of(name).container)


def execute(name: str, argv: list[str], stdin: bytes | None = None, user: str = "root") -> str:
    """Runs a command inside a host, past SSH: what a test uses to look at the world from outside the collection."""
    return engine.execute(host_of(name).container, argv, stdin=stdin, user=user)


def addresses() -> dict[str, str]:
    return engine.ensure_network()


def media() -> dict[str, Loop]:
    """Each medium's device, file, inode and size, as the running estate has them."""
    return {name: Loop(**facts) for name, facts in json.loads(paths.FACTS.read_text())["media"].items()}


def status() -> list[tuple[str, str]]:
    """(part, state) for each part that there should be."""
    rows = []
    for host in HOSTS.values():
        facts = engine.inspect(host.container)
        state = "absent" if facts is None else facts["State"]["Status"]
        if state == "running" and not _set_up(host):
            state = "running, not set up"
        rows.append((host.name, state))
    for container in stack.CONTAINERS:
        facts = engine.inspect(container.name)
        rows.append((container.name, "absent" if facts is None else facts["State"]["Status"]))
    for medium in MEDIA.values():
        device = loops.device_of(medium)
        rows.append((f"medium {medium.name}", device or "absent"))
    return rows
