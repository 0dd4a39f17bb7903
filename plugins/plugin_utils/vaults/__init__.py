# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the control node knows of packages on vaults: how long they are kept, when they may end, how they were verified.

Private to the collection; on the control node.
"""
