# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The credentials that a CRM's own configuration holds for its database, read where they lie.

Private to the collection. Valid for Python 3.6, standard library.

A configuration is often a program. It is never run as root: whoever may write a web server's file must not become root by it. PHP gets
the text through stdin and runs as the file's owner, or as nobody where that is root.
"""

import base64
import configparser
import json
import os
import re
import stat
import subprocess
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401
from urllib.parse import parse_qs, unquote

NOBODY = 65534
LIMIT = 1 << 20

FAMILIES = {
    "mysql": ("mysql", "mysqli", "mariadb", "pdo_mysql", "mysql2"),
    "postgresql": ("postgresql", "postgres", "pgsql", "pdo_pgsql", "psycopg2", "postgresql_psycopg2", "postgis"),
}
SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class ConfigError(Exception):
    """The configuration cannot be read, or does not say what is needed. The text never holds a value of it."""


class Credentials(object):
    """host None means a socket; the password does not show itself."""

    def __init__(self, user=None, password=None, host=None, port=None, socket=None, database=None, engine=None, sslmode=None):
        if not user:
            raise ConfigError("it names no database user")
        self.user, self.password = str(user), "" if password is None else str(password)
        self.host, self.port, self.socket = place(host, port)
        self.socket = socket or self.socket
        self.database = str(database) if database else None
        self.engine = str(engine).rsplit(".", 1)[-1].lower() if engine else None
        self.sslmode = sslmode
        if sslmode is not None and sslmode not in SSL_MODES:
            raise ConfigError("its sslmode is none of {0}".format(", ".join(SSL_MODES)))
        for what, value in (("user", self.user), ("password", self.password), ("host", self.host or "")):
            if any(sign in value for sign in "\n\r\0"):
                raise ConfigError("its database {0} holds a line end or a NUL".format(what))

    def __repr__(self):
        return "Credentials(user={0!r}, host={1!r}, port={2!r})".format(self.user, self.host, self.port)


def family(engine):
    """mysql, postgresql, or None for a word that is neither."""
    return next((name for name, words in FAMILIES.items() if (engine or "").lower() in words), None)


def place(host, port):
    # type: (Any, Any) -> Tuple[Optional[str], Optional[int], Optional[str]]
    """(host, port, socket) of what configurations write: "", False, "db", "db:3307", ":3306", "db:/run/s.sock", "p:db", "[::1]:5432"."""
    host = "" if host in (None, False) or str(host).strip().lower() in ("false", "none") else str(host).strip()
    if host.startswith("p:"):
        host = host[2:]
    if host.startswith("unix:"):
        host = host[5:]
    if host.startswith("/"):
        return None, number(port), host
    bracket = re.match(r"^\[([^\]]+)\](?::(.*))?$", host)
    rest = ""
    if bracket:
        host, rest = bracket.group(1), bracket.group(2) or ""
    elif host.count(":") == 1:
        host, rest = host.split(":")
    if rest.startswith("/"):
        return None, number(port), rest
    if "," in host:
        raise ConfigError("it names several database hosts; declare in reach.host which one is meant, with a configuration of its own")
    return host or None, number(rest) or number(port), None


def number(port):
    # type: (Any) -> Optional[int]
    """A port as configurations write it, vtiger's with a colon before it; None where there is none."""
    text = "" if port in (None, False) else str(port).strip().lstrip(":")
    if text in ("", "0", "False", "None"):
        return None
    if not text.isdigit() or int(text) > 65535:
        raise ConfigError("its database port is no number between 1 and 65535")
    return int(text)


def contradiction(declared, found):
    # type: (Dict[str, Any], Credentials) -> Optional[str]
    """Why these credentials are not for what the plan declares; None if they are. Pure."""
    wanted = "mysql" if declared["engine"] == "mariadb" else declared["engine"]
    if found.engine and family(found.engine) != wanted:
        return "it is for engine {0}, declared is {1}".format(found.engine, declared["engine"])
    if found.database and found.database != declared["database"]:
        return "it is for database {0!r}, declared is {1!r}".format(found.database, declared["database"])
    for what, said, meant in (("host", found.host, declared.get("host")), ("port", found.port, declared.get("port"))):
        if said and meant and said != meant and not (what == "host" and _loopback(said) and _loopback(meant)):
            return "it names {0} {1}, declared is {2}".format(what, said, meant)
    return None


def _loopback(host):
    return host in ("localhost", "::1") or re.match(r"^127\.", host) is not None


# --- text ----------------------------------------------------------------------------------------------------------


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

# The texts come in as base64, one a line; the values asked for go out the same way, so that nothing can be mistaken for a line end.
PHP = r"""
error_reporting(0); define('sugarEntry', true); $sunset_returned = array(); ob_start();
while (($sunset_line = fgets(STDIN)) !== false) {
    $sunset_part = eval('?>' . base64_decode(trim($sunset_line)));
    if (is_array($sunset_part)) $sunset_returned = array_replace_recursive($sunset_returned, $sunset_part);
}
while (ob_get_level()) ob_end_clean();
foreach (array_slice($argv, 1) as $sunset_path) {
    $sunset_value = $GLOBALS;
    foreach (explode('/', $sunset_path) as $sunset_key)
        $sunset_value = is_array($sunset_value) && isset($sunset_value[$sunset_key]) ? $sunset_value[$sunset_key] : null;
    if (is_scalar($sunset_value)) echo $sunset_path, ' ', base64_encode($sunset_value === false ? '' : (string) $sunset_value), "\n";
}
echo "end\n";
"""

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


DJANGO = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
one = importlib.import_module(sys.argv[2]).DATABASES[sys.argv[3]]
names = ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT")
found = {name: str(one[name]) for name in names if one.get(name) is not None}
found["SSLMODE"] = (one.get("OPTIONS") or {}).get("sslmode")
sys.stdout.write("\\n" + json.dumps(found))
"""


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


# --- the world -----------------------------------------------------------------------------------------------------


def read(config):
    # type: (Dict[str, Any]) -> Credentials
    """What a configuration says. `config`: format, path, and what the format needs besides. Raises ConfigError with one sentence."""
    form, path = config.get("format"), str(config.get("path") or "")
    if form not in FORMATS:
        raise ConfigError("reach.config.format is {0!r}; expected one of {1}".format(form, ", ".join(sorted(FORMATS))))
    if not path.startswith("/"):
        raise ConfigError("reach.config.path is {0!r}; expected the absolute path of the configuration".format(path))
    try:
        return FORMATS[form](config, path)
    except ConfigError as error:
        raise ConfigError("the configuration {0} ({1}): {2}".format(path, form, error))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        # An error's text could quote the file; its kind cannot.
        raise ConfigError(
            "the configuration {0} ({1}) cannot be read: {2}".format(
                path, form, getattr(error, "strerror", None) or "it is not of that format ({0})".format(type(error).__name__)
            )
        )


def _text(path, private=False):
    # type: (str, bool) -> Tuple[bytes, int]
    """(content, owner) of a regular file, both of the very file that was opened."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if private else 0)
    descriptor = os.open(path, flags)
    with os.fdopen(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ConfigError("{0} is no regular file".format(path))
        if private and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
            raise ConfigError("the file must belong to uid {0} and have mode 0600".format(os.geteuid()))
        content = stream.read(LIMIT + 1)
    if len(content) > LIMIT:
        raise ConfigError("{0} is larger than {1} bytes; that is no configuration".format(path, LIMIT))
    return content, found.st_uid


def _string(path, private=False):
    return _text(path, private)[0].decode("utf-8-sig", "surrogateescape")


def _existing(path, names):
    """The files that are there, in the order in which they win; the named one must be."""
    folder = os.path.dirname(path)
    files = [os.path.join(folder, name) for name in names]
    if path not in files:
        files = [path] + files[1:]
    return [one for one in files if one == path or os.path.exists(one)]


def as_owner(uid):
    # type: (int) -> Any
    """For preexec_fn: the account that runs a configuration, never root."""
    if os.geteuid() != 0:
        return None
    account = uid or NOBODY

    def become():
        os.setgroups([])
        os.setgid(account)
        os.setuid(account)

    return become


def _php(config, path):
    form = config["format"]
    names, wanted, prefix = PHP_FORMATS[form]
    contents, owner = [], 0
    for one in _existing(path, names):
        content, uid = _text(one)
        contents.append(base64.b64encode(content))
        owner = uid if one == path else owner
    # No php.ini: it may load anything. Only what is always part of php is used.
    argv = ["php", "-n", "-d", "log_errors=0", "-d", "display_errors=0", "-r", PHP, "--"] + [prefix + one for one in wanted.values()]
    try:
        done = _run(argv, b"\n".join(contents) + b"\n", owner, os.path.dirname(path))
    except FileNotFoundError:
        raise ConfigError(
            "it is a PHP program and this machine has no php to evaluate it; write host, user and password into a JSON file "
            "of root with mode 0600 and declare it with format file"
        )
    if done.returncode != 0:
        raise ConfigError("php could not evaluate it (exit code {0}); `php -l` on it shows where".format(done.returncode))
    return from_php(form, php_answer(done.stdout, wanted, prefix))


def _run(argv, given, owner, folder):
    # type: (List[str], bytes, int, str) -> Any
    environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        argv,
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        cwd=folder,
        preexec_fn=as_owner(owner),
        timeout=60,
        check=False,
    )


def _env(config, path):
    """Symfony's order: .env, .env.local, .env.<APP_ENV>, .env.<APP_ENV>.local; the later wins."""
    values = {}  # type: Dict[str, str]
    folder, base = os.path.split(path)
    base = base[:-6] if base.endswith(".local") else base
    for ending in ("", ".local", ".{APP_ENV}", ".{APP_ENV}.local"):
        name = os.path.join(folder, base + ending.format(APP_ENV=values.get("APP_ENV") or "prod"))
        if os.path.exists(name):
            values = parse_dotenv(_string(name), known=values)
    key = config.get("key") or "DATABASE_URL"
    if not values:
        raise ConfigError("there is no such file")
    if not values.get(key):
        raise ConfigError("it sets no {0}; name the right variable in reach.config.key".format(key))
    return parse_url(values[key])


def _frappe(_config, path):
    common = os.path.join(os.path.dirname(os.path.dirname(path)), "common_site_config.json")
    values = {}  # type: Dict[str, Any]
    for name in (common, path):
        if name == path or os.path.exists(name):
            values.update(json.loads(_string(name)))
    return from_frappe(values)


def _django(config, path):
    """path: the directory that manage.py lies in; python: the project's own interpreter; settings: its module."""
    missing = [name for name in ("python", "settings") if not config.get(name)]
    if missing:
        raise ConfigError("reach.config.{0} is missing: the project's own python and the name of its settings module".format(missing[0]))
    argv = [str(config["python"]), "-I", "-B", "-c", DJANGO, path, str(config["settings"]), str(config.get("alias") or "default")]
    done = _run(argv, b"", os.stat(path).st_uid, path)
    if done.returncode != 0:
        raise ConfigError("its python could not import {0} (exit code {1})".format(config["settings"], done.returncode))
    return from_django(json.loads(done.stdout.decode("utf-8").rsplit("\n", 1)[-1]))


FORMATS = {
    "suitecrm": _php,
    "espocrm": _php,
    "dolibarr": _php,
    "vtiger": _php,
    "odoo": lambda _config, path: from_odoo(_string(path)),
    "env": _env,
    "laravel": lambda _config, path: from_laravel(parse_dotenv(_string(path), bare=False)),
    "frappe": _frappe,
    "django": _django,
    "file": lambda _config, path: from_file(_string(path, private=True)),
}
