#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: database_dump
short_description: Make a copy of a database that can be proven later
version_added: 0.1.0
description:
  - Copies one PostgreSQL, MariaDB, SQLite or Redis database into a staging directory, with the roles or accounts
    that belong to it, and a fingerprint of its content (rows and a hash for each table, a digest for each object).
  - Every stage of the pipe is looked at. The dump is digested before and after compression, synced, read back from the disk,
    and only then gets its name. An exit code of 0 alone counts for nothing.
  - The fingerprint and the dump show the same content. On PostgreSQL they come from one exported snapshot, on MariaDB the
    fingerprint is taken before and after and must be equal. C(result.source.consistency) says which.
  - A SQLite database is read in one transaction, checked by its own C(integrity_check), and copied by its online backup. The source
    is never written to; what a crash left unfinished is finished in the copy. An encrypted file is refused.
  - Of Redis every key is read once, by its own protocol. Keys without expiry must be the same in a second reading. How many lists,
    streams and sorted sets there are, and how long, is said in C(result.source.queues); their names stand in the copy only.
  - FLOAT columns of MariaDB, which a text dump silently changes, are exported as exact values.
  - The work is done by a detached job. A second run attaches to it, makes a killed one again, and changes nothing where the
    staged copy is whole and the database still has the same fingerprint.
options:
  item:
    description: Identity of the plan's item.
    type: str
    required: true
  engine:
    description: The kind of server. Others are refused.
    type: str
    choices: [postgresql, mariadb, sqlite, redis]
    required: true
  database:
    description: Name of the database. For SQLite the absolute path of its file, for Redis V(all).
    type: str
    required: true
  port:
    description:
      - Port that tells this server from others on the host. The connection itself is by the local socket.
    type: int
  socket:
    description: Directory (PostgreSQL) or file (MariaDB, Redis) of the server's socket, if it is not at the client's default place.
    type: path
  config:
    description: Redis only. Its configuration file, whose C(requirepass) is used, if it is not at the usual place.
    type: path
  password_file:
    description: Redis only. A file of mode 0600 that holds nothing but the password, where the configuration does not tell it.
    type: path
  staging:
    description:
      - Directory for the staged copy. It is made with mode 0700, its parent must exist.
      - Choose a place on a medium that is wiped later.
    type: path
    required: true
  direct:
    description:
      - What is done where O(staging) is too small for the copy. That is known, with the number, before anything is started.
      - V(auto) stages the small artefacts only; the large one goes straight from the source through the SSH channel to each vault
        when that pulls, and the source is compared with what it was before. V(never) refuses. V(always) never stages the large one.
      - For SQLite and Redis always V(never), for their copy is made in O(staging) first.
    type: str
    choices: [auto, never, always]
    default: auto
  rate:
    description: Most bytes a second to read from the server on average. Not limited by default.
    type: int
  timeout:
    description: Seconds to wait for the job. It goes on by itself when they have passed.
    type: int
    default: 86400
  receipt:
    description: Set by the collection's action plugin; without it the module refuses to act.
    type: dict
attributes:
  check_mode:
    description: Takes the same decision without acting.
    support: full
  diff_mode:
    description: Returns before and after in the evidence instead.
    support: none
notes:
  - Runs as root and connects by peer or socket authentication, as C(postgres) or as MariaDB's C(root), without a password.
  - The free space of O(staging) is checked against the size of the data before anything is started.
seealso:
  - module: sunset.crm.vault_pull
  - module: sunset.crm.vault_prove
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Copy the database of the CRM
  sunset.crm.database_dump:
    item: database:creme
    engine: postgresql
    database: creme
    port: 5432
    staging: /var/lib/postgresql/.sunset-staging
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
      sample: 2982bdefb82f1996
    artefacts:
      description:
        - The staged files, with digests and sizes before (plain) and after compression.
        - One with C(direct) was not staged. Its digests are null until a vault has pulled it, C(of) names the content it is a copy of.
      type: list
      elements: dict
      sample:
        - name: database-creme.2982bdefb82f1996.pgcustom.zst
          role: dump
          path: /var/lib/postgresql/.sunset-staging/database-creme/2982bdefb82f1996/database-creme.2982bdefb82f1996.pgcustom.zst
          codec: zstd
          sha256: 7a33f0b7c1b54c0c8a2f6f9d0c51f3a4cf5ad24ad4ad44ee3aa0ed71b33a3f8b
          bytes: 32412345
          plain_sha256: 0f6b5c6ad9a1d43f4e6a5a0a4b0e5b1c9f1d8e7c6b5a49382716050403020100
          plain_bytes: 154600000
    source:
      description: What was copied.
      type: dict
      sample:
        engine: postgresql
        version: "15.20"
        database: creme
        identity: {system_identifier: "7311111111111111111", database: creme, oid: "16385"}
        tables: 220
        rows: 48211
        method: hashtextextended
        fingerprint_sha256: 2982bdefb82f19963234e3d280125647b477f9671d05fca3142e323a26a05f71
        consistency: fingerprint and dump in one exported snapshot; sequences and roles equal before and after
evidence:
  description: What was found, done and found afterwards; goes into the ledger.
  returned: always
  type: dict
  sample: {module: database_dump, item: "database:creme", verdict: "yes"}
evidence_sha256:
  description: Digest of the evidence as the module gave it away.
  returned: always
  type: str
  sample: 0f6b5c6ad9a1d43f4e6a5a0a4b0e5b1c9f1d8e7c6b5a49382716050403020100
"""

from ansible_collections.sunset.crm.plugins.module_utils import _database, _preserve, _staging
from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded


def main():
    rec = Recorded(
        argument_spec=dict(
            _preserve.OPTIONS,
            engine={"type": "str", "choices": ["postgresql", "mariadb", "sqlite", "redis"], "required": True},
            database={"type": "str", "required": True},
            port={"type": "int"},
            socket={"type": "path"},
            config={"type": "path"},
            password_file={"type": "path", "no_log": False},
        ),
        object_lock="copy",
    )
    try:
        spec, size = _database.specification(rec.params)
    except _database.DatabaseError as error:
        rec.fail(str(error), verdict="unknown")
    for name, version in sorted(spec.pop("versions").items()):
        rec.tool(name, version)
    if rec.params["engine"] in _database.OWN:
        # Their picture is made on the staging medium first: it cannot be read off the source a second time, on the way to a vault.
        if rec.params["direct"] == "always":
            rec.fail("direct is 'always'; a copy of {0} is made in the staging place: leave direct out".format(rec.params["engine"]))
        rec.params["direct"] = "never"
    staging = _staging.Staging(rec.params["staging"], rec.item)
    try:
        _preserve.preserve(rec, staging, spec, lambda record: _database.unchanged(spec, record), size)
    except _database.DatabaseError as error:
        rec.fail(str(error), verdict="unknown")


if __name__ == "__main__":
    main()
