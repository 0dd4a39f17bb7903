# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Redis without a server: its protocol against one that answers as told, its configuration, and the survey's words on data stores."""

import os
import socket
import threading

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._database import sqlclient as database_sqlclient
from ansible_collections.sunset.crm.plugins.module_utils._dump import redis as dump_redis
from ansible_collections.sunset.crm.plugins.module_utils._fingerprint import redis as fingerprint_redis
from ansible_collections.sunset.crm.plugins.module_utils._proof import redis as proof_redis
from ansible_collections.sunset.crm.plugins.module_utils._survey import stores as survey_stores
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

INFO = b"# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\ntcp_port:6379\r\n"


@pytest.fixture
def server(tmp_path):
    """answer(bytes, ...): a server that gives these answers, one a command, and then closes."""
    path, threads = str(tmp_path / "r"), []

    def start(*answers):
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen(1)

        def serve():
            connection = listening.accept()[0]
            for answer in (b"$%d\r\n%s\r\n" % (len(INFO), INFO),) + answers:
                connection.recv(65536)
                connection.sendall(answer)
            connection.close()
            listening.close()

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return path

    yield start
    for thread in threads:
        thread.join()


def test_answers_of_every_kind(server):
    path = server(
        b"+OK\r\n",
        b":-5\r\n",
        b"$-1\r\n",
        b"$4\r\na\r\nb\r\n",
        b"*3\r\n:1\r\n*1\r\n$1\r\nx\r\n*-1\r\n",
        b"*2\r\n-ERR no\r\n:1\r\n",
        b":7\r\n",
    )
    with fingerprint_redis.RedisSession(socket=path) as session:
        assert session.version == "7.0.15" and session.major == 7
        assert session.call("A") == b"OK" and session.call("A") == -5 and session.call("A") is None
        assert session.call("A") == b"a\r\nb" and session.call("A") == [1, [b"x"], None]
        with pytest.raises(fingerprint_redis.RedisError, match="refused A: ERR no"):
            session.call("A")
        assert session.call("A") == 7, "an error inside an answer does not shift the next one"
        with pytest.raises(database_sqlclient.SqlError, match="closed the connection|broke"):
            session.call("A")


@pytest.mark.parametrize("answer", [b"$10\r\nabc", b"*2\r\n:1\r\n", b"HTTP/1.1 400 Bad Request\r\n"])
def test_a_broken_answer_is_an_error(server, answer):
    with fingerprint_redis.RedisSession(socket=server(answer)) as session:  # noqa: SIM117 - Python 3.6
        with pytest.raises(database_sqlclient.SqlError, match="closed|does not speak"):
            session.call("A")


def test_nesting_cannot_be_mistaken():
    values = [None, b"", b"n", 1, b"1", [], [b""], [[]], [[b"a"], [b"b"]], [[b"a", b"b"]], [b"ab"], [b"a", b"b"], b"i1;", [1], [b"i1;"]]
    assert len({fingerprint_redis.fold(value) for value in values}) == len(values)


def test_a_type_of_a_module_is_refused_by_name():
    with pytest.raises(ValueError, match="ReJSON-RL"):
        fingerprint_redis.content(None, b"k", "ReJSON-RL")


def test_a_password_from_the_configuration(tmp_path):
    (tmp_path / "extra.conf").write_text("requirepass \"two words\"\nsave ''\nbad 'quote\n")
    config = tmp_path / "redis.conf"
    config.write_text("# requirepass no\nport 6379\ninclude {0}/ex*.conf\n".format(tmp_path))
    assert dump_redis.password(str(config), None) == b"two words"
    config.write_text('requirepass first\nREQUIREPASS ""\n')
    assert dump_redis.password(str(config), None) is None
    with pytest.raises(database_sqlclient.SqlError, match="cannot be read"):
        dump_redis.password(str(tmp_path / "none.conf"), None)
    config.write_text("include {0}\nrequirepass x\n".format(config))  # includes itself
    assert dump_redis.password(str(config), None) == b"x"


def test_a_password_from_a_file(tmp_path):
    path = tmp_path / "word"
    path.write_bytes(b"s \xff\n")
    os.chmod(str(path), 0o640)
    with pytest.raises(database_sqlclient.SqlError, match="mode 640"):
        dump_redis.password(None, str(path))
    os.chmod(str(path), 0o600)
    assert dump_redis.password(None, str(path)) == b"s \xff"
    os.symlink(str(path), str(tmp_path / "link"))
    with pytest.raises(database_sqlclient.SqlError, match="regular file"):
        dump_redis.password(None, str(tmp_path / "link"))


def test_servers_that_cannot_be_the_source():
    good = {"role": "master"}
    assert dump_redis.server_problem({"redis_mode": "standalone"}, good) is None
    assert "cluster mode" in dump_redis.server_problem({"redis_mode": "cluster"}, good)
    assert "sentinel mode" in dump_redis.server_problem({"redis_mode": "sentinel"}, {})
    assert "replica of h:1" in dump_redis.server_problem({}, {"role": "slave", "master_host": "h", "master_port": "1"})
    assert "replica" in dump_redis.server_problem({}, {})


def test_only_what_lasts_decides_that_a_source_changed():
    def found(lasting, expiring):
        tables = {"db0": {"rows": 1, "hash": lasting}, "db0 expiring": {"rows": 1, "hash": expiring}}
        return {"tables": tables, "catalogue": {"function": {}}, "method": "m"}

    assert dump_redis.changed(found("a", "b"), found("a", "c")) == []
    assert dump_redis.changed(found("a", "b"), found("x", "b")) == ["db0"]
    assert (
        dump_redis.lasting_digest(found("a", "b"))
        == dump_redis.lasting_digest(found("a", "c"))
        != dump_redis.lasting_digest(found("x", "b"))
    )


class Calls(object):
    def __init__(self):
        self.calls = []

    def call(self, *words):
        self.calls.append(words)


HEAD, END = b'{"format": "sunset-redis-1"}\n', b'{"end": true, "keys": 1}\n'
KEY = b'{"db": 2, "key": "aw==", "dump": "cA==", "expires": 5, "type": "string", "length": 1}\n'


def test_restore_of_lines_cut_anywhere():
    for size in (1, 7, 1000):
        session = Calls()
        restore = proof_redis.Restore(session)
        text = HEAD + KEY + END
        for at in range(0, len(text), size):
            restore(text[at : at + size])
        restore.finish()
        assert session.calls == [("SELECT", 2), ("RESTORE", b"k", 5 + fingerprint_redis.SHIFT, b"p", "ABSTTL")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "has no end"),
        (HEAD + KEY, "has no end"),
        (HEAD + KEY + END[:-1], "has no end"),
        (HEAD + END, "it was written with 1"),
        (HEAD + KEY + END + KEY, "behind its end"),
        (KEY, "format None"),
        (HEAD + b"nonsense\n", "none of a Redis dump"),
        (HEAD + b"[]\n", "none of a Redis dump"),
        (HEAD + b'{"db": 1}\n', "none of a Redis dump"),
    ],
)
def test_a_cut_or_foreign_dump_is_no_dump(text, message):
    restore = proof_redis.Restore(Calls())
    with pytest.raises(VaultError, match=message):
        restore(text)
        restore.finish()


# --- the survey ----------------------------------------------------------------------------------------------------


def test_stores_that_cannot_be_kept_are_named():
    running = {"mongod", "memcached", "sshd", "redis-server", "ora_pmon_X"}
    found = survey_stores.judge_unsupported(running, lambda path: path == "/var/opt/mssql/data/master.mdf")
    assert [one["id"] for one in found] == ["database:mongodb", "database:mssql", "database:oracle", "database:memcached"]
    assert survey_stores.judge_unsupported({"sshd"}, lambda path: False) == []
    assert "no copy of a mongodb database" in survey_stores.unsupported_problem({"engine": "mongodb"})
    assert all(survey_stores.unsupported_problem({"engine": one}) is None for one in survey_stores.ENGINES)


def test_which_redis_is_declared():
    places = [survey_stores.redis_place(words) for words in (["/usr/bin/redis-server 127.0.0.1:6379"], ["redis-server *:6380 [cluster]"],
              ["redis-server unixsocket:/run/r.sock"], ["redis-server", "--port", "1"])]  # fmt: skip
    assert places == [{"port": 6379}, {"port": 6380}, {"socket": "/run/r.sock"}, {"port": 6379}]
    item = {"kind": "database", "engine": "redis"}
    assert survey_stores.is_declared({"port": 6379}, [item]) and not survey_stores.is_declared({"port": 6380}, [item])
    assert not survey_stores.is_declared({"port": 6379}, [dict(item, socket="/run/r.sock")])
    assert survey_stores.is_declared({"socket": "/run/r.sock"}, [dict(item, socket="/run/r.sock")])
    assert survey_stores.judge_redis({"port": 6379}, 0) == []
    assert "unknown number" in survey_stores.judge_redis({"port": 6379}, None, "NOAUTH")[0]["what"]
    assert survey_stores.judge_redis({"socket": "/r"}, 3)[0]["id"] == "database:redis//r"


def test_a_proof_has_as_many_databases_as_the_source_used():
    """A new server has 16, numbered from 0; a source may have been given more."""
    assert dump_redis.databases({"tables": {}}) == 1
    assert dump_redis.databases({"tables": {"db0": {}, "db3 expiring": {}, "db40": {}, "db7": {}}}) == 41
