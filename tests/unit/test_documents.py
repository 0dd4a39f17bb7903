# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whoever follows a link of the documents, or a page that a message names, arrives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._survey import stores as survey_stores

TOP = Path(__file__).parents[2]
PAGES = [TOP / "README.md", TOP / "CHANGELOG.md", *sorted((TOP / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```.*?^```", re.M | re.S)


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ (.*)$", FENCED.sub("", page.read_text()), re.M)


def anchors(page: Path) -> set[str]:
    """As the usual places that show Markdown make them: what is no letter, digit, hyphen or underscore goes."""
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings(page)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(TOP)))
def test_every_link_leads_to_a_page_and_a_heading_of_it(page: Path) -> None:
    for name, anchor in re.findall(r"\]\((?!https?:|mailto:)([^)#\s]*)(?:#([^)]*))?\)", FENCED.sub("", page.read_text())):
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {name}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {name}#{anchor}"


def test_the_index_of_the_operators_pages_names_each_of_them() -> None:
    found = set(re.findall(r"\]\(operator/([a-z-]+\.md)\)", (TOP / "docs/operator.md").read_text()))
    assert found == {page.name for page in (TOP / "docs/operator").iterdir()}


def test_what_a_message_says_of_a_page_is_there() -> None:
    named = 0
    for folder in ("plugins", "roles", "playbooks", "inventories", "scripts", "profiles"):
        for path in (TOP / folder).rglob("*"):
            if not path.is_file() or path.suffix == ".pyc":
                continue
            for page, heading in re.findall(r"docs/([a-z/-]+\.md)(?:, ['\"]([^'\"]+)['\"])?", path.read_text()):
                assert (TOP / "docs" / page).is_file(), f"{path.name}: {page}"
                assert page != "operator.md", f"{path.name}: the index of the pages, not the one that says it"
                assert not heading or heading in headings(TOP / "docs" / page), f"{path.name}: {page}, {heading}"
                named += 1
    assert named > 15


def test_no_page_says_of_an_engine_that_is_handled_that_it_is_not() -> None:
    told = {name for page in PAGES for name in re.findall(r"no\s+copy\s+of\s+a\s+(\w+)\s+database", page.read_text())}
    assert told and not told & set(survey_stores.ENGINES)


def written(*folders: str) -> str:
    """All text of these folders that git would keep."""
    kept = (path for folder in folders for path in sorted((TOP / folder).rglob("*")) if path.is_file() and path.suffix != ".pyc")
    return "\n".join(path.read_text(errors="replace") for path in kept)


def test_what_the_pages_tell_people_to_type_is_there() -> None:
    """Playbooks, modules, targets of make, scripts, and variables of this collection."""
    playbooks = {path.stem for path in (TOP / "playbooks").glob("*.yml")}
    modules = {path.stem for folder in ("modules", "action", "callback") for path in (TOP / "plugins" / folder).glob("*.py")}
    roles = {path.name for path in (TOP / "roles").iterdir()}
    targets = set(re.findall(r"^([a-z-]+):", (TOP / "Makefile").read_text(), re.M))
    variables = set(re.findall(r"\bsunset_[a-z0-9_]+", written("playbooks", "roles", "plugins", "inventories", "extensions")))
    seen, lost = 0, []
    for page in PAGES:
        text = page.read_text()
        code = "\n".join([*re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S), *re.findall(r"`([^`\n]+)`", FENCED.sub("", text))])
        for pattern, known in (
            (r"\bsunset\.crm\.([a-z_]+)", playbooks | modules | roles | {"plugins"}),
            (r"(?:^|[\s;&(])make ([a-z-]+)", targets),
            (r"(?<![\w/-])(sunset_[a-z0-9_]+[a-z0-9])(?![\w/*])", variables | modules),
        ):
            found = re.findall(pattern, code)
            seen += len(found)
            lost += [f"{page.name}: {name}" for name in found if name not in known]
        # NAME.yml, three dots and a star stand for any.
        for place in re.findall(r"(?<![\w/.])((?:playbooks|scripts|inventories|tests|profiles|roles)/[\w./*-]+)", code):
            if not re.search(r"/[A-Z]{3,}|\.\.\.|\*", place) and not (TOP / place.rstrip(".")).exists():
                lost.append(f"{page.name}: {place}")
    assert seen > 50 and not lost, lost
