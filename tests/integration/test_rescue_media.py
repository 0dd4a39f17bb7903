# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rescue that is booted from a virtual medium, without a boot: a real image is made and read, the controllers are sushy-emulator as it
is and one that lies, and what the machine would then run is worked out from what it was told. tests/full boots one for real."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ansible_collections.sunset.crm.plugins.action import rescue_boot
from ansible_collections.sunset.crm.plugins.module_utils._canonical import digest
from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.power import booting, witness
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.rescue import medium as rescue_medium, rescue, restart as rescue_restart
from tests.integration import controller_stand as stand
from tests.integration.ports import free_port
from tests.integration.redfish_fake import Bmc, certificates

UUID = "11111111-2222-3333-4444-555555555555"
ITEM, MACHINE = "host:h", "5ad0c0de5ad0c0de5ad0c0de5ad0c0de"
HARDWARE = {"board": {"uuid": UUID}, "macs": ["52:54:00:00:00:01"]}
USUAL = {"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Hdd"}


# --- the image


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("parts")
    (folder / "vmlinuz").write_bytes(b"kernel" * 9999)
    (folder / "rescue.cpio").write_bytes(b"archive" * 99999)
    return {"kernel": folder / "vmlinuz", "archive": folder / "rescue.cpio"}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_image_starts_on_both_kinds_of_firmware_and_holds_kernel_archive_and_menu(parts: dict[str, Path], tmp_path: Path) -> None:
    packed, kernel = tmp_path / "rescue.img", tmp_path / "vmlinuz"
    rescue_medium.fetched(relay.here(), str(parts["kernel"]), sha256(parts["kernel"]), kernel)
    size = rescue_medium.fetched(relay.here(), str(parts["archive"]), sha256(parts["archive"]), packed, packed=True)
    assert size == packed.stat().st_size < parts["archive"].stat().st_size and packed.stat().st_mode & 0o777 == 0o600
    image = tmp_path / "rescue.iso"
    made = rescue_medium.iso(kernel, packed, "console=ttyS0 rdinit=/init", "bios", image)
    assert made["starts"] == ["BIOS", "UEFI"] and made["sha256"] == sha256(image) and image.stat().st_mode & 0o777 == 0o600
    # A reader of its own: what the image holds, and that it is a hybrid one which a stick could carry, too.
    out = tmp_path / "out"
    subprocess.run(["xorriso", "-osirrox", "on", "-indev", str(image), "-extract", "/", str(out)], check=True, capture_output=True)
    assert (out / "boot/vmlinuz").read_bytes() == parts["kernel"].read_bytes()
    assert gzip.decompress((out / "boot/rescue.img").read_bytes()) == parts["archive"].read_bytes()
    menu = (out / "boot/grub/grub.cfg").read_text()
    assert "linux /boot/vmlinuz 'console=ttyS0' 'rdinit=/init'" in menu and "timeout=0" in menu
    assert image.read_bytes()[510:512] == b"\x55\xaa"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "rescue.img", "rescue.iso", "vmlinuz"]


def test_a_file_that_is_not_what_was_built_is_refused(parts: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="arrived with another digest"):
        rescue_medium.fetched(relay.here(), str(parts["kernel"]), "0" * 64, tmp_path / "x")
    with pytest.raises(Refusal, match="No such file"):
        rescue_medium.fetched(relay.here(), "/nowhere/vmlinuz", "0" * 64, tmp_path / "x")


def test_a_loader_that_this_firmware_cannot_start_is_told_before_anything_is_booted(
    parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for source, name in ((parts["kernel"], "vmlinuz"), (parts["archive"], "rescue.img")):
        (tmp_path / name).write_bytes(source.read_bytes())
    monkeypatch.setattr(rescue_medium, "started_by", lambda report: ["BIOS"])
    with pytest.raises(Refusal, match="starts on BIOS, and this host starts by UEFI: the control node lacks grub-efi-amd64-bin"):
        rescue_medium.iso(tmp_path / "vmlinuz", tmp_path / "rescue.img", "", "uefi", tmp_path / "rescue.iso")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Refusal, match="apt install grub-common"):
        rescue_medium.iso(tmp_path / "vmlinuz", tmp_path / "rescue.img", "", "bios", tmp_path / "rescue.iso")


# --- the way there and back


class Host:
    """What a machine runs, as its controller's fake and its requests make it. Its old system runs first."""

    def __init__(self, bmc: Bmc, folder: Path, parts: dict[str, Path]) -> None:
        self.bmc, self.parts, self.runs, self.obeys, self.uuid, self.boots = bmc, parts, "old", True, UUID, True
        self.estate = Estate.at(folder / "estate")
        self.readers: list[dict[str, int]] = []
        bmc.machine.reset = self.reset

    def reset(self, kind: str) -> None:
        """Its firmware: from the medium, if it is told so and the medium can still be read."""
        assert (kind, self.bmc.machine.state) == ("On", "Off"), "it is switched on once, and nothing else is sent"
        self.bmc.machine.state = "On"
        target = self.bmc.boot["BootSourceOverrideTarget"] if self.bmc.boot["BootSourceOverrideEnabled"] != "Disabled" else ""
        there = {"Cd": lambda: self.bmc.medium["Inserted"] and self.reads(), "Pxe": self.served}.get(target, lambda: False)
        self.runs = "rescue" if self.boots and there() else "old"

    def served(self) -> bool:
        """What a boot server has for this machine."""
        place = self.estate.root.parent / "tftp/h"
        if not place.is_dir():
            return False
        packed = gzip.decompress((place / "rescue.img").read_bytes())
        assert packed == self.parts["archive"].read_bytes() and (place / "arguments").read_text() == "rdinit=/init\n"
        return (place / "vmlinuz").read_bytes() == self.parts["kernel"].read_bytes()

    def reads(self) -> bool:
        where = urlsplit(self.bmc.medium["Image"])
        line = http.client.HTTPConnection(str(where.hostname), where.port or 80, timeout=30)
        with contextlib.closing(line):
            line.request("GET", where.path, headers={"Range": "bytes=32768-34815"})
            answer = line.getresponse()
            return answer.status == 206 and answer.read()[1:6] == b"CD001"

    def asked_to_end(self) -> dict[str, Any]:
        if self.obeys:
            self.bmc.machine.state, self.runs = "Off", ""
        return {"rc": 0, "stderr": ""}

    def looked_at(self, marker: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        if self.runs != "rescue":
            return None, "Host key verification failed." if self.runs == "old" else "Connection refused"
        hardware = {**HARDWARE, "board": {"uuid": self.uuid}}
        told = {**marker, "machine_id": MACHINE, "former_boot_id": "old", "hardware": HARDWARE}
        return {
            "marker": told, "machine_id": MACHINE, "boot_id": "new", "root": "rootfs", "mounted_from_disks": [], "swap": [], "disks": [],
            "kernel": "6.1", "python": "/usr/bin/python3", **hardware,
        }, ""  # fmt: skip

    def built(self) -> dict[str, Any]:
        result = {
            "state": "built", "boot_id": "old", "machine_id": MACHINE, "python": "/usr/bin/python3", "firmware": "bios",
            "image": {"path": str(self.parts["archive"]), "sha256": sha256(self.parts["archive"]), "bytes": 1, "entries": 1},
            "kernel": {"path": str(self.parts["kernel"]), "sha256": sha256(self.parts["kernel"])}, "arguments": "rdinit=/init",
        }  # fmt: skip
        evidence = {"before": {}, "actions": [{"did": "built"}], "after": {}, "tools": {}, "verdict": "yes", "result": result}
        return {"evidence": evidence, "evidence_sha256": digest(evidence), "changed": True}


class Connection:
    transport = "local"
    become = None

    def get_option(self, name: str) -> None:
        return None

    def reset(self) -> None:
        pass


class Rescue(rescue_boot.ActionModule):
    """The verb without gate and ledger, on a host that is made up."""

    name = "rescue_boot"

    def __init__(self, host: Host) -> None:
        self._host, self._machine, self._connection = host, MACHINE, Connection()

    def _module(self, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        # The host's own files and keys, and nothing of the controller, are the module's business.
        assert args["host_key"].startswith("-----BEGIN OPENSSH PRIVATE KEY")
        return self._host.built()

    def _ask(self, line: str) -> dict[str, Any]:
        return self._host.asked_to_end()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("media")
    stand.credentials(made)
    return made


@pytest.fixture(scope="module")
def tls(place: Path) -> dict[str, str]:
    return certificates(place / "tls")


@pytest.fixture
def bmc(tls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bmc]:
    for name, value in (("POLL", 0.05), ("SETTLE", 0.05)):
        monkeypatch.setattr(rescue_restart, name, value)
    monkeypatch.setattr(witness, "AGAIN", 0.05)
    monkeypatch.setattr(rescue, "POLL", 0.05)
    made = Bmc(password=stand.PASSWORD, boot=dict(USUAL)).start(tls)
    yield made
    made.stop()


@pytest.fixture
def host(bmc: Bmc, tmp_path: Path, parts: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host(bmc, tmp_path, parts)

    @contextlib.contextmanager
    def way_in(_connection: Any, keys: rescue.Keys) -> Iterator[Any]:
        yield keys.marker(ITEM)

    monkeypatch.setattr(rescue, "way_in", way_in)
    monkeypatch.setattr(rescue, "look", lambda marker, timeout=0: made.looked_at(marker))
    return made


def play(host: Host, tls: dict[str, str], place: Path, timeout: float = 2, **boot: Any) -> dict[str, Any]:
    seen = {
        "kind": "redfish", "address": host.bmc.address, "credentials": str(place / "credentials"), "ca_file": tls["ca"], "uuid": UUID,
        "timeout": 20,
    }  # fmt: skip
    boot = boot or {"way": "media", "serve": f"127.0.0.1:{free_port()}"}
    way = {"media": "virtual_media", "pxe": "pxe"}[boot["way"]]
    args = {"item": ITEM, "way": way, "timeout": timeout, "witness": seen, "board": {}, "boot": boot}
    try:
        return Rescue(host).perform(args, {"sunset_estate_dir": str(host.estate.root)}, False)
    except Refusal as exc:
        return {"failed": True, "msg": str(exc)}


def acts(bmc: Bmc) -> list[str]:
    """What the controller was asked for, in order."""
    words = {"InsertMedia": "in", "EjectMedia": "out", "Reset": "reset"}
    return [
        words.get(path.rpartition(".")[2], body.get("Boot", {}).get("BootSourceOverrideTarget", "?") if body else "?")
        for method, path, body in bmc.log
        if method in ("POST", "PATCH") and "Sessions" not in path
    ]


def as_before(host: Host) -> bool:
    left = [path.name for path in (host.estate.root / "secrets").iterdir() if path.suffix == ".medium"]
    return host.bmc.boot == USUAL and host.bmc.medium["Inserted"] is False and not host.bmc.sessions and not left


def test_it_is_told_goes_off_comes_back_as_its_rescue_and_the_controller_is_as_before(
    host: Host, bmc: Bmc, tls: dict[str, str], place: Path
) -> None:
    done = play(host, tls, place)
    assert (done["changed"], done["evidence"]["verdict"]) == (True, "yes"), done.get("msg")
    assert acts(bmc) == ["in", "Cd", "reset", "out", "Hdd"] and as_before(host)
    result = done["result"]
    assert result["state"] == "entered" and result["boot"]["former"] == {"target": "Hdd", "enabled": "Continuous"}
    assert result["boot"]["set"]["target"] == "Cd" and result["boot"]["set"]["inserted"] is True
    assert (result["boot"]["put_back"]["target"], result["boot"]["put_back"]["inserted"]) == ("Hdd", False)
    assert result["boot"]["off"]["power"] == "off"
    assert [one["did"] for one in done["evidence"]["actions"]][-1] == "gave out the medium"
    assert done["connection"]["private_key_file"].endswith("rescue-h.login")
    # No key stands in the evidence, and the address of the medium is no longer of use to anybody.
    assert "PRIVATE KEY" not in json.dumps(done)
    again = play(host, tls, place)
    assert (again["changed"], again["evidence"]["verdict"], acts(bmc)) == (False, "yes", ["in", "Cd", "reset", "out", "Hdd"])


def test_published_by_somebody_elses_server(host: Host, bmc: Bmc, tls: dict[str, str], place: Path, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    seen: list[str] = []
    host.reads = lambda: seen.append(bmc.medium["Image"]) or (tmp_path / "web" / seen[-1].rpartition("/")[2]).is_file()  # type: ignore[method-assign,func-returns-value]
    done = play(host, tls, place, way="media", publish=str(tmp_path / "web"), url="https://images.example/r")
    assert done["evidence"]["verdict"] == "yes" and as_before(host) and not list((tmp_path / "web").iterdir())
    assert seen[0].startswith("https://images.example/r/") and len(seen[0].rpartition("/")[2]) == 36


def test_from_the_network_by_somebody_elses_boot_server(host: Host, bmc: Bmc, tls: dict[str, str], place: Path, tmp_path: Path) -> None:
    (tmp_path / "tftp").mkdir()
    done = play(host, tls, place, way="pxe", publish=str(tmp_path / "tftp"))
    assert done["evidence"]["verdict"] == "yes" and host.runs == "rescue", done.get("msg")
    assert acts(bmc) == ["Pxe", "reset", "Hdd"] and as_before(host) and not list((tmp_path / "tftp").iterdir())


def test_a_folder_that_is_not_there_is_named_before_anything_is_asked(host: Host, bmc: Bmc, tls: dict[str, str], place: Path) -> None:
    done = play(host, tls, place, way="pxe", publish="/nowhere/tftp")
    assert done["failed"] and "/nowhere/tftp" in done["msg"] and "It runs on as before" in done["msg"] and acts(bmc) == []


def test_a_controller_that_takes_the_override_and_does_not_keep_it_leaves_the_host_running(
    host: Host, bmc: Bmc, tls: dict[str, str], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bmc, "boot", type("Deaf", (dict,), {"update": lambda self, other: None})(USUAL))
    done = play(host, tls, place)
    assert done["failed"] and "took the request and does not show it" in done["msg"] and "is as it was before" in done["msg"]
    assert host.runs == "old" and "reset" not in acts(bmc) and as_before(host)


def test_a_medium_of_somebody_else_stays_where_it_is_and_the_host_runs_on(host: Host, bmc: Bmc, tls: dict[str, str], place: Path) -> None:
    bmc.medium.update(Image="http://192.0.2.1/other.iso", Inserted=True)
    done = play(host, tls, place)
    assert done["failed"] and "holds http://192.0.2.1/other.iso" in done["msg"]
    assert host.runs == "old" and bmc.medium["Inserted"] is True and acts(bmc) == []


def test_the_controller_of_another_machine_is_asked_for_nothing(host: Host, bmc: Bmc, tls: dict[str, str], place: Path) -> None:
    bmc.uuid = UUID.replace("1", "2")
    done = play(host, tls, place)
    assert done["failed"] and "nothing shows that the controller is that of this host" in done["msg"] and acts(bmc) == []


def test_a_host_that_does_not_go_off_is_not_forced(host: Host, bmc: Bmc, tls: dict[str, str], place: Path) -> None:
    host.obeys = False
    done = play(host, tls, place, timeout=0.3)
    assert done["failed"] and "it is on 0.3 s after it was asked to power off" in done["msg"] and "Nothing was forced" in done["msg"]
    assert acts(bmc) == ["in", "Cd", "out", "Hdd"] and as_before(host) and host.runs == "old"


def test_one_that_cannot_be_switched_on_again_is_told(host: Host, bmc: Bmc, tls: dict[str, str], place: Path) -> None:
    bmc.offers = ["ForceOff"]
    done = play(host, tls, place)
    assert done["failed"] and "it is off, and could not be switched on" in done["msg"] and "it starts its old system" in done["msg"]
    assert as_before(host) and "reset" not in acts(bmc)


def test_firmware_that_boots_the_old_system_all_the_same_is_told_at_once(host: Host, bmc: Bmc, tls: dict[str, str], place: Path) -> None:
    host.boots = False
    done = play(host, tls, place, timeout=300)
    assert done["failed"] and "another system answered" in done["msg"] and "It is left on; its disks were not touched" in done["msg"]
    assert (done["evidence"]["verdict"], done["result"]["state"]) == ("unknown", "lost") and as_before(host) and host.runs == "old"


def test_another_machine_that_boots_it_is_not_taken_for_this_one(host: Host, tls: dict[str, str], place: Path) -> None:
    host.uuid = UUID.replace("1", "2")
    done = play(host, tls, place)
    assert done["failed"] and "nothing shows that it is the same machine" in done["msg"] and as_before(host)


def test_a_controller_that_cannot_be_put_back_keeps_the_wipe_from_beginning(host: Host, bmc: Bmc, tls: dict[str, str], place: Path) -> None:
    bmc.cut = lambda method, path: path.endswith("EjectMedia")
    done = play(host, tls, place)
    assert done["failed"] and "was not put back" in done["msg"] and "It stays up" in done["msg"] and host.runs == "rescue"
    # The same command again: the rescue is there, and what was left is made good.
    bmc.cut = lambda method, path: False
    again = play(host, tls, place)
    assert again["evidence"]["verdict"] == "yes" and again["changed"] is True and as_before(host), again.get("msg")
    assert acts(bmc).count("reset") == 1


@pytest.mark.parametrize("after", ["in", "Cd", "off", "reset"])
def test_killed_at_any_point_the_next_run_ends_in_the_same_state(
    host: Host, bmc: Bmc, tls: dict[str, str], place: Path, after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    boot = {"way": "media", "serve": f"127.0.0.1:{port}"}

    class Killed(BaseException):
        pass

    def die(*_args: Any, **_more: Any) -> Any:
        raise Killed

    victims = {
        "in": (booting, "set_for"),
        "Cd": (rescue_restart.Restart, "off"),
        "off": (rescue_restart.Restart, "on"),
        "reset": (rescue, "wait"),
    }
    with monkeypatch.context() as patched:
        patched.setattr(*victims[after], die)
        with pytest.raises(Killed):
            play(host, tls, place, **boot)
    if after == "off":
        # The step before this one switches a host on that is off; with its server gone the medium cannot be read.
        host.runs, bmc.machine.state = "old", "On"
    done = play(host, tls, place, **boot)
    assert done["evidence"]["verdict"] == "yes" and as_before(host), done.get("msg")
    assert host.runs == "rescue" and acts(bmc).count("in") <= 2
    noted = [entry.record["former"] for entry in ledger.read(host.estate.ledger_file)]
    assert noted and all(one == {"target": "Hdd", "enabled": "Continuous"} for one in noted)


def test_sushy_emulator_takes_the_medium_that_the_control_node_makes_and_gives_it_back(
    place: Path, tls: dict[str, str], tmp_path: Path, parts: dict[str, Path]
) -> None:
    """The emulator fetches the whole of it when it is inserted, and does not honour Once."""
    port, serve = free_port(), f"127.0.0.1:{free_port()}"
    config = stand.redfish(place, port, tls, FAKE_DRIVER=True, FAKE_SYSTEMS=[{"uuid": UUID, "name": "one", "power_state": "On"}])
    seen = {
        "kind": "redfish", "address": f"https://127.0.0.1:{port}", "credentials": str(place / "credentials"), "auth": "basic",
        "ca_file": tls["ca"], "uuid": UUID,
    }  # fmt: skip
    (tmp_path / "vmlinuz").write_bytes(parts["kernel"].read_bytes())
    (tmp_path / "rescue.img").write_bytes(parts["archive"].read_bytes())
    image = tmp_path / "rescue.iso"
    rescue_medium.iso(tmp_path / "vmlinuz", tmp_path / "rescue.img", "rdinit=/init", "bios", image)
    boot = booting.addressed({"way": "media", "serve": serve}, "token")
    notes: list[dict[str, Any]] = []
    account = rescue_boot.Account("rescue_boot", ITEM)
    restart = rescue_restart.Restart(ITEM, seen, {}, boot, account, {}, notes.append)
    with stand.running("emulator", place, **config), rescue_medium.given_out(boot, "token", "h", {"iso": image}) as readers:
        restart.aim()
        assert readers == {"127.0.0.1": image.stat().st_size}
        assert (restart.readings["set"]["target"], restart.readings["set"]["image"]) == ("Cd", boot["image"])
        assert restart.back() == "" and restart.readings["put_back"]["inserted"] is False
        assert restart.readings["put_back"]["target"] == notes[0]["target"] != "Cd"
        assert restart.back() == ""
