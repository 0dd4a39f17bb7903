# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A management controller that speaks Redfish, through the library sushy.

An answer to a request means accepted, never done: whoever asks reads the power state afterwards. Each request is sent once.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.power import controllers
from ansible_collections.sunset.crm.plugins.plugin_utils.power.controllers import CUT, ON, SOFT, Deadline, Silent, shorten

# PoweringOff is not off: a controller may stay in it for ever.
POWER = {"On": "on", "PoweringOn": "on", "PoweringOff": "on", "Paused": "on", "Off": "off"}
GOING_DOWN = "PoweringOff"
# LastState: it was switched off, so off is what the mains find.
STAYS_OFF = {"AlwaysOff": True, "LastState": True, "AlwaysOn": False}
RESET = {ON: "On", SOFT: "GracefulShutdown", CUT: "ForceOff"}
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0
FINGERPRINT = re.compile(r"^[0-9a-f]{64}$")


def judge(system: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Power and detail from a ComputerSystem resource. Pure."""
    state = system.get("PowerState")
    power = POWER.get(state, "unknown") if isinstance(state, str) else "unknown"
    policy = system.get("PowerRestorePolicy")
    detail: dict[str, Any] = {"state": state, "power_restore_policy": policy}
    if isinstance(policy, str) and policy in STAYS_OFF:
        detail["stays_off"] = STAYS_OFF[policy]
    for ours, theirs in (("serial", "SerialNumber"), ("uuid", "UUID"), ("model", "Model")):
        if isinstance(system.get(theirs), str) and system[theirs]:
            detail[ours] = shorten(system[theirs])
    return power, detail


def allowed(action: Mapping[str, Any], info: Mapping[str, Any] | None) -> list[str] | None:
    """The reset types that the controller lists, in the action or in its ActionInfo; None where it lists none. Pure."""
    listed = action.get("ResetType@Redfish.AllowableValues")
    for parameter in (info or {}).get("Parameters") or []:
        if parameter.get("Name") == "ResetType" and parameter.get("AllowableValues"):
            listed = listed or parameter["AllowableValues"]
    return [str(value) for value in listed] if listed else None


def fingerprint(text: str) -> str:
    """A SHA-256 fingerprint without its colons. Raises Refusal for anything else."""
    plain = str(text).lower().removeprefix("sha256:").replace(":", "").strip()
    if not FINGERPRINT.match(plain):
        raise Refusal(
            "the fingerprint of a Redfish witness is no SHA-256 of a certificate; openssl x509 -noout -fingerprint -sha256 prints it"
        )
    return plain


class Redfish:
    """One controller, opened and closed; its session is deleted whatever happens."""

    kind = "redfish"

    def __init__(self, witness: Mapping[str, Any], deadline: Deadline) -> None:
        self._witness = witness
        self._deadline = deadline
        self._login = controllers.login(str(witness["credentials"]))
        self._root: Any = None
        self.system: Any = None
        self._auth: Any = None
        self.left_session = ""

    @property
    def address(self) -> str:
        given = str(self._witness["address"])
        return given if "://" in given else f"https://{given}"

    def __enter__(self) -> Redfish:
        if urlsplit(self.address).scheme != "https":
            raise Refusal(f"the Redfish witness {self.address} is not reached over https; its password would travel in the clear")
        try:
            import sushy
            from sushy import auth, connector
        except ImportError as exc:
            raise controllers.needed("sushy", exc) from exc
        # Its warnings would go to standard error, between Ansible's own lines.
        logging.getLogger("sushy").addHandler(logging.NullHandler())
        timeout = self._deadline.left(float(self._witness.get("timeout") or READ_TIMEOUT))
        # One retry: sushy would otherwise send a request again whose answer was cut off, a reset too.
        line = connector.Connector(
            self.address,
            verify=self._witness.get("ca_file") or True,
            server_side_retries=1,
            server_side_retries_delay=1,
            default_request_timeout=timeout,
            connect_timeout=min(CONNECT_TIMEOUT, timeout),
        )
        # Neither a proxy nor a certificate store of the environment may come between.
        line._session.trust_env = False
        pinned = fingerprint(str(self._witness["fingerprint"])) if self._witness.get("fingerprint") else ""
        if pinned:
            line._verify = False
        line._session.mount("https://", _adapter(pinned))
        kind = auth.BasicAuth if self._witness.get("auth") == "basic" else auth.SessionAuth
        self._auth = kind(self._login.username, self._login.password)
        try:
            with self.errors("was asked for its system"):
                self._root = sushy.Sushy(self.address, auth=self._auth, connector=line)
                self.system = self._root.get_system(self._path())
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_exc: object) -> None:
        self._close()

    def _path(self) -> str | None:
        named = self._witness.get("system")
        if not named:
            return None
        return str(named) if str(named).startswith("/") else f"/redfish/v1/Systems/{named}"

    def _close(self) -> None:
        """Controllers have few slots for sessions, and one that is left stays for half an hour."""
        auth, self._auth = self._auth, None
        if self._root is not None:
            # Its destructor would close the same session again, at a moment nobody knows.
            self._root._auth = None
        if auth is None:
            return
        session = getattr(auth, "_session_resource_id", None)
        for _try in range(2):
            try:
                auth.close()
                self.left_session = ""
                break
            except Exception as exc:
                self.left_session = f"{session}: {shorten(str(exc))}"

    @contextlib.contextmanager
    def errors(self, doing: str) -> Iterator[None]:
        import sushy
        from sushy import exceptions

        where = f"the Redfish controller {self.address}"
        try:
            yield
        except sushy.exceptions.AccessError as exc:
            raise Refusal(
                f"{where} refuses the login of {self._witness['credentials']} (HTTP {exc.status_code}) when it {doing}. "
                "Correct the file, or the rights of that account; too many tries may lock it."
            ) from None
        except exceptions.UnknownDefaultError:
            raise Refusal(f"{where} has not exactly one system; name the one that is meant: system in sunset_power") from None
        except exceptions.ResourceNotFoundError as exc:
            raise Refusal(f"{where} has no {self._witness.get('system') or 'systems'}: {self._said(exc)}") from None
        except exceptions.ConnectionError as exc:
            if "certificate" in str(exc).lower() or "fingerprint" in str(exc).lower():
                raise Refusal(
                    f"{where} shows a certificate that is not the one of the inventory (ca_file, fingerprint): {self._said(exc)}. "
                    "Find out whose it is before you change either."
                ) from None
            raise Silent(f"{where} gave no answer when it {doing}: {self._said(exc)}") from None
        except exceptions.ServerSideError as exc:
            raise Silent(f"{where} answered with an error of its own when it {doing}: {self._said(exc)}.{_full(exc)}") from None
        except exceptions.SushyError as exc:
            raise Silent(f"{where} could not be understood when it {doing}: {self._said(exc)}.{_full(exc)}") from None
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise Silent(f"{where} answered with something that is no Redfish when it {doing}: {self._said(exc)}") from None

    def _said(self, exc: Exception) -> str:
        return self._login.hide(shorten(str(exc)))

    def read(self) -> tuple[str, dict[str, Any]]:
        with self.errors("was read"):
            self.system.refresh(force=True)
            power, detail = judge(self.system.json)
        return power, {"address": self.address, "system": self.system.path, **detail}

    def offered(self) -> list[str] | None:
        """The reset types that it lists now; None where it lists none."""
        with self.errors("was asked what it offers"):
            action = (self.system.json.get("Actions") or {}).get("#ComputerSystem.Reset") or {}
            link = action.get("@Redfish.ActionInfo")
            info = self.system._conn.get(link).json() if link and not action.get("ResetType@Redfish.AllowableValues") else None
            return allowed(action, info)

    def ask(self, what: str) -> str:
        from sushy import ResetType, exceptions

        word = RESET[what]
        listed = self.offered()
        if listed is None or word not in listed:
            offers = "does not say what it offers" if listed is None else f"offers {', '.join(shorten(one) for one in listed)}"
            raise Refusal(
                f"the Redfish controller {self.address} {offers}, not {word}. Nothing else was sent in its place. Do it by hand, at the "
                "console or the controller's own page, and run the same command again."
            )
        with self.errors(f"was asked for {word}"):
            try:
                self.system.reset_system(ResetType(word))
            except (exceptions.BadRequestError, exceptions.InvalidParameterValueError) as exc:
                raise Refusal(f"the Redfish controller {self.address} turned {word} down: {self._said(exc)}. Nothing was forced.") from None
        return word


def _full(exc: Exception) -> str:
    taken = "session" in str(exc).lower()
    return " All its sessions may be taken: end some on its own page, or set auth: basic." if taken else ""


def _adapter(digest: str) -> Any:
    """An adapter that begins each request on a new connection: controllers close one without saying so, and a request that is lost on
    it would be one whose end nobody knows. digest: trusts this certificate and no other, whoever signed it and whatever name is in it."""
    from requests.adapters import HTTPAdapter

    class Adapter(HTTPAdapter):
        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            if digest:
                kwargs.update(assert_fingerprint=digest, assert_hostname=False)
            super().init_poolmanager(*args, **kwargs)

        def send(self, *args: Any, **kwargs: Any) -> Any:
            self.poolmanager.clear()
            return super().send(*args, **kwargs)

    return Adapter()
