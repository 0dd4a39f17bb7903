# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Fills Creme through its own ORM: people, organisations, opportunities, documents, with planted marks.

Runs inside app1, in Creme's virtual environment.
"""
# mypy: ignore-errors

import django

django.setup()

from creme.creme_core.models import CremeUser  # noqa: E402
from creme.documents import get_document_model, get_folder_model  # noqa: E402
from creme.opportunities import get_opportunity_model  # noqa: E402
from creme.opportunities.models import SalesPhase  # noqa: E402
from creme.persons import get_contact_model, get_organisation_model  # noqa: E402
from django.core.files.base import ContentFile  # noqa: E402
from django.db import transaction  # noqa: E402
from marks import mark  # noqa: E402

FIRST = ["Zoë", "Łukasz", "Søren", "Iñigo", "Дарья", "Νίκος", "美咲", "محمد", "Þóra", "Renée", "Ayşe", "विजय"]
LAST = ["Müller", "Nguyễn", "O’Brien", "Škoda", "Иванова", "Παπαδόπουλος", "田中", "الحسن", "Ångström", "Çelik"]
TOWNS = ["Köln", "Kraków", "Αθήνα", "Київ", "東京", "São Paulo", "Zürich", "Besançon"]
WORDS = ["réunion", "予算", "договор", "naïve café", "“quoted”", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢", "👩🏽\u200d💼", "tab\there"]

user = CremeUser.objects.get(username="root")


@transaction.atomic
def fill():
    organisations = [
        get_organisation_model().objects.create(
            user=user,
            name="%s %s & Söhne №%d" % (TOWNS[n % 8], LAST[n % 10], n),
            email="office%d@example.org" % n,
            phone="+49 221 %06d" % n,
            description="%s %s" % (mark("creme-organisation", n), WORDS[n % len(WORDS)]),
        )
        for n in range(150)
    ]
    for n in range(300):
        get_contact_model().objects.create(
            user=user,
            first_name=FIRST[n % 12],
            last_name="%s-%d" % (LAST[n * 7 % 10], n),
            email="person%d@example.org" % n,
            mobile="+48 600 %06d" % n,
            description="%s\n%s" % (mark("creme-contact", n), WORDS[n % len(WORDS)]),
        )
    phases = list(SalesPhase.objects.all())
    for n in range(200):
        get_opportunity_model().objects.create(
            user=user,
            name="%s %d – %s" % (WORDS[n % len(WORDS)], n, TOWNS[n % 8]),
            reference=mark("creme-opportunity", n),
            sales_phase=phases[n % len(phases)],
            estimated_sales=1000 * n,
            emitter=organisations[n % 150],
            target=organisations[(n + 1) % 150],
        )
    folder = get_folder_model().objects.create(user=user, title="Verträge und 契約")
    for n in range(60):
        document = get_document_model()(user=user, title="Übersicht %d %s" % (n, TOWNS[n % 8]), linked_folder=folder)
        line = ("%s %s\n" % (mark("creme-document", n), WORDS[n % len(WORDS)])).encode()
        body = line * (20 + n * 37 % 4000)
        document.filedata.save("Übersicht-%02d-%s.txt" % (n, TOWNS[n % 8].replace(" ", "_")), ContentFile(body), save=False)
        document.save()


fill()
