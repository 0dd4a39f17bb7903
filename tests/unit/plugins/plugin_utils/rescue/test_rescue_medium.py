# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A rescue that firmware starts: what the plan must say of it, how it is given out, and which machine it runs on."""

from __future__ import annotations

import http.client
import socket
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.planning import plan
from ansible_collections.sunset.crm.plugins.plugin_utils.power import booting
from ansible_collections.sunset.crm.plugins.plugin_utils.rescue import medium as rescue_medium, rescue
from ansible_collections.sunset.crm.plugins.plugin_utils.steps import filling
from tests.unit import builders

TOKEN = "t0ken"
SERVE = {"way": "media", "serve": "192.0.2.1:8080"}
REDFISH = {"kind": "redfish", "address": "192.0.2.9", "credentials": "/c", "fingerprint": "ab" * 32}


# --- what the inventory says


@pytest.mark.parametrize(
    ("boot", "word"),
    [
        ({"way": "media"}, "it has none"),
        ({"way": "media", "image": "http://h/x.iso", "serve": "h:1"}, "it has image, serve"),
        ({"way": "media", "publish": "/srv"}, "publish and url together"),
        ({"way": "media", "serve": "h:1", "url": "http://h/"}, "publish and url together"),
        ({"way": "media", "publish": "srv", "url": "http://h/"}, "as an absolute path"),
        ({"way": "media", "publish": "/srv", "url": "ftp://h/"}, "begins with http"),
        ({"way": "media", "image": "http:///x.iso"}, "begins with http"),
        ({"way": "media", "serve": "192.0.2.1"}, "expected ADDRESS:PORT"),
        ({"way": "media", "serve": "192.0.2.1:x"}, "expected ADDRESS:PORT"),
        ({"way": "media", "serve": "192.0.2.1:80/a"}, "expected ADDRESS:PORT"),
        ({"way": "pxe", "url": "http://h/"}, "does not know url with the way pxe"),
        ({"way": "floppy"}, "known are media, pxe"),
    ],
)
def test_a_wrong_way_of_giving_it_out_is_one_clear_message(boot: dict[str, Any], word: str) -> None:
    with pytest.raises(Refusal, match=word):
        booting.described(boot)


def test_the_address_of_the_medium_is_the_same_in_each_run_and_nobody_guesses_it() -> None:
    assert booting.addressed(SERVE, TOKEN)["image"] == "http://192.0.2.1:8080/t0ken/rescue.iso"
    published = booting.described({"way": "media", "publish": "/srv/x", "url": "https://h/x/"})
    assert booting.addressed(published, TOKEN)["image"] == "https://h/x/t0ken.iso"
    assert booting.addressed({"way": "pxe", "publish": "/srv/tftp"}, TOKEN) == {"way": "pxe", "publish": "/srv/tftp"}
    assert booting.addressed({"way": "media", "image": "http://h/own.iso"}, TOKEN)["image"] == "http://h/own.iso"
    assert booting.listening("[2001:db8::1]:80") == ("2001:db8::1", 80)


def within(way: str, boot: dict[str, Any] | None = None, power: Any = REDFISH) -> dict[str, Any]:
    data = builders.plan_data()
    builders.item_of(data, "medium:pgdata")["wipe"] = {"way": way, "host": "db1"}
    host = builders.item_of(data, "host:db1")
    host["expects"] = {**host["expects"], "power": power, **({"rescue_boot": boot} if boot else {})}
    return data


def test_a_plan_says_how_and_the_step_is_told() -> None:
    made = builders.make_plan(within("virtual_media", SERVE))
    assert made.rescue_way("db1") == "virtual_media" and made.rescue_way("app1") == ""
    assert [medium["id"] for medium in made.wiped_from_within("db1")] == ["medium:pgdata"]
    told = filling._rescue_boot(made.items["host:db1"], made, builders.Book(made).view(), "")
    assert (told["way"], told["witness"], told["boot"]) == ("virtual_media", REDFISH, SERVE)
    # By kexec nothing of a controller travels.
    plain = builders.make_plan(within("kexec"))
    assert set(filling._rescue_boot(plain.items["host:db1"], plain, builders.Book(plain).view(), "")) == {"services", "kernel_arguments"}
    builders.make_plan(within("pxe", {"way": "pxe", "publish": "/srv/tftp"}, {**REDFISH, "kind": "ipmi"}))


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (within("virtual_media"), "with way: media and serve, or publish and url"),
        (within("virtual_media", {"way": "pxe", "publish": "/srv"}), "with way: media"),
        (within("virtual_media", {"way": "media", "image": "http://h/own.iso"}), "carries no key to know it by"),
        (within("virtual_media", SERVE, {**REDFISH, "kind": "ipmi"}), "no witness of it is a controller of kind redfish"),
        (within("virtual_media", SERVE, {"kind": "silence", "address": "192.0.2.3"}), "is a controller of kind redfish"),
        (within("pxe", {"way": "pxe"}), "with way: pxe and publish"),
        (within("floppy"), "'floppy' \\(known: station, kexec, virtual_media, pxe, in-place\\)"),
    ],
)
def test_a_plan_that_could_not_be_carried_out_is_refused(data: dict[str, Any], word: str) -> None:
    with pytest.raises(Refusal, match=word):
        builders.make_plan(data)


def test_a_host_goes_one_way() -> None:
    data = within("virtual_media", SERVE)
    other = builders.medium("more", "db1", "main") | {"wipe": {"way": "kexec", "host": "db1"}}
    data["items"].append(other)
    with pytest.raises(Refusal, match="by kexec and by virtual_media; a host goes one way"):
        builders.make_plan(data)
    assert plan.from_within(other)


# --- which machine answers

HARDWARE = {"board": {"uuid": "11111111-2222-3333-4444-555555555555"}, "macs": ["52:54:00:00:00:01"]}


@pytest.mark.parametrize(
    ("found", "same"),
    [
        (HARDWARE, True),
        # Firmware disagrees on the order of a uuid's first bytes; a card may have been changed.
        ({"board": {"uuid": "11111111-2222-3333-4444-555555555555".upper()}, "macs": []}, True),
        ({**HARDWARE, "board": {"uuid": "99999999-2222-3333-4444-555555555555"}}, False),
        # A board that says nothing: the cards count.
        ({"board": {}, "macs": HARDWARE["macs"]}, True),
        ({"board": {}, "macs": ["52:54:00:00:00:02"]}, False),
        ({"board": {}, "macs": []}, False),
        ({}, False),
    ],
)
def test_a_medium_that_was_booted_by_another_machine_is_told(found: dict[str, Any], same: bool) -> None:
    assert (rescue.same_hardware(HARDWARE, found) == "") is same
    marker = {"schema": 1, "item": "host:db1", "nonce": "n"}
    seen = {
        "marker": {**marker, "hardware": HARDWARE, "former_boot_id": "old"}, "machine_id": "m", "boot_id": "new", "root": "rootfs",
        "mounted_from_disks": [], "swap": [], **found,
    }  # fmt: skip
    assert (rescue.problems(seen, marker, "m", "old", elsewhere=True) == []) is same
    # By kexec it is the same machine by construction.
    assert rescue.problems(seen, marker, "m", "old") == []


def test_nothing_is_known_of_either() -> None:
    assert "nothing shows" not in rescue.same_hardware({}, {}) and "unknown" in rescue.same_hardware({}, {})


def test_an_answer_with_another_key_ends_the_waiting() -> None:
    assert rescue.another("Host key verification failed.") and rescue.another("root@h: Permission denied (publickey).")
    assert not rescue.another("connect to host h port 22: Connection refused") and not rescue.another("no answer within 60 s")


# --- the loader


def test_the_menu_quotes_every_argument() -> None:
    text = rescue_medium.menu("console=ttyS0,115200 memmap=64M$0x1000 rdinit=/init")
    assert "linux /boot/vmlinuz 'console=ttyS0,115200' 'memmap=64M$0x1000' 'rdinit=/init'\n" in text and "initrd /boot/rescue.img\n" in text


@pytest.mark.parametrize("word", ["a='b'", 'a="b"', "a\\b", "a\nb"])
def test_an_argument_that_the_loader_would_read_otherwise_is_refused(word: str) -> None:
    with pytest.raises(Refusal, match="quotes or control characters"):
        rescue_medium.menu(word)


def test_what_an_image_starts_on() -> None:
    report = (
        "El Torito catalog  : 91  1\nEl Torito cat path : /boot.catalog\n"
        "El Torito images   :   N  Pltf  B   Emul  Ld_seg  Hdpt  Ldsiz         LBA\n"
        "El Torito boot img :   1  BIOS  y   none  0x0000  0x00      4        1153\n"
        "El Torito boot img :   2  UEFI  n   none  0x0000  0x00   5760          92\n"
    )
    assert rescue_medium.started_by(report) == ["BIOS"]
    assert rescue_medium.started_by(report.replace("UEFI  n", "UEFI  y")) == ["BIOS", "UEFI"]


# --- given out


@pytest.mark.parametrize(
    ("header", "span"),
    [
        (None, (0, 99)),
        ("bytes=0-9", (0, 9)),
        ("bytes=90-", (90, 99)),
        ("bytes=90-200", (90, 99)),
        ("bytes=-10", (90, 99)),
        ("bytes=-1000", (0, 99)),
        ("bytes=100-", None),
        ("bytes=9-3", None),
        ("bytes=-0", None),
        ("bytes=0-1,5-6", (0, 99)),
        ("lines=1-2", (0, 99)),
    ],
)
def test_a_part_of_a_file(header: str | None, span: tuple[int, int] | None) -> None:
    assert rescue_medium.part(header, 100) == span


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, bytes, str]:
    where = urlsplit(url)
    line = http.client.HTTPConnection(str(where.hostname), where.port or 80, timeout=10)
    try:
        line.request(method, where.path, headers=headers)
        answer = line.getresponse()
        return answer.status, answer.read(), answer.headers.get("Content-Range", "")
    finally:
        line.close()


def test_it_is_given_out_in_parts_under_its_own_address_alone(tmp_path: Path) -> None:
    data = bytes(range(256)) * 40
    (tmp_path / "rescue.iso").write_bytes(data)
    boot = booting.addressed({"way": "media", "serve": f"127.0.0.1:{free_port()}"}, TOKEN)
    with rescue_medium.given_out(boot, TOKEN, "h", {"iso": tmp_path / "rescue.iso"}) as readers:
        assert ask(boot["image"]) == (200, data, "")
        assert ask(boot["image"], Range="bytes=256-511") == (206, data[256:512], f"bytes 256-511/{len(data)}")
        assert ask(boot["image"], Range=f"bytes={len(data)}-")[0] == 416
        assert ask(boot["image"], "HEAD")[:2] == (200, b"")
        for other in ("/", "/rescue.iso", "/other/rescue.iso", f"/{TOKEN}/../{TOKEN}/rescue.iso", f"/{TOKEN}/"):
            assert ask(boot["image"].partition("/t0ken")[0] + other)[0] == 404
        assert readers == {"127.0.0.1": len(data) + 256}
        # A second host of the same run waits for its turn, and says so when that does not come.
        with pytest.raises(Refusal, match="cannot listen on 127.0.0.1"), rescue_medium.Served(boot["serve"], "x", tmp_path, 0):
            pass
    with pytest.raises(ConnectionRefusedError):
        ask(boot["image"])


def test_an_address_that_is_not_ours_is_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="cannot listen on 192.0.2.77"), rescue_medium.Served("192.0.2.77:80", "x", tmp_path, 0):
        pass


def test_what_is_published_is_there_for_the_time_of_the_boot_alone(tmp_path: Path) -> None:
    (tmp_path / "rescue.iso").write_bytes(b"image")
    web = tmp_path / "web"
    web.mkdir()
    boot = {"way": "media", "publish": str(web), "url": "https://h/"}
    with rescue_medium.given_out(boot, TOKEN, "h", {"iso": tmp_path / "rescue.iso"}):
        (only,) = web.iterdir()
        assert only.name == "t0ken.iso" and only.read_bytes() == b"image" and only.stat().st_mode & 0o777 == 0o644
    assert not list(web.iterdir())
    files = {name: tmp_path / name for name in ("vmlinuz", "rescue.img", "rescue.menu", "arguments")}
    for name, path in files.items():
        path.write_text(name)
    with rescue_medium.given_out({"way": "pxe", "publish": str(web)}, TOKEN, "db1", files):
        assert sorted(path.name for path in (web / "db1").iterdir()) == sorted(files)
    assert not list(web.iterdir())
    with pytest.raises(Refusal, match="is not there"), rescue_medium.given_out({**boot, "publish": "/nowhere"}, TOKEN, "h", {}):
        pass


def test_an_error_while_it_is_given_out_keeps_its_own_words(tmp_path: Path) -> None:
    (tmp_path / "rescue.iso").write_bytes(b"image")
    boot = {"way": "media", "publish": str(tmp_path), "url": "https://h/"}
    with pytest.raises(OSError, match="of the body"), rescue_medium.given_out(boot, TOKEN, "h", {"iso": tmp_path / "rescue.iso"}):
        raise OSError("of the body")
    assert not (tmp_path / "t0ken.iso").exists()
