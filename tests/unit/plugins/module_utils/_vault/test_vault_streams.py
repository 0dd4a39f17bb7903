# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The vault's two streams and the image check, with the real age, zstd and gzip."""

import hashlib
import io
import json
import os
import resource
import shutil
import subprocess
import tarfile

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._proof import image as proof_image
from ansible_collections.sunset.crm.plugins.module_utils._vault import stream as vault_stream
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

pytestmark = pytest.mark.skipif(shutil.which("age") is None, reason="age is not installed")
DATA = os.urandom(300000) + b"Zoe Muster" * 90000


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    path = tmp_path_factory.mktemp("age") / "identity"
    subprocess.run(["age-keygen", "-o", str(path)], check=True, stderr=subprocess.PIPE)
    recipient = subprocess.run(["age-keygen", "-y", str(path)], check=True, stdout=subprocess.PIPE).stdout.decode().strip()
    return str(path), recipient


def sha(data):
    return hashlib.sha256(data).hexdigest()


def encrypted(tmp_path, identity, data, name="x.age"):
    (tmp_path / "source").write_bytes(data)
    target = str(tmp_path / name)
    facts = vault_stream.encrypt_to_file(["cat", str(tmp_path / "source")], identity[1], target)
    return target, facts


def test_tools_are_told_nothing_by_the_callers_environment(monkeypatch):
    for name in ("PGHOST", "PGSERVICE", "MYSQL_HOST", "TAR_OPTIONS", "ZSTD_CLEVEL"):
        monkeypatch.setenv(name, "x")
    found = vault_stream.clean_environment()
    assert "x" not in found.values() and found["PATH"] == os.environ["PATH"] and found["LC_ALL"] == "C"


def test_there_and_back(tmp_path, identity):
    packed = subprocess.run(["zstd", "-qc"], input=DATA, stdout=subprocess.PIPE, check=True).stdout
    target, facts = encrypted(tmp_path, identity, packed)
    assert not os.path.exists(target) and os.stat(target + ".part").st_mode & 0o777 == 0o600
    vault_stream.publish(target)
    with open(target, "rb") as stream:
        cipher = stream.read()
    assert facts == {"sha256": sha(packed), "bytes": len(packed), "cipher_sha256": sha(cipher), "cipher_bytes": len(cipher)}
    got = []
    back = vault_stream.decrypt_into(target, identity[0], "zst", got.append)
    assert b"".join(got) == DATA
    assert back == {
        "cipher_sha256": sha(cipher),
        "cipher_bytes": len(cipher),
        "sha256": sha(packed),
        "bytes": len(packed),
        "plain_sha256": sha(DATA),
        "plain_bytes": len(DATA),
    }


@pytest.mark.parametrize(
    "script, stall, word",
    [("head -c 100000 /dev/zero; echo broken >&2; exit 3", 60, "exit code 3 after 100000.*broken"), ("sleep 60", 1, "sent nothing for")],
)
def test_a_source_that_fails_leaves_nothing(tmp_path, identity, script, stall, word):
    with pytest.raises(VaultError, match=word):
        vault_stream.encrypt_to_file(["sh", "-c", script], identity[1], str(tmp_path / "x.age"), stall=stall)
    assert os.listdir(str(tmp_path)) == []


def test_a_bad_recipient_and_a_missing_tool(tmp_path, identity):
    with pytest.raises(VaultError, match="age ended with exit code 1"):
        vault_stream.encrypt_to_file(["cat", "/dev/zero"], "age1nonsense", str(tmp_path / "x.age"))
    with pytest.raises(VaultError, match="cannot be started"):
        vault_stream.encrypt_to_file(["/nonexistent"], identity[1], str(tmp_path / "x.age"))
    assert os.listdir(str(tmp_path)) == []


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, identity):
    """A limit on the file size stops the write in the middle, as a full disk does."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            vault_stream.encrypt_to_file(["head", "-c", "50000000", "/dev/zero"], identity[1], str(tmp_path / "x.age"))
        except VaultError as exc:
            code = 0 if "x.age.part cannot be written" in str(exc) else 2
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.listdir(str(tmp_path)) == []


@pytest.mark.parametrize("damage", ["flip", "cut", "other key", "grown", "empty"])
def test_damaged_ciphertext_does_not_open(tmp_path, identity, damage):
    target, _facts = encrypted(tmp_path, identity, DATA)
    vault_stream.publish(target)
    with open(target, "r+b") as stream:
        if damage == "flip":
            stream.seek(500000)
            byte = stream.read(1)
            stream.seek(500000)
            stream.write(bytes(bytearray([byte[0] ^ 1])))
        elif damage == "cut":
            stream.truncate(500000)
        elif damage == "grown":
            stream.seek(0, 2)
            stream.write(b"x")
        elif damage == "empty":
            stream.truncate(0)
    used = identity[0]
    if damage == "other key":
        used = str(tmp_path / "other")
        subprocess.run(["age-keygen", "-o", used], check=True, stderr=subprocess.PIPE)
    with pytest.raises(VaultError, match="does not decrypt"):
        vault_stream.decrypt_into(target, used, None, lambda _block: None)


def test_what_does_not_decompress_is_said(tmp_path, identity):
    target, _facts = encrypted(tmp_path, identity, b"not zstd at all" * 1000)
    vault_stream.publish(target)
    with pytest.raises(VaultError, match="does not decompress"):
        vault_stream.decrypt_into(target, identity[0], "zst", lambda _block: None)


def test_an_error_of_the_sink_ends_the_stream(tmp_path, identity):
    target, _facts = encrypted(tmp_path, identity, os.urandom(5000000))
    vault_stream.publish(target)

    def sink(_block):
        raise VaultError("enough")

    with pytest.raises(VaultError, match="enough"):
        vault_stream.decrypt_into(target, identity[0], None, sink)


# --- images ---


def image(change=None, gzip=False):
    """A saved image of two layers, as docker save writes it; change gets the members before they are packed."""
    layers = [b"layer one" * 1000, b"layer two" * 1000]
    config = json.dumps({"rootfs": {"diff_ids": ["sha256:" + sha(layer) for layer in layers]}}).encode()
    if gzip:
        layers = [subprocess.run(["gzip", "-n"], input=layer, stdout=subprocess.PIPE, check=True).stdout for layer in layers]
    names = ["blobs/sha256/" + sha(layer) for layer in layers]
    members = {"blobs/sha256/" + sha(layer): layer for layer in layers}
    members[sha(config) + ".json"] = config
    members["manifest.json"] = json.dumps([{"Config": sha(config) + ".json", "Layers": names}]).encode()
    if change:
        change(members, names)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return stream.getvalue()


def check(data):
    reader = proof_image.PipeReader(proof_image.read_members)
    for start in range(0, len(data), 7000):
        reader(data[start : start + 7000])
    return proof_image.problems(reader.finish())


@pytest.mark.parametrize("gzip", [False, True])
def test_a_whole_image(gzip):
    assert check(image(gzip=gzip)) == ([], 2)


def test_a_link_stands_for_its_layer():
    assert check(image()) == ([], 2)
    facts = proof_image.Facts()
    facts.links = {"a": "b", "b": "c", "x": "x"}
    assert facts.resolve("a") == "c" and facts.resolve("x") == "x"


@pytest.mark.parametrize(
    "change, word",
    [
        (lambda members, names: members.pop(names[0]), "is missing"),
        (lambda members, names: members.update({names[1]: b"forged"}), "not what its name says"),
        (lambda members, names: members.pop("manifest.json"), "missing or unreadable"),
        (lambda members, names: members.update({"manifest.json": b"[]"}), "names no image"),
    ],
)
def test_an_image_that_is_not_whole(change, word):
    found, _layers = check(image(change))
    assert any(word in line for line in found)


def test_what_is_no_tar_is_said():
    with pytest.raises(VaultError, match="no readable tar"):
        check(b"x" * 50000)
    with pytest.raises(VaultError, match="no readable tar"):
        check(image()[:9000])
