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
