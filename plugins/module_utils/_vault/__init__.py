# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Packages on a vault: opened, filled, sealed, read again, destroyed.

Private to the collection. Valid for Python 3.6, standard library.
"""
