#!/usr/bin/env python3
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast the copying is, as shares of plain pipes in the same run. Prints ``name value bound ok|short`` a line.

    tests/bench/preserve.py [--mib 100] [--rounds 3]

In one container of the lab's image: a PostgreSQL database and a file tree of about that size. Rounds are interleaved; a share is
taken within a round, a figure is the median. The vault's encryption is not part of it (that is measured where it is done).
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE / ".collections"), str(HERE)]

from tests.integration.host_container import LIBRARY, HostContainer  # noqa: E402

# What is measured, why the bound: facts of the project; here staging alone, so without the share of age.
BOUNDS = {
    "pg_stage_wall_over_pipe": 1.25,
    "pg_stage_cpu_over_pipe": 1.40,
    "pg_readback_wall_over_pipe": 0.85,
    "files_stage_wall_over_pipe": 1.60,
}

FILL = """
pg_createcluster --start-conf=manual 15 main >/dev/null
printf 'fsync = off\\nmax_wal_size = 2GB\\n' >>/etc/postgresql/15/main/postgresql.conf
systemctl start postgresql@15-main
runuser -u postgres -- psql -Xq <<S
CREATE TABLE contacts AS SELECT g AS id, 'Zoë Müller ' || md5(g::text) AS name, md5((g / 7)::text) || '@example.org' AS mail,
    now() - g * interval '1 minute' AS created FROM generate_series(1, {mib} * 1500) g;
CREATE TABLE notes AS SELECT g AS id, repeat('Called about the offer, wants it in spring. ', 3) || md5(g::text) || md5((g * 3)::text)
    AS body FROM generate_series(1, {mib} * 3200) g;
S
mkdir -p /srv/tree && cd /srv/tree
runuser -u postgres -- psql -Xqc 'COPY notes TO STDOUT' | head -c {half}M | split -a 4 -b 40k - part-
head -c {half}M /dev/urandom >random
"""

MEASURE = f"""
import json, os, resource, subprocess, sys, time
sys.path.insert(0, {LIBRARY!r})
from ansible_collections.sunset.crm.plugins.module_utils import _filestore, _stream
PG = ["runuser", "-u", "postgres", "--", "/usr/lib/postgresql/15/bin/pg_dump", "-Fc", "-Z0", "-C", "-d", "postgres"]

def timed(work):
    def used():
        return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))
    wall, cpu = time.monotonic(), used()
    result = work()
    return time.monotonic() - wall, used() - cpu, result

def pipe(argv):
    with open("/srv/out", "wb") as out:
        first = subprocess.Popen(argv, stdout=subprocess.PIPE)
        subprocess.check_call(["zstd", "-q", "-T0", "-3", "-c"], stdin=first.stdout, stdout=out)
        first.stdout.close()
        assert first.wait() == 0

os.makedirs("/srv/bench", exist_ok=True)
codec = _stream.find_codec()
stage = lambda chunks: _stream.stage(chunks, "/srv/bench", "x", "dump", codec)
tar = _filestore.tar_argv("/srv/tree", dict(sort=True, xattrs=True, acls=True))
wall, cpu, _none = timed(lambda: pipe(PG))
own_wall, own_cpu, artefact = timed(lambda: stage(_stream.process_chunks(PG)))
back, _cpu, _none = timed(lambda: _stream.check_staged(artefact, ["/usr/lib/postgresql/15/bin/pg_restore", "-f", "/dev/null"]))
files, _cpu, _none = timed(lambda: pipe(tar))
own_files, _cpu, kept = timed(lambda: stage(_stream.process_chunks(tar)))
json.dump(dict(pg_stage_wall_over_pipe=own_wall / wall, pg_stage_cpu_over_pipe=own_cpu / cpu, pg_readback_wall_over_pipe=back / wall,
               files_stage_wall_over_pipe=own_files / files, plain_mib=artefact["plain_bytes"] >> 20,
               resident_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10), sys.stdout)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    with HostContainer("sunset-bench-preserve") as host:
        host.shell(FILL.format(mib=wanted.mib, half=wanted.mib // 2))
        rounds = [json.loads(host.run("python3", "-c", MEASURE)) for _round in range(wanted.rounds)]
    figures = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    short = 0
    for name, value in figures.items():
        bound = {**BOUNDS, "resident_mib": 200.0}.get(name)
        good = bound is None or value <= bound
        short += not good
        print(f"{name} {value:.2f} {'-' if bound is None else bound} {'ok' if good else 'short'}")
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
