# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two ways to a dump of the servers that speak MySQL's protocol: whose tool with which options, and where the accounts come from.

Private to the collection. Valid for Python 3.6, standard library.
"""

from typing import Any, Dict  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._copy import stream as copy_stream
from ansible_collections.sunset.crm.plugins.module_utils._dump import my as dump_my, mysql as dump_mysql


class MariadbWay(object):
    """How mariadb-dump is called, and where the accounts come from."""

    def __init__(self, spec, arguments, known, _session):
        self.spec, self.arguments, self.known = spec, arguments, known

    def plan(self, relations, columns, inexact):
        """(plain tables, passes)."""
        versioned = [name for name, kind, _engine in relations if kind == "SYSTEM VERSIONED"]
        # A default that asks a sequence cannot be met while the dump's own LOCK TABLES names the table alone: no server would take the rows.
        loose = any(kind == "SEQUENCE" for _name, kind, _engine in relations)
        plain = [] if loose else dump_my.plan_plain(relations, columns)
        passes = dump_my.plan_passes(self.spec["database"], self.known, inexact, versioned, plain)
        return plain, [["--skip-add-locks"] * loose + one for one in passes]

    def accounts_problem(self):
        if self.known["system"]:
            return None
        return (
            "this {0} has no --system=users, so accounts and grants would be lost; use the client tools of MariaDB 10.2.37 or later".format(
                dump_my.dumper()
            )
        )

    def accounts(self, open_session):
        """open_session: () -> a session with the server, as a context."""
        for chunk in account_chunks(self.arguments):
            yield chunk
        with open_session() as session:
            for chunk in dump_my.public_chunks(session):
                yield chunk

    features = staticmethod(dump_my.features)
    endings = (".sql", ".users.sql")
    frame = {}  # type: Dict[str, str]


class MysqlWay(MariadbWay):
    """How mysqldump is called. The accounts are asked for here: not every mysqldump can print them."""

    def __init__(self, spec, arguments, known, session):
        super(MysqlWay, self).__init__(spec, arguments, known, session)
        self.version = session.rows(["VERSION()"])[0][0]
        shown = session.shown("SHOW GLOBAL VARIABLES LIKE 'show_gipk_in_create_table_and_information_schema'")
        problem = dump_mysql.hidden_keys_problem(known, shown[0][1] if shown else None)
        if problem:
            raise ValueError(problem)

    def plan(self, _relations, _columns, inexact):
        options = dump_mysql.common(self.known, self.version)
        return [], dump_my.plan_passes(self.spec["database"], self.known, inexact, (), (), options)

    def accounts_problem(self):
        return None

    def accounts(self, open_session):
        with open_session() as session:
            for chunk in dump_mysql.account_chunks(session):
                yield chunk

    features = staticmethod(dump_mysql.features)
    endings = (".mysql.sql", ".mysql-users.sql")
    frame = {"head": dump_mysql.OWN_HEAD, "tail": dump_mysql.OWN_TAIL}


def account_chunks(arguments):
    # Account names are utf8 with three bytes. With utf8mb4 the dumper's own query fails where the server was installed with
    # another collation than utf8mb4_general_ci (error 1267, illegal mix of collations; seen with 10.11).
    argv = [dump_my.dumper()] + arguments + ["--default-character-set=utf8", "--system=users,servers", "--insert-ignore"]
    return copy_stream.ending_with(copy_stream.process_chunks(argv), dump_my.END, "the dump of the accounts")


WAYS = {"mariadb": MariadbWay, "mysql": MysqlWay}  # type: Dict[str, Any]
