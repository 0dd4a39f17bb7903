# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The PDF of a certificate, read back with another library than the one that made it."""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any

import pypdf
import pytest

from ansible_collections.sunset.crm.plugins.plugin_utils.certificates import certificate, pdf as certificate_pdf
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from tests.unit.disk_samples import ata_hdd
from tests.unit.plugins.plugin_utils.certificates.test_certificate import decided, facts

NAMES = ("Zoë Müller-Łukasiewicz", "Ольга Кузнецова", "王小明 鈴木花子")


def made(**people: Any) -> dict[str, Any]:
    given = facts()
    given["people"].update(people)
    return certificate.build_certificate(**given)


def text_of(pdf: bytes) -> str:
    """All text without white space and the pages' feet: a value may be broken over lines and pages."""
    pages = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(pdf)).pages]
    return re.sub(r"\s", "", "".join(re.sub(r"\S+, SHA-256 [0-9a-f]{64}\s+A view of.*", "", text) for text in pages))


@pytest.mark.parametrize("name", NAMES)
def test_latin_cyrillic_and_cjk(name: str) -> None:
    assert text_of(certificate_pdf.render(made(operator=name))).count(re.sub(r"\s", "", name)) == 2, "first page and every field"


def test_every_field_is_on_it_and_every_page_names_the_signed_file() -> None:
    document = made()
    pdf = certificate_pdf.render(document)
    text = text_of(pdf)
    for path, value in certificate_pdf.leaves(document):
        assert re.sub(r"\s", "", path) in text and re.sub(r"\s", "", value) in text, path
    digest = hashlib.sha256(certificate.certificate_bytes(document)).hexdigest()
    pages = pypdf.PdfReader(io.BytesIO(pdf)).pages
    assert len(pages) > 2 and all(digest in page.extract_text() for page in pages)


def test_the_same_certificate_gives_the_same_bytes() -> None:
    assert certificate_pdf.render(made()) == certificate_pdf.render(made())
    assert certificate_pdf.render(made()) != certificate_pdf.render(made(operator="x"))


def test_what_steers_the_reader_is_spelt_out() -> None:
    text = text_of(certificate_pdf.render(made(operator="a\u202eb\x1b[31mc\nd")))
    assert r"a\u202eb\u001b[31mc\u000ad" in text and "\u202e" not in text and "\x1b" not in text


def test_letters_that_no_font_has_are_named(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=r"no font here has the letters .*U\+1F980.*install"):
        certificate_pdf.render(made(operator="crab 🦀"))
    latin = [str(path) for path in certificate_pdf.available([]) if "DejaVu" in path.name]
    assert latin
    with pytest.raises(Refusal, match=r"U\+738B"):
        certificate_pdf.render(made(operator="王小明"), latin)


def test_fonts_that_are_not_there_or_none(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="are not there"):
        certificate_pdf.render(made(), [str(tmp_path / "no.ttf")])
    (tmp_path / "bad.ttf").write_text("no font")
    with pytest.raises(Refusal, match="cannot be used"):
        certificate_pdf.render(made(), [str(tmp_path / "bad.ttf")])


def test_the_first_page_says_why_this_technique_and_what_was_hidden() -> None:
    disk = ata_hdd()
    disk["hidden"]["dco"] = "unknown"
    text = text_of(certificate_pdf.render(certificate.build_certificate(**decided(disk))))
    for words in ("Askedfor,chosen", "clear;overwrite-keyed", "Notchosen", "Hiddenareasbefore", "DCOunknown,HPAno", "Notreached"):
        assert words in text
