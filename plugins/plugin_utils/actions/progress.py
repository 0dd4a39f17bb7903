# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How far a long step is, in words for a person. Pure."""

from __future__ import annotations

from typing import Any


def words(progress: dict[str, Any], now: float) -> str:
    """One line from a job's progress file.

    progress: C(phase); C(done) and C(total) count what the phase counts (tables, entries; bytes where C(bytes_per_second) is told),
    C(bytes) what a stream moved so far, C(started) seconds since the epoch. All may be missing: a job that was just started says nothing.
    """
    parts = [str(progress.get("phase") or "started")]
    done, total, rate = (_number(progress.get(name)) for name in ("done", "total", "bytes_per_second"))
    if total:
        parts.append(f"{size(done) if rate else done} of {size(total) if rate else total} ({100 * done // total} %)")
    if moved := _number(progress.get("bytes")):
        parts.append(size(moved))
    if rate:
        parts.append(f"{size(rate)}/s")
        if total > done:
            parts.append(f"about {duration((total - done) / rate)} left")
    if (started := _number(progress.get("started"))) and now > started:
        parts.append(f"for {duration(now - started)}")
    return ", ".join(parts)


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value > 0 else 0


def size(count: float) -> str:
    """Bytes as a person reads them, in powers of ten as on the label of a disk."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.2f} TB"


def duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    if not minutes:
        return f"{int(seconds)} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
