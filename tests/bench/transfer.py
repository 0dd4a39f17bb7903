# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast a vault pulls, as a share of plain sftp in the same run, and what an interruption costs. Prints ``name value bound ok|short``.

    tests/bench/transfer.py [--mib 1000] [--rounds 3]

One container of the lab's image is both sides: sshd with one file of random bytes, and the vault. Rounds are interleaved, a figure
is the median. The peer is sftp as anybody types it, and a sync of what it wrote; the pull asks for the cipher that this machine is best
at. What is left when sftp is told the same is printed too: on one machine that is both ends, the pull's digests and its encryption then
have to be paid by cores that sftp alone keeps busy.

wire_*      both through a wire of a gigabit a second (relay.py): what a vault in the next room has. The others go as fast as the two
            cores go that are both ends at once.
pull_*      from the first byte to the last segment that is digested, encrypted, synced and named
stored_*    until all segments are read back, digested and recorded too, which begins beside the pull with the time that is left
module_*    all of the module: Python's start, the look before, the question for the size, the look afterwards too
by_hand_*   a person's shell for the same end: sftp, sha256, age, sync, sha256 of what is stored
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(HERE / ".collections"), str(HERE)]

from ansible_collections.sunset.crm.plugins.module_utils._recorded import make_receipt  # noqa: E402
from ansible_collections.sunset.crm.plugins.module_utils._vault import source as vault_source  # noqa: E402
from tests.integration.host_container import LIBRARY, HostContainer, docker  # noqa: E402

LEAST, MOST = (
    {"wire_pull_speed_over_sftp": 0.9, "pull_speed_over_sftp": 0.9, "module_speed_over_by_hand": 1.0},
    {"resent_cut": 0.01, "resent_killed": 0.01, "resident_mib": 200.0},
)
ROOT = "/srv/vault/packages"
FILE = "/srv/staging/file.bin"
SETUP = f"""
ssh-keygen -A >/dev/null; systemctl start ssh
install -d -o vault -g vault -m 0700 /srv/vault
install -d -m 0700 /srv/staging /root/.ssh
head -c %d /dev/urandom >{FILE}; sync
runuser -u vault -- ssh-keygen -q -t ed25519 -N '' -f /srv/vault/plain
cat /srv/vault/plain.pub >>/root/.ssh/authorized_keys
age-keygen -o /tmp/custodian 2>/dev/null
runuser -u vault -- age-keygen -o /srv/vault/identity 2>/dev/null
"""
SAME = f"-o Ciphers={vault_source.CIPHERS}" if vault_source.aes_in_hardware() else ""
SFTP = "sftp -q -i /srv/vault/plain -o Compression=no -o BatchMode=yes -o StrictHostKeyChecking=no"
GOT = "/srv/vault/got"
FETCH = f"{SFTP} root@127.0.0.1:{FILE} {GOT}"
FETCH_SAME = f"{SFTP} {SAME} root@127.0.0.1:{FILE} {GOT}"
READER = "^/usr/bin/python3.* -I /var/lib/sunset-reader/reader.py"
WIRE_PORT, WIRE_BYTES = 2222, 117_700_000  # what Ethernet of a gigabit a second leaves to TCP
WIRE = f"{SFTP} -P {WIRE_PORT} root@127.0.0.1:{FILE} {GOT}"
# openssl, because sha256sum is no match for hashlib on every machine.
BY_HAND = (
    f"{FETCH}; openssl sha256 {GOT}; age -r $(age-keygen -y /srv/vault/identity) -o {GOT}.age {GOT}; rm {GOT}; sync {GOT}.age; "
    f"openssl sha256 {GOT}.age"
)


class Bench:
    def __init__(self, host: HostContainer, mib: int) -> None:
        self.host, self.bytes = host, mib << 20
        host.shell(SETUP % self.bytes)
        recipient = host.shell("age-keygen -y /tmp/custodian").strip()
        self.package = {"root": ROOT, "estate": "bench", "package": "h"}
        opened = self.vault("vault_package", item="host:h", state="open", custodians=[{"name": "a", "recipient": recipient}])
        host.module("vault_access", item="host:h", public_key=opened["result"]["pull_public_key"], directories=["/srv/staging"])
        sha = host.shell(f"sha256sum <{FILE} | cut -c1-64").strip()
        self.source = {"address": "127.0.0.1", "port": 22, "host_key": host.read("/etc/ssh/ssh_host_ed25519_key.pub").strip()}
        self.over_wire = {**self.source, "port": WIRE_PORT}
        docker("cp", str(Path(__file__).with_name("relay.py")), f"{host.name}:/opt/relay.py")
        host.shell(f"systemd-run -q --unit wire python3 /opt/relay.py {WIRE_PORT} 22 {WIRE_BYTES}")
        self.artefacts = [{"name": "file.bin", "role": "archive", "path": FILE, "sha256": sha, "bytes": self.bytes}]

    def start(self, name: str, **options: Any) -> subprocess.Popen[bytes]:
        arguments = {**self.package, **options, "receipt": make_receipt(name, options["item"], intent="bench")}
        arguments.update(_ansible_check_mode=False, _ansible_module_name=f"sunset.crm.{name}")
        argv = ["docker", "exec", "-i", "-u", "vault", self.host.name, "/usr/bin/python3", f"{LIBRARY}/run.py", name]
        child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert child.stdin is not None
        child.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}).encode())
        child.stdin.close()
        child.stdin = None
        return child

    def vault(self, name: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = json.loads(self.start(name, **options).communicate()[0].decode())
        if answer.get("failed"):
            raise SystemExit(answer["msg"])
        return answer

    def pull_options(self, **more: Any) -> dict[str, Any]:
        return {"item": "filestore:f", "source": self.source, "artefacts": self.artefacts, **more}

    def clear(self) -> None:
        self.host.shell(f"rm -rf {ROOT}/bench/h/data/* {ROOT}/bench/state/h/filestore-f.* {GOT}*; sync")

    def timed(self, script: str) -> float:
        """Seconds of a shell of the vault's account."""
        self.clear()
        begun = time.monotonic()
        self.host.run("runuser", "-u", "vault", "--", "bash", "-euo", "pipefail", "-c", f"{{ {script}; }} >/dev/null 2>&1")
        return time.monotonic() - begun

    def pull(self, port: int = 22) -> dict[str, float]:
        """The whole module, and of it the transfer: from the first question to the last recorded segment."""
        self.clear()
        begun = time.monotonic()
        answer = self.vault("vault_pull", **self.pull_options(source={**self.source, "port": port}))
        whole = time.monotonic() - begun
        (note,) = [one for one in answer["evidence"]["actions"] if one.get("act") == "pulled and encrypted"]
        stored = note["seconds"] + note["read_back_seconds"]
        return {"module": whole, "transfer": note["seconds"], "stored": stored}

    def resident_mib(self) -> float:
        """The module's peak, looked at in a pull of its own: each look takes a tenth of a second of a core, which a timed pull would pay."""
        self.clear()
        child, peak = self.start("vault_pull", **self.pull_options(source=self.over_wire)), 0
        while child.poll() is None:
            for pid in self.host.module_pids():
                peak = max(peak, int(self.host.shell(f"awk '/VmHWM/ {{print $2}}' /proc/{pid}/status 2>/dev/null || true").strip() or 0))
            time.sleep(0.5)
        child.communicate()
        if child.returncode or not peak:
            raise SystemExit("the pull failed, or was never seen to run")
        return peak / 1024

    def on_disk(self) -> int:
        return int(self.host.shell(f"cat {ROOT}/bench/h/data/*/* 2>/dev/null | wc -c"))

    def parent_of(self, pid: str) -> str:
        return self.host.shell(f"awk '/^PPid/ {{print $2}}' /proc/{pid}/status 2>/dev/null || true").strip()

    def interrupted(self, how: str) -> float:
        """Bytes that were there when it was interrupted and come again, over bytes that were there."""
        self.clear()
        # Over the wire, where what is left takes seconds: as fast as the cores go it has ended before it can be interrupted.
        child = self.start("vault_pull", **self.pull_options(source=self.over_wire))
        self.host.wait(lambda: self.on_disk() > 0.6 * self.bytes)
        if how == "killed":
            self.host.kill_module()
        else:
            # The sshd process of this very session, by its number: the connection is gone from one moment to the next.
            # A reader that answers one question has ended by the time that it is looked for; the one that reads is there.
            found = [self.parent_of(pid) for pid in self.host.shell(f"pgrep -f '{READER}'").split()]
            sessions = [pid for pid in found if pid]
            if not sessions:
                raise SystemExit("the pull had ended before it could be cut; use a larger --mib")
            self.host.run("kill", "-9", *sessions)
        child.communicate()
        there = self.on_disk()
        answer = self.vault("vault_pull", **self.pull_options())
        (note,) = [one for one in answer["evidence"]["actions"] if one.get("act") == "pulled and encrypted"]
        return max(0, there - int(note["kept"])) / there


def measure(mib: int, rounds: int) -> dict[str, list[float]]:
    """{figure: its samples}, a sample a round; see above for their names."""
    samples: dict[str, list[float]] = {}
    with HostContainer(f"sunset-bench-transfer-{os.getpid()}") as host:
        bench = Bench(host, mib)
        for _round in range(rounds):
            sftp, pulled, by_hand = bench.timed(f"{FETCH}; sync {GOT}"), bench.pull(), bench.timed(BY_HAND)
            same = bench.timed(f"{FETCH_SAME}; sync {GOT}")
            wire, over_wire = bench.timed(f"{WIRE}; sync {GOT}"), bench.pull(WIRE_PORT)
            values = {
                "wire_pull_speed_over_sftp": wire / over_wire["transfer"],
                "pull_speed_over_sftp": sftp / pulled["transfer"],
                "pull_speed_over_sftp_of_the_same_cipher": same / pulled["transfer"],
                "stored_speed_over_sftp": sftp / pulled["stored"],
                "module_speed_over_sftp": sftp / pulled["module"],
                "module_speed_over_by_hand": by_hand / pulled["module"],
                "wire_sftp_seconds": wire,
                "wire_pull_seconds": over_wire["transfer"],
                "sftp_seconds": sftp,
                "sftp_of_the_same_cipher_seconds": same,
                "pull_seconds": pulled["transfer"],
                "module_seconds": pulled["module"],
                "by_hand_seconds": by_hand,
            }
            print("# " + " ".join(f"{name} {value:.2f}" for name, value in values.items()), file=sys.stderr, flush=True)
            for name, value in values.items():
                samples.setdefault(name, []).append(value)
        samples["resident_mib"] = [bench.resident_mib()]
        for how in ("cut", "killed"):
            samples[f"resent_{how}"] = [bench.interrupted(how)]
    return samples


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mib", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    short = 0
    for name, values in measure(wanted.mib, wanted.rounds).items():
        value, bound = statistics.median(values), LEAST.get(name, MOST.get(name))
        good = bound is None or (value >= bound if name in LEAST else value <= bound)
        short += not good
        print(
            f"{name} {value:.4f} {'-' if bound is None else bound} {'ok' if good else 'short'} # {' '.join(f'{one:.2f}' for one in values)}"
        )
    return 1 if short else 0


if __name__ == "__main__":
    sys.exit(main())
