# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The whole retirement of the throwaway estate, as `make demo` shows it.

Interrupted, it goes on where it was; finished, it begins again on a new estate. The persons' parts (approval, challenge,
waiver, authorisation) are played by tests/lab/persons.py with keys that the collection never sees.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from . import engine, estate, paths, persons
from .layout import HOSTS, STATION, VAULTS
from .shell import LabError, die, say

PLAYBOOK = paths.TOP / ".venv" / "bin" / "ansible-playbook"
INVENTORIES = ("-i", "inventories/lab", "-i", str(paths.INVENTORY))
CLASSIFIED = "@inventories/lab_classified.yml"
WAVES = ("pilot", "main")


def argv(name: str, *arguments: str) -> list[str]:
    """The command line of one of the collection's playbooks on the lab estate."""
    confirmed = () if name in ("survey", "report") else ("-e", f"sunset_confirm={persons.NAME}")
    return [str(PLAYBOOK), *INVENTORIES, *confirmed, f"playbooks/{name}.yml", *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "ANSIBLE_CONFIG": str(paths.TOP / "ansible.cfg"), "ANSIBLE_NOCOWS": "1"}


def play(name: str, *arguments: str) -> None:
    """Run a playbook with its output shown; a failure ends the demo."""
    command = argv(name, *arguments)
    shown = " ".join(part for part in command[1:] if "inventor" not in part and part != "-i")
    say(f"ansible-playbook {shown}")
    done = subprocess.run(command, cwd=paths.TOP, env=environment(), check=False)
    if done.returncode != 0:
        raise LabError(f"playbooks/{name}.yml ended with {done.returncode}; look above. `make demo` goes on from here.")


def entries() -> list[dict[str, object]]:
    file = paths.ESTATE / "ledger.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def accepted() -> set[object]:
    return {entry["wave"] for entry in entries() if entry["kind"] == "accepted"}


def certificates() -> list[Path]:
    return sorted((paths.ESTATE / "certificates").glob("*.json"))


def finished() -> bool:
    plan = paths.ESTATE / "plan.json"
    if not plan.exists():
        return False
    media = [item for item in json.loads(plan.read_text())["items"] if item["kind"] == "medium"]
    return len(certificates()) >= len(media) > 0


def packages() -> list[tuple[str, str]]:
    """(host, vault) of each package that is sealed and still held open by the vault."""
    last: dict[tuple[str, str], str] = {}
    for entry in entries():
        if entry["kind"] == "outcome" and str(entry["aspect"]).startswith("package@") and entry["status"] == "done":
            last[str(entry["item"]).partition(":")[2], str(entry["aspect"]).partition("@")[2]] = str(entry["value"])
    return sorted(package for package, value in last.items() if value == "sealed")


def begin() -> None:
    """A new estate, unless an interrupted demo can go on."""
    kept = [HOSTS[name].container for name in (*VAULTS, STATION)]
    under_way = bool(entries()) and not finished() and all(engine.running(container) for container in kept)
    if under_way:
        say("an earlier demo was interrupted; going on with its estate")
        return
    if entries():
        say("the last demo is over; beginning with a new estate")
        estate.down()
        shutil.rmtree(paths.ESTATE, ignore_errors=True)
    estate.up()


def table() -> str:
    rows = json.loads((paths.ESTATE / "report" / "report.json").read_text())["rows"]
    sys.path.insert(0, str(paths.TOP / ".collections"))
    from ansible_collections.sunset.crm.plugins.plugin_utils.runs.report import table as drawn

    return str(drawn(rows))


def main() -> int:
    start = time.monotonic()
    try:
        begin()
        if not accepted():
            say("survey: what is there, what was expected, what nobody planned")
            say(
                "  kvm1 carries real virtual machines, emulated in software; pve-simulated is one machine that stands for a SIMULATED Proxmox VE cluster"
            )
            play("survey", "-e", CLASSIFIED)
            say("alice reads the plan at her own desk and approves it")
            persons.approve()
        for wave in WAVES:
            if wave not in accepted():
                say(f"wave {wave}: freeze, stop, preserve, power off")
                play("shutdown", "-e", f"sunset_wave_wanted={wave}")
        for package, vault in packages():
            say(f"bob shows at his own desk that the package of {package} on {vault} opens with his key")
            persons.challenge(package, vault)
        say("alice waives the rest of the grace period, bob authorises the wipe of each disk by its serial number")
        persons.waive_grace("*")
        persons.authorise()
        play("wipe")
    except LabError as error:
        return die(str(error))
    except KeyboardInterrupt:
        return die("interrupted; `make demo` goes on from here, `make demo-clean` removes all")
    print(f"\n{table()}\n")
    say(f"done in {time.monotonic() - start:.0f} s")
    print(f"report:       {paths.ESTATE / 'report' / 'index.html'}")
    print(f"ledger:       {paths.ESTATE / 'ledger.jsonl'}")
    print(f"certificates: {paths.ESTATE / 'certificates'}")
    print("next:         docs/auditor.md checks all of it with stock tools; inventories/example is where your own estate begins")
    return 0


if __name__ == "__main__":
    sys.exit(main())
