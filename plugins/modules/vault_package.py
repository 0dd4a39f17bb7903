#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: vault_package
short_description: Opens, seals and forgets the encrypted package of one host on a vault
version_added: 0.1.0
description:
  - Runs on a vault, as an unprivileged user. A package holds the encrypted copies of one host of an estate.
  - C(open) makes an age identity for this package alone, in memory only, wraps it to each custodian's recipient, and makes
    the key pair with which the vault pulls. Where a data set of the host holds keys of the CRM (C(secret) in the plan), it makes a
    second identity for these alone.
  - C(sealed) turns the package into a BagIt 1.0 bag (RFC 8493) over the ciphertext and reads every byte of it again. The control
    node signs the tag manifest with its run key in the same act, and the signature is put beside it.
  - C(forgotten) destroys the identities and the pull key in the vault's memory. From then on only a custodian can open it.
options:
  state:
    description: What the package is to be.
    type: str
    choices: [open, sealed, forgotten]
    default: open
  custodians:
    description: The people who can open the package later. Needed for O(state=open).
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: Short name of the custodian; becomes part of a file name.
        type: str
        required: true
      recipient:
        description: The custodian's public age recipient, or an SSH public key.
        type: str
        required: true
  supersede:
    description:
      - With O(state=open), begin again although a sealed package exists. The sealed one is moved to C(abandoned/), not deleted.
        It ends with the new one (M(sunset.crm.vault_destroy)).
    type: bool
    default: false
  secret:
    description: Whether a data set of the host is encrypted to a second identity. Filled in from the plan.
    type: bool
    default: false
  retention:
    description:
      - How long the company means to keep the package. Written into it when it is sealed, and never changed afterwards.
      - Filled in from the plan (C(settings.retention)) and from the legal holds among the statements.
    type: dict
    default: {}
    suboptions:
      class:
        description: The company's own name for the class. Without one the package is V(unclassified), which never expires by itself.
        type: str
      until:
        description: Last day on which it must be kept, such as V(2036-12-31).
        type: str
      hold:
        description: Whether a legal hold stood when it was sealed.
        type: bool
        default: false
  signature:
    description: SSH signature over the tag manifest, made by the action plugin. With O(state=sealed).
    type: str
  attestation_sha256:
    description:
      - Digest of the custodian's signed attestation that the wrapped identity opens. Needed for O(state=forgotten).
      - The attestation itself is verified by the gate on the control node.
    type: str
  keys_attestation_sha256:
    description: The same for the second identity, where the package has one.
    type: str
extends_documentation_fragment:
  - sunset.crm.recorded
  - sunset.crm.recorded.package
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Open the package of a host
  sunset.crm.vault_package:
    item: host:db1
    state: open
    root: /srv/vault/packages
    estate: lab
    package: db1
    custodians:
      - {name: alice, recipient: age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg}
      - {name: bob, recipient: age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa}

- name: Seal it when everything in it is proven
  sunset.crm.vault_package:
    item: host:db1
    state: sealed
    root: /srv/vault/packages
    estate: lab
    package: db1
    retention: {class: books, until: "2036-12-31"}
"""

RETURN = r"""
result:
  description: What later steps and gates read from the ledger.
  returned: always
  type: dict
  contains:
    state:
      description: State of the package after the run.
      returned: success
      type: str
      sample: open
    identity_digest:
      description: SHA-256 of the package's identity file. It tells nothing about the key.
      returned: success
      type: str
      sample: 8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4
    recipient:
      description: The package's public age recipient.
      returned: success
      type: str
      sample: age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg
    keys_identity_digest:
      description: SHA-256 of the second identity; none where the package has only one.
      returned: success
      type: str
      sample: 1b4f0e9851971998e732078544c96b36c3d01cedf7caa332359d6f1d83567014
    keys_recipient:
      description: Public age recipient of the second identity.
      returned: success
      type: str
      sample: age1t7rxyev2z3rw82stdlrrepyc39nvn86l5078zqkf5uasdy86jp6svpy7pa
    pull_public_key:
      description: Public key for M(sunset.crm.vault_access); none after the package was forgotten.
      returned: success
      type: str
      sample: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO5Yh4Yl sunset-vault-lab-db1
    live:
      description: Whether the vault still holds the identity in memory.
      returned: success
      type: bool
      sample: true
    live_swap:
      description: Whether memory of this vault can be written to swap (yes, no, unknown).
      returned: success
      type: str
      sample: "no"
    wrapped:
      description: The identity as it was wrapped for each custodian.
      returned: success
      type: list
      elements: dict
      sample: [{custodian: alice, identity: data, path: /srv/vault/packages/lab/keys/db1.alice.age, sha256: 3a7b...}]
    restarted:
      description: Whether an earlier package was moved aside, because its identity was lost or it was superseded.
      returned: state is open
      type: bool
      sample: false
    abandoned:
      description: Where the earlier package lies now.
      returned: state is open
      type: str
      sample: /srv/vault/packages/lab/abandoned/db1.0d3ac4e1f2aa.1
    bag:
      description: The folder of the sealed package.
      returned: state is sealed or forgotten
      type: str
      sample: /srv/vault/packages/lab/db1
    tagmanifest_sha256:
      description: Digest of the tag manifest. It stands for the whole package.
      returned: state is sealed or forgotten
      type: str
      sample: 1f3ce40415a2081fa3eee75fc39fff8e56c22270d1a978a7249b592dcebd20b4
    payload_oxum:
      description: Bytes and number of payload files.
      returned: state is sealed or forgotten
      type: str
      sample: "1843201.5"
    retention:
      description: What was written into the package.
      returned: state is sealed or forgotten
      type: dict
      sample: {class: books, until: "2036-12-31", hold: false}
    tagmanifest:
      description: Text of the tag manifest, as long as it has no valid signature. The action plugin signs it.
      returned: state is sealed
      type: str
    signature:
      description: Whether a signature lies beside the tag manifest (valid, bad, absent, unknown), and the fingerprint of its key.
      returned: state is sealed
      type: dict
      sample: {state: valid, key: "SHA256:0dlC5pr4TjEXhCyEyQWR5NEJXrWcPC3yxMNjOcTQVJw"}
evidence:
  description: Before, actions, after, times and tool versions, as the ledger records them.
  returned: always
  type: dict
evidence_sha256:
  description: Digest of the evidence.
  returned: always
  type: str
"""

from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded
from ansible_collections.sunset.crm.plugins.module_utils._vault import (
    age as vault_age,
    bag as vault_bag,
    contents as vault_contents,
    package as vault_package,
    seal as vault_seal,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import SHA256, Package, VaultError, write_record


def run_open(rec, package):
    custodians = rec.params["custodians"]
    vault_package.check_custodians(custodians)
    for tool, version in vault_age.tool_versions(rec.read).items():
        rec.tool(tool, version)
    seen = vault_package.observe(package, custodians)
    rec.before(seen)
    act = vault_package.decide_open(seen, rec.params["supersede"], rec.params["secret"])
    place = None
    if act != "nothing" and not rec.check_mode:
        if act == "restart":
            place = vault_package.set_aside(package, rec)
        vault_package.open_package(package, custodians, rec, rec.params["secret"])
        seen = vault_package.observe(package, custodians)
        if vault_package.decide_open(seen, False, rec.params["secret"]) != "nothing":
            raise VaultError("the package is not open after it was made: %r" % seen, verdict="unknown")
    rec.after(seen)
    result = vault_package.open_result(package)
    result.update(restarted=act == "restart", abandoned=place)
    rec.finish(changed=act != "nothing", result=result)


def run_sealed(rec, package):
    retention = vault_contents.check_retention(rec.params["retention"])
    record = package.record()
    rec.before({"state": record["state"]})
    if record["state"] in ("destroying", "destroyed"):
        raise VaultError("the package %s/%s was destroyed, on record; there is nothing to seal" % (package.estate, package.name))
    if record["state"] == "absent" and not rec.check_mode:
        raise VaultError("there is no package %s/%s on this vault; open and fill it first" % (package.estate, package.name))
    change = record["state"] in ("absent", "open")
    if change and not rec.check_mode:
        package.require_live()
        obstacles = vault_seal.seal_obstacles(package)
        if obstacles:
            raise VaultError("the package %s cannot be sealed: %s" % (package.name, "; ".join(obstacles)), obstacles=obstacles)
        record = vault_seal.seal(package, retention, rec)
    problems = vault_bag.bag_problems(package, record["tagmanifest_sha256"]) if "tagmanifest_sha256" in record else []
    if problems:
        raise VaultError(
            "the sealed package %s is not whole: %s; do not go on; bring it back from another vault" % (package.bag, "; ".join(problems)),
            problems=problems,
        )
    if change and not rec.check_mode:
        write_record(package.record_path, record)
    signature = vault_seal.signed(package, rec)
    if rec.params["signature"] and signature["state"] != "valid":
        change = True
        if not rec.check_mode:
            vault_seal.add_signature(package, rec.params["signature"], rec)
            signature = vault_seal.signed(package, rec)
            if signature["state"] != "valid":
                raise VaultError("the signature that was given is not one over the tag manifest of %s" % package.bag)
    rec.after({"state": record["state"], "problems": problems, "signature": signature})
    result = dict(sealed_result(package, record), signature=signature)
    if signature["state"] != "valid" and "tagmanifest_sha256" in record:
        result["tagmanifest"] = vault_seal.read_text(package, vault_bag.TAG_MANIFEST)
    rec.finish(changed=change, result=result)


def sealed_result(package, record):
    result = vault_package.open_result(package)
    result.update(
        state=record["state"],
        bag=package.bag,
        tagmanifest_sha256=record.get("tagmanifest_sha256"),
        payload_oxum=record.get("payload_oxum"),
        retention=record.get("retention"),
    )
    return result


def run_forgotten(rec, package):
    given = [rec.params[name] for name in ("attestation_sha256", "keys_attestation_sha256")]
    for attestation in given:
        if attestation and not SHA256.match(attestation):
            raise VaultError("attestation_sha256 is %r; expected 64 hexadecimal digits" % attestation)
    seen = vault_package.observe(package, [])
    told = ("state", "identity_digest", "live_digest", "keys_identity_digest", "keys_live_digest", "pull_key")
    rec.before({k: seen[k] for k in told})
    if rec.check_mode and seen["state"] in ("absent", "open"):
        rec.finish(changed=True, result=sealed_result(package, package.record()))
    act = vault_package.decide_forget(seen, *given)
    if act == "forget" and not rec.check_mode:
        vault_package.forget(package, given[0], given[1], rec)
        seen = vault_package.observe(package, [])
        if seen["live_digest"] or seen["keys_live_digest"] or seen["pull_key"]:
            raise VaultError("an identity of %s is still in memory after it was destroyed" % package.name)
    rec.after({k: seen[k] for k in told})
    result = sealed_result(package, package.record())
    for name in ("attestation_sha256", "keys_attestation_sha256"):
        result[name] = package.record().get(name)
    rec.finish(changed=act == "forget", result=result)


def main():
    rec = Recorded(
        argument_spec=dict(
            state=dict(type="str", choices=["open", "sealed", "forgotten"], default="open"),
            root=dict(type="path", required=True),
            estate=dict(type="str", required=True),
            package=dict(type="str", required=True),
            custodians=dict(
                type="list",
                elements="dict",
                default=[],
                options=dict(name=dict(type="str", required=True), recipient=dict(type="str", required=True)),
            ),
            live_dir=dict(type="path"),
            supersede=dict(type="bool", default=False),
            secret=dict(type="bool", default=False, no_log=False),
            retention=dict(
                type="dict",
                default={},
                options={"class": dict(type="str"), "until": dict(type="str"), "hold": dict(type="bool", default=False)},
            ),
            signature=dict(type="str"),
            attestation_sha256=dict(type="str"),
            keys_attestation_sha256=dict(type="str", no_log=False),
        ),
        required_if=[("state", "open", ["custodians"])],
        object_lock="vault",
    )
    try:
        package = Package(rec.params["root"], rec.params["estate"], rec.params["package"], rec.params["live_dir"])
        {"open": run_open, "sealed": run_sealed, "forgotten": run_forgotten}[rec.params["state"]](rec, package)
    except VaultError as exc:
        rec.fail(str(exc), verdict=exc.verdict, **exc.result)
    except (IOError, OSError) as exc:
        rec.fail("%s: %s" % (exc.filename or "input or output", exc.strerror), verdict="unknown")


if __name__ == "__main__":
    main()
