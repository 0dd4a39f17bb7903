#!/usr/bin/env python3
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The inventory that `python -m tests.scenarios` wrote for the containers that are up; empty before they are."""

import os
import pathlib

TOP = pathlib.Path(__file__).resolve().parents[2]
STATE = pathlib.Path(os.environ.get("SUNSET_LAB_STATE") or TOP / ".lab")

try:
    print((STATE / "molecule/inventory.json").read_text())
except FileNotFoundError:
    print("{}")
