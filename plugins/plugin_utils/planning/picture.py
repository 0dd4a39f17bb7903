# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Who stands on whom as a picture: a tree for a terminal and an SVG for the report. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import Item, Plan, order
from ansible_collections.sunset.crm.plugins.plugin_utils.runs.runs import power_order

COLOURS = {
    "host": "#57606a",
    "application": "#1f6feb",
    "database": "#8250df",
    "filestore": "#1a7f37",
    "container": "#0a7ea4",
    "guest": "#0a7ea4",
    "medium": "#9a6700",
}
LETTER, HEIGHT, GAP, ROW, MARGIN = 7.2, 26, 14, 84, 16
WIDEST = 1400


def _told(item: Item, tiers: Mapping[str, int]) -> str:
    words = [f"wave {item['wave']}"]
    if item["kind"] == "host":
        words.append("stays in use" if item["expects"].get("stays") else f"goes off as number {tiers[item['host']] + 1}")
    if item.get("media"):
        words.append("on " + ", ".join(item["media"]))
    return f"{item['id']}  ({'; '.join(words)})"


def turns(plan: Plan) -> dict[str, int]:
    """Host -> when it goes off: by tiers, and every hypervisor after all that is none."""
    late = plan.hypervisors()
    keys = {host: (host in late, tier) for host, tier in power_order(plan).items()}
    ranks = {key: number for number, key in enumerate(sorted(set(keys.values())))}
    return {host: ranks[key] for host, key in keys.items()}


def tree(plan: Plan, kept: Iterable[Mapping[str, str]] = ()) -> str:
    """The lowest at the left; what stands on it below and to the right of it. What stands on several is shown under each."""
    tiers = turns(plan)
    lines: list[str] = []
    above = {item_id: [one for one in plan.items.values() if item_id in one["stands_on"]] for item_id in plan.items}

    def draw(item: Item, lead: str, branch: str, shown: set[str]) -> None:
        lines.append(f"{lead}{branch}{_told(item, tiers)}" + ("  (see above)" if item["id"] in shown and above[item["id"]] else ""))
        if item["id"] in shown:
            return
        shown.add(item["id"])
        deeper = lead + {"": "", "├─ ": "│  ", "└─ ": "   "}[branch]
        carried = sorted(above[item["id"]], key=lambda one: (one["kind"] != "host", one["id"]))
        for number, one in enumerate(carried, 1):
            draw(one, deeper, "└─ " if number == len(carried) else "├─ ", shown)

    seen: set[str] = set()
    for item in sorted(plan.items.values(), key=lambda one: (one["kind"] != "host", one["id"])):
        if not item["stands_on"] and item["kind"] != "medium":
            draw(item, "", "", seen)
    lines.append("")
    for wave in plan.waves:
        by_tier: dict[int, list[str]] = {}
        for item in (one for one in plan.of("host", wave=wave) if not one["expects"].get("stays")):
            by_tier.setdefault(tiers[item["host"]], []).append(item["host"])
        told = "; then ".join(", ".join(sorted(by_tier[tier])) for tier in sorted(by_tier))
        lines.append(f"Wave {wave}, in this order: {told or 'no host'}")
    rows = list(kept)
    if rows:
        lines += ["", "What is kept:"] + [f"  {row['role']} {row['name']}: {row['verdict']} ({row['why']})" for row in rows]
    return "\n".join(lines) + "\n"


def _levels(plan: Plan) -> dict[str, int]:
    levels: dict[str, int] = {}
    for item_id in order(list(plan.items.values())):
        item = plan.items[item_id]
        under = [*item["stands_on"], *item.get("media", [])]
        levels[item_id] = 1 + max((levels.get(one, 0) for one in under), default=0 if item["kind"] != "medium" else -1)
    return levels


def svg(plan: Plan) -> str:
    """Rows of boxes, the lowest at the bottom; a line leads from each to what it stands on, a broken one to its medium."""
    levels = _levels(plan)
    rows: dict[int, list[Item]] = {}
    for item in sorted(plan.items.values(), key=lambda one: (one["host"], one["id"])):
        rows.setdefault(levels[item["id"]], []).append(item)
    # A row that is wider than the page goes on above itself.
    folded: list[list[Item]] = []
    for level in sorted(rows, reverse=True):
        folded += reversed(_folded(rows[level]))
    places: dict[str, tuple[float, float, float]] = {}
    width = 0.0
    for number, row in enumerate(folded):
        x = float(MARGIN)
        for item in row:
            size = len(item["id"]) * LETTER + 18
            places[item["id"]] = (x, MARGIN + number * ROW, size)
            x += size + GAP
        width = max(width, x - GAP + MARGIN)
    height = MARGIN * 2 + HEIGHT + (len(folded) - 1) * ROW
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" height="{height:.0f}" '
        'role="img" font-family="ui-monospace, monospace" font-size="12">',
        f"<title>{escape(plan.estate)}: who stands on whom</title>",
    ]
    for item in plan.items.values():
        for parent, broken in [
            *((one, "") for one in item["stands_on"]),
            *((one, ' stroke-dasharray="4 3"') for one in item.get("media", [])),
        ]:
            parts.append(_line(places[item["id"]], places[parent], broken))
    for item in plan.items.values():
        x, y, size = places[item["id"]]
        colour = COLOURS.get(item["kind"], "#57606a")
        parts.append(
            f"<g><title>{escape(item['id'])}, wave {escape(str(item['wave']))}</title>"
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{size:.1f}" height="{HEIGHT}" rx="5" fill={quoteattr(colour)}/>'
            f'<text x="{x + size / 2:.1f}" y="{y + 17:.1f}" fill="#fff" text-anchor="middle">{escape(item["id"])}</text></g>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _folded(row: list[Item]) -> list[list[Item]]:
    found: list[list[Item]] = [[]]
    used = 0.0
    for item in row:
        size = len(item["id"]) * LETTER + 18 + GAP
        if found[-1] and used + size > WIDEST:
            found.append([])
            used = 0.0
        found[-1].append(item)
        used += size
    return found


def _line(one: tuple[float, float, float], other: tuple[float, float, float], style: str) -> str:
    (x, y, size), (x2, y2, size2) = one, other
    # Rows that were folded may lie above what they stand on, or beside it.
    from_y, to_y = (y + HEIGHT, y2) if y <= y2 else (y, y2 + HEIGHT)
    middle = (from_y + to_y) / 2
    return (
        f'<path d="M{x + size / 2:.1f} {from_y:.1f} C{x + size / 2:.1f} {middle:.1f} {x2 + size2 / 2:.1f} {middle:.1f} '
        f'{x2 + size2 / 2:.1f} {to_y:.1f}" fill="none" stroke="#8c959f" stroke-width="1.2"{style}/>'
    )


def page_of(plan: Plan) -> dict[str, Any]:
    """What the report shows of it."""
    return {"svg": svg(plan), "tree": tree(plan)}
