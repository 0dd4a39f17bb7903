# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host shows of itself: what is declared, what is there besides, what the machine is known by.

Private to the collection. Valid for Python 3.6, standard library.
"""
