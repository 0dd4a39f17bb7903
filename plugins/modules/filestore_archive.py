#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: filestore_archive
short_description: Make a copy of a file tree that can be proven later
version_added: 0.1.0
description:
  - Archives a directory with C(tar) into a staging directory, beside a manifest that this module makes by reading the tree
    itself (type, size, mode, owner, time, extended attributes and SHA-256 of every entry).
  - Then the tree is looked at again, and inodes, sizes and times must be what they were. A file that changes or vanishes while it is
    read is an error that names it.
  - The staged archive is read back from its disk, by C(tar) and by this module, and each of its members must have the content that the
    manifest says. One that is not staged (O(direct)) is read on its way.
  - Owners, modes, times, ACLs, extended attributes, hard links, sparse files and names of any bytes are kept. Symbolic links are
    kept as links and never followed. Sockets are listed in the manifest, no archive can hold them.
  - The work is done by a detached job. A second run attaches to it, makes a killed one again, and changes nothing where the
    staged copy is whole and the tree is still the same.
options:
  path:
    description: The directory to archive. Another file system mounted inside it is refused, declare it as an item of its own.
    type: path
    required: true
  only:
    description:
      - Archive these entries below O(path) alone, and what is below them. Keys and single configuration files are kept so.
      - Relative to O(path). One that is missing is an error; a symbolic link on the way to one is not followed.
    type: list
    elements: str
    default: []
  leave_out:
    description:
      - Do not archive what these shell patterns match, such as caches. A pattern is compared with the whole path relative to O(path),
        and its C(*) also stands for slashes. A directory that matches is not entered.
      - What was left out stands in the manifest by name, and the result says how many entries that were.
    type: list
    elements: str
    default: []
  staging:
    description:
      - Directory for the staged copy. It is made with mode 0700, its parent must exist.
      - It must not lie inside O(path). Choose a place on a medium that is wiped later.
    type: path
    required: true
  direct:
    description:
      - What is done where O(staging) is too small for the copy. That is known, with the number, before anything is started.
      - V(auto) stages the small artefacts only; the large one goes straight from the source through the SSH channel to each vault
        when that pulls, and the source is compared with what it was before. V(never) refuses. V(always) never stages the large one.
    type: str
    choices: [auto, never, always]
    default: auto
  rate:
    description: Most bytes a second to read from the tree on average. Not limited by default.
    type: int
  timeout:
    description: Seconds to wait for the job. It goes on by itself when they have passed.
    type: int
    default: 86400
notes:
  - The result holds no file names, they may be personal data. They are in the manifest, which is an artefact.
seealso:
  - module: sunset.crm.database_dump
extends_documentation_fragment:
  - sunset.crm.recorded
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Copy the uploads of the CRM
  sunset.crm.filestore_archive:
    item: filestore:creme-uploads
    path: /srv/creme/media/upload
    staging: /srv/creme/.sunset-staging

- name: Copy the keys that lie outside the database
  sunset.crm.filestore_archive:
    item: filestore:creme-keys
    path: /etc/creme
    only: [secret.key, conf/local_settings.py]
    staging: /srv/creme/.sunset-staging
"""

RETURN = r"""
result:
  description: What the later steps need to know of the copy.
  returned: success
  type: dict
  contains:
    dump_id:
      description: Short name of the copied content.
      type: str
      sample: 71c0b4f2a9d35e18
    artefacts:
      description:
        - The staged files, with digests and sizes before (plain) and after compression.
        - One with C(direct) was not staged. Its digests are null until a vault has pulled it, C(of) names the content it is a copy of.
      type: list
      elements: dict
      sample:
        - name: filestore-creme-uploads.71c0b4f2a9d35e18.tar.zst
          role: archive
          path: /srv/creme/.sunset-staging/filestore-creme-uploads/71c0b4f2a9d35e18/filestore-creme-uploads.71c0b4f2a9d35e18.tar.zst
          codec: zstd
          sha256: 7a33f0b7c1b54c0c8a2f6f9d0c51f3a4cf5ad24ad4ad44ee3aa0ed71b33a3f8b
          bytes: 1234567
          plain_sha256: 0f6b5c6ad9a1d43f4e6a5a0a4b0e5b1c9f1d8e7c6b5a49382716050403020100
          plain_bytes: 2345678
    source:
      description: What was copied.
      type: dict
      sample:
        files: 312
        entries: 340
        bytes: 2300000
        sockets: 0
        manifest_sha256: 71c0b4f2a9d35e18f0a53c5b0c9d2d8a60c1b9e5cf1ed1d4e4d5d2ac9a0f4b7e
        left_out: 0
        only: []
        leave_out: []
        consistency: each member of the archive has the manifest's content; inodes, sizes and times equal before and after
        identity: {path: /srv/creme/media/upload, inode: 2, fs_uuid: 0a5a3c3e-1e0f-4f4c-9a70-5b7a2f1f0d11}
evidence:
  description: What was found, done and found afterwards; goes into the ledger.
  returned: always
  type: dict
  sample: {module: filestore_archive, item: "filestore:creme-uploads", verdict: "yes"}
evidence_sha256:
  description: Digest of the evidence as the module gave it away.
  returned: always
  type: str
  sample: 0f6b5c6ad9a1d43f4e6a5a0a4b0e5b1c9f1d8e7c6b5a49382716050403020100
"""

from ansible_collections.sunset.crm.plugins.module_utils._copy import (
    filestore as copy_filestore,
    preserve as copy_preserve,
    staging as copy_staging,
)
from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded


def main():
    names = {"type": "list", "elements": "str", "default": []}
    options = dict(copy_preserve.OPTIONS, path={"type": "path", "required": True}, only=names, leave_out=names)
    rec = Recorded(argument_spec=options, object_lock="copy")
    path = rec.params["path"]
    selection = copy_filestore.selection_of(rec.params)
    problem = copy_filestore.path_problem(path, rec.params["staging"]) or selection.problem()
    if problem:
        rec.fail(problem)
    spec = {key: rec.params[key] for key in ("item", "path", "only", "leave_out", "staging", "rate")}
    spec.update(kind="filestore", identity=copy_filestore.identity(path))
    staging = copy_staging.Staging(rec.params["staging"], rec.item)
    try:
        size = copy_filestore.data_size(path, selection)
        copy_preserve.preserve(rec, staging, spec, lambda record: copy_filestore.unchanged(spec, record), size)
    except copy_filestore.TreeError as error:
        rec.fail("{0}. Stop what writes there, then run the same command again".format(error), verdict="unknown")


if __name__ == "__main__":
    main()
