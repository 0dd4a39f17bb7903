#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: vault_destroy
short_description: Destroys the keys and the ciphertext of one package whose retention has ended
version_added: 0.1.0
description:
  - Runs on a vault, as an unprivileged user. The only module that deletes a package; no other does, whatever its options.
  - The gate on the control node asks for a signed statement that names the package, the vault and the digests, for the end of the retention
    and for the absence of every legal hold. The module checks the digests and the package's own end of retention again.
  - Destroys the wrapped identities on this vault first, then what is in memory, then the ciphertext. The tag files stay as a tombstone
    with C(DESTROYED.json) beside them.
  - What the package superseded (see M(sunset.crm.vault_package)) ends with it, keys and ciphertext, and is named in the tombstone. As long
    as anything of it is in C(abandoned/), nothing is called destroyed. Its own end of retention is checked as well.
  - Overwriting is no guarantee on copy-on-write file systems, flash storage and snapshots, and copies of the wrapped files that
    custodians, other vaults or backups hold are not reached. The result says so.
options:
  statement_sha256:
    description: Digest of the signed statement. Filled in by the action plugin, which has judged it.
    type: str
    required: true
  tagmanifest_sha256:
    description: Digest of the tag manifest, as the statement names it.
    type: str
    required: true
  identity_digest:
    description: Digest of the package's identity, as the statement names it.
    type: str
    required: true
  keys_identity_digest:
    description: Digest of the second identity, where the package has one.
    type: str
extends_documentation_fragment:
  - sunset.crm.recorded
  - sunset.crm.recorded.package
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
# All options but the item come from the plan and the signed statement; playbooks/expire.yml does this.
- name: Destroy a package
  sunset.crm.vault_destroy:
    item: host:db1
"""

RETURN = r"""
result:
  description: What the ledger keeps of the package.
  returned: always
  type: dict
  contains:
    state:
      description: State of the package after the run.
      returned: success
      type: str
      sample: destroyed
    statement_sha256:
      description: The signed statement under which it was destroyed.
      returned: success
      type: str
      sample: 8f434346648f6b96df89dda901c5176b10a6d83961dd3c1ac88b59b2dc327aa4
    superseded:
      description: Packages of the same host that were begun before it and ended with it, each with its place, digests and retention.
      returned: success
      type: list
      elements: dict
      sample: []
    custodians:
      description: Who still may hold copies of the wrapped identities, those of superseded packages as well; ask each to destroy them.
      returned: success
      type: list
      elements: str
      sample: [alice, bob]
    overwriting:
      description: What overwriting does not guarantee.
      returned: success
      type: str
    elsewhere:
      description: What was not reached.
      returned: success
      type: str
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
from ansible_collections.sunset.crm.plugins.module_utils._vault import destroy as vault_destroy
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import SHA256, Package, VaultError

DIGESTS = ("tagmanifest_sha256", "identity_digest", "keys_identity_digest")


def run(rec):
    params = rec.params
    package = Package(params["root"], params["estate"], params["package"], params["live_dir"])
    for name in ("statement_sha256",) + DIGESTS:
        if params[name] and not SHA256.match(params[name]):
            raise VaultError("%s is %r; expected 64 hexadecimal digits" % (name, params[name]))
    seen = vault_destroy.observe(package)
    rec.before(seen)
    today = datetime.datetime.now(datetime.timezone.utc).date()
    wanted = {name: params[name] for name in DIGESTS}
    act = vault_destroy.decide(seen, wanted, vault_destroy.own_retention(package), today)
    if act == "destroy" and not rec.check_mode:
        vault_destroy.destroy(package, params["statement_sha256"], rec)
        seen = vault_destroy.observe(package)
        if not vault_destroy.gone(seen):
            raise VaultError(
                "something of the package %s is left: %r; run the same command again" % (package.name, seen), verdict="unknown"
            )
    rec.after(seen)
    rec.finish(changed=act == "destroy", result=vault_destroy.result_of(package))


def main():
    rec = Recorded(
        argument_spec=dict(
            root=dict(type="path", required=True),
            estate=dict(type="str", required=True),
            package=dict(type="str", required=True),
            live_dir=dict(type="path"),
            statement_sha256=dict(type="str", required=True),
            tagmanifest_sha256=dict(type="str", required=True),
            identity_digest=dict(type="str", required=True),
            keys_identity_digest=dict(type="str", no_log=False),
        ),
        object_lock="vault",
    )
    try:
        run(rec)
    except VaultError as exc:
        rec.fail(str(exc), verdict=exc.verdict, **exc.result)
    except (IOError, OSError) as exc:
        rec.fail("%s: %s" % (exc.filename or "input or output", exc.strerror), verdict="unknown")


if __name__ == "__main__":
    main()
