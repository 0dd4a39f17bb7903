# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Management controllers: what every kind of them must be able to say and do.

A controller is opened, asked and closed in one go; its credentials lie in a file of the control node and go nowhere else.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import yaml

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal

# What a controller is asked for. soft: the operating system is asked to end; cut: the power is taken away.
ON, SOFT, CUT = "on", "soft", "cut"
LONGEST_ERROR = 400


class Silent(Exception):
    """The controller gave no usable answer: what it did is unknown, and the next reading decides."""


class Controller(Protocol):
    """An opened controller."""

    kind: str

    def read(self) -> tuple[str, dict[str, Any]]:
        """Power (on, off, unknown) and what else it shows: state in its own word, stays_off, serial, uuid."""

    def ask(self, what: str) -> str:
        """Send one request, once, and return the word it was sent under. Refusal: it was not sent, or turned down."""


@dataclass(frozen=True)
class Login:
    """Never shown: neither in a message, nor in a representation."""

    username: str
    password: str = field(repr=False)

    def hide(self, text: str) -> str:
        return text.replace(self.password, "***") if self.password else text


def login(path: str) -> Login:
    """Read a file of mode 0600 with username and password. No message repeats what is in it."""
    wanted = "expected a file of its own, mode 0600, owned by the one who runs this, with the lines username: NAME and password: WORD"
    try:
        number = os.open(os.path.expanduser(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        raise Refusal(f"the credentials file {path} cannot be opened ({exc.strerror}); {wanted}") from None
    with os.fdopen(number, "rb") as stream:
        seen = os.fstat(stream.fileno())
        if not stat.S_ISREG(seen.st_mode) or seen.st_mode & 0o077 or seen.st_uid not in (os.geteuid(), 0):
            raise Refusal(
                f"the credentials file {path} has mode {stat.S_IMODE(seen.st_mode):04o} and the owner {seen.st_uid}; {wanted}. "
                "If others could read it, change the password too."
            )
        raw = stream.read(65536)
    try:
        data = yaml.safe_load(raw)
    except (yaml.YAMLError, UnicodeDecodeError):
        data = None
    if not isinstance(data, dict) or not all(isinstance(data.get(name), str) and data[name] for name in ("username", "password")):
        raise Refusal(f"the credentials file {path} has no username and password in words (quote what is a number); {wanted}")
    return Login(data["username"], data["password"])


class Deadline:
    """A monotonic end; what is left is never less than a second, so that a last try is a real one."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._end = now() + seconds

    def left(self, most: float) -> float:
        return max(1.0, min(most, self._end - self._now()))

    @property
    def over(self) -> bool:
        return self._now() >= self._end


def needed(library: str, exc: Exception) -> Refusal:
    return Refusal(
        f"this witness needs the Python package {library} on the control node ({exc}): pip install {library}, into the environment of Ansible"
    )


def shorten(text: str) -> str:
    """An error of a library or a device on one line: what a device says may be long and may be hostile."""
    plain = " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())
    return plain[:LONGEST_ERROR]


def uuids(value: str) -> set[str]:
    """The two ways in which one and the same UUID is written: firmware disagrees on the order of its first bytes."""
    digits = "".join(letter for letter in str(value).lower() if letter in "0123456789abcdef")
    if len(digits) != 32 or len(set(digits)) == 1:
        return set()
    swapped = "".join(
        "".join(reversed([part[i : i + 2] for i in range(0, len(part), 2)])) for part in (digits[:8], digits[8:12], digits[12:16])
    )
    return {digits, swapped + digits[16:]}


def same_machine(declared: Mapping[str, Any], seen: Mapping[str, Any], inside: Mapping[str, Any]) -> str:
    """Whether the controller is that of this host: yes, no or unknown. Pure.

    declared: serial and uuid of the inventory. seen: what the controller says. inside: what the host says of its own board.
    One contradiction is a no; without any shared word it is unknown.
    """
    answers = []
    for known in (declared, inside):
        shared = bool(uuids(str(known.get("uuid", ""))) and uuids(str(seen.get("uuid", ""))))
        if shared:
            answers.append(bool(uuids(known["uuid"]) & uuids(seen["uuid"])))
        # What the board calls its serial number is often a filler; where there is a uuid, that is the word that counts.
        if known.get("serial") and seen.get("serial") and not (shared and known is inside):
            answers.append(str(known["serial"]).strip().lower() == str(seen["serial"]).strip().lower())
    if False in answers:
        return "no"
    return "yes" if answers else "unknown"
