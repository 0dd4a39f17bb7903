# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""host_boot: virtual media and boot override, set, read back and put back; sushy-emulator as it is, and controllers that lie."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.action import host_boot
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.power import witness
from tests.integration import controller_stand as stand
from tests.integration.ports import free_port
from tests.integration.redfish_fake import SYSTEM, Bmc, certificates

IMAGE = "http://127.0.0.1:1/rescue.iso"
MEDIA, PXE = {"way": "media", "image": IMAGE}, {"way": "pxe"}
UUID = "11111111-2222-3333-4444-555555555555"


class Boot(host_boot.ActionModule):
    """The verb without gate and ledger."""

    name = "host_boot"

    def __init__(self) -> None:
        pass


def play(state: str, seen: Any, check: bool = False, **options: Any) -> dict[str, Any]:
    try:
        done: dict[str, Any] = Boot().perform({"item": "host:h", "state": state, "witness": seen, **options}, {}, check)
    except Refusal as exc:
        return {"failed": True, "changed": False, "msg": str(exc), "result": {}, "evidence": {"verdict": "refused"}}
    return done


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("boot")
    stand.credentials(made)
    return made


@pytest.fixture(scope="module")
def tls(place: Path) -> dict[str, str]:
    return certificates(place / "tls")


@pytest.fixture
def bmc(tls: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Bmc]:
    monkeypatch.setattr(witness, "AGAIN", 0.05)
    made = Bmc(password=stand.PASSWORD, once=True).start(tls)
    made.machine.state = "Off"
    yield made
    made.stop()


@pytest.fixture
def seen(bmc: Bmc, tls: dict[str, str], place: Path) -> dict[str, Any]:
    return {
        "kind": "redfish", "address": bmc.address, "credentials": str(place / "credentials"), "ca_file": tls["ca"], "uuid": UUID, "timeout": 20,
    }  # fmt: skip


def changes(bmc: Bmc) -> list[str]:
    return [path.rpartition("/")[2] for method, path, _body in bmc.log if method in ("POST", "PATCH") and "Sessions" not in path]


@pytest.mark.parametrize("once", [True, False])
def test_check_real_check_real_and_back(bmc: Bmc, seen: dict[str, Any], once: bool) -> None:
    bmc.once = once
    dry = play("rescue", seen, check=True, boot=MEDIA)
    assert (dry["changed"], changes(bmc)) == (True, [])
    done = play("rescue", seen, boot=MEDIA)
    result = done["result"]
    assert (done["changed"], done["evidence"]["verdict"]) == (True, "yes"), done.get("msg")
    # A controller that keeps it for ever is told from one that honours it.
    assert (result["target"], result["once"], result["image"]) == ("Cd", "yes" if once else "no", IMAGE)
    assert result["former"] == {"target": "None", "enabled": "Disabled"}
    assert play("rescue", seen, check=True, boot=MEDIA)["changed"] is False
    assert play("rescue", seen, boot=MEDIA)["changed"] is False
    assert changes(bmc) == ["VirtualMedia.InsertMedia", "1"]

    assert play("usual", seen, check=True, boot=MEDIA, former=result["former"])["changed"] is True
    back = play("usual", seen, boot=MEDIA, former=result["former"])
    assert (back["changed"], back["evidence"]["verdict"]) == (True, "yes"), back.get("msg")
    assert (bmc.medium["Inserted"], bmc.boot["BootSourceOverrideEnabled"], bmc.sessions) == (False, "Disabled", {})
    assert play("usual", seen, boot=MEDIA, former=result["former"])["changed"] is False
    assert bmc.posts() == [], "it neither switches on nor off"


def test_a_former_override_is_put_back_as_it_was(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.boot = {"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Hdd"}
    former = play("rescue", seen, boot=PXE)["result"]["former"]
    assert (former, bmc.boot["BootSourceOverrideTarget"]) == ({"target": "Hdd", "enabled": "Continuous"}, "Pxe")
    assert play("usual", seen, boot=PXE, former=former)["evidence"]["verdict"] == "yes"
    assert bmc.boot == {"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Hdd"}


def test_killed_between_medium_and_override_it_goes_on(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.cut = lambda method, path: method == "PATCH"
    done = play("rescue", seen, boot=MEDIA)
    assert "gave no answer when it was told what to boot from" in done["msg"]
    bmc.cut = lambda method, path: False
    bmc.boot = {"BootSourceOverrideEnabled": "Disabled", "BootSourceOverrideTarget": "None"}
    assert play("rescue", seen, boot=MEDIA)["evidence"]["verdict"] == "yes"
    assert changes(bmc).count("VirtualMedia.InsertMedia") == 1


def test_killed_after_it_was_set_the_second_run_keeps_the_first_former_state(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.boot = {"BootSourceOverrideEnabled": "Continuous", "BootSourceOverrideTarget": "Hdd"}
    former = play("rescue", seen, boot=MEDIA)["result"]["former"]
    assert play("rescue", seen, boot=MEDIA, former=former)["result"]["former"] == {"target": "Hdd", "enabled": "Continuous"}


def test_a_medium_that_is_not_ours_is_left_alone(bmc: Bmc, seen: dict[str, Any]) -> None:
    bmc.medium.update(Image="http://192.0.2.1/other.iso", Inserted=True)
    assert "holds http://192.0.2.1/other.iso, which nobody here put in" in play("rescue", seen, boot=MEDIA)["msg"]
    assert play("usual", seen, boot=MEDIA)["changed"] is False
    assert bmc.medium["Inserted"] is True


def test_a_controller_that_accepts_and_does_nothing_is_told(bmc: Bmc, seen: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bmc, "boot", type("Deaf", (dict,), {"update": lambda self, other: None})(bmc.boot))
    done = play("rescue", seen, boot=PXE)
    assert (done["failed"], done["evidence"]["verdict"]) == (True, "no")
    assert "read back was target None, Disabled" in done["msg"]


def test_the_controller_of_nobody_knows_which_machine_is_refused(bmc: Bmc, seen: dict[str, Any]) -> None:
    unknown = {key: value for key, value in seen.items() if key != "uuid"}
    assert "nothing shows that the controller is that of this host" in play("rescue", unknown, boot=PXE)["msg"]
    assert play("rescue", unknown, boot=PXE, board={"uuid": UUID})["evidence"]["verdict"] == "yes"
    assert "nothing shows" in play("rescue", {**seen, "uuid": UUID.replace("1", "2")}, boot=PXE)["msg"]


@pytest.mark.parametrize(
    ("boot", "message"),
    [
        ({}, "the way None"),
        ({"way": "usb"}, "the way 'usb'"),
        ({"way": "media"}, "needs one of image"),
        ({"way": "media", "image": "/srv/x.iso"}, "begins with http:// or https://"),
        ({"way": "pxe", "else": 1}, "does not know else"),
    ],
)
def test_a_wrong_description_is_one_clear_message(bmc: Bmc, seen: dict[str, Any], boot: dict[str, Any], message: str) -> None:
    assert message in play("rescue", seen, boot=boot)["msg"]
    assert bmc.log == []


def test_a_host_without_a_controller_is_refused() -> None:
    assert "has no management controller" in play("rescue", {"kind": "silence", "address": "192.0.2.1"}, boot=PXE)["msg"]


def test_sushy_emulator_boots_from_the_network_and_back(place: Path, tls: dict[str, str]) -> None:
    """It does not honour Once: what is read back is told, and put back."""
    port = free_port()
    config = stand.redfish(place, port, tls)
    seen = {
        "kind": "redfish", "address": f"https://127.0.0.1:{port}", "credentials": str(place / "credentials"), "auth": "basic",
        "ca_file": tls["ca"],
    }  # fmt: skip
    with stand.running("emulator", place, **config, libvirt="test:///default"):
        board = {"uuid": witness.read(seen)["detail"]["uuid"]}
        done = play("rescue", seen, boot=PXE, board=board)
        assert (done["evidence"]["verdict"], done["result"]["target"]) == ("yes", "Pxe"), done.get("msg")
        assert done["result"]["once"] == "no"
        former = done["result"]["former"]
        assert former["target"] not in (None, "Pxe")
        back = play("usual", seen, boot=PXE, board=board, former=former)
        assert (back["evidence"]["verdict"], back["result"]["target"]) == ("yes", former["target"]), back.get("msg")
        assert play("usual", seen, boot=PXE, board=board, former=former)["changed"] is False


def test_sushy_emulator_takes_a_medium_and_gives_it_back(place: Path, tls: dict[str, str], tmp_path: Path) -> None:
    """The emulator fetches the medium itself, as a controller does."""
    (tmp_path / "rescue.iso").write_bytes(bytes(40960))
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=served.serve_forever, daemon=True).start()
    boot = {"way": "media", "image": f"http://127.0.0.1:{served.server_address[1]}/rescue.iso"}
    port = free_port()
    machine = {"uuid": UUID, "name": "one", "power_state": "Off"}
    config = stand.redfish(place, port, tls, FAKE_DRIVER=True, FAKE_SYSTEMS=[machine])
    seen = {
        "kind": "redfish", "address": f"https://127.0.0.1:{port}", "credentials": str(place / "credentials"), "auth": "basic",
        "ca_file": tls["ca"], "uuid": UUID,
    }  # fmt: skip
    try:
        with stand.running("emulator", place, **config):
            done = play("rescue", seen, boot=boot)
            assert (done["evidence"]["verdict"], done["result"]["image"], done["result"]["inserted"]) == ("yes", boot["image"], True)
            assert play("rescue", seen, boot=boot)["changed"] is False
            former = done["result"]["former"]
            back = play("usual", seen, boot=boot, former=former)
            assert (back["evidence"]["verdict"], back["result"]["inserted"], back["result"]["target"]) == ("yes", False, former["target"])
            assert play("usual", seen, boot=boot, former=former)["changed"] is False
    finally:
        served.shutdown()


def test_ipmi_boots_from_the_network_and_back(place: Path) -> None:
    port = free_port()
    state, log = place / "state.json", place / "log"
    state.write_text(json.dumps({"power": "off", "obey": [], "policy": 0, "guid": UUID}))
    seen = {"kind": "ipmi", "address": "127.0.0.1", "port": port, "credentials": str(place / "credentials"), "uuid": UUID}
    with stand.running("ipmi", place, port=port, state=str(state), log=str(log)):
        assert play("rescue", seen, check=True, boot=PXE)["changed"] is True
        done = play("rescue", seen, boot=PXE)
        assert (done["evidence"]["verdict"], done["result"]["target"]) == ("yes", "network"), done.get("msg")
        assert play("rescue", seen, boot=PXE)["changed"] is False
        assert "has no virtual drive" in play("rescue", seen, boot=MEDIA)["msg"]
        back = play("usual", seen, boot=PXE)
        assert (back["evidence"]["verdict"], back["result"]["target"]) == ("yes", "default"), back.get("msg")
        assert play("usual", seen, boot=PXE)["changed"] is False
        state.write_text(json.dumps({**json.loads(state.read_text()), "deaf": True}))
        assert "does not show it" in play("rescue", seen, boot=PXE)["msg"]


def test_the_system_that_is_read_is_the_one_that_is_set(bmc: Bmc, seen: dict[str, Any]) -> None:
    play("rescue", seen, boot=PXE)
    assert [path for method, path, _body in bmc.log if method == "PATCH"] == [SYSTEM]
