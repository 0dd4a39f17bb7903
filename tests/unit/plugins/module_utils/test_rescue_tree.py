# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rescue needs and is made of, without a kernel that jumps."""

import io
import os
import shutil
import subprocess

import pytest

from ansible_collections.sunset.crm.plugins.module_utils import _device, _rescue, _rescue_tree
from ansible_collections.sunset.crm.plugins.modules import rescue_boot

FACTS = {
    "architecture": "x86_64", "kernel": "6.1", "kexec": True, "load_disabled": "0", "lockdown": "none", "image": "/boot/vmlinuz-6.1",
    "root": True, "uid": 0,
}  # fmt: skip


def test_a_host_that_can_kexec_has_no_problem():
    assert _rescue.kexec_problems(FACTS) == []


@pytest.mark.parametrize(
    "changed,word",
    [
        ({"architecture": "mips"}, "no known number on mips"),
        ({"kexec": False}, "has no kexec"),
        ({"load_disabled": "1"}, "kexec_load_disabled is 1"),
        ({"lockdown": "integrity"}, "locked down (integrity)"),
        ({"lockdown": "confidentiality"}, "Secure Boot"),
        ({"image": None}, "was not found"),
        ({"root": False, "uid": 1000}, "needs root"),
    ],
)
def test_each_obstacle_is_named(changed, word):
    (problem,) = _rescue.kexec_problems(dict(FACTS, **changed))
    assert word in problem


def test_the_lockdown_mode_is_the_one_in_brackets():
    assert _rescue.lockdown_mode("none [integrity] confidentiality") == "integrity"
    assert _rescue.lockdown_mode("[none] integrity confidentiality") == "none"
    assert _rescue.lockdown_mode(None) == "unknown"


def test_memory_is_counted_twice_for_the_unpacking():
    size = 80 << 20
    assert _rescue.memory_problems(size, 1 << 30, 1 << 30) == []
    assert len(_rescue.memory_problems(size, 100 << 20, 300 << 20)) == 2
    assert _rescue.meminfo("MemTotal:  1024 kB\nMemAvailable:   512 kB\n", "MemAvailable") == 512 * 1024
    assert _rescue.meminfo(None, "MemAvailable") == 0


ADDRESSES = """2: eth0    inet 10.0.2.15/24 brd 10.0.2.255 scope global eth0\\       valid_lft forever preferred_lft forever
2: eth0    inet6 2001:db8::5/64 scope global temporary dynamic \\       valid_lft 86399sec preferred_lft 14399sec
2: eth0    inet6 2001:db8::15/64 scope global \\       valid_lft forever preferred_lft forever
5: bond0    inet 192.0.2.7/24 scope global bond0\\       valid_lft forever preferred_lft forever
6: tun0    inet 10.8.0.1 peer 10.8.0.2/32 scope global tun0\\       valid_lft forever preferred_lft forever
"""
LINKS = {
    "eth0": {"mac": "52:54:00:12:34:56", "mtu": 1500, "device": True},
    "bond0": {"mac": "52:54:00:12:34:57", "mtu": 1500, "device": False},
}


def test_addresses_of_cards_are_taken_over():
    assert _rescue.addresses(ADDRESSES) == {"eth0": ["10.0.2.15/24", "2001:db8::15/64"], "bond0": ["192.0.2.7/24"]}


def test_a_host_that_is_reached_over_a_bond_is_refused_by_name():
    plan = _rescue.network_plan(LINKS, _rescue.addresses(ADDRESSES), [], "192.0.2.7")
    assert len(plan["problems"]) == 1 and "lies on bond0" in plan["problems"][0]
    assert _rescue.network_plan(LINKS, _rescue.addresses(ADDRESSES), [], "10.0.2.15")["problems"] == []
    assert "no network card" in _rescue.network_plan({}, {}, [], None)["problems"][0]


def test_routes_come_back_as_ip_takes_them():
    text = (
        "default via 10.0.2.2 dev eth0 proto dhcp src 10.0.2.15 metric 100 \n10.0.2.0/24 dev eth0 proto kernel scope link src 10.0.2.15 \n"
        "192.0.2.0/24 dev eth0 scope link linkdown \nunreachable 198.51.100.0/24 \ndefault via 192.0.2.1 dev bond0 \n"
    )
    found = _rescue.routes(text, 4)
    assert [route["words"] for route in found] == [
        ["192.0.2.0/24", "dev", "eth0", "scope", "link"],
        ["default", "via", "10.0.2.2", "dev", "eth0", "metric", "100"],
        ["default", "via", "192.0.2.1", "dev", "bond0"],
    ]
    kept = _rescue.network_plan(LINKS, _rescue.addresses(ADDRESSES), found, None)["routes"]
    assert all("bond0" not in route["words"] for route in kept) and len(kept) == 2


def test_ways_of_routing_that_would_be_lost_are_refused():
    usual = "0:\tfrom all lookup local\n32766:\tfrom all lookup main\n32767:\tfrom all lookup default\n"
    assert _rescue.route_problems("default via 10.0.2.2 dev eth0\n", usual) == []
    assert "several gateways" in _rescue.route_problems("default proto static\n\tnexthop via 10.0.0.1 dev eth0 weight 1\n", usual)[0]
    assert "policy routing" in _rescue.route_problems("", usual + "100:\tfrom 10.1.0.0/16 lookup 100\n")[0]


def test_the_command_line_keeps_what_the_machine_needs_and_nothing_of_its_old_system():
    running = "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet console=tty0 console=ttyS0,115200 init=/x crashkernel=256M pci=noaer"
    line = _rescue.command_line(running, ["no_timer_check"])
    assert line == "console=tty0 console=ttyS0,115200 pci=noaer rdinit=/init no_timer_check"
    assert "no_timer_check" not in _rescue.command_line(running, [])


def test_an_argument_that_could_carry_another_is_refused():
    assert _rescue.argument_problems(["no_timer_check", "console=ttyS1,9600n8"]) == []
    assert len(_rescue.argument_problems(["a b", 'x="y"', "", "a=$(reboot)"])) == 4


def test_ports_of_sshd():
    assert _rescue.ports_of("port 2222\nport 22\naddressfamily any\n") == [22, 2222]
    assert _rescue.ports_of("") == [22]


def test_what_ldd_says():
    text = (
        "/usr/bin/x:\n\tlinux-vdso.so.1 (0x00007fff)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n"
        "\tlibgone.so.1 => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tstatically linked\n"
    )
    found = _rescue_tree.parse_ldd(text)
    assert found["libraries"] == {"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"}
    assert found["missing"] == {"libgone.so.1"}


def test_a_tree_has_files_under_their_own_paths_with_the_links_on_the_way(tmp_path):
    host = tmp_path / "host"
    (host / "usr/bin").mkdir(parents=True)
    (host / "usr/bin/real").write_text("content")
    (host / "usr/bin/tool").symlink_to("real")
    (host / "bin").symlink_to("usr/bin")
    root = tmp_path / "root"
    tree = _rescue_tree.Tree(str(root))
    tree.add(str(host / "bin/tool"))
    inside = str(root) + str(host)
    assert os.readlink(inside + "/bin") == "usr/bin" and os.readlink(inside + "/usr/bin/tool") == "real"
    assert (root / str(host)[1:] / "usr/bin/real").read_text() == "content"


def test_writing_into_the_tree_never_reaches_the_hosts_own_file(tmp_path):
    (tmp_path / "passwd").write_text("the host's")
    tree = _rescue_tree.Tree(str(tmp_path / "root"))
    tree.add(str(tmp_path / "passwd"))
    tree.write(str(tmp_path / "passwd"), "the rescue's", 0o600)
    assert (tmp_path / "passwd").read_text() == "the host's"
    assert os.stat(str(tmp_path / "root") + str(tmp_path / "passwd")).st_mode & 0o777 == 0o600


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio reads the archive")
def test_the_archive_is_what_cpio_reads(tmp_path):
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/file").write_bytes(b"x" * 5001)
    (root / "a/link").symlink_to("file")
    found = _rescue_tree.pack(str(root), str(tmp_path / "image"))
    assert found["bytes"] == os.path.getsize(str(tmp_path / "image")) and found["bytes"] % 512 == 0 and found["entries"] == 4
    assert os.stat(str(tmp_path / "image")).st_mode & 0o777 == 0o600
    (tmp_path / "out").mkdir()
    with open(str(tmp_path / "image"), "rb") as stream:
        subprocess.check_call(["cpio", "-idm", "--quiet", "--no-absolute-filenames"], stdin=stream, cwd=str(tmp_path / "out"))
    assert (tmp_path / "out/a/file").read_bytes() == b"x" * 5001 and os.readlink(str(tmp_path / "out/a/link")) == "file"
    assert (tmp_path / "out/a/b").is_dir()


def test_every_entry_belongs_to_root():
    head = _rescue_tree.header(7, os.stat("/proc/self"), 0, b"x")
    assert head.startswith(b"070701" + b"00000007") and head[22:38] == b"0" * 16 and len(head) % 4 == 0
    stream = io.BytesIO()
    archive = _rescue_tree.Archive(stream)
    archive.close()
    assert b"TRAILER!!!" in stream.getvalue() and archive.size == len(stream.getvalue())


def test_what_of_the_crm_is_awake():
    rows = [{"proto": "tcp", "address": "127.0.0.1", "port": 8000, "uid": 0, "inode": 1}]
    services = [{"unit": "crm-web.service", "ports": [8000]}, {"unit": "crm-jobs.service"}]
    found = rescue_boot.awake(services, rows, True, lambda unit: "active" if "jobs" in unit else "inactive")
    assert found == ["something listens on tcp port 8000", "crm-jobs.service is active"]
    assert rescue_boot.awake(services, [], True, lambda unit: "inactive") == []
    assert rescue_boot.awake([], rows, True, lambda unit: None) == []


def test_an_unknown_state_counts_as_awake():
    found = rescue_boot.awake([{"unit": "crm-web.service", "ports": [8000]}], [], False, lambda unit: None)
    assert len(found) == 2 and all("unknown" in line or "cannot be read" in line for line in found)


def test_here_is_no_rescue():
    """The machine that runs the tests: its root lies on a disk, or in a container, and nobody wrote the marker."""
    assert _device.in_rescue()["verdict"] == "no"


def test_a_root_in_ram_alone_is_no_rescue(monkeypatch):
    monkeypatch.setattr(_device, "_read_all", lambda path: "1 1 0:2 / / rw - rootfs rootfs rw\n" if "mountinfo" in path else None)
    monkeypatch.setattr(_device, "RESCUE_MARKER", "/nowhere/marker")
    assert _device.in_rescue()["verdict"] == "no"
    assert _device.running_root_devices()["verdict"] == "unknown"
    monkeypatch.setattr(_device, "RESCUE_MARKER", os.path.abspath(__file__))
    assert _device.in_rescue()["verdict"] == "yes"
    assert _device.running_root_devices() == {
        "verdict": "no",
        "numbers": [],
        "names": [],
        "why": "this is a rescue system in RAM; no disk carries it",
    }


def test_a_marker_on_a_disk_is_no_rescue(monkeypatch):
    monkeypatch.setattr(_device, "_read_all", lambda path: "1 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n")
    monkeypatch.setattr(_device, "RESCUE_MARKER", os.path.abspath(__file__))
    assert _device.in_rescue()["verdict"] == "no"
