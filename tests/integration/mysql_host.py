# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A throw-away host with a MySQL server (Oracle's, not MariaDB), which is its own vault.

Only Debian's unstable distribution carries MySQL. Its systemd does not start where control groups are of the first version, so the
image is Debian 13's and takes MySQL, and what that needs, from there. Where a mirror stands still its index is older than it says it may
be: that is no fault here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.integration.trap_copy import TrapHost
from tests.lab import engine, image, paths, shell

PACKAGES = "systemd,systemd-sysv,dbus,python3,python3-xlsxwriter,procps,iproute2,openssl,age,zstd,openssh-server,mysql-server-core,mysql-client-core"
LEFT_OUT = ("/usr/share/man/*", "/usr/share/doc/*", "/usr/share/locale/*")
# The second source is the first with another name. It only fills gaps, but for the libraries that MySQL needs in a newer version.
SECOND = (
    'sed -n "s/ trixie / sid /p" "$1/etc/apt/sources.list" >"$1/etc/apt/sources.list.d/second.list"; '
    'printf "Package: %s\\nPin: release n=sid\\nPin-Priority: %d\\n\\n" "*" 100 "src:google-perftools src:gcc-16 src:glibc" 990 '
    '>"$1/etc/apt/preferences.d/second"'
)
# The numbers of the lab's images.
USERS = (
    'for one in "902 mysql" "906 vault"; do set -- "$1" $one; '
    'chroot "$1" groupadd --gid $2 $3; chroot "$1" useradd --uid $2 --gid $2 --home-dir /srv/$3 --shell /bin/sh $3; done; '
    'rm -f "$1"/etc/ssh/ssh_host_*'
)
SOCKET = "/run/mysqld/mysqld.sock"
START = """
install -d -m 0755 -o vault /srv/given /srv/vault; install -d -o mysql /srv/mysource /run/mysqld /var/run/mysqld
runuser -u mysql -- mysqld --no-defaults --initialize-insecure --datadir=/srv/mysource/data 2>/dev/null
"""
RUN = f"""
systemctl reset-failed source-mysql 2>/dev/null || true
systemd-run -q --unit source-mysql mysqld --no-defaults --user=mysql --datadir=/srv/mysource/data --socket={SOCKET} \
    --port=3306 --bind-address=127.0.0.1 --mysqlx=OFF --event-scheduler=OFF --secure-file-priv=NULL
i=0; until mysqladmin --no-defaults -S {SOCKET} ping >/dev/null 2>&1; do i=$((i + 1)); [ $i -lt 600 ] || exit 1; sleep 0.2; done
"""


def _build(target: Path) -> None:
    shell.say(f"building the image {target.name} with mmdebstrap (about a minute)")
    part = target.with_name(f"part-{target.name}")
    argv = ["mmdebstrap", "--quiet", "--variant=minbase", '--aptopt=Acquire::Check-Valid-Until "false"', f"--include={PACKAGES}"]
    argv += [
        "--dpkgopt=force-unsafe-io",
        *(f"--dpkgopt=path-exclude={path}" for path in LEFT_OUT),
        f"--setup-hook={SECOND}",
        f"--customize-hook={USERS}",
    ]
    try:
        shell.run([*argv, "trixie", str(part)])
        part.rename(target)
    finally:
        part.unlink(missing_ok=True)


def ensure_image() -> str:
    """Made once for all clones."""
    mark = image._hash(PACKAGES, *LEFT_OUT, SECOND, USERS)
    return image._ensure(f"{paths.NAME}-mysql:{mark}", f"mysql-{mark}", _build)


class MysqlHost(TrapHost):
    """Use as a context."""

    def how(self) -> tuple[list[str], str]:
        return engine.cgroup_arguments(), ensure_image()

    def __enter__(self) -> MysqlHost:
        super().__enter__()
        try:
            self.shell(START)
            self.start_server()
        except BaseException:
            self.__exit__()
            raise
        return self

    def start_server(self) -> None:
        self.shell(RUN)

    def sql(self, text: str, *arguments: str) -> str:
        return self.run("mysql", "--no-defaults", "--default-character-set=utf8mb4", "-N", "-S", SOCKET, *arguments, stdin=text)

    def fresh(self, name: str, sql: str) -> str:
        self.sql(f"DROP DATABASE IF EXISTS {name}; CREATE DATABASE {name}; USE {name};\n{sql}")
        return name

    def proven(self, name: str, sql: str) -> dict[str, Any]:
        """A small database, dumped and proven."""
        return self.prove("mysql", self.dump("mysql", self.fresh(name, sql)), name)
