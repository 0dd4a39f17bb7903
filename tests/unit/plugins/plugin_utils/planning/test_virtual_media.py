# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Disks of guests as media of the plan: on a hypervisor that goes off, and on one that stays."""

from __future__ import annotations

import copy
from datetime import timedelta
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._volume import chain as volume_chain
from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate, orders
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.people import statements
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import media, plan as plans, survey, virtual_media
from ansible_collections.sunset.crm.plugins.plugin_utils.proxmox import reading as proxmox_reading
from ansible_collections.sunset.crm.plugins.plugin_utils.runs import closing, runs
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import filling, gates, steps
from tests.unit.builders import (
    NOW,
    VAULTS,
    Book,
    attested,
    authorised,
    context,
    guest,
    host,
    item_of,
    make_plan,
    medium,
    plan_data,
    said,
    virtual_medium as virtual,
)

SET, KVM, DISK = "guest:crm", "host:kvm1", "medium:crm-db1-vda"
Facts = dict[str, Any]


def layer(path: str, inode: int, form: str = "qcow2", **more: Any) -> Facts:
    return {
        "path": path,
        "format": form,
        "kind": "file",
        "inode": inode,
        "virtual_bytes": 8 << 20,
        "bytes": 1 << 20,
        "device": "8:1",
        **more,
    }


TOP, MIDDLE, BASE = layer("/images/db1.qcow2", 1), layer("/images/middle.qcow2", 2), layer("/images/base.qcow2", 3)


def row(name: str, *chain: Facts, target: str = "vda", stranger: bool = False, kind: str = "file", **more: Any) -> Facts:
    found = {
        "guest": name,
        "target": target,
        "type": kind,
        "stranger": stranger,
        "source": chain[0]["path"] if chain else "",
        "format": "qcow2",
    }
    return {**found, "chain": list(chain), "problem": "", "media": [{"serial": "S1", "size": 9, "device": "/dev/sda"}], **more}


def declared(*guests: str, name: str = "crm") -> Facts:
    return {"kind": "guest", "name": name, "backend": "libvirt", "guests": list(guests), "staging": "/srv/staging"}


def facts(*disks: Facts, stays: bool = True, guests: tuple[str, ...] = ("db1",), more: tuple[Facts, ...] = (), **host_facts: Any) -> Facts:
    seen = {f"guest:{one['name']}": _set(one, list(disks)) for one in (declared(*guests), *more) if one["kind"] == "guest"}
    own = [one for one in more if one["kind"] == "medium"]
    seen |= {f"medium:{one['name']}": {"found": "yes", "identity": one["identity"], "media": []} for one in own}
    return {
        "wave": "main", "power": {"kind": "none"}, "items": [declared(*guests), *more], "reach": {"user": "root", "address": "x", "port": 22, "host_key": ""},
        "survey": {"hostname": "kvm1", "machine_id": "m", "expected": seen, "findings": [{"id": "listener:22", "what": "somebody's"}]},
        "stays": stays, **host_facts,
    }  # fmt: skip


def _set(one: Facts, disks: list[Facts]) -> Facts:
    names = one["guests"]
    seen = [{**disk, "stranger": disk["guest"] not in names} for disk in disks]
    return {"found": "yes", "identity": {"guests": names, "hypervisor": {"uuid": "h"}}, "media": [], "detail": "", "disks": seen}


ESTATE = {
    "estate": "acme", "waves": ["main"], "vaults": {"vault1": {"root": "/srv/vault"}}, "custodians": [], "allowed_signers": "nobody",
}  # fmt: skip


def build(*disks: Facts, **more: Any) -> tuple[dict[str, Facts], list[str]]:
    data, lacks = survey.build(ESTATE, {"kvm1": facts(*disks, **more)})
    return {item["id"]: item for item in data["items"]}, lacks


# --- in the plan


def test_a_disk_of_a_hypervisor_that_stays_is_a_medium_with_its_whole_chain() -> None:
    items, lacks = build(row("db1", TOP, MIDDLE, BASE))
    assert lacks == [] and items[SET]["media"] == [DISK]
    found = items[DISK]
    assert [one["path"] for one in found["expects"]["layers"]] == [TOP["path"], MIDDLE["path"], BASE["path"]]
    assert found["identity"] == volume_chain.identity([TOP, MIDDLE, BASE]) and found["identity"]["kind"] == "virtual"
    assert found["wipe"] == {"way": "in-place", "host": "kvm1", "method": "overwrite"}
    assert (found["wave"], found["host"], found["expects"]["guests"]) == ("main", "kvm1", [["db1", "vda"]])
    assert plans.faults({**ESTATE, "schema": plans.SCHEMA, "items": list(items.values())}) == []


def test_every_disk_of_every_guest_is_there() -> None:
    items, lacks = build(
        row("db1", TOP), row("db1", layer("/images/data.raw", 8, "raw"), target="vdb"), row("web1", layer("/images/web1.raw", 9, "raw")),
        guests=("db1", "web1"),
    )  # fmt: skip
    assert lacks == [] and items[SET]["media"] == [DISK, "medium:crm-db1-vdb", "medium:crm-web1-vda"]


def test_a_base_that_a_guest_outside_the_set_uses_is_refused_by_name() -> None:
    _items, lacks = build(row("db1", TOP, BASE), row("wiki", layer("/images/wiki.qcow2", 4), BASE, stranger=True))
    (said_,) = lacks
    assert "/images/base.qcow2 on kvm1 is a layer of the disk vda of db1, and of the guest wiki" in said_ and "virsh blockpull" in said_


def test_a_base_that_guests_of_the_plan_share_is_a_medium_of_its_own() -> None:
    """Whether they are in one set or in two."""
    other = layer("/images/web1.qcow2", 4)
    disks = (row("db1", TOP, BASE), row("web1", other, BASE))
    for more in ({"guests": ("db1", "web1")}, {"more": (declared("web1", name="shop"),)}):
        items, lacks = build(*disks, **more)  # type: ignore[arg-type]
        assert lacks == []
        base = "medium:crm-base-base.qcow2"
        assert [one["path"] for one in items[base]["expects"]["layers"]] == [BASE["path"]]
        assert items[base]["expects"]["guests"] == [["db1", "vda"], ["web1", "vda"]]
        assert [one["path"] for one in items[DISK]["expects"]["layers"]] == [TOP["path"]]
        assert [name for name in items if name.startswith("medium:")][-1] == base, "it comes last"
        sets = [item for item in items.values() if item["kind"] == "guest"]
        assert all(base in item["media"] for item in sets)


def test_a_running_and_a_kept_definition_are_one_disk() -> None:
    items, _lacks = build(row("db1", TOP, BASE), row("db1", BASE))
    assert [one["path"] for one in items[DISK]["expects"]["layers"]] == [TOP["path"], BASE["path"]]
    assert len([item for item in items.values() if item["kind"] == "medium"]) == 1


def test_names_of_guests_and_files_bend_no_id() -> None:
    items, _lacks = build(row("../a b", TOP), row("..-a b", MIDDLE), guests=("../a b", "..-a b"))
    names = [item["id"] for item in items.values() if item["kind"] == "medium"]
    assert len(set(names)) == 2 and all("/" not in name and " " not in name for name in names), names


@pytest.mark.parametrize("stays", [True, False])
def test_a_disk_whose_chain_cannot_be_told_stops_the_plan(stays: bool) -> None:
    _items, lacks = build(row("db1", problem="/images/db1.qcow2: Permission denied", media=[]), stays=stays)
    assert len(lacks) == 1 and "disk vda of db1" in lacks[0] and "Permission denied" in lacks[0]


@pytest.mark.parametrize("stays", [True, False])
def test_a_disk_on_ceph_is_in_the_plan_and_a_person_accounts_for_it(stays: bool) -> None:
    far = row("db1", kind="network", source="rbd:pool/db1", media=[])
    items, lacks = build(far, stays=stays)
    assert lacks == [] and items[SET]["media"] == [DISK]
    assert items[DISK]["identity"] == {"kind": "rbd", "serial": "rbd:pool/db1"}
    word = virtual_media.by_hand(items[DISK])
    assert "rbd snap purge" in word and "disposal" in word and "'rbd:pool/db1'" in word
    entry = {"item": DISK, "serial": "rbd:pool/db1", "method": "rbd rm", "place": "x", "by": "bob", "witness": "carol", "at": "2026-01-01"}
    words = statements.Statements([said("disposal", "bob", media=[entry])], {})
    assert orders.excuse(items[DISK], words).startswith("destroyed (rbd rm)")
    assert (
        orders.excuse(items[DISK], statements.Statements([said("disposal", "bob", media=[{**entry, "serial": "rbd:pool/other"}])], {}))
        == ""
    )


def test_disks_of_proxmox_are_named_as_its_configuration_has_them() -> None:
    configured = {
        "scsi0": "local-lvm:vm-100-disk-0,size=32G", "efidisk0": "file=ceph:vm-100-disk-1", "rootfs": "zfs:subvol-7-disk-0", "mp0": "/srv/bind,mp=/srv",
        "sata1": "none",
    }  # fmt: skip
    shown = proxmox_reading.disks(configured)
    assert {one["source"] for one in shown} == {"pve:ceph:vm-100-disk-1", "pve:zfs:subvol-7-disk-0", "pve:local-lvm:vm-100-disk-0"}
    far = [{**one, "guest": "db1", "stranger": False} for one in shown]
    items, lacks = build(*far)
    assert lacks == [] and len(items[SET]["media"]) == 3
    assert "pvesm free" in virtual_media.by_hand(items["medium:crm-db1-scsi0"])
    items, lacks = build(*far, stays=False)
    assert lacks == [] and items[SET]["media"] == []


def test_guests_of_a_hypervisor_that_goes_off_lie_on_its_media() -> None:
    disk = {"kind": "medium", "name": "sda", "device": "/dev/sda", "identity": {"serial": "S1", "size": 9}, "wipe": {"host": "station1"}}
    items, lacks = build(row("db1", TOP, BASE), stays=False, more=(disk,))
    assert lacks == [] and items[SET]["media"] == ["medium:sda"]
    _items, lacks = build(row("db1", TOP, BASE), stays=False)
    assert lacks == [f"{SET} lies on S1, which no medium of the inventory is"]


def test_what_else_is_on_a_host_that_stays_is_its_owners() -> None:
    data, _lacks = survey.build(ESTATE, {"kvm1": facts(row("db1", TOP))})
    assert data["findings"] == []
    data, _lacks = survey.build(ESTATE, {"kvm1": facts(row("db1", TOP), stays=False)})
    assert len(data["findings"]) == 1


def stay_data() -> Facts:
    data = plan_data()
    data["items"] += [host("kvm1", "main"), guest("crm", "kvm1", "main", ["a", "b"]), virtual("crm-a-vda", "kvm1", "main")]
    item_of(data, KVM)["expects"]["stays"] = True
    item_of(data, SET)["media"] = ["medium:crm-a-vda"]
    return data


@pytest.mark.parametrize("change", ["off", "station", "application", "elsewhere", "way"])
def test_faults_of_plans_with_hosts_that_stay(change: str) -> None:
    data = stay_data()
    mine = item_of(data, "medium:crm-a-vda")
    if change == "off":
        del item_of(data, KVM)["expects"]["stays"]
    elif change == "station":
        data["items"].append(medium("disk", "kvm1", "main"))
    elif change == "application":
        data["items"].append({**copy.deepcopy(item_of(data, "application:creme")), "id": "application:x", "host": "kvm1"})
    elif change == "elsewhere":
        mine["wipe"]["host"] = "db1"
    else:
        item_of(data, "medium:pgdata")["wipe"]["way"] = "in-place"
    words = {
        "off": "does not stay", "station": "is never off", "application": "only sets of guests can be retired", "elsewhere": "on their own host",
        "way": "only disks of guests are",
    }  # fmt: skip
    with pytest.raises(Refusal, match=words[change]):
        make_plan(data)


# --- who does what


PLAN = make_plan(stay_data())
MINE = PLAN.items["medium:crm-a-vda"]


def retired(skip: tuple[str, ...] = (), at: str = "2026-01-01T00:00:00.000000Z", **saved: Any) -> Book:
    """All of the guests of kvm1, which stays."""
    book = Book(PLAN)
    result = {"dump_id": "crm#1", "artefacts": [{"name": "a", "role": "dump", "sha256": "ab" * 32}], **saved}
    for wave in PLAN.waves:
        book.add(kind="accepted", wave=wave)
    if "stopped" not in skip:
        book.step(SET, "libvirt_guests", "stopped", former={"a": {}}, at=at)
    if "saved" not in skip:
        book.step(SET, "libvirt_guests", "saved", result=result)
    for vault in VAULTS:
        book.step(KVM, "vault_package", "open", vault, result={"identity_digest": f"k@{vault}"})
        book.step(SET, "vault_pull", None, vault)
        if "proof" not in skip:
            book.step(SET, "vault_prove", None, vault)
        book.step(KVM, "vault_package", "sealed", vault, result={"identity_digest": f"k@{vault}"})
        if "forgotten" not in skip:
            book.step(KVM, "vault_package", "forgotten", vault, result={"identity_digest": f"k@{vault}"})
    return book


def lacking(book: Book, words: Any = None, **changes: Any) -> str:
    signed = [authorised(PLAN, MINE["id"])] if words is None else words
    found = gates.missing(steps.find("volume_wipe", {}), MINE, context(book, [*signed, *attested()], phase="wipe", **changes))
    return "; ".join(str(one) for one in found)


def test_its_host_may_be_on_and_everything_else_is_asked_as_for_a_disk() -> None:
    assert lacking(retired()) == ""
    assert "not seen to be stopped" in lacking(retired(skip=("stopped",)))
    assert "no dump of it was seen" in lacking(retired(skip=("saved",)))
    assert "restored and compared on 0 of 2 vaults" in lacking(retired(skip=("proof",)))
    assert "0 of 1 custodians have shown" in lacking(retired(skip=("forgotten",)))
    assert "no authorisation names it" in lacking(retired(), words=[])
    assert "grace period has not ended" in lacking(retired(at=(NOW - timedelta(days=1)).isoformat()))
    assert "legal hold" in lacking(retired(), words=[authorised(PLAN, MINE["id"]), said("hold", "carol", items=[MINE["id"]], reason="r")])
    assert "it names serial" in lacking(retired(), words=[authorised(PLAN, MINE["id"], serial="vd-another")])


def test_a_host_inside_one_of_the_guests_must_be_off() -> None:
    data = stay_data()
    item_of(data, "host:app1")["stands_on"] = [SET]
    item_of(data, "host:app1")["expects"]["guest"] = {"item": SET, "name": "a"}
    plan = make_plan(data)
    assert plan.media_hosts(plan.items[MINE["id"]]) == ["app1"]
    assert PLAN.media_hosts(MINE) == []


def test_the_host_has_no_power_off_and_its_disks_are_wiped_there() -> None:
    for phase in ("shutdown", "wipe"):
        work = {one["host"]: one for one in runs.members(PLAN, ["main"], phase=phase) if one["place"] in ("estate", "station")}
        assert not {"host"} & {*work["kvm1"]["items"], *work["kvm1"]["late"]}
        assert work["kvm1"]["items"].get("virtual_medium", work["kvm1"]["late"].get("virtual_medium")) == [MINE["id"]]


def test_the_shutdown_owes_nothing_of_it_but_closed_doors() -> None:
    book = retired()
    row_ = closing.row(PLAN.items[KVM], PLAN, book.view(), "shutdown")
    assert (row_.done, row_.finished) == ("stays in use", True)
    book.step(KVM, "vault_access", "present", "vault1")
    assert not closing.row(PLAN.items[KVM], PLAN, book.view(), "shutdown").finished


def test_the_wipe_owes_each_of_its_disks() -> None:
    row_ = closing.row(MINE, PLAN, retired().view(), "wipe")
    assert (row_.done, row_.finished) == ("not wiped", False)
    book = retired()
    book.step(MINE["id"], "volume_wipe", result={"outcome": "sanitised"})
    row_ = closing.row(MINE, PLAN, book.view(), "wipe")
    assert row_.finished and row_.proof.startswith("logical sanitisation")
    back = gates.missing(steps.find("libvirt_guests", {"state": "started"}), PLAN.items[SET], context(book, phase="resume"))
    assert any("there is no way back" in str(one) for one in back)


# --- what the module is given


def options(book: Book, item: Facts = MINE) -> Facts:
    return filling.options(steps.find("volume_wipe", {}), item, book.plan, book.view(), "")


def files(*names: str) -> Facts:
    known = [{"path": name, "format": "qcow2", "inode": 70 + number, "bytes": 5, "device": False} for number, name in enumerate(names)]
    return {"chains": {"a": [{"target": "vda", "files": known}]}}


def test_what_a_snapshot_has_put_on_top_is_passed_on() -> None:
    given = options(retired(**files("/images/crm-a-vda.sunset-saved", "/images/crm-a-vda.qcow2")))
    assert [one["path"] for one in given["overlays"]] == ["/images/crm-a-vda.sunset-saved"]
    assert given["layers"] == MINE["expects"]["layers"] and given["identity"] == MINE["identity"]
    assert given["known"] == ["/images/crm-a-vda.qcow2", "/images/crm-a-vda.sunset-saved"] and given["guests"] == ["a", "b"]
    assert options(retired(**files("/images/crm-a-vda.qcow2")))["overlays"] == []


def test_a_disk_that_was_another_when_it_was_saved_is_refused() -> None:
    with pytest.raises(Refusal, match="was /images/other.qcow2"):
        options(retired(**files("/images/other.qcow2")))


def test_staged_copies_of_its_guest_go_with_it_and_no_file_beyond_the_staging_place() -> None:
    artefacts = [
        {"name": "a-disk0", "path": "/srv/crm/.sunset-staging/a.disk0.qcow2.gz", "bytes": 5},
        {"name": "b-disk0", "path": "/srv/crm/.sunset-staging/b.disk0.qcow2.gz", "bytes": 6},
        {"name": "a-nvram", "path": "/srv/crm/.sunset-staging/../../../etc/passwd", "bytes": 7},
        {"name": "a-definition", "path": "/etc/shadow", "bytes": 8},
    ]
    source = {"guests": {"a": {"artefacts": dict.fromkeys(("a-disk0", "a-nvram", "a-definition"))}, "b": {"artefacts": {"b-disk0": ""}}}}
    given = options(retired(artefacts=artefacts, source=source))
    assert given["copies"] == [{"path": "/srv/crm/.sunset-staging/a.disk0.qcow2.gz", "kind": "file", "bytes": 5}]


def test_each_kind_of_medium_has_its_own_module() -> None:
    with pytest.raises(Refusal, match="use volume_wipe"):
        filling.options(steps.find("media_wipe", {}), MINE, PLAN, retired().view(), "")
    with pytest.raises(Refusal, match="use media_wipe"):
        options(retired(), PLAN.items["medium:pgdata"])


def test_a_disk_that_is_done_by_hand_is_refused_with_what_to_do() -> None:
    far = {**MINE, "identity": {"kind": "rbd", "serial": "rbd:pool/a"}, "expects": {"guests": [["a", "vda"]]}}
    with pytest.raises(Refusal, match="sign a disposal that names its serial 'rbd:pool/a'"):
        options(retired(), far)


# --- the dry run, the order, the certificate


def test_the_dry_run_does_not_miss_what_is_no_device() -> None:
    found = media.fleet({"kvm1": {"devices": [], "machine": {}}}, [MINE], {"asked": "clear"})
    assert (found["missing"], found["in_place"]) == ([], [MINE["id"]])
    assert any("logical sanitisation in place" in line for line in media.table(found))


def test_an_order_for_a_virtual_disk_asks_for_no_hammer() -> None:
    made = orders.order("acme", "p" * 64, MINE, {"outcome": "failed", "reasons": ["r"]}, "e" * 64, "2026-01-01T00:00:00Z")
    assert "virtual disk" in made["what_to_do"] and "Destruct" not in made["what_to_do"]


def test_the_commands_for_an_auditor_are_those_of_files() -> None:
    row_ = {"path": "/images/a b", "key": "ab" * 32, "ranges": [[0, 8192], [65536, 131072]], "inode": 7, "bytes": 131072, "removed": False}
    commands = certificate.layer_commands(row_)
    assert commands[0]["expect"] == "7 131072" and len(commands) == 3
    assert "'/images/a b'" in commands[1]["command"] and "S=16 N=16" in commands[2]["command"]
    (gone,) = certificate.layer_commands({**row_, "removed": True})
    assert gone["command"] == "test ! -e '/images/a b' && echo it-is-gone"
