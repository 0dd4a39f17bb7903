# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throw-away MySQL server for a proof. It is MariaDB's (proof_mariadb) but for its making, its settings and who may be it.

Private to the collection. Valid for Python 3.6, standard library. A MySQL dump is never proven on a MariaDB server, nor the other way round:
they print definitions in other words and know other types, so what is called equal there would not be.
"""

import os
from typing import Any, Callable, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._fingerprint.mysql import numbers
from ansible_collections.sunset.crm.plugins.module_utils._proof import mariadb as proof_mariadb
from ansible_collections.sunset.crm.plugins.module_utils._proof.mariadb import scratch_version
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

# Where a package puts it, and where Oracle's archive is unpacked to: beside the MariaDB of a distribution that has no MySQL.
PLACES = proof_mariadb.PLACES + ("/usr/local/mysql/bin", "/opt/mysql/bin")
HOW = (
    "install MySQL's server and client on the vault, of the source's version or newer (a package, or Oracle's archive unpacked to "
    "/usr/local/mysql, which goes beside a MariaDB); a MariaDB cannot prove a MySQL dump"
)
# "loose": not every version has it. A dump of an older version may use what newer ones have switched off.
SETTINGS = [
    "--skip-networking",
    "--skip-log-bin",
    "--loose-skip-replica-start",
    "--loose-mysqlx=OFF",
    "--event-scheduler=OFF",
    "--performance-schema=OFF",
    "--secure-file-priv=NULL",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-use-native-aio=0",
    "--innodb-buffer-pool-size=128M",
    "--innodb-strict-mode=0",
    "--max-allowed-packet=1G",
    "--max-heap-table-size=1T",
    "--local-infile=0",
    "--lower-case-table-names=0",
    "--loose-restrict-fk-on-non-standard-key=OFF",
    "--loose-mysql-native-password=ON",
    "--loose-innodb-redo-log-capacity=64M",
    "--loose-auto-generate-certs=OFF",
    "--loose-caching-sha2-password-auto-generate-rsa-keys=OFF",
    "--loose-sha256-password-auto-generate-rsa-keys=OFF",
]
# An empty server's files, with the undo and redo logs that it keeps.
BASE_BYTES = 256 << 20
OWN_ACCOUNT = """
CREATE USER {0}@localhost;
GRANT ALL PRIVILEGES ON *.* TO {0}@localhost WITH GRANT OPTION;
GRANT PROXY ON ''@'' TO {0}@localhost WITH GRANT OPTION;
DROP USER root@localhost;
"""


def is_mysql(told):
    # type: (str) -> bool
    """Whether a program's own word about its version is a MySQL's. Pure."""
    return "mariadb" not in told.lower() and numbers(told) is not None


def find(name, paths=PLACES, told=scratch_version):
    # type: (str, Any, Callable[[str], str]) -> Tuple[str, str]
    """(path, version in words) of MySQL's own server or client, which may share its name with MariaDB's."""
    others = []
    for folder in paths:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            said = told(path)
            if is_mysql(said):
                return path, said
            others.append("%s is not one (%s)" % (path, said[:80] or "no answer"))
    raise VaultError("this vault has no %s of MySQL%s; %s" % (name, "".join("; " + one for one in others), HOW), verdict="unknown")


def check_version(source, here):
    # type: (str, str) -> None
    """An older server, or another vendor's, gives no proof that counts."""
    ours, theirs = numbers(here), numbers(source)
    if theirs is None:
        raise VaultError("the source's version %r is not known; expected it in source.version" % (source,), verdict="unknown")
    if "mariadb" in source.lower():
        raise VaultError("the source is %s, not MySQL; this proof restores MySQL dumps only" % source, verdict="unknown")
    if ours is None or ours[:2] < theirs[:2]:
        raise VaultError(
            "the source runs MySQL %d.%d; this vault has %s; install that version or a newer one on the vault"
            % (theirs[0], theirs[1], here),
            verdict="unknown",
        )


def space_needed(plain_bytes):
    # type: (int) -> int
    return BASE_BYTES + 3 * plain_bytes + (64 << 20)


class Mysql(proof_mariadb.Mariadb):
    engine = "mysql"
    settings = SETTINGS
    own_account = OWN_ACCOUNT
    zone_tools = ("mysql_tzinfo_to_sql",)

    def find_programs(self, source):
        # type: (str) -> None
        self.daemon, version = find("mysqld")
        check_version(source, version)
        beside = os.path.dirname(self.daemon)
        self.client, _version = find("mysql", (beside,) + PLACES)
        self.places = (beside,) + PLACES

    def create(self, data, temporary):
        # type: (str, str) -> None
        argv = [self.daemon, "--no-defaults", "--initialize-insecure", "--datadir=" + data, "--tmpdir=" + temporary]
        self.scratch.run(argv + SETTINGS, timeout=300)
