# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""XLSX of one entity, written row by row. CRM data is hostile: every cell is text or a number, never a formula or a link.

Private to the collection. Valid for Python 3.6. Needs the library XlsxWriter, which is looked for only where XLSX is wanted.
"""

import os
from typing import Any, Dict, List, Optional, Sequence, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

# A sheet of the format ends there; the header takes one row, so does nothing else.
ROWS = 1048575
COLUMNS = 16384
CELL = 32767
# A number of more digits would be rounded by the format.
DIGITS = 15


def library():
    # type: () -> Any
    try:
        import xlsxwriter  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise VaultError(
            "the Python library XlsxWriter is not on this vault, and the export asks for XLSX; install the package python3-xlsxwriter "
            "there, or leave XLSX out (sunset_settings: {readable: {xlsx: false}}), which is then recorded",
            verdict="unknown",
        )
    return xlsxwriter


def number(kind, text):
    # type: (str, str) -> Optional[float]
    """The number that a spreadsheet can hold without loss; None for text."""
    if kind not in ("integer", "number") or sum(c.isdigit() for c in text.split("e")[0]) > DIGITS:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if abs(value) < 1e300 else None


def fitting(text):
    # type: (str) -> Tuple[str, bool]
    """The text as a cell can hold it, and whether it was cut. What was cut says so and where the whole is."""
    if len(text) <= CELL and len(text.encode("utf-16-le", "replace")) // 2 <= CELL:
        return text, False
    told = " [cut: the cell has %d characters, all of them are in the CSV file]" % len(text)
    return text[: (CELL - len(told)) // 2] + told, True


class Sheets(object):
    """Workbooks in a directory: stem.xlsx, stem.2.xlsx, ... each with as many rows as its one sheet can hold."""

    def __init__(self, directory, stem, fields, limit=ROWS):
        # type: (str, str, List[Dict[str, Any]], int) -> None
        if len(fields) > COLUMNS:
            raise VaultError("%s has %d columns; a sheet holds %d; leave XLSX out" % (stem, len(fields), COLUMNS), verdict="unknown")
        self.module, self.directory, self.stem, self.fields, self.limit = library(), directory, stem, fields, limit
        self.files = []  # type: List[Tuple[str, str, int]]
        self.rows = self.cut = 0
        self._book = self._sheet = None  # type: Any
        self._begin()

    def _begin(self):
        # type: () -> None
        number_of = len(self.files) + 1
        name = self.stem + ("" if number_of == 1 else ".%d" % number_of) + ".xlsx"
        self._path = os.path.join(self.directory, "sheet-%d" % number_of)
        self._name, self._row = name, 0
        options = {
            "constant_memory": True,
            "tmpdir": self.directory,
            "strings_to_formulas": False,
            "strings_to_urls": False,
            "strings_to_numbers": False,
            "use_zip64": True,
        }
        self._book = self.module.Workbook(self._path, options)
        self._sheet = self._book.add_worksheet("records")
        bold = self._book.add_format({"bold": True})
        for column, one in enumerate(self.fields):
            self._sheet.write_string(0, column, fitting(one["name"])[0], bold)

    def add(self, row):
        # type: (Sequence[Optional[str]]) -> None
        if self._row == self.limit:
            self._end()
            self._begin()
        self._row += 1
        self.rows += 1
        for column, value in enumerate(row):
            if value is None:
                continue
            figure = number(self.fields[column]["type"], value)
            if figure is not None:
                told = self._sheet.write_number(self._row, column, figure)
            else:
                text, cut = fitting(value)
                self.cut += cut
                told = self._sheet.write_string(self._row, column, text)
            if told:
                raise VaultError("XlsxWriter did not take a cell of %s (code %s)" % (self.stem, told), verdict="unknown")

    def _end(self):
        # type: () -> None
        self._book.close()
        self._book = None
        self.files.append((self._name, self._path, self._row))

    def close(self):
        # type: () -> List[Tuple[str, str, int]]
        """[(file name, path, rows)]."""
        self._end()
        return self.files
