# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Planted marks: strings that occur nowhere else, so that a scan of a disk or a restored copy finds customer data."""

import hashlib

PREFIX = "SUNSETMARK-"

# How many of each kind the data sets hold, by the medium that carries them.
PLANTED = {
    "pgdata": {"creme-organisation": 150, "creme-contact": 300, "creme-opportunity": 200},
    "uploads": {"creme-document": 60},
    "mydata": {"old-contact": 2000, "old-note": 3000, "old-setting": 50},
    "shopvol": {"shop-order": 400},
}


def mark(kind: str, number: int) -> str:
    return PREFIX + hashlib.sha256(("%s:%d" % (kind, number)).encode()).hexdigest()[:16]


def planted(medium: str) -> "list[str]":
    """All marks that the medium's data sets hold."""
    return [mark(kind, n) for kind, count in PLANTED.get(medium, {}).items() for n in range(count)]
