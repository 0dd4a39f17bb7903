# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The error classes whose text is meant for the person at the terminal."""

from __future__ import annotations


class Refusal(Exception):
    """Something is missing or wrong; nothing was touched. The text says what was found, expected and what to do.

    public: the text for the ledger, where the other one repeats what a task was given. recorded: it is in the ledger already.
    """

    def __init__(self, text: str, public: str = "", *, recorded: bool = False) -> None:
        super().__init__(text)
        self.public = public or text
        self.recorded = recorded


class NotYet(Refusal):
    """It does not answer, and may in a moment: a machine that was just switched on is still coming up."""
