#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: web_closed
short_description: Answer every request to a web site with a 503 tombstone page, or open it again
version_added: 0.1.0
description:
  - Puts a tombstone in place of each server block of one nginx site file. It answers on the same addresses and names,
    for every path and every method, with status 503, a page, and the header C(Sunset-Tombstone) that tells it from a
    503 of a broken application.
  - The original keeps its inode, mode and time stamps and waits beside the site file under a hidden name; opening puts
    this very file back. A symbolic link in C(sites-enabled) stays as it is.
  - The new configuration is tested before nginx reads it; if the test fails the original comes back at once.
  - Success means that each probe was answered by the tombstone for GET and POST, and that no older worker of nginx is
    left that still serves requests under the former configuration.
options:
  state:
    description: V(closed) or V(open).
    type: str
    choices: [closed, open]
    default: closed
  server:
    description: The web server.
    type: str
    choices: [nginx]
    default: nginx
  unit:
    description: Its systemd unit.
    type: str
    default: nginx.service
  site:
    description: Absolute path of the site's file, or of the link to it.
    type: path
    required: true
  probes:
    description: URLs on this host that the site answers; at least one. The page itself, and one that takes writes.
    type: list
    elements: str
    required: true
  title:
    description: Title of the tombstone page; plain text.
    type: str
    default: This service has been retired
  message:
    description: Text of the tombstone page; plain text.
    type: str
    default: It takes no more entries. Please ask your administrator where its data can be found.
  timeout:
    description: Seconds to wait until all requests under the former configuration have ended.
    type: int
    default: 120
notes:
  - An open site is asked with GET only; a POST is sent only where the tombstone has answered.
  - If the probes do not meet the tombstone after closing, the tombstone stays and the module fails. Closed is the
    safer side.
extends_documentation_fragment:
  - sunset.crm.recorded
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Close the web
  sunset.crm.web_closed:
    item: application:creme
    state: closed
    site: /etc/nginx/sites-enabled/creme.conf
    probes: ["http://127.0.0.1/", "http://127.0.0.1/creme_login/"]

- name: Open it again
  sunset.crm.web_closed:
    item: application:creme
    state: open
    site: /etc/nginx/sites-enabled/creme.conf
    probes: ["http://127.0.0.1/", "http://127.0.0.1/creme_login/"]
"""

RETURN = r"""
result:
  description: What later steps read.
  returned: always
  type: dict
  contains:
    site_sha256:
      description: Digest of the original site file.
      type: str
      returned: success
      sample: 2f77668a9dfbf8d5848b9eeb4a7145ca94c6ed9236e4a773f6dcafa5132b2f91
    servers:
      description: How many server blocks the site has.
      type: int
      returned: success
      sample: 1
    probes:
      description: What each probe was answered.
      type: list
      elements: dict
      returned: success
      sample: [{url: "http://127.0.0.1/", method: POST, status: 503, marker: "application:creme"}]
evidence:
  description: What was seen and done, as it goes into the ledger.
  returned: always
  type: dict
  sample: {module: web_closed, item: "application:creme", verdict: "yes"}
"""

import os
import time

from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded
from ansible_collections.sunset.crm.plugins.module_utils._service import (
    scheduler as service_scheduler,
    units as service_units,
    web as service_web,
    web_probe as service_web_probe,
)
from ansible_collections.sunset.crm.plugins.module_utils._service.proc import read_text


def main():
    rec = Recorded(
        argument_spec=dict(
            state=dict(type="str", choices=["closed", "open"], default="closed"),
            server=dict(type="str", choices=["nginx"], default="nginx"),
            unit=dict(type="str", default="nginx.service"),
            site=dict(type="path", required=True),
            probes=dict(type="list", elements="str", required=True),
            title=dict(type="str", default="This service has been retired"),
            message=dict(
                type="str",
                default="It takes no more entries. Please ask your administrator where its data can be found.",
            ),
            timeout=dict(type="int", default=120),
        ),
        object_lock="web",
    )
    check_parameters(rec)
    if rec.params["state"] == "closed":
        closed(rec)
    else:
        opened(rec)


def check_parameters(rec):
    problems = [service_units.unit_problem(rec.params["unit"]), service_web.page_problem(rec.params["title"], rec.params["message"])]
    problems.extend(service_web_probe.url_problem(url) for url in rec.params["probes"])
    if not rec.params["probes"]:
        problems.append("no probe is given; without one nothing proves that the web is closed")
    for problem in problems:
        if problem:
            rec.fail(problem)


def observe(rec):
    """The site, its original, and what nginx really answers."""
    site = rec.params["site"]
    path = os.path.realpath(site)
    aside = service_web.original_name(path)
    text, digest, original = read_text(path), service_scheduler.file_digest(path), service_scheduler.file_digest(aside)
    source = read_text(aside) if original is not None else text
    blocks, wanted = [], None
    if source is not None and not service_web.is_tombstone(source):
        try:
            blocks = service_web.server_blocks(source)
        except service_web.SyntaxProblem as err:
            rec.fail("%s cannot be read as an nginx configuration: %s" % (path, err))
        problem = service_web.site_problem(blocks)
        if problem:
            rec.fail("%s: %s" % (site, problem))
        wanted = service_web.tombstone(source, rec.item, rec.params["title"], rec.params["message"])
    state, message = service_web.site_state(text, digest, original, wanted)
    if state in ("absent", "conflict"):
        rec.fail("site %s (file %s): %s" % (site, path, message))
    unit = rec.params["unit"]
    if not service_web_probe.is_serving(unit):
        rec.fail("%s: found no running nginx in it, expected one; nothing would answer for %s. Start it, or correct `unit`" % (unit, site))
    probes = service_web_probe.ask_all(rec.params["probes"], rec.item, write_too=state != "open")
    return {
        "state": state,
        "path": path,
        "link": os.path.islink(site),
        "site_sha256": original or digest,
        "original_aside": original is not None,
        "servers": len(blocks),
        "probes": probes,
        "old_workers": len(service_web_probe.old_workers(unit)),
        "marked": [service_web.probe_closed(probe, rec.item) for probe in probes],
        "wanted": wanted,
        "text": text,
    }


def recorded(seen):
    return {key: value for key, value in seen.items() if key not in ("wanted", "text")}


def is_closed(seen):
    return seen["state"] == "closed" and not seen["old_workers"] and all(seen["marked"])


def is_open(seen):
    return seen["state"] == "open" and not seen["original_aside"] and not any(seen["marked"]) and not seen["old_workers"]


def result_of(seen):
    return {"site_sha256": seen["site_sha256"], "servers": seen["servers"], "probes": seen["probes"]}


def reload_and_wait(rec, good, complaint):
    """Let nginx read the configuration, and wait until its answers and its workers show it."""
    rec.run(["systemctl", "reload", rec.params["unit"]], timeout=60)
    deadline = time.time() + rec.params["timeout"]
    settle = time.time() + 8
    while True:
        seen = observe(rec)
        if good(seen):
            return seen
        # Probes answer within moments of a reload or never; only old requests deserve the whole time.
        if time.time() > deadline or (not seen["old_workers"] and time.time() > settle):
            rec.after(recorded(seen))
            rec.fail(complaint(seen), **result_of(seen))
        time.sleep(0.3)


def describe_probes(seen):
    return "; ".join(
        "%s %s: %s" % (p["method"], p["url"], p.get("error") or "%s, marker %r" % (p["status"], p["marker"])) for p in seen["probes"]
    )


def not_closed(seen):
    if seen["old_workers"]:
        return (
            "%d worker process(es) of nginx still serve requests that began before the closing (long downloads, "
            "websockets); new requests get the tombstone. Wait for them or end them, then run the same command again" % seen["old_workers"]
        )
    return (
        "the tombstone stands, but not every probe meets it. Expected 503 with the header %s; found: %s. Another site may "
        "answer for these addresses: correct `site` or `probes`" % (service_web.MARKER, describe_probes(seen))
    )


def not_open(seen):
    return "the original is back, but the tombstone still answers. Found: %s" % describe_probes(seen)


def test_configuration(rec):
    return rec.run(["nginx", "-t"], check=False)


def move_back(rec, aside, path):
    os.rename(aside, path)
    if os.path.lexists(aside):
        # both names were one file: rename does nothing then
        os.unlink(aside)
    service_units.sync_directory(os.path.dirname(path))
    rec.note(action="rename", path=aside, to=path)


def put_aside(rec, path, aside, digest):
    os.link(path, aside)
    service_units.sync_directory(os.path.dirname(aside))
    rec.note(action="link", path=path, to=aside, sha256=digest)


def closed(rec):
    seen = observe(rec)
    rec.before(recorded(seen))
    changed = not is_closed(seen)
    if changed and not rec.check_mode:
        put_tombstone(rec, seen)
        seen = reload_and_wait(rec, is_closed, not_closed)
    rec.after(recorded(seen))
    rec.finish(changed=changed, verdict="unknown" if rec.check_mode and changed else "yes", result=result_of(seen))


def put_tombstone(rec, seen):
    """The original under a second name first, then one rename: at every instant there is a whole site file."""
    path, aside = seen["path"], service_web.original_name(seen["path"])
    if not seen["original_aside"]:
        put_aside(rec, path, aside, seen["site_sha256"])
    if seen["state"] != "closed":
        service_units.write_atomic(path, seen["wanted"], mode=os.stat(path).st_mode & 0o777)
        rec.note(action="write", path=path, servers=seen["servers"])
    answer = test_configuration(rec)
    if answer.rc == 0:
        return
    if seen["state"] == "open":
        move_back(rec, aside, path)
    elif seen["state"] == "stale":
        service_units.write_atomic(path, seen["text"], mode=os.stat(path).st_mode & 0o777)
    rec.fail(
        "nginx refuses its configuration with the tombstone in it; the site file is as it was before and nginx was not "
        "reloaded. nginx says: %s" % answer.err.strip()[-600:]
    )


def opened(rec):
    seen = observe(rec)
    rec.before(recorded(seen))
    changed = not is_open(seen)
    if changed and not rec.check_mode:
        put_original(rec, seen)
        seen = reload_and_wait(rec, is_open, not_open)
    rec.after(recorded(seen))
    rec.finish(changed=changed, verdict="unknown" if rec.check_mode and changed else "yes", result=result_of(seen))


def put_original(rec, seen):
    path, aside = seen["path"], service_web.original_name(seen["path"])
    if seen["original_aside"]:
        move_back(rec, aside, path)
    answer = test_configuration(rec)
    if answer.rc == 0:
        return
    if seen["state"] != "open":
        put_aside(rec, path, aside, seen["site_sha256"])
        service_units.write_atomic(path, seen["text"], mode=os.stat(path).st_mode & 0o777)
    rec.fail(
        "nginx refuses its configuration with the original site in it; nginx was not reloaded and the tombstone stays. "
        "Mend what it names (a missing certificate, an upstream that no longer resolves), then run again. nginx says: %s"
        % answer.err.strip()[-600:]
    )


if __name__ == "__main__":
    main()
