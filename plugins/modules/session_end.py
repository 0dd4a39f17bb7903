#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: session_end
short_description: End all logins of an application by emptying its session table
version_added: 0.1.0
description:
  - Runs on the database host as the server's own local superuser (the C(postgres) account for PostgreSQL, root by the
    socket for MariaDB and MySQL); no password is needed or read. SQL goes in through standard input.
  - Success means that the table was counted again in a new connection and was empty.
  - This cannot be undone, and need not be. When the application is put back, people log in again.
options:
  engine:
    description: The database server's kind.
    type: str
    choices: [postgresql, mariadb, mysql]
    required: true
  database:
    description: Name of the database.
    type: str
    required: true
  table:
    description: The table that holds the sessions, with its schema in front where it is not the default one.
    type: str
    required: true
  port:
    description: Port of the server. For PostgreSQL it picks the cluster; for MariaDB and MySQL it is compared with the server's.
    type: int
  socket:
    description: Socket directory (PostgreSQL) or socket file (MariaDB, MySQL), where it is not the client's default.
    type: path
extends_documentation_fragment:
  - sunset.crm.recorded
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: End all logins of the CRM
  sunset.crm.session_end:
    item: application:creme
    engine: postgresql
    database: creme
    table: django_session
    port: 5432
"""

RETURN = r"""
result:
  description: What later steps read.
  returned: always
  type: dict
  contains:
    before_count:
      description: Rows in the table before.
      type: int
      returned: success
      sample: 17
    after_count:
      description: Rows in the table afterwards; in check mode the same as before.
      type: int
      returned: success
      sample: 0
evidence:
  description: What was seen and done, as it goes into the ledger.
  returned: always
  type: dict
  sample: {module: session_end, item: "application:creme", verdict: "yes"}
"""

from ansible_collections.sunset.crm.plugins.module_utils._database import logins as database_logins
from ansible_collections.sunset.crm.plugins.module_utils._database.sqlclient import SqlError
from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded


def main():
    rec = Recorded(
        argument_spec=dict(
            engine=dict(type="str", choices=["postgresql", "mariadb", "mysql"], required=True),
            database=dict(type="str", required=True),
            table=dict(type="str", required=True),
            port=dict(type="int"),
            socket=dict(type="path"),
        ),
        object_lock="session",
    )
    problem = database_logins.table_problem(rec.params["table"])
    if problem:
        rec.fail(problem)
    try:
        end_sessions(rec)
    except database_logins.TableAbsent:
        rec.fail(
            "database %s (%s) has no table %s; expected the one that holds the application's sessions. Correct "
            "`sessions` in the inventory's sunset_items, or take it out if the application keeps its sessions elsewhere"
            % (rec.params["database"], rec.params["engine"], rec.params["table"])
        )
    except SqlError as err:
        rec.fail("%s, database %s: %s" % (rec.params["engine"], rec.params["database"], err), verdict="unknown")


def open_table(rec):
    keys = ("engine", "database", "table", "port", "socket")
    return database_logins.SessionTable(*[rec.params[key] for key in keys])


def end_sessions(rec):
    with open_table(rec) as table:
        rec.tool(rec.params["engine"], table.version())
        before = table.count()
        rec.before({"rows": before})
        changed = before > 0
        if rec.check_mode or not changed:
            rec.after({"rows": before})
            verdict = "unknown" if changed else "yes"
            rec.finish(changed=changed, verdict=verdict, result={"before_count": before, "after_count": before})
            return
        table.empty()
        rec.note(action="sql", statement=table.statement(), database=rec.params["database"])
    with open_table(rec) as table:
        after = table.count()
    rec.after({"rows": after})
    if after:
        rec.fail(
            "%d sessions are there again right after all %d were ended: somebody can still log in. Close the web first, "
            "then run again" % (after, before),
            before_count=before,
            after_count=after,
        )
    rec.finish(changed=True, result={"before_count": before, "after_count": after})


if __name__ == "__main__":
    main()
