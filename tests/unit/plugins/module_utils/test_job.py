# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What travels with a job, and that it runs from that alone."""

import fcntl
import importlib.util
import json
import os
import re
import subprocess
import sys

import pytest

from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._copy import direct_job as copy_direct_job, job as copy_job
from ansible_collections.sunset.crm.plugins.module_utils._volume import engine as volume_engine
from ansible_collections.sunset.crm.plugins.module_utils._wipe import engine as wipe_engine, luks as wipe_luks, purge as wipe_purge

PROBE = """
import json, os, sys
from {0}._copy import stream as copy_stream
from {0}._service.proc import TCP_LISTEN  # nothing but a number: found by the import, not by what it is

def main(argv):
    told = {{"stream": copy_stream.__file__, "spec": json.load(open(argv[1])), "flags": [sys.flags.isolated, sys.dont_write_bytecode]}}
    with open(os.path.join(os.path.dirname(argv[1]), "result.json"), "w") as stream:
        json.dump(told, stream)
    return 3
"""


@pytest.fixture
def probe(tmp_path):
    """A small entry module, as if it were one of the package."""
    path = tmp_path / "_probe.py"
    path.write_text(PROBE.format(_job.PACKAGE))
    spec = importlib.util.spec_from_file_location(_job.PACKAGE + "._probe", str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("entries", [[copy_job, copy_direct_job], [wipe_engine], [wipe_purge], [wipe_luks], [volume_engine]])
def test_the_job_takes_along_what_it_needs(entries):
    """A module that is missing in the job's directory is only found out on a host."""
    travels = _job.sources(*entries)
    for name, text in travels.items():
        assert "sys.path" not in text or name in ("_job", "_database.config_read"), name
        wanted = set()
        for whence, several, one in re.findall(r"^ *from %s(\S*) import (?:\(([^)]*)\)|(.*))$" % re.escape(_job.PACKAGE), text, re.M):
            whence = whence.lstrip(".")
            if whence in travels:
                wanted.add(whence)
                continue
            names = re.findall(r"(\w+)(?: as \w+)?\s*(?:,|$)", re.sub(r"#.*", "", several or one).strip())
            assert names
            wanted |= {"%s.%s" % (whence, named) if whence else named for named in names}
        assert wanted <= set(travels), name
    assert any("." in name for name in travels)


def test_it_runs_from_its_directory_and_a_collection_of_the_system_does_not_win(probe, tmp_path):
    folder, other = tmp_path / "job", tmp_path / "system"
    folder.mkdir()
    (other / "ansible_collections/sunset/crm/plugins").mkdir(parents=True)
    for path in ("", "sunset", "sunset/crm", "sunset/crm/plugins"):
        (other / "ansible_collections" / path / "__init__.py").write_text("raise SystemExit('the collection of the system')\n")
    entry = _job.lay(str(folder), probe)
    (folder / "spec.json").write_text("{}")
    script = "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
    argv = [sys.executable, "-I", "-B", "-c", script, str(other), entry, str(folder / "spec.json")]
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/")
    assert done.returncode == 3, done.stdout
    assert json.loads((folder / "result.json").read_text())["stream"].startswith(str(folder))


def test_a_directory_of_the_older_layout_is_used_again(probe, tmp_path):
    """There the code lay flat: entry and helpers beside each other."""
    job = _job.Job(str(tmp_path), "job")
    os.mkdir(job.directory)
    for name in ("_probe.py", "_stream.py", "_proc.py", "result.json"):
        with open(os.path.join(job.directory, name), "w") as stream:
            stream.write("raise SystemExit('the older code')\n" if name.endswith(".py") else "{}")
    job.start({"a": 1}, probe)
    status = job.wait(20)
    assert status["state"] == "done", job.log_tail()
    assert status["result"]["spec"] == {"a": 1, "directory": job.directory} and status["result"]["flags"] == [1, True]
    job.forget()
    assert not os.path.exists(job.directory)


def test_a_running_job_is_attached_to_and_not_touched(probe, tmp_path):
    job = _job.Job(str(tmp_path), "job")
    os.mkdir(job.directory)
    with open(os.path.join(job.directory, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job.start({"a": 1}, probe)
        assert job.status()["state"] == "running"
        job.forget()
    assert os.listdir(job.directory) == ["lock"] and job.status()["state"] == "absent"


@pytest.mark.parametrize("asked, seen", [("--other", os.SCHED_BATCH), ("--idle", os.SCHED_IDLE)])
def test_a_job_lets_others_go_first_unless_somebody_has_chosen_already(asked, seen):
    code = "import os, sys; sys.path[:0] = %r; from ansible_collections.sunset.crm.plugins.module_utils import _job; " % (sys.path,)
    code += "_job.for_throughput(); pid = os.fork(); pid or print(os.sched_getscheduler(0), flush=True); pid and os.waitpid(pid, 0)"
    said = subprocess.check_output(["chrt", asked, "0", sys.executable, "-c", code])
    assert int(said) == seen
