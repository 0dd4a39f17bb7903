# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Virtual disks on a host that stays: what they are made of, and how they are overwritten.

Private to the collection. Valid for Python 3.6, standard library.
"""
