# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab's three images: one Debian 12 with systemd for every host of the CRM, one for those that carry virtual machines, and one
of a few MB for the application stack.

Each has a recipe; its hash names the cached tar and the engine's tag, so a changed recipe makes a new image and an
unchanged one is made once for all clones.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

from . import paths
from .shell import LabError, locked, out, run, say

RECIPE = paths.HERE / "image"
PACKAGES = (
    # a host as an operations team knows it
    "systemd,systemd-sysv,dbus,openssh-server,cron,nginx-light,ca-certificates,curl,iproute2,procps,attr,acl,openssl",
    # what the CRM runs on, and what the vault proves copies with
    "python3,python3-venv,python3-xlsxwriter,postgresql,mariadb-server,redis-server,age,zstd",
)
LEFT_OUT = (
    # not read by anything here, a fifth of the image; without llvmjit.so PostgreSQL simply has no JIT
    "/usr/share/man/*",
    "/usr/share/doc/*",
    "/usr/share/locale/*",
    "/usr/share/i18n/*",
    "/usr/lib/postgresql/*/lib/llvmjit*",
    "/usr/lib/postgresql/*/lib/bitcode/*",
    "/usr/lib/*/libLLVM*",
)
# Hosts that carry virtual machines. libvirt-daemon-system would bring a firewall and a bridge, which a container has no use for.
GUESTS_RECIPE = paths.HERE / "image_guests"
GUESTS_PACKAGES = (
    "systemd,systemd-sysv,dbus,openssh-server,cron,ca-certificates,iproute2,procps,python3,python3-venv",
    "libvirt-daemon,libvirt-daemon-driver-qemu,libvirt-clients,qemu-system-x86,qemu-utils,seabios",
)
# The simulated Proxmox VE cluster: AGPL, a test dependency, never part of the collection.
GUESTS_WHEELS = ("fakepve==0.5.0",)
MINI_COMMANDS = ("sh", "cat", "date", "httpd", "ls", "mkdir", "mv", "printf", "seq", "sleep", "sync", "true", "wget")
WHEELS = ("creme-crm[pgsql]", "psycopg[binary]", "gunicorn")


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]


def recipe_hash() -> str:
    files = sorted(path for path in RECIPE.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return _hash(
        " ".join(PACKAGES),
        " ".join(LEFT_OUT),
        " ".join(WHEELS),
        *(f"{path.relative_to(RECIPE)}:{path.stat().st_mode & 0o111}:{path.read_text()}" for path in files),
    )


def guests_recipe_hash() -> str:
    files = (RECIPE / "before-packages", GUESTS_RECIPE / "after-packages")
    return _hash(" ".join(GUESTS_PACKAGES), " ".join(LEFT_OUT), " ".join(GUESTS_WHEELS), *(path.read_text() for path in files))


def host_image() -> str:
    return f"{paths.NAME}:{recipe_hash()}"


def guests_image() -> str:
    return f"{paths.NAME}-guests:{guests_recipe_hash()}"


def mini_image() -> str:
    return f"{paths.NAME}-mini:1"


def _there(image: str) -> bool:
    return run(["docker", "image", "inspect", image], check=False).returncode == 0


def _wheels(wanted: tuple[str, ...]) -> Path:
    """Creme, or the simulation, and all it needs as wheels: downloaded here, where pip and its settings work, installed offline there."""
    # By the interpreter that the hosts have too (Debian 12's own), so that the wheels and their conditions fit.
    python = next((path for path in (Path("/usr/bin/python3.11"), paths.TOP / ".venv/bin/python") if path.exists()))
    folder = paths.CACHE / "wheels" / _hash(str(python), *wanted)
    if not (folder / ".complete").exists():
        say(f"fetching the wheels of {wanted[0]}")
        folder.mkdir(parents=True, exist_ok=True)
        pip = [str(paths.TOP / ".venv/bin/python"), "-m", "pip", "--python", str(python)]
        run([*pip, "wheel", "--quiet", "--prefer-binary", "--wheel-dir", str(folder), *wanted])
        (folder / ".complete").touch()
    return folder


def _build(target: Path, packages: tuple[str, ...], after: Path, wheels: tuple[str, ...]) -> None:
    fetched = _wheels(wheels)
    say(f"building the image {target.name} with mmdebstrap (about a minute and a half)")
    part = target.with_name(f"part-{target.name}")
    mirror = os.environ.get("SUNSET_LAB_MIRROR")
    argv = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        f"--include={','.join(packages)}",
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT),
        f'--essential-hook={RECIPE}/before-packages "$1"',
        f'--customize-hook={after}/after-packages "$1" {fetched}',
        "bookworm",
        str(part),
        *([mirror] if mirror else []),
    ]
    try:
        run(argv)
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def _import(tar: Path, image: str) -> None:
    say(f"importing {image}")
    packed = subprocess.Popen(["zstd", "-dcq", str(tar)], stdout=subprocess.PIPE)
    changes = ["-c", "ENV container=docker", "-c", 'CMD ["/sbin/init"]', "-c", f"LABEL {paths.NAME}=1"]
    done = subprocess.run(
        ["docker", "import", *changes, "-", image],
        stdin=packed.stdout,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if packed.wait() != 0:
        tar.unlink()
        raise LabError(f"{tar} cannot be unpacked: it was removed, run the same command again")
    if done.returncode != 0:
        raise LabError(f"docker import {image} failed: {done.stderr.decode().strip()}")


def ensure_host_image() -> str:
    return _ensure(host_image(), f"host-{recipe_hash()}", lambda tar: _build(tar, PACKAGES, RECIPE, WHEELS))


def ensure_guests_image() -> str:
    """The image of hosts that carry virtual machines."""
    return _ensure(guests_image(), f"guests-{guests_recipe_hash()}", lambda tar: _build(tar, GUESTS_PACKAGES, GUESTS_RECIPE, GUESTS_WHEELS))


def _ensure(image: str, title: str, build: Callable[[Path], None]) -> str:
    if _there(image):
        return image
    tar = paths.CACHE / "images" / f"{title}.tar.zst"
    tar.parent.mkdir(parents=True, exist_ok=True)
    # Tests of several kinds may ask for it at once: one makes it, the others wait.
    with locked(tar.parent / ("lock" if title.startswith("host-") else f"lock-{title.partition('-')[0]}")):
        if _there(image):
            return image
        if not tar.exists():
            build(tar)
        _import(tar, image)
        _forget_older(tar, image)
    return image


def _forget_older(tar: Path, image: str) -> None:
    """Tars and images of earlier recipes; one that a container still uses stays until the next time."""
    for other in tar.parent.glob(f"{tar.name.partition('-')[0]}-*.tar.zst"):
        if other != tar:
            other.unlink()
    for name in out(["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}", image.partition(":")[0]]).split():
        if name != image:
            run(["docker", "image", "rm", name], check=False)
    run(["docker", "image", "prune", "-f", "--filter", f"label={paths.NAME}=1"], check=False)


def _mini_tar(binary: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("bin", "tmp", "data", "etc"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        entry = tarfile.TarInfo("bin/busybox")
        entry.size, entry.mode = len(binary), 0o755
        tar.addfile(entry, io.BytesIO(binary))
        for name in MINI_COMMANDS:
            entry = tarfile.TarInfo(f"bin/{name}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    return stream.getvalue()


def ensure_mini_image() -> str:
    """BusyBox alone, for the containers of the application stack."""
    image = mini_image()
    if not _there(image):
        busybox = Path("/bin/busybox")
        if not busybox.exists():
            raise LabError("there is no /bin/busybox (Debian package busybox-static): run scripts/bootstrap")
        run(
            ["docker", "import", "-c", f"LABEL {paths.NAME}=1", "-c", 'CMD ["/bin/sh"]', "-", image],
            stdin=_mini_tar(busybox.read_bytes()),
        )
    return image


def remove_images() -> None:
    for identity in set(out(["docker", "image", "ls", "-q", "--filter", f"label={paths.NAME}=1"]).split()):
        run(["docker", "image", "rm", "-f", identity], check=False)


def describe() -> str:
    return json.dumps({"host": host_image(), "guests": guests_image(), "mini": mini_image()})
