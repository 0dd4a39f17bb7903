# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's power and what it boots from: who sees it, who can change it, what is decided about it.

Private to the collection; on the control node.
"""
