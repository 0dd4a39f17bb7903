#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: vault_shelf
short_description: Puts a sealed package into an S3 bucket with object lock
version_added: 0.1.0
description:
  - Runs on a vault, as its unprivileged user, after the package was sealed. Every file of the bag is stored under a lock that lasts at
    least as long as the package must be kept, and is read back from the store to its last byte.
  - First the store itself is tried on a canary object, with five probes. Is a wrong checksum refused? Does the lock read back as
    asked? Is deleting refused? Is shortening refused, also by weakening the mode or by suspending versioning? Do the bytes read back
    equal? Only a store that holds in all five is called WORM in the result.
  - A refusal says something of a lock only if B(these) credentials may do the same where no lock forbids it. So a control object under
    GOVERNANCE gets an earlier date and is deleted, both past governance; and where suspending is refused with C(AccessDenied), versioning is
    switched on once more. Is a control refused, the probe is unknown, and the store is not called WORM. The credentials need
    C(s3:DeleteObjectVersion), C(s3:BypassGovernanceRetention), C(s3:PutObjectRetention) and C(s3:PutBucketVersioning) for that.
  - A shelf of the mode C(GOVERNANCE) is never called WORM. It has no control, because it gives way to whoever may bypass it.
  - The wrapped identities of the package never go there. They must be destroyed when the package is, and a lock would keep them.
  - A package that cannot be finished (a cut line, a kill) goes on where it was. Files that are there, equal and locked, stay.
    Of a big file the parts stay that are there.
requirements:
  - boto3 1.21 or later on the vault (Debian C(python3-boto3))
options:
  again:
    description: Make the probes again, on a new canary, although answers for this bucket are on record.
    type: bool
    default: false
  shelf:
    description: The shelf, as the inventory gives it (C(sunset_vault_shelf)) and the plan pins it.
    type: dict
    required: true
    suboptions:
      kind:
        description: Only S3 and what speaks like it.
        type: str
        choices: [s3]
        required: true
      endpoint:
        description: URL of the store. Without it, that of Amazon in O(shelf.region).
        type: str
      bucket:
        description: Name of a bucket that was made with object lock.
        type: str
        required: true
      prefix:
        description: Folder in the bucket.
        type: str
      region:
        description: Region of the store.
        type: str
      mode:
        description: V(COMPLIANCE) lets nobody shorten a lock. Under V(GOVERNANCE) somebody with the right to may, so it is never called WORM.
        type: str
        choices: [COMPLIANCE, GOVERNANCE]
        default: COMPLIANCE
      retain_until:
        description: Last day, as V(2036-12-31), on which nothing may be deleted. The later of this, O(shelf.years) and the package's own counts.
        type: str
      years:
        description: So many years from the day on which the package was sealed.
        type: int
      ca:
        description: File on the vault with the certificates that sign the store's.
        type: path
      credentials:
        description:
          - File on the vault, of mode 0600, in the form of C(~/.aws/credentials).
          - Without it boto3 looks where it always looks. Keys never stand in the inventory.
        type: path
      profile:
        description: Section of the credentials file.
        type: str
      require_worm:
        description: Fail, before anything of the package is stored, if a probe does not hold.
        type: bool
        default: false
extends_documentation_fragment:
  - sunset.crm.recorded
  - sunset.crm.recorded.package
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Put the sealed package of a host on the shelf
  sunset.crm.vault_shelf:
    item: host:db1
    root: /srv/vault/packages
    estate: lab
    package: db1
    shelf:
      kind: s3
      endpoint: https://s3.example.org
      bucket: archive
      prefix: crm
      mode: COMPLIANCE
      years: 10
      credentials: /srv/vault/s3-credentials
      require_worm: true
"""

RETURN = r"""
result:
  description: What later steps and gates read from the ledger.
  returned: always
  type: dict
  contains:
    state:
      description: Always C(stored).
      returned: success
      type: str
      sample: stored
    class:
      description: C(WORM) if all five probes hold, else C(object storage, not WORM).
      returned: success
      type: str
      sample: WORM
    failed_probes:
      description: Names of the probes that do not hold.
      returned: success
      type: list
      elements: str
      sample: []
    probes:
      description: What was tried on the canary and what the store answered, for each probe.
      returned: success
      type: dict
      sample: {delete: {held: "yes", answers: [{asked: deleting the version is refused, held: "yes", said: 403 AccessDenied}]}}
    folder:
      description: Where in the bucket the package lies.
      returned: success
      type: str
      sample: crm/lab/db1.1f3ce40415a2081f
    mode:
      description: Mode of the lock.
      returned: success
      type: str
      sample: COMPLIANCE
    retain_until:
      description: Until when every object is locked.
      returned: success
      type: str
      sample: "2037-01-01T00:00:00Z"
    hold:
      description: Whether every object has a legal hold. A hold that is there is never lifted by this module.
      returned: success
      type: bool
      sample: false
    files:
      description: How many files the package has; each was read back.
      returned: success
      type: int
      sample: 9
    bytes:
      description: How many bytes they have.
      returned: success
      type: int
      sample: 1843201
    uploaded:
      description: How many of them this run has stored.
      returned: success
      type: int
      sample: 9
evidence:
  description: Before, actions, after, times and tool versions, as the ledger records them.
  returned: always
  type: dict
evidence_sha256:
  description: Digest of the evidence.
  returned: always
  type: str
"""

import datetime

from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded
from ansible_collections.sunset.crm.plugins.module_utils._shelf import keep as shelf_keep, rules as shelf_rules
from ansible_collections.sunset.crm.plugins.module_utils._shelf.s3 import Store
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import Package, VaultError


def sealed_record(package):
    record = package.record()
    if record["state"] not in ("sealed", "forgotten") or not record.get("tagmanifest_sha256"):
        raise VaultError(
            "the package %s/%s is %s; expected sealed: only what is closed goes where nothing can be taken back"
            % (package.estate, package.name, record["state"])
        )
    return record


def shelving_of(rec, package):
    shelf = rec.params["shelf"]
    wrong = shelf_rules.faults({key: value for key, value in shelf.items() if value is not None})
    if wrong:
        raise VaultError("the shelf cannot be used: %s" % "; ".join(wrong))
    record = sealed_record(package)
    lock = shelf_rules.lock_asked(record, shelf, datetime.datetime.now(datetime.timezone.utc))
    files = shelf_keep.files_of(package, record["tagmanifest_sha256"])
    folder = shelf_rules.folder_of(shelf, package.estate, package.name, record["tagmanifest_sha256"])
    store = Store(shelf)
    for name, version in sorted(store.versions.items()):
        rec.tool(name, version)
    store.require_object_lock()
    return shelf_keep.Shelving(package, store, shelf, folder, lock, files)


def run(rec, package):
    shelving = shelving_of(rec, package)
    seen = shelving.look()
    probing = rec.params["again"] or not shelving.probed()
    acts = [act for _asked, _found, act in seen]
    rec.before(
        {"folder": shelving.folder, "acts": {act: acts.count(act) for act in ("upload", "lock", "keep")}, "probed": shelving.probed()}
    )
    changed = probing or acts.count("keep") != len(acts)
    if rec.check_mode:
        rec.finish(changed=changed, result=shelving.result(seen))
    if probing:
        shelving.probe()
        rec.note(act="probed the store with a canary", key=shelving.folder + ".canary", version=shelving.record["canary"])
    probes = shelving.record["probes"]
    if rec.params["shelf"]["require_worm"] and shelf_rules.failed_probes(probes):
        raise VaultError(
            "the bucket %s is %s, and the shelf asks for WORM (require_worm). These probes do not hold: %s. Nothing of the package was "
            "stored in this run" % (shelving.store.bucket, shelf_rules.NOT_WORM, shelf_rules.why_not(probes)),
            probes=probes,
            failed_probes=shelf_rules.failed_probes(probes),
        )
    for asked, found, act in seen:
        shelving.store_one(asked, found, act)
        if act != "keep":
            rec.note(act={"upload": "stored", "lock": "locked"}[act], file=asked.path, version=shelving.record["objects"][asked.path])
    shelving.keep()
    result = shelving.result(seen)
    rec.after({"folder": shelving.folder, "read_back": len(seen), "class": result["class"]})
    rec.finish(changed=changed, result=result)


def main():
    rec = Recorded(
        argument_spec=dict(
            root=dict(type="path", required=True),
            estate=dict(type="str", required=True),
            package=dict(type="str", required=True),
            live_dir=dict(type="path"),
            again=dict(type="bool", default=False),
            shelf=dict(
                type="dict",
                required=True,
                options=dict(
                    kind=dict(type="str", choices=["s3"], required=True),
                    endpoint=dict(type="str"),
                    bucket=dict(type="str", required=True),
                    prefix=dict(type="str"),
                    region=dict(type="str"),
                    mode=dict(type="str", choices=["COMPLIANCE", "GOVERNANCE"], default="COMPLIANCE"),
                    retain_until=dict(type="str"),
                    years=dict(type="int"),
                    ca=dict(type="path"),
                    credentials=dict(type="path"),
                    profile=dict(type="str"),
                    require_worm=dict(type="bool", default=False),
                ),
            ),
        ),
        object_lock="vault",
    )
    try:
        run(rec, Package(rec.params["root"], rec.params["estate"], rec.params["package"], rec.params["live_dir"]))
    except VaultError as exc:
        rec.fail(str(exc), verdict=exc.verdict, **exc.result)
    except (IOError, OSError) as exc:
        rec.fail("%s: %s" % (exc.filename or "input or output", exc.strerror), verdict="unknown")


if __name__ == "__main__":
    main()
