# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rescue system, made of the running host's own programs, until it lies ready in the kernel.

Private to the collection. Valid for Python 3.6, standard library. Nothing here jumps: C(JUMP) is a program of its own.
"""

import ctypes
import errno
import inspect
import json
import os
import platform
import shutil
import subprocess
from typing import Any, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._rescue import host as rescue_host, init as rescue_init, tree as rescue_tree

KEXEC_FILE_UNLOAD = 1
CLONE_NEWNS, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 0x1000, 0x4000, 0x40000
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
""" % {"loaded": rescue_host.KEXEC_LOADED}


class RescueError(Exception):
    """The host cannot go into the rescue; the reasons."""


class Rescue(object):
    """One rescue in a folder of the host's disk, which is going to be wiped with the rest."""

    def __init__(self, directory):
        # type: (str) -> None
        self.directory = directory
        self.root = os.path.join(directory, "root")
        self.tree = rescue_tree.Tree(self.root)
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
        tree, python = self.tree, rescue_tree.python()
        found = {name: rescue_tree.find(name) for name in rescue_tree.NEEDED + rescue_tree.WELCOME + ("modprobe",)}
        loaded = rescue_host.modules(facts["kernel"])
        lacking = [name for name in rescue_tree.NEEDED if not found[name]]
        if loaded["names"] and not loaded["files"]:
            lacking.append("modprobe, or the files of the loaded kernel modules")
        if lacking:
            raise RescueError("the rescue is made of the host's own programs, and these are not here: %s" % ", ".join(lacking))
        self.left_out = sorted(name for name in rescue_tree.WELCOME if not found[name])
        library = rescue_tree.standard_library()
        parts = [os.path.join(folder, name) for folder in rescue_tree.SSHD_FOLDERS for name in rescue_tree.SSHD_PARTS]
        needed = [path for path in (found[name] for name in rescue_tree.NEEDED + ("modprobe",)) if path]
        needed += [python] + [path for path in parts if os.path.isfile(path)]
        extensions = [path for path in library if path.endswith(".so")]
        tree.furnish()
        tree.add_programs(needed, [path for path in (found[name] for name in rescue_tree.WELCOME) if path] + extensions)
        for path in library:
            if not path.endswith(".so"):
                tree.add(path)
        for path in rescue_tree.libraries_at_run_time() + loaded["files"] + rescue_host.firmware(loaded["names"]):
            tree.add(path)
        for path in rescue_tree.ETC:
            if os.path.exists(path):
                tree.add(path)
        self._settings(net, marker, host_key, authorized_key, loaded["names"], found, python)

    def _settings(self, net, marker, host_key, authorized_key, names, found, python):
        # type: (Dict[str, Any], Dict[str, Any], str, str, List[str], Dict[str, Any], str) -> None
        tree = self.tree
        program = "#!%s -I\n%s" % (python, inspect.getsource(rescue_init))
        tree.write("/init", program, 0o755)
        tree.write("/sunset/look", program, 0o755)
        folder = os.path.dirname(os.path.realpath(found["ip"]))
        tree.write(os.path.join(folder, "poweroff"), program, 0o755)
        spec = {
            "marker": marker, "modules": names, "modprobe": found["modprobe"], "sshd": found["sshd"], "ip": found["ip"],
            "links": net["links"], "made": net["made"], "routes": net["routes"],
        }  # fmt: skip
        tree.write("/sunset/rescue.json", json.dumps(spec, sort_keys=True), 0o600)
        tree.write("/sunset/host_key", host_key.strip() + "\n", 0o600)
        tree.write("/sunset/authorized_keys", authorized_key.strip() + "\n", 0o600)
        ports = rescue_host.ports_of(rescue_host.output([found["sshd"], "-T"]))
        tree.write("/sunset/sshd_config", SSHD_CONFIG % {"ports": "".join("Port %d\n" % port for port in ports)}, 0o600)
        users, shadow, groups = ["root:x:0:0:root:/root:/bin/sh"], ["root:*:19000:0:99999:7:::"], ["root:x:0:"]
        daemon = rescue_host.account("sshd")
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
        python = rescue_tree.python()
        code = (
            "import ctypes,hashlib,json,zipfile,base64,subprocess,tempfile,fcntl,mmap,inspect,platform,random,threading,struct\n"
            "ok=False\n"
            "for n in ('libcrypto.so.3','libcrypto.so.1.1','libcrypto.so.10'):\n"
            "    try: ctypes.CDLL(n).EVP_aes_256_ctr; ok=True\n"
            "    except (OSError, AttributeError): pass\n"
            "assert ok, 'no libcrypto'\n"
            "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"
        )
        ip, sshd, sh = rescue_tree.find("ip"), rescue_tree.find("sshd"), rescue_tree.find("sh")
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
                env={"PATH": ":".join(rescue_tree.SEARCH), "LC_ALL": "C"},
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
        return rescue_tree.pack(self.root, self.image, rescue_tree.knows_gzip(os.uname()[2]))

    def load(self, image, arguments):
        # type: (str, str) -> None
        """Give kernel and archive to the running kernel. Raises RescueError with the cause by name."""
        number = rescue_host.KEXEC_FILE_LOAD[platform.machine()]
        with open(image, "rb") as kernel, open(self.image, "rb") as archive:
            line = arguments.encode("ascii")
            code = syscall(number, kernel.fileno(), archive.fileno(), len(line) + 1, ctypes.c_char_p(line), 0)
        if code:
            raise RescueError("kexec_file_load of %s was refused: %s" % (image, LOAD_ERRORS.get(code, os.strerror(code))))
        if rescue_host.read(rescue_host.KEXEC_LOADED) != "1":
            raise RescueError("kexec_file_load reported success, but %s does not say 1" % rescue_host.KEXEC_LOADED)

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
    number = rescue_host.KEXEC_FILE_LOAD.get(platform.machine())
    if number and rescue_host.read(rescue_host.KEXEC_LOADED) == "1":
        syscall(number, -1, -1, 0, ctypes.c_char_p(b""), KEXEC_FILE_UNLOAD)
