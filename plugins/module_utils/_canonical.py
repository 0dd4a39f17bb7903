# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""One byte form for everything that is digested: evidence, receipts, ledger lines, certificates.

Private to the collection. Valid for Python 3.6.
"""

import hashlib
import json
from typing import Any  # noqa: F401


def canonical(value):
    # type: (Any) -> bytes
    """JSON with sorted keys, no spaces and every non-ASCII character escaped: the form whose digest is recorded."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def digest(value):
    # type: (Any) -> str
    """SHA-256 of the canonical form, in hexadecimal."""
    return hashlib.sha256(canonical(value)).hexdigest()
