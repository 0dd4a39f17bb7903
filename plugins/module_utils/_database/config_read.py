# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The configuration of a CRM, read where it lies.

Private to the collection. Valid for Python 3.6, standard library.

A configuration is often a program. It is never run as root: whoever may write a web server's file must not become root by it. PHP gets
the text through stdin and runs as the file's owner, or as nobody where that is root.
"""

import base64
import json
import os
import stat
import subprocess
from typing import Any, Dict, List, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._database import config_formats as database_config_formats
from ansible_collections.sunset.crm.plugins.module_utils._database.credentials import ConfigError, Credentials  # noqa: F401

NOBODY = 65534
LIMIT = 1 << 20

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

DJANGO = """
import importlib, json, sys
sys.path.insert(0, sys.argv[1])
one = importlib.import_module(sys.argv[2]).DATABASES[sys.argv[3]]
names = ("ENGINE", "NAME", "USER", "PASSWORD", "HOST", "PORT")
found = {name: str(one[name]) for name in names if one.get(name) is not None}
found["SSLMODE"] = (one.get("OPTIONS") or {}).get("sslmode")
sys.stdout.write("\\n" + json.dumps(found))
"""


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
    names, wanted, prefix = database_config_formats.PHP_FORMATS[form]
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
    return database_config_formats.from_php(form, database_config_formats.php_answer(done.stdout, wanted, prefix))


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
            values = database_config_formats.parse_dotenv(_string(name), known=values)
    key = config.get("key") or "DATABASE_URL"
    if not values:
        raise ConfigError("there is no such file")
    if not values.get(key):
        raise ConfigError("it sets no {0}; name the right variable in reach.config.key".format(key))
    return database_config_formats.parse_url(values[key])


def _frappe(_config, path):
    common = os.path.join(os.path.dirname(os.path.dirname(path)), "common_site_config.json")
    values = {}  # type: Dict[str, Any]
    for name in (common, path):
        if name == path or os.path.exists(name):
            values.update(json.loads(_string(name)))
    return database_config_formats.from_frappe(values)


def _django(config, path):
    """path: the directory that manage.py lies in; python: the project's own interpreter; settings: its module."""
    missing = [name for name in ("python", "settings") if not config.get(name)]
    if missing:
        raise ConfigError("reach.config.{0} is missing: the project's own python and the name of its settings module".format(missing[0]))
    argv = [str(config["python"]), "-I", "-B", "-c", DJANGO, path, str(config["settings"]), str(config.get("alias") or "default")]
    done = _run(argv, b"", os.stat(path).st_uid, path)
    if done.returncode != 0:
        raise ConfigError("its python could not import {0} (exit code {1})".format(config["settings"], done.returncode))
    return database_config_formats.from_django(json.loads(done.stdout.decode("utf-8").rsplit("\n", 1)[-1]))


FORMATS = {
    "suitecrm": _php,
    "espocrm": _php,
    "dolibarr": _php,
    "vtiger": _php,
    "odoo": lambda _config, path: database_config_formats.from_odoo(_string(path)),
    "env": _env,
    "laravel": lambda _config, path: database_config_formats.from_laravel(database_config_formats.parse_dotenv(_string(path), bare=False)),
    "frappe": _frappe,
    "django": _django,
    "file": lambda _config, path: database_config_formats.from_file(_string(path, private=True)),
}
