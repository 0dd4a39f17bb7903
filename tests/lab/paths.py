# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the lab keeps things: the checkout, the cache that outlives it, the state of the one running estate."""

from __future__ import annotations

import os
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sunset-crm"
"""Images, wheels, prepared media: made once, used by every clean clone."""

STATE = Path(os.environ.get("SUNSET_LAB_STATE") or TOP / ".lab").resolve()
"""Keys, loop files, generated inventory of the estate that is up now."""

KEYS = STATE / "keys"
MEDIA = STATE / "media"
PEOPLE = STATE / "people"
INVENTORY = STATE / "inventory"
ESTATE = STATE / "estate"
KNOWN_HOSTS = STATE / "known_hosts"
FACTS = STATE / "lab.json"

NAME = "sunset-lab"
"""Every container, network, volume and image of the lab begins with this, and carries it as a label."""
