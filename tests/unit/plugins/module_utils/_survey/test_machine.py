# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
from ansible_collections.sunset.crm.plugins.module_utils._survey import machine as survey_machine

UUID = "11223344-1122-2233-4444-555555555555"


def test_this_very_machine():
    found = survey_machine.machine()
    assert sorted(found) == [
        "addresses", "board", "container", "guests", "machine_id", "macs", "nameservers", "neighbours", "storage",
    ]  # fmt: skip
    assert not [one for one in found["addresses"] if one.startswith("127.") or one == "::1"]


def test_own_addresses_are_told_from_networks_and_broadcasts():
    trie = (
        "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n"
        "     |-- 192.0.2.0\n        /24 link UNICAST\n     |-- 192.0.2.5\n        /32 host LOCAL\n     |-- 192.0.2.255\n        /32 link BROADCAST\n"
    )
    assert survey_machine.parse_local_routes(trie) == {"192.0.2.5"}


def test_bridges_of_engines_tell_nothing():
    for name in ("docker0", "docker_gwbridge", "br-0123456789ab", "virbr0", "lo", "veth12", "vnet3", "cni-podman0"):
        assert survey_machine.OWN_BRIDGES.match(name)
    for name in ("eth0", "br0", "bond0", "vmbr0", "enp1s0", "br-lan", "vlan7"):
        assert not survey_machine.OWN_BRIDGES.match(name)


def test_resolvers_and_neighbours():
    assert survey_machine.parse_nameservers(
        "# nameserver 1.1.1.1\nnameserver 192.0.2.53\nsearch x\nnameserver fe80::1%eth0\nnameserver\n"
    ) == [
        "192.0.2.53",
        "fe80::1",
    ]
    table = "IP address HW type Flags HW address Mask Device\n192.0.2.7 0x1 0x2 52:54:00:AA:BB:CC * eth0\n192.0.2.8 0x1 0x0 00:00:00:00:00:00 * eth0\n"
    assert survey_machine.neighbours(table) == {"192.0.2.7": "52:54:00:aa:bb:cc"}


def test_servers_of_network_file_systems():
    mounts = "\n".join(
        [
            "nas:/export /srv nfs4 rw,vers=4.2,addr=192.0.2.30,clientaddr=192.0.2.5 0 0",
            "//files.example.org/share /mnt cifs rw,addr=192.0.2.31 0 0",
            "//files2/share /mnt cifs rw 0 0",
            "nas2:/export /srv2 nfs rw 0 0",
            "user@host:/x /y fuse.sshfs rw 0 0",
            "/dev/sda1 / ext4 rw 0 0",
            "broken",
        ]
    )
    assert survey_machine.storage(mounts)[:5] == ["192.0.2.30", "192.0.2.31", "files2", "host", "nas2"]


def test_a_guest_of_proxmox_is_read_without_its_snapshots():
    text = (
        "name: web\nnet0: virtio=52:54:00:AA:BB:01,bridge=vmbr0\nsmbios1: base64=1,uuid=%s\n\n[before]\nname: old\n"
        "net0: virtio=52:54:00:AA:BB:99\n" % UUID
    )
    assert survey_machine.parse_pve("100", text) == {"name": "web", "uuid": UUID, "macs": ["52:54:00:aa:bb:01"]}
    ct = "hostname: files\nnet0: name=eth0,bridge=vmbr0,hwaddr=52:54:00:AA:BB:02,ip=dhcp\n"
    assert survey_machine.parse_pve("200", ct) == {"name": "files", "uuid": "", "macs": ["52:54:00:aa:bb:02"]}


def test_a_guest_of_libvirt_is_read_from_its_definition(monkeypatch, tmp_path):
    path = tmp_path / "web.xml"
    path.write_text("<domain><name>web</name><uuid>%s</uuid><mac address='52:54:00:aa:bb:03'/></domain>" % UUID)
    monkeypatch.setattr(survey_machine.glob, "glob", lambda pattern: [str(path)] if pattern == "/etc/libvirt/qemu/*.xml" else [])
    monkeypatch.setattr(survey_machine.service_proc, "pids", lambda: [])
    assert survey_machine.guests() == [{"name": "web", "uuid": UUID, "macs": ["52:54:00:aa:bb:03"]}]
