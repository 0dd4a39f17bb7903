# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every act as a step, the options that it takes from plan and ledger, and the gates before it.

Private to the collection; on the control node.
"""
