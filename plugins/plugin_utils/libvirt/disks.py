# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of a guest's disks on its host: their chains, and copies of them. Small programs that run there with its own Python 3."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils import relay

# A raw disk is never probed: what its guest wrote at its beginning could pass for a qcow2 with any file of the host behind it.
_CHAIN_CODE = """
import json, os, stat, struct, sys
def facts(path):
    s = os.stat(path)
    r = {"path": path, "device": stat.S_ISBLK(s.st_mode), "bytes": s.st_size, "inode": s.st_ino, "mtime_ns": s.st_mtime_ns}
    if r["device"]:
        with open(path, "rb") as f:
            r["bytes"] = f.seek(0, 2)
        r["mtime_ns"] = r["inode"] = 0
    return r
def header(path):
    with open(path, "rb") as f:
        h = f.read(104)
        if len(h) < 72 or h[:4] != b"QFI\\xfb":
            raise ValueError("it is no qcow2")
        version, offset, size = struct.unpack(">IQI", h[4:20])
        virtual = struct.unpack(">Q", h[24:32])[0]
        snapshots = struct.unpack(">I", h[60:64])[0]
        data = version >= 3 and struct.unpack(">Q", h[72:80])[0] & 4
        end = struct.unpack(">I", h[100:104])[0] if version >= 3 else 72
        name, kind, f_end = "", "", offset or 65536
        if offset:
            f.seek(offset)
            name = f.read(size).decode("utf-8", "surrogateescape")
        f.seek(end)
        while f.tell() < f_end:
            e = f.read(8)
            if len(e) < 8:
                break
            what, n = struct.unpack(">II", e)
            if what == 0:
                break
            v = f.read((n + 7) // 8 * 8)[:n]
            if what == 0xE2792ACA:
                kind = v.decode("ascii", "replace")
    if data:
        raise ValueError("its data lie in another file, which this does not follow")
    return name, kind, virtual, snapshots
r = []
for path, kind in json.loads(sys.argv[1]):
    chain, problem, start = [], "", path
    try:
        while path:
            real = os.path.realpath(path)
            one = facts(real)
            one["format"] = kind
            if any(known["path"] == real for known in chain):
                raise ValueError("its chain is a circle")
            chain.append(one)
            if kind != "qcow2":
                one["virtual_bytes"] = one["bytes"]
                break
            name, kind, one["virtual_bytes"], one["snapshots"] = header(real)
            if name.startswith("json:") or "://" in name:
                raise ValueError("behind it lies " + name.split("?")[0][:60] + ", which is no file")
            if name and not kind:
                raise ValueError("its header does not say the format of the file behind it")
            path = os.path.join(os.path.dirname(real), name) if name else ""
    except (OSError, ValueError) as e:
        problem = "%s: %s" % (path, getattr(e, "strerror", None) or e)
    r.append({"source": start, "chain": chain, "problem": problem})
sys.stdout.buffer.write(@MARKER@ + json.dumps(r).encode("ascii"))
""".replace("@MARKER@", repr(relay.MARKER))

_COPY_CODE = """
import hashlib, json, os, sys, zlib
source, target, codec = sys.argv[1:4]
folder, name = os.path.split(target)
class Out:
    def __init__(self, fd):
        self.o, self.h, self.n = os.fdopen(fd, "wb"), hashlib.sha256(), 0
    def write(self, b):
        self.h.update(b)
        self.n += len(b)
        self.o.write(b)
try:
    if not os.path.isdir(folder):
        os.mkdir(folder, 0o700)
    d = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    fd = os.open(name + ".part", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600, dir_fd=d)
    os.fchmod(fd, 0o600)
    out, plain, n = Out(fd), hashlib.sha256(), 0
    pack = zlib.compressobj(1, zlib.DEFLATED, 31) if codec == "gzip" else None
    with open(source, "rb") as i:
        while True:
            b = i.read(1048576)
            if not b:
                break
            plain.update(b)
            n += len(b)
            out.write(pack.compress(b) if pack else b)
    if pack:
        out.write(pack.flush())
    out.o.flush()
    os.fsync(out.o.fileno())
    out.o.close()
    os.rename(name + ".part", name, src_dir_fd=d, dst_dir_fd=d)
    os.fsync(d)
except OSError as exc:
    try:
        os.unlink(target + ".part")
    except OSError:
        pass
    sys.exit("%s to %s: %s" % (source, target, exc.strerror))
sys.stdout.buffer.write(@MARKER@ + json.dumps({"sha256": out.h.hexdigest(), "bytes": out.n, "plain_sha256": plain.hexdigest(), "plain_bytes": n}).encode("ascii"))
""".replace("@MARKER@", repr(relay.MARKER))


def chains(reach: relay.Reach, disks: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """For each (path, format): every file that its content lies in, the one that is written to first; or the problem."""
    if not disks:
        return []
    line = relay.with_python(_CHAIN_CODE, [json.dumps([list(disk) for disk in disks])])
    found: list[dict[str, Any]] = json.loads(relay.call(reach, line, timeout=120))
    return found


def copy(reach: relay.Reach, source: str, target: str, codec: str, timeout: float = 24 * 3600) -> dict[str, Any]:
    """Copy a file or device of the host into its staging place, with digests of what was read and of what was written."""
    done: dict[str, Any] = json.loads(relay.call(reach, relay.with_python(_COPY_CODE, [source, target, codec]), timeout=timeout))
    return done
