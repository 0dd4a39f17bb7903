# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The world in which the molecule scenarios run, and how each of them is prepared, looked at and killed.

Throw-away systemd containers of the lab's image, apart from the lab's own estate: other names, another network, another
label. The playbooks in extensions/molecule call this as a program (python -m tests.scenarios).
"""
