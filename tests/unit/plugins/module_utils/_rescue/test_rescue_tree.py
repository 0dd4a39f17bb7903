# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a rescue needs and is made of, without a kernel that jumps."""

import gzip
import io
import os
import shutil
import subprocess

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device
from ansible_collections.sunset.crm.plugins.module_utils._rescue import (
    host as rescue_host,
    init as rescue_init,
    network as rescue_network,
    tree as rescue_tree,
)
from ansible_collections.sunset.crm.plugins.modules import rescue_boot

FACTS = {
    "architecture": "x86_64", "kernel": "6.1", "kexec": True, "load_disabled": "0", "lockdown": "none", "image": "/boot/vmlinuz-6.1",
    "root": True, "uid": 0,
}  # fmt: skip


def test_a_host_that_can_kexec_has_no_problem():
    assert rescue_host.kexec_problems(FACTS) == []


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
    (problem,) = rescue_host.kexec_problems(dict(FACTS, **changed))
    assert word in problem


def test_the_lockdown_mode_is_the_one_in_brackets():
    assert rescue_host.lockdown_mode("none [integrity] confidentiality") == "integrity"
    assert rescue_host.lockdown_mode("[none] integrity confidentiality") == "none"
    assert rescue_host.lockdown_mode(None) == "unknown"


def test_memory_is_counted_twice_for_the_unpacking():
    size = 80 << 20
    assert rescue_host.memory_problems(size, 1 << 30, 1 << 30) == []
    assert len(rescue_host.memory_problems(size, 100 << 20, 300 << 20)) == 2
    assert rescue_host.meminfo("MemTotal:  1024 kB\nMemAvailable:   512 kB\n", "MemAvailable") == 512 * 1024
    assert rescue_host.meminfo(None, "MemAvailable") == 0


ADDRESSES = """2: eth0    inet 10.0.2.15/24 brd 10.0.2.255 scope global eth0\\       valid_lft forever preferred_lft forever
2: eth0    inet6 2001:db8::5/64 scope global temporary dynamic \\       valid_lft 86399sec preferred_lft 14399sec
2: eth0    inet6 2001:db8::15/64 scope global \\       valid_lft forever preferred_lft forever
5: bond0    inet 192.0.2.7/24 scope global bond0\\       valid_lft forever preferred_lft forever
6: tun0    inet 10.8.0.1 peer 10.8.0.2/32 scope global tun0\\       valid_lft forever preferred_lft forever
"""
CARD = {"mac": "52:54:00:12:34:56", "mtu": 1500, "kind": "card", "over": [], "options": {}}
LINKS = {
    "eth0": CARD,
    "tap1": dict(CARD, kind="other"),
    "bond0": dict(CARD, mac="52:54:00:12:34:57", kind="bond", over=["eth1", "eth2"], options={"mode": "active-backup", "primary": "eth2"}),
    "eth1": dict(CARD, mac="52:54:00:12:34:57"),
    "eth2": dict(CARD, mac="52:54:00:12:34:58"),
    "bond0.5": dict(CARD, mac="52:54:00:12:34:57", kind="vlan", over=["bond0"], options={"id": "5"}),
    "br0": dict(CARD, mac="52:54:00:12:34:57", kind="bridge", over=["bond0.5", "tap1"]),
    "docker0": dict(CARD, kind="bridge", over=["tap1"]),
    "tun0": dict(CARD, kind="other"),
}  # fmt: skip


def test_addresses_of_cards_are_taken_over():
    assert rescue_network.addresses(ADDRESSES) == {"eth0": ["10.0.2.15/24", "2001:db8::15/64"], "bond0": ["192.0.2.7/24"]}


def test_a_bond_a_vlan_and_a_bridge_are_made_again_in_their_order():
    plan = rescue_network.network_plan(LINKS, {"br0": ["192.0.2.7/24"], "docker0": ["172.17.0.1/16"]}, [], "192.0.2.7")
    assert plan["problems"] == [] and [link["name"] for link in plan["links"]] == ["eth1", "eth2"]
    assert [(link["name"], link["over"], link["addresses"]) for link in plan["made"]] == [
        ("bond0", ["eth1", "eth2"], []), ("bond0.5", ["bond0"], []), ("br0", ["bond0.5"], ["192.0.2.7/24"]),
    ]  # fmt: skip
    said = [" ".join(argv) for link in plan["made"] for argv in rescue_init.making("ip", link, link["name"] == "bond0")]
    assert said == [
        "ip link set bond0 type bond mode active-backup",
        "ip link set bond0 address 52:54:00:12:34:57",
        "ip link set eth1 down", "ip link set eth1 master bond0", "ip link set eth1 up",
        "ip link set eth2 down", "ip link set eth2 master bond0", "ip link set eth2 up",
        "ip link set bond0 type bond primary eth2",
        "ip link add link bond0 name bond0.5 type vlan id 5", "ip link set bond0.5 address 52:54:00:12:34:57",
        "ip link add br0 type bridge", "ip link set br0 type bridge stp_state 0 forward_delay 0", "ip link set br0 address 52:54:00:12:34:57",
        "ip link set bond0.5 master br0", "ip link set bond0.5 up",
    ]  # fmt: skip


def test_what_cannot_be_taken_over_is_named():
    assert "lies on tun0, which is neither" in rescue_network.network_plan(LINKS, {"tun0": ["10.8.0.1/24"]}, [], "10.8.0.1")["problems"][0]
    assert "no network card" in rescue_network.network_plan({}, {}, [], None)["problems"][0]
    links = dict(LINKS, bond0=dict(LINKS["bond0"], refused="watches its cards by ARP"))
    assert rescue_network.network_plan(links, rescue_network.addresses(ADDRESSES), [], None)["problems"] == [
        "bond0 watches its cards by ARP"
    ]
    assert rescue_network.network_plan(LINKS, rescue_network.addresses(ADDRESSES), [], "10.0.2.15")["problems"] == []


def test_vlans_are_read():
    text = "VLAN Dev name    | VLAN ID\nName-Type: VLAN_NAME_TYPE_RAW_PLUS_VID_NO_PAD\nbond0.5        | 5  | bond0\n"
    assert rescue_network.vlans(text) == {"bond0.5": ["5", "bond0"]}


def test_routes_come_back_as_ip_takes_them():
    text = (
        "default via 10.0.2.2 dev eth0 proto dhcp src 10.0.2.15 metric 100 \n10.0.2.0/24 dev eth0 proto kernel scope link src 10.0.2.15 \n"
        "192.0.2.0/24 dev eth0 scope link linkdown \nunreachable 198.51.100.0/24 \ndefault via 192.0.2.1 dev tun0 \n"
    )
    found = rescue_network.routes(text, 4)
    assert [route["words"] for route in found] == [
        ["192.0.2.0/24", "dev", "eth0", "scope", "link"],
        ["default", "via", "10.0.2.2", "dev", "eth0", "metric", "100"],
        ["default", "via", "192.0.2.1", "dev", "tun0"],
    ]
    kept = rescue_network.network_plan(LINKS, rescue_network.addresses(ADDRESSES), found, None)["routes"]
    assert all("tun0" not in route["words"] for route in kept) and len(kept) == 2


def test_ways_of_routing_that_would_be_lost_are_refused():
    usual = "0:\tfrom all lookup local\n32766:\tfrom all lookup main\n32767:\tfrom all lookup default\n"
    assert rescue_network.route_problems("default via 10.0.2.2 dev eth0\n", usual) == []
    assert "several gateways" in rescue_network.route_problems("default proto static\n\tnexthop via 10.0.0.1 dev eth0 weight 1\n", usual)[0]
    assert "policy routing" in rescue_network.route_problems("", usual + "100:\tfrom 10.1.0.0/16 lookup 100\n")[0]


def test_the_command_line_keeps_what_the_machine_needs_and_nothing_of_its_old_system():
    running = "BOOT_IMAGE=/vmlinuz root=/dev/sda1 ro quiet console=tty0 console=ttyS0,115200 init=/x crashkernel=256M pci=noaer"
    line = rescue_host.command_line(running, ["no_timer_check"])
    assert line == "console=tty0 console=ttyS0,115200 pci=noaer rdinit=/init no_timer_check"
    assert "no_timer_check" not in rescue_host.command_line(running, [])


def test_an_argument_that_could_carry_another_is_refused():
    assert rescue_host.argument_problems(["no_timer_check", "console=ttyS1,9600n8"]) == []
    assert len(rescue_host.argument_problems(["a b", 'x="y"', "", "a=$(reboot)"])) == 4


def test_ports_of_sshd():
    assert rescue_host.ports_of("port 2222\nport 22\naddressfamily any\n") == [22, 2222]
    assert rescue_host.ports_of("") == [22]


def test_what_ldd_says():
    text = (
        "/usr/bin/x:\n\tlinux-vdso.so.1 (0x00007fff)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n"
        "\tlibgone.so.1 => not found\n\t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n\tstatically linked\n"
    )
    found = rescue_tree.parse_ldd(text)
    assert found["libraries"] == {"/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"}
    assert found["missing"] == {"libgone.so.1"}


def test_the_loader_itself_finds_what_ldd_finds(tmp_path):
    extensions = [path for path in rescue_tree.standard_library() if path.endswith(".so")]
    programs = [path for path in (rescue_tree.find(name) for name in ("sh", "cat", "ls")) if path]
    for path in programs:
        assert rescue_tree.listed(path) == rescue_tree.by_ldd([path]), path
    found, known = rescue_tree.libraries_of(programs + extensions), rescue_tree.by_ldd(programs + extensions)
    assert known["libraries"] <= found["libraries"] and found["missing"] == known["missing"] == set()
    # What it complains of is left to ldd, which has a word for it.
    (tmp_path / "x.so").write_bytes(b"\x7fELF nothing of the kind")
    assert rescue_tree.listed(rescue_tree.python(), [str(tmp_path / "x.so")]) is None
    assert rescue_tree.listed(str(tmp_path / "x.so")) is None


def test_what_names_no_loader_is_left_to_ldd(tmp_path):
    for number, data in enumerate(
        (b"", b"#!/bin/sh\n", b"\x7fELF\x01" + bytes(100), b"\x7fELF\x02\x01" + bytes(58), b"\x7fELF\x02\x01" + b"\xff" * 200)
    ):
        path = tmp_path / str(number)
        path.write_bytes(data)
        assert rescue_tree.loader(str(path)) is None and rescue_tree.listed(str(path)) is None


def test_a_tree_has_files_under_their_own_paths_with_the_links_on_the_way(tmp_path):
    host = tmp_path / "host"
    (host / "usr/bin").mkdir(parents=True)
    (host / "usr/bin/real").write_text("content")
    (host / "usr/bin/tool").symlink_to("real")
    (host / "bin").symlink_to("usr/bin")
    root = tmp_path / "root"
    tree = rescue_tree.Tree(str(root))
    tree.add(str(host / "bin/tool"))
    inside = str(root) + str(host)
    assert os.readlink(inside + "/bin") == "usr/bin" and os.readlink(inside + "/usr/bin/tool") == "real"
    assert (root / str(host)[1:] / "usr/bin/real").read_text() == "content"


def test_writing_into_the_tree_never_reaches_the_hosts_own_file(tmp_path):
    (tmp_path / "passwd").write_text("the host's")
    tree = rescue_tree.Tree(str(tmp_path / "root"))
    tree.add(str(tmp_path / "passwd"))
    tree.write(str(tmp_path / "passwd"), "the rescue's", 0o600)
    assert (tmp_path / "passwd").read_text() == "the host's"
    assert os.stat(str(tmp_path / "root") + str(tmp_path / "passwd")).st_mode & 0o777 == 0o600


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio reads the archive")
@pytest.mark.parametrize("compressed", [False, True])
def test_the_archive_is_what_cpio_reads(tmp_path, compressed):
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/file").write_bytes(b"x" * 5001)
    (root / "a/link").symlink_to("file")
    found = rescue_tree.pack(str(root), str(tmp_path / "image"), compressed)
    assert found["bytes"] == os.path.getsize(str(tmp_path / "image")) and found["entries"] == 4 and found["compressed"] is compressed
    assert found["sha256"] == rescue_host.digest(str(tmp_path / "image"))
    if compressed:
        packed = (tmp_path / "image").read_bytes()
        assert len(packed) < 5001
        (tmp_path / "image").write_bytes(gzip.decompress(packed))
    assert os.path.getsize(str(tmp_path / "image")) % 512 == 0
    assert os.stat(str(tmp_path / "image")).st_mode & 0o777 == 0o600
    (tmp_path / "out").mkdir()
    with open(str(tmp_path / "image"), "rb") as stream:
        subprocess.check_call(["cpio", "-idm", "--quiet", "--no-absolute-filenames"], stdin=stream, cwd=str(tmp_path / "out"))
    assert (tmp_path / "out/a/file").read_bytes() == b"x" * 5001 and os.readlink(str(tmp_path / "out/a/link")) == "file"
    assert (tmp_path / "out/a/b").is_dir()


def test_an_archive_is_compressed_only_for_a_kernel_that_says_it_can(tmp_path, monkeypatch):
    opened = {}

    def fake(path, mode):
        if path not in opened:
            raise FileNotFoundError(path)
        return io.BytesIO(opened[path])

    monkeypatch.setattr(rescue_tree, "open", fake, raising=False)
    monkeypatch.setattr(rescue_tree.gzip, "open", fake)
    assert rescue_tree.knows_gzip("6.1") is False
    opened["/proc/config.gz"] = b"#\nCONFIG_RD_GZIP=y\n"
    assert rescue_tree.knows_gzip("6.1") is True
    opened["/boot/config-6.1"] = b"#\n# CONFIG_RD_GZIP is not set\n"
    assert rescue_tree.knows_gzip("6.1") is False


def test_every_entry_belongs_to_root():
    head = rescue_tree.header(7, os.stat("/proc/self"), 0, b"x")
    assert head.startswith(b"070701" + b"00000007") and head[22:38] == b"0" * 16 and len(head) % 4 == 0
    stream = io.BytesIO()
    archive = rescue_tree.Archive(stream)
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
    assert disk_device.in_rescue()["verdict"] == "no"


def test_a_root_in_ram_alone_is_no_rescue(monkeypatch):
    monkeypatch.setattr(disk_device, "_read_all", lambda path: "1 1 0:2 / / rw - rootfs rootfs rw\n" if "mountinfo" in path else None)
    monkeypatch.setattr(disk_device, "RESCUE_MARKER", "/nowhere/marker")
    assert disk_device.in_rescue()["verdict"] == "no"
    assert disk_device.running_root_devices()["verdict"] == "unknown"
    monkeypatch.setattr(disk_device, "RESCUE_MARKER", os.path.abspath(__file__))
    assert disk_device.in_rescue()["verdict"] == "yes"
    assert disk_device.running_root_devices() == {
        "verdict": "no",
        "numbers": [],
        "names": [],
        "why": "this is a rescue system in RAM; no disk carries it",
    }


def test_a_marker_on_a_disk_is_no_rescue(monkeypatch):
    monkeypatch.setattr(disk_device, "_read_all", lambda path: "1 1 259:0 / / rw - ext4 /dev/nvme0n1 rw\n")
    monkeypatch.setattr(disk_device, "RESCUE_MARKER", os.path.abspath(__file__))
    assert disk_device.in_rescue()["verdict"] == "no"
