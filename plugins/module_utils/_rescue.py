# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a running host to a rescue system that lies ready in the kernel: what must hold, what it is made of, its first settings.

Private to the collection. Valid for Python 3.6, standard library. Nothing here jumps: C(JUMP) is a program of its own.
"""

import ctypes
import errno
import inspect
import json
import os
import platform
import re
import shutil
import subprocess
from typing import Any, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils import _rescue_init, _rescue_tree

# asm/unistd.h; elsewhere the call has no number that we know.
KEXEC_FILE_LOAD = {"x86_64": 320, "aarch64": 294, "ppc64le": 382, "s390x": 381, "riscv64": 294}
KEXEC_FILE_UNLOAD = 1
KEXEC_LOADED = "/sys/kernel/kexec_loaded"
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
MIB = 1 << 20
# What the rescue needs beside its own files: the kernel, Python at work, the buffers of a wipe.
HEADROOM = 192 * MIB
# Of the running kernel's arguments, those that say how this machine must be treated; the others say what to boot.
KEPT_ARGUMENTS = re.compile(
    r"(console|earlycon|earlyprintk|acpi|apic|noapic|nolapic|pci|pcie_\w+|iommu|intel_iommu|amd_iommu|nvme_core\.\S+|libata\.\S+|usbcore\.\S+|mem|memmap|clocksource|tsc|notsc|reboot|nomodeset|net\.ifnames)(=|$)"
)
ARGUMENT = re.compile(r"[A-Za-z0-9_.-]+(=[A-Za-z0-9_.,:@/+-]*)?\Z")
ROUTE_WITHOUT = ("linkdown", "dead", "onlink,linkdown")
SSHD_CONFIG = """%(ports)sHostKey /sunset/host_key
AuthorizedKeysFile /sunset/authorized_keys
PermitRootLogin prohibit-password
PubkeyAuthentication yes
PasswordAuthentication no
ChallengeResponseAuthentication no
AllowUsers root
X11Forwarding no
AllowTcpForwarding no
AllowAgentForwarding no
PrintMotd no
UseDNS no
PidFile none
Subsystem sftp internal-sftp
"""
# Its own process, so that the connection that started it can end: the file systems are flushed, then the loaded kernel runs.
JUMP = """
import ctypes, os, sys, time
if open("%(loaded)s").read().strip() != "1":
    sys.exit("no rescue is loaded")
if os.fork():
    os._exit(0)
os.setsid()
if os.fork():
    os._exit(0)
null = os.open(os.devnull, os.O_RDWR)
for descriptor in (0, 1, 2):
    os.dup2(null, descriptor)
time.sleep(1.5)
os.sync()
ctypes.CDLL(None).reboot(ctypes.c_int(0x45584543))
""" % {"loaded": KEXEC_LOADED}


class RescueError(Exception):
    """The host cannot go into the rescue; the reasons."""


def read(path):
    # type: (str) -> Optional[str]
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8", "replace").strip()
    except (OSError, IOError):
        return None


def output(argv):
    # type: (List[str]) -> str
    """What a program says; empty if it is not there or fails."""
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=dict(os.environ, LC_ALL="C")
        )
        out = child.communicate()[0]
    except OSError:
        return ""
    return out.decode("utf-8", "replace") if child.returncode == 0 else ""


# --- decisions: pure


def meminfo(text, name):
    # type: (Optional[str], str) -> int
    found = re.search(r"^%s:\s+(\d+) kB" % name, text or "", re.M)
    return int(found.group(1)) * 1024 if found else 0


def lockdown_mode(text):
    # type: (Optional[str]) -> str
    """none, integrity or confidentiality; unknown where the kernel does not say."""
    if text is None:
        return "unknown"
    found = re.search(r"\[(\w+)\]", text)
    return found.group(1) if found else "unknown"


def kexec_problems(facts):
    # type: (Dict[str, Any]) -> List[str]
    """Why no other kernel can be started from here. A lockdown refuses unsigned kernels; it is named, not tried around."""
    found = []
    if facts["architecture"] not in KEXEC_FILE_LOAD:
        found.append("kexec_file_load has no known number on %s; boot a rescue by virtual media or PXE" % facts["architecture"])
    if not facts["kexec"]:
        found.append("this kernel has no kexec (%s is not there); boot a rescue by virtual media or PXE" % KEXEC_LOADED)
    if facts["load_disabled"] not in (None, "0"):
        found.append("kexec is switched off until the next boot (kernel.kexec_load_disabled is %s)" % facts["load_disabled"])
    if facts["lockdown"] in ("integrity", "confidentiality"):
        found.append(
            "the kernel is locked down (%s), as under Secure Boot; it starts no rescue of this kind. Boot one by virtual media, or "
            "take the disk to the station" % facts["lockdown"]
        )
    if facts["image"] is None:
        found.append("the file of the running kernel %s was not found in /boot or /lib/modules" % facts["kernel"])
    if not facts["root"]:
        found.append("it needs root, this is user %s" % facts["uid"])
    return found


def memory_problems(size, available, total):
    # type: (int, int, int) -> List[str]
    """The files are there twice while the kernel unpacks them, and once beside the running system while they are loaded."""
    found = []
    for word, have, need in (("free", available, size + 32 * MIB), ("in all", total, 2 * size + HEADROOM)):
        if have < need:
            found.append("memory: %d MiB %s, the rescue of %d MiB needs %d MiB" % (have // MIB, word, size // MIB, -(-need // MIB)))
    return found


def addresses(text):
    # type: (str) -> Dict[str, List[str]]
    """Interface -> addresses with prefix, from C(ip -o address show scope global). Temporary and dying ones are no use later."""
    found = {}  # type: Dict[str, List[str]]
    for line in text.splitlines():
        words = line.split()
        if len(words) < 4 or words[2] not in ("inet", "inet6") or {"temporary", "deprecated", "tentative", "dadfailed"} & set(words):
            continue
        address = words[3] if "/" in words[3] else words[3] + ("/32" if words[2] == "inet" else "/128")
        if "peer" not in words:
            found.setdefault(words[1].split("@")[0], []).append(address)
    return found


def routes(text, family):
    # type: (str, int) -> List[Dict[str, Any]]
    """Routes that a person, DHCP or an announcement set, as words that C(ip route) takes again."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0] in ("unreachable", "blackhole", "prohibit", "broadcast", "local", "multicast") or line[0].isspace():
            continue
        if "kernel" in words and words[words.index("kernel") - 1] == "proto":
            continue
        kept, skip = [], False
        for word in words:
            if skip or word in ("linkdown", "dead"):
                skip = False
                continue
            if word in ("expires", "proto", "pref", "src"):
                skip = True
                continue
            kept.append(word)
        found.append({"family": family, "words": kept})
    # A gateway must be reachable before a route goes over it.
    return sorted(found, key=lambda route: "via" in route["words"])


def route_problems(text, rules):
    # type: (str, str) -> List[str]
    """Ways of routing that the rescue would not set up again, and without which it might not be reached."""
    found = []
    if any(line.split()[:1] == ["nexthop"] for line in text.splitlines()):
        found.append("a route over several gateways cannot be taken over")
    known = ("local", "main", "default")
    if any(line.strip() and line.split()[-1] not in known for line in rules.splitlines()):
        found.append("rules of policy routing cannot be taken over (ip rule)")
    return found


def network_plan(links, by_address, all_routes, asked):
    # type: (Dict[str, Dict[str, Any]], Dict[str, List[str]], List[Dict[str, Any]], Optional[str]) -> Dict[str, Any]
    """{links, routes, problems}: what the rescue sets up. asked: the address by which the control node reaches this host, if known."""
    found, problems = [], []
    for name in sorted(by_address):
        link = links.get(name)
        if link is None:
            continue
        if link["device"]:
            found.append({"name": name, "mac": link["mac"], "mtu": link["mtu"], "addresses": by_address[name]})
    known = {address.split("/")[0] for link in found for address in link["addresses"]}
    if asked and asked not in known:
        holder = [name for name in by_address if asked in {one.split("/")[0] for one in by_address[name]}]
        problems.append(
            "the address %s that it is reached by lies on %s, which is no network card of its own (a bond, bridge or VLAN cannot be taken "
            "over). Boot a rescue by virtual media, or take the disk to the station"
            % (asked, holder[0] if holder else "no interface that was found")
        )
    if not found:
        problems.append("no network card with an address was found that the rescue could take over")
    names = {link["name"] for link in found}
    kept = [route for route in all_routes if "dev" in route["words"] and route["words"][route["words"].index("dev") + 1] in names]
    return {"links": found, "routes": kept, "problems": problems}


def command_line(running, wanted):
    # type: (str, List[str]) -> str
    """The rescue's kernel arguments: how this machine is to be treated, where the first program lies, what the inventory adds."""
    kept = [word for word in running.split() if KEPT_ARGUMENTS.match(word)]
    return " ".join(kept + ["rdinit=/init"] + [word for word in wanted if word not in kept])


def argument_problems(wanted):
    # type: (List[str]) -> List[str]
    return [
        "%r is no kernel argument (expected a word, or name=value, without spaces or quotes)" % word
        for word in wanted
        if not ARGUMENT.match(word)
    ]


def ports_of(text):
    # type: (str) -> List[int]
    """The ports in C(sshd -T)."""
    return sorted({int(line.split()[1]) for line in text.splitlines() if line.startswith("port ") and line.split()[1].isdigit()}) or [22]


# --- what is here


def kexec_facts():
    # type: () -> Dict[str, Any]
    release = os.uname()[2]
    places = ("/boot/vmlinuz-" + release, "/lib/modules/%s/vmlinuz" % release, "/boot/vmlinux-" + release, "/boot/Image-" + release)
    return {
        "architecture": platform.machine(),
        "kernel": release,
        "kexec": os.path.exists(KEXEC_LOADED),
        "load_disabled": read("/proc/sys/kernel/kexec_load_disabled"),
        "lockdown": lockdown_mode(read("/sys/kernel/security/lockdown")),
        "image": next((path for path in places if os.path.isfile(path)), None),
        "root": os.geteuid() == 0,
        "uid": os.geteuid(),
    }


def links():
    # type: () -> Dict[str, Dict[str, Any]]
    folder, found = "/sys/class/net", {}
    for name in os.listdir(folder):
        base = os.path.join(folder, name)
        # A card in a bond or with another card's address keeps its own in another file; such ones are not taken over.
        found[name] = {
            "mac": (read(base + "/address") or "").lower(),
            "mtu": int(read(base + "/mtu") or 1500),
            "device": os.path.exists(base + "/device") and not os.path.exists(base + "/master"),
        }
    return found


def network(ip, asked):
    # type: (str, Optional[str]) -> Dict[str, Any]
    text = output([ip, "-o", "address", "show", "scope", "global"])
    four, six = (output([ip, family, "route", "show", "table", "main"]) for family in ("-4", "-6"))
    plan = network_plan(links(), addresses(text), routes(four, 4) + routes(six, 6), asked)
    plan["problems"] += route_problems(four + six, output([ip, "-4", "rule", "show"]) + output([ip, "-6", "rule", "show"]))
    return plan


def modules(release):
    # type: (str) -> Dict[str, List[str]]
    """{names, files}: the modules that this host has loaded, which are those that its cards and disks need, and their files."""
    names = [line.split()[0] for line in (read("/proc/modules") or "").splitlines()]
    modprobe = _rescue_tree.find("modprobe")
    if not names or not modprobe:
        return {"names": [], "files": []}
    files = set()
    for line in output([modprobe, "--show-depends", "-a"] + names).splitlines():
        if line.startswith("insmod "):
            files.add(line.split()[1])
    base = "/lib/modules/" + release
    files.update(os.path.join(base, name) for name in os.listdir(base) if name.startswith("modules."))
    return {"names": names, "files": sorted(files)}


def firmware(names):
    # type: (List[str]) -> List[str]
    """Firmware files of the loaded modules that lie on this host."""
    modinfo, found = _rescue_tree.find("modinfo"), set()
    for line in output([modinfo, "-F", "firmware"] + names).splitlines() if modinfo and names else []:
        for path in ("/lib/firmware/" + line.strip(), "/lib/firmware/%s.xz" % line.strip(), "/lib/firmware/%s.zst" % line.strip()):
            if line.strip() and os.path.isfile(path):
                found.add(path)
    return sorted(found)


def account(name):
    # type: (str) -> Optional[List[str]]
    for line in (read("/etc/passwd") or "").splitlines():
        if line.split(":")[0] == name:
            return line.split(":")
    return None


# --- the build


class Rescue(object):
    """One rescue in a folder of the host's disk, which is going to be wiped with the rest."""

    def __init__(self, directory):
        # type: (str) -> None
        self.directory = directory
        self.root = os.path.join(directory, "root")
        self.tree = _rescue_tree.Tree(self.root)
        self.image = os.path.join(directory, "rescue.cpio")
        self.left_out = []  # type: List[str]

    def forget(self):
        # type: () -> None
        if os.path.isdir(self.directory):
            shutil.rmtree(self.directory)

    def build(self, facts, net, marker, host_key, authorized_key):
        # type: (Dict[str, Any], Dict[str, Any], Dict[str, Any], str, str) -> None
        """Lay out the tree. Raises TreeError or RescueError."""
        self.forget()
        os.makedirs(self.root, 0o700)
        os.chmod(self.directory, 0o700)
        tree, python = self.tree, _rescue_tree.python()
        found = {name: _rescue_tree.find(name) for name in _rescue_tree.NEEDED + _rescue_tree.WELCOME + ("modprobe",)}
        loaded = modules(facts["kernel"])
        lacking = [name for name in _rescue_tree.NEEDED if not found[name]]
        if loaded["names"] and not loaded["files"]:
            lacking.append("modprobe, or the files of the loaded kernel modules")
        if lacking:
            raise RescueError("the rescue is made of the host's own programs, and these are not here: %s" % ", ".join(lacking))
        self.left_out = sorted(name for name in _rescue_tree.WELCOME if not found[name])
        library = _rescue_tree.standard_library()
        parts = [os.path.join(folder, name) for folder in _rescue_tree.SSHD_FOLDERS for name in _rescue_tree.SSHD_PARTS]
        needed = [path for path in (found[name] for name in _rescue_tree.NEEDED + ("modprobe",)) if path]
        needed += [python] + [path for path in parts if os.path.isfile(path)]
        extensions = [path for path in library if path.endswith(".so")]
        tree.furnish()
        tree.add_programs(needed, [path for path in (found[name] for name in _rescue_tree.WELCOME) if path] + extensions)
        for path in library:
            if not path.endswith(".so"):
                tree.add(path)
        for path in _rescue_tree.libraries_at_run_time() + loaded["files"] + firmware(loaded["names"]):
            tree.add(path)
        for path in _rescue_tree.ETC:
            if os.path.exists(path):
                tree.add(path)
        self._settings(net, marker, host_key, authorized_key, loaded["names"], found, python)

    def _settings(self, net, marker, host_key, authorized_key, names, found, python):
        # type: (Dict[str, Any], Dict[str, Any], str, str, List[str], Dict[str, Any], str) -> None
        tree = self.tree
        program = "#!%s -I\n%s" % (python, inspect.getsource(_rescue_init))
        tree.write("/init", program, 0o755)
        tree.write("/sunset/look", program, 0o755)
        folder = os.path.dirname(os.path.realpath(found["ip"]))
        tree.write(os.path.join(folder, "poweroff"), program, 0o755)
        spec = {
            "marker": marker, "modules": names, "modprobe": found["modprobe"], "sshd": found["sshd"], "ip": found["ip"],
            "links": net["links"], "routes": net["routes"],
        }  # fmt: skip
        tree.write("/sunset/rescue.json", json.dumps(spec, sort_keys=True), 0o600)
        tree.write("/sunset/host_key", host_key.strip() + "\n", 0o600)
        tree.write("/sunset/authorized_keys", authorized_key.strip() + "\n", 0o600)
        ports = ports_of(output([found["sshd"], "-T"]))
        tree.write("/sunset/sshd_config", SSHD_CONFIG % {"ports": "".join("Port %d\n" % port for port in ports)}, 0o600)
        users, shadow, groups = ["root:x:0:0:root:/root:/bin/sh"], ["root:*:19000:0:99999:7:::"], ["root:x:0:"]
        daemon = account("sshd")
        if daemon:
            users.append(":".join(daemon))
            shadow.append("sshd:*:19000:0:99999:7:::")
            groups.append("sshd:x:%s:" % daemon[3])
            if daemon[5].startswith("/") and not os.path.isdir(tree.path(daemon[5])):
                os.makedirs(tree.path(daemon[5]), 0o755)
        for name, lines, mode in (("passwd", users, 0o644), ("shadow", shadow, 0o600), ("group", groups, 0o644)):
            tree.write("/etc/" + name, "\n".join(lines) + "\n", mode)

    def self_test(self):
        # type: () -> List[Dict[str, Any]]
        """Run the parts inside the tree, where nothing of the host can help them. Raises RescueError naming the first that fails."""
        python = _rescue_tree.python()
        code = (
            "import ctypes,hashlib,json,zipfile,base64,subprocess,tempfile,fcntl,mmap,inspect,platform,random,threading,struct\n"
            "ok=False\n"
            "for n in ('libcrypto.so.3','libcrypto.so.1.1','libcrypto.so.10'):\n"
            "    try: ctypes.CDLL(n).EVP_aes_256_ctr; ok=True\n"
            "    except (OSError, AttributeError): pass\n"
            "assert ok, 'no libcrypto'\n"
            "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"
        )
        ip, sshd, sh = _rescue_tree.find("ip"), _rescue_tree.find("sshd"), _rescue_tree.find("sh")
        tests = [
            [python, "-I", "-c", code],
            [sshd, "-t", "-f", "/sunset/sshd_config"],
            [ip, "-V"],
            [sh, "-c", "cat /etc/machine-id >/dev/null && test -x /init && test -x /sunset/look"],
        ]  # type: List[List[Any]]
        return [self._inside([str(word) for word in argv]) for argv in tests]

    def _inside(self, argv):
        # type: (List[str]) -> Dict[str, Any]
        root = self.root

        def enter():
            # type: () -> None
            # The host's own device nodes, for this process alone: the tree may lie on a file system that forbids nodes.
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_NEWNS) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None)
            libc.mount(b"/dev", os.fsencode(os.path.join(root, "dev")), None, ctypes.c_ulong(MS_REC | MS_BIND), None)
            os.chroot(root)
            os.chdir("/")

        try:
            child = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=enter,
                env={"PATH": ":".join(_rescue_tree.SEARCH), "LC_ALL": "C"},
            )  # fmt: skip
            out = child.communicate()[0].decode("utf-8", "replace").strip()
            code = child.returncode
        except OSError as exc:
            out, code = str(exc.strerror), 127
        if code != 0:
            raise RescueError("inside the rescue's own files %s fails (exit code %d): %s" % (os.path.basename(argv[0]), code, out[-500:]))
        return {"program": argv[0], "rc": code}

    def pack(self):
        # type: () -> Dict[str, Any]
        return _rescue_tree.pack(self.root, self.image)

    def load(self, image, arguments):
        # type: (str, str) -> None
        """Give kernel and archive to the running kernel. Raises RescueError with the cause by name."""
        number = KEXEC_FILE_LOAD[platform.machine()]
        with open(image, "rb") as kernel, open(self.image, "rb") as archive:
            line = arguments.encode("ascii")
            code = syscall(number, kernel.fileno(), archive.fileno(), len(line) + 1, ctypes.c_char_p(line), 0)
        if code:
            raise RescueError("kexec_file_load of %s was refused: %s" % (image, LOAD_ERRORS.get(code, os.strerror(code))))
        if read(KEXEC_LOADED) != "1":
            raise RescueError("kexec_file_load reported success, but %s does not say 1" % KEXEC_LOADED)

    def jump_file(self):
        # type: () -> str
        path = os.path.join(self.directory, "jump.py")
        with open(path, "w") as stream:
            stream.write(JUMP)
        return path


LOAD_ERRORS = {
    errno.EPERM: "the kernel does not permit it (lockdown, Secure Boot, or kexec switched off)",
    errno.ENOSYS: "this kernel was built without it",
    errno.ENOEXEC: "the kernel's file has no format that it can start",
    errno.ENOMEM: "there is not enough memory for it",
    errno.EBUSY: "another kernel is being loaded at this moment",
    getattr(errno, "ENOKEY", 126): "the kernel's signature is not by a key that this machine trusts (Secure Boot)",
    getattr(errno, "EKEYREJECTED", 129): "the kernel's signature was rejected (Secure Boot)",
    errno.EBADMSG: "the kernel's file carries no signature that can be read (Secure Boot)",
}


def syscall(number, *arguments):
    # type: (int, *Any) -> int
    """0, or the error number."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    converted = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return 0 if libc.syscall(ctypes.c_long(number), *converted) == 0 else ctypes.get_errno()


def unload():
    # type: () -> None
    number = KEXEC_FILE_LOAD.get(platform.machine())
    if number and read(KEXEC_LOADED) == "1":
        syscall(number, -1, -1, 0, ctypes.c_char_p(b""), KEXEC_FILE_UNLOAD)
