# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What libvirt_guests saves of guests that are off: definitions, UEFI variables, chains of disks, snapshots, copies; on real libvirt and QEMU."""

from __future__ import annotations

import gzip
import hashlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import libvirt
import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.libvirt import disks as libvirt_disks, save as libvirt_save
from tests.integration.libvirt_world import World, run

OVMF = Path("/usr/share/OVMF")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="sunset-lv-") as folder:
        made = World(Path(folder) / "w")
        try:
            made.up()
            yield made
        finally:
            made.close()


def disk_xml(path: Path, target: str = "hda", form: str = "", kind: str = "file", more: str = "") -> str:
    attribute = "file" if kind == "file" else "dev"
    return (
        f"<disk type='{kind}'><driver name='qemu' type='{form or path.suffix[1:]}'/><source {attribute}='{path}'/>"
        f"<target dev='{target}' bus='ide'/>{more}</disk>"
    )


def artefacts(done: dict[str, Any], role: str) -> list[dict[str, Any]]:
    return [one for one in done["result"]["artefacts"] if one["role"] == role]


def snapshots(world: World, name: str) -> list[str]:
    found: list[str] = world.domain(name, lambda one: [snapshot.getName() for snapshot in one.listAllSnapshots()])
    return found


def test_the_copy_of_every_file_of_a_chain_is_the_source_byte_for_byte(world: World) -> None:
    base = world.disk("base", b"\xf4", "raw")
    middle = world.disk("middle", form="qcow2", backing=base)
    top = world.disk("top", form="qcow2", backing=middle)
    second = world.disk("second", form="raw", size=3 << 20)
    world.define("chain", start=False, disks=disk_xml(top) + disk_xml(second, "hdb"))
    dry = world.save("chain", copy=True, check=True)
    assert (dry["changed"], dry["result"]["would_save"]) == (True, ["chain"])
    assert not Path(world.staging).exists()
    done = world.save("chain", copy=True)
    assert (done["changed"], done["evidence"]["verdict"]) == (True, "yes"), done.get("msg")
    copies = artefacts(done, "disk")
    source = done["result"]["source"]["guests"]["chain"]
    assert [source["disks"][one["name"]] for one in copies] == [str(path) for path in (top, middle, base, second)]
    for one in copies:
        original = Path(source["disks"][one["name"]]).read_bytes()
        assert gzip.decompress(Path(one["path"]).read_bytes()) == original
        assert one["plain_sha256"] == hashlib.sha256(original).hexdigest() == source["artefacts"][one["name"]]
        assert Path(one["path"]).stat().st_mode & 0o777 == 0o600
    definition = Path(artefacts(done, "definition")[0]["path"]).read_text()
    assert source["id"] in definition
    for check in (True, False):
        again = world.save("chain", copy=True, check=check)
        assert (again["changed"], again["evidence"]["actions"]) == (False, [])
    assert again["result"]["artefacts"] == done["result"]["artefacts"]


def test_a_disk_that_was_changed_or_a_copy_that_was_damaged_is_saved_anew(world: World) -> None:
    disk = world.disk("fresh", form="raw")
    world.define("fresh", start=False, disks=disk_xml(disk))
    first = world.save("fresh", copy=True)
    with disk.open("r+b") as stream:
        stream.write(b"other")
    second = world.save("fresh", copy=True)
    assert second["changed"] is True
    assert artefacts(second, "disk")[0]["plain_sha256"] != artefacts(first, "disk")[0]["plain_sha256"]
    Path(artefacts(second, "disk")[0]["path"]).write_bytes(b"torn")
    assert world.save("fresh", copy=True)["changed"] is True
    assert world.save("fresh", copy=True)["changed"] is False


def test_killed_between_two_disks_the_next_run_finishes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.define("half", start=False, disks=disk_xml(world.disk("half1")) + disk_xml(world.disk("half2"), "hdb"))
    copy, calls = libvirt_disks.copy, []

    def dying(*arguments: Any, **rest: Any) -> dict[str, Any]:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return copy(*arguments, **rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(libvirt_disks, "copy", dying)
        world.save("half", copy=True)
    done = world.save("half", copy=True)
    assert (done["changed"], done["evidence"]["verdict"], len(artefacts(done, "disk"))) == (True, "yes", 2)
    assert not list(Path(world.staging).glob("*.part"))


def test_an_internal_snapshot_is_taken_once_of_guests_whose_disks_are_all_qcow2(world: World) -> None:
    world.define("inner", start=False, form="qcow2")
    done = world.save("inner", snapshot="internal")
    assert (done["evidence"]["verdict"], snapshots(world, "inner")) == ("yes", [libvirt_save.SNAPSHOT]), done.get("msg")
    again = world.save("inner", snapshot="internal")
    assert (again["changed"], snapshots(world, "inner")) == (False, [libvirt_save.SNAPSHOT])
    assert "sunset-saved" in run("qemu-img", "snapshot", "-l", done["result"]["chains"]["inner"][0]["files"][0]["path"])


def test_killed_after_the_snapshot_there_is_no_second_one(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.define("once", start=False, form="qcow2")

    def dying(*_arguments: Any, **_rest: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ansible_collections.sunset.crm.plugins.plugin_utils.relay.put", dying)
        world.save("once", snapshot="internal")
    assert snapshots(world, "once") == [libvirt_save.SNAPSHOT]
    done = world.save("once", snapshot="internal")
    assert (done["evidence"]["verdict"], snapshots(world, "once")) == ("yes", [libvirt_save.SNAPSHOT])
    assert done["evidence"]["actions"][0]["did"] == "found the snapshot of an earlier run"


def test_storage_that_cannot_is_named_disk_by_disk_and_nothing_is_touched(world: World) -> None:
    raw, qcow = world.disk("mixed-raw", form="raw"), world.disk("mixed-q", form="qcow2")
    world.define("mixed", start=False, disks=disk_xml(qcow) + disk_xml(raw, "hdb"))
    with pytest.raises(Refusal, match=f"mixed: its disk hdb .{raw}. is raw; an internal snapshot needs qcow2 on every disk") as caught:
        world.save("mixed", snapshot="internal")
    assert "hda" not in str(caught.value)
    assert snapshots(world, "mixed") == []


def test_after_an_external_snapshot_the_whole_chain_is_known(world: World) -> None:
    raw = world.disk("outer", form="raw")
    world.define("outer", start=False, disks=disk_xml(raw))
    done = world.save("outer", snapshot="external", copy=True)
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    files = [one["path"] for one in done["result"]["chains"]["outer"][0]["files"]]
    assert len(files) == 2
    assert files[1] == str(raw), "the frozen one is behind the new one"
    assert files[0] in world.domain("outer", lambda one: one.XMLDesc(2))
    assert len(artefacts(done, "disk")) == 2
    assert files[0] in Path(artefacts(done, "definition")[0]["path"]).read_text(), "the definition fits the chain"
    assert world.save("outer", snapshot="external", copy=True)["changed"] is False


def test_kinds_of_snapshots_are_never_mixed(world: World) -> None:
    """libvirt before 11 has deleted the disk that held an internal snapshot."""
    world.define("own", start=False, form="qcow2")
    world.domain("own", lambda one: one.snapshotCreateXML("<domainsnapshot><name>mine</name></domainsnapshot>", 0))
    with pytest.raises(Refusal, match="own: it has internal snapshots; kinds that are mixed have lost disks"):
        world.save("own", snapshot="external")


def test_uefi_variables_are_kept_and_its_firmware_takes_no_internal_snapshot(world: World) -> None:
    variables = world.folder / "vars.fd"
    variables.write_bytes((OVMF / "OVMF_VARS.fd").read_bytes())
    os = f"<loader readonly='yes' type='pflash'>{OVMF}/OVMF_CODE.fd</loader><nvram>{variables}</nvram>"
    world.define("uefi", start=False, form="qcow2", os=os)
    with pytest.raises(Refusal, match="uefi: it starts from UEFI firmware"):
        world.save("uefi", snapshot="internal")
    done = world.save("uefi")
    kept = artefacts(done, "nvram")[0]
    assert Path(kept["path"]).read_bytes() == variables.read_bytes()
    assert kept["plain_sha256"] == hashlib.sha256(variables.read_bytes()).hexdigest()


def test_a_disk_over_the_network_is_recorded_and_refused_for_a_copy(world: World) -> None:
    remote = (
        "<disk type='network'><driver name='qemu' type='raw'/><source protocol='rbd' name='pool/image'><host name='ceph1'/></source>"
        "<target dev='hda' bus='ide'/></disk>"
    )
    world.define("remote", start=False, disks=remote)
    with pytest.raises(Refusal, match="remote: its disk hda .rbd:pool/image. is of the type network"):
        world.save("remote", copy=True)
    assert world.save("remote")["evidence"]["verdict"] == "yes"


def test_a_raw_disk_is_never_taken_for_what_its_guest_wrote_into_it(world: World) -> None:
    """A guest could write a qcow2 header with any file of the host behind it into its raw disk."""
    trap = world.disk("trap", form="raw")
    secret = world.folder / "secret"
    secret.write_text("not for you")
    crafted = world.folder / "crafted.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", str(secret), "-F", "raw", str(crafted), "1M")
    trap.write_bytes(crafted.read_bytes())
    world.define("trap", start=False, disks=disk_xml(trap))
    done = world.save("trap", copy=True)
    assert [one["path"] for one in done["result"]["chains"]["trap"][0]["files"]] == [str(trap)]


@pytest.mark.parametrize("fault", ["gone", "circle", "unknown format"])
def test_a_chain_that_is_not_known_to_its_end_is_refused(world: World, fault: str) -> None:
    name = fault.replace(" ", "-")
    base, top = world.disk(f"{name}-base", form="qcow2"), world.folder / f"{name}-top.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "qcow2", str(top))
    if fault == "gone":
        base.unlink()
    elif fault == "circle":
        run("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", str(top), "-F", "qcow2", str(base))
    else:
        text = top.read_bytes()
        top.write_bytes(text.replace(b"\xe2\x79\x2a\xca", b"\xe2\x79\x2a\xcb", 1))
    world.define(name, start=False, disks=disk_xml(top))
    with pytest.raises(Refusal, match=f"{name}: the files of its disk hda are not all known"):
        world.save(name, copy=True)


def test_nothing_is_ever_undefined(world: World) -> None:
    """[community.libvirt 40, 159, fixed 136] [community.libvirt 40, 159] snapshots, UEFI variables and managed saves make that a trap; it is no business of ours."""
    plugins = Path(__file__).parents[2] / "plugins"
    sources = [*plugins.rglob("libvirt_*.py"), *(plugins / "plugin_utils/libvirt").glob("*.py")]
    assert len(sources) > 6
    assert not [path for path in sources if ".undefine" in path.read_text(encoding="utf-8")]
    with world.admin() as connection:
        assert {one.name() for one in connection.listAllDomains()} >= {"inner", "outer", "uefi", "own"}


def test_what_runs_is_not_saved_and_hostile_names_bend_no_path(world: World) -> None:
    name = "..\u00e4 $(id)'\"x"
    key = world.define(name.replace("'", "&apos;").replace('"', "&quot;"), start=False, form="qcow2")
    done = world.save(name, copy=True)
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    assert {str(Path(one["path"]).parent) for one in done["result"]["artefacts"]} == {world.staging}
    world.domain(name, lambda one: one.create())
    world.running(key)
    with pytest.raises(Refusal, match="still runs; what is saved of a running guest is torn"):
        world.save(name)
    assert world.save(name, check=True)["changed"] in (True, False)


def test_a_guest_that_is_started_while_it_is_copied_spoils_the_copy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.define("racing", start=False)
    copy = libvirt_disks.copy

    def racing(*arguments: Any, **rest: Any) -> dict[str, Any]:
        done = copy(*arguments, **rest)
        world.domain("racing", lambda one: one.create())
        time.sleep(0.2)
        return done

    monkeypatch.setattr(libvirt_disks, "copy", racing)
    done = world.save("racing", copy=True)
    assert (done["failed"], done["evidence"]["verdict"]) == (True, "no")
    assert "racing was started or its disks were changed while it was saved" in done["msg"]


def test_a_block_device_is_copied_whole(world: World) -> None:
    """As an LVM volume is: by a loop device of our own."""
    backing = world.disk("block", form="raw", size=2 << 20)
    device = run("losetup", "--find", "--show", str(backing)).strip()
    try:
        world.define("block", start=False, disks=disk_xml(Path(device), form="raw", kind="block"))
        done = world.save("block", copy=True)
        assert artefacts(done, "disk")[0]["plain_bytes"] == 2 << 20
        assert artefacts(done, "disk")[0]["plain_sha256"] == hashlib.sha256(backing.read_bytes()).hexdigest()
        with pytest.raises(libvirt.libvirtError):
            world.domain("block", lambda one: one.snapshotLookupByName("none"))
    finally:
        run("losetup", "--detach", device)


def test_a_kernel_on_the_host_is_copied_with_the_guest_that_is_started_from_it(world: World) -> None:
    """Direct boot: without these two files the copies of the disks do not start."""
    kernel, initrd = world.folder / "disks/vmlinuz", world.folder / "disks/initrd"
    kernel.write_bytes(b"kernel" * 1000)
    initrd.write_bytes(b"initrd" * 1000)
    world.define("direct", start=False, os=f"<kernel>{kernel}</kernel><initrd>{initrd}</initrd>")
    done = world.save("direct", copy=True)
    assert done["evidence"]["verdict"] == "yes", done.get("msg")
    disks = done["result"]["source"]["guests"]["direct"]["disks"]
    copies = {disks[one["name"]]: gzip.decompress(Path(one["path"]).read_bytes()) for one in artefacts(done, "disk")}
    assert (copies[str(kernel)], copies[str(initrd)], len(copies)) == (kernel.read_bytes(), initrd.read_bytes(), 3)
    assert world.save("direct", copy=True)["changed"] is False
    # A new kernel is another state.
    kernel.write_bytes(b"newer" * 1000)
    assert world.save("direct", copy=True)["changed"] is True
