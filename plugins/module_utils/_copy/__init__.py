# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Copies made on a host: the job that makes one, its place, its pipe, and file trees with their archives.

Private to the collection. Valid for Python 3.6, standard library.
"""
