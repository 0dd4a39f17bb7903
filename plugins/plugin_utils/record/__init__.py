# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The estate's folder: its lock, the ledger and its copies, what the ledger says of each item now.

Private to the collection; on the control node.
"""
