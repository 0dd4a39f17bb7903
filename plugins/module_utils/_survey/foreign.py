# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Engines of guests that this collection recognises and does not drive: by what they are known, and what a person does about them.

Private to the collection; it may change at any time. Valid for Python 3.6. Pure but for look().

Two places: an engine on the host, whose guests run here; and a hypervisor below the host, of which this host is a guest. The first keeps the
host from going off, the second keeps its disks from being wiped, until a person has signed for it.
"""

import glob
import os
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

from ansible_collections.sunset.crm.plugins.module_utils._service import proc as service_proc

Row = Dict[str, Any]

# name -> what people call it
TITLES = {
    "kubernetes": "Kubernetes",
    "incus": "Incus",
    "lxd": "LXD",
    "lxc": "LXC without Proxmox VE",
    "xen": "Xen",
    "vmware": "VMware",
    "hyperv": "Hyper-V",
    "virtualbox": "VirtualBox",
}
# What a person does so that an engine's guests are dark; then it is attested.
INSTEAD = {
    "kubernetes": "scale what is to go to zero and drain the node (kubectl drain --ignore-daemonsets NODE), then stop its kubelet",
    "incus": "stop its instances and keep them off (incus stop --all; incus config set NAME boot.autostart=false)",
    "lxd": "stop its instances and keep them off (lxc stop --all; lxc config set NAME boot.autostart=false)",
    "lxc": "stop its containers and keep them off (lxc-stop -n NAME; lxc.start.auto = 0 in its configuration)",
    "xen": "shut its domains down and keep them off (xl shutdown -a -w; take them out of /etc/xen/auto)",
    "vmware": "shut its machines down with VMware's own tools and take them out of the autostart and out of HA",
    "hyperv": "shut its machines down with Hyper-V's own tools (Stop-VM; Set-VM -AutomaticStartAction Nothing)",
    "virtualbox": "shut its machines down (VBoxManage controlvm NAME acpipowerbutton) and keep them off",
}
BELOW = (
    "have its administrator keep it off after the power-off (autostart, high availability), and delete the snapshots, replicas and templates "
    "of its disks, which no wipe from here reaches"
)
# Other words for them, as inventories have them.
WORDS = {
    "k8s": "kubernetes",
    "k3s": "kubernetes",
    "esx": "vmware",
    "esxi": "vmware",
    "vsphere": "vmware",
    "vcenter": "vmware",
    "vpx": "vmware",
    "hyper-v": "hyperv",
    "xenserver": "xen",
    "xcp-ng": "xen",
    "vbox": "virtualbox",
}
# (name, processes, paths): any one of them tells that it is here. Process names have 15 letters, as the kernel cuts them.
SIGNS: Tuple[Tuple[str, Tuple[str, ...], Tuple[str, ...]], ...] = (
    (
        "kubernetes",
        ("kubelet", "kubelite", "k3s", "k3s-server", "k3s-agent", "k0s", "rke2", "rke2-server", "rke2-agent", "microk8s"),
        (
            "/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/config.yaml", "/var/lib/rancher/k3s", "/var/lib/rancher/rke2", "/var/lib/k0s",
            "/var/snap/microk8s/current",
        ),
    ),
    ("incus", ("incusd",), ("/var/lib/incus/unix.socket",)),
    ("lxd", ("lxd",), ("/var/lib/lxd/unix.socket", "/var/snap/lxd/common/lxd/unix.socket")),
    ("lxc", ("lxc-monitord",), ("/var/lib/lxc/*/config",)),
    ("xen", ("xenstored", "oxenstored", "xenconsoled"), ()),
    ("vmware", ("vmware-vmx", "vmware-hostd", "vmware-authdlau"), ("/etc/vmware/hostd",)),
    ("virtualbox", ("VBoxSVC", "VBoxHeadless", "VirtualBoxVM"), ()),
)  # fmt: skip
# What the firmware of a guest says: vendor and product together, in small letters -> hypervisor.
FIRMWARE = (
    ("vmware", "vmware"),
    ("microsoft corporation virtual machine", "hyperv"),
    ("innotek", "virtualbox"),
    ("virtualbox", "virtualbox"),
    ("xen ", "xen"),
)


def known(word: str) -> Optional[str]:
    """The name of the engine that is meant by this word; None for one that nobody here knows."""
    small = word.strip().lower()
    return small if small in TITLES else WORDS.get(small)


def refusal(word: str) -> str:
    """Why guests of this engine are no set of the plan, by name and with what to do; empty for a word that nobody here knows."""
    name = known(word)
    if name is None:
        return ""
    return (
        "%s is not driven by this collection: %s; leave the set out of sunset_items, plan the hosts inside it as hosts, and have the rest attested "
        "(scripts/statement attest)" % (TITLES[name], INSTEAD[name])
    )


def hosting(processes: Set[str], there: Iterable[str], xen_control: bool, proxmox: bool) -> List[Tuple[str, List[str]]]:
    """(engine, signs of it) on this host. there: those of the paths in SIGNS that exist. xen_control: it is the domain that governs Xen."""
    paths = set(there)
    found = []
    for name, names, places in SIGNS:
        signs = sorted(processes & set(names)) + [place for place in places if place in paths]
        if name == "xen" and xen_control:
            signs.append("/proc/xen/capabilities")
        # The containers of Proxmox VE are LXC's too, and are read through its own interface.
        if signs and not (name == "lxc" and proxmox):
            found.append((name, signs))
    return found


def below(vendor: str, product: str, hypervisor: str, xen_control: bool) -> Optional[str]:
    """The hypervisor of which this host is a guest, if it is one that is not driven. hypervisor: the text of /sys/hypervisor/type."""
    text = ("%s %s" % (vendor.strip(), product.strip())).lower()
    for sign, name in FIRMWARE:
        if sign in text:
            return name
    return "xen" if hypervisor.strip() == "xen" and not xen_control else None


def finding(name: str, signs: List[str]) -> Row:
    what = "%s is here (%s); its guests are not handled by this collection" % (TITLES[name], ", ".join(signs))
    return {"id": "engine:" + name, "kind": "engine", "what": what, "foreign": name}


def finding_below(name: str) -> Row:
    what = "this host is a guest of %s, which is not handled: what it keeps of the host's disks does not show here" % TITLES[name]
    return {"id": "hypervisor:" + name, "kind": "hypervisor", "what": what, "foreign": name}


def look(processes: Set[str], container: bool) -> List[Row]:
    """Findings about this host. In a container the firmware is that of the machine outside."""
    there = [place for _name, _names, places in SIGNS for place in places if glob.glob(place)]
    control = "control_d" in (service_proc.read_text("/proc/xen/capabilities") or "")
    proxmox = os.path.isdir("/etc/pve/nodes") or "pmxcfs" in processes
    found = [finding(name, signs) for name, signs in hosting(processes, there, control, proxmox)]
    if not container:
        firmware = [(service_proc.read_text("/sys/class/dmi/id/" + name) or "") for name in ("sys_vendor", "product_name")]
        name = below(firmware[0], firmware[1], service_proc.read_text("/sys/hypervisor/type") or "", control)
        found += [finding_below(name)] if name else []
    return found
