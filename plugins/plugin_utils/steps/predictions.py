# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run in check mode expects its own earlier steps to have done.

Kept in Ansible's private temporary folder of this controller process, so that forks share it and it ends with the run; the
ledger is never written in check mode.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

from ansible import constants

NAME = "sunset-predicted.jsonl"


def _path() -> Path:
    return Path(str(constants.DEFAULT_LOCAL_TMP)) / NAME


def add(record: dict[str, Any]) -> None:
    fd = os.open(_path(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(fd, "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        stream.write(json.dumps(record) + "\n")


def read() -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in _path().read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
