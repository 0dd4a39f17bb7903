# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The two applications as a user meets them, from outside: can one log in, can one write?"""

from __future__ import annotations

import http.cookiejar
import re
import urllib.error
import urllib.parse
import urllib.request

from . import engine

CREME_PASSWORD = "root"  # what creme_populate sets


class Browser:
    """Keeps cookies, uses no proxy, says status and page instead of raising."""

    def __init__(self, host: str) -> None:
        self.base = f"http://{engine.ensure_network()[host]}"
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar)

    def ask(self, path: str, form: dict[str, str] | None = None) -> tuple[int, str]:
        data = urllib.parse.urlencode(form).encode() if form is not None else None
        try:
            with self._opener.open(self.base + path, data=data, timeout=60) as answer:
                return answer.status, answer.read().decode(errors="replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError as error:
            return 0, str(error)


def creme_login(user: str = "root", password: str = CREME_PASSWORD) -> Browser | None:
    """A browser that is logged in to Creme, or None."""
    browser = Browser("app1")
    status, page = browser.ask("/creme_login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    if status != 200 or not token:
        return None
    form = {"username": user, "password": password, "csrfmiddlewaretoken": token.group(1)}
    status, page = browser.ask("/creme_login/", form)
    # The first page of a session that is logged in; the login form again if it is not.
    return browser if status == 200 and 'name="password"' not in page else None


def creme_contacts() -> int | None:
    """How many contacts a logged-in user is shown, or None."""
    browser = creme_login()
    if browser is None:
        return None
    status, page = browser.ask("/persons/contacts")
    shown = re.search(r'data-total-count="(\d+)"', page)
    return int(shown.group(1)) if status == 200 and shown else None


def old_write() -> int:
    """The status that a write to the old system is answered with."""
    return Browser("old1").ask("/", {"note": "hello"})[0]
