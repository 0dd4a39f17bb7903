# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The API of a Proxmox VE node or cluster, through proxmoxer: several hosts, one way to say what went wrong.

proxmoxer builds the requests and reads the answers. What it leaves out is here: another node when one dies, a login that
is renewed, certificates known by their fingerprint, the error text of newer versions (it stands in the body), and the
difference between "refused" and "no answer", which matters for every request that must not be made twice.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ansible_collections.sunset.crm.plugins.plugin_utils.errors import NotYet, Refusal

try:
    import requests
    from proxmoxer.backends.https import JsonSerializer, ProxmoxHTTPApiTokenAuth, ProxmoxHTTPAuthBase, ProxmoxHttpSession
    from proxmoxer.core import ProxmoxResource, ResourceException
    from requests.adapters import HTTPAdapter
except ImportError as exc:
    MISSING: str | None = str(exc)
    JsonSerializer = ProxmoxHTTPAuthBase = HTTPAdapter = object  # type: ignore[misc, assignment]
else:
    MISSING = None

PORT = 8006
CONNECT_TIMEOUT, READ_TIMEOUT = 10.0, 30.0  # proxmoxer's own is 5 s for both, which a busy node exceeds
WORKERS = 10
RENEW_AFTER = 3600.0  # a ticket lives for two hours and may be renewed with itself as the password
TRIES, PAUSE = 4, 0.5
# Not the node that we speak to, but the one it passed the request on to, or the way there.
PROXYING = (502, 503, 504, 595, 596, 599)
SETTINGS = ("hosts", "port", "user", "token_id", "secret_file", "verify")


class ApiError(Refusal):
    """Proxmox refused. text is its own sentence, without the status."""

    def __init__(self, what: str, status: int, text: str, errors: Mapping[str, Any] | None = None) -> None:
        fields = "; ".join(f"{name}: {str(why).strip()}" for name, why in sorted((errors or {}).items()))
        self.status, self.text = status, text.strip() + (f" ({fields})" if fields else "")
        super().__init__(f"{what}: Proxmox answered {status}: {self.text}")

    @property
    def node_is_down(self) -> bool:
        return self.status in PROXYING


class Unanswered(NotYet):
    """Nobody answered. sent: the request may have arrived and may be carried out."""

    def __init__(self, text: str, sent: bool) -> None:
        super().__init__(text)
        self.sent = sent


# --- decisions -----------------------------------------------------------------------------------------------------------


def check_settings(api: Mapping[str, Any]) -> None:
    """Refuse a description of the API that cannot work, or that has a secret in it."""
    unknown = sorted(set(api) - set(SETTINGS))
    if unknown:
        raise Refusal(
            f"api: {', '.join(unknown)} is not known; expected {', '.join(SETTINGS)}. A password or the secret of a token belongs "
            "into a file of mode 0600 on the control node (secret_file), never into the inventory."
        )
    if not api.get("hosts") or not all(isinstance(host, str) and host for host in api["hosts"]):
        raise Refusal("api: hosts is empty; give the names of the nodes, the first that answers is asked")
    if "@" not in str(api.get("user") or ""):
        raise Refusal(f"api: user is {api.get('user')!r}; expected NAME@REALM, such as sunset@pve")
    if not api.get("secret_file"):
        raise Refusal("api: secret_file is missing; it names the file that holds the secret of the token, or the password")
    way_of_trust(str(api.get("verify") or "system"))


def way_of_trust(verify: str) -> tuple[str, str]:
    """(system | ca_file | fingerprint, value). There is no way to trust nobody."""
    bare = verify.replace(":", "").lower()
    if verify == "system":
        return "system", ""
    if re.fullmatch(r"[0-9a-f]{64}", bare):
        return "fingerprint", bare
    if verify.startswith("/"):
        return "ca_file", verify
    raise Refusal(
        f"api: verify is {verify!r}; expected system, the path of a CA file (such as a copy of /etc/pve/pve-root-ca.pem), or the "
        "SHA-256 fingerprint of the certificate (64 hexadecimal digits, colons allowed)"
    )


def error_text(body: Any, reason: str) -> str:
    """What Proxmox says went wrong: the body's message (newer versions; survives a proxy), else the reason phrase."""
    message = body.get("message") if isinstance(body, Mapping) else None
    return str(message).strip() if isinstance(message, str) and message.strip() else reason.strip()


def version_of(text: str) -> tuple[int, int]:
    """(9, 1) of 9.1.4, 8.4-1 or 9.1~rc."""
    found = re.match(r"(\d+)\.(\d+)", text)
    if not found:
        raise Refusal(f"Proxmox says that its version is {text!r}; nobody can tell what it can do")
    return int(found[1]), int(found[2])


def read_secret(path: str) -> str:
    """The one line of a private file of the control node."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as exc:
        raise Refusal(f"secret_file {path} cannot be read ({exc.strerror}); expected a file of mode 0600 with one line") from None
    with os.fdopen(fd, "rb") as stream:
        facts = os.fstat(fd)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or stat.S_IMODE(facts.st_mode) & 0o077:
            raise Refusal(
                f"secret_file {path} belongs to uid {facts.st_uid} with mode {stat.S_IMODE(facts.st_mode):04o}; expected a regular "
                f"file of uid {os.geteuid()} with mode 0600; the secret in it may be known: make a new one"
            )
        raw = stream.read(4097)
    try:
        secret = raw.decode("ascii").strip()
    except UnicodeDecodeError:
        secret = ""
    if not secret or len(raw) > 4096 or len(secret.split()) != 1:
        raise Refusal(f"secret_file {path} does not hold one line with the secret and nothing else")
    return secret


# --- the world -----------------------------------------------------------------------------------------------------------


class _Pinned(HTTPAdapter):  # type: ignore[misc]
    """Knows the server by the digest of its certificate; checked after the handshake, before anything is sent."""

    def __init__(self, fingerprint: str, **rest: Any) -> None:
        self._fingerprint = fingerprint
        super().__init__(**rest)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> Any:
        return super().init_poolmanager(*args, assert_fingerprint=self._fingerprint, **kwargs)


class _Strict(JsonSerializer):  # type: ignore[misc]
    """proxmoxer hands the bytes of a page that is no JSON over as a result; here it is an error."""

    def loads(self, response: Any) -> Any:
        try:
            body = response.json()
        except ValueError:
            body = None
        if not isinstance(body, dict) or "data" not in body:
            raise ValueError("the answer is not one of a Proxmox API")
        return body["data"]

    def loads_errors(self, response: Any) -> Any:
        try:
            body = response.json()
        except ValueError:
            return None
        return body.get("errors") if isinstance(body, dict) else None


def _full_text(response: Any, *_args: Any, **_kwargs: Any) -> None:
    """A hook of requests: proxmoxer reports the reason phrase alone."""
    if response.status_code >= 400:
        try:
            body = response.json()
        except ValueError:
            body = None
        response.reason = error_text(body, str(response.reason or ""))


class _Ticket(ProxmoxHTTPAuthBase):  # type: ignore[misc]
    """A login by password, renewed by itself. proxmoxer's own logs in without the fingerprint and hides why it failed."""

    def __init__(self, user: str, password: str, login: Callable[[str, str], dict[str, Any]], **rest: Any) -> None:
        super().__init__(**rest)
        self._user, self._password, self._login = user, password, login
        self._lock = threading.Lock()
        self._ticket = self._csrf = ""
        self._born = 0.0

    def ensure(self, refused: str | None = None) -> None:
        """Have a ticket. refused: the one that was just answered with 401; another thread may have replaced it already."""
        with self._lock:
            if self._ticket and refused is None and time.monotonic() - self._born < RENEW_AFTER:
                return
            if refused is not None and refused != self._ticket:
                return
            found: dict[str, Any] | None = None
            if self._ticket and refused is None:
                try:
                    found = self._login(self._user, self._ticket)
                except ApiError:
                    found = None
            found = found or self._login(self._user, self._password)
            if found.get("NeedTFA"):
                raise Refusal(f"{self._user} needs a second factor to log in; give an API token (token_id) instead of a password")
            self._ticket, self._csrf, self._born = str(found["ticket"]), str(found["CSRFPreventionToken"]), time.monotonic()

    @property
    def ticket(self) -> str:
        return self._ticket

    def get_cookies(self) -> Any:
        return requests.cookies.cookiejar_from_dict({"PVEAuthCookie": self._ticket})  # type: ignore[no-untyped-call]

    def __call__(self, request: Any) -> Any:
        if request.method != "GET":
            request.headers["CSRFPreventionToken"] = self._csrf
        return request


class Api:
    """One cluster. May be called from several threads."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        if MISSING:
            raise Refusal(f"the control node needs the Python package proxmoxer for this ({MISSING}): pip install proxmoxer requests")
        check_settings(settings)
        self._hosts = [str(host) for host in settings["hosts"]]
        self._port = int(settings.get("port") or PORT)
        self._trust = way_of_trust(str(settings.get("verify") or "system"))
        self._at = 0
        self._lock = threading.Lock()
        self._sessions: dict[str, Any] = {}
        self.calls = 0
        self.user = str(settings["user"])
        secret = read_secret(str(settings["secret_file"]))
        common = {"timeout": (CONNECT_TIMEOUT, READ_TIMEOUT), "verify_ssl": self._verify(), "service": "PVE"}
        self._auth: Any
        if settings.get("token_id"):
            self._auth = ProxmoxHTTPApiTokenAuth(self.user, str(settings["token_id"]), secret, **common)
            self.user = f"{self.user}!{settings['token_id']}"
        else:
            self._auth = _Ticket(self.user, secret, self._log_in, **common)

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()

    def _verify(self) -> bool | str:
        kind, value = self._trust
        if kind == "ca_file" and not os.path.isfile(value):
            raise Refusal(f"api: verify names the CA file {value}, which is not there")
        # With a fingerprint the chain says nothing more: the adapter compares the certificate itself.
        return value if kind == "ca_file" else kind != "fingerprint"

    @property
    def host(self) -> str:
        return self._hosts[self._at]

    def _url(self, host: str) -> str:
        name = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"https://{name}:{self._port}/api2/json"

    def _equip(self, session: Any) -> Any:
        # Proxies and CA bundles of the operator's environment are nobody's declaration.
        session.trust_env = False
        kind, value = self._trust
        if kind == "fingerprint":
            session.mount("https://", _Pinned(value, pool_maxsize=WORKERS + 2))
        else:
            session.mount("https://", HTTPAdapter(pool_maxsize=WORKERS + 2))
        session.hooks["response"].append(_full_text)
        return session

    def _resource(self, host: str) -> Any:
        with self._lock:
            if host not in self._sessions:
                session = self._equip(ProxmoxHttpSession())
                session.auth = self._auth
                session.headers["accept"] = "application/json"
                self._sessions[host] = session
        return ProxmoxResource(base_url=self._url(host), session=self._sessions[host], serializer=_Strict())

    def _log_in(self, user: str, password: str) -> dict[str, Any]:
        with self._equip(requests.Session()) as session, self._errors(f"login of {user}"):
            answer = session.post(
                f"{self._url(self.host)}/access/ticket",
                data={"username": user, "password": password},
                timeout=(CONNECT_TIMEOUT, READ_TIMEOUT),
                verify=self._verify(),
            )
            if answer.status_code >= 400:
                raise ApiError(f"login of {user}", answer.status_code, str(answer.reason))
            return dict(_Strict().loads(answer))

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except ResourceException as exc:
            errors = exc.errors if isinstance(exc.errors, Mapping) else None
            raise ApiError(what, int(exc.status_code), str(exc.content).removesuffix(f" - {exc.errors}"), errors) from None
        except requests.exceptions.SSLError as exc:
            raise Refusal(
                f"{what}: the certificate of {self.host} is not trusted ({str(exc)[-300:]}). Nothing was sent. Correct verify in the "
                "item's api: a CA file, or the fingerprint that the node shows under System, Certificates."
            ) from None
        except requests.exceptions.ConnectTimeout:
            raise Unanswered(f"{what}: {self.host} does not answer on port {self._port}", sent=False) from None
        except requests.exceptions.ConnectionError as exc:
            refused = "NewConnectionError" in str(exc) or "NameResolutionError" in str(exc) or "Connection refused" in str(exc)
            raise Unanswered(f"{what}: the connection to {self.host} broke: {str(exc)[-200:]}", sent=not refused) from None
        except requests.exceptions.RequestException as exc:
            raise Unanswered(f"{what}: no answer from {self.host}: {type(exc).__name__}", sent=True) from None
        except ValueError as exc:
            raise Unanswered(f"{what}: {self.host}: {exc}", sent=True) from None

    def _next_host(self, failed: str) -> None:
        with self._lock:
            if self._hosts[self._at] == failed:
                self._at = (self._at + 1) % len(self._hosts)

    def _once(self, method: str, path: Sequence[str], values: Mapping[str, Any], host: str) -> Any:
        what = f"{method} /{'/'.join(path)}"
        ticket = ""
        if isinstance(self._auth, _Ticket):
            self._auth.ensure()
            ticket = self._auth.ticket
        self.calls += 1
        resource = self._resource(host)([urllib.parse.quote(part, safe="") for part in path])
        verb = {"GET": resource.get, "POST": resource.post, "PUT": resource.put, "DELETE": resource.delete}[method]
        try:
            with self._errors(what):
                return verb(**values)
        except ApiError as exc:
            if exc.status == 401 and ticket:
                # Not carried out: whoever is not let in has asked for nothing.
                self._auth.ensure(refused=ticket)
                self.calls += 1
                with self._errors(what):
                    return verb(**values)
            if exc.status == 401:
                raise Refusal(f"{what}: Proxmox does not accept the token {self.user}: {exc.text}. Nothing was changed.") from None
            raise

    def _call(self, method: str, path: Sequence[Any], values: Mapping[str, Any], tries: int) -> Any:
        parts = [str(part) for part in path]
        for left in reversed(range(tries)):
            host = self.host
            try:
                return self._once(method, parts, values, host)
            except Unanswered as exc:
                self._next_host(host)
                # A request that may have arrived is not made again here: whoever made it looks for what came of it.
                if not left or (exc.sent and method != "GET"):
                    raise
            except ApiError as exc:
                if not left or method != "GET" or not exc.node_is_down:
                    raise
            time.sleep(PAUSE)
        raise AssertionError("no try was made")

    def get(self, *path: Any, **values: Any) -> Any:
        """Read; a broken connection is tried again, on the next host."""
        return self._call("GET", path, values, max(TRIES, len(self._hosts) + 1))

    def look(self, *path: Any, **values: Any) -> Any:
        """Read once; for polls, which come again anyway."""
        return self._call("GET", path, values, 1)

    def post(self, *path: Any, **values: Any) -> Any:
        return self._call("POST", path, values, len(self._hosts) + 1)

    def put(self, *path: Any, **values: Any) -> Any:
        return self._call("PUT", path, values, len(self._hosts) + 1)

    def delete(self, *path: Any, **values: Any) -> Any:
        return self._call("DELETE", path, values, len(self._hosts) + 1)


def fingerprint_of(certificate: bytes) -> str:
    """The fingerprint of a certificate in DER, in the form that the web interface shows."""
    digest = hashlib.sha256(certificate).hexdigest().upper()
    return ":".join(digest[i : i + 2] for i in range(0, 64, 2))
