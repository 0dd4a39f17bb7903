# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a person is told about a long step."""

from __future__ import annotations

from typing import Any

import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.progress import duration, size, words


@pytest.mark.parametrize(
    ("progress", "line"),
    [
        ({}, "started"),
        ({"phase": "fingerprint", "done": 12, "total": 224, "bytes": 0, "started": 940.0}, "fingerprint, 12 of 224 (5 %), for 1 min"),
        ({"phase": "dump", "done": 0, "total": 0, "bytes": 1_310_000_000, "started": 995}, "dump, 1.3 GB, for 5 s"),
        (
            {
                "phase": "write",
                "done": 250_000_000_000,
                "total": 1_000_000_000_000,
                "bytes_per_second": 200_000_000,
                "started": "2026-11-21",
            },
            "write, 250.0 GB of 1.00 TB (25 %), 200.0 MB/s, about 1 h 02 min left",
        ),
        ({"phase": "verify", "done": True, "total": None, "bytes": "many"}, "verify"),
    ],
)
def test_one_line_says_how_far_it_is(progress: dict[str, Any], line: str) -> None:
    assert words(progress, 1000.0) == line


def test_numbers_read_like_a_person_says_them() -> None:
    assert [size(n) for n in (0, 999, 1000, 2_500_000)] == ["0 B", "999 B", "1.0 kB", "2.5 MB"]
    assert [duration(n) for n in (0.4, 59, 60, 3599, 7260)] == ["0 s", "59 s", "1 min", "59 min", "2 h 01 min"]
