# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gate and record M(scheduler_state): see plugin_utils/actions/recording.py."""

from __future__ import annotations

from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import RecordedAction


class ActionModule(RecordedAction):
    """Nothing of its own."""
