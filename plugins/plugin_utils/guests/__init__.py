# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Guests whatever their hypervisor: the core without a backend, sets of them in the plan, verbs, engines that are not handled.

Private to the collection; on the control node.
"""
