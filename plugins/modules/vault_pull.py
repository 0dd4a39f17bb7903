#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: vault_pull
short_description: Fetches the artefacts of a data set into its package on the vault, encrypted on the way
version_added: 0.1.0
description:
  - Runs on a vault, as an unprivileged user, on a package that M(sunset.crm.vault_package) opened.
  - Streams each artefact over SSH through age into a C(.part) file, syncs it and renames it. An artefact counts only when its size and
    digest are those that the ledger recorded at the source. Nothing plain touches the vault's disk.
  - An artefact of more than 4 MiB is stored as segments, each a file that stock C(age) opens by itself. While the next one comes,
    each is synced and read back from the disk; the digest that is recorded is that of what lies there.
  - An interrupted run goes on behind the last segment that is whole; each is opened and compared again before that, and what an
    unfinished one holds is taken over. Segments of a source file that the ledger no longer names are removed.
  - A direct artefact was never staged, its source makes the stream for each vault anew and says at its end what it was. Such a
    transfer cannot go on where it was interrupted, it starts again.
options:
  source:
    description: How the vault reaches the host, with the host's pinned public key.
    type: dict
    required: true
    suboptions:
      address:
        description: Host name or IP address.
        type: str
        required: true
      port:
        description: SSH port.
        type: int
        default: 22
      user:
        description: Login user that M(sunset.crm.vault_access) let in.
        type: str
        default: root
      host_key:
        description: Public host keys, such as V(ssh-ed25519 AAAA...). Any other key ends the run.
        type: list
        elements: str
        required: true
  artefacts:
    description:
      - The artefacts as the dump's evidence in the ledger names them (name, role, path, sha256, bytes, plain_sha256,
        plain_bytes; of a direct one direct, of and estimate instead of the digests).
      - May be empty in check mode only.
    type: list
    elements: dict
    required: true
  secret:
    description: Whether the data set holds keys of the CRM and is encrypted to the package's second identity. Filled in from the plan.
    type: bool
    default: false
  rate:
    description: Upper limit in bytes a second for the transfer; 0 for none.
    type: int
    default: 0
  stall:
    description: Seconds without a byte after which a transfer is given up.
    type: int
    default: 120
extends_documentation_fragment:
  - sunset.crm.recorded
  - sunset.crm.recorded.package
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Pull the dump of a database
  sunset.crm.vault_pull:
    item: database:crm
    root: /srv/vault/packages
    estate: lab
    package: db1
    source:
      address: 192.0.2.11
      host_key: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0pV5dO]
    artefacts: "{{ dump.result.artefacts }}"
"""

RETURN = r"""
result:
  description: What later steps and gates read from the ledger.
  returned: always
  type: dict
  contains:
    stored:
      description:
        - The artefacts in the package, with the digests of the staged file and of the ciphertext.
        - Of a segmented one C(segments) is their number and C(segments_sha256) the SHA-256 of what C(sha256sum FILE.*.age) prints.
      returned: success
      type: list
      elements: dict
      sample:
        - {name: crm.dump.zst, role: dump, sha256: 9c1f..., bytes: 1833212, cipher_sha256: 77ab..., cipher_bytes: 1833900}
    complete:
      description: Whether every artefact is stored.
      returned: success
      type: bool
      sample: true
    cipher_bytes:
      description: Bytes of ciphertext of this data set.
      returned: success
      type: int
      sample: 1833900
    fetched:
      description: Names of the artefacts that this run fetched.
      returned: success
      type: list
      elements: str
      sample: [crm.dump.zst]
evidence:
  description: Before, actions, after, times and tool versions, as the ledger records them.
  returned: always
  type: dict
evidence_sha256:
  description: Digest of the evidence.
  returned: always
  type: str
"""

from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded
from ansible_collections.sunset.crm.plugins.module_utils._vault import (
    age as vault_age,
    fetch as vault_fetch,
    pull as vault_pull,
    source as vault_source,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import DATA, KEYS, RECIPIENTS, Package, VaultError, item_slug


def run(rec):
    params = rec.params
    package = Package(params["root"], params["estate"], params["package"], params["live_dir"])
    item_slug(rec.item)
    vault_source.check_source(params["source"])
    artefacts = vault_pull.check_artefacts(params["artefacts"], params["secret"])
    if not artefacts and not rec.check_mode:
        raise VaultError("artefacts is empty; expected what the dump of %s left in the ledger" % rec.item)
    record = package.record()
    seen = vault_pull.observe(package, rec.item, artefacts)
    rec.before(dict(seen, package=record["state"]))
    changed = not artefacts or not vault_pull.unchanged(seen)
    missing = vault_pull.decide(seen)
    if changed and not rec.check_mode:
        if record["state"] not in ("open", "absent"):
            raise VaultError(
                "the package %s is %s and does not hold %s as the ledger describes it (%s); if the source was dumped anew, open "
                "a new package with vault_package state=open supersede=true"
                % (package.name, record["state"], rec.item, ", ".join(missing + seen["superfluous"])),
            )
        for tool, version in vault_age.tool_versions(rec.read).items():
            rec.tool(tool, version)
        record = package.require_live()
        which = KEYS if params["secret"] else DATA
        if not record.get(RECIPIENTS[which]):
            raise VaultError("the package %s has no second identity for %s; run vault_package state=open again" % (package.name, rec.item))
        identity = package.identity_of(which)
        puller = vault_fetch.Puller(package, rec.item, identity, params["source"], params["rate"], params["stall"], rec)
        vault_pull.pull(package, rec.item, artefacts, seen, puller, record[RECIPIENTS[which]])
        seen = vault_pull.observe(package, rec.item, artefacts, puller.proven)
        if not vault_pull.unchanged(seen):
            raise VaultError("the package does not hold what was just written: %r" % seen, verdict="unknown")
    rec.after(dict(seen, package=record["state"]))
    rec.finish(changed=changed, result=dict(vault_pull.result_of(package, rec.item), fetched=missing if changed else []))


def main():
    rec = Recorded(
        argument_spec=dict(
            root=dict(type="path", required=True),
            estate=dict(type="str", required=True),
            package=dict(type="str", required=True),
            live_dir=dict(type="path"),
            source=dict(
                type="dict",
                required=True,
                options=dict(
                    address=dict(type="str", required=True),
                    port=dict(type="int", default=22),
                    user=dict(type="str", default="root"),
                    host_key=dict(type="list", elements="str", required=True, no_log=False),
                ),
            ),
            artefacts=dict(type="list", elements="dict", required=True),
            secret=dict(type="bool", default=False, no_log=False),
            rate=dict(type="int", default=0),
            stall=dict(type="int", default=120),
        ),
        object_lock="vault",
    )
    _job.for_throughput()
    try:
        run(rec)
    except VaultError as exc:
        rec.fail(str(exc), verdict=exc.verdict, **exc.result)
    except (IOError, OSError) as exc:
        rec.fail("%s: %s" % (exc.filename or "input or output", exc.strerror), verdict="unknown")


if __name__ == "__main__":
    main()
