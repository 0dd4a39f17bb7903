# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m tests.scenarios create | destroy | prepare NAME | look NAME | untouched NAME --check|--real | kill NAME"""

from __future__ import annotations

import json
import sys

from tests.lab import paths as lab
from tests.lab.shell import LabError, die

sys.path.insert(0, str(lab.TOP / ".collections"))

from . import applications, base, copies, ends, hypervisors, killing, stacks, survey, world

ALL: dict[str, base.Scenario] = {
    scenario.name: scenario
    for scenario in (
        survey.Survey(),
        applications.Freeze(),
        applications.Stop(),
        applications.Resume(),
        stacks.Containers(),
        hypervisors.Guests(),
        copies.Preserve(),
        copies.Vault(),
        ends.PowerOff(),
        ends.Wipe(),
    )
}


def untouched(scenario: base.Scenario, mode: str) -> None:
    """In check mode: write down how the world looks. Before the first real run: see that it still looks so."""
    note = scenario.folder / "before-check.json"
    if mode != "--check" and not note.exists():
        return
    found = json.dumps({"world": scenario.look(), "ledger": scenario.book()}, sort_keys=True, indent=1)
    if mode == "--check":
        note.write_text(found)
        return
    if note.read_text() != found:
        raise LabError(f"the run in check mode has changed the world. Before:\n{note.read_text()}\nNow:\n{found}")
    note.unlink()


def main(arguments: list[str]) -> int:
    verb, *rest = arguments or ["help"]
    try:
        if verb == "create":
            hypervisors.destroy()
            world.create()
            survey.write_inventory()
        elif verb == "destroy":
            hypervisors.destroy()
            world.destroy()
        elif verb == "prepare":
            ALL[rest[0]].prepare()
            survey.write_inventory()
        elif verb == "look":
            scenario = ALL[rest[0]]
            print(json.dumps({"world": scenario.look(), "ledger": scenario.book()}))
        elif verb == "untouched":
            untouched(ALL[rest[0]], rest[1])
        elif verb == "kill":
            killing.kill(ALL[rest[0]])
        else:
            return die(__doc__ or "")
    except LabError as error:
        return die(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
