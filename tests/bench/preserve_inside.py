# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the preserve benchmark times, inside its container: one act a process, whose peak of memory is then its own.

inside.py <act> <JSON of its arguments>     prints JSON: wall, cpu, resident_mib, helper_mib and what the act returns
"""

import fcntl
import itertools
import json
import os
import resource
import subprocess
import sys
import time
import types

sys.path.insert(0, "/opt/sunset-test")
from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._copy import (
    filestore as copy_filestore,
    filestore_archive as copy_filestore_archive,
    job as copy_job,
    staging as copy_staging,
    stream as copy_stream,
)
from ansible_collections.sunset.crm.plugins.module_utils._database import reach as database_reach
from ansible_collections.sunset.crm.plugins.module_utils._dump import pg as dump_pg
from ansible_collections.sunset.crm.plugins.module_utils._proof import run as proof_run
from ansible_collections.sunset.crm.plugins.module_utils._vault import (
    pipe as vault_pipe,
    segments as vault_segments,
    stream as vault_stream,
)

TICK = float(os.sysconf("SC_CLK_TCK"))


def cpu():
    """CPU seconds of everything in the container: the servers' share of a dump is part of its price."""
    total = 0
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open("/proc/%s/stat" % name) as stream:
                    total += sum(map(int, stream.read().rsplit(")", 1)[1].split()[11:15]))
            except OSError:
                pass
    return total / TICK


def busy():
    """CPU seconds of the whole machine, this container's among them."""
    with open("/proc/stat") as stream:
        user, nice, system, _idle, _iowait, irq, softirq = map(int, stream.readline().split()[1:8])
    return (user + nice + system + irq + softirq) / TICK


class Phases(copy_job.Report):
    """The job's own report, which also notes when each phase began."""

    def __init__(self, directory):
        super(Phases, self).__init__(directory)
        self.seen = []

    def phase(self, name, total=0):
        self.seen.append((name, time.monotonic(), cpu()))
        super(Phases, self).phase(name, total)

    def table(self):
        """[[phase, wall, cpu]]"""
        self.phase("end")
        return [[one[0], two[1] - one[1], two[2] - one[2]] for one, two in itertools.pairwise(self.seen)]


def job(params):
    """The whole job of a copy, phase by phase."""
    if params["kind"] == "filestore":
        spec = dict(params, identity={}, rate=None)
    else:
        from ansible_collections.sunset.crm.plugins.module_utils._database import server as database_server

        spec = database_server.specification(dict({"port": None, "socket": None, "rate": None, "engine": params["kind"]}, **params))[0]
    place = copy_staging.Staging("/srv/staging", params["item"])
    place.prepare()
    report = Phases("/srv/staging")
    report.phase("start")
    with database_reach.opened(spec) as live:
        artefacts, facts = copy_job.KINDS[params["kind"]](live, place, report)
    phases = report.table()
    place.commit({"dump_id": os.path.basename(os.path.dirname(artefacts[0]["path"])), "artefacts": artefacts, "source": facts})
    return {"artefacts": artefacts, "source": facts, "phases": phases}


def shell(params):
    subprocess.check_call(["bash", "-euo", "pipefail", "-c", params["script"]], stdout=subprocess.DEVNULL, env=dict(os.environ, LC_ALL="C"))
    return {}


def encrypt(params):
    """What a vault does with the artefacts, the network left out: the large ones in segments, each read back."""
    entries = []
    folder, recipient = params["folder"], params["recipient"]
    os.makedirs(folder, exist_ok=True)
    for one in params["artefacts"]:
        file, size = os.path.basename(one["path"]), one["bytes"]
        if size > vault_segments.SMALLEST:
            whole, segments = vault_pipe.Counted(), []
            cutter = vault_segments.Cutter(folder, file, 1, vault_segments.segment_size(size), recipient, whole, segments.append)
            source = vault_pipe.Source(["cat", one["path"]], 60)
            for block in source.blocks():
                cutter.take(block)
            source.require_good_end()
            source.close()
            cutter.end()
            assert whole.facts() == (one["sha256"], size)
            entries.append(dict(one, file=file, segments=segments))
        else:
            target = os.path.join(folder, file + ".age")
            facts = vault_stream.encrypt_to_file(["cat", one["path"]], recipient, target)
            assert (facts["sha256"], facts["bytes"]) == (one["sha256"], size)
            vault_stream.publish(target)
            entries.append(dict(one, file=file, cipher_sha256=facts["cipher_sha256"], cipher_bytes=facts["cipher_bytes"]))
    return {"entries": entries}


def dump_chunks(params):
    """The stream that the job of a copy that is never staged sends, from where its dump begins."""
    if params["kind"] == "filestore":
        return copy_filestore_archive.archive_chunks(params["path"], copy_filestore.manifest(params["path"]), check=True)
    argv = dump_pg.dump_argv("pg_dump", "postgres", "dbname=" + params["database"], "")
    return copy_stream.process_chunks([word for word in argv if word != "--snapshot="], what="pg_dump")


def straight(params):
    """Dump, digest, compress, digest in one process; digest, encrypt, sync and digest in another: without a staging file, all at once."""
    folder, whole, segments = params["folder"], vault_pipe.Counted(), []
    os.makedirs(folder)
    chunks = dump_chunks(params)
    reading, writing = os.pipe()
    fcntl.fcntl(writing, vault_pipe.SET_PIPE_SIZE, 4 * vault_pipe.BLOCK)
    before, began = cpu(), time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(reading)
        level = copy_stream.FILES_LEVEL if params["kind"] == "filestore" else copy_stream.DUMP_LEVEL
        copy_stream.pour(chunks, writing, copy_stream.find_codec(level=level))
        os._exit(0)
    os.close(writing)
    size = vault_segments.segment_size(params["estimate"])
    cutter = vault_segments.Cutter(folder, "straight", 1, size, params["recipient"], whole, segments.append)
    while True:
        block = os.read(reading, vault_pipe.BLOCK)
        if not block:
            break
        cutter.take(block)
    assert os.waitpid(child, 0)[1] == 0
    cutter.end()
    return {"wall": time.monotonic() - began, "cpu": cpu() - before, "bytes": whole.bytes}


class Note(object):
    def note(self, **_facts):
        pass


def opened(params):
    package = types.SimpleNamespace(
        root="/srv/vault",
        estate="bench",
        name="bench",
        identity_of=lambda _which: params["identity"],
        folder=lambda _item: params["folder"],
    )
    return proof_run.Artefacts(package, params["item"], params["entries"], Note())


def verify(params):
    """Read back: sha256 of the ciphertext, age, sha256, zstd, sha256, all compared with what was recorded."""
    opened(params).rest()
    return {}


def prove(params):
    """Restored into a throw-away server and compared; as the vault's user, as the module insists."""
    result = proof_run.prove(params["proof"], opened(params), params["source"], "/dev/shm")
    assert result["verdict"] == "equal", result
    return {"verdict": result["verdict"]}


def main():
    act, params = globals()[sys.argv[1]], json.loads(sys.argv[2])
    if act is not shell:  # as our jobs and modules do; the peers are left as their users run them
        _job.for_throughput()
    before, machine, began = cpu(), busy(), time.monotonic()
    answer = act(params)
    wall, used = time.monotonic() - began, cpu() - before
    others = max(0.0, busy() - machine - used) / wall
    own, helpers = (resource.getrusage(who).ru_maxrss >> 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps(dict(dict(wall=wall, cpu=used), **answer, resident_mib=own, helper_mib=helpers, others=others)))


if __name__ == "__main__":
    main()
