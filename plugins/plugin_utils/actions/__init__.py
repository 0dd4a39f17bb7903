# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The classes under the action plugins: gate, intent, act, outcome; their options and their evidence.

Private to the collection; on the control node.
"""
