# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What wants a device-mapper, or a kernel with SED-OPAL: an opened LUKS volume is refused, a closed one loses its keys and its data with
them, and a revert is refused by the real ioctl on disks that are no Opal drives. Takes a minute or two (C(scripts/test guest))."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.guest import guest

Facts = dict[str, Any]
PROGRAM = """
import base64
from ansible_collections.sunset.crm.plugins.module_utils._disk import device as disk_device, facts as disk_facts
from ansible_collections.sunset.crm.plugins.module_utils._wipe import decide as wipe_decide, keys as wipe_keys, luks as wipe_luks, purge as wipe_purge, transport as wipe_transport

TEXT = b"Zoe Muster, customer 4711; " * 600000
KEY = "0123456789abcdef" * 4
open("/tmp/key", "w").write("pw")
CRYPT, QUICK = "/sbin/cryptsetup", ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--key-file", "/tmp/key")
os.makedirs("/tmp/job", exist_ok=True)
found = {"kernel": {}, "luks": {}}

for name in ("nvme0n1", "sda", "sdb", "vda"):
    fd = os.open("/dev/" + name, os.O_RDONLY)
    answer = wipe_transport.Link(fd).opal_known()
    os.close(fd)
    told = wipe_purge.refusals("/dev/" + name, "tcg-revert", disk_device.identify("/dev/" + name))
    found["kernel"][name] = {"known": answer.more["known"], "why": answer.why, "refusals": told}


def first(device, count, place=0):
    with open(device, "rb") as stream:
        stream.seek(place)
        return stream.read(count)


def job(uuid):
    ledger = {"uuid": uuid, "encrypted_from_start": "yes", "none": list(wipe_keys.NAMES), "copies": [], "signer": "bob", "sha256": "a" * 64}
    identity = disk_device.public_identity(disk_device.identify("/dev/sdb"))
    spec = {"device": "/dev/sdb", "identity": identity, "key": KEY, "technique": "luks-destroy-keys", "key_copies": ledger}
    return wipe_luks.Keys(spec, "/tmp/job").run(), ledger


for kind in ("luks1", "luks2"):
    seen = found["luks"][kind] = {}
    run(CRYPT, "luksFormat", "-q", "--type", kind, *QUICK, "/dev/sdb")
    uuid = run(CRYPT, "luksUUID", "/dev/sdb").stdout.strip()
    opened = run(CRYPT, "open", "--disable-external-tokens", "--key-file", "/tmp/key", "/dev/sdb", "secret").returncode
    with open("/dev/mapper/secret", "r+b") as stream:
        stream.write(TEXT)
        stream.flush()
        os.fsync(stream.fileno())
    seen["opened"], seen["plain"] = opened, base64.b64encode(first("/dev/mapper/secret", 54)).decode()
    before = first("/dev/sdb", 1 << 20)
    seen["while_open"] = job(uuid)[0]
    seen["untouched"] = first("/dev/sdb", 1 << 20) == before
    run(CRYPT, "close", "secret")
    run(CRYPT, "luksHeaderBackup", "/dev/sdb", "--header-backup-file", "/tmp/backup-" + kind)
    seen["result"], ledger = job(uuid)
    seen["open_after"] = run(CRYPT, "open", "--disable-external-tokens", "--key-file", "/tmp/key", "/dev/sdb", "secret").returncode
    run(CRYPT, "luksHeaderRestore", "-q", "/dev/sdb", "--header-backup-file", "/tmp/backup-" + kind)
    run(CRYPT, "open", "--disable-external-tokens", "--key-file", "/tmp/key", "/dev/sdb", "secret")
    # What the destruction has overwritten reaches some way into the data of a LUKS1 volume, whose header is small.
    seen["with_backup"] = base64.b64encode(first("/dev/mapper/secret", 54, 12 << 20)).decode()
    run(CRYPT, "close", "secret")
    facts = next(fact for fact in disk_facts.read()["devices"] if fact["name"] == "sdb")
    decision = wipe_decide.decide(facts, {"asked": "clear", "luks": ledger})
    seen["decision"] = {"techniques": [row["id"] for row in decision["techniques"]], "class": facts["class"]}
    run("/bin/busybox", "rm", "-rf", "/tmp/job")
    os.makedirs("/tmp/job")
hand_out(found)
"""


@pytest.fixture(name="seen", scope="module")
def what_was_seen(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    found: Facts = guest.boot(PROGRAM, tmp_path_factory.mktemp("guest"))
    return found


@pytest.mark.parametrize("kind", ["luks1", "luks2"])
def test_an_opened_volume_is_refused_and_nothing_is_touched(seen: Facts, kind: str) -> None:
    one = seen["luks"][kind]
    assert one["opened"] == 0 and b"Zoe Muster" in base64.b64decode(one["plain"])
    assert one["while_open"]["outcome"] == "refused" and any("in use" in reason for reason in one["while_open"]["reasons"])
    assert one["untouched"]


@pytest.mark.parametrize("kind", ["luks1", "luks2"])
def test_a_closed_one_opens_no_more_and_only_a_backup_brings_its_data_back(seen: Facts, kind: str) -> None:
    one = seen["luks"][kind]
    result = one["result"]
    assert result["outcome"] == "sanitised", result["reasons"]
    assert result["keys"]["headers_after"] == [] and result["keys"]["data"]["plain"] == 0 and result["keys"]["data"]["noise"] > 0
    assert one["open_after"] != 0
    assert b"Zoe Muster" in base64.b64decode(one["with_backup"])  # what a forgotten copy of the header does
    assert "luks-destroy-keys" in one["decision"]["techniques"] and one["decision"]["class"] == "virtual"


@pytest.mark.parametrize("name", ["nvme0n1", "sda", "sdb", "vda"])
def test_a_disk_that_is_no_opal_drive_is_refused_by_the_real_kernel(seen: Facts, name: str) -> None:
    one = seen["kernel"][name]
    assert one["known"] == "no" and ("SED-OPAL" in one["why"] or "does not know this drive as Opal" in one["why"]), one
    assert one["refusals"], "tcg-revert was not refused"
