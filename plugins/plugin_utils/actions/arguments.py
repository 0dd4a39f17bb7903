# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The options of a verb that runs on the control node, checked as a module's options are."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal


def checked(name: str, spec: dict[str, Any], args: dict[str, Any], **rules: Any) -> dict[str, Any]:
    """The options with their types and defaults. Raises Refusal that names every one that is wrong."""
    whole = {**spec, "item": {"type": "str", "required": True}, "receipt": {"type": "dict"}}
    result = ArgumentSpecValidator(whole, **rules).validate(args)
    if result.error_messages:
        raise Refusal(f"{name}: {'; '.join(result.error_messages)}")
    return dict(result.validated_parameters)


def check_force(options: dict[str, Any], what: str) -> None:
    """Refuse a force that nobody can have meant: at once, too late to be seen, or allowed by nobody. what: a guest, a host."""
    after = options["force_after"]
    if after is None:
        return
    if not 0 < after < options["timeout"]:
        raise Refusal(
            f"force_after is {after:g}; expected seconds above 0: it must be shorter than timeout ({options['timeout']:g}), or {what} that was cut off "
            "has no time left to be seen off. Leave it out where nothing may be cut off"
        )
    if not str(options["force_allowed_by"] or "").strip():
        raise Refusal("force_allowed_by is empty; expected the name of the person who allowed it, which is recorded. Nothing was changed")
