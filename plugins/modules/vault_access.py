#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: vault_access
short_description: Lets a vault's pull key read staging directories of an estate host, or shuts it out
version_added: 0.1.0
description:
  - Runs on an estate host as root. Adds or removes one line of C(authorized_keys) that ties the vault's pull key to a reader.
  - The reader gives out regular files of the named directories and nothing else. It cannot write, list or follow links.
  - Every other line of C(authorized_keys) stays as it is, byte for byte.
options:
  state:
    description: Whether the key may read.
    type: str
    choices: [present, absent]
    default: present
  public_key:
    description:
      - The vault's public pull key, RV(sunset.crm.vault_package#module:result.pull_public_key).
      - May be empty in check mode, where no key exists yet.
    type: str
    required: true
  directories:
    description: The staging directories that may be read. Needed for O(state=present).
    type: list
    elements: path
    default: []
  user:
    description: Login user of the estate host that the vault connects as.
    type: str
    default: root
  reader_dir:
    description: Directory for the reader; made with mode 0700 and removed with the last key.
    type: path
    default: /var/lib/sunset-reader
extends_documentation_fragment:
  - sunset.crm.recorded
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Let the vault read the staging directory
  sunset.crm.vault_access:
    item: host:db1
    state: present
    public_key: "{{ package.result.pull_public_key }}"
    directories: [/var/lib/postgresql/.sunset-staging]

- name: Shut it out again
  sunset.crm.vault_access:
    item: host:db1
    state: absent
    public_key: "{{ package.result.pull_public_key }}"
"""

RETURN = r"""
result:
  description: What later steps and gates read from the ledger.
  returned: always
  type: dict
  contains:
    fingerprint:
      description: Fingerprint of the key, as C(ssh-keygen -l) prints it.
      returned: success
      type: str
      sample: SHA256:vO2bXqG5cM1hE7JYq6QF7mJk5u8mF0a3V0gq6W9rXyA
    state:
      description: Whether the key may read now.
      returned: success
      type: str
      sample: present
    directories:
      description: What it may read.
      returned: success
      type: list
      elements: str
      sample: [/var/lib/postgresql/.sunset-staging]
    user:
      description: The login user.
      returned: success
      type: str
      sample: root
evidence:
  description: Before, actions, after, times and tool versions, as the ledger records them.
  returned: always
  type: dict
evidence_sha256:
  description: Digest of the evidence.
  returned: always
  type: str
"""

import inspect
import os
import sys

from ansible_collections.sunset.crm.plugins.module_utils._copy import reader as copy_reader
from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded
from ansible_collections.sunset.crm.plugins.module_utils._vault import access as vault_access
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError


def run(rec):
    state, directories = rec.params["state"], rec.params["directories"]
    if state == "present":
        vault_access.check_directories(directories)
    if rec.check_mode and not rec.params["public_key"].strip():
        rec.finish(changed=True, result={"fingerprint": None, "state": "absent", "user": rec.params["user"]})
    key = vault_access.Key(rec.params["public_key"])
    place = vault_access.Place(rec.params["user"], rec.params["reader_dir"], key)
    # Not the interpreter of a virtual environment that may vanish: the one that this module really runs under.
    line = vault_access.wanted_line(key, os.path.realpath(sys.executable), place.reader)
    text = inspect.getsource(copy_reader).encode("utf-8")
    seen = vault_access.observe(place, line, text, directories)
    rec.before(seen)
    changed = vault_access.decide(seen, state)
    if changed and not rec.check_mode:
        if state == "present":
            vault_access.grant(place, line, text, directories, rec)
        else:
            vault_access.revoke(place, rec)
        after = vault_access.observe(place, line, text, directories)
        if vault_access.decide(after, state):
            raise VaultError("%s is not as wanted after the change: %r" % (place.authorized, after), verdict="unknown")
        if after["others_sha256"] != seen["others_sha256"]:
            raise VaultError("other lines of %s changed at the same time; look at the file" % place.authorized, verdict="unknown")
        seen = after
    rec.after(seen)
    present = bool(seen["lines"])
    rec.finish(
        changed=changed,
        result={
            "fingerprint": key.fingerprint,
            "state": "present" if present else "absent",
            "directories": seen["directories"] if present else [],
            "user": rec.params["user"],
        },
    )


def main():
    rec = Recorded(
        argument_spec=dict(
            state=dict(type="str", choices=["present", "absent"], default="present"),
            # A public key; without no_log=False its name alone would make Ansible warn.
            public_key=dict(type="str", required=True, no_log=False),
            directories=dict(type="list", elements="path", default=[]),
            user=dict(type="str", default="root"),
            reader_dir=dict(type="path", default="/var/lib/sunset-reader"),
        ),
        required_if=[("state", "present", ["directories"])],
        object_lock="vault-access",
    )
    try:
        run(rec)
    except VaultError as exc:
        rec.fail(str(exc), verdict=exc.verdict, **exc.result)
    except (IOError, OSError) as exc:
        rec.fail("%s: %s" % (exc.filename or "input or output", exc.strerror), verdict="unknown")


if __name__ == "__main__":
    main()
