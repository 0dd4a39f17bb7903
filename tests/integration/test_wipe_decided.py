# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the wipe decides on the machine itself before its first write, and the disks of a vault: on loop devices that the test makes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._disk import kept as disk_kept
from tests.integration.loop_media import (
    MIB,
    Medium,
    a_medium as _medium,  # noqa: F401
    call_wipe as _wipe,  # noqa: F401
    claim,
    halted,
    job_folder,
    kill_job,
    wait_for,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="loop devices need root")
PROBE = """
import json, sys
from ansible.module_utils.testing import patch_module_args
from ansible_collections.sunset.crm.plugins.modules import vault_probe
with patch_module_args(json.load(sys.stdin)):
    vault_probe.main()
"""


def told_by_vault(root: Path) -> list[dict[str, Any]]:
    """What the vault's own probe answers about the disks that it uses."""
    process = subprocess.run(
        [sys.executable, "-B", "-c", PROBE],
        input=json.dumps({"root": str(root), "disks": True, "_ansible_module_name": "vault_probe"}),
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    disks: list[dict[str, Any]] = json.loads(process.stdout.strip().splitlines()[-1])["vault"]["disks"]
    return disks


def test_asked_for_purge_a_virtual_disk_is_refused_with_a_proposal_and_left_as_it_was(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    before = medium.content()
    for check in (True, False):
        answer = wipe(check=check, policy={"asked": "purge"})
        assert answer["failed"] and answer["result"]["outcome"] == "refused" and answer["evidence"]["verdict"] == "no"
        assert "asked for purge, and nothing here reaches it" in answer["msg"] and "It is to be destroyed" in answer["msg"]
        assert answer["result"]["order"]["asked"] == "purge"
        assert answer["result"]["decision"]["chosen"] is None
    assert medium.content() == before and not (tmp_path / "state").exists()


def test_what_was_decided_and_found_before_is_in_the_evidence(medium: Medium, wipe: Any) -> None:
    claim(["mkfs.ext4", "-q", "-F", medium.device])
    answer = wipe()
    assert answer["result"]["outcome"] == "sanitised", answer
    decision, before = answer["evidence"]["result"]["decision"], answer["evidence"]["result"]["state_before"]
    assert decision["verdict"] == "plan" and decision["asked"] == "clear"
    assert decision["chosen"]["id"] == "overwrite-keyed" and decision["chosen"]["class"] == "logical"
    assert any("layers below" in line for line in decision["chosen"]["not_reached"])
    assert (before["class"], before["layer"], before["transport"]) == ("virtual", "loop", "loop")
    assert before["sizes"]["current"] == 16 * MIB and before["holders"] == []
    assert any("ext" in line for line in before["contents"]), before["contents"]
    assert before["counters"]["kernel"]["sectors_written"] >= 0


def test_a_job_that_goes_on_keeps_what_was_found_before_its_first_write(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    claim(["mkfs.ext4", "-q", "-F", medium.device])
    with halted(tmp_path):  # however long the call takes: the job begins when it is looked at
        wipe(rate=4 * MIB, wait=0)
    kill_job(job_folder(tmp_path), wait_for(tmp_path, 20)["pid"])
    answer = wipe()
    result = answer["result"]
    assert result["outcome"] == "sanitised" and len(result["sessions"]) == 2
    assert any("ext" in line for line in result["state_before"]["contents"]), "what was there before the first start, not between the two"


def test_the_loop_device_that_a_vault_lies_on_is_refused_under_any_other_name(medium: Medium, wipe: Any, tmp_path: Path) -> None:
    """Its copies were mounted when the vault was asked. At the station nothing is mounted, and it has another number."""
    claim(["mkfs.ext4", "-q", "-F", medium.device])
    (tmp_path / "vault").mkdir()
    claim(["mount", medium.device, str(tmp_path / "vault")])
    try:
        (tmp_path / "vault" / "packages").mkdir()
        protected = told_by_vault(tmp_path / "vault" / "packages")
    finally:
        subprocess.run(["umount", str(tmp_path / "vault")], check=True)
    first = medium.device
    medium.detach()
    medium.attach_as("/dev/loop1003")  # too high for what other tests find free
    assert medium.device != first
    before = medium.content()
    answer = wipe(protected=protected)
    assert answer["failed"] and "control node or vault" in answer["msg"], answer["msg"]
    assert answer["result"]["outcome"] == "refused" and medium.content() == before
    # Without that list nothing is in the way: it is the list that has stopped it.
    assert wipe(check=True)["evidence"]["before"]["decision"] == "start"


def test_a_vault_without_root_can_tell_which_disks_it_uses() -> None:
    """Vaults work under an account of their own: the kernel's words must be enough."""
    source = Path(disk_kept.__file__).parents[1]
    ask = (
        "from ansible_collections.sunset.crm.plugins.module_utils._disk import kept as disk_kept; print(json.dumps(disk_kept.read(['/'])))"
    )
    script = f"import os, sys, json; os.setgid(65534); os.setuid(65534); sys.path.insert(0, sys.argv[1]); {ask}"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # another account has to read it
        target = Path(folder) / "ansible_collections/sunset/crm/plugins/module_utils"
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        # -I: nothing of this checkout, which that account may not be able to read.
        done = subprocess.run(["/usr/bin/python3", "-I", "-B", "-c", script, folder], capture_output=True, text=True, cwd="/", check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout), "the disk that carries / is in use"
