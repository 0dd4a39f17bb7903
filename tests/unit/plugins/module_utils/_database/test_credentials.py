# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Configurations of CRM systems with hostile passwords: what comes out is what the CRM itself would read."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from ansible_collections.sunset.crm.plugins.module_utils._database import (
    config_formats as database_config_formats,
    config_read as database_config_read,
    credentials as database_credentials,
)

HOSTILE = [
    "plain",
    'it\'s "so"',
    "back\\slash \\' ",
    " spaces at both ends ",
    "50%40@/?#&+:;",
    "Zoë 😀",
    "$HOME ${HOME} `id`",
    "# no comment",
    "a]b{c}<?php ?>",
    "",
]
PASSWORDS = pytest.mark.parametrize("password", HOSTILE)
PYTHON = shutil.which("python3", path="/usr/bin") or os.path.realpath(sys.executable)  # one that others may run


def php(text: str) -> str:
    """A PHP string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def lay(folder: Path, **files: str) -> str:
    """Files below a directory that everybody may enter (php does not run as root); the path of the first."""
    folder.mkdir(parents=True, exist_ok=True)
    for parent in [folder, *folder.parents][:4]:
        if parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    first = ""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        first = first or str(path)
    return first


@PASSWORDS
def test_database_urls(password: str) -> None:
    found = database_config_formats.parse_url(
        f"mysql://crm%40x:{quote(password, safe='')}@db.example:3307/crm%2Fone?serverVersion=10.11&charset=utf8mb4"
    )
    assert (found.user, found.password, found.host, found.port, found.database) == ("crm@x", password, "db.example", 3307, "crm/one")
    assert database_credentials.family(found.engine) == "mysql"


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("postgres://u:p@[2001:db8::1]:5433/d", ("2001:db8::1", 5433, None)),
        ("postgresql://u:p@/d?host=/run/pg", (None, None, "/run/pg")),
        ("postgresql+psycopg2://u:p@h/d?port=6000", ("h", 6000, None)),
        ("mysql://u:p@localhost/d?unix_socket=/run/s.sock", ("localhost", None, "/run/s.sock")),
        ("mysql://u:p@w@h/d", ("h", None, None)),
    ],
)
def test_places_in_urls(url: str, place: Any) -> None:
    found = database_config_formats.parse_url(url)
    assert (found.host, found.port, found.socket) == place


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hunter2%zz@h/d",
        "mysql://u:hunter2/x@h/d",
        "mysql://u:hunter2#x@h/d",
        "hunter2",
        "pgsql://u:hunter2@a,b/d",
        "mysql://:hunter2@h/d",
    ],
)
def test_ambiguous_urls_are_refused_and_never_shown(url: str) -> None:
    with pytest.raises(database_credentials.ConfigError) as caught:
        database_config_formats.parse_url(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "", False, "False", " "])
def test_no_host_is_a_socket(text: Any) -> None:
    assert database_credentials.place(text, None) == (None, None, None)


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("p:db:3307", "", ("db", 3307, None)),
        ("localhost:/run/s.sock", None, (None, None, "/run/s.sock")),
        ("db", ":3306", ("db", 3306, None)),
        ("::1", 5432, ("::1", 5432, None)),
        ("unix:/run/s.sock", 0, (None, None, "/run/s.sock")),
    ],
)
def test_places(host: str, port: Any, expected: Any) -> None:
    assert database_credentials.place(host, port) == expected


@pytest.mark.parametrize("port", ["3306; rm", "70000", "-1", "a"])
def test_a_port_is_a_number(port: str) -> None:
    with pytest.raises(database_credentials.ConfigError, match="port"):
        database_credentials.number(port)


def test_a_password_does_not_show_itself_and_holds_no_line_end() -> None:
    assert "hunter2" not in repr(database_credentials.Credentials("u", "hunter2"))
    with pytest.raises(database_credentials.ConfigError) as caught:
        database_credentials.Credentials("u", "hunter2\n[client]")
    assert "hunter2" not in str(caught.value)


@PASSWORDS
def test_dotenv_quotes(password: str) -> None:
    double = password.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$")
    text = f'# first\n\nexport A=1\nB="{double}" # why\n'
    if "'" not in password:
        text += f"C='{password}'\n"
    values = database_config_formats.parse_dotenv(text + "D=last")
    assert values["A"] == "1" and values["B"] == password and values["D"] == "last"
    assert values.get("C", password) == password


def test_dotenv_references() -> None:
    text = "U=crm\nP='$x'\nURL=mysql://${U}:${P}@h/$U\nF=${NO:-fall}\nM=\"a\nb\"\nE=\n"
    values = database_config_formats.parse_dotenv(text)
    assert values["URL"] == "mysql://crm:$x@h/crm" and values["F"] == "fall" and values["M"] == "a\nb" and values["E"] == ""
    assert database_config_formats.parse_dotenv("P=a$b$(x)", bare=False)["P"] == "a$b$(x)", "Laravel reads it as it stands"


@pytest.mark.parametrize("text", ["A=$NOPE", "A=$(id)", "A='open", 'A="open', "not an assignment", "A=two words"])
def test_dotenv_that_cannot_be_read_is_refused_by_line(text: str) -> None:
    with pytest.raises(database_credentials.ConfigError, match="line 2"):
        database_config_formats.parse_dotenv("OK=1\n" + text)


def test_symfony_files_in_their_order(tmp_path: Path) -> None:
    path = lay(tmp_path, **{".env": "APP_ENV=prod\nDATABASE_URL=mysql://a:1@h/d\n", ".env.local": "DATABASE_URL=mysql://b:2@h/d\n"})
    assert database_config_read.read({"format": "env", "path": path}).user == "b"
    (tmp_path / ".env.prod.local").write_text("DATABASE_URL='mysql://c:%273@h/d'\nOTHER=mysql://o:4@h/d")
    assert database_config_read.read({"format": "env", "path": path}).password == "'3"
    assert database_config_read.read({"format": "env", "path": path, "key": "OTHER"}).user == "o"
    with pytest.raises(database_credentials.ConfigError, match="sets no NOPE"):
        database_config_read.read({"format": "env", "path": path, "key": "NOPE"})


def test_laravel(tmp_path: Path) -> None:
    path = lay(tmp_path, **{".env": 'DB_CONNECTION=pgsql\nDB_HOST=h\nDB_PORT=5432\nDB_DATABASE=d\nDB_USERNAME=u\nDB_PASSWORD="p\\"$x#"\n'})
    found = database_config_read.read({"format": "laravel", "path": path})
    assert (found.user, found.password, found.port, database_credentials.family(found.engine)) == ("u", 'p"$x#', 5432, "postgresql")


@PASSWORDS
def test_frappe_and_odoo(tmp_path: Path, password: str) -> None:
    (tmp_path / "sites" / "one").mkdir(parents=True)
    (tmp_path / "sites" / "common_site_config.json").write_text(json.dumps({"db_host": "db", "db_port": 3307}))
    site = tmp_path / "sites" / "one" / "site_config.json"
    site.write_text(json.dumps({"db_name": "_abc", "db_password": password}))
    found = database_config_read.read({"format": "frappe", "path": str(site)})
    assert (found.user, found.password, found.host, found.port, found.database) == ("_abc", password, "db", 3307, "_abc")
    if password == password.strip():
        odoo = tmp_path / "odoo.conf"
        odoo.write_text(f"[options]\ndb_host = False\ndb_user = odoo\ndb_password = {password}\ndb_name = False\n")
        found = database_config_read.read({"format": "odoo", "path": str(odoo)})
        assert (found.host, found.password, found.database) == (None, password, None)


@pytest.mark.parametrize("form", ["json", "ini"])
def test_the_operators_own_file_must_be_private(tmp_path: Path, form: str) -> None:
    path = tmp_path / "own"
    path.write_text(json.dumps({"user": "u", "password": "p%(x)s"}) if form == "json" else "[db]\nuser=u\npassword=p%(x)s\n")
    path.chmod(0o640)
    with pytest.raises(database_credentials.ConfigError, match="mode 0600"):
        database_config_read.read({"format": "file", "path": str(path)})
    path.chmod(0o600)
    assert database_config_read.read({"format": "file", "path": str(path)}).password == "p%(x)s"
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(database_credentials.ConfigError, match="cannot be read"):
        database_config_read.read({"format": "file", "path": str(tmp_path / "link")})


@PASSWORDS
def test_php_configurations(tmp_path: Path, password: str) -> None:
    """Values from files that win over others; output, a stray exit guard and a missing include do not matter."""
    sugar = lay(
        tmp_path / "suite",
        **{
            "config.php": "\n<?php if (!defined('sugarEntry')) die('no'); echo 'noise';\n$sugar_config = array('dbconfig' => array("
            "'db_host_name' => 'localhost', 'db_user_name' => 'u', 'db_password' => 'old', 'db_name' => 'suite', 'db_type' => 'mysql', 'db_port' => ''));",
            "config_override.php": f"<?php\n$sugar_config['dbconfig']['db_password'] = {php(password)};\n?>\n",
        },
    )
    espo = lay(
        tmp_path / "espo",
        **{
            "config-internal.php": "<?php return ['database' => ['platform' => 'Mysql', 'host' => 'db', 'port' => '3307', 'user' => 'u',"
            " 'dbname' => 'suite', 'password' => 'old'], 'cryptKey' => 'x'];",
            "config-internal-override.php": f"<?php return ['database' => ['password' => {php(password)}]];",
        },
    )
    doli = lay(
        tmp_path / "doli",
        **{
            "conf.php": f"<?php $dolibarr_main_db_host='db'; $dolibarr_main_db_port='3307'; $dolibarr_main_db_name='suite';"
            f"$dolibarr_main_db_user='u'; $dolibarr_main_db_pass={php(password)}; $dolibarr_main_db_type='mysqli';"
        },
    )
    vtiger = lay(
        tmp_path / "vt",
        **{
            "config.inc.php": "<?php include('vtigerversion.php'); $dbconfig['db_server'] = 'db'; $dbconfig['db_port'] = ':3307';"
            f"$dbconfig['db_username'] = 'u'; $dbconfig['db_password'] = {php(password)}; $dbconfig['db_name'] = 'suite'; $dbconfig['db_type'] = 'mysqli';"
        },
    )
    for form, path in (("suitecrm", sugar), ("espocrm", espo), ("dolibarr", doli), ("vtiger", vtiger)):
        found = database_config_read.read({"format": form, "path": path})
        assert (found.user, found.password, found.database, database_credentials.family(found.engine)) == (
            "u",
            password,
            "suite",
            "mysql",
        ), form
        assert found.port == (None if form == "suitecrm" else 3307)


@pytest.mark.parametrize("how", ["crypted:abc", "dolcrypt:AES-256-CTR:x:y"])
def test_dolibarrs_crypted_passwords_are_refused_by_name(tmp_path: Path, how: str) -> None:
    path = lay(tmp_path, **{"conf.php": f"<?php $dolibarr_main_db_user='u'; $dolibarr_main_db_pass='{how}';"})
    with pytest.raises(database_credentials.ConfigError, match=how.split(":")[0] + ":.*only Dolibarr can read back.*format file"):
        database_config_read.read({"format": "dolibarr", "path": path})


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
@pytest.mark.parametrize("owner", [0, 1234])
def test_a_configuration_never_runs_as_root(tmp_path: Path, owner: int) -> None:
    """It may be written by a web server's account, which must not become root by it."""
    path = lay(
        tmp_path,
        **{
            "conf.php": "<?php $dolibarr_main_db_user = 'uid' . getmyuid() . '/' . (function_exists('posix_geteuid') ? posix_geteuid() : fileowner('/proc/self')); $dolibarr_main_db_pass = is_writable('/etc/passwd') ? 'bad' : 'good';"
        },
    )
    os.chown(path, owner, owner)
    os.chmod(path, 0o600)
    found = database_config_read.read({"format": "dolibarr", "path": path})
    assert found.user.endswith(f"/{owner or 65534}") and found.password == "good"


@pytest.mark.parametrize("text", ["<?php $x = 'hunter2' 'hunter2';", "<?php exit('hunter2');", "<?php $y = 1;"])
def test_a_broken_php_file_is_refused_and_never_shown(tmp_path: Path, text: str) -> None:
    path = lay(tmp_path, **{"conf.php": text})
    with pytest.raises(database_credentials.ConfigError) as caught:
        database_config_read.read({"format": "dolibarr", "path": path})
    assert "hunter2" not in str(caught.value) and path in str(caught.value)


def test_without_php_it_is_said_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    path = lay(tmp_path, **{"config.php": "<?php"})
    with pytest.raises(database_credentials.ConfigError, match="no php to evaluate it; write .* mode 0600 and declare it with format file"):
        database_config_read.read({"format": "suitecrm", "path": path})


@PASSWORDS
def test_django_settings_by_the_projects_own_python(tmp_path: Path, password: str) -> None:
    lay(
        tmp_path,
        **{
            "proj/local.py": f"print('noise')\nDATABASES = {{'default': {{'ENGINE': 'django.db.backends.postgresql', 'NAME': 'd', 'USER': 'u', 'PASSWORD': {password!r}, 'HOST': '', 'PORT': ''}}}}\n",
            "proj/settings.py": "from .local import *\n",
            "proj/__init__.py": "",
        },
    )
    config = {"format": "django", "path": str(tmp_path), "python": PYTHON, "settings": "proj.settings"}
    found = database_config_read.read(config)
    assert (found.user, found.password, found.host, database_credentials.family(found.engine)) == ("u", password, None, "postgresql")
    with pytest.raises(database_credentials.ConfigError, match="could not import nope"):
        database_config_read.read({**config, "settings": "nope"})
    with pytest.raises(database_credentials.ConfigError, match="reach.config.python is missing"):
        database_config_read.read({**config, "python": None})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"format": "magento", "path": "/x"}, "expected one of .*suitecrm"),
        ({"format": "odoo", "path": "x"}, "absolute path"),
        ({"format": "odoo", "path": "/no/such"}, "No such file"),
        ({"format": "odoo", "path": "/dev/null"}, "no regular file"),
        ({"format": "frappe", "path": "/etc/hostname"}, "not of that format"),
    ],
)
def test_bad_declarations_are_one_sentence(config: Any, message: str) -> None:
    with pytest.raises(database_credentials.ConfigError, match=message):
        database_config_read.read(config)


def test_credentials_of_something_else_are_refused() -> None:
    declared = {"engine": "mariadb", "database": "crm", "host": "127.0.0.1", "port": 3306}
    assert (
        database_credentials.contradiction(
            declared, database_credentials.Credentials("u", "p", host="localhost", port=3306, database="crm", engine="mysqli")
        )
        is None
    )
    for wrong, message in (
        ({"engine": "mssql"}, "engine mssql, declared is mariadb"),
        ({"database": "other"}, "database 'other'"),
        ({"host": "db2"}, "host db2, declared is 127.0.0.1"),
        ({"port": 3307}, "port 3307"),
    ):
        assert message in (database_credentials.contradiction(declared, database_credentials.Credentials("u", "p", **wrong)) or "")
