# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The containers, the network, the loop media, the keys and the inventory that all scenarios share."""

from __future__ import annotations

import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lab import engine, image, paths as lab, tree
from tests.lab.shell import LabError, out, run, together, wait_for

NAME = "sunset-molecule"
LABEL = f"{NAME}=1"
STATE = lab.STATE / "molecule"
KEYS, MEDIA, INVENTORY, READY = STATE / "keys", STATE / "media", STATE / "inventory.json", STATE / "ready"
# Where the hypervisors beside virt1 have their sockets and disks; the same path inside it.
GUESTS = STATE / "guests-world"
PEOPLE = ("alice", "bob")
PARTS = ("calm", "torn", "kept")
MIB = 1 << 20
SYSTEMD_IN_A_CONTAINER = ("--stop-signal", "SIGRTMIN+3", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp")


@dataclass(frozen=True)
class Host:
    name: str
    user: str = "root"
    extra: tuple[str, ...] = ()
    media: tuple[str, ...] = ()  # names of media whose device nodes it has
    mounts: bool = False
    setup: str = ""

    @property
    def container(self) -> str:
        return f"{NAME}-{self.name}"


SETUP_DATA = """
pg_createcluster --start-conf=auto 15 main -- --no-sync >/dev/null
printf 'fsync = off\\nmax_connections = 20\\nshared_buffers = 16MB\\n' >>/etc/postgresql/15/main/postgresql.conf
systemctl start postgresql@15-main
"""
SETUP_VAULT = "install -d -o vault -g vault -m 0700 /srv/vault && chown -R vault:vault /srv/vault\n"

# The engine's own client: a database in a container is reached by it.
DOCKER = os.path.realpath(shutil.which("docker") or "/usr/bin/docker")
HOSTS = {
    host.name: host
    for host in (
        Host("app1", setup="systemctl --quiet enable --now nginx.service cron.service\n"),
        Host("data1", setup=SETUP_DATA),
        Host("data2", setup=SETUP_DATA),
        Host("dock1", extra=("-v", "/var/run/docker.sock:/var/run/docker.sock", "-v", f"{DOCKER}:/usr/local/bin/docker:ro")),
        Host("gone1", media=PARTS),
        Host("idle1"),
        Host("idle2"),
        Host("seen1", media=("papers",), mounts=True, setup="systemctl --quiet enable --now cron.service\n"),
        Host("station1", media=PARTS),
        Host("store1"),
        Host("virt1", extra=("-v", f"{GUESTS}:{GUESTS}")),
        Host("vault1", user="vault", extra=("--shm-size", "512m"), setup=SETUP_VAULT),
    )
}
MEDIA_MIB = {"calm": 16, "torn": 16, "kept": 4, "papers": 16}


# --- commands in hosts ---


def execute(host: str, argv: list[str], stdin: bytes | None = None, user: str = "root") -> str:
    return engine.execute(HOSTS[host].container, argv, stdin=stdin, user=user)


def shell(host: str, script: str) -> str:
    """A script in a host, past SSH: neither the collection nor Ansible has a part in it."""
    return execute(host, ["bash", "-euo", "pipefail", "-s"], stdin=script.encode())


def write_files(host: str, files: dict[str, str]) -> None:
    tar = tree.Tar()
    for path, text in files.items():
        tar.add(path, text)
    engine.put(HOSTS[host].container, tar.bytes())


def psql(database: str, sql: str, host: str = "data1") -> str:
    argv = ["runuser", "-u", "postgres", "--", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database]
    return execute(host, argv, stdin=sql.encode()).strip()


# --- keys ---


def ssh_key(name: str) -> Path:
    path = KEYS / name
    if not path.with_suffix(".pub").exists():
        KEYS.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)])
    return path


def public(name: str) -> str:
    return " ".join(ssh_key(name).with_suffix(".pub").read_text().split()[:2])


def age_identity() -> tuple[Path, str]:
    """Bob's: he is the custodian of the packages."""
    path = KEYS / "bob.age"
    if not path.exists():
        KEYS.mkdir(mode=0o700, parents=True, exist_ok=True)
        run(["age-keygen", "-o", str(path)])
    return path, run(["age-keygen", "-y", str(path)]).stdout.decode().strip()


def allowed_signers() -> str:
    return "".join(f"{name} {public(name)}\n" for name in PEOPLE)


# --- loop media ---


def medium_file(name: str) -> Path:
    return MEDIA / f"MOLECULE-{name.upper()}.img"


def _attached(file: Path) -> list[str]:
    # By the name as well: a file that was removed while it was attached has no inode to be found by.
    rows = json.loads(out(["losetup", "--list", "--json", "--output", "NAME,BACK-FILE"]) or '{"loopdevices": []}')["loopdevices"]
    return [row["name"] for row in rows if str(row["back-file"]).removesuffix(" (deleted)") == str(file)]


def check_own(device: str, file: Path) -> None:
    """Refuses unless the device is a loop device that carries this file. Nothing else is ever opened for writing."""
    node = Path(device)
    if not stat.S_ISBLK(node.stat().st_mode) or os.major(node.stat().st_rdev) != 7:
        raise LabError(f"{device} is no loop device: not touched")
    backing = (Path("/sys/block") / node.name / "loop/backing_file").read_text().strip().removesuffix(" (deleted)")
    if backing != str(file):
        raise LabError(f"{device} carries {backing}, expected {file}: not touched")


def device(name: str) -> str:
    file = medium_file(name)
    MEDIA.mkdir(parents=True, exist_ok=True)
    if not file.exists():
        run(["fallocate", "-l", str(MEDIA_MIB[name] * MIB), str(file)])
    found = _attached(file)
    node = found[0] if found else out(["losetup", "--find", "--show", str(file)])
    check_own(node, file)
    return node


def identity(name: str) -> dict[str, Any]:
    file = medium_file(name)
    return {"kind": "loop", "serial": file.stem, "inode": file.stat().st_ino, "size": file.stat().st_size}


def fill_medium(name: str, content: bytes) -> None:
    """Through the device, past whatever was wiped or laid there."""
    node = device(name)
    with open(node, "r+b") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    run(["blockdev", "--flushbufs", node])


def _detach_all() -> None:
    for name in MEDIA_MIB:
        for node in _attached(medium_file(name)):
            check_own(node, medium_file(name))
            run(["losetup", "--detach", node])


# --- containers ---


def _tar(host: Host) -> bytes:
    tar = tree.Tar()
    tar.tree(tree.HOSTS_DIR / "common/rootfs")
    key = ssh_key("host")
    tar.add("/etc/ssh/ssh_host_ed25519_key", key.read_bytes(), 0o600)
    tar.add("/etc/ssh/ssh_host_ed25519_key.pub", key.with_suffix(".pub").read_bytes())
    home = "/root" if host.user == "root" else "/srv/vault"
    tar.folder(f"{home}/.ssh", 0o700)
    tar.add(f"{home}/.ssh/authorized_keys", public("control") + "\n", 0o600)
    return tar.bytes()


def _create(host: Host, host_image: str) -> None:
    # The image carries the lab's label; the lab must not take these for its own.
    argv = ["docker", "create", "--name", host.container, "--hostname", host.name, "--label", LABEL, "--label", f"{lab.NAME}=no"]
    argv += ["--network", NAME, "--restart", "no", *SYSTEMD_IN_A_CONTAINER, *engine.cgroup_arguments(), "--cap-add", "SYS_PTRACE"]
    if host.mounts:
        argv += ["--cap-add", "SYS_ADMIN", "--security-opt", "apparmor=unconfined"]
    for name in host.media:
        argv += ["--device", device(name)]
    run([*argv, *host.extra, host_image, "/sbin/init"])
    engine.put(host.container, _tar(host))


def start(name: str) -> None:
    host = HOSTS[name]
    engine.start(host.container)
    argv = ["systemctl", "is-active", "--quiet", "multi-user.target"]
    wait_for(f"{name} to have booted", lambda: engine.answers(host.container, argv))


def ensure_on(name: str) -> None:
    if not engine.running(HOSTS[name].container):
        start(name)


def _up(host: Host, host_image: str) -> None:
    _create(host, host_image)
    start(host.name)
    shell(host.name, "systemctl --quiet enable --now ssh.service\n" + host.setup)


def create() -> None:
    """All of it, always anew: what an interrupted run left is removed first."""
    run([str(lab.TOP / "scripts/dockerd-up")])
    destroy()
    host_image = image.ensure_host_image()
    image.ensure_mini_image()
    STATE.mkdir(mode=0o700, parents=True)
    run(["docker", "network", "create", "--label", LABEL, NAME])
    for name in (*PEOPLE, "control", "host"):
        ssh_key(name)
    age_identity()
    for name in MEDIA_MIB:
        device(name)  # one after the other: two hosts have the same disks
    together(lambda host: _up(host, host_image), HOSTS.values())
    READY.touch()


def destroy() -> None:
    """Nothing is left: containers, images of commits, network, loop devices, files."""
    found = out(["docker", "ps", "-a", "--filter", f"label={LABEL}", "--format", "{{.Names}}"]).split()
    together(engine.remove, found)
    for identity_ in out(["docker", "image", "ls", "-q", "--filter", f"label={LABEL}"]).split():
        run(["docker", "image", "rm", "-f", identity_], check=False)
    if run(["docker", "network", "inspect", NAME], check=False).returncode == 0:
        run(["docker", "network", "rm", NAME])
    _detach_all()
    shutil.rmtree(STATE, ignore_errors=True)


def addresses() -> dict[str, str]:
    """Each running host's address; a host that was off may have got another one."""
    rows = json.loads(out(["docker", "network", "inspect", NAME]))[0]["Containers"].values()
    known = {host.container: host.name for host in HOSTS.values()}
    return {known[row["Name"]]: row["IPv4Address"].split("/")[0] for row in rows if row["Name"] in known}


def machine_id(host: str) -> str:
    return execute(host, ["cat", "/etc/machine-id"]).strip()


def write_inventory(variables: dict[str, dict[str, Any]], shared: dict[str, Any]) -> None:
    """What extensions/molecule/inventory.py hands to Ansible."""
    known_hosts = STATE / "known_hosts"
    where = addresses()
    known_hosts.write_text("".join(f"{address} {public('host')}\n" for address in where.values()))
    options = f"-F none -o UserKnownHostsFile={known_hosts} -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
    common = {
        "ansible_ssh_private_key_file": str(ssh_key("control")),
        "ansible_ssh_common_args": options,
        "ansible_python_interpreter": "/usr/bin/python3",
        **shared,
    }
    hostvars = {
        name: {"ansible_host": where.get(name, name), "ansible_user": host.user, **variables.get(name, {})} for name, host in HOSTS.items()
    }
    document = {"_meta": {"hostvars": hostvars}, "all": {"hosts": list(HOSTS), "vars": common}, "sunset_estate": {"hosts": ["seen1"]}}
    # The survey looks at the vaults too.
    document["sunset_vaults"] = {"hosts": ["vault1"]}
    part = INVENTORY.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1))
    part.rename(INVENTORY)
