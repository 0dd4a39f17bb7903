#!/usr/bin/env python3
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How fast the wipe is, as shares of what the device does raw. Prints ``name value bound ok|short`` a line.

    tests/bench/wipe.py [--mib 1024] [--rounds 5] [--folder /var/tmp] [--folder /dev/shm]

For each folder a loop device over a preallocated file there (direct I/O where the file system can). Everything is
measured in interleaved rounds; a figure is the median over the rounds, a share is taken within a round, of the best of fio,
dd and a plain loop of direct writes. The keyed pass is promised for up to 1 GB/s for each core: a faster device counts as
one of that speed. nwipe is measured once, between its first and its last write (it takes seconds to start).
Needs root, and fio and nwipe (those that are missing are left out, and said to be).
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(HERE / ".collections"))

from ansible_collections.sunset.crm.plugins.module_utils import _job  # noqa: E402
from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device  # noqa: E402
from ansible_collections.sunset.crm.plugins.module_utils._wipe import engine as wipe_engine, passes as wipe_passes  # noqa: E402

KEY = "0123456789abcdef" * 4
CHUNK = 16 << 20
DISK = 400_000_000  # bytes a second of the disks that are wiped together
Sample = tuple[float, float]  # seconds, CPU seconds


def timed(act: Callable[[], object]) -> Sample:
    before, began = os.times(), time.perf_counter()
    told = act()
    seconds, after = time.perf_counter() - began, os.times()
    if isinstance(told, float):
        seconds = told
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


def fio(device: str, size: int, kind: str) -> Callable[[], object]:
    """Its own clock says how long it took: its start is not the device's."""

    def act() -> float:
        options = ["--name=x", f"--filename={device}", f"--size={size}", f"--rw={kind}", "--bs=16M", "--iodepth=4", "--ioengine=libaio"]
        argv = ["fio", *options, "--direct=1", "--output-format=json", *(["--end_fsync=1"] if kind == "write" else [])]
        done = subprocess.run(argv, check=True, capture_output=True, text=True)
        return float(json.loads(done.stdout)["jobs"][0][kind]["runtime"]) / 1000

    return act


def nwipe(device: str, size: int, place: Path) -> float:
    """Bytes a second of one pass with a cryptographic generator (ISAAC), between the first and the last write; a minute at most."""
    argv = ["nwipe", "--autonuke", "--nogui", "--nowait", "--noblank", "--method=random", "--prng=isaac", "--verify=off", "--rounds=1"]
    argv += [f"--logfile={place / 'nwipe.log'}", device]
    counter = Path(f"/sys/block/{Path(device).name}/stat")

    def written() -> int:
        return int(counter.read_text().split()[6]) * 512

    process = subprocess.Popen(argv, cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    base, began, last, seen = written(), 0.0, 0.0, 0
    limit = time.perf_counter() + 60
    while process.poll() is None and time.perf_counter() < limit:
        now, moved = time.perf_counter(), written() - base
        if moved != seen:
            began, last, seen = began or now, now, moved
        time.sleep(0.01)
    if process.poll() is None:
        process.kill()
    process.wait()
    return seen / (last - began) if last > began else 0.0


def keyed(device: str, size: int, make: type) -> None:
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    work = make(fd, bytes.fromhex(KEY), size, *([0] if issubclass(make, wipe_passes.VerifyPass) else [(), 0]))
    work.cores = wipe_passes.Cores(os.path.join(tempfile.gettempdir(), f"sunset-bench-cores-{os.getpid()}"))  # as a job does
    runner = wipe_passes.Runner(work, 0, size, wipe_passes.workers())
    with runner:
        while not runner.wait(0.5):
            pass
    os.fsync(fd)
    os.close(fd)
    if issubclass(make, wipe_passes.VerifyPass) and (work.mismatched or work.bytes_read != size):
        raise SystemExit(f"the verification found {len(work.mismatched)} differences on {device}: the figures would be worth nothing")


def job(device: str, folder: Path) -> tuple[float, int]:
    """A whole job as it runs on a host: (seconds until it has judged the device and begins to write, memory in MiB)."""
    found = disk_device.identify(device)
    spec = {"device": device, "identity": disk_device.public_identity(found), "key": KEY}
    (folder / "spec.json").write_text(json.dumps(spec))
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-I", "-B", _job.lay(str(folder), wipe_engine), str(folder / "spec.json")])
    startup, ended = 0.0, 0
    while not ended:
        # Its own memory, and not that of the tools that were measured before.
        ended, _status, usage = os.wait4(process.pid, os.WNOHANG)
        if not startup and (folder / "state.json").exists():
            startup = time.perf_counter() - began
        time.sleep(0.002)
    result = json.loads((folder / "result.json").read_text())
    if result["outcome"] != "sanitised":
        raise SystemExit(f"the job ended as {result['outcome']}: {result['reasons']}")
    (folder / "state.json").unlink()
    process.returncode = 0
    return startup, usage.ru_maxrss // 1024


def several(devices: list[str], place: Path, rate: int) -> float:
    """Seconds that whole jobs (written, read back) on all these devices take, side by side."""
    processes, began = [], time.perf_counter()
    for number, device in enumerate(devices):
        folder = place / f"several-{number}"
        folder.mkdir(exist_ok=True)
        (folder / "state.json").unlink(missing_ok=True)
        found = disk_device.public_identity(disk_device.identify(device))
        spec = {"device": device, "identity": found, "key": KEY, "rate": rate, "cores_directory": str(place / "cores")}
        (folder / "spec.json").write_text(json.dumps(spec))
        processes.append(subprocess.Popen([sys.executable, "-I", "-B", _job.lay(str(folder), wipe_engine), str(folder / "spec.json")]))
    if any(process.wait() != 0 for process in processes):
        raise SystemExit("a job failed: the figures would be worth nothing")
    return time.perf_counter() - began


def report(name: str, value: float, bound: float, below: bool = False) -> bool:
    good = value <= bound if below else value >= bound
    print(f"{name} {value:.2f} {bound:.2f} {'ok' if good else 'short'}", flush=True)
    return good


def attach(place: Path, name: str, size: int) -> str:
    image = place / name
    with image.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, size)
    argv = ["losetup", "--find", "--show", str(image)]
    attached = subprocess.run([*argv, "--direct-io=on"], check=False, capture_output=True, text=True)
    if attached.returncode != 0:
        attached = subprocess.run(argv, check=True, capture_output=True, text=True)
    device = attached.stdout.strip()
    raw(device, size, True)  # the first write of a preallocated file pays for its extents; nobody's figure should
    return device


def bench(folder: str, mib: int, rounds: int) -> None:
    size, name = mib << 20, Path(folder).name
    with tempfile.TemporaryDirectory(dir=folder, prefix="sunset-bench-") as place:
        devices: list[str] = []
        try:
            for image in ("medium.img", "second.img"):
                devices.append(attach(Path(place), image, size))
            measure(name, devices[0], size, rounds, Path(place))
            together(name, devices, rounds, Path(place))
        finally:
            for device in devices:
                subprocess.run(["losetup", "--detach", device], check=True)


def together(name: str, devices: list[str], rounds: int, place: Path) -> None:
    """Two disks of 400 MB/s each (held back by the job's own limit: the two files share one device here) against one."""
    times = []
    for _round in range(rounds):
        one = several(devices[:1], place, DISK)
        times.append(2 * one / several(devices, place, DISK))
    report(f"{name}_two_disks_times_one", statistics.median(times), 1.8)
    free = 2 * several(devices[:1], place, 0) / several(devices, place, 0)
    print(f"# {name} two disks at once, held back by nothing: {free:.2f} times one (one keeps {os.cpu_count()} cores busy)")


def measure(name: str, device: str, size: int, rounds: int, place: Path) -> None:
    passes: dict[str, Callable[[], object]] = {
        "dd zero": command("dd", "if=/dev/zero", f"of={device}", "bs=16M", "oflag=direct", "conv=fsync"),
        "raw write": lambda: raw(device, size, True),
        "zero": lambda: keyed(device, size, wipe_passes.ZeroPass),
        "shred": command("shred", "-n1", device),
        "keyed": lambda: keyed(device, size, wipe_passes.WritePass),
        "verify": lambda: keyed(device, size, wipe_passes.VerifyPass),
        "raw read": lambda: raw(device, size, False),
        "dd read": command("dd", f"if={device}", "of=/dev/null", "bs=16M", "iflag=direct"),
    }
    if shutil.which("fio"):
        passes["fio write"], passes["fio read"] = fio(device, size, "write"), fio(device, size, "read")
        # What is verified must have been written just before: keep the order.
        order = ["dd zero", "fio write", "raw write", "zero", "shred", "keyed", "verify", "fio read", "raw read", "dd read"]
        passes = {key: passes[key] for key in order}
    else:
        print(f"# {name}: there is no fio, the raw limit is dd's and a plain loop's")
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
    writers = tuple(key for key in ("dd zero", "raw write", "fio write") if key in passes)
    readers = tuple(key for key in ("raw read", "dd read", "fio read") if key in passes)
    cores, rate = os.cpu_count() or 1, statistics.median(size / sample[0] for sample in samples["keyed"])
    limits = [max(size / samples[key][n][0] for key in writers) for n in range(rounds)]
    report(f"{name}_zero_pass_share", share("zero", writers), 0.95)
    print(f"# {name}: raw limit {statistics.median(limits) / 1e9:.1f} GB/s, of which the keyed pass has {share('keyed', writers):.2f}")
    capped = [size / samples["keyed"][n][0] / min(limits[n], cores * 1e9) for n in range(rounds)]
    report(f"{name}_keyed_pass_share_up_to_{cores}_GBps", statistics.median(capped), 0.90)
    report(f"{name}_keyed_times_shred", 1 / share("shred", ("keyed",)), 2.0)
    if shutil.which("nwipe"):
        theirs = nwipe(device, size, place)
        print(f"# {name} nwipe (ISAAC): {theirs / 1e6:.0f} MB/s")
        report(f"{name}_keyed_times_nwipe", rate / theirs if theirs else 0.0, 2.0)
    else:
        print(f"# {name}: there is no nwipe to compare with")
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
    parser.add_argument("--mib", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", action="append")
    options = parser.parse_args()
    for folder in options.folder or ["/var/tmp", "/dev/shm"]:
        bench(folder, options.mib, options.rounds)


if __name__ == "__main__":
    main()
