# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a module says of itself, for tests that hold it against the code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.sunset.crm.plugins.doc_fragments.recorded import ModuleDocFragment


def documentation(path: Path) -> dict[str, Any]:
    """The documentation of a module with the fragments that it extends, as ansible-doc shows it."""
    found: dict[str, Any] = next(iter(_strings(path, "DOCUMENTATION")))
    for name in found.get("extends_documentation_fragment", []):
        part = yaml.safe_load(getattr(ModuleDocFragment, (name.split(".")[3:] or ["documentation"])[0].upper()))
        assert name.startswith("sunset.crm.recorded")
        for key in ("options", "attributes"):
            found[key] = {**part.get(key, {}), **found.get(key, {})}
    return found


def _strings(path: Path, *names: str) -> Iterator[Any]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in names:
            yield yaml.safe_load(ast.literal_eval(node.value))
