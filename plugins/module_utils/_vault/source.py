# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way from a vault to the reader of an estate host: one pinned ssh command, one question or one stream.

Private to the collection. Valid for Python 3.6, standard library.

Why a stream of our own and not sftp: the key's forced command can be one small reader that opens regular files of the staging
directories and nothing else (an sftp server, read-only too, shows the whole host to its account). And sftp writes what it fetched
to the vault's disk, where it would lie in plain before it could be encrypted. Both run over the same ssh; the stream is
measured against sftp in tests/bench/transfer.py.
"""

import json
import os
import re
from typing import Any, Dict, List  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault import pipe as vault_pipe
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

HOST_KEY = re.compile(r"^(ssh-ed25519|ssh-rsa|ecdsa-sha2-nistp(256|384|521)) ([A-Za-z0-9+/]+=*)( .*)?$")
ADDRESS = re.compile(r"^[A-Za-z0-9:][A-Za-z0-9.:%_-]*$")
USER = re.compile(r"^[a-z_][a-z0-9_.-]*\$?$")
ALIAS = "sunset-source"
# OpenSSH's own list with AES-GCM first: where the processor has AES, that is several times the speed of its first choice.
CIPHERS = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,aes192-ctr,aes256-ctr"
# What the reader writes before the last line of a stream that it made itself, on its standard error.
TRAILER = b"sunset-trailer "


def aes_in_hardware():
    # type: () -> bool
    try:
        with open("/proc/cpuinfo") as stream:
            return re.search(r"^(flags|Features)\s*:.*\baes\b", stream.read(), re.MULTILINE) is not None
    except IOError:
        return False


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
    for option in options + (["Ciphers=" + CIPHERS] if aes_in_hardware() else []):
        argv += ["-o", option]
    return argv + ["-l", source.get("user") or "root", "--", str(source["address"]), " ".join(words)]


def known_hosts_text(source):
    # type: (Dict[str, Any]) -> str
    return "".join("%s %s\n" % (ALIAS, key) for key in host_keys(source))


class Connection(object):
    """The reader of one host, as a context: the file of its host keys exists only meanwhile."""

    def __init__(self, source, key_path, known_hosts, rec):
        # type: (Dict[str, Any], str, str, Any) -> None
        self.source, self.key_path, self.known_hosts, self.rec = source, key_path, known_hosts, rec
        self.where = "%s:%s" % (source["address"], source.get("port") or 22)

    def __enter__(self):
        # type: () -> Connection
        with open(self.known_hosts, "w") as stream:
            stream.write(known_hosts_text(self.source))
        return self

    def __exit__(self, *_exc):
        # type: (*Any) -> None
        os.unlink(self.known_hosts)

    def argv(self, *words):
        # type: (*str) -> List[str]
        return ssh_argv(self.source, self.key_path, self.known_hosts, list(words))

    def size(self, name):
        # type: (str) -> int
        """Ask for the size first: a wrong key, host or file is known before a byte is moved."""
        result = self.rec.read(self.argv("stat", name), timeout=60)
        if result.rc == 255:
            raise VaultError(
                "the vault cannot reach %s over SSH with the pinned host key and its pull key: %s; check the route, the host "
                "key in the plan and that vault_access was run" % (self.where, result.err.strip()[-400:]),
                verdict="unknown",
            )
        if result.rc != 0:
            raise VaultError(
                "%s does not give out %s (exit code %d): %s" % (self.where, name, result.rc, result.err.strip()[-400:]),
                verdict="unknown",
            )
        try:
            return int(json.loads(result.out)["bytes"])
        except (ValueError, KeyError, TypeError):
            raise VaultError("%s answered something else than the reader for %s" % (self.where, name), verdict="unknown")

    def read(self, name, offset, stall):
        # type: (str, int, float) -> vault_pipe.Source
        return vault_pipe.Source(self.argv("read", name, str(offset)), stall)

    def make(self, name, stall):
        # type: (str, float) -> vault_pipe.Source
        return vault_pipe.Source(self.argv("make", name), stall)


def trailer_of(stream):
    # type: (vault_pipe.Source) -> Dict[str, Any]
    """What the source says of a stream that it made: {"ok": ...}. Without it nothing is known of the stream."""
    try:
        found = json.loads((stream.last_line(TRAILER) or b"").decode("utf-8"))
        return found if isinstance(found, dict) else {"ok": False, "error": "the source's last words are no trailer"}
    except ValueError:
        return {"ok": False, "error": "the stream ended without the source's last words: %s" % stream.said()}
