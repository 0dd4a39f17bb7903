# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the configurations of CRM systems say about their database, format by format: text in, credentials out. Pure.

Private to the collection. Valid for Python 3.6, standard library.
"""

import base64
import configparser
import json
import re
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401
from urllib.parse import parse_qs, unquote

from ansible_collections.sunset.crm.plugins.module_utils._database.credentials import ConfigError, Credentials

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def parse_url(text):
    # type: (str) -> Credentials
    """scheme://user:password@host:port/database?sslmode=... with percent-encoded parts."""
    match = re.match(r"^([A-Za-z][A-Za-z0-9+.-]*)://([^?#]*)(?:\?([^#]*))?$", text)
    if not match:
        raise ConfigError("its database URL is not scheme://user:password@host:port/database (a # or ? in a password is written %23, %3F)")
    scheme, rest, query = match.group(1), match.group(2), parse_qs(match.group(3) or "", keep_blank_values=True)
    authority, _slash, path = rest.partition("/")
    login, _at, host = authority.rpartition("@")
    if "@" in path or "@" in (match.group(3) or "").split("&")[0].split("=")[0]:
        raise ConfigError("its database URL has a / or ? inside the password; it is written %2F, %3F there")
    user, _colon, password = login.partition(":")
    option = {name: values[-1] for name, values in query.items()}
    return Credentials(
        engine=scheme.split("+")[0],
        user=_decoded(user or option.get("user", "")),
        password=_decoded(password) if password else option.get("password", ""),
        host=_decoded(host) or option.get("host"),
        port=option.get("port"),
        socket=option.get("unix_socket") or option.get("socket"),
        database=_decoded(path),
        sslmode=option.get("sslmode"),
    )


def _decoded(text):
    if re.search(r"%(?![0-9A-Fa-f]{2})", text):
        raise ConfigError("its database URL holds a % that starts no code of two hexadecimal digits; it is written %25")
    return unquote(text, errors="surrogateescape")


def parse_dotenv(text, bare=True, known=None):
    # type: (str, bool, Optional[Dict[str, str]]) -> Dict[str, str]
    """The assignments of a .env file. `bare`: $NAME counts as a reference too (Symfony), not only ${NAME} (Laravel)."""
    values = dict(known or {})
    at = 0
    while at < len(text):
        blank = re.compile(r"\s*(?:#[^\n]*)?(?:\n|$)").match(text, at)
        if blank and blank.end() > at:
            at = blank.end()
            continue
        head = re.compile(r"[ \t]*(?:export[ \t]+)?([A-Za-z_][A-Za-z0-9_.]*)[ \t]*=[ \t]*").match(text, at)
        if not head:
            raise ConfigError("line {0} is no assignment NAME=value".format(text.count("\n", 0, at) + 1))
        values[head.group(1)], at = _env_value(text, head.end(), values, bare)
    return values


def _env_value(text, at, values, bare):
    out = []
    while at < len(text) and text[at] != "\n":
        line = text.count("\n", 0, at) + 1
        if text[at] == "'":
            end = text.find("'", at + 1)
            if end < 0:
                raise ConfigError("line {0}: a quote is not closed".format(line))
            out.append(text[at + 1 : end])
            at = end + 1
        elif text[at] == '"':
            match = re.compile(r'"((?:[^"\\]|\\.)*)"', re.S).match(text, at)
            if not match:
                raise ConfigError("line {0}: a quote is not closed".format(line))
            out.append(_expand(match.group(1), values, bare, line, True))
            at = match.end()
        else:
            match = re.compile(r"[^\n'\" \t]+|[ \t]+").match(text, at)
            piece = match.group(0) if match else text[at]
            at += len(piece)
            if piece.isspace():
                if at < len(text) and text[at] not in "\n#":
                    raise ConfigError("line {0}: a value with spaces needs quotes".format(line))
                at = text.find("\n", at) if "\n" in text[at:] else len(text)
                break
            out.append(_expand(piece.rstrip("\r"), values, bare, line, False))
    return "".join(out), at


def _expand(text, values, bare, line, quoted):
    """Escapes (inside double quotes) and references to values before."""

    def one(match):
        escape, braced, fallback, plain, command = match.groups()
        if escape is not None:
            return {"n": "\n", "r": "\r", "t": "\t"}.get(escape, escape if escape in '"\\$' else "\\" + escape) if quoted else "\\" + escape
        if command:
            if not bare:
                return match.group(0)
            raise ConfigError("line {0}: a value comes from a command; write the credentials into a file of format file".format(line))
        if plain and not bare:
            return match.group(0)
        name = braced or plain
        if name in values:
            return values[name] or fallback or ""
        if fallback is not None:
            return fallback
        raise ConfigError("line {0} refers to {1}, which is set before in none of the files".format(line, name))

    return re.sub(r"\\(.)|\$\{([A-Za-z_]\w*)(?::?-([^}]*))?\}|\$([A-Za-z_]\w*)|(\$\()", one, text, flags=re.S)


def from_laravel(values):
    url = values.get("DATABASE_URL") or values.get("DB_URL")
    if url:
        return parse_url(url)
    return Credentials(
        engine=values.get("DB_CONNECTION"),
        user=values.get("DB_USERNAME"),
        password=values.get("DB_PASSWORD"),
        host=values.get("DB_HOST"),
        port=values.get("DB_PORT"),
        socket=values.get("DB_SOCKET"),
        database=values.get("DB_DATABASE"),
        sslmode=values.get("DB_SSLMODE"),
    )


def from_frappe(values):
    """The site's own keys over those of the bench; the account is called like the database."""
    return Credentials(
        engine=values.get("db_type") or "mariadb",
        user=values.get("db_user") or values.get("db_name"),
        password=values.get("db_password"),
        host=values.get("db_host") or "localhost",
        port=values.get("db_port"),
        socket=values.get("db_socket"),
        database=values.get("db_name"),
    )


def from_odoo(text):
    ini = _ini(text)
    if not ini.has_section("options"):
        raise ConfigError("it has no section [options]")
    value = {key: None if held.strip() in ("False", "None", "") else held.strip() for key, held in ini.items("options")}
    names = (value.get("db_name") or "").split(",")
    return Credentials(
        engine="postgresql",
        user=value.get("db_user") or "odoo",
        password=value.get("db_password"),
        host=value.get("db_host"),
        port=value.get("db_port"),
        database=names[0].strip() if len(names) == 1 else None,
        sslmode=value.get("db_sslmode"),
    )


def from_file(text):
    """The operator's own file: JSON, or INI with one section of these names."""
    names = ("user", "password", "host", "port", "socket", "database", "sslmode")
    try:
        value = json.loads(text)
    except ValueError:
        ini = _ini(text)
        value = dict(ini.items(ini.sections()[0])) if ini.sections() else {}
    if not isinstance(value, dict):
        raise ConfigError("it is no JSON object and no INI file with one section")
    unknown = sorted(set(value) - set(names))
    if unknown:
        raise ConfigError("it holds the names {0}; expected are {1}".format(", ".join(unknown), ", ".join(names)))
    return Credentials(**{name: value.get(name) for name in names})


def _ini(text):
    ini = configparser.RawConfigParser(strict=False)
    try:
        ini.read_string(text)
    except configparser.Error:
        raise ConfigError("it cannot be read as an INI file")
    return ini


# --- PHP -----------------------------------------------------------------------------------------------------------

_SUGAR = "sugar_config/dbconfig/db_"
_ESPO = "sunset_returned/database/"
_DOLIBARR = "dolibarr_main_db_"
# format: (files that stand beside the named one and win over it, {what: path of the value})
PHP_FORMATS = {
    "suitecrm": (
        ("config.php", "config_override.php"),
        {"engine": "type", "user": "user_name", "password": "password", "host": "host_name", "port": "port", "database": "name"},
        _SUGAR,
    ),
    "espocrm": (
        ("config.php", "config-internal.php", "config-override.php", "config-internal-override.php"),
        {"engine": "platform", "user": "user", "password": "password", "host": "host", "port": "port", "database": "dbname"},
        _ESPO,
    ),
    "dolibarr": (
        ("conf.php",),
        {"engine": "type", "user": "user", "password": "pass", "host": "host", "port": "port", "database": "name"},
        _DOLIBARR,
    ),
    "vtiger": (
        ("config.inc.php", "config_override.php"),
        {
            "engine": "db_type",
            "user": "db_username",
            "password": "db_password",
            "host": "db_server",
            "port": "db_port",
            "database": "db_name",
        },
        "dbconfig/",
    ),
}  # type: Dict[str, Tuple[Tuple[str, ...], Dict[str, str], str]]


def from_php(form, answer):
    # type: (str, Dict[str, str]) -> Credentials
    if form == "dolibarr" and re.match(r"^(crypted|dolcrypt):", answer.get("password", "")):
        raise ConfigError(
            "its password is stored as {0}: which only Dolibarr can read back; write the plain one into a file of format file "
            "(mode 0600, of root)".format(answer["password"].split(":")[0])
        )
    return Credentials(**answer)


def php_answer(output, wanted, prefix):
    # type: (bytes, Dict[str, str], str) -> Dict[str, str]
    lines = output.decode("ascii", "replace").splitlines()
    if not lines or lines[-1] != "end":
        raise ConfigError("php did not evaluate it to its end")
    names = {prefix + path: what for what, path in wanted.items()}
    found = dict(line.split(" ", 1) for line in lines[:-1])
    return {names[path]: base64.b64decode(value).decode("utf-8", "surrogateescape") for path, value in found.items()}


def from_django(answer):
    return Credentials(
        engine=answer.get("ENGINE"),
        user=answer.get("USER"),
        password=answer.get("PASSWORD"),
        host=answer.get("HOST"),
        port=answer.get("PORT"),
        database=answer.get("NAME"),
        sslmode=answer.get("SSLMODE"),
    )
