#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: vault_verify
short_description: Verifies sealed packages at any later time, from the packages alone
version_added: 0.1.0
description:
  - Runs on a vault, as an unprivileged user, by schedule. Needs neither the estate nor its plan nor its ledger.
  - Reads every byte of each package against its manifests, looks for files that do not belong to it, checks the signature of the tag
    manifest and the wrapped identities, and says what is past its retention.
  - Packages of the same host that were superseded or interrupted, and were moved aside, are listed as C(superseded). Their bytes are not
    verified; they end when the package does (M(sunset.crm.vault_destroy)), and until then it is not called destroyed.
  - With O(proof) it also restores every data set and compares it with the facts about the source that lie in the package. For that a
    custodian lends the package's identity (C(scripts/custodian lend)) into the vault's memory; it is destroyed afterwards.
  - It deletes nothing else and changes nothing. Where the estate's folder is on the control node, the action plugin appends the
    result to the ledger and tells the module what the ledger expects on this vault.
attributes:
  check_mode:
    support: full
    description: It only reads. In check mode no proof is made and what was lent is left where it is.
  diff_mode:
    support: none
    description: It changes nothing.
options:
  root:
    description: Directory of the vault that holds all packages.
    type: path
    required: true
  estate:
    description: Name of the estate.
    type: str
    required: true
  package:
    description: The one package that is verified; without it all that lie here, and all that are expected here.
    type: str
  live_dir:
    description: As in M(sunset.crm.vault_package).
    type: path
  allowed_signers:
    description:
      - Text of an allowed-signers file (C(allowed_signers) in the estate's folder). With it, a package that was signed by somebody else is
        damaged. Without it, the fingerprint of the key is told.
    type: str
  expected:
    description: Packages that must be here, each with the digest of its tag manifest. Filled in from the ledger where there is one.
    type: dict
    default: {}
  keys_elsewhere:
    description: The wrapped identities are kept apart on purpose; do not look for them beside the package.
    type: bool
    default: false
  proof:
    description: Also make a new restore proof of every data set.
    type: bool
    default: false
  scratch:
    description: Directory in memory for the throw-away servers.
    type: path
    default: /dev/shm
  shelf:
    description:
      - Settings of the vault's shelf as in M(sunset.crm.vault_shelf). With them every object of each package in the bucket is read to its
        end as well, from the store's own bytes, and its lock is compared with the retention. What a provider asks for reading comes due.
    type: dict
  log:
    description: File on the control node to which the action plugin appends each result as a line of JSON.
    type: str
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Read every byte of every package
  sunset.crm.vault_verify:
    root: /srv/vault/packages
    estate: lab

- name: Restore and compare one package, whose identity a custodian has lent
  sunset.crm.vault_verify:
    root: /srv/vault/packages
    estate: lab
    package: db1
    proof: true
"""

RETURN = r"""
verdict:
  description: The worst of all packages (intact, damaged, unknown); destroyed ones are no fault.
  returned: always
  type: str
  sample: intact
packages:
  description: What was seen of each package.
  returned: always
  type: list
  elements: dict
  sample:
    - package: db1
      verdict: intact
      damage: []
      unknown: []
      sealed: "2026-11-21T10:00:00Z"
      tagmanifest_sha256: 1f3ce40415a2081fa3eee75fc39fff8e56c22270d1a978a7249b592dcebd20b4
      identity_digest: 8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4
      signature: {state: good, signer: run, key: "SHA256:0dlC5pr4TjEXhCyEyQWR5NEJXrWcPC3yxMNjOcTQVJw"}
      retention: {class: books, until: "2036-12-31", hold: false, past: "no"}
      proofs: [{item: "database:crm", verdict: equal, tables: 12, rows: 4711}]
      lent_destroyed: [data]
      superseded: [{place: /srv/vault/packages/lab/abandoned/db1.0d3ac4e1f2aa.1, custodians: [alice, bob], sealed: "2026-11-20T10:00:00Z",
        identity_digest: 0d3ac4e1f2aa5f0cb1a1a3c3a1ad5d2a4b4b5d5a3f1d4b8d9e9a1f7f3b2c1d0e, keys_identity_digest: null,
        tagmanifest_sha256: 70c9c4de0e4c0b7bd0f0aa1b9b6fd7f2b3b2f8f2a52ad9c1a6c2f7a1b9e4d3c2,
        retention: {class: books, until: "2036-12-31", hold: false, past: "no"}}]
      shelf: {folder: lab/db1.1f3ce40415a2081f, files: 9, bytes: 1843201}
past_retention:
  description: Packages whose retention has ended. Nothing is deleted because of that.
  returned: always
  type: list
  elements: str
  sample: []
on_hold:
  description: Packages that were sealed under a legal hold. The ledger and the statements say which holds stand now.
  returned: always
  type: list
  elements: str
  sample: []
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._shelf import keep as shelf_keep, rules as shelf_rules
from ansible_collections.sunset.crm.plugins.module_utils._shelf.s3 import Store
from ansible_collections.sunset.crm.plugins.module_utils._vault import contents as vault_contents, verify as vault_verify
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import Package, VaultError


def verify(params, name, check):
    """What is said of one package. Whatever goes wrong is a word about this package; the others are looked at as well."""
    notes = vault_verify.Notes()
    try:
        package = Package(params["root"], params["estate"], name, params["live_dir"])
        found = vault_verify.fixity(package, params["expected"].get(name), params["allowed_signers"], params["keys_elsewhere"], notes)
    except (VaultError, IOError, OSError) as exc:
        return {"package": name, "verdict": "unknown", "damage": [], "unknown": [str(exc)]}
    if params["shelf"]:
        found = shelved(params, package, found)
    if not params["proof"] or check or found["verdict"] == "destroyed":
        return dict(found, package=name)
    try:
        proofs = vault_verify.prove_all(package, vault_contents.read_facts(package), params["scratch"], notes)
        found = vault_verify.joined(found, proofs)
    except (VaultError, IOError, OSError) as exc:
        word = "damage" if getattr(exc, "verdict", "unknown") == "no" else "unknown"
        found = vault_verify.joined(dict(found, **{word: found[word] + [str(exc)]}), [])
    finally:
        gone = vault_verify.give_back(package)
    return dict(found, package=name, lent_destroyed=gone)


def shelved(params, package, found):
    """The same with what lies on the shelf: a copy of its own, of which a damage of the vault's own says nothing."""
    seal = params["expected"].get(package.name) or package.record().get("tagmanifest_sha256") or found.get("tagmanifest_sha256")
    if not seal or found["verdict"] == "destroyed":
        return found
    retention = found.get("retention") or {}
    until = shelf_rules.day(retention.get("until")) if retention.get("past") == "no" else None
    damage, unknown = list(found["damage"]), list(found["unknown"])
    try:
        wrong = shelf_rules.faults(params["shelf"])
        if wrong:
            raise VaultError("the shelf cannot be used: %s" % "; ".join(wrong), "unknown")
        store = Store(params["shelf"])
        store.require_object_lock()  # a bucket that is not there must not look like one in which everything is missing
        told, seen = shelf_keep.verify(package, store, params["shelf"], seal, shelf_rules.end_of(until) if until else None)
        damage, found = damage + told, dict(found, shelf=seen)
    except VaultError as exc:
        unknown.append("the shelf could not be read: %s" % exc)
    return dict(found, damage=damage, unknown=unknown, verdict=vault_verify.verdict_of(damage, unknown))


def main():
    module = AnsibleModule(
        argument_spec=dict(
            root=dict(type="path", required=True),
            estate=dict(type="str", required=True),
            package=dict(type="str"),
            live_dir=dict(type="path"),
            allowed_signers=dict(type="str"),
            expected=dict(type="dict", default={}),
            keys_elsewhere=dict(type="bool", default=False, no_log=False),
            proof=dict(type="bool", default=False),
            scratch=dict(type="path", default="/dev/shm"),  # noqa: S108 - memory, on purpose
            shelf=dict(type="dict"),
            log=dict(type="str"),
        ),
        supports_check_mode=True,
    )
    _job.for_throughput()
    params = module.params
    try:
        places = Package(params["root"], params["estate"], params["package"] or "any", params["live_dir"])
        names = [params["package"]] if params["package"] else vault_verify.packages_here(places.estate_dir, params["expected"])
    except (VaultError, IOError, OSError) as exc:
        module.fail_json(msg=str(exc), verdict="unknown", packages=[])
    found = [verify(params, name, module.check_mode) for name in names]
    if not found:
        module.fail_json(
            msg="there is no package of the estate %s below %s; check root and estate" % (params["estate"], params["root"]),
            verdict="unknown",
            packages=[],
        )
    damage = ["%s: %s" % (one["package"], word) for one in found for word in one["damage"]]
    unknown = ["%s: %s" % (one["package"], word) for one in found for word in one["unknown"]]
    result = dict(
        changed=False,
        verdict=vault_verify.verdict_of(damage, unknown),
        packages=found,
        past_retention=[one["package"] for one in found if (one.get("retention") or {}).get("past") == "yes"],
        on_hold=[one["package"] for one in found if (one.get("retention") or {}).get("hold")],
    )
    if result["verdict"] != "intact":
        module.fail_json(msg="not every package is intact:\n" + "\n".join("  - " + line for line in damage + unknown), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
