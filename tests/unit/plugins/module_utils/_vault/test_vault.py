# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The vault's decisions and texts, without a vault."""

import base64
import io
import json
import os
import types

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._copy import reader as copy_reader
from ansible_collections.sunset.crm.plugins.module_utils._proof import (
    mariadb as proof_mariadb,
    pg_extensions as proof_pg_extensions,
    postgresql as proof_postgresql,
    run as proof_run,
    scratch as proof_scratch,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault import (
    access as vault_access,
    bag as vault_bag,
    package as vault_package,
    pull as vault_pull,
    source as vault_source,
    state as vault_state,
)
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

BLOB = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + b"k" * 32).decode()
OTHER = base64.b64encode(b"\0\0\0\x0bssh-ed25519\0\0\0 " + b"o" * 32).decode()
READER = "/var/lib/sunset-reader/reader.py"


def key(blob=BLOB, comment="sunset-vault-lab-db1@vault1"):
    return vault_access.Key("ssh-ed25519 %s %s" % (blob, comment))


# --- authorized_keys ---


@pytest.mark.parametrize("content", [b"", b"\n", b"ssh-rsa AAA me\n", b"ssh-rsa AAA me", b"# x\n\nssh-rsa AAA me\r\n\n", b"\xff\xfe\n"])
def test_adding_and_removing_gives_back_the_same_bytes(content):
    line = vault_access.wanted_line(key(), "/usr/bin/python3", READER)
    added = vault_access.edit(content, key(), READER, line)
    assert added.startswith(content) and added.count(line.encode()) == 1
    assert vault_access.edit(added, key(), READER, line) == added
    assert vault_access.edit(added, key(), READER, None) == content


def test_an_older_form_is_replaced_in_its_place_and_doubles_go():
    line = vault_access.wanted_line(key(), "/usr/bin/python3", READER)
    old = "ssh-ed25519 %s x" % BLOB
    content = ("a\n%s\nb\n%s\n" % (old, old)).encode()
    assert vault_access.edit(content, key(), READER, line) == ("a\n%s\nb\n" % line).encode()


def test_the_line_of_an_earlier_key_of_the_same_package_goes():
    earlier = vault_access.wanted_line(key(OTHER), "/usr/bin/python3", READER)
    same_comment_but_not_ours = "ssh-ed25519 %s sunset-vault-lab-db1@vault1" % OTHER
    another_vault = vault_access.wanted_line(key(OTHER, "sunset-vault-lab-db1@vault2"), "/usr/bin/python3", READER)
    content = "\n".join([earlier, same_comment_but_not_ours, another_vault, "# " + BLOB, ""]).encode()
    rest = "\n".join([same_comment_but_not_ours, another_vault, "# " + BLOB, ""]).encode()
    assert vault_access.edit(content, key(), READER, None) == rest
    assert vault_access.KEY_ID_IN_LINE.search(earlier.encode()).group(1).decode() == key(OTHER).id


@pytest.mark.parametrize("text", ["", "ssh-rsa AAAA", "ssh-ed25519 AAAA\nssh-rsa B", 'ssh-ed25519 AAAA x" y', "ssh-ed25519 !!!"])
def test_what_is_no_plain_key_is_refused(text):
    with pytest.raises(VaultError):
        vault_access.Key(text)


# --- the reader ---


@pytest.mark.parametrize(
    "command",
    [
        "",
        "sh",
        "cat x",
        "read x",
        "stat",
        "read x -1",
        "read x 1 2",
        "stat x/y",
        "stat ..",
        "stat /a/../b",
        "stat //a",
        "stat a b",
        "stat x\nread y 0",
        "read x 0\n",
        "STAT x",
    ],
)
def test_the_reader_does_not_understand(command):
    with pytest.raises(copy_reader.Refused):
        copy_reader.parse(command)


def test_the_reader_understands():
    assert copy_reader.parse("stat a.b") == ("stat", "a.b", 0)
    assert copy_reader.parse("read a.b 17") == ("read", "a.b", 17)
    assert copy_reader.parse("read /s/x y/z 0") == ("read", "/s/x y/z", 0)


def test_the_reader_follows_no_link_and_reads_no_pipe(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    for place in (inside, outside, inside / "sub"):
        place.mkdir()
    (outside / "secret").write_text("s")
    (inside / "sub" / "file").write_bytes(b"0123456789")
    (inside / "link").symlink_to(outside / "secret")
    (inside / "dir").symlink_to(outside)
    os.mkfifo(str(inside / "pipe"))
    allowed = [str(inside)]
    for name in ("link", str(inside / "link"), str(inside / "dir" / "secret"), "pipe", "sub", str(outside / "secret"), str(inside)):
        with pytest.raises(copy_reader.Refused):
            copy_reader.find(allowed, name)
    out = io.BytesIO()
    copy_reader.serve(allowed, "read %s 4" % (inside / "sub" / "file"), out)
    copy_reader.serve(allowed, "stat %s" % (inside / "sub" / "file"), out)
    out.seek(0)
    assert out.read(6) == b"456789" and json.loads(out.readline().decode())["bytes"] == 10
    with pytest.raises(copy_reader.Refused):
        copy_reader.serve(allowed, "read %s 11" % (inside / "sub" / "file"), out)


def test_a_name_that_lies_in_two_directories_is_refused(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "x").write_text(place)
    both = [str(tmp_path / "a"), str(tmp_path / "b")]
    with pytest.raises(copy_reader.Refused, match="more than one"):
        copy_reader.find(both, "x")
    os.close(copy_reader.find(both, str(tmp_path / "a" / "x")))


# --- packages ---

SEEN = {"state": "open", "identity_digest": "d", "live_digest": "d", "pull_key": True, "wrapped": True, "leftover": False}
SEEN.update(keys_identity_digest=None, keys_live_digest=None)
TWO = {"keys_identity_digest": "k", "keys_live_digest": "k"}


@pytest.mark.parametrize(
    "change, supersede, act",
    [
        ({}, False, "nothing"),
        ({"pull_key": False}, False, "finish"),
        ({"wrapped": False}, False, "finish"),
        ({"live_digest": None}, False, "restart"),
        ({"live_digest": "e"}, False, "restart"),
        ({"state": "absent", "live_digest": None}, False, "finish"),
        ({"state": "absent", "leftover": True}, False, "restart"),
        ({"state": "sealed", "live_digest": None, "pull_key": False}, False, "nothing"),
        ({"state": "forgotten", "live_digest": None}, False, "nothing"),
        ({"state": "sealed"}, True, "restart"),
        ({"state": "forgotten", "live_digest": None}, True, "restart"),
    ],
)
def test_what_opening_does(change, supersede, act):
    assert vault_package.decide_open(dict(SEEN, **change), supersede) == act


def test_what_forgetting_does():
    sealed = dict(SEEN, state="sealed")
    gone = dict(SEEN, state="forgotten", live_digest=None, pull_key=False)
    assert vault_package.decide_forget(sealed, "a" * 64) == "forget"
    assert vault_package.decide_forget(gone, None) == "nothing"
    assert vault_package.decide_forget(dict(gone, live_digest="d"), "a" * 64) == "forget"
    for seen, attestation in ((SEEN, "a" * 64), (dict(SEEN, state="absent"), "a" * 64), (sealed, None)):
        with pytest.raises(VaultError):
            vault_package.decide_forget(seen, attestation)


def test_custodians_are_checked():
    good = [{"name": "alice", "recipient": "age1" + "q" * 58}, {"name": "bob", "recipient": "age1" + "p" * 58}]
    vault_package.check_custodians(good)
    for bad in (
        [],
        [dict(good[0], name="../x")],
        [dict(good[0], recipient="age1")],
        [good[0], good[0]],
        [good[0], dict(good[1], recipient=good[0]["recipient"])],
        [dict(good[0], recipient="-o x")],
    ):
        with pytest.raises(VaultError):
            vault_package.check_custodians(bad)


def test_the_places_of_a_package():
    package = vault_state.Package("/v", "lab", "db1", "/dev/shm/x")
    assert package.folder("database:crm") == "/v/lab/db1/data/database-crm"
    assert package.wrapped("alice") == "/v/lab/keys/db1.alice.age"
    for estate, name in (("lab", "keys"), ("lab", ".."), ("a/b", "x"), ("lab", ""), ("lab", "x.part")):
        with pytest.raises(VaultError):
            vault_state.Package("/v", estate, name, None)
    for item in ("crm", "database:", "database:../x", "Data:x", "database:a/b"):
        with pytest.raises(VaultError):
            package.folder(item)


MOUNTS = """21 1 254:0 / / rw - ext4 /dev/sda rw
30 21 0:25 / /dev/shm rw - tmpfs shm rw
31 30 0:26 / /dev/shm/on\\040disk rw - ext4 /dev/vdb rw
"""


@pytest.mark.parametrize(
    "path, kind",
    [("/dev/shm", "tmpfs"), ("/dev/shm/a/b", "tmpfs"), ("/dev/shmx", "ext4"), ("/srv", "ext4"), ("/dev/shm/on disk/x", "ext4")],
)
def test_the_file_system_of_a_path(path, kind):
    assert vault_state.mount_of(path, MOUNTS)[1] == kind


def test_records_are_none_or_whole(tmp_path):
    path = str(tmp_path / "r.json")
    assert vault_state.read_record(path) is None
    vault_state.write_record(path, {"a": 1})
    assert vault_state.read_record(path) == {"a": 1}
    with open(path, "w") as stream:
        stream.write("{")
    with pytest.raises(VaultError, match="no JSON"):
        vault_state.read_record(path)


def test_space_is_told_with_numbers(tmp_path):
    with pytest.raises(VaultError, match=r"has \d+ bytes free; x needs 1152921504606846976"):
        vault_state.require_space(str(tmp_path), 1 << 60, "x")


# --- the bag ---


def test_manifests_survive_odd_names():
    entries = [("data/a%b\nc", "0" * 64), ("data/ü", "1" * 64)]
    text = vault_bag.manifest_text(entries)
    assert len(text.splitlines()) == 2
    assert vault_bag.parse_manifest(text, "m") == dict(entries)
    for bad in ("x", "0" * 64 + " data/x", "%s  /etc/x" % ("0" * 64), "%s  data/../../x" % ("0" * 64), text + text):
        with pytest.raises(VaultError):
            vault_bag.parse_manifest(bad, "m")


def test_the_inner_manifest_names_both_forms():
    stored = [
        {"slug": "database-crm", "file": "x.sql.zst", "sha256": "a" * 64, "plain_sha256": "b" * 64},
        {"slug": "container-s", "file": "i.json", "sha256": "c" * 64, "plain_sha256": "c" * 64},
    ]
    assert vault_bag.inner_manifest_text(stored).splitlines() == [
        "c" * 64 + "  container-s/i.json",
        "b" * 64 + "  database-crm/x.sql",
        "a" * 64 + "  database-crm/x.sql.zst",
    ]


def test_bag_info_has_one_line_a_field():
    text = vault_bag.bag_info_text([("data/a", 5), ("data/b", 7)], "2026-01-02", "lab/db1", {"Retention-Class": "a\nb", "Empty": ""})
    assert "Payload-Oxum: 12.2\n" in text and "Retention-Class: a b\n" in text and "Empty" not in text


# --- pulling ---


def artefact(**change):
    return dict({"name": "x.zst", "role": "dump", "path": "/s/x.zst", "sha256": "a" * 64, "bytes": 5}, **change)


@pytest.mark.parametrize(
    "bad",
    [
        [artefact(name="../x")],
        [artefact(sha256="x")],
        [artefact(bytes=None)],
        [artefact(), artefact()],
        [artefact(path="/s/../x")],
        [artefact(path="/s/x.age")],
        [artefact(), artefact(name="y")],
        [artefact(path="/s/a b")],
    ],
)
def test_odd_artefacts_are_refused(bad):
    with pytest.raises(VaultError):
        vault_pull.check_artefacts(bad)


def test_the_ssh_command_is_pinned():
    source = {"address": "192.0.2.1", "port": 2222, "user": "root", "host_key": ["ssh-ed25519 AAAA host"]}
    vault_source.check_source(source)
    argv = vault_source.ssh_argv(source, "/k", "/kh", ["stat", "/s/x"])
    for option in ("StrictHostKeyChecking=yes", "BatchMode=yes", "IdentitiesOnly=yes", "UserKnownHostsFile=/kh"):
        assert option in argv
    assert argv[-3:] == ["--", "192.0.2.1", "stat /s/x"]
    assert vault_source.known_hosts_text(source) == "sunset-source ssh-ed25519 AAAA\n"
    for change in ({"address": "-oProxyCommand=x"}, {"address": ""}, {"user": "-x"}, {"host_key": []}, {"host_key": ["* ssh-rsa A"]}):
        with pytest.raises(VaultError):
            vault_source.check_source(dict(source, **change))


def test_what_must_be_fetched():
    seen = {"artefacts": {"a": "stored", "b": "damaged", "c": "absent"}, "superfluous": [], "recorded": True}
    assert vault_pull.decide(seen) == ["b", "c"] and not vault_pull.unchanged(seen)
    whole = {"artefacts": {"a": "stored"}, "superfluous": [], "recorded": True}
    assert vault_pull.unchanged(whole)
    assert not vault_pull.unchanged(dict(whole, superfluous=["x.age"])) and not vault_pull.unchanged(dict(whole, recorded=False))


# --- proving ---


def test_the_server_is_of_the_same_major_or_newer():
    assert proof_postgresql.choose_major("15.18 (Debian)", [13, 15, 16]) == 15
    assert proof_postgresql.choose_major("14.2", [13, 15, 16]) == 15
    for version, majors in (("17.0", [15]), ("", [15]), ("15", [])):
        with pytest.raises(VaultError):
            proof_postgresql.choose_major(version, majors)
    proof_mariadb.check_version("10.6.1-MariaDB", "mariadbd Ver 10.11.19-MariaDB")
    for source in ("11.4.2-MariaDB", "8.0.36", ""):
        with pytest.raises(VaultError) as caught:
            proof_mariadb.check_version(source, "mariadbd Ver 10.11.19-MariaDB")
        assert caught.value.verdict == "unknown"


@pytest.mark.parametrize(
    "source, here, word",
    [
        ("15.18", "15.18", "same"),
        ("15.3", "15.18", "same major"),
        ("14.1", "15.18", "newer"),
        ("x", "15", "unknown"),
        ("10.11.3-MariaDB", "10.11.19-MariaDB", "same major"),
        ("10.6.3-MariaDB", "10.11.19-MariaDB", "newer"),
        ("8.0.36 MySQL Community Server", "10.11.19-MariaDB", "vendor changed"),
        ("10.11.19-MariaDB", "8.4.0", "vendor changed"),
    ],
)
def test_how_versions_stand(source, here, word):
    assert proof_run.relation(source, here) == word


def difference(kind, derived=False):
    return {"kind": kind, "name": "public.v", "what": "definition", "source": "a", "copy": "b", "derived": derived}


@pytest.mark.parametrize(
    "source, here, kinds, apart",
    [
        ("14.1", "15.18", ["view", "column"], True),
        ("15.1", "15.18", ["view"], False),
        ("15.18", "15.18", ["view"], False),
        ("14.1", "15.18", [], False),
        ("14.1", "15.18", ["view", "table"], False),
        ("14.1", "15.18", ["large object"], False),
        ("14.1", "15.18", ["sequence value"], False),
        ("10.6.3-MariaDB", "10.11.19-MariaDB", ["view"], False),
    ],
)
def test_definitions_are_not_compared_across_major_versions(source, here, kinds, apart):
    differences = [difference(kind) for kind in kinds] + [difference("role", derived=True)]
    engine = "mariadb" if "MariaDB" in source else "postgresql"
    said = proof_run.apart_by_major(engine, {"version": source}, {"version": here}, differences)
    assert bool(said) == apart
    if apart:
        assert "14.1" in said and "15.18" in said and "2 differ, the first: view public.v definition" in said


@pytest.mark.parametrize(
    "available, said",
    [
        ([["pg_trgm", "1.6"], ["pg_trgm", "1.5"]], ""),
        ([["pg_trgm", "1.6"], ["pg_trgm", "1.4"]], 'extension "pg_trgm" in version 1.5 (has 1.4, 1.6)'),
        ([["hstore", "1.5"]], 'extension "pg_trgm" in version 1.5 (has none)'),
    ],
)
def test_an_extension_is_made_in_the_sources_version_or_named(available, said):
    found = proof_pg_extensions.problem([["pg_trgm", "1.5", "public"]], available, "15")
    assert said in found and bool(found) == bool(said)


def test_an_extension_is_made_where_it_was_and_names_stay_names():
    (one,) = proof_pg_extensions.statements([['uuid-"ossp', "1'1", "Parts"]])
    assert one == 'CREATE EXTENSION IF NOT EXISTS "uuid-""ossp" WITH SCHEMA "Parts" VERSION \'1\'\'1\''
    assert one.replace("'", "''") + ";\nEND'" in proof_pg_extensions.hook([one]), "the body of the function is one literal"


@pytest.mark.parametrize(
    "name, word",
    [("Parts", '"Parts"'), ('a"b', '"a""b"'), ("B\u00fcro\\", 'U&"B\\+0000FCro\\+00005C"'), ('\u00fc"', 'U&"\\+0000FC"""')],
)
def test_names_of_extensions_do_not_depend_on_the_encoding(name, word):
    assert proof_pg_extensions.identifier(name) == word


@pytest.mark.parametrize(
    "theirs, words",
    [
        (["s", "u", True, False, 1, 0, None], None),
        (["i", "u", True, False, 1, 0, None], "IMMUTABLE"),
        (["v", "s", False, True, 0.5, 10, None], "VOLATILE PARALLEL SAFE CALLED ON NULL INPUT LEAKPROOF COST 0.5 ROWS 10"),
        (["s", "u", True, False, 1, 0, ["work_mem=5MB", "a.b=it's"]], "RESET ALL SET \"work_mem\" TO '5MB' SET \"a\".\"b\" TO 'it''s'"),
    ],
)
def test_what_was_altered_of_an_extensions_function_is_set_again(theirs, words):
    made = [["public.unaccent(text)", "s", "u", True, False, 1, 0, None]]
    found = proof_pg_extensions.alterations([["public.unaccent(text)"] + theirs, ["gone()"] + theirs], made)
    assert found == (["ALTER FUNCTION public.unaccent(text) " + words] if words else [])


def test_tablespaces_get_a_directory_of_the_scratch():
    text = "CREATE ROLE a;\nCREATE TABLESPACE fast OWNER a LOCATION '/it''s';\nGRANT ALL ON TABLESPACE fast TO a;\n"
    kept = proof_postgresql.relocated(text, lambda number: "/scratch/ts%d" % number)
    assert kept == text.replace("'/it''s'", "'/scratch/ts1'")


def test_differences_of_files_are_counted_without_names():
    told = ["Müller.pdf differs in size, sha256", "Meier.pdf differs in size, sha256", "x is missing"]
    assert proof_run.count_kinds(told) == [{"what": "differs in size, sha256", "entries": 2}, {"what": "is missing", "entries": 1}]


@pytest.mark.parametrize(
    "major, plain, free, cores, wanted",
    [
        (15, 1 << 30, 100 << 30, 2, 2),
        (15, 1 << 30, 100 << 30, 16, 4),
        (15, 1 << 30, 100 << 30, 1, 1),
        (12, 1 << 30, 100 << 30, 2, 1),
        (15, 1 << 30, proof_postgresql.space_needed(1 << 30), 2, 1),
        (15, 1 << 30, proof_postgresql.space_needed(1 << 30) + (1 << 30), 2, 2),
    ],
)
def test_several_sessions_restore_where_the_archive_fits_beside_the_data(major, plain, free, cores, wanted):
    assert proof_postgresql.jobs(major, proof_postgresql.space_needed(plain), free, cores) == wanted


def feeding(tmp_path, script):
    scratch = proof_scratch.Scratch(str(tmp_path), types.SimpleNamespace(root="r", estate="e", name="n"), "database:crm", 1)
    scratch.path = str(tmp_path)
    return proof_scratch.KeptFeed(scratch, lambda first: ["sh", "-c", script, "sh"], "the restore")


def test_a_kept_stream_is_given_whole_and_removed(tmp_path):
    feed = feeding(tmp_path, '[ "$(cat "$1")" = onetwo ]')
    feed(b"one")
    feed(b"two")
    feed.finish()
    assert not (tmp_path / "stream").exists()


def test_a_failed_restore_of_a_kept_stream_is_an_error(tmp_path):
    feed = feeding(tmp_path, "echo error: broken >&2; exit 3")
    feed(b"one")
    with pytest.raises(VaultError, match="exit code 3: error: broken"):
        feed.finish()
    assert not (tmp_path / "stream").exists()


def test_nothing_is_no_restore(tmp_path):
    with pytest.raises(VaultError, match="the artefact is empty"):
        feeding(tmp_path, "true").finish()


def test_plugins_that_accounts_log_in_with_are_loaded():
    text = (
        "CREATE USER `a`@`localhost` IDENTIFIED VIA ed25519 USING 'x OR pam';\n"
        "CREATE USER `b`@`%` IDENTIFIED VIA unix_socket OR gssapi;\n"
        "CREATE USER `c`@`%` IDENTIFIED VIA own_plugin;\nGRANT USAGE ON *.* TO `VIA parsec`;\n"
    )
    assert proof_mariadb.plugins_of(text.encode()) == ["auth_ed25519", "auth_gssapi", "auth_pam"], "one too many does no harm"


def test_psql_only_passes_the_globals_on():
    text = "\\restrict abcDEF1\nCREATE ROLE a;\nCOMMENT ON ROLE a IS 'x';\n\\unrestrict abcDEF1\n"
    assert proof_postgresql.confined(text, "psql (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)", "k9").startswith(
        "\\restrict k9\n\nCREATE ROLE a;"
    )
    assert "abcDEF1" not in proof_postgresql.confined(text, "psql (PostgreSQL) 18.0", "k9")
    for old in ("psql (PostgreSQL) 15.13", "psql (PostgreSQL) 12.30", "psql (PostgreSQL) 17.5", "", "psql (PostgreSQL) 10.99"):
        assert "\\" not in proof_postgresql.confined(text, old, "k9")
        with pytest.raises(VaultError, match="hold a backslash, and this vault's psql"):
            proof_postgresql.confined(text + "SELECT 1 \\! id\n", old, "k9")
