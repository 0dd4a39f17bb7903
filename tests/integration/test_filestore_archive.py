# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""filestore_archive on a real tree with everything a tree can hold; the copy is unpacked by tar and compared."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.host_container import LIBRARY, Failed, HostContainer, flip

TREE = "/srv/store/upload"
STAGING = "/srv/store/.staging"
OPTIONS: dict[str, Any] = {"item": "filestore:uploads", "path": TREE, "staging": STAGING}

FILL = r"""
import os
top = b"/srv/store/upload"
def put(name, data=b"x", mode=0o640):
    path = os.path.join(top, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as stream:
        stream.write(data)
    os.chmod(path, mode)
    return path
put("Zoë Müller 😀.txt".encode(), "Grüße".encode())
put(b"latin1 \xe9\xff")
put(b"new\nline")
put(b"-rf")
put(b"; rm -rf $HOME '\"`id`")
put(b" leading and trailing ")
put(b"a" * 255)
put(b"/".join([b"deep" * 10] * 8) + b"/file")
put(b"setuid", mode=0o4755)
put(b"noise", os.urandom(3000000))
os.mkdir(os.path.join(top, b"empty"), 0o2750)
os.symlink(b"/etc/passwd", os.path.join(top, b"passwd"))
os.symlink(b"nowhere \xff", os.path.join(top, b"broken"))
os.symlink(b"/etc", os.path.join(top, b"etc"))
os.link(put(b"hard/1", b"linked"), os.path.join(top, b"hard/2"))
with open(os.path.join(top, b"sparse"), "wb") as stream:
    stream.truncate(64 << 20); stream.seek(40 << 20); stream.write(b"in the middle")
os.mkfifo(os.path.join(top, b"fifo"))
os.chown(os.path.join(top, b"noise"), 1234, 4321)
os.utime(os.path.join(top, b"-rf"), ns=(1, 1111111111123456789))
assert os.system("cd /srv/store/upload && setfattr -n user.note -v secret noise && setfacl -m u:1234:r noise && setfacl -d -m u:77:rwx empty") == 0
"""

VERIFY = f"""
import json, subprocess, sys
sys.path.insert(0, {LIBRARY!r})
from ansible_collections.sunset.crm.plugins.module_utils._copy import filestore as f
manifest, directory = sys.argv[1:]
lines = subprocess.check_output(["zstd", "-qdc", manifest]).split(b"\\n")
json.dump(f.verify_tree(f.read_manifest(lines), directory), sys.stdout)
"""


@pytest.fixture(scope="module")
def host() -> Iterator[HostContainer]:
    with HostContainer(f"sunset-test-files-{os.getpid()}", "--tmpfs", "/srv/mounted/inside:size=1m") as host:
        yield host


@pytest.fixture(autouse=True)
def _tree(host: HostContainer) -> None:
    host.wait(lambda: not jobs(host))
    host.shell("rm -rf /srv/store /srv/copy; mkdir -p /srv/store/upload /srv/copy")
    host.run("python3", "-c", FILL)


def jobs(host: HostContainer) -> list[str]:
    return host.shell("pgrep -f '[f]rame.py' || true").split()


def archive(host: HostContainer, check: bool = False, **more: Any) -> dict[str, Any]:
    return host.module("filestore_archive", check=check, **dict(OPTIONS, **more))


def state(host: HostContainer) -> str:
    """Digest of names, types, modes, owners and times (the names are not all text)."""
    return host.shell(f"find {TREE} -printf '%P %y %m %u %g %T@ %C@ %l %i\\n' | sort | sha256sum")


def path_of(result: dict[str, Any], role: str) -> str:
    (path,) = [one["path"] for one in result["artefacts"] if one["role"] == role]
    return str(path)


def restored(host: HostContainer, result: dict[str, Any]) -> list[str]:
    host.shell(
        f"zstd -qdc {path_of(result, 'archive')} |"
        " tar -x -p --xattrs '--xattrs-include=*' --acls --numeric-owner --same-owner -C /srv/copy -f -"
    )
    found = json.loads(host.run("python3", "-c", VERIFY, path_of(result, "manifest"), "/srv/copy"))
    assert isinstance(found, list)
    return found


def test_four_times_in_a_row_and_the_copy_is_equal(host: HostContainer) -> None:
    before = state(host)
    answers = [archive(host, check=check) for check in (True, False, True, False)]
    assert [one["changed"] for one in answers] == [True, True, False, False]
    result = answers[1]["result"]
    assert result == answers[3]["result"]
    assert restored(host, result) == []
    assert state(host) == before, "reading left no trace"
    assert result["source"]["files"] == 13
    assert "Zo" not in json.dumps(answers[1]["result"]), "file names stay out of the ledger"
    # The sparse file stays sparse in the archive and in the copy.
    (dump,) = [one for one in result["artefacts"] if one["role"] == "archive"]
    assert dump["plain_bytes"] < 8 << 20
    assert int(host.shell("stat -c %b /srv/copy/sparse")) < 1000


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (flip("/srv/copy/noise", 7), "noise differs in mtime_ns, sha256"),
        ("rm /srv/copy/passwd", "passwd is missing"),
        ("chown 0:0 /srv/copy/noise", "noise differs in gid, uid"),
        ("setfattr -x user.note /srv/copy/noise", "noise differs in xattrs"),
        ("setfacl -n -x u:1234 /srv/copy/noise", "noise differs in xattrs"),
        ("setfacl -k /srv/copy/empty", "empty differs in xattrs"),
        ("rm /srv/copy/etc; mkdir /srv/copy/etc", "etc differs in "),
        ("rm /srv/copy/etc; ln -s /usr /srv/copy/etc", "etc differs in mtime_ns, target"),
        ("touch -h -d '2001-01-01' /srv/copy/passwd", "passwd differs in mtime_ns"),
        ("mv /srv/copy/fifo /srv/copy/pipe", "pipe is new"),
        ("chmod 0755 /srv/copy/setuid", "setuid differs in mode"),
        ("cp -a /srv/copy/hard/2 /srv/copy/x; mv /srv/copy/x /srv/copy/hard/2", "hard/1 differs in linked"),
    ],
)
def test_a_copy_that_is_not_the_same_is_told(host: HostContainer, damage: str, told: str) -> None:
    result = archive(host)["result"]
    assert restored(host, result) == []
    host.shell(damage)
    found = json.loads(host.run("python3", "-c", VERIFY, path_of(result, "manifest"), "/srv/copy"))
    assert any(line == told or told.endswith(" ") and line.startswith(told) for line in found), found


def test_killed_in_the_middle(host: HostContainer) -> None:
    process = host.start_module("filestore_archive", **dict(OPTIONS, rate=5000))
    host.wait(lambda: ".part" in host.shell(f"find {STAGING} -name '*.part' 2>/dev/null || true"))
    host.kill_module()
    process.wait(60)
    host.run("kill", "-9", *jobs(host))
    host.wait(lambda: not jobs(host))
    assert host.shell(f"find {STAGING} -name '*.zst'") == ""
    answer = archive(host)
    assert answer["changed"] and restored(host, answer["result"]) == []
    assert host.shell(f"find {STAGING} -name '*.part'") == ""
    assert not archive(host)["changed"]


def test_a_change_during_the_copy_is_an_error_with_a_name(host: HostContainer) -> None:
    with host.promptly(f"find {STAGING} -name '*.tar.zst.part' 2>/dev/null | grep -q .", f"echo late >{TREE}/late.txt"):
        process = host.start_module("filestore_archive", **dict(OPTIONS, rate=1000000))
    out, _err = process.communicate(timeout=120)
    answer = json.loads(out.decode())
    assert answer["failed"] and "changed" in answer["msg"], answer
    assert host.shell(f"find {STAGING} -name finished.json") == ""
    assert archive(host)["changed"]


def test_a_changed_tree_is_copied_again(host: HostContainer) -> None:
    first = archive(host)["result"]
    host.shell(f"chmod 0600 {TREE}/setuid")
    second = archive(host)
    assert second["changed"] and second["result"]["dump_id"] != first["dump_id"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"staging": TREE + "/staging"}, "lies inside the file store"),
        ({"path": "/srv/nothing"}, "is no directory"),
        ({"path": "/srv/mounted"}, "inside is on another file system"),
    ],
)
def test_what_cannot_be_one_copy_is_refused(host: HostContainer, change: dict[str, Any], message: str) -> None:
    with pytest.raises(Failed, match=message):
        archive(host, **change)
