# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The lab estate: `python -m tests.lab up`, and these functions for tests.

lab.up()  lab.down()  lab.reset("db1")  lab.stop("app1")  lab.start("app1")
lab.execute("db1", ["cat", "/etc/hostname"])   lab.addresses()["db1"]   lab.media()["pgdata"].device
lab.PEOPLE["alice"].ssh_key   lab.planted("pgdata")   lab.paths.INVENTORY
lab.web.creme_login() is not None   lab.web.creme_contacts() == 301   lab.web.old_write()
"""

from . import paths, web
from .estate import addresses, down, execute, filled, media, reset, start, status, stop, up
from .marks import PREFIX, mark, planted
from .people import PEOPLE
from .shell import LabError

__all__ = [
    "PEOPLE", "PREFIX", "LabError", "addresses", "down", "execute", "filled", "mark", "media", "paths", "planted", "reset", "start",
    "status", "stop", "up", "web",
]  # fmt: skip
