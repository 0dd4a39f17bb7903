#!/usr/bin/env python3
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast copying, reading back and proving are, as shares of plain tools in the same run. Prints ``name value bound ok|short # samples``.

    tests/bench/preserve.py [--mib 1000] [--rounds 3] [--only postgresql,mariadb,files,large] [--large-gib 5]

In one container of the lab's image, with CRM-like data in PostgreSQL, MariaDB and a file tree. Rounds are interleaved: the peer and
ours take turns, a share is taken within a round, a figure is the median. What was measured while anybody
else took more than a fifth of a core is measured again (in at most twice the rounds); it counts only where nothing was calm, and the
output says so.

"Protected" is the staged way, one after another: dump + digest + compress + digest + sync on the host, then what the vault does with it
(read + digest + encrypt + sync + digest of what lies on the disk); "straight" is the other way, without a staging file, all at once. The
network is left out of both: transfer.py measures it. Reading back is a line of its own (verify), so is the proof.
CPU is that of the whole container, the servers' part included. What has no bound ("-") is said because it costs time too. A peer that
cannot be installed (restic, mydumper: from Debian's mirror) makes its line "unknown", never "ok".
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE / ".collections"), str(HERE)]

from tests.bench.preserve_world import World, remove_stale, room  # noqa: E402

AT_MOST = {
    "pg_protected_wall_over_zstd": 1.25,
    "pg_straight_wall_over_zstd": 1.25,
    "pg_protected_cpu_over_zstd": 1.40,
    "pg_protected_cpu_over_gzip": 0.50,
    "pg_verify_wall_over_zstd": 0.85,
    "pg_prove_wall_over_restore_j2": 1.75,
    "my_protected_wall_over_zstd": 1.25,
    "my_protected_wall_over_zstd_with_mydumper": 1.00,
    "files_protected_wall_over_zstd": 1.60,
    "files_straight_wall_over_zstd": 1.60,
    "files_job_and_verify_wall_over_restic": 1.00,
    "many_job_and_verify_wall_over_restic": 1.00,
    "resident_mib": 200.0,
}

PG = "runuser -u postgres -- pg_dump -d crm"
MY = "mariadb-dump --no-defaults --single-transaction --quick --routines --events --triggers --hex-blob --default-character-set=utf8mb4 crm"
CALM = 0.2  # cores that others may take while a round is measured
NAME = "sunset-bench-preserve-"
RESTIC = "export RESTIC_PASSWORD=x; rm -rf /srv/restic /root/.cache/restic; restic -q -r /srv/restic init; "


class Bench:
    def __init__(self, world: World, recipient: str) -> None:
        self.world, self.recipient = world, recipient
        self.samples: dict[str, list[tuple[float, float]]] = {}  # (cores that others took meanwhile, value)
        self.resident: list[tuple[float, float]] = []
        self.gzip: dict[str, Any] = {}
        self.mydumper = self.restic = False
        self.large_gib = 5

    def act(self, name: str, user: str = "root", **params: Any) -> dict[str, Any]:
        """One act in the container; ours also count for the memory."""
        argv = ["runuser", "-u", user, "--", "python3", "/opt/inside.py", name, json.dumps(params)]
        answer: dict[str, Any] = json.loads(self.world.run(*argv))
        if name != "shell":
            self.resident.append((0.0, answer["resident_mib"]))
        said = f"{answer['wall']:.2f} s, {answer['cpu']:.2f} CPU s, others {answer['others']:.2f} cores, {answer['resident_mib']} MiB"
        phases = "".join(f"; {phase} {wall:.2f}/{cpu:.2f}" for phase, wall, cpu in answer.get("phases", []))
        what = params.get("script") or params.get("item", "")
        print(f"# {name} {what[-60:]!r}: {said} (helpers {answer['helper_mib']}){phases}", file=sys.stderr, flush=True)
        return answer

    def pipe(self, script: str, user: str = "root") -> dict[str, Any]:
        return self.act("shell", user, script=script)

    def add(self, name: str, value: float, *acts: dict[str, Any]) -> None:
        """A sample, and how much others did while its acts ran; of a short act the clock's ticks would say more than that."""
        others = max([one["others"] for one in acts if one["wall"] > 0.5], default=0.0)
        self.samples.setdefault(name, []).append((others, value))

    def copy(self, kind: str, item: str, dump_phases: tuple[str, ...], **params: Any) -> dict[str, Any]:
        """Job and encryption: {wall, cpu} of the protected dump, of the whole job, and what the later steps need."""
        job = self.act("job", kind=kind, item=item, staging="/srv/staging", **params)
        folder = "/srv/vault/" + item.replace(":", "-")
        self.world.shell(f"rm -rf {folder}")
        # The dump alone against the dump alone: accounts, fingerprint and read-back are counted in the whole job.
        main = [one for one in job["artefacts"] if one["role"] in ("dump", "archive")]
        rest = [one for one in job["artefacts"] if one not in main]
        stored = self.act("encrypt", artefacts=main, folder=folder, recipient=self.recipient)
        others = self.act("encrypt", artefacts=rest, folder=folder, recipient=self.recipient)
        self.world.shell(f"chown -R vault {folder}")
        dumped = [one for one in job["phases"] if one[0] in dump_phases]
        wall, cpu = (sum(one[index] for one in dumped) for index in (1, 2))
        return {
            "wall": wall + stored["wall"],
            "cpu": cpu + stored["cpu"],
            "others": max(job["others"], stored["others"]),
            "job": job["wall"],
            "beside": 1 - wall / job["wall"],
            "all": job["wall"] + stored["wall"] + others["wall"],
            "main": {"item": item, "folder": folder, "entries": stored["entries"], "identity": "/srv/identity"},
            "whole": {"item": item, "folder": folder, "entries": stored["entries"] + others["entries"], "identity": "/srv/identity"},
            "source": job["source"],
            "bytes": sum(one["bytes"] for one in main),
        }

    def straight(self, name: str, peer: dict[str, Any], **params: Any) -> None:
        """The same dump without a staging file."""
        folder = "/srv/vault/straight"
        self.world.shell(f"rm -rf {folder}")
        ours = self.act("straight", folder=folder, recipient=self.recipient, **params)
        self.world.shell(f"rm -rf {folder}")
        self.add(f"{name}_straight_wall_over_zstd", ours["wall"] / peer["wall"], ours, peer)
        self.add(f"{name}_straight_cpu_over_zstd", ours["cpu"] / peer["cpu"], ours, peer)

    def postgresql(self, _number: int) -> None:
        peer = self.pipe(f"{PG} | zstd -q -T0 -3 -c >/srv/peer.out")
        ours = self.copy("postgresql", "database:crm", ("dump",), database="crm")
        verified = self.act("verify", "vault", **ours["main"])
        self.add("pg_protected_wall_over_zstd", ours["wall"] / peer["wall"], ours, peer)
        self.straight("pg", peer, kind="postgresql", database="crm", estimate=ours["bytes"])
        self.add("pg_protected_cpu_over_zstd", ours["cpu"] / peer["cpu"], ours, peer)
        self.add("pg_verify_wall_over_zstd", verified["wall"] / peer["wall"], verified, peer)
        self.add("pg_job_share_beside_the_dump", ours["beside"])
        self.add("pg_size_over_zstd", ours["bytes"] / int(self.world.shell("stat -c %s /srv/peer.out")))
        self.gzip = self.gzip or self.pipe(f"{PG} | gzip -c >/srv/peer.out")  # slow, and its CPU hardly varies
        self.add("pg_protected_cpu_over_gzip", ours["cpu"] / self.gzip["cpu"], ours)
        self.world.shell("rm -rf /srv/peer.out /srv/fd; install -d -o postgres /srv/peer")
        self.pipe("runuser -u postgres -- pg_dump -Fd -j2 -Z0 -d crm -f /srv/peer/fd")
        self.world.shell("runuser -u postgres -- createdb -p 5433 crm")
        restored = self.pipe("runuser -u postgres -- pg_restore -j2 -p 5433 -d crm /srv/peer/fd")
        self.world.shell("runuser -u postgres -- dropdb -p 5433 crm; rm -rf /srv/peer")
        proven = self.act("prove", "vault", proof="postgresql", source=ours["source"], **ours["whole"])
        self.add("pg_prove_wall_over_restore_j2", proven["wall"] / restored["wall"], proven, restored)

    def mariadb(self, _number: int) -> None:
        peer = self.pipe(f"{MY} | zstd -q -T0 -3 -c >/srv/peer.out")
        ours = self.copy("mariadb", "database:old", ("dump",), database="crm")
        self.add("my_protected_wall_over_zstd", ours["wall"] / peer["wall"], ours, peer)
        self.add("my_protected_wall_over_zstd_with_mydumper", ours["wall"] / peer["wall"], ours, peer)
        self.add("my_protected_cpu_over_zstd", ours["cpu"] / peer["cpu"], ours, peer)
        self.add("my_job_share_beside_the_dump", ours["beside"])
        self.add("my_size_over_zstd", ours["bytes"] / int(self.world.shell("stat -c %s /srv/peer.out")))
        if self.mydumper:
            script = "rm -rf /srv/mydump; mydumper -t 2 -G -E -R -B crm -S /run/mysqld/mysqld.sock -u root -o /srv/mydump"
            other = self.pipe(f"{script}; for f in /srv/mydump/*; do zstd -q -T0 -3 --rm $f; done")
            self.add("my_protected_wall_over_mydumper_and_zstd", ours["wall"] / other["wall"], ours, other)
        restored = self.pipe(
            "mariadb --no-defaults -e 'CREATE DATABASE peer'; zstd -dcq /srv/peer.out | mariadb --no-defaults peer;"
            "mariadb --no-defaults -e 'DROP DATABASE peer'; rm -rf /srv/peer.out /srv/mydump"
        )
        proven = self.act("prove", "vault", proof="mariadb", source=ours["source"], **ours["whole"])
        self.add("my_prove_wall_over_restore", proven["wall"] / restored["wall"], proven, restored)

    def tree(self, name: str, path: str) -> None:
        peer = self.pipe(f"tar -C {path} -cf - . | zstd -q -T0 -3 -c >/srv/peer.out")
        ours = self.copy("filestore", "filestore:" + name, ("archive",), path=path)
        verified = self.act("verify", "vault", **ours["whole"])
        self.add(f"{name}_protected_wall_over_zstd", ours["wall"] / peer["wall"], ours, peer)
        self.straight(name, peer, kind="filestore", path=path, estimate=ours["bytes"])
        self.add(f"{name}_job_share_beside_the_archive", ours["beside"])
        if self.restic:
            other = self.pipe(f"{RESTIC} restic -q -r /srv/restic backup {path}; restic -q -r /srv/restic check --read-data")
            self.add(f"{name}_job_and_verify_wall_over_restic", (ours["all"] + verified["wall"]) / other["wall"], ours, verified, other)
        self.world.shell("rm -rf /srv/peer.out /srv/restic")

    def files(self, _number: int) -> None:
        self.tree("files", "/srv/tree")
        self.tree("many", "/srv/many")

    def large(self, _number: int) -> None:
        """For the memory, and to see that nothing grows with one file's size."""
        ours = self.copy("filestore", "filestore:large", ("archive",), path="/srv/large")
        self.act("verify", "vault", **ours["whole"])
        self.world.shell("rm -rf /srv/vault/filestore-large /srv/staging/filestore-large")

    def rounds(self, suite: str, wanted: int) -> None:
        """Until each bounded figure of the suite has that many calm samples, in at most twice as many rounds."""
        act: Callable[[int], None] = getattr(self, suite)
        if suite == "large":
            self.world.large(self.large_gib)
            return act(0)
        for number in range(2 * wanted):
            act(number)
            bounded = [values for name, values in self.samples.items() if name in AT_MOST and name.startswith(tuple(SUITES[suite].split()))]
            if all(sum(others <= CALM for others, _value in values) >= wanted for values in bounded):
                return None
        return None


def judge(name: str, samples: list[tuple[float, float]]) -> tuple[str, bool]:
    bound = AT_MOST.get(name)
    if not samples:
        return f"{name} - {bound or '-'} unknown", False
    calm = [value for others, value in samples if others <= CALM]
    values = calm or [value for _others, value in samples]
    value = max(values) if name == "resident_mib" else statistics.median(values)
    good = bound is None or value <= bound
    told = f"{' '.join(f'{one:.2f}' for one in values)}{'' if calm else ', all disturbed'}"
    return f"{name} {value:.2f} {'-' if bound is None else bound} {'ok' if good else 'short'} # {told}", good


SUITES = {"postgresql": "pg_", "mariadb": "my_", "files": "files_ many_", "large": ""}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--large-gib", type=int, default=5)
    parser.add_argument("--only", default=",".join(SUITES))
    wanted = parser.parse_args()
    suites = wanted.only.split(",")
    need = (wanted.mib << 20) * 14 + (wanted.large_gib << 31) * ("large" in suites)
    if room("/var/lib") < need:
        parser.error(f"/var/lib has {room('/var/lib') >> 30} GiB free; this needs {need >> 30}; use a smaller --mib or --large-gib")
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, lambda number, _frame: sys.exit(128 + number))  # so that the container goes too
    remove_stale(NAME)
    with World(f"{NAME}{os.getpid()}", "--shm-size", f"{wanted.mib * 6 + 1024}m") as world:
        world.fill(wanted.mib, wanted.files, databases=bool({"postgresql", "mariadb"} & set(suites)))
        world.put(Path(__file__).with_name("preserve_inside.py"))
        world.shell("age-keygen -o /srv/identity 2>/dev/null; chown vault /srv/identity")
        bench = Bench(world, world.shell("age-keygen -y /srv/identity").strip())
        peers = world.peers()
        bench.restic, bench.mydumper = "restic" in peers, "mydumper" in peers
        bench.large_gib = wanted.large_gib
        for suite in suites:
            bench.rounds(suite, wanted.rounds)
    names = [name for name in AT_MOST if any(name.startswith(p) for suite in suites for p in [*SUITES[suite].split(), "resident_"])]
    if bench.resident:
        bench.samples["resident_mib"] = bench.resident
    else:
        names.remove("resident_mib")
    if not bench.mydumper:
        bench.samples.pop("my_protected_wall_over_zstd_with_mydumper", None)
    lines = [judge(name, bench.samples.get(name, [])) for name in dict.fromkeys([*names, *bench.samples])]
    print("\n".join(line for line, _good in lines))
    return 0 if all(good for _line, good in lines) else 1


if __name__ == "__main__":
    sys.exit(main())
