# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import pytest

from ansible_collections.sunset.crm.plugins.module_utils._survey import foreign as survey_foreign


def engines(*processes, **more):
    given = dict({"there": (), "xen_control": False, "proxmox": False}, **more)
    return [name for name, _signs in survey_foreign.hosting(set(processes), given["there"], given["xen_control"], given["proxmox"])]


@pytest.mark.parametrize(
    ("name", "process", "path"),
    [
        ("kubernetes", "kubelet", "/var/lib/rancher/k3s"),
        ("kubernetes", "k3s-server", "/var/snap/microk8s/current"),
        ("incus", "incusd", "/var/lib/incus/unix.socket"),
        ("lxd", "lxd", "/var/snap/lxd/common/lxd/unix.socket"),
        ("lxc", "lxc-monitord", "/var/lib/lxc/*/config"),
        ("xen", "xenstored", None),
        ("vmware", "vmware-vmx", "/etc/vmware/hostd"),
        ("virtualbox", "VBoxHeadless", None),
    ],
)
def test_each_engine_is_known_by_a_process_and_by_what_it_leaves_on_disk(name, process, path):
    assert engines(process) == [name]
    assert path is None or engines(there=[path]) == [name]
    found = survey_foreign.finding(name, [process])
    assert (found["id"], found["foreign"]) == ("engine:" + name, name) and survey_foreign.TITLES[name] in found["what"]


def test_what_is_driven_is_not_foreign():
    assert engines("dockerd", "containerd", "libvirtd", "conmon", "qemu-system-x86") == []
    # Proxmox VE's containers are LXC's, and read through Proxmox VE.
    assert engines("lxc-monitord", proxmox=True) == []
    assert engines(xen_control=True) == ["xen"]


@pytest.mark.parametrize(
    ("vendor", "product", "xen", "name"),
    [
        ("VMware, Inc.", "VMware Virtual Platform", "", "vmware"),
        ("VMware, Inc.", "VMware7,1", "", "vmware"),
        ("Microsoft Corporation", "Virtual Machine", "", "hyperv"),
        ("Microsoft Corporation", "Surface Pro 7", "", None),
        ("Xen", "HVM domU", "", "xen"),
        ("", "", "xen\n", "xen"),
        ("innotek GmbH", "VirtualBox", "", "virtualbox"),
        ("QEMU", "Standard PC (Q35 + ICH9, 2009)", "", None),
        ("HPE", "ProLiant DL380 Gen10", "", None),
    ],
)
def test_whose_guest_a_host_is_says_its_firmware(vendor, product, xen, name):
    assert survey_foreign.below(vendor, product, xen, False) == name


def test_the_domain_that_governs_xen_is_no_guest():
    assert survey_foreign.below("HPE", "ProLiant", "xen\n", True) is None


@pytest.mark.parametrize("word", sorted(survey_foreign.TITLES) + sorted(survey_foreign.WORDS))
def test_a_set_of_such_guests_is_refused_by_name_with_what_to_do(word):
    name = survey_foreign.known(word)
    told = survey_foreign.refusal(word)
    assert survey_foreign.TITLES[name] in told and survey_foreign.INSTEAD[name] in told and "scripts/statement attest" in told


def test_an_unknown_word_is_no_engine():
    assert survey_foreign.known("libvirt") is None and survey_foreign.refusal("nonsense") == ""


def test_in_a_container_the_firmware_is_not_asked(monkeypatch):
    texts = {"/sys/class/dmi/id/sys_vendor": "VMware, Inc.\n", "/sys/class/dmi/id/product_name": "VMware7,1\n"}
    monkeypatch.setattr(survey_foreign.service_proc, "read_text", lambda path: texts.get(path))
    monkeypatch.setattr(survey_foreign.glob, "glob", lambda path: [])
    assert [one["id"] for one in survey_foreign.look(set(), False)] == ["hypervisor:vmware"]
    assert survey_foreign.look(set(), True) == []
