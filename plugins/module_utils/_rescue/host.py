# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host before it goes into a rescue: what must hold, and what of it the rescue needs.

Private to the collection. Valid for Python 3.6, standard library.
"""

import hashlib
import os
import platform
import re
import subprocess
from typing import Any, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._rescue import tree as rescue_tree

# asm/unistd.h; elsewhere the call has no number that we know.
KEXEC_FILE_LOAD = {"x86_64": 320, "aarch64": 294, "ppc64le": 382, "s390x": 381, "riscv64": 294}
KEXEC_LOADED = "/sys/kernel/kexec_loaded"
MIB = 1 << 20
# What the rescue needs beside its own files: the kernel, Python at work, the buffers of a wipe.
HEADROOM = 192 * MIB
# Of the running kernel's arguments, those that say how this machine must be treated; the others say what to boot.
KEPT_ARGUMENTS = re.compile(
    r"(console|earlycon|earlyprintk|acpi|apic|noapic|nolapic|pci|pcie_\w+|iommu|intel_iommu|amd_iommu|nvme_core\.\S+|libata\.\S+|usbcore\.\S+|mem|memmap|clocksource|tsc|notsc|reboot|nomodeset|net\.ifnames)(=|$)"
)
ARGUMENT = re.compile(r"[A-Za-z0-9_.-]+(=[A-Za-z0-9_.,:@/+-]*)?\Z")


def read(path):
    # type: (str) -> Optional[str]
    try:
        with open(path, "rb") as stream:
            return stream.read().decode("utf-8", "replace").strip()
    except (OSError, IOError):
        return None


def digest(path):
    # type: (str) -> str
    found = hashlib.sha256()
    with open(path, "rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            found.update(block)
    return found.hexdigest()


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
            "the kernel is locked down (%s), as under Secure Boot; it starts no rescue of this kind. Switch Secure Boot off and boot "
            "one by virtual media, or take the disk to the station" % facts["lockdown"]
        )
    if facts["image"] is None:
        found.append("the file of the running kernel %s was not found in /boot or /lib/modules" % facts["kernel"])
    if not facts["root"]:
        found.append("it needs root, this is user %s" % facts["uid"])
    return found


def boot_problems(facts, way):
    # type: (Dict[str, Any], str) -> List[str]
    """Why this host cannot be booted into a rescue of its own files, from a medium or from the network."""
    found = []
    if way == "virtual_media" and facts["architecture"] != "x86_64":
        found.append("a medium that starts on %s cannot be made (known: x86_64); boot it from the network (pxe)" % facts["architecture"])
    if way == "virtual_media" and facts["secure_boot"] == "yes":
        found.append(
            "Secure Boot is on, and its firmware would not start the medium, whose loader nobody signed; switch it off in the firmware"
        )
    if facts["image"] is None:
        found.append("the file of the running kernel %s was not found in /boot or /lib/modules" % facts["kernel"])
    if not facts["root"]:
        found.append("it needs root, this is user %s" % facts["uid"])
    return found


def memory_problems(size, available, total):
    # type: (int, Optional[int], int) -> List[str]
    """The files are there twice while the kernel unpacks them, and once beside the running system while they are loaded
    (available: None where they are not)."""
    found = []
    for word, have, need in (("free", available, size + 32 * MIB), ("in all", total, 2 * size + HEADROOM)):
        if have is not None and have < need:
            found.append("memory: %d MiB %s, the rescue of %d MiB needs %d MiB" % (have // MIB, word, size // MIB, -(-need // MIB)))
    return found


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
        "firmware": "uefi" if os.path.isdir("/sys/firmware/efi") else "bios",
        "secure_boot": secure_boot(),
    }


def secure_boot():
    # type: () -> str
    """yes, no or unknown. The last byte of the firmware's variable; a machine without such firmware has none."""
    folder = "/sys/firmware/efi"
    if not os.path.isdir(folder):
        return "no"
    try:
        names = [name for name in os.listdir(folder + "/efivars") if name.startswith("SecureBoot-")]
        with open(os.path.join(folder, "efivars", names[0]), "rb") as stream:
            return "yes" if stream.read()[-1:] == b"\x01" else "no"
    except (OSError, IOError, IndexError):
        return "unknown"


def modules(release):
    # type: (str) -> Dict[str, List[str]]
    """{names, files}: the modules that this host has loaded, which are those that its cards and disks need, and their files."""
    names = [line.split()[0] for line in (read("/proc/modules") or "").splitlines()]
    modprobe = rescue_tree.find("modprobe")
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
    modinfo, found = rescue_tree.find("modinfo"), set()
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
