# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's rescue as the control node sees it: keys, the way in, the medium, there and back.

Private to the collection; on the control node.
"""
