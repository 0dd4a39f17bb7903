# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs inside the rescue system: its first process, the look at itself, the power switch.

Private to the collection. Valid for Python 3.6, standard library. Travels into the RAM file system as one file.

C(init) is process 1: it sets up devices, network and SSH as the spec says and never ends; whatever fails is said on the
console, and the system stays up. It mounts nothing from a disk. C(look) prints what the control node judges. C(poweroff) switches off.
"""

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any, Dict, List  # noqa: F401

SPEC = "/sunset/rescue.json"
MARKER = "/run/sunset-rescue.json"
SSHD_CONFIG = "/sunset/sshd_config"
RB_POWER_OFF = 0x4321FEDC
NETWORK_PATIENCE = 60
FIRST_MOUNTS = (("proc", "/proc", "proc"), ("sysfs", "/sys", "sysfs"), ("devtmpfs", "/dev", "devtmpfs"), ("devpts", "/dev/pts", "devpts"))


def read(path):
    # type: (str) -> str
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8", "replace").strip()
    except (OSError, IOError):
        return ""


def say(text):
    # type: (str) -> None
    """On every console, and nowhere else: there is no disk to write to."""
    for path in ("/dev/console", "/dev/kmsg"):
        try:
            with open(path, "w") as stream:
                stream.write("sunset rescue: %s\n" % text)
            return
        except (OSError, IOError):
            continue


def mount(source, target, kind):
    # type: (str, str, str) -> None
    if not os.path.isdir(target):
        os.makedirs(target)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(0), None) != 0:
        code = ctypes.get_errno()
        if code != errno.EBUSY:
            say("%s cannot be mounted: %s" % (target, os.strerror(code)))


def run(argv):
    # type: (List[str]) -> int
    """One helper program; its complaint goes to the console."""
    try:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out = child.communicate()[0].decode("utf-8", "replace").strip()
    except OSError as exc:
        say("%s: %s" % (argv[0], exc.strerror))
        return 127
    if child.returncode != 0:
        say("%s: exit code %d: %s" % (" ".join(argv), child.returncode, out[-300:]))
    return child.returncode


# --- the network


def interfaces():
    # type: () -> Dict[str, str]
    """Hardware address -> name of the interfaces that a device stands behind."""
    folder, found = "/sys/class/net", {}  # type: str, Dict[str, str]
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if os.path.exists(os.path.join(folder, name, "device")):
            found[read(os.path.join(folder, name, "address")).lower()] = name
    return found


def take_up(ip, link):
    # type: (str, Dict[str, Any]) -> None
    run([ip, "link", "set", link["name"], "mtu", str(link["mtu"])])
    run([ip, "link", "set", link["name"], "up"])
    for address in link["addresses"]:
        # nodad: nobody else has an address that this very host had a minute ago.
        run([ip, "address", "add", address, "dev", link["name"]] + (["nodad"] if ":" in address else []))


def making(ip, link, there):
    # type: (str, Dict[str, Any], bool) -> List[List[str]]
    """The commands that make a bond, VLAN or bridge of the cards that are up. there: the kernel's module has made it by itself. Pure."""
    name, over, options = link["name"], link["over"], link["options"]
    if link["kind"] == "vlan":
        found = [[ip, "link", "add", "link", over[0], "name", name, "type", "vlan", "id", options["id"]]]
        return found + [[ip, "link", "set", name, "address", link["mac"]]]
    # No guest runs here, so a bridge forwards for nobody and need not listen for loops first.
    kind = ["bridge", "stp_state", "0", "forward_delay", "0"]
    if link["kind"] == "bond":
        words = [word for key in sorted(options) if key != "primary" for word in (key, options[key])]
        kind = ["bond"] + words
    found = [] if there else [[ip, "link", "add", name, "type", link["kind"]]]
    found += [[ip, "link", "set", name, "type"] + kind, [ip, "link", "set", name, "address", link["mac"]]]
    for lower in over:
        # A bond takes only cards that are down.
        found += [[ip, "link", "set", lower, "down"]] if link["kind"] == "bond" else []
        found += [[ip, "link", "set", lower, "master", name], [ip, "link", "set", lower, "up"]]
    if options.get("primary"):
        found.append([ip, "link", "set", name, "type", "bond", "primary", options["primary"]])
    return found


def network(spec):
    # type: (Dict[str, Any]) -> None
    """The addresses and routes that the host had, on the same cards: known by hardware address, since nothing renames them here."""
    ip = spec["ip"]
    run([ip, "link", "set", "lo", "up"])
    deadline = time.time() + NETWORK_PATIENCE
    while time.time() < deadline and not all(link["mac"] in interfaces() for link in spec["links"]):
        time.sleep(0.2)
    names = interfaces()
    # By way of a name that nobody has: eth0 and eth1 may have changed places.
    for number, link in enumerate(spec["links"]):
        if link["mac"] not in names:
            say("the network card %s (%s) did not appear" % (link["mac"], link["name"]))
        elif names[link["mac"]] != link["name"]:
            run([ip, "link", "set", names[link["mac"]], "name", "sunset%d" % number])
    for number, link in enumerate(spec["links"]):
        if link["mac"] not in names:
            continue
        if names[link["mac"]] != link["name"]:
            run([ip, "link", "set", "sunset%d" % number, "name", link["name"]])
        take_up(ip, link)
    for link in spec["made"]:
        for argv in making(ip, link, os.path.exists("/sys/class/net/" + link["name"])):
            run(argv)
        take_up(ip, link)
    for route in spec["routes"]:
        run([ip, "-6" if route["family"] == 6 else "-4", "route", "replace"] + route["words"])


# --- process 1


def start_sshd(spec):
    # type: (Dict[str, Any]) -> int
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            os.execv(spec["sshd"], [spec["sshd"], "-D", "-e", "-f", SSHD_CONFIG])
        finally:
            os._exit(127)
    return child


def main():
    # type: () -> None
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    for source, target, kind in FIRST_MOUNTS:
        mount(source, target, kind)
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
    os.umask(0o022)
    # The kernel's own choice may let everybody write there, and then sshd trusts no key below it.
    os.chmod("/", 0o755)  # noqa: S103
    with open(SPEC) as stream:
        spec = json.load(stream)
    if spec["modules"]:
        run([spec["modprobe"], "-a", "-b"] + spec["modules"])
    network(spec)
    with open(MARKER, "w") as stream:
        json.dump(spec["marker"], stream)
    sshd = start_sshd(spec)
    say("ready; this system lives in RAM only, nothing of a disk is mounted")
    while True:
        try:
            gone = os.wait()[0]
        except OSError:
            time.sleep(1)
            continue
        if gone == sshd:
            say("sshd has ended; it is started again")
            time.sleep(1)
            sshd = start_sshd(spec)


def init():
    # type: () -> None
    try:
        main()
    except BaseException as exc:  # process 1 must not end: the kernel would panic and nobody could read why
        say("it could not be set up: %s: %s. It stays up." % (type(exc).__name__, exc))
        while True:
            time.sleep(3600)


# --- what the control node asks for


def mounted():
    # type: () -> List[str]
    """Mount points whose file system lies on a block device, in every mount namespace that can be seen."""
    found = set()
    for pid in [name for name in os.listdir("/proc") if name.isdigit()]:
        for line in read("/proc/%s/mountinfo" % pid).splitlines():
            parts = line.split(" ")
            if len(parts) > 4 and not parts[2].startswith("0:"):
                found.add(parts[4])
    return sorted(found)


def root_type():
    # type: () -> str
    for line in read("/proc/self/mountinfo").splitlines():
        parts = line.split(" ")
        if len(parts) > 4 and parts[4] == "/" and " - " in line:
            return line.split(" - ", 1)[1].split(" ")[0]
    return "unknown"


def disks():
    # type: () -> List[Dict[str, Any]]
    found = []
    for name in sorted(os.listdir("/sys/block")):
        base = "/sys/block/" + name
        if os.path.exists(base + "/device"):
            serial = read(base + "/device/serial") or read(base + "/serial") or read(base + "/device/vpd_pg80")[4:].strip()
            found.append({"name": name, "serial": serial, "size": int(read(base + "/size") or 0) * 512})
    return found


def hardware():
    # type: () -> Dict[str, Any]
    """What tells this machine from another of the same make: its board's own words, its network cards."""
    words = {name: read("/sys/class/dmi/id/product_" + name) for name in ("uuid", "serial")}
    return {"board": {name: word for name, word in words.items() if word}, "macs": sorted(mac for mac in interfaces() if mac)}


def look():
    # type: () -> Dict[str, Any]
    """What this system is, without a word of judgement."""
    try:
        marker = json.loads(read(MARKER))
    except ValueError:
        marker = None
    return dict(hardware(), **{
        "marker": marker,
        "machine_id": read("/etc/machine-id"),
        "boot_id": read("/proc/sys/kernel/random/boot_id"),
        "kernel": os.uname()[2],
        "python": os.path.realpath(sys.executable),
        "root": root_type(),
        "mounted_from_disks": mounted(),
        "swap": [line.split()[0] for line in read("/proc/swaps").splitlines()[1:]],
        "disks": disks(),
        "memory_available": next((int(x.split()[1]) * 1024 for x in read("/proc/meminfo").splitlines() if x.startswith("MemAvailable")), 0),
    })  # fmt: skip


if __name__ == "__main__":
    NAME = os.path.basename(sys.argv[0])
    if NAME == "poweroff":
        os.sync()
        ctypes.CDLL(None).reboot(ctypes.c_int(RB_POWER_OFF - (1 << 32) if RB_POWER_OFF > 0x7FFFFFFF else RB_POWER_OFF))
        sys.exit(1)
    if NAME == "look":
        sys.stdout.write(json.dumps(look()) + "\n")
        sys.exit(0)
    init()
