#!/usr/bin/env python3
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast the wipe is, as shares of what the device does raw. Prints ``name value bound ok|short`` a line.

    tests/bench/wipe.py [--mib 512] [--rounds 3] [--folder /var/tmp] [--folder /dev/shm]

For each folder a loop device over a preallocated file there (direct I/O where the file system can). Everything is
measured in interleaved rounds; a figure is the median over the rounds, a share is taken within a round. Needs root.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HERE / ".collections"))

from ansible_collections.sunset.crm.plugins.module_utils import _device, _wipe_engine, _wipe_pass  # noqa: E402

KEY = "0123456789abcdef" * 4
CHUNK = 16 << 20
Sample = tuple[float, float]  # seconds, CPU seconds


def timed(act: Callable[[], object]) -> Sample:
    before, began = os.times(), time.perf_counter()
    act()
    seconds, after = time.perf_counter() - began, os.times()
    return seconds, sum(after[:4]) - sum(before[:4])


def raw(device: str, size: int, write: bool) -> None:
    """The simplest thing that can be done: 16 MiB direct reads or writes, one after another."""
    fd = os.open(device, (os.O_RDWR if write else os.O_RDONLY) | os.O_DIRECT)
    buffer = mmap.mmap(-1, CHUNK)
    for offset in range(0, size, CHUNK):
        part = memoryview(buffer)[: min(CHUNK, size - offset)]
        if write:
            os.pwrite(fd, part, offset)
        else:
            os.preadv(fd, [part], offset)
    if write:
        os.fsync(fd)
    os.close(fd)


def command(*argv: str) -> Callable[[], object]:
    def act() -> None:
        # dd ends with 1 when the device is full: that is its normal end here
        subprocess.run(argv, check=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    return act


def keyed(device: str, size: int, make: type) -> None:
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    work = make(fd, bytes.fromhex(KEY), size, *([(), 0] if make is _wipe_pass.WritePass else [0]))
    runner = _wipe_pass.Runner(work, 0, size, _wipe_pass.workers())
    with runner:
        while not runner.wait(0.5):
            pass
    os.fsync(fd)
    os.close(fd)
    if make is _wipe_pass.VerifyPass and (work.mismatched or work.bytes_read != size):
        raise SystemExit(f"the verification found {len(work.mismatched)} differences on {device}: the figures would be worth nothing")


def job(device: str, folder: Path) -> tuple[float, int]:
    """A whole job as it runs on a host: (seconds until it has judged the device and begins to write, memory in MiB)."""
    found = _device.identify(device)
    spec = {"device": device, "identity": _device.public_identity(found), "key": KEY}
    (folder / "spec.json").write_text(json.dumps(spec))
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-I", str(_wipe_engine.__file__), str(folder / "spec.json")])
    startup = 0.0
    while process.poll() is None:
        if not startup and (folder / "state.json").exists():
            startup = time.perf_counter() - began
        time.sleep(0.002)
    result = json.loads((folder / "result.json").read_text())
    if result["outcome"] != "sanitised":
        raise SystemExit(f"the job ended as {result['outcome']}: {result['reasons']}")
    (folder / "state.json").unlink()
    return startup, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024


def report(name: str, value: float, bound: float, below: bool = False) -> bool:
    good = value <= bound if below else value >= bound
    print(f"{name} {value:.2f} {bound:.2f} {'ok' if good else 'short'}", flush=True)
    return good


def bench(folder: str, mib: int, rounds: int) -> None:
    size, name = mib << 20, Path(folder).name
    with tempfile.TemporaryDirectory(dir=folder, prefix="sunset-bench-") as place:
        image = Path(place, "medium.img")
        with image.open("wb") as stream:
            os.posix_fallocate(stream.fileno(), 0, size)
        attach = ["losetup", "--find", "--show", str(image)]
        attached = subprocess.run([*attach, "--direct-io=on"], check=False, capture_output=True, text=True)
        if attached.returncode != 0:
            attached = subprocess.run(attach, check=True, capture_output=True, text=True)
        device = attached.stdout.strip()
        try:
            measure(name, device, size, rounds, Path(place))
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)


def measure(name: str, device: str, size: int, rounds: int, place: Path) -> None:
    passes: dict[str, Callable[[], object]] = {
        "dd zero": command("dd", "if=/dev/zero", f"of={device}", "bs=16M", "oflag=direct", "conv=fsync"),
        "raw write": lambda: raw(device, size, True),
        "shred": command("shred", "-n1", device),
        "keyed": lambda: keyed(device, size, _wipe_pass.WritePass),
        "verify": lambda: keyed(device, size, _wipe_pass.VerifyPass),
        "raw read": lambda: raw(device, size, False),
        "dd read": command("dd", f"if={device}", "of=/dev/null", "bs=16M", "iflag=direct"),
    }
    raw(device, size, True)  # the first write of a preallocated file pays for its extents; nobody's figure should
    samples: dict[str, list[Sample]] = {key: [] for key in passes}
    for _round in range(rounds):
        for key, act in passes.items():
            samples[key].append(timed(act))
    gib = size / (1 << 30)

    def share(key: str, limits: tuple[str, ...]) -> float:
        return statistics.median(min(samples[other][n][0] for other in limits) / samples[key][n][0] for n in range(rounds))

    def cpu(key: str) -> float:
        return statistics.median(sample[1] for sample in samples[key]) / gib

    for key in passes:
        print(f"# {name} {key}: {statistics.median(size / sample[0] for sample in samples[key]) / 1e6:.0f} MB/s, {cpu(key):.2f} CPU-s/GiB")
    writers, readers = ("dd zero", "raw write", "keyed"), ("raw read", "dd read", "verify")
    report(f"{name}_zero_pass_share", share("raw write", ("dd zero", "raw write")), 0.95)
    report(f"{name}_keyed_pass_share", share("keyed", writers), 0.90)
    report(f"{name}_keyed_times_shred", 1 / share("shred", ("keyed",)), 2.0)
    verify = share("verify", readers)
    if verify < 0.90 and cpu("verify") <= 0.75:
        report(f"{name}_verify_cpu_seconds_per_gib", cpu("verify"), 0.75, below=True)
    else:
        report(f"{name}_verify_share", verify, 0.90)
    runs = [job(device, place) for _round in range(rounds)]
    report(f"{name}_start_seconds", statistics.median(run[0] for run in runs), 1.0, below=True)
    report(f"{name}_job_memory_mib", max(run[1] for run in runs), 150, below=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", action="append")
    options = parser.parse_args()
    for folder in options.folder or ["/var/tmp", "/dev/shm"]:
        bench(folder, options.mib, options.rounds)


if __name__ == "__main__":
    main()
