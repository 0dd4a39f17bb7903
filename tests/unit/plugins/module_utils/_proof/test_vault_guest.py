# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The proof of a set of virtual machines: definitions that name them, every file with the digest of its source."""

import copy

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._proof import still as proof_still
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

UUID = "4dea22b3-1d52-4c7f-9a4b-6d1f0b8e7a11"
STORED = [
    {"name": "wiki-definition", "role": "definition", "plain_sha256": "d1"},
    {"name": "wiki-disk0", "role": "disk", "plain_sha256": "d2"},
]
SOURCE = {"guests": {"wiki": {"id": UUID, "definition": "wiki-definition", "artefacts": {"wiki-definition": "d1", "wiki-disk0": "d2"}}}}


class Held(object):
    item = "guest:crm"

    def __init__(self, stored, text):
        self.stored, self.written, self.read = stored, text, []

    def text(self, entry):
        self.read.append(entry["name"])
        return self.written


def proven(stored=None, source=None, text="<uuid>%s</uuid>" % UUID):
    return proof_still.prove_guest(
        Held(STORED if stored is None else stored, text.encode("utf-8")), SOURCE if source is None else source, ""
    )


def changed(entry, **values):
    stored = copy.deepcopy(STORED)
    stored[entry].update(values)
    return stored


def test_all_is_there_and_equal():
    result = proven()
    assert (result["verdict"], result["guests"], result["disks"], result["differences"]) == ("equal", 1, 1, [])
    assert "not started" in result["depth"]


@pytest.mark.parametrize(
    "stored, what",
    [
        (STORED[1:], "its definition is not in the package"),
        (STORED[:1], "wiki-disk0 is not in the package"),
        (changed(1, plain_sha256="ff"), "wiki-disk0 has another digest than at the source"),
        (changed(0, plain_sha256="ff"), "wiki-definition has another digest than at the source"),
        (changed(1, plain_sha256=None), "wiki-disk0 has another digest than at the source"),
    ],
)
def test_what_is_missing_or_another_is_a_difference(stored, what):
    result = proven(stored)
    assert result["verdict"] == "different" and any(what in one for one in result["differences"])


def test_the_definition_of_another_guest_is_a_difference():
    result = proven(text="<uuid>00000000-0000-0000-0000-000000000000</uuid>")
    assert result["verdict"] == "different" and UUID in result["differences"][0]


@pytest.mark.parametrize("source", [{}, {"guests": {}}])
def test_nothing_to_compare_with_is_unknown(source):
    with pytest.raises(VaultError) as failed:
        proven(source=source)
    assert failed.value.verdict == "unknown"
