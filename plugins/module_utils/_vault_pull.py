# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fetching the artefacts of one data set into a package, encrypted before they reach the vault's disk.

Private to the collection. Valid for Python 3.6, standard library. A ciphertext stream cannot be continued in its middle
(age's key of each file is new), so an interrupted artefact is fetched again from its start; whole ones are kept.
"""

import glob
import json
import os
import re
from typing import Any, Dict, List, Optional  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils import _vault_stream
from ansible_collections.sunset.crm.plugins.module_utils._vault import (
    KEYS,
    NAME,
    SHA256,
    Package,  # noqa: F401
    VaultError,
    item_slug,
    make_directory,
    read_record,
    require_space,
    sha256_file,
    sync_directory,
    write_record,
)

HOST_KEY = re.compile(r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) ([A-Za-z0-9+/]+=*)( .*)?$")
ADDRESS = re.compile(r"^[A-Za-z0-9:][A-Za-z0-9.:%_-]*$")
USER = re.compile(r"^[a-z_][a-z0-9_.-]*\$?$")
ALIAS = "sunset-source"
KEPT = ("name", "file", "role", "sha256", "bytes", "plain_sha256", "plain_bytes", "identity")


def check_artefacts(artefacts, secret=False):
    # type: (List[Dict[str, Any]], bool) -> List[Dict[str, Any]]
    """The artefacts as the ledger names them, reduced to what is kept; anything odd is refused.

    secret: they are encrypted to the package's second identity."""
    names, files, kept = set(), set(), []
    for artefact in artefacts:
        name = artefact.get("name") or ""
        if not NAME.match(name):
            raise VaultError("artefact name %r is no plain name" % name)
        if name in names:
            raise VaultError("two artefacts are called %s; names must differ within a data set" % name)
        # Inside the package it carries the staged file's own name, whose ending tells how to open it.
        stored_as = os.path.basename(str(artefact.get("path") or name))
        if not NAME.match(stored_as) or stored_as.endswith((".part", ".age")) or stored_as in files:
            raise VaultError("the staged file of artefact %s is called %r; expected a plain name of its own" % (name, stored_as))
        names.add(name)
        files.add(stored_as)
        if not SHA256.match(str(artefact.get("sha256"))) or not str(artefact.get("bytes")).isdigit():
            raise VaultError("artefact %s has no sha256 and bytes; expected them from the ledger's evidence of the dump" % name)
        one = {key: artefact[key] for key in KEPT if artefact.get(key) is not None and key != "identity"}
        if secret:
            one["identity"] = KEYS
        for key in ("bytes", "plain_bytes"):
            if key in one:
                one[key] = int(one[key])
        one.setdefault("role", "artefact")
        one["file"] = stored_as
        one["source_path"] = source_path(artefact)
        kept.append(one)
    return kept


def source_path(artefact):
    # type: (Dict[str, Any]) -> str
    """What the reader is asked for: the staged file's whole path, else its name."""
    path = str(artefact.get("path") or artefact["name"])
    if "\n" in path or "\0" in path or path.startswith("/") and os.path.normpath(path) != path:
        raise VaultError("the path %r of artefact %s is no plain path" % (path, artefact["name"]))
    return path


def check_source(source):
    # type: (Dict[str, Any]) -> None
    if not ADDRESS.match(str(source.get("address") or "")):
        raise VaultError("source.address is %r; expected a host name or an IP address" % source.get("address"))
    if not USER.match(source.get("user") or "root"):
        raise VaultError("source.user is %r; expected a login name" % source.get("user"))
    if not host_keys(source):
        raise VaultError("source.host_key is missing; expected the host's public SSH key, pinned in the plan")


def host_keys(source):
    # type: (Dict[str, Any]) -> List[str]
    given = source.get("host_key") or []
    keys = [given] if not isinstance(given, list) else given
    for key in keys:
        if not HOST_KEY.match(str(key)):
            raise VaultError("source.host_key %r is no public SSH host key such as 'ssh-ed25519 AAAA...'" % (key,))
    return [" ".join(str(key).split()[:2]) for key in keys]


def ssh_argv(source, key_path, known_hosts, words):
    # type: (Dict[str, Any], str, str, List[str]) -> List[str]
    """The whole ssh command: nothing of the user's or the system's configuration has a say in it."""
    options = [
        "BatchMode=yes",
        "CheckHostIP=no",
        "Compression=no",
        "ConnectTimeout=15",
        "ControlMaster=no",
        "ControlPath=none",
        "ForwardAgent=no",
        "GlobalKnownHostsFile=/dev/null",
        "HostKeyAlias=" + ALIAS,
        "IdentitiesOnly=yes",
        "IdentityAgent=none",
        "LogLevel=ERROR",
        "PreferredAuthentications=publickey",
        "ServerAliveCountMax=4",
        "ServerAliveInterval=15",
        "StrictHostKeyChecking=yes",
        "UpdateHostKeys=no",
        "UserKnownHostsFile=" + known_hosts,
    ]
    argv = ["ssh", "-F", "/dev/null", "-T", "-i", key_path, "-p", str(int(source.get("port") or 22))]
    for option in options:
        argv += ["-o", option]
    return argv + ["-l", source.get("user") or "root", "--", str(source["address"]), " ".join(words)]


def known_hosts_text(source):
    # type: (Dict[str, Any]) -> str
    return "".join("%s %s\n" % (ALIAS, key) for key in host_keys(source))


def matches(entry, artefact):
    # type: (Optional[Dict[str, Any]], Dict[str, Any]) -> bool
    """Whether a record is about this very artefact."""
    return entry is not None and all(entry.get(key) == artefact.get(key) for key in ("sha256", "bytes", "identity"))


def observe(package, item, artefacts):
    # type: (Package, str, List[Dict[str, Any]]) -> Dict[str, Any]
    """Which artefacts are stored and whole: each stored file is read to its end."""
    record = read_record(package.stored_path(item)) or {"artefacts": []}
    by_file = {entry["file"]: entry for entry in record["artefacts"]}
    state = {}
    for artefact in artefacts:
        entry = by_file.get(artefact["file"])
        path = os.path.join(package.folder(item), artefact["file"] + ".age")
        if not os.path.isfile(path):
            state[artefact["name"]] = "absent"
        elif entry is None or not matches(entry, artefact):
            state[artefact["name"]] = "another"
        else:
            whole = sha256_file(path) == (entry["cipher_sha256"], entry["cipher_bytes"])
            state[artefact["name"]] = "stored" if whole else "damaged"
    wanted = {artefact["file"] + ".age" for artefact in artefacts}
    here = os.listdir(package.folder(item)) if os.path.isdir(package.folder(item)) else []
    return {
        "artefacts": state,
        "superfluous": sorted(set(here) - wanted),
        "recorded": bool(record.get("complete")) and sorted(by_file) == sorted(a["file"] for a in artefacts),
    }


def decide(seen):
    # type: (Dict[str, Any]) -> List[str]
    """Names of the artefacts that must be fetched."""
    return sorted(name for name, state in seen["artefacts"].items() if state != "stored")


def unchanged(seen):
    # type: (Dict[str, Any]) -> bool
    return not decide(seen) and not seen["superfluous"] and seen["recorded"]


def space_needed(artefacts, names):
    # type: (List[Dict[str, Any]], List[str]) -> int
    """age adds a header and 16 bytes for each 64 KiB; a tenth of a per cent and a megabyte are kept on top."""
    total = sum(artefact["bytes"] for artefact in artefacts if artefact["name"] in names)
    return total + total // 1000 + len(names) * 4096 + (1 << 20)


class Puller(object):
    """Fetches artefacts of one data set over one pinned connection each."""

    def __init__(self, package, item, source, rate, stall, rec):
        # type: (Package, str, Dict[str, Any], int, float, Any) -> None
        self.package, self.item, self.source, self.rate, self.stall, self.rec = package, item, source, rate, stall, rec
        self.folder = package.folder(item)
        self.known_hosts = os.path.join(package.live, "%s.%s.known_hosts" % (package.name, item_slug(item)))

    def __enter__(self):
        # type: () -> Puller
        os.umask(0o077)
        make_directory(self.folder)
        sync_directory(self.package.data)
        for left in glob.glob(os.path.join(glob.escape(self.folder), "*.part")):
            os.unlink(left)
        with open(self.known_hosts, "w") as stream:
            stream.write(known_hosts_text(self.source))
        return self

    def __exit__(self, *_exc):
        # type: (*Any) -> None
        os.unlink(self.known_hosts)

    def argv(self, *words):
        # type: (*str) -> List[str]
        return ssh_argv(self.source, self.package.pull_key, self.known_hosts, list(words))

    def probe(self, artefact):
        # type: (Dict[str, Any]) -> None
        """Ask for the size first: a wrong key, host or file is known before a byte is moved."""
        name = artefact["source_path"]
        result = self.rec.read(self.argv("stat", name), timeout=60)
        where = "%s:%s" % (self.source["address"], self.source.get("port") or 22)
        if result.rc == 255:
            raise VaultError(
                "the vault cannot reach %s over SSH with the pinned host key and its pull key: %s; check the route, the host "
                "key in the plan and that vault_access was run" % (where, result.err.strip()[-400:]),
                verdict="unknown",
            )
        if result.rc != 0:
            raise VaultError(
                "%s does not give out %s (exit code %d): %s" % (where, name, result.rc, result.err.strip()[-400:]),
                verdict="unknown",
            )
        try:
            size = int(json.loads(result.out)["bytes"])
        except (ValueError, KeyError, TypeError):
            raise VaultError("%s answered something else than the reader for %s" % (where, name), verdict="unknown")
        if size != artefact["bytes"]:
            raise VaultError(
                "%s on %s has %d bytes; the ledger says %d; it was changed after the dump, make the dump again"
                % (name, where, size, artefact["bytes"])
            )

    def fetch(self, artefact, recipient):
        # type: (Dict[str, Any], str) -> Dict[str, Any]
        """One artefact under its final name, or nothing."""
        self.probe(artefact)
        target = os.path.join(self.folder, artefact["file"] + ".age")
        facts = _vault_stream.encrypt_to_file(self.argv("read", artefact["source_path"], "0"), recipient, target, self.rate, self.stall)
        if (facts["sha256"], facts["bytes"]) != (artefact["sha256"], artefact["bytes"]):
            os.unlink(target + ".part")
            raise VaultError(
                "%s arrived with sha256 %s and %d bytes; the ledger says %s and %d; nothing was kept; if it was changed on the "
                "host, make the dump again" % (artefact["name"], facts["sha256"], facts["bytes"], artefact["sha256"], artefact["bytes"]),
                artefact=artefact["name"],
            )
        _vault_stream.publish(target)
        if sha256_file(target) != (facts["cipher_sha256"], facts["cipher_bytes"]):
            raise VaultError("%s reads back differently from what was written; check the vault's disk" % target)
        self.rec.note(act="pulled and encrypted", artefact=artefact["name"], **facts)
        kept = {key: artefact[key] for key in KEPT if key in artefact}
        return dict(kept, cipher_sha256=facts["cipher_sha256"], cipher_bytes=facts["cipher_bytes"])


def pull(package, item, artefacts, seen, puller, recipient):
    # type: (Package, str, List[Dict[str, Any]], Dict[str, Any], Puller, str) -> None
    """Fetch what is missing; the record is written after each artefact, and as complete at the end."""
    path = package.stored_path(item)
    record = read_record(path) or {"artefacts": []}
    missing = decide(seen)
    entries = {e["name"]: e for e in record["artefacts"] if seen["artefacts"].get(e["name"]) == "stored"}
    require_space(package.data, space_needed(artefacts, missing), "the package of %s" % item)
    with puller:
        for artefact in artefacts:
            if artefact["name"] in missing:
                entries[artefact["name"]] = puller.fetch(artefact, recipient)
                write_record(path, {"item": item, "complete": False, "artefacts": ordered(entries)})
        wanted = {artefact["file"] + ".age" for artefact in artefacts}
        for name in sorted(set(os.listdir(puller.folder)) - wanted):
            # Only now, with the whole newer set stored, an earlier dump of the same data set is let go.
            os.unlink(os.path.join(puller.folder, name))
            puller.rec.note(act="removed an artefact of an earlier dump", file=name)
    write_record(path, {"item": item, "complete": True, "artefacts": ordered(entries)})


def ordered(entries):
    # type: (Dict[str, Dict[str, Any]]) -> List[Dict[str, Any]]
    return [entries[name] for name in sorted(entries)]


def result_of(package, item):
    # type: (Package, str) -> Dict[str, Any]
    record = read_record(package.stored_path(item)) or {"artefacts": []}
    return {
        "stored": record["artefacts"],
        "complete": bool(record.get("complete")),
        "cipher_bytes": sum(entry["cipher_bytes"] for entry in record["artefacts"]),
    }
