# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What is known only when the estate is up, as an inventory beside inventories/lab: addresses, keys, loop devices."""

from __future__ import annotations

import json
from typing import Any

import yaml

from . import paths, people, virtual
from .layout import HOSTS, SIMULATED, VAULTS
from .loops import Loop

HEAD = "# Written by tests/lab for the estate that is up; `make lab-up` writes it again.\n---\n"


def _yaml(data: Any) -> str:
    return HEAD + yaml.safe_dump(data, sort_keys=True, default_flow_style=False, width=1000)


def _all_vars(loops: dict[str, Loop], volume: str) -> dict[str, Any]:
    return {
        "ansible_ssh_private_key_file": str(people.control_key()),
        "ansible_ssh_common_args": (
            f"-F none -o UserKnownHostsFile={paths.KNOWN_HOSTS} -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes"
        ),
        "ansible_python_interpreter": "/usr/bin/python3",
        "sunset_estate_dir": str(paths.ESTATE),
        "sunset_allowed_signers": str(paths.STATE / "allowed_signers"),
        "sunset_custodians": [
            {"name": person.name, "recipient": person.age_recipient} for person in people.PEOPLE.values() if person.custodian
        ],
        "sunset_lab_media": {name: {"device": loop.device, "identity": loop.identity()} for name, loop in sorted(loops.items())},
        "sunset_lab_volume": volume,
    }


def _host_vars(host: str, address: str) -> dict[str, Any]:
    found: dict[str, Any] = {"ansible_host": address, "ansible_user": HOSTS[host].user}
    if host == SIMULATED:
        found["sunset_lab_simulated_api"] = virtual.declaration(address)
    if host in VAULTS:
        found["sunset_ledger_receiver"] = {
            "user": "ledger",
            "key": str(people.ledger_key()),
            "known_hosts": str(paths.KNOWN_HOSTS),
        }
    return found


def write(addresses: dict[str, str], loops: dict[str, Loop], volume: str) -> None:
    (paths.INVENTORY / "group_vars").mkdir(parents=True, exist_ok=True)
    hosts = {name: _host_vars(name, address) for name, address in addresses.items()}
    (paths.INVENTORY / "hosts.yml").write_text(_yaml({"all": {"hosts": hosts}}))
    (paths.INVENTORY / "group_vars/all.yml").write_text(_yaml(_all_vars(loops, volume)))
    (paths.STATE / "allowed_signers").write_text(people.allowed_signers())
    paths.KNOWN_HOSTS.write_text(people.known_hosts(addresses))
    facts = {"addresses": addresses, "volume": volume, "media": {name: vars(loop) for name, loop in loops.items()}}
    paths.FACTS.write_text(json.dumps(facts, indent=1) + "\n")
