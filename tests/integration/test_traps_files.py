# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""filestore_archive where trees are nasty, where they change under the reader, and where only a part of one is meant.

What a tree can hold at all, and that it comes back, is in test_filestore_archive.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.host_container import LIBRARY, Failed, HostContainer

TREE = "/srv/store/upload"
STAGING = "/srv/store/.staging"

VERIFY = f"""
import json, subprocess, sys
sys.path.insert(0, {LIBRARY!r})
from ansible_collections.sunset.crm.plugins.module_utils._copy import filestore as f
lines = subprocess.check_output(["zstd", "-qdc", sys.argv[1]]).split(b"\\n")
json.dump(f.verify_tree(f.read_manifest(lines), "/srv/copy"), sys.stdout)
"""


@pytest.fixture(scope="module")
def host() -> Iterator[HostContainer]:
    with HostContainer(
        f"sunset-test-traps-files-{os.getpid()}", "--tmpfs", "/srv/store/part/inside:size=1m", "--cap-add", "LINUX_IMMUTABLE"
    ) as host:
        yield host


@pytest.fixture(autouse=True)
def _tree(host: HostContainer) -> None:
    host.wait(lambda: not host.shell("pgrep -f '[f]rame.py' || true"))
    host.shell(f"rm -rf {TREE} {STAGING} /srv/copy; mkdir -p {TREE} /srv/copy")


def archive(host: HostContainer, **more: Any) -> dict[str, Any]:
    answer = host.module("filestore_archive", **{"item": "filestore:uploads", "path": TREE, "staging": STAGING, **more})
    result = answer["result"]
    assert isinstance(result, dict)
    return result


def staged(result: dict[str, Any], role: str) -> str:
    (path,) = [one["path"] for one in result["artefacts"] if one["role"] == role]
    return str(path)


def restored(host: HostContainer, result: dict[str, Any]) -> list[str]:
    host.shell(f"zstd -qdc {staged(result, 'archive')} | tar -xp --xattrs '--xattrs-include=*' --acls --numeric-owner -C /srv/copy -f -")
    found = json.loads(host.run("python3", "-c", VERIFY, staged(result, "manifest")))
    assert isinstance(found, list)
    return found


def test_times_owners_and_special_files(host: HostContainer) -> None:
    """To the nanosecond, before 1970, far owners, sticky and setgid, default ACLs, odd attribute names, devices, sockets by name."""
    host.shell(
        f"cd {TREE}; mkdir -m 3775 box; setfacl -d -m u:77:rx box; touch -d '1969-12-31 23:59:58.123456789Z' old; touch now; : >empty\n"
        "chown 4000000000:3999999999 now; chmod 6711 now; setfattr -n 'user.a=b%' -v 0x00ff0a now\n"
        "ln now twin; ln now box/third; mkfifo pipe; mknod null c 1 3 || true; ln -s box dirlink; ln -s /etc/shadow out\n"
        "python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"sock\")'; touch README readme ReadMe; truncate -s 300M hole"
    )
    result = archive(host)
    assert restored(host, result) == []
    assert result["source"]["sockets"] == 1 and '"sock"' in host.shell(f"zstd -qdc {staged(result, 'manifest')}")
    assert host.shell("readlink /srv/copy/out").strip() == "/etc/shadow" and int(host.shell("stat -c %b /srv/copy/hole")) < 100
    assert host.shell("stat -c %h /srv/copy/box/third").strip() == "3"


def test_names_of_every_kind(host: HostContainer) -> None:
    host.run("python3", "-c", f"""
import os
top = {TREE.encode()!r}
for name in (b"new\\nline", b"-rf", b"./.hidden", b"a" * 255, b"latin\\xe9\\xff", b"tab\\t", b"back\\\\slash", b"*", b"%s", b"\\x01\\x7f", b" ", b"..x"):
    open(os.path.join(top, name), "wb").write(name)
deep = top
for _step in range(14):
    deep = os.path.join(deep, b"d" * 250)
    os.mkdir(deep)
open(os.path.join(deep, b"bottom"), "wb").write(b"x")
""")  # fmt: skip
    assert restored(host, archive(host)) == []


def test_deeper_than_a_path_may_be_is_refused(host: HostContainer) -> None:
    host.run("python3", "-c", f"import os; os.chdir({TREE!r})\nfor _ in range(20): os.mkdir('d' * 250); os.chdir('d' * 250)")
    with pytest.raises(Failed, match="d cannot be read: File name too long"):
        archive(host)
    host.run("python3", "-c", f"import shutil; shutil.rmtree({TREE!r})")


def test_flags_of_a_file_do_not_stand_in_the_way(host: HostContainer) -> None:
    """The immutable and append-only flags are the file system's, no archive holds them; reading must work all the same."""
    host.shell(f"echo x >{TREE}/still; echo y >{TREE}/log; chattr +i {TREE}/still && chattr +a {TREE}/log || true")
    try:
        assert restored(host, archive(host)) == []
    finally:
        host.shell(f"chattr -i {TREE}/still || true; chattr -a {TREE}/log || true")


CHANGES = {
    "grown": "echo more >>victim",
    "same size, old time": "printf Y | dd of=victim bs=1 seek=7 conv=notrunc status=none; touch -d '2020-01-01' victim",
    "truncated": "truncate -s 10 victim",
    "replaced": "cp victim other; touch -d '2020-01-01' other; mv other victim",
    "vanished": "rm victim",
    "mode": "chmod 0600 victim",
    "attribute": "setfattr -n user.x -v y victim",
    "new neighbour": "touch late",
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_while_reading_is_an_error_with_a_name(host: HostContainer, change: str) -> None:
    host.shell(f"cd {TREE}; head -c 3000000 /dev/urandom >aaa; head -c 200000 /dev/urandom >victim; touch -d '2020-01-01' victim; : >zzz")
    with host.promptly(f"find {STAGING} -name '*.tar.zst.part' 2>/dev/null | grep -q .", f"cd {TREE}; {CHANGES[change]}"):
        process = host.start_module("filestore_archive", item="filestore:uploads", path=TREE, staging=STAGING, rate=1000000)
    out, _err = process.communicate(timeout=120)
    answer = json.loads(out.decode())
    assert answer["failed"] and ("late" if change == "new neighbour" else "victim") in answer["msg"], answer["msg"]
    assert host.shell(f"find {STAGING} -name '*.zst' -o -name finished.json") == ""
    assert restored(host, archive(host)) == []


def test_an_archive_that_is_not_what_was_read(host: HostContainer) -> None:
    """A tar that leaves out, adds or alters something and says nothing: the stream itself is looked at on its way."""
    host.shell(f"cd {TREE}; echo payload >one; echo two >two; mv /usr/bin/tar /usr/bin/tar.real")
    try:
        for wrong, told in (("s/payload/Payload/", "does not hold what was read: one differs in sha256"),):
            script = (
                f'#!/bin/sh\ncase "$*" in *--create*) /usr/bin/tar.real "$@" | sed -b "{wrong}" ;; *) exec /usr/bin/tar.real "$@" ;; esac\n'
            )
            host.write("/usr/bin/tar", script, "0755")
            with pytest.raises(Failed, match=told):
                archive(host)
        host.write(
            "/usr/bin/tar",
            '#!/bin/sh\ncase "$*" in *--create*) head -c 8 | exec /usr/bin/tar.real "$@" ;; *) exec /usr/bin/tar.real "$@" ;; esac\n',
            "0755",
        )
        with pytest.raises(Failed, match="two is not in the archive|one is not in the archive"):
            archive(host)
    finally:
        host.shell("mv /usr/bin/tar.real /usr/bin/tar")
    assert restored(host, archive(host)) == []


KEYS = f"mkdir -p {TREE}/conf/sub {TREE}/big; cd {TREE}; echo k >conf/secret.key; echo s >conf/settings.py; echo x >conf/sub/x; echo n >big/n; ln -s conf way"


def test_only_these_entries(host: HostContainer) -> None:
    host.shell(KEYS)
    options = {"only": ["conf/secret.key", "conf/sub"]}
    result = archive(host, **options)
    names = host.shell(f"zstd -qdc {staged(result, 'archive')} | tar -t").split()
    assert sorted(names) == ["./", "./conf/", "./conf/secret.key", "./conf/sub/", "./conf/sub/x"]
    assert restored(host, result) == [] and result["source"]["only"] == options["only"] and result["source"]["files"] == 2
    host.shell(f"touch {TREE}/conf/other {TREE}/other")  # what else lies there is no matter
    assert archive(host, **options) == result
    assert archive(host, only=["conf/secret.key"])["dump_id"] != result["dump_id"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": ["conf/lost.key"]}, "conf/lost.key is named by only, but is not there"),
        ({"only": ["way/secret.key"]}, "way is on the way to what only names, and is no directory"),
        ({"only": ["/etc/shadow"]}, "expected paths below path"),
        ({"only": ["../../etc"]}, "expected paths below path"),
        ({"leave_out": ["../x"]}, "expected paths below path"),
        ({"only": ["conf/secret.key"], "leave_out": ["conf"]}, "and leave_out leaves it out"),
        ({"path": "/srv/store/part"}, "inside is on another file system"),
    ],
)
def test_what_cannot_be_meant_is_refused(host: HostContainer, options: dict[str, Any], message: str) -> None:
    host.shell(KEYS)
    with pytest.raises(Failed, match=message):
        archive(host, **options)
    assert host.shell(f"find {STAGING} -name '*.zst' 2>/dev/null || true") == ""


def test_what_is_left_out_is_on_record(host: HostContainer) -> None:
    host.shell(KEYS + "; mkdir -m 0 big/locked; mkfifo conf/sub/p.tmp; ln -s /etc conf/cache")
    result = archive(host, leave_out=["big", "*.tmp", "conf/cache", "nothing/like/that"])
    assert result["source"]["left_out"] == 3 and result["source"]["leave_out"][0] == "big"
    assert restored(host, result) == []
    manifest = [json.loads(line) for line in host.shell(f"zstd -qdc {staged(result, 'manifest')}").splitlines()]
    assert {one["path"] for one in manifest if one["type"] == "left out"} == {"big", "conf/sub/p.tmp", "conf/cache"}
    assert "big" not in host.shell(f"zstd -qdc {staged(result, 'archive')} | tar -t")


MEASURE = f"""
import resource, sys, time
sys.path.insert(0, {LIBRARY!r})
from ansible_collections.sunset.crm.plugins.module_utils._copy import filestore as f, filestore_archive as copy_filestore_archive
begun, cpu = time.time(), time.process_time()
marks = {{}}
entries = f.manifest({TREE!r}, marks=marks)
first = time.time() - begun
size = sum(len(chunk) for chunk in copy_filestore_archive.archive_chunks({TREE!r}, entries))
second = time.time() - begun - first
assert f.moved({TREE!r}, marks) == []
third = time.time() - begun - first - second
print(len(entries), size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, round(first, 2), round(second, 2), round(third, 2),
      round(time.process_time() - cpu, 2))
"""


def test_twenty_thousand_small_files_stay_small_in_memory(host: HostContainer) -> None:
    host.run("python3", "-c", f"""
import os
for d in range(100):
    os.mkdir("{TREE}/%d" % d)
    for n in range(200):
        open("{TREE}/%d/document-%d.bin" % (d, n), "wb").write(os.urandom(700) * 6)
""")  # fmt: skip
    entries, size, memory, *seconds = host.run("python3", "-c", MEASURE).split()
    print("entries", entries, "tar", size, "resident MiB", memory, "manifest/archive/look/cpu s", seconds)
    assert int(entries) == 20101 and int(memory) < 120
