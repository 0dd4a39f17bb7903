# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Over thousands of random stacks of devices: no plan contains a device that carries a mounted file system, the running root, swap, or a
disk of a vault or the control node. Valid for Python 3.6.

The machine is drawn at random, with partitions, arrays, mappings, loops over files, paths and namespaces, and so are the answers of its
devices. What must not be wiped is worked out here by another way than the code's: from each use down to the bottom.
"""

import copy
import random

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import facts as disk_facts
from ansible_collections.sunset.crm.plugins.module_utils._disk.stack import Stack
from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    decide as wipe_decide,
    firmware as wipe_firmware,
    group as wipe_group,
    now as wipe_now,
)
from ansible_collections.sunset.crm.plugins.module_utils._wipe.techniques import CATALOGUE
from tests.unit import disk_samples

STACKS = 200
REAL = 80  # there each device of a stack is looked at by itself
SEEDS = range(20)
TRI = ("yes", "yes", "no", "unknown")


class Machine(object):
    """A random snapshot, and what of it is in use."""

    def __init__(self, dice):
        self.dice = dice
        self.blocks = {}
        self.counter = 0
        self.twins = {}  # name -> the first path to the same medium
        for _number in range(dice.randint(1, 6)):
            self.disk()
        for _number in range(dice.randint(0, 10)):
            dice.choice((self.partition, self.array, self.mapping, self.thin, self.loop))()
        self.uses()

    def add(self, name, **more):
        self.counter += 1
        block = {
            "number": "9:%d" % self.counter, "node": "/dev/" + name, "bytes": self.dice.choice((0, 1 << 20, 1 << 30, 1 << 40)), "slaves": [],
            "partition_of": None, "path": "/sys/devices/pci0/x/" + name, "ro": self.dice.choice((0, 0, 0, 1, None)), "removable": 0,
            "rotational": self.dice.choice((0, 1)), "logical": self.dice.choice((512, 512, 4096, 520)), "physical": 4096, "hidden": None,
            "vendor": None, "model": "Sample", "serial": "SER%d" % self.counter, "firmware": "1", "wwid": None, "dm_uuid": None, "dm_name": None,
            "md_level": None, "nguid": None, "eui": None, "mmc_type": None, "subnqn": None,
        }  # fmt: skip
        block.update(more)
        self.blocks[name] = block
        return name

    def disk(self):
        kind = self.dice.choice(("sata", "sas", "nvme", "virtio", "usb", "raid", "pair"))
        letter = "abcdefghijklmnopqrstuvwxyz"[self.counter % 26] + str(self.counter)
        if kind == "nvme":
            nqn = "nqn.x:%d" % self.counter
            for number in range(1, self.dice.randint(1, 3) + 1):
                self.add(
                    "nvme%sn%d" % (letter[1:], number),
                    path="/sys/devices/pci0/nvme/nvme0/n",
                    subnqn=nqn,
                    nguid="%032x" % (self.counter + 1),
                )
        elif kind == "virtio":
            self.add("vd" + letter, path="/sys/devices/pci0/virtio1/block")
        elif kind == "pair":
            first = self.add("sd" + letter, path="/sys/devices/pci0/host0/end_device-0/x", wwid="naa.5%015x" % self.counter)
            second = self.add("sd" + letter + "x", path="/sys/devices/pci0/host1/end_device-1/x", wwid=self.blocks[first]["wwid"])
            self.twins[second] = first
            if self.dice.random() < 0.6:
                self.add("dm-%d" % self.counter, slaves=[first, second], dm_uuid="mpath-3500", dm_name="mpatha")
        else:
            path = {
                "sata": "/sys/devices/pci0/ata1/host0",
                "sas": "/sys/devices/pci0/host0/end_device-0/x",
                "usb": "/sys/devices/pci0/usb1/1-1",
            }
            more = {"vendor": "DELL", "model": "PERC H730"} if kind == "raid" else {"vendor": "ATA" if kind == "sata" else "MAKER"}
            self.add("sd" + letter, path=path.get(kind, "/sys/devices/pci0/host0"), wwid="naa.5%015x" % self.counter, **more)

    def any(self):
        return self.dice.choice(sorted(self.blocks))

    def partition(self):
        below = self.any()
        if not self.blocks[below]["partition_of"]:
            self.add("%sp%d" % (below, self.counter), partition_of=below)

    def array(self):
        self.add("md%d" % self.counter, slaves=sorted({self.any(), self.any()}), md_level="raid1")

    def mapping(self):
        uuid = self.dice.choice(("LVM-abc", "CRYPT-LUKS2-x", "", "LVM-abc-real", "part1-mpath-x"))
        self.add("dm-%d" % self.counter, slaves=[self.any()], dm_uuid=uuid, dm_name="n%d" % self.counter)

    def thin(self):
        pool = self.add("dm-%d" % self.counter, slaves=[self.any()], dm_uuid="LVM-abc-tpool", dm_name="pool")
        self.add("dm-%d" % self.counter, slaves=[pool], dm_uuid="LVM-thin", dm_name="thin")

    def loop(self):
        """Over a file on a device, or over the whole device: the first may be wiped like any file, the second writes to the device."""
        below, whole = self.any(), self.dice.random() < 0.3
        more = {"loop_file": "/dev/" + below if whole else "/srv/disk.img", "loop_whole": whole}
        self.add("loop%d" % self.counter, loop_on=self.blocks[below]["number"], bytes=1 << 20, **more)

    def written(self, name):
        """What a write to this device reaches: what it is made of, but not the disk under a loop's file."""
        found, frontier = {name}, [name]
        while frontier:
            block = self.blocks[frontier.pop()]
            more = set(block["slaves"]) | ({block["partition_of"]} if block["partition_of"] else set())
            if block.get("loop_whole"):
                more |= {other for other in self.blocks if block["loop_on"] == self.blocks[other]["number"]}
            frontier += more - found
            found |= more
        return found

    def uses(self):
        dice = self.dice
        number = lambda: self.blocks[self.any()]["number"]  # noqa: E731
        self.mounts = [[number(), "/srv", "ext4"] for _number in range(dice.randint(0, 2))]
        self.swaps = [[number(), "/dev/swap"] for _number in range(dice.randint(0, 1))]
        self.descriptors = [[number(), 7, dice.choice(("qemu-system-x86", "dd"))] for _number in range(dice.randint(0, 1))]
        self.exports = [[number(), "SCSI target x"] for _number in range(dice.randint(0, 1))]
        self.root = [number()] if dice.random() < 0.5 else []
        used = [one[0] for one in self.mounts + self.swaps] + self.root
        # The kernel's word is right where it is given: what carries a mount, swap or another device cannot be opened exclusively.
        self.exclusive = {}
        carrying = self.below({name for name, block in self.blocks.items() if block["number"] in used})
        parents = {parent for block in self.blocks.values() for parent in block["slaves"]}
        for name in self.blocks:
            self.exclusive[name] = (
                dice.choice(("yes", "unknown")) if name in carrying | parents else dice.choice(("no", "no", "no", "yes", "unknown"))
            )
        vaults = [name for name in self.blocks if self.blocks[name]["wwid"] or self.blocks[name]["nguid"]]
        self.vault = [dice.choice(sorted(vaults))] if vaults and dice.random() < 0.5 else []

    def snapshot(self):
        gone = {"mounts": "x"} if self.dice.random() < 0.2 else {}
        root = {"verdict": "yes" if self.root else "unknown", "numbers": self.root, "names": [], "why": ""}
        return {
            "blocks": self.blocks, "mounts": self.mounts, "swaps": self.swaps, "descriptors": self.descriptors, "exports": self.exports,
            "exclusive": self.exclusive, "root": root, "incomplete": gone,
        }  # fmt: skip

    def below(self, names):
        """Everything that these stand on, themselves too: by repeated sweeps over all devices, until nothing is added."""
        found = set(names)
        while True:
            more = set()
            for name in found:
                block = self.blocks[name]
                more |= set(block["slaves"]) | ({block["partition_of"]} if block["partition_of"] else set())
                more |= {other for other in self.blocks if block.get("loop_on") == self.blocks[other]["number"]}
            if more <= found:
                return found
            found |= more

    def forbidden(self):
        """What no plan may contain, and the medium behind it by whatever path."""
        used = {one[0] for one in self.mounts + self.swaps + self.descriptors + self.exports} | set(self.root)
        names = self.below({name for name, block in self.blocks.items() if block["number"] in used}) | set(self.vault)
        for one, twin in self.twins.items():
            if one in names or twin in names:
                names |= {one, twin}
        return names

    def protected(self):
        return [{"wwid": self.blocks[name]["wwid"] or "eui." + self.blocks[name]["nguid"]} for name in self.vault]


def answers(dice, fact):
    """Random capabilities and states, as a device (or a lying emulation) might answer."""
    for group in ("sanitize", "format", "security", "hidden", "tcg"):
        for name, value in fact[group].items():
            if value in ("yes", "no", "unknown") and name != "state":
                fact[group][name] = dice.choice(TRI)
    fact["sanitize"]["state"] = dice.choice(("idle", "never", "running", "succeeded", "failed", "unknown"))
    fact["ata"] = fact["transport"] == "sata" and dice.random() < 0.9
    if fact["class"] == "scsi":
        fact["class"] = ("ata" if fact["ata"] else "scsi") + dice.choice(("-hdd", "-ssd", ""))
    if fact["name"].startswith("nvme"):
        fact["namespace"] = int(fact["name"].rsplit("n", 1)[1].split("p")[0])
    if dice.random() < 0.2:
        fact["luks"] = disk_samples.luks()
    if fact["layer"] == "lvm-thin":
        fact["thin"] = {"pool": "p", "data_bytes": 1 << 40, "data_used": dice.choice((0, 1 << 39)), "mapped": 0}
    fact["sizes"]["capacity"] = fact["sizes"]["current"]
    fact["identity"] = {"serial": fact["serial"], "size": fact["sizes"]["current"]} if dice.random() < 0.95 else {}


def draw(dice):
    machine = Machine(dice)
    stack = Stack(machine.snapshot())
    facts = [disk_facts.fact_of(name, machine.blocks[name], stack) for name in sorted(machine.blocks)]
    for fact in facts:
        answers(dice, fact)
    disk_facts.share(facts)
    return machine, facts


def policy(dice, machine):
    return {
        "asked": dice.choice(("clear", "purge")), "prefer": dice.choice(("evidence", "speed")), "logical": dice.choice(("yes", "no")),
        "waiver": dice.random() < 0.5, "volume": dice.random() < 0.3, "tcg_credential": dice.choice(("yes", "no")),
        "luks": disk_samples.key_ledger(), "protected": machine.protected(),
    }  # fmt: skip


def touched(decision, machine):
    """Every device that carrying the decision out would write to or erase."""
    if not decision["techniques"]:
        return set()
    names = {decision["name"]} | set(decision["paths"])
    names |= machine.written(decision["name"]) & (set(machine.vault) if decision["class"] == "layer" else machine.forbidden())
    if any(row["device_wide"] for row in decision["techniques"]):
        names |= set(decision["covers"])
    return names


@pytest.mark.parametrize("seed", SEEDS)
def test_no_plan_contains_what_somebody_uses(seed):
    dice = random.Random(seed)
    planned = 0
    for number in range(STACKS):
        machine, facts = draw(dice)
        chosen = policy(dice, machine)
        wanted = {fact["name"] for fact in facts if dice.random() < 0.9}
        policies = {name: dict(chosen) for name in wanted}
        decisions = wipe_group.decide(facts, lambda fact, known=policies: known.get(fact["name"]))
        forbidden = machine.forbidden()
        for decision in decisions:
            bad = touched(decision, machine) & forbidden
            assert not bad, "seed %d, stack %d: %s is in the plan of %s" % (seed, number, sorted(bad), decision["name"])
            assert (decision["verdict"] == "plan") == bool(decision["techniques"])
            for row in decision["techniques"]:
                rank = wipe_decide.RANK
                fit = rank[row["class"]] >= rank[decision["asked"]] or (row["class"] == "logical" and chosen["logical"] == "yes")
                assert fit, "seed %d: %s for %s" % (seed, row["id"], decision["asked"])
            planned += bool(decision["techniques"])
    assert planned > STACKS // 10, "the draw leaves nothing to plan, so this test would prove nothing"


def test_the_test_can_fail():
    """With the guard taken out, the same draw finds plans that contain what is in use."""
    dice = random.Random(1)
    caught = 0
    for _number in range(STACKS):
        machine, facts = draw(dice)
        blind = copy.deepcopy(facts)
        for fact in blind:
            fact.update(holders=[], held="no", root="no")
        decisions = wipe_group.decide(blind, lambda fact: {"asked": "clear"})
        caught += any(touched(decision, machine) & machine.forbidden() for decision in decisions)
    assert caught > STACKS // 4


def begun(weighed, machine, name):
    """Every device that a wipe, begun on this decision, would write to or erase."""
    chosen = weighed["decision"]["chosen"]
    names = machine.written(name) & (set(machine.vault) if weighed["state_before"]["class"] == "layer" else machine.forbidden())
    return {name} | names | set(weighed["decision"]["paths"]) | set(weighed["decision"]["erases_with_it"] if chosen["device_wide"] else [])


@pytest.mark.parametrize("seed", SEEDS)
def test_no_wipe_begins_on_what_somebody_uses(seed):
    """The same for the guard of the real wipe, whatever device and technique a plan names and an authorisation covers."""
    dice = random.Random(1000 + seed)
    started = 0
    for number in range(REAL):
        machine, facts = draw(dice)
        forbidden = machine.forbidden()
        for fact in facts:
            if dice.random() < 0.7:  # most drives hide nothing and are not frozen: otherwise hardly any wipe would begin here
                fact["hidden"].update(hpa="no", dco="no", amac="no")
                fact["security"].update(frozen="no", enabled="no", locked="no")
        for fact in facts:
            chosen = policy(dice, machine)
            known = wipe_now.weigh(facts, fact["number"], chosen, "overwrite")["decision"]
            possible = [row["id"] for row in (known or {"possible": []})["possible"]]
            technique = dice.choice(possible + [dice.choice(sorted(CATALOGUE)), "overwrite"])
            weighed = wipe_now.weigh(facts, fact["number"], chosen, technique, dice.choice((None, "a" * 64, "a" * 64)))
            if weighed["reasons"]:
                assert not (weighed["obstacles"] and weighed["order"]), "what is in use is nobody's to destroy"
                continue
            bad = begun(weighed, machine, fact["name"]) & forbidden
            assert not bad, "seed %d, stack %d: %s is wiped with %s" % (seed, number, sorted(bad), fact["name"])
            assert weighed["decision"]["chosen"]["id"] == wipe_firmware.canonical(technique)
            rank = wipe_decide.RANK[weighed["decision"]["chosen"]["class"]]
            assert rank >= wipe_decide.RANK[chosen["asked"]] or (rank == 0 and chosen["logical"] == "yes")
            started += 1
    assert started > 2, "the draw leaves nothing to wipe, so this test would prove nothing"


def test_a_job_that_goes_on_is_stopped_by_what_is_in_the_way():
    """What a job has done to its drive is no reason against going on; a mount, the running root, a protected disk are."""
    dice = random.Random(7)
    stopped = 0
    for _number in range(REAL):
        machine, facts = draw(dice)
        for fact in facts:
            weighed = wipe_now.weigh(facts, fact["number"], policy(dice, machine), "overwrite")
            if not weighed["obstacles"]:
                assert fact["name"] not in machine.forbidden()
            stopped += bool(weighed["obstacles"])
    assert stopped > REAL


def test_the_test_of_the_real_guard_can_fail():
    dice, caught = random.Random(2), 0
    for _number in range(REAL):
        machine, facts = draw(dice)
        for fact in facts:
            fact.update(holders=[], held="no", root="no")
        for fact in facts:
            weighed = wipe_now.weigh(facts, fact["number"], {"asked": "clear"}, "overwrite", "a" * 64)
            caught += not weighed["reasons"] and bool(begun(weighed, machine, fact["name"]) & machine.forbidden())
    assert caught > REAL // 10
