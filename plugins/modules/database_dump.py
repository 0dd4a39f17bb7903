#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: database_dump
short_description: Make a copy of a database that can be proven later
version_added: 0.1.0
description:
  - Copies one PostgreSQL, MariaDB, MySQL, SQLite or Redis database into a staging directory, with the roles or accounts
    that belong to it where they can be read, and a fingerprint of its content (rows and a hash for each table, a digest for each object).
  - Every stage of the pipe is looked at. The dump is digested before and after compression, synced, read back from the disk,
    and only then gets its name. An exit code of 0 alone counts for nothing.
  - The fingerprint and the dump show the same content. On PostgreSQL they come from one exported snapshot, on MariaDB and MySQL the
    fingerprint is taken before and after and must be equal. C(result.source.consistency) says which, and
    C(result.source.writers) what the server itself counted meanwhile.
  - The server is reached by its local socket, over TCP with the credentials that the CRM's own configuration holds, or inside
    its container (O(reach)). A password is read on the host and stands in one file in memory (mode 0600) while the work goes on; it is
    in no command line, environment, job specification or log.
  - An account that does not see the whole database is refused. One that does not see roles, accounts or their passwords is
    accepted, and C(result.source.roles) says what is not in the copy.
  - A SQLite database is read in one transaction, checked by its own C(integrity_check), and copied by its online backup. The source
    is never written to; what a crash left unfinished is finished in the copy. An encrypted file is refused.
  - Of Redis every key is read once, by its own protocol. Keys without expiry must be the same in a second reading. How many lists,
    streams and sorted sets there are, and how long, is said in C(result.source.queues); their names stand in the copy only.
  - FLOAT columns of MariaDB and MySQL, which a text dump silently changes, are exported as exact values.
  - The work is done by a detached job. A second run attaches to it, makes a killed one again, and changes nothing where the
    staged copy is whole and the database still has the same fingerprint.
options:
  engine:
    description:
      - The kind of server, V(postgresql), V(mariadb), V(mysql), V(sqlite) or V(redis). Every other is refused by its name, and so is a server
        that answers in the place of the declared one.
      - V(mysql) is MySQL 8.0.19 or later, and Percona Server. It is dumped by MySQL's own C(mysqldump); MariaDB's is refused.
    type: str
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
    description: Directory (PostgreSQL) or file (MariaDB, MySQL, Redis) of the server's socket, if it is not at the client's default place.
    type: path
  config:
    description: Redis only. Its configuration file, whose C(requirepass) is used, if it is not at the usual place.
    type: path
  password_file:
    description: Redis only. A file of mode 0600 that holds nothing but the password, where the configuration does not tell it.
    type: path
  reach:
    description:
      - How the server is reached. Left out, by its local socket with the server's own account.
    type: dict
    suboptions:
      kind:
        description:
          - V(local) the socket; V(tcp) with the credentials of O(reach.config); V(container) with the clients inside the container that
            serves the database, as its own superuser.
        type: str
        choices: [local, tcp, container]
        default: local
      host:
        description: The server's address. Taken from the configuration if left out; where both say it, they must agree.
        type: str
      port:
        description: The server's port. Taken from the configuration if left out; where both say it, they must agree.
        type: int
      container:
        description: Name of the container, on the docker or podman of this host.
        type: str
      user:
        description: The database's superuser inside the container, if it is not what C(POSTGRES_USER) says there.
        type: str
      config:
        description:
          - The CRM's own configuration. A program (PHP, Django) is never run as root, but as the owner of the file, or as nobody.
        type: dict
        suboptions:
          format:
            description:
              - V(suitecrm), V(espocrm), V(dolibarr), V(vtiger) - PHP, which C(php) on this host evaluates, with the overriding files
                beside it; V(odoo) - INI; V(env) - C(.env) files in Symfony's order with a database URL in O(reach.config.key);
                V(laravel) - C(.env) with C(DB_*); V(frappe) - C(site_config.json) over the bench's; V(django) - the settings
                module; V(file) - the operator's own JSON or INI file with the names user, password, host, port, socket,
                database and sslmode, which must belong to root with mode 0600.
            type: str
            choices: [suitecrm, espocrm, dolibarr, vtiger, odoo, env, laravel, frappe, django, file]
            required: true
          path:
            description: The file; for V(django) the directory of C(manage.py).
            type: path
            required: true
          key:
            description: Name of the variable that holds the database URL, C(DATABASE_URL) if left out.
            type: str
          python:
            description: The Django project's own interpreter.
            type: path
          settings:
            description: The Django project's settings module.
            type: str
          alias:
            description: Which of Django's C(DATABASES), C(default) if left out.
            type: str
  apart:
    description:
      - Tables that are hashed a second time, without the rows and columns that the product changes by itself. Each has C(table), and C(where)
        (column, list of texts) or C(columns) or both. Only with it can a proof allow less than the whole table (C(allowed_differences) of
        M(sunset.crm.vault_prove)).
    type: list
    elements: dict
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
notes:
  - Runs as root and connects by peer or socket authentication, as C(postgres) or as the C(root) of MariaDB or MySQL, if O(reach) is left out.
  - V(sqlite) and V(redis) are copied on their own host; another O(reach) is refused.
  - A server that is reached over TCP may not tell who it is. C(result.source.identity.proven) is then V(unknown).
  - A text in C(.env) that the service's real environment overrides is not seen; use the format V(file) there.
  - The free space of O(staging) is checked against the size of the data before anything is started.
seealso:
  - module: sunset.crm.vault_pull
  - module: sunset.crm.vault_prove
extends_documentation_fragment:
  - sunset.crm.recorded
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

- name: Copy the database of a SuiteCRM on another machine's server, with SuiteCRM's own credentials
  sunset.crm.database_dump:
    item: database:suite
    engine: mariadb
    database: suitecrm
    staging: /srv/staging
    reach:
      kind: tcp
      host: db.internal
      port: 3306
      config:
        format: suitecrm
        path: /var/www/suitecrm/config.php

- name: Copy the database of a stack
  sunset.crm.database_dump:
    item: database:espo
    engine: mariadb
    database: espocrm
    staging: /srv/staging
    reach:
      kind: container
      container: espocrm-db
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
        consistency_means: snapshot
        reach: local
        roles: complete
        writers:
          quiet: "yes"
          position_kind: lsn
          position_before: 0/1A2B3C8
          position_after: 0/1A2B3C8
          sessions_before: 0
          sessions_after: 0
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

from ansible_collections.sunset.crm.plugins.module_utils._copy import preserve as copy_preserve, staging as copy_staging
from ansible_collections.sunset.crm.plugins.module_utils._database import server as database_server
from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded

CONFIG = {
    "format": {
        "type": "str",
        "choices": ["suitecrm", "espocrm", "dolibarr", "vtiger", "odoo", "env", "laravel", "frappe", "django", "file"],
        "required": True,
    },
    "path": {"type": "path", "required": True},
    "key": {"type": "str", "no_log": False},
    "python": {"type": "path"},
    "settings": {"type": "str"},
    "alias": {"type": "str"},
}
REACH = {
    "kind": {"type": "str", "choices": ["local", "tcp", "container"], "default": "local"},
    "host": {"type": "str"},
    "port": {"type": "int"},
    "container": {"type": "str"},
    "user": {"type": "str"},
    "config": {"type": "dict", "options": CONFIG},
}


def main():
    rec = Recorded(
        argument_spec=dict(
            copy_preserve.OPTIONS,
            engine={"type": "str", "required": True},
            database={"type": "str", "required": True},
            port={"type": "int"},
            socket={"type": "path"},
            config={"type": "path"},
            password_file={"type": "path", "no_log": False},
            reach={"type": "dict", "options": REACH},
            apart={"type": "list", "elements": "dict"},
        ),
        object_lock="copy",
    )
    try:
        spec, size = database_server.specification(rec.params)
    except database_server.DatabaseError as error:
        rec.fail(str(error), verdict="unknown")
    for name, version in sorted(spec.pop("versions").items()):
        rec.tool(name, version)
    if rec.params["engine"] in database_server.OWN:
        # Their picture is made on the staging medium first: it cannot be read off the source a second time, on the way to a vault.
        if rec.params["direct"] == "always":
            rec.fail("direct is 'always'; a copy of {0} is made in the staging place: leave direct out".format(rec.params["engine"]))
        rec.params["direct"] = "never"
    staging = copy_staging.Staging(rec.params["staging"], rec.item)
    try:
        copy_preserve.preserve(rec, staging, spec, lambda record: database_server.unchanged(spec, record), size)
    except database_server.DatabaseError as error:
        rec.fail(str(error), verdict="unknown")


if __name__ == "__main__":
    main()
