# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server that an application keeps its data in: the way to it, whose credentials, who else writes and is logged in.

Private to the collection. Valid for Python 3.6, standard library.
"""
