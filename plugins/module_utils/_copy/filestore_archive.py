# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The archive of a file tree: made by tar from the names of the manifest, and its members compared with the manifest."""

import base64
import os
import subprocess

from ansible_collections.sunset.crm.plugins.module_utils._copy import (
    filestore as copy_filestore,
    stream as copy_stream,
    tarstream as copy_tarstream,
)
from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient


def tar_owner_differences(wanted, archive):
    """Compare owners and users' attributes in the headers of a tar stream with the manifest, for a restore that did not run as root.

    tar itself cannot give attributes back to a file that its owner may not write to, unless it is root.
    """
    import tarfile  # only vaults come here

    told = []
    left = {copy_filestore.decode_name(entry): entry for entry in wanted if entry["type"] not in copy_filestore.NOT_ARCHIVED}
    with tarfile.open(fileobj=archive, mode="r|", encoding="utf-8", errors="surrogateescape") as stream:
        for member in stream:
            name = os.path.normpath(member.name.encode("utf-8", "surrogateescape"))
            entry = left.pop(name, None)
            if entry is None:
                told.append("{0} is in the archive only".format(copy_filestore.show(name)))
            elif (member.uid, member.gid) != (entry["uid"], entry["gid"]):
                told.append("{0} differs in owner".format(copy_filestore.show(name)))
            elif not member.islnk() and _tar_user_xattrs(member) != _user_xattrs(entry):
                told.append("{0} differs in xattrs".format(copy_filestore.show(name)))
    return told + ["{0} is not in the archive".format(copy_filestore.show(name)) for name in sorted(left)]


_XATTR = "SCHILY.xattr."


def _tar_user_xattrs(member):
    """The users' attributes in a member's own records. In their names tar writes "=" and "%" as hexadecimal digits."""
    return {
        key[len(_XATTR) :].replace("%3D", "=").replace("%25", "%"): base64.b64encode(value.encode("utf-8", "surrogateescape")).decode(
            "ascii"
        )
        for key, value in member.pax_headers.items()
        if key.startswith(_XATTR + "user.")
    }


def _user_xattrs(entry):
    return {name: value for name, value in entry.get("xattrs", {}).items() if name.startswith("user.")}


def tar_features(help_text):
    return {name: "--" + name in help_text for name in ("xattrs", "acls")}


def tar_argv(path, known):
    """tar that reads the names from its standard input, each ended by a zero byte: it archives what the manifest names."""
    argv = [
        "tar",
        "--create",
        "--file=-",
        "--directory=" + path,
        "--format=pax",
        "--numeric-owner",
        "--sparse",
        "--one-file-system",
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
        "--warning=no-file-ignored",
    ]
    if known["xattrs"]:
        argv += ["--xattrs", "--xattrs-include=*"]
    if known["acls"]:
        argv.append("--acls")
    return argv + ["--no-recursion", "--null", "--files-from=-"]


def tar_names(entries):
    """What tar_argv() wants on its standard input. The tree itself comes last: it has no content, see usual_end()."""
    names = [copy_filestore.decode_name(entry) for entry in entries if entry["type"] not in copy_filestore.NOT_ARCHIVED]
    return b"".join((b"./" + name if name != b"." else name) + b"\0" for name in sorted(names, key=b".".__eq__))


# 128 KiB a write instead of 10: a tenth less CPU.
WIDE = "--blocking-factor=256"
TAR_BLOCK, TAR_RECORD = 512, 10240


def usual_end(chunks):
    """The stream of a tar with wide blocks, padded as one with the usual blocks pads it.

    Only for an archive whose last member has no content: it ends with the block of the last byte that is not zero. Stock tar in a pipe
    leaves at the end mark, and more than its own block of padding behind that would end the pipe with an error.
    """
    count = zeros = 0
    for chunk in chunks:
        kept = len(chunk.rstrip(b"\0"))
        if kept:
            while zeros:
                piece = min(zeros, copy_stream.PIECE)
                yield bytes(piece)
                zeros -= piece
            yield chunk[:kept]
        zeros += len(chunk) - kept
        count += len(chunk)
    end = count - zeros
    whole = -(-end // TAR_BLOCK) * TAR_BLOCK + 2 * TAR_BLOCK
    yield bytes(-(-whole // TAR_RECORD) * TAR_RECORD - end)


class ArchiveCheck(object):
    """Is fed a tar stream; finish() is a TreeError unless it holds what the manifest says. feed() never raises: it may run in a thread."""

    def __init__(self, entries):
        self._entries, self._reader, self._error = entries, copy_tarstream.Reader(), None

    def feed(self, chunk):
        if self._error is None:
            try:
                self._reader.feed(chunk)
            except copy_tarstream.TarError as error:
                self._error = error

    def finish(self):
        try:
            if self._error is not None:
                raise self._error
            told = archive_differences(self._entries, self._reader.finish())
        except copy_tarstream.TarError as error:
            raise copy_filestore.TreeError("the archive could not be checked: {0}".format(error))
        if told:
            raise copy_filestore.TreeError("the archive does not hold what was read: {0}".format("; ".join(told[:10])))


def archive_chunks(path, entries, check=True):
    """The entries as a tar stream. check: it is read on its way, because nothing of it will be there to be read back.

    tar ends with 1 where a file changed or vanished under it, and says which: that is an error too.
    """
    done = subprocess.run(
        ["tar", "--help"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=database_sqlclient.child_environment(),
        timeout=60,
    )
    argv = tar_argv(path, tar_features(done.stdout.decode("utf-8", "replace")))
    names = tar_names(entries)
    whole = names.endswith(b"\0.\0")
    chunks = copy_stream.process_chunks(argv[:1] + [WIDE] * whole + argv[1:], stdin=names, what="tar")
    checked = ArchiveCheck(entries)
    try:
        for chunk in usual_end(chunks) if whole else chunks:
            if check:
                checked.feed(chunk)
            yield chunk
    finally:
        chunks.close()
    if check:
        checked.finish()


def archive_differences(entries, members):
    """Sentences that tell the members of an archive from the manifest; empty if they say the same."""
    wanted = {copy_filestore.decode_name(entry): entry for entry in entries if entry["type"] not in copy_filestore.NOT_ARCHIVED}
    told = ["{0} is in the archive only".format(copy_filestore.show(name)) for name in sorted(set(members) - set(wanted))]
    for name, entry in sorted(wanted.items()):
        if name not in members:
            told.append("{0} is not in the archive".format(copy_filestore.show(name)))
            continue
        wrong = _unlike(entry, members[name], wanted, members)
        if wrong:
            told.append("{0} differs in {1}".format(copy_filestore.show(name), ", ".join(wrong)))
    return told


def _unlike(entry, member, wanted, members):
    wrong = [key for key in ("mode", "uid", "gid", "mtime_ns") if key in entry and entry[key] != member[key]]
    if member["type"] == "link":
        # tar names the first that it met, the manifest the first by name: they must be of one group.
        target = wanted.get(member["linked"], {})
        if "linked" not in entry or "linked_b64" in entry or target.get("linked") != entry["linked"]:
            if "linked_b64" not in entry or target.get("linked_b64") != entry["linked_b64"]:
                return wrong + ["linked"]
        member = dict(members.get(member["linked"], member), mode=member["mode"])
    if entry["type"] != member["type"]:
        return wrong + ["type"]
    wrong += [key for key in ("size", "sha256", "device") if entry.get(key) != member.get(key)]
    if entry["type"] == "symlink" and copy_filestore.decode_name(entry, "target") != member["target"]:
        wrong.append("target")
    attributes = _archived_xattrs(entry)
    # tar writes the access ACL of a directory that only has a default one, and may write both of the kernel's forms beside its own.
    held = {
        key: value for key, value in member["xattrs"].items() if key in attributes or not key.startswith((b"SCHILY.acl.", b"system.posix"))
    }
    return wrong + (["xattrs"] if attributes != held else [])


def _archived_xattrs(entry):
    """As tar calls them: ACLs have records of their own, of which only the presence is compared."""
    acls = {"system.posix_acl_access": b"SCHILY.acl.access", "system.posix_acl_default": b"SCHILY.acl.default"}
    return {
        acls.get(name, name.encode("utf-8", "surrogateescape")): b"" if name in acls else base64.b64decode(value)
        for name, value in entry.get("xattrs", {}).items()
    }
