# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A management controller that speaks IPMI 2.0, through the library pyghmi.

Only standard commands, as raw requests: the library's own helpers ask the vendor's extensions first. Each request is sent once.
"""

from __future__ import annotations

import contextlib
import logging
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.power import controllers
from ansible_collections.sunset.crm.plugins.plugin_utils.power.controllers import CUT, ON, SOFT, Deadline, Silent, shorten

# Chassis control: 0 cut, 1 on, 5 soft (the operating system's power button). 2 and 3, cycle and reset, are never sent.
CONTROL = {CUT: 0, ON: 1, SOFT: 5}
ONCE = 5.0  # seconds that the answer to a request may take that is sent once
WORDS = {CUT: "chassis power off", ON: "chassis power on", SOFT: "chassis power soft"}
POLICIES = {0: "always-off", 1: "previous", 2: "always-on"}
STAYS_OFF = {"always-off": True, "previous": True, "always-on": False}


def judge(status: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """Power and detail from the answer to Get Chassis Status. Pure."""
    if len(status) < 3:
        return "unknown", {"state": "answer too short"}
    policy = POLICIES.get((status[0] >> 5) & 0b11, "unknown")
    detail: dict[str, Any] = {"state": "on" if status[0] & 1 else "off", "power_policy": policy}
    if policy in STAYS_OFF:
        detail["stays_off"] = STAYS_OFF[policy]
    if status[0] & 0b10:
        detail["overload"] = True
    return ("on" if status[0] & 1 else "off"), detail


class Ipmi:
    """One controller, logged in to and out of."""

    kind = "ipmi"

    def __init__(self, witness: Mapping[str, Any], deadline: Deadline) -> None:
        self._witness = witness
        self._deadline = deadline
        self._login = controllers.login(str(witness["credentials"]))
        self.command: Any = None
        self._guid = ""

    @property
    def address(self) -> str:
        return f"{self._witness['address']}:{int(self._witness.get('port') or 623)}"

    def __enter__(self) -> Ipmi:
        try:
            from pyghmi.ipmi.command import Command
            from pyghmi.ipmi.private import session
        except ImportError as exc:
            raise controllers.needed("pyghmi", exc) from exc
        logging.getLogger("pyghmi").addHandler(logging.NullHandler())
        # pyghmi keeps every session that it began to open, and would hand out one that was closed for a new one.
        session.Session.initting_sessions.clear()
        with self.errors("was logged in to"):
            self.command = Command(
                bmc=str(self._witness["address"]),
                userid=self._login.username,
                password=self._login.password,
                port=int(self._witness.get("port") or 623),
                keepalive=False,
            )
        self._guid = self._system_guid()
        return self

    def __exit__(self, *_exc: object) -> None:
        command, self.command = self.command, None
        if command is not None:
            with contextlib.suppress(Exception):
                command.ipmi_session.logout()

    @contextlib.contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        from pyghmi import exceptions

        where = f"the IPMI controller {self.address}"
        try:
            yield
        except (Refusal, Silent):
            raise
        except exceptions.IpmiException as exc:
            text = self._login.hide(shorten(str(exc))).replace("None", "no answer at all")
            if any(word in text.lower() for word in ("password", "unauthorized name", "username", "privilege")):
                raise Refusal(
                    f"{where} refuses the login of {self._witness['credentials']}: {text}. Correct the file, or the rights of that "
                    "account; too many tries may lock it."
                ) from None
            raise Silent(f"{where} gave no usable answer when it {doing}: {text}") from None
        except Exception as exc:
            raise Silent(f"{where} could not be understood when it {doing}: {self._login.hide(shorten(repr(exc)))}") from None

    def _raw(self, doing: str, netfn: int, command: int) -> dict[str, Any]:
        """A question; it is repeated where its answer does not come, as is the custom of IPMI."""
        with self.errors(doing):
            answer: dict[str, Any] = self.command.raw_command(netfn=netfn, command=command)
        return answer

    def _once(self, doing: str, netfn: int, command: int, data: Sequence[int]) -> dict[str, Any]:
        """A request that must not be repeated. pyghmi does not wait for the answer to one, so this does."""
        heard: list[dict[str, Any]] = []
        with self.errors(doing):
            line = self.command.ipmi_session
            line.raw_command(netfn=netfn, command=command, data=list(data), retry=False, callback=heard.append)
            end = time.monotonic() + self._deadline.left(ONCE)
            while not heard and time.monotonic() < end:
                line.wait_for_rsp(timeout=0.2)
            line.incommand = False
        return heard[0] if heard else {}

    def _system_guid(self) -> str:
        """The board's own UUID, where the controller knows it; many do not."""
        try:
            answer = self._raw("was asked for its system's identity", 6, 0x37)
        except (Refusal, Silent):
            return ""
        octets = bytes(answer.get("data") or [])
        return str(uuid.UUID(bytes_le=octets)) if "error" not in answer and len(octets) == 16 and any(octets) else ""

    def read(self) -> tuple[str, dict[str, Any]]:
        answer = self._raw("was read", 0, 1)
        if "error" in answer:
            raise Silent(f"the IPMI controller {self.address} does not tell its chassis status: {shorten(str(answer['error']))}")
        power, detail = judge(list(answer["data"]))
        return power, {"address": self.address, **detail, **({"uuid": self._guid} if self._guid else {})}

    def ask(self, what: str) -> str:
        word = WORDS[what]
        answer = self._once(f"was asked for {word}", 0, 2, [CONTROL[what]])
        if answer.get("code") == 0:
            return word
        if not isinstance(answer.get("code"), int):
            raise Silent(f"the IPMI controller {self.address} gave no answer when it was asked for {word}")
        raise Refusal(
            f"the IPMI controller {self.address} turned {word} down (completion code {answer['code']:#04x}). Nothing else was sent in its place."
        )
