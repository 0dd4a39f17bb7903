# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the documentation of every module that changes the world shares."""

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  item:
    description: Id of the item in the plan that this act belongs to, such as V(database:crm) or V(host:db1).
    type: str
    required: true
  receipt:
    description: Set by the collection's action plugin; binds this call to its intent in the ledger. Without it the module refuses to act.
    type: dict
attributes:
  check_mode:
    support: full
    description: Takes the same decision and changes nothing.
  diff_mode:
    support: none
    description: The result says what was found, what was done and what is there now.
"""

    # A package on a vault.
    PACKAGE = r"""
options:
  root:
    description: Directory of the vault that holds all packages.
    type: path
    required: true
  estate:
    description: Name of the estate.
    type: str
    required: true
  package:
    description: Name of the package, which is the inventory name of the host.
    type: str
    required: true
  live_dir:
    description:
      - Directory in memory for the package's identity and the pull key. Must be tmpfs.
      - The default is C(/dev/shm/sunset-vault-<uid>).
    type: path
"""
