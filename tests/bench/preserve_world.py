# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The machine of the preserve benchmark: one container that is estate host and vault, with CRM-like data in both engines.

Rows are made once as tab-separated text and loaded into both servers. Note bodies are cuts from a large text whose words are
spread as in a language (Zipf), with umlauts and emoji, so that a compressor finds neither nothing nor the same line again.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.integration.host_container import HostContainer, docker

FILL = r"""
import itertools, os, random, sys
mib, place = int(sys.argv[1]), sys.argv[2]
random.seed(4711)
letters = "etaoinshrdlucmfwypvbgkäöüé"
words = ["".join(random.choices(letters, k=random.randint(2, 11))) for _ in range(20000)] + ["🎈", "☎", "€"]
weights = list(itertools.accumulate(1.0 / (rank + 3) for rank in range(len(words))))
text = " ".join(random.choices(words, cum_weights=weights, k=min(mib, 64) * 160000))
span = len(text) - 2000
def body(): start = random.randrange(span); return text[start : start + random.randint(150, 1500)].strip()
def few(most=40): start = random.randrange(span); return text[start : start + random.randint(8, most)].strip() or "x"
def when(): return "20%02d-%02d-%02d %02d:%02d:%02d" % tuple(random.randint(*r) for r in ((10, 25), (1, 12), (1, 28), (0, 23), (0, 59), (0, 59)))
def rows(count, one):
    for number in range(1, count + 1):
        yield "\t".join([str(number)] + one(number))
accounts, contacts, calls, notes = mib * 150, mib * 900, mib * 1700, mib * 560
tables = {
    "accounts": rows(accounts, lambda n: [few(), few(12), "%.2f" % random.uniform(0, 1e6), repr(random.random() * 90), when()]),
    "contacts": rows(contacts, lambda n: [str(random.randint(1, accounts)), few(20), few(24), "p%d.%s@example.org" % (n, "%06x" % random.getrandbits(24)),
                     "+4144%07d" % random.randrange(10**7), random.choice(["", few(60)]), when(), when()]),
    "calls": rows(calls, lambda n: [str(random.randint(1, contacts)), random.choice(["call", "meeting", "task", "mail"]), few(60), when(), str(random.randint(1, 90)), "1" if random.random() < .8 else "0"]),
    "notes": rows(notes, lambda n: [str(random.randint(1, contacts)), few(60), body(), when()]),
}
for name, lines in tables.items():
    with open(os.path.join(place, name), "w", encoding="utf-8") as out:
        out.writelines(line + "\n" for line in lines)
"""

PLACES = r"""
ssh-keygen -A >/dev/null; systemctl start ssh
install -d -o vault -g vault -m 0700 /srv/vault
install -d -m 0755 /srv/rows
mkdir -m 0700 /srv/staging
"""

SERVERS = r"""
for one in main peer; do pg_createcluster --start-conf=manual 15 $one >/dev/null; done
# The source loads faster so; what is measured only reads it. The peer's server keeps Debian's own settings.
printf 'fsync = off\nmax_wal_size = 2GB\n' >>/etc/postgresql/15/main/postgresql.conf
systemctl start postgresql@15-main postgresql@15-peer
install -d -o mysql /run/mysqld /srv/my
mariadb-install-db --no-defaults --user=mysql --datadir=/srv/my/data --skip-test-db >/dev/null
systemd-run -q --unit bench-maria mariadbd --no-defaults --user=mysql --datadir=/srv/my/data --skip-networking \
    --socket=/run/mysqld/mysqld.sock --innodb-flush-log-at-trx-commit=0 --innodb-buffer-pool-size=256M
i=0; until mariadb-admin --no-defaults ping >/dev/null 2>&1; do i=$((i + 1)); [ $i -lt 150 ] || exit 1; sleep 0.2; done
"""

TABLES = {
    "accounts": "id int PRIMARY KEY, name varchar(100), industry varchar(60), revenue decimal(12,2), score {float}, created {time}",
    "contacts": "id int PRIMARY KEY, account_id int REFERENCES accounts (id), first_name varchar(60), last_name varchar(60), mail varchar(100), "
    "phone varchar(30), title varchar(100), created {time}, modified {time}",
    "calls": "id int PRIMARY KEY, contact_id int REFERENCES contacts (id), kind varchar(10), subject varchar(120), at {time}, "
    "minutes smallint, done smallint",
    "notes": "id int PRIMARY KEY, contact_id int REFERENCES contacts (id), subject varchar(120), body text, at {time}",
}
INDEXES = ("contacts (last_name)", "contacts (account_id)", "calls (contact_id)", "calls (at)", "notes (contact_id)")

TREE = r"""
mkdir -p /srv/tree/up /srv/many && cd /srv/tree
head -c $(({mib} * 262144)) /srv/rows/notes >text
head -c $(({mib} * 262144)) /dev/urandom >random
mkdir up/1 up/2
head -c $(({mib} * 174763)) /dev/urandom | split -a 5 -b 30k - up/1/r-
head -c $(({mib} * 349525)) /srv/rows/contacts | split -a 5 -b 24k - up/2/t-
python3 - <<'P'
import os, random
random.seed(1)
notes = open("/srv/rows/notes", "rb").read(8 << 20)
for number in range({files}):
    folder = "/srv/many/%03d" % (number // 200)
    os.makedirs(folder, exist_ok=True)
    size = random.randint(1000, 16000)
    start = random.randrange(len(notes) - size)
    with open("%s/%05d" % (folder, number), "wb") as out:
        out.write(os.urandom(size) if number % 3 == 0 else notes[start : start + size])
P
"""

# A third text, a third noise, a third hole: 5 GB as a CRM's old mail archive may have them.
LARGE = r"""
import os, sys
size, path = int(sys.argv[1]) << 30, "/srv/large/archive.bin"
os.makedirs("/srv/large", exist_ok=True)
text, block = open("/srv/rows/notes", "rb").read(32 << 20), 32 << 20
with open(path, "wb") as out:
    for number in range(size // block):
        if number % 3 == 0: out.write(text)
        elif number % 3 == 1: out.write(os.urandom(block))
        else: out.seek(block, 1)
    out.truncate(size)
"""


def statements(engine: str) -> str:
    kinds = {"postgresql": {"float": "float4", "time": "timestamptz"}, "mariadb": {"float": "float", "time": "datetime"}}[engine]
    return "\n".join(f"CREATE TABLE {name} ({columns.format(**kinds)});" for name, columns in TABLES.items())


def indexes() -> str:
    return "\n".join(f"CREATE INDEX i{number} ON {what};" for number, what in enumerate(INDEXES))


class World(HostContainer):
    def fill(self, mib: int, files: int, databases: bool = True) -> None:
        self.shell(PLACES)
        self.run("python3", "-c", FILL, str(mib), "/srv/rows")
        if databases:
            self.load()
        self.shell(TREE.format(mib=mib, files=files))
        self.shell("sync; sleep 2")

    def load(self) -> None:
        self.shell(SERVERS)
        loads = "\n".join(f"\\copy {name} from /srv/rows/{name} (format text)" for name in TABLES)
        self.psql("CREATE DATABASE crm", "postgres")
        self.psql(f"{statements('postgresql')}\n{loads}\n{indexes()}\nVACUUM ANALYZE;\nCHECKPOINT;")
        loads = "\n".join(f"LOAD DATA LOCAL INFILE '/srv/rows/{name}' INTO TABLE {name} CHARACTER SET utf8mb4;" for name in TABLES)
        quick = "SET foreign_key_checks = 0, unique_checks = 0;"
        create = f"CREATE DATABASE crm CHARACTER SET utf8mb4; USE crm; {statements('mariadb')} {quick} {loads} {indexes()}"
        self.run("mariadb", "--no-defaults", "--local-infile", "--default-character-set=utf8mb4", stdin=create)
        # Whoever comes first must not be the one who reads the tables from the disk.
        self.shell("mariadb-dump --no-defaults crm >/dev/null; runuser -u postgres -- pg_dump -d crm >/dev/null")

    def psql(self, sql: str, database: str = "crm") -> str:
        return self.run("runuser", "-u", "postgres", "--", "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-d", database, stdin=sql)

    def peers(self) -> list[str]:
        """Put restic and mydumper in, if Debian's mirror can be reached; the peers that are there."""
        with tempfile.TemporaryDirectory() as place:
            argv = ["apt-get", "download", "-qq", "restic", "mydumper", "libglib2.0-0", "libpcre3"]
            done = subprocess.run(argv, cwd=place, capture_output=True, check=False)
            if done.returncode:  # a machine without package lists
                subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
                done = subprocess.run(argv, cwd=place, capture_output=True, check=False)
            for package in Path(place).glob("*.deb") if done.returncode == 0 else ():
                with package.open("rb") as stream:
                    script = "cat >/tmp/p.deb && dpkg -i --force-depends /tmp/p.deb >/dev/null 2>&1 && rm /tmp/p.deb"
                    subprocess.run(["docker", "exec", "-i", self.name, "sh", "-c", script], stdin=stream, check=True)
        return [name for name in ("restic", "mydumper") if self.run("sh", "-c", f"{name} --version || {name} version", check=False)]

    def large(self, gib: int) -> None:
        self.run("python3", "-c", LARGE, str(gib))

    def put(self, script: Path) -> None:
        docker("cp", str(script), f"{self.name}:/opt/inside.py")


def remove_stale(prefix: str) -> None:
    """Containers of benches that were killed without a chance to clean up: nobody lives under the process id in the name."""
    for name in docker("ps", "-a", "--format", "{{.Names}}").split():
        number = name.removeprefix(prefix)
        if number != name and number.isdigit() and not is_bench(number):
            docker("rm", "-f", "-v", name, check=False)


def is_bench(number: str) -> bool:
    try:
        return b"preserve" in Path("/proc", number, "cmdline").read_bytes()
    except OSError:
        return False


def room(folder: str) -> int:
    return shutil.disk_usage(folder).free
