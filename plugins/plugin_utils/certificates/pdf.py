# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A certificate as PDF, for people who file paper: a view of the signed JSON, whose digest stands on every page.

The same certificate and fonts give the same bytes. A first page says what people ask for; then every field follows.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate as certificates
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

# TrueType files of the distributions: Latin and Cyrillic, then Chinese and Japanese, then Korean too. Those that are there are used.
FONTS = (
    "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf",
    "/usr/share/fonts/dejavu-sans-fonts/DejaVuSans.ttf",
    "/usr/share/fonts/truetype/droid/DroidSansFallbackFull.ttf",
    "/usr/share/fonts/google-droid-sans-fonts/DroidSansFallbackFull.ttf",
    "/usr/share/fonts/truetype/nanum/NanumGothic.ttf",
)
ADVICE = (
    "install Debian's fonts-dejavu-core, fonts-droid-fallback (Chinese, Japanese) and fonts-nanum (Korean), "
    "or name TrueType files (sunset_settings: {fonts: [...]})"
)
INK, GREY, RULE = (20, 20, 20), (110, 110, 110), (200, 200, 200)
LABEL, LINE = 48.0, 4.6  # width of the labels and height of a line, in mm


def shown(text: str) -> str:
    """Text from a device or a person as it may be printed: what steers a terminal or turns the direction of reading is spelt out."""
    steers = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
    return "".join(f"\\u{ord(char):04x}" if unicodedata.category(char) in steers else char for char in text)


def leaves(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Every field of the certificate as (path, text), lists of plain values in one line."""
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from leaves(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for number, part in enumerate(value, 1):
            yield from leaves(part, f"{path}[{number}]")
    elif isinstance(value, list):
        yield path, "; ".join(str(part) for part in value) or "none"
    else:
        yield path, "none" if value in ({}, None) else str(value)


def summary(document: dict[str, Any]) -> list[tuple[str, str]]:
    """What stands on the first page."""
    medium, people, work = document["medium"], document["people"], document["sanitisation"]
    verified, classes = document["verification"], work["classes"]
    rows = [
        ("Result", f"{document['result']['outcome'].replace('_', ' ')}: {work['called']}"),
        ("Medium", f"{medium['vendor']} {medium['model']}, {medium['media_class']}, {medium['transport']}"),
        ("Serial number", str(medium["serial"])),
        ("World wide name", str(medium["wwid"])),
        ("Size", f"{medium['size']} bytes"),
        ("Stood in", f"{medium['host']}, wiped at {medium['wiped_at']}"),
        ("Technique", work["technique"]),
        ("Class", f"NIST SP 800-88 Rev. 2: {classes['nist_800_88r2']}; Rev. 1 (withdrawn): {classes['nist_800_88r1']}; "
         f"IEEE 2883-2022: {classes['ieee_2883_2022']}"),
        ("Said of it", work["statement"]),
        *_decided(document),
        ("Began, ended", f"{work['started']}, {work['ended']}"),
        ("Verification", _verification(verified)),
        ("Exceptions", "; ".join(document["result"]["exceptions"]) or "none"),
        ("Data on it", "; ".join(f"{one['item']} ({_proofs(one)})" for one in document["data"]["sets"]) or "none planned"),
        ("Operator", people["operator"]),
        ("Approved the plan", people["approver"]),
        ("Authorised the wipe", people["authorised_by"]),
        ("Verifier", people["verifier"]),
        ("Control", {"dual": "two persons", "single": "one person, or one machine that could rewrite the record"}[document["control"]]),
        ("Time stamp", document["timestamp"]),
    ]  # fmt: skip
    return [(name, str(text)) for name, text in rows]


def _decided(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Why this technique and no other, and what the device hid before; nothing in a certificate that does not know."""
    decision, before = document.get("decision"), document["state_before"]
    if not isinstance(decision, dict):
        return []
    chosen = decision["chosen"]
    hidden = before["hidden_areas"]
    rows = [("Asked for, chosen", f"{decision['asked']}; {chosen['id']}: {chosen['why']}")]
    if decision["rejected"]:
        rows.append(("Not chosen", "; ".join(f"{one['id']}: {one['why']}" for one in decision["rejected"])))
    if chosen.get("not_reached"):
        rows.append(("Not reached", "; ".join(chosen["not_reached"])))
    if isinstance(hidden, dict):
        rows.append(("Hidden areas before", ", ".join(f"{name.upper()} {value}" for name, value in sorted(hidden.items()))))
    return rows


def _verification(verified: dict[str, Any]) -> str:
    told = f"{verified['mode']}: {verified['bytes_read']} bytes read, {verified['mismatches']} mismatches"
    if verified.get("canaries_left"):
        told += f"; {verified['canaries_found']} of {verified['canaries_left']} places left out on purpose were found, then wiped"
    return told


def _proofs(data_set: dict[str, Any]) -> str:
    proofs = [f"{proof['verdict']} on {proof['vault']}" for proof in data_set["proofs"]]
    return "proven " + ", ".join(proofs) if proofs else "not proven, waived"


def available(wanted: Sequence[str]) -> list[Path]:
    """The font files to use. Raises Refusal if one that was named, or every known one, is not there."""
    if wanted:
        lost = [path for path in wanted if not Path(path).is_file()]
        if lost:
            raise Refusal(f"the fonts {', '.join(lost)} are not there; {ADVICE}")
        return [Path(path) for path in wanted]
    found = [Path(path) for path in FONTS if Path(path).is_file()]
    if not found:
        raise Refusal(f"no TrueType font was found; {ADVICE}")
    return found


def render(document: dict[str, Any], fonts: Sequence[str] = ()) -> bytes:
    """The PDF of a certificate. Raises Refusal where no font has the letters that stand in it."""
    try:
        from fpdf import FPDF
        from fpdf.enums import MethodReturnValue, WrapMode, XPos, YPos
    except ImportError as exc:
        raise Refusal(f"a PDF needs the Python package fpdf2 ({exc}): pip install fpdf2") from None
    digest = hashlib.sha256(certificates.certificate_bytes(document)).hexdigest()
    files = available(fonts)
    name = certificates.file_name(document)

    class Page(FPDF):
        def footer(self) -> None:
            self.set_y(-14)
            self.set_font("font0", size=6.5)
            self.set_text_color(*GREY)
            self.cell(0, 3.5, shown(f"{name}, SHA-256 {digest}"), new_x=XPos.LMARGIN, new_y=YPos.NEXT)
            self.cell(0, 3.5, f"A view of that signed file, which alone counts. Page {self.page_no()} of {{nb}}")

    pdf = Page(format="A4")
    pdf.set_creation_date(datetime.fromisoformat(document["issued"].replace("Z", "+00:00")))
    pdf.set_title(f"Certificate {document['certificate_id']}")
    pdf.set_producer("sunset.crm")
    pdf.set_margins(18, 16, 18)
    pdf.set_auto_page_break(True, 20)
    known: set[int] = set()
    for number, path in enumerate(files):
        try:
            pdf.add_font(f"font{number}", fname=str(path))
        except Exception as exc:
            raise Refusal(f"the font {path} cannot be used ({exc}); {ADVICE}") from None
        known |= set(getattr(pdf.fonts[f"font{number}"], "cmap", {}))
    pdf.set_fallback_fonts([f"font{number}" for number in range(1, len(files))], exact_match=False)
    rows, fields = summary(document), list(leaves(document))
    lost = sorted({char for _, text in [*rows, *fields] for char in shown(text) if ord(char) not in known})
    if lost:
        told = ", ".join(f"{char} (U+{ord(char):04X})" for char in lost[:5])
        raise Refusal(f"no font here has the letters {told}; {ADVICE}")

    def heading(text: str, size: float) -> None:
        pdf.set_font("font0", size=size)
        pdf.set_text_color(*INK)
        pdf.multi_cell(0, size * 0.5, shown(text), new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        pdf.ln(1.5)

    def row(label: str, text: str, size: float) -> None:
        """One field, on one page if it fits on one."""
        pdf.set_font("font0", size=size)
        told, wrap = shown(text), WrapMode.WORD if " " in text else WrapMode.CHAR
        width = pdf.epw - LABEL - 2
        heights = [
            pdf.multi_cell(wide, LINE, what, align="L", wrapmode=how, dry_run=True, output=MethodReturnValue.HEIGHT)
            for wide, what, how in ((LABEL, shown(label), WrapMode.CHAR), (width, told, wrap))
        ]
        height = max(cast(list[float], heights))
        if pdf.will_page_break(min(height, pdf.eph)):
            pdf.add_page()
        top = pdf.get_y()
        pdf.set_text_color(*GREY)
        pdf.multi_cell(LABEL, LINE, shown(label), align="L", wrapmode=WrapMode.CHAR, new_x=XPos.RIGHT, new_y=YPos.TOP)
        pdf.set_xy(pdf.l_margin + LABEL + 2, top)
        pdf.set_text_color(*INK)
        page = pdf.page
        pdf.multi_cell(width, LINE, told, align="L", wrapmode=wrap, new_x=XPos.LMARGIN, new_y=YPos.NEXT)
        if pdf.page == page:
            pdf.set_y(top + height)
        pdf.set_draw_color(*RULE)
        pdf.line(pdf.l_margin, pdf.get_y(), pdf.w - pdf.r_margin, pdf.get_y())
        pdf.ln(0.8)

    pdf.add_page()
    heading("Certificate of media sanitisation", 17)
    heading(f"{document['estate']}, {document['medium']['item']}, issued {document['issued']}", 9.5)
    for label, text in rows:
        row(label, text, 8.5)
    pdf.add_page()
    heading("Every field", 13)
    for label, text in fields:
        row(label, text, 7)
    return bytes(pdf.output())
