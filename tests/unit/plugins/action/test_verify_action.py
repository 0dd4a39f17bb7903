# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the verification hands on to a vault."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ansible.plugins.action import ActionBase

from ansible_collections.sunset.crm.plugins.action import vault_verify


def test_a_shelf_whose_end_is_written_as_a_date_is_verified(tmp_path: Path, monkeypatch: Any) -> None:
    """YAML makes a date of an unquoted retain_until, which the plan takes too."""
    given: dict[str, Any] = {}

    def module(module_name: str, module_args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        given.update(module_args)
        return {"packages": [], "verdict": "intact"}

    monkeypatch.setattr(ActionBase, "run", lambda *_args, **_more: {})
    action: Any = object.__new__(vault_verify.ActionModule)
    shelf = {"kind": "s3", "bucket": "archive", "retain_until": date(2036, 12, 31), "require_worm": True}
    action._templar = SimpleNamespace(template=lambda value: value)
    action._task = SimpleNamespace(args={"root": "/srv/vault", "shelf": shelf, "log": str(tmp_path / "log")}, check_mode=False)
    action._execute_module = module
    assert not action.run(task_vars={"inventory_hostname": "vault1"}).get("failed")
    assert given["shelf"] == {**shelf, "retain_until": "2036-12-31"}
