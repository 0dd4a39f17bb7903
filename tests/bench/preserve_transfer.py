# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The transfer part of the preserve benchmark: the modules of the vault as they are, against the system's sftp, same file, same link."""

from __future__ import annotations

import json
import time
from typing import Any

from ansible_collections.sunset.crm.plugins.module_utils import _vault_source
from ansible_collections.sunset.crm.plugins.module_utils._recorded import make_receipt
from tests.integration.host_container import LIBRARY

ROOT = "/srv/vault/packages"
KEY = "/dev/shm/sunset-vault-906/bench/bench.pull"
MIB = 1000


def module(world: Any, name: str, **options: Any) -> dict[str, Any]:
    """A module of the vault, as the vault's user."""
    arguments = dict(
        options, receipt=make_receipt(name, options["item"], intent="bench", check=False), _ansible_module_name=f"sunset.crm.{name}"
    )
    argv = ["runuser", "-u", "vault", "--", "/usr/bin/python3", f"{LIBRARY}/run.py", name]
    answer: dict[str, Any] = json.loads(world.run(*argv, stdin=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), check=False))
    assert not answer.get("failed"), answer
    return answer


def prepare(world: Any, recipient: str) -> list[dict[str, Any]]:
    """A package that may read, and the staged artefact that both sides fetch."""
    people = [{"name": "one", "recipient": recipient}]
    base = {"root": ROOT, "estate": "bench", "package": "bench"}
    key = module(world, "vault_package", item="host:bench", state="open", custodians=people, **base)["result"]["pull_public_key"]
    world.shell("install -d -m 0700 /srv/out && head -c %dM /dev/urandom >/srv/out/big && chmod 600 /srv/out/big" % MIB)
    world.module("vault_access", item="host:bench", public_key=key, directories=["/srv/out"])
    # A second key for the peer, which may use sftp.
    world.shell(
        "runuser -u vault -- ssh-keygen -q -t ed25519 -N '' -f /srv/vault/peer; cat /srv/vault/peer.pub >>/root/.ssh/authorized_keys"
    )
    digest = world.shell("sha256sum </srv/out/big").split()[0]
    size = MIB << 20
    return [
        {
            "name": "big",
            "role": "dump",
            "path": "/srv/out/big",
            "sha256": digest,
            "bytes": size,
            "plain_sha256": digest,
            "plain_bytes": size,
        }
    ]


def transfer(bench: Any) -> None:
    """The pull against sftp with the ciphers that the pull asks for, and a sync of what it wrote.

    Of the pull: from the first byte to the last segment that is digested, encrypted, synced and named. Stored: until all are read back
    and recorded. Module: all of it.
    """
    world = bench.world
    if not hasattr(bench, "artefacts"):
        bench.artefacts = prepare(world, bench.recipient)
    ssh = "-q -i /srv/vault/peer -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o Compression=no"
    ssh += f" -o Ciphers={_vault_source.CIPHERS}" if _vault_source.aes_in_hardware() else ""
    script = (
        f"rm -f /srv/vault/peer.big; sftp {ssh} -b - root@127.0.0.1 <<<'get /srv/out/big /srv/vault/peer.big'; sync /srv/vault/peer.big"
    )
    peer = bench.pipe(script, "vault")["wall"]
    world.shell(f"rm -rf /srv/vault/peer.big {ROOT}/bench/bench/data/* {ROOT}/bench/state/bench/*.stored.json; sync")
    source = {"address": "127.0.0.1", "host_key": world.read("/etc/ssh/ssh_host_ed25519_key.pub").strip()}
    began = time.monotonic()
    answer = module(world, "vault_pull", item="database:big", source=source, artefacts=bench.artefacts,
                    root=ROOT, estate="bench", package="bench")  # fmt: skip
    whole = time.monotonic() - began
    assert answer["changed"]
    (note,) = [one for one in answer["evidence"]["actions"] if one.get("act") == "pulled and encrypted"]
    bench.add("transfer_over_sftp", peer / note["seconds"])
    bench.add("transfer_stored_over_sftp", peer / (note["seconds"] + note["read_back_seconds"]))
    bench.add("transfer_module_over_sftp", peer / whole)
    bench.add("transfer_sftp_mib_a_second", MIB / peer)
