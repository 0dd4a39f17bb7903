# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What runs on a host: units, timetables, web sites, container engines; who listens, who still talks.

Private to the collection. Valid for Python 3.6, standard library.
"""
