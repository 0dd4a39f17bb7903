# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the preserve benchmark times, inside its container: one act a process, whose peak of memory is then its own.

inside.py <act> <JSON of its arguments>     prints JSON: wall, cpu, resident_mib, helper_mib and what the act returns
"""

import itertools
import json
import os
import resource
import subprocess
import sys
import time
import types

sys.path.insert(0, "/opt/sunset-test")
from ansible_collections.sunset.crm.plugins.module_utils import (
    _dump_job,
    _reach,
    _staging,
    _vault_pipe,
    _vault_prove,
    _vault_segments,
    _vault_stream,
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


class Phases(_dump_job.Report):
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
        from ansible_collections.sunset.crm.plugins.module_utils import _database

        spec = _database.specification(dict({"port": None, "socket": None, "rate": None, "engine": params["kind"]}, **params))[0]
    place = _staging.Staging("/srv/staging", params["item"])
    place.prepare()
    report = Phases("/srv/staging")
    report.phase("start")
    with _reach.opened(spec) as live:
        artefacts, facts = _dump_job.KINDS[params["kind"]](live, place, report)
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
        if size > _vault_segments.SMALLEST:
            whole, segments = _vault_pipe.Counted(), []
            cutter = _vault_segments.Cutter(folder, file, 1, _vault_segments.segment_size(size), recipient, whole, segments.append)
            source = _vault_pipe.Source(["cat", one["path"]], 60)
            for block in source.blocks():
                cutter.take(block)
            source.require_good_end()
            source.close()
            cutter.end()
            assert whole.facts() == (one["sha256"], size)
            entries.append(dict(one, file=file, segments=segments))
        else:
            target = os.path.join(folder, file + ".age")
            facts = _vault_stream.encrypt_to_file(["cat", one["path"]], recipient, target)
            assert (facts["sha256"], facts["bytes"]) == (one["sha256"], size)
            _vault_stream.publish(target)
            entries.append(dict(one, file=file, cipher_sha256=facts["cipher_sha256"], cipher_bytes=facts["cipher_bytes"]))
    return {"entries": entries}


def seal(params):
    """Digest, encryption, digest and sync in one stream to one file, and nothing else. The file is of no further use."""
    for one in params["artefacts"]:
        target = os.path.join(params["folder"], "sealed.age")
        facts = _vault_stream.encrypt_to_file(["cat", one["path"]], params["recipient"], target)
        assert (facts["sha256"], facts["bytes"]) == (one["sha256"], one["bytes"])
        _vault_stream.publish(target)
    return {}


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
    return _vault_prove.Artefacts(package, params["item"], params["entries"], Note())


def verify(params):
    """Read back: sha256 of the ciphertext, age, sha256, zstd, sha256, all compared with what was recorded."""
    opened(params).rest()
    return {}


def prove(params):
    """Restored into a throw-away server and compared; as the vault's user, as the module insists."""
    result = _vault_prove.prove(params["proof"], opened(params), params["source"], "/dev/shm")
    assert result["verdict"] == "equal", result
    return {"verdict": result["verdict"]}


def main():
    act, params = globals()[sys.argv[1]], json.loads(sys.argv[2])
    before, machine, began = cpu(), busy(), time.monotonic()
    answer = act(params)
    wall, used = time.monotonic() - began, cpu() - before
    others = max(0.0, busy() - machine - used) / wall
    own, helpers = (resource.getrusage(who).ru_maxrss >> 10 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(json.dumps(dict(answer, wall=wall, cpu=used, resident_mib=own, helper_mib=helpers, others=others)))


if __name__ == "__main__":
    main()
