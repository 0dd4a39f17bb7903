# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a LUKS header tells, and what has to be destroyed of it. Valid for Python 3.6."""

import base64
import json
import os
import struct

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import luks_header as disk_luks_header
from ansible_collections.sunset.crm.plugins.module_utils._wipe import keys as wipe_keys, luks as wipe_luks
from tests.unit.disk_samples import key_copy, key_ledger, luks


def reader(raw):
    return lambda offset, length: raw[offset : offset + length] if offset >= 0 else b""


def luks2(**changes):
    area = {
        "keyslots": {"0": {"type": "luks2", "key_size": 64}},
        "tokens": {},
        "segments": {"0": {"type": "crypt", "offset": "16777216", "size": "dynamic", "encryption": "aes-xts-plain64"}},
        "config": {},
    }
    area.update(changes)
    head = bytearray(16384)
    head[0:16] = b"LUKS\xba\xbe\0\x02" + struct.pack(">Q", 16384)
    text = json.dumps(area).encode("ascii")
    head[4096 : 4096 + len(text)] = text
    return bytes(head) + b"SKUL\xba\xbe" + b"\0" * 16378


def segment(**changes):
    return dict({"type": "crypt", "offset": "16777216", "size": "dynamic", "encryption": "aes-xts-plain64"}, **changes)


@pytest.mark.parametrize("cipher,bits,word", [
    ("aes-xts-plain64", 512, "yes"), ("aes-xts-plain64", 256, "yes"), ("aes-xts-plain64", 128, "no"), ("aes-cbc-essiv:sha256", 128, "yes"),
    ("aes-cbc-plain", 64, "no"), ("serpent-xts-plain64", 512, "yes"), ("serpent-xts-plain64", None, "unknown"), ("aes-xts-plain64", None, "yes"),
    ("cipher_null-ecb", 256, "no"), ("aes-ecb", 256, "no"), ("des3_ede-cbc-plain", 192, "no"), ("xchacha20,aes-adiantum-plain64", 256, "yes"),
    ("capi:xts(aes)-plain64", 512, "unknown"), ("rot13-xts-plain64", 512, "unknown"), ("", 512, "unknown"), (None, None, "unknown"), ("none", None, "unknown"),
])  # fmt: skip
def test_which_ciphers_hold(cipher, bits, word):
    assert disk_luks_header.strength(cipher, bits) == word


@pytest.mark.parametrize("changes,field,value", [
    ({}, "whole", "yes"),
    ({}, "unfinished", "no"),
    ({"segments": {"0": segment(type="linear")}}, "whole", "no"),
    ({"segments": {"0": segment(), "1": segment(offset="33554432")}}, "whole", "no"),
    ({"segments": {"0": segment(type="hw-opal")}}, "whole", "unknown"),
    ({"segments": {"0": segment(size="1048576")}}, "data_bytes", 1048576),
    ({"config": {"requirements": {"mandatory": ["online-reencrypt-v2"]}}}, "unfinished", "yes"),
    ({"keyslots": {"0": {"type": "luks2", "key_size": 64}, "1": {"type": "reencrypt"}}}, "unfinished", "yes"),
    ({"keyslots": {}}, "keyslots", []),
    ({"keyslots": {"0": {"type": "luks2", "key_size": 64, "area": {"offset": "32768", "size": "258048"}}}}, "slots_end", 290816),
    ({"keyslots": {"0": {"type": "luks2", "key_size": 64, "area": {"offset": "9e99", "size": "1"}}}}, "strength", "unknown"),
    ({"segments": "nonsense"}, "keyslots", ["0"]),
    ({"keyslots": []}, "whole", "unknown"),
])  # fmt: skip
def test_what_a_header_of_luks2_says(changes, field, value):
    assert disk_luks_header.header(reader(luks2(**changes)))[field] == value


def test_a_header_at_rest_in_an_old_reencryption_is_unfinished():
    found = disk_luks_header.header(reader(b"LUKS\xde\xad" + b"\0" * 4090))
    assert found["unfinished"] == "yes" and wipe_keys.header_problems(found)[0]["known"]
    assert disk_luks_header.remains(reader(b"LUKS\xde\xad" + b"\0" * 4090), 4096)[0]["what"] == "LUKS header"


def test_a_damaged_header_is_never_an_error():
    whole = luks2()
    for number in range(400):
        raw = bytearray(whole)
        for _time in range(8):
            raw[int.from_bytes(os.urandom(2), "big") % 5000] = ord(os.urandom(1))
        found = disk_luks_header.header(reader(bytes(raw)))
        assert found is None or wipe_keys.header_problems(found) is not None, number
    for length in (0, 5, 6, 591, 4096, 5000):
        disk_luks_header.header(reader(whole[:length]))


def test_every_place_of_a_second_header_is_looked_at_and_what_cannot_be_read_is_named():
    raw = bytearray(8 << 20)
    for place in disk_luks_header.SECOND_PLACES:
        raw[place : place + 6] = b"SKUL\xba\xbe"
        assert [row["offset"] for row in disk_luks_header.remains(reader(bytes(raw)), len(raw))] == [place]
        raw[place : place + 6] = b"\0" * 6
    seen = disk_luks_header.remains(lambda offset, length: b"" if offset == 0x8000 else b"\0" * length, 8 << 20)
    assert seen == [{"offset": 0x8000, "what": "unreadable"}]
    assert max(disk_luks_header.SECOND_PLACES) + (4 << 20) <= disk_luks_header.REACH


@pytest.mark.parametrize("facts,size,parts", [
    (luks(header_bytes=16 << 20), 1 << 30, [(0, 16 << 20)]),
    (luks(header_bytes=1 << 20), 1 << 30, [(0, 8 << 20)]),
    (luks(header_bytes=1 << 20), 2 << 20, [(0, 2 << 20)]),
    (luks(header_bytes=16 << 20, data_bytes=1 << 20), 1 << 30, [(0, 16 << 20), (17 << 20, 1 << 30)]),
    (luks(header_bytes=16 << 20, data_bytes=(1 << 20) + 512), 1 << 30, [(0, 16 << 20), (17 << 20, 1 << 30)]),
    (luks(header_bytes=1 << 20, data_bytes=1 << 20), 1 << 30, [(0, 1 << 30)]),
    (luks(header_bytes=16 << 20, data_bytes=1 << 40), 1 << 30, [(0, 16 << 20)]),
    (luks(header_bytes=1 << 20, slots_end=(9 << 20) + 1), 1 << 30, [(0, (9 << 20) + 4096)]),
])  # fmt: skip
def test_all_that_is_not_ciphertext_is_destroyed(facts, size, parts):
    assert disk_luks_header.area(facts, size) == parts


# --- what the data looks like ---


@pytest.mark.parametrize("data,word", [
    (os.urandom(4096), "noise"), (b"\0" * 4096, "empty"), (b"\xff" * 4096, "empty"), (b"Zoe Muster, customer 4711; " * 152, "plain"),
    (bytes(bytearray(range(256))) * 16, "noise"), (b"\0" * 2048 + os.urandom(2048), "noise"), (os.urandom(512) + b"\0" * 3584, "noise"),
    (os.urandom(2096) + b"\0" * 2000, "noise"), (os.urandom(144) + b"\0" * 3952, "noise"), (b"\0" * 4000 + b"customer 4711" + b"\0" * 83, "empty"),
    (b"\0" * 3000 + b"Zoe Muster, customer 4711, Olten; pays late, never calls back " * 5 + b"\0" * 900, "plain"),
    (base64.b64encode(os.urandom(3072)), "plain"),
], ids=[str(number) for number in range(12)])  # fmt: skip
def test_what_no_cipher_leaves_behind_is_told_from_noise(data, word):
    assert wipe_luks.readable(data[:4096]) == word


def test_noise_is_not_taken_for_plain_text():
    assert all(wipe_luks.readable(os.urandom(4096)) == "noise" for _number in range(1000))


def test_one_readable_place_in_the_sample_is_enough():
    told = wipe_luks.look_at_data(lambda offset, length: b"\0" * length, 0, 64 << 20)
    assert told == {"noise": 0, "empty": 2000, "plain": 0, "unreadable": 0, "looked": 2000} or told["looked"] > 1900
    assert wipe_luks.data_problems(told) == []
    assert "no ciphertext" in wipe_luks.data_problems(dict(told, plain=1))[0]
    assert wipe_luks.look_at_data(lambda offset, length: b"", 0, 4096)["looked"] == 1
    assert wipe_luks.look_at_data(lambda offset, length: b"", 4096, 0)["looked"] == 0


# --- judging the end ---


def test_a_look_that_never_found_a_header_finds_none_now_too():
    gone, seen = {"verdict": "gone"}, [{"offset": 0, "what": "LUKS header"}]
    assert wipe_luks.judge_gone(seen, [], gone)["verdict"] == "yes"
    assert wipe_luks.judge_gone(seen, [], {"verdict": "unknown"})["verdict"] == "yes"  # no cryptsetup here: our own eyes count
    for before, after, told in (
        ([], [], gone),
        ([{"offset": 0, "what": "unreadable"}], [], gone),
        (seen, seen, gone),
        (seen, [], {"verdict": "found"}),
    ):
        assert wipe_luks.judge_gone(before, after, told)["verdict"] == "no"


def test_a_small_device_whose_size_is_no_multiple_of_4096_is_read_to_its_end(tmp_path):
    path = tmp_path / "odd"
    path.write_bytes(b"\1" * 4096 + b"\2" * 512)
    fd = os.open(str(path), os.O_RDONLY)
    try:
        read = wipe_luks.reader(fd, 4608)
        assert read(4096, 8192) == b"\2" * 512 and read(4600, 8) == b"\2" * 8 and read(5000, 10) == b""
    finally:
        os.close(fd)


def test_what_the_certificate_says_names_who_signed_and_what_stays():
    said = wipe_keys.classes(key_ledger(key_copy()), True, False, 1 << 30, 1 << 24)
    assert (
        "word of bob" in said["statement"]
        and "%d bytes of ciphertext are still on the medium" % ((1 << 30) - (1 << 24)) in said["statement"]
    )
    assert said["nist_800_88r2"] == "Clear" and said["ieee_2883_2022"] == "not named"
    assert wipe_keys.classes(key_ledger(), True, False, 1 << 30, 1 << 24)["called"] == "sanitisation (Purge, cryptographic erase)"
    assert wipe_keys.classes(key_ledger(), True, True, 1 << 30, 1 << 24)["called"] == "logical sanitisation"
