# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layers of a virtual disk: its file or volume, every file behind it, and what each of them is. Reads only.

Private to the collection. Valid for Python 3.6, standard library; travels with the wipe job.

A layer is a mapping: path (real), format, kind (file | lv | thin | block), bytes, virtual_bytes, and what it is known by: inode of a file,
uuid of a volume. A raw disk is never probed: what its guest wrote at its beginning could pass for a qcow2 with any file of the host behind it.
"""

import hashlib
import json
import os
import stat
import struct
from typing import Any, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device

QCOW2 = b"QFI\xfb"
FORMATS = ("raw", "qcow2")
BACKING_FORMAT, DATA_FILE = 0xE2792ACA, 0x44415441
LONGEST = 200  # layers; qemu itself gives up far earlier
# By which a layer is the same one later, also when its header is overwritten.
LASTING = ("path", "inode", "uuid")
# What a plan says of a layer.
TOLD = ("path", "format", "kind", "inode", "uuid", "virtual_bytes")


class ChainError(Exception):
    """What lies below a disk cannot all be told."""


def qcow2_header(path):
    # type: (str) -> Dict[str, Any]
    """backing (a name as it stands there, or ""), backing_format, data_file, virtual_bytes, snapshots of a qcow2 image."""
    with open(path, "rb") as stream:
        head = stream.read(104)
        if len(head) < 72 or head[:4] != QCOW2:
            raise ChainError("%s is no qcow2" % path)
        version, offset, size = struct.unpack(">IQI", head[4:20])
        facts = {
            "virtual_bytes": struct.unpack(">Q", head[24:32])[0], "snapshots": struct.unpack(">I", head[60:64])[0],
            "backing": "", "backing_format": "", "data_file": "",
        }  # type: Dict[str, Any]  # fmt: skip
        outside = version >= 3 and bool(struct.unpack(">Q", head[72:80])[0] & 4)
        end = struct.unpack(">I", head[100:104])[0] if version >= 3 and len(head) >= 104 else 72
        if offset:
            if size > 1023:
                raise ChainError("%s: its header names a file of %d letters" % (path, size))
            stream.seek(offset)
            facts["backing"] = stream.read(size).decode("utf-8", "surrogateescape")
        stream.seek(end)
        while stream.tell() < (offset or 65536):
            entry = stream.read(8)
            if len(entry) < 8:
                break
            what, length = struct.unpack(">II", entry)
            if what == 0 or length > 65536:
                break
            value = stream.read((length + 7) // 8 * 8)[:length].decode("utf-8", "surrogateescape")
            if what == BACKING_FORMAT:
                facts["backing_format"] = value
            elif what == DATA_FILE:
                facts["data_file"] = value
    if outside and not facts["data_file"]:
        raise ChainError("%s: its data lie in another file, which it does not name" % path)
    return facts


def next_path(name, above):
    # type: (str, str) -> str
    """The file that a header means, seen from the file that holds it."""
    if name.startswith("file:"):
        name = name[5:]
    if name.startswith("json:") or "://" in name or name.split(":", 1)[0] in ("nbd", "rbd", "iscsi", "ssh", "http", "https", "gluster"):
        raise ChainError("%s: behind it lies %s, which is no file of this machine" % (above, name.split("?")[0][:60]))
    return os.path.join(os.path.dirname(above), name)


def facts_of(path):
    # type: (str) -> Dict[str, Any]
    """What a layer is, without looking into it. Raises OSError."""
    real = os.path.realpath(path)
    found = os.stat(real)
    row = {"path": real, "bytes": found.st_size}  # type: Dict[str, Any]
    if stat.S_ISREG(found.st_mode):
        row.update(kind="file", inode=found.st_ino, device=disk_device.device_number(found.st_dev), allocated=found.st_blocks * 512)
        return row
    if not stat.S_ISBLK(found.st_mode):
        raise ChainError("%s is neither a file nor a block device" % real)
    number = disk_device.device_number(found.st_rdev)
    with open(real, "rb") as stream:
        row["bytes"] = stream.seek(0, 2)
    base = "/sys/dev/block/" + number
    uuid = disk_device._read(base + "/dm/uuid") or ""
    row.update(kind="block", device=number)
    if uuid.startswith("LVM-"):
        pools = [disk_device._read("%s/slaves/%s/dm/uuid" % (base, name)) or "" for name in _names(base + "/slaves")]
        row.update(kind="thin" if any(pool.endswith("-tpool") for pool in pools) else "lv", uuid=uuid)
        name = disk_device._read(base + "/dm/name")
        # dm-7 today is dm-3 tomorrow; its name in the volume group stays.
        row["path"] = "/dev/mapper/" + name if name else real
    return row


def _names(folder):
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def follow(path, form, stop=()):
    # type: (str, str, Any) -> List[Dict[str, Any]]
    """Every layer of a disk, the one that is written to first. Raises ChainError, OSError.

    stop: paths that are not looked into, nor behind: a shared base may be overwritten before what stands on it."""
    chain = []  # type: List[Dict[str, Any]]
    while path:
        if form not in FORMATS:
            raise ChainError("%s has the format %s; raw and qcow2 are known here" % (path, form or "that nobody tells"))
        layer = facts_of(path)
        if any(known["path"] == layer["path"] for known in chain) or len(chain) > LONGEST:
            raise ChainError("%s: its chain is a circle" % layer["path"])
        layer["format"] = form
        chain.append(layer)
        if layer["path"] in stop:
            break
        if form == "raw":
            layer["virtual_bytes"] = layer["bytes"]
            break
        head = qcow2_header(layer["path"])
        layer.update(virtual_bytes=head["virtual_bytes"], snapshots=head["snapshots"])
        if head["data_file"]:
            data = facts_of(next_path(head["data_file"], layer["path"]))
            data.update(format="raw", virtual_bytes=data["bytes"])
            chain.append(data)
        if head["backing"] and not head["backing_format"]:
            raise ChainError("%s: its header does not say the format of the file behind it" % layer["path"])
        path, form = (next_path(head["backing"], layer["path"]) if head["backing"] else ""), head["backing_format"]
    return chain


def look(path, form, stop=()):
    # type: (str, str, Any) -> Dict[str, Any]
    """{source, chain, problem} of one disk."""
    try:
        return {"source": path, "chain": follow(path, form, stop), "problem": ""}
    except (OSError, ChainError, struct.error) as err:
        return {"source": path, "chain": [], "problem": "%s" % (err.strerror or err if isinstance(err, OSError) else err)}


def told(layer):
    # type: (Dict[str, Any]) -> Dict[str, Any]
    """What a plan keeps of a layer."""
    return {name: layer[name] for name in TOLD if layer.get(name) is not None}


def serial(layers):
    # type: (Any) -> str
    """The name of a virtual medium: a digest of what its layers are known by."""
    text = json.dumps([told(layer) for layer in layers], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return "vd-" + hashlib.sha256(text.encode("ascii", "surrogateescape")).hexdigest()[:32]


def identity(layers):
    # type: (Any) -> Dict[str, Any]
    """The identity of a virtual medium, in the fields of any medium."""
    return {"kind": "virtual", "serial": serial(layers), "size": int(layers[0]["virtual_bytes"])}


def differences(expected, found, begun=False):
    # type: (Dict[str, Any], Dict[str, Any], bool) -> List[str]
    """Why this is not the layer of the plan. begun: its header may be overwritten, so only what lasts counts."""
    names = LASTING if begun else TOLD + ("bytes",)
    return [
        "%s: %s is %r, the plan has %r" % (expected["path"], name, found.get(name), expected[name])
        for name in names
        if expected.get(name) is not None and found.get(name) != expected[name]
    ]


def holds_header(path):
    # type: (str) -> bool
    try:
        with open(path, "rb") as stream:
            return stream.read(4) == QCOW2
    except OSError:
        return False
