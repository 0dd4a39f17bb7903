# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
import pytest

from ansible_collections.sunset.crm.plugins.module_utils._service import web as service_web, web_probe as service_web_probe

SITE = """# server { in a comment }
upstream app { server 127.0.0.1:8000; }
map $x $y { default "};{"; }
server {
    listen 443 ssl http2 default_server;
    listen [::]:443 ssl;   # both
    server_name crm.example.org
                ~^(www\\.)?x$;
    ssl_certificate "/etc/ssl/a b.pem"; ssl_certificate_key /etc/ssl/k.pem;
    ssl_stapling on;
    ssl_verify_client on;
    location / { proxy_pass http://app; if ($a ~ "}") { return 403; } }
}
server { listen 80; return 301 https://$host${request_uri}; }
"""


def test_server_blocks_are_found_and_only_those():
    first, second = service_web.server_blocks(SITE)
    assert first["kept"] == [
        "listen 443 ssl http2 default_server;",
        "listen [::]:443 ssl;",
        "server_name crm.example.org ~^(www\\.)?x$;",
        'ssl_certificate "/etc/ssl/a b.pem";',
        "ssl_certificate_key /etc/ssl/k.pem;",
    ]
    assert second["kept"] == ["listen 80;"]
    assert SITE[second["start"] : second["end"]] == "server { listen 80; return 301 https://$host${request_uri}; }"


def test_a_name_with_braces_must_be_quoted_as_nginx_wants_it():
    quoted = 'server { listen 80; server_name "~^x\\d{2}$"; }'
    assert service_web.server_blocks(quoted)[0]["kept"] == ["listen 80;", 'server_name "~^x\\d{2}$";']


def test_the_tombstone_keeps_what_other_sites_may_use():
    site = SITE.replace("~^(www\\.)?x$", "www.example.org")
    text = service_web.tombstone(site, "application:crm", "Gone", "Ask")
    assert service_web.is_tombstone(text) and not service_web.is_tombstone(site) and not service_web.is_tombstone(None)
    assert "upstream app { server 127.0.0.1:8000; }" in text and 'map $x $y { default "};{"; }' in text
    assert "proxy_pass" not in text and "301" not in text and "ssl_verify" not in text and "stapling" not in text
    blocks = service_web.server_blocks(text)
    assert [block["listens"] for block in blocks] == [2, 1]
    assert blocks[0]["names"] == ["crm.example.org", "www.example.org"]
    assert text.count("return 503 ") == 2 and text.count('add_header Sunset-Tombstone "application:crm" always;') == 2


@pytest.mark.parametrize("text", ['server { listen 80; x "never closed; }', "server { listen 80;", "server { } }"])
def test_a_broken_file_is_said(text):
    with pytest.raises(service_web.SyntaxProblem):
        service_web.server_blocks(text)


def test_sites_that_a_tombstone_cannot_stand_for():
    assert "no server block" in service_web.site_problem(service_web.server_blocks("http { server { listen 80; } }"))
    assert "include" in service_web.site_problem(service_web.server_blocks("server { include listen.conf; }"))
    assert service_web.site_problem(service_web.server_blocks("server { listen 80; include tls.conf; }")) is None
    assert service_web.site_problem(service_web.server_blocks("server { root /srv; }")) is None


def test_the_page_cannot_break_out():
    page = service_web.page('A "b" $uri \\', "<script>'x'</script>\n$host")
    assert '"' not in page and "$" not in page and "\\" not in page and "<script>" not in page and "\n" not in page
    assert service_web.page_problem("a", "b") is None
    assert "shorten" in service_web.page_problem("a", "\u00f6" * 2000)
    assert service_web.header_value('x"; evil\r\n') == "x__ evil__"


@pytest.mark.parametrize(
    "text, digest, original, wanted, state",
    [
        ("site", "d1", None, "tomb", "open"),
        (None, None, None, None, "absent"),
        (service_web.FIRST_LINE + " x", "d2", None, None, "conflict"),
        ("site", "d1", "d1", "tomb", "open"),
        (None, None, "d1", "tomb", "open"),
        (service_web.FIRST_LINE + " x", "d2", "d1", service_web.FIRST_LINE + " x", "closed"),
        (service_web.FIRST_LINE + " x", "d2", "d1", service_web.FIRST_LINE + " y", "stale"),
        ("another", "d3", "d1", "tomb", "conflict"),
    ],
)
def test_state_of_a_site(text, digest, original, wanted, state):
    found, message = service_web.site_state(text, digest, original, wanted)
    assert found == state
    assert bool(message) == (state in ("absent", "conflict"))


def test_the_original_waits_under_a_name_that_no_pattern_matches():
    assert service_web.original_name("/etc/nginx/conf.d/crm.conf") == "/etc/nginx/conf.d/.crm.conf.sunset-original"


@pytest.mark.parametrize(
    "probe, closed",
    [
        ({"status": 503, "marker": "application:crm"}, True),
        ({"status": 503, "marker": ""}, False),
        ({"status": 503, "marker": "application:other"}, False),
        ({"status": 200, "marker": "application:crm"}, False),
        ({"status": None, "marker": ""}, False),
    ],
)
def test_only_the_own_tombstone_counts(probe, closed):
    assert service_web.probe_closed(probe, "application:crm") is closed


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "https://crm.example.org:8443/x?y", "http://[::1]/"])
def test_probes(url):
    assert service_web_probe.url_problem(url) is None


@pytest.mark.parametrize("url", ["", "crm", "ftp://x/", "http:///x", "http://u:p@x/", "http://x:port/"])
def test_what_is_no_probe(url):
    assert service_web_probe.url_problem(url)


def test_nobody_answers():
    answer = service_web_probe.ask("http://127.0.0.1:1/", "GET", timeout=2)
    assert answer["status"] is None and "refused" in answer["error"]
