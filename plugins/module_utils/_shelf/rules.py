# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The shelf of a vault, a bucket with object lock, as decisions: what may be set, what is asked of an object, what probes prove.

Private to the collection. Valid for Python 3.6, standard library. Nothing here talks to a store; _shelf/s3.py does.
"""

import datetime
import re
from typing import Any, Dict, List, NamedTuple, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

KEYS = ("kind", "endpoint", "bucket", "prefix", "region", "mode", "retain_until", "years", "ca", "credentials", "profile", "require_worm")
MODES = ("COMPLIANCE", "GOVERNANCE")
BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
PREFIX = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,200}$")
LOCAL = re.compile(r"^http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?/?$")
DAY = re.compile(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")
MIB = 1 << 20
SINGLE_PUT = 16 * MIB
SMALLEST_PART = 8 * MIB
MOST_PARTS = 9000
WORM, NOT_WORM = "WORM", "object storage, not WORM"

# The five of them, in the order in which they are made: each says what a store must do to be called write-once.
PROBES = ("checksum", "retention", "delete", "shorten", "bytes")

DIGEST_CODES = ("BadDigest", "InvalidDigest", "XAmzContentChecksumMismatch", "XAmzContentSHA256Mismatch", "InvalidRequest")
LOCK_WORDS = ("ObjectLock", "WORM")
# How stores speak of a lock. All other 403 and 409 have other reasons: nobody knows who asks, his clock is wrong, the account is closed
# or not paid for, something else is at work on the object. AccessDenied is also what a key hears that may not do it at all: see CONTROL.
LOCK_CODES = ("AccessDenied", "InvalidBucketState")
CONTROL = "control, these credentials may do it where no lock forbids it: "
NO_RIGHTS = "%s: so they prove nothing of the lock by being refused; probe with credentials that may (docs/operator/prepare.md)"
GOVERNED = "GOVERNANCE gives way to whoever may bypass it, so a refusal tells of these credentials alone; only COMPLIANCE can be WORM"

Lock = NamedTuple("Lock", [("mode", str), ("until", datetime.datetime), ("hold", bool)])
Asked = NamedTuple("Asked", [("path", str), ("sha256", str), ("bytes", int)])


class Found(object):
    """What a store says of one object; None as version: there is no such object."""

    def __init__(self, version=None, size=-1, sha256="", lock=None):
        # type: (Optional[str], int, str, Optional[Lock]) -> None
        self.version, self.size, self.sha256, self.lock = version, size, sha256, lock


# --- settings ----------------------------------------------------------------------------------------------------------


def faults(shelf):
    # type: (Any) -> List[str]
    """What is wrong with the settings of a shelf, in words; an empty list if nothing is."""
    if not isinstance(shelf, dict):
        return ["it is %r; expected a mapping with kind, endpoint and bucket" % (shelf,)]
    # No value of an unknown key is shown: it may be a secret that somebody put in the wrong place.
    wrong = [
        "it has the unknown key %s (known: %s); keys and passwords belong into the credentials file on the vault" % (key, ", ".join(KEYS))
        for key in sorted(set(shelf) - set(KEYS))
    ]
    if shelf.get("kind") != "s3":
        wrong.append("its kind is %r; expected s3" % shelf.get("kind"))
    if not BUCKET.match(str(shelf.get("bucket") or "")):
        wrong.append("its bucket is %r; expected the name of a bucket" % shelf.get("bucket"))
    endpoint = str(shelf.get("endpoint") or "")
    if endpoint and not endpoint.startswith("https://") and not LOCAL.match(endpoint):
        wrong.append("its endpoint is %r; expected https://... (http:// for this very machine alone)" % endpoint)
    if "@" in endpoint:
        wrong.append("its endpoint holds an @; a user name or password does not belong there")
    if not endpoint and not shelf.get("region"):
        wrong.append("it has neither endpoint nor region, so nobody knows which store is meant")
    if shelf.get("prefix") and (not PREFIX.match(str(shelf["prefix"])) or ".." in str(shelf["prefix"]).split("/")):
        wrong.append("its prefix is %r; expected a plain path of letters, digits, dot, dash, underscore" % shelf["prefix"])
    if shelf.get("mode", MODES[0]) not in MODES:
        wrong.append("its mode is %r (known: %s)" % (shelf.get("mode"), ", ".join(MODES)))
    for name in ("ca", "credentials"):
        if shelf.get(name) and not str(shelf[name]).startswith("/"):
            wrong.append("its %s is %r; expected the absolute path of a file on the vault" % (name, shelf[name]))
    years = shelf.get("years")
    if years is not None and (not isinstance(years, int) or isinstance(years, bool) or not 1 <= years <= 100):
        wrong.append("its years are %r; expected a whole number from 1 to 100" % (years,))
    if shelf.get("retain_until") is not None and day(shelf["retain_until"]) is None:
        wrong.append("its retain_until is %r; expected a date like 2036-12-31" % shelf["retain_until"])
    if not isinstance(shelf.get("require_worm", False), bool):
        wrong.append("its require_worm is %r; expected true or false" % shelf["require_worm"])
    return wrong


def day(text):
    # type: (Any) -> Optional[datetime.date]
    try:
        return datetime.datetime.strptime(str(text), "%Y-%m-%d").date() if DAY.match(str(text)) else None
    except ValueError:
        return None


# --- what is asked of every object -------------------------------------------------------------------------------------


def after_years(start, years):
    # type: (datetime.date, int) -> datetime.date
    try:
        return start.replace(year=start.year + years)
    except ValueError:
        return start.replace(year=start.year + years, month=3, day=1)


def end_of(date):
    # type: (datetime.date) -> datetime.datetime
    """The instant at which a date that is still included has passed."""
    return datetime.datetime(date.year, date.month, date.day, tzinfo=datetime.timezone.utc) + datetime.timedelta(days=1)


def lock_asked(record, shelf, now):
    # type: (Dict[str, Any], Dict[str, Any], datetime.datetime) -> Lock
    """The lock that every object gets: at least the package's retention, at least the shelf's own; the latest of them counts.

    Everything is derived from dates on record, so that a second run asks for the same.
    """
    retention = record.get("retention") or {}
    days = []
    for name, text in (("the package's retention", retention.get("until")), ("the shelf's retain_until", shelf.get("retain_until"))):
        if text is not None:
            found = day(text)
            if found is None:
                raise VaultError("%s is %r; expected a date like 2036-12-31" % (name, text))
            days.append(found)
    if shelf.get("years"):
        sealed = day(str(record.get("sealed") or "")[:10])
        if sealed is None:
            raise VaultError(
                "the package's record does not say when it was sealed, so %s years cannot be counted" % shelf["years"], "unknown"
            )
        days.append(after_years(sealed, int(shelf["years"])))
    if not days:
        raise VaultError(
            "nothing says how long the package must be kept; expected a retention of the package, or retain_until or years of the "
            "shelf (sunset_vault_shelf); nothing was uploaded"
        )
    until = end_of(max(days))
    if until <= now:
        raise VaultError(
            "the retention ended on %s, before now (%s): a lock into the past holds nothing; expected a later date, or a vault whose "
            "clock is right; nothing was uploaded" % (max(days).isoformat(), now.strftime("%Y-%m-%d"))
        )
    return Lock(shelf.get("mode") or MODES[0], until, bool(retention.get("hold")))


def folder_of(shelf, estate, package, tagmanifest_sha256):
    # type: (Dict[str, Any], str, str, str) -> str
    """Where a sealed package lies in the bucket. The seal is in the name: another package of the same host lies beside it."""
    prefix = str(shelf.get("prefix") or "").strip("/")
    return "/".join(part for part in (prefix, estate, "%s.%s" % (package, tagmanifest_sha256[:16])) if part)


def lock_holds(found, asked):
    # type: (Optional[Lock], Lock) -> bool
    """Whether a lock is at least what is asked: as strict, as long, held if a hold is asked."""
    if found is None or found.until < asked.until:
        return False
    return (found.mode == MODES[0] or found.mode == asked.mode) and (found.hold or not asked.hold)


def decide(found, asked, lock):
    # type: (Found, Asked, Lock) -> str
    """upload | lock (it is there, its lock is too weak) | keep."""
    if found.version is None or found.sha256 != asked.sha256 or found.size != asked.bytes:
        return "upload"
    return "keep" if lock_holds(found.lock, lock) else "lock"


def parts_of(size):
    # type: (int) -> Tuple[int, int]
    """(bytes of a part, number of parts) of a file that goes up in parts. The size of the file alone decides, so that a second
    run cuts it at the same places."""
    part = max(SMALLEST_PART, -(-size // MOST_PARTS))
    part = -(-part // MIB) * MIB
    return part, max(1, -(-size // part))


# --- the verdict -------------------------------------------------------------------------------------------------------


def refused(status, code, by):
    # type: (int, str, str) -> str
    """Whether an answer to something forbidden is the refusal that is asked for (by: lock, digest): yes, no, unknown.

    A store that does not know the call, a broken line or a key that is not accepted have not refused because of the lock. Whether a
    key that may do nothing is behind a refusal, the control tells: allowed().
    """
    if 200 <= status < 300:
        return "no"
    if by == "digest":
        return "yes" if code in DIGEST_CODES else "unknown"
    return "yes" if (status in (403, 409) and code in LOCK_CODES) or any(word in code for word in LOCK_WORDS) else "unknown"


def allowed(status, seen):
    # type: (int, bool) -> str
    """Whether a control was done: yes, unknown. It is never no: a key without the right says nothing against the store.

    seen: the world was read afterwards, and showed it."""
    return "yes" if 200 <= status < 300 and seen else "unknown"


def together(held):
    # type: (List[str]) -> str
    """One value of three for several: no beats unknown, unknown beats yes; nothing seen is unknown."""
    for value in ("no", "unknown"):
        if value in held:
            return value
    return "yes" if held else "unknown"


def failed_probes(probes):
    # type: (Dict[str, Any]) -> List[str]
    """The probes that do not hold, in order; one that was never made does not hold."""
    return [name for name in PROBES if (probes.get(name) or {}).get("held") != "yes"]


def class_of(probes):
    # type: (Dict[str, Any]) -> str
    return NOT_WORM if failed_probes(probes) else WORM


def why_not(probes):
    # type: (Dict[str, Any]) -> str
    """The probes that failed and what the store answered, for people."""
    told = []
    for name in failed_probes(probes):
        probe = probes.get(name) or {}
        weak = [a for a in probe.get("answers", []) if a.get("held") != "yes"]
        told.append(
            "%s (%s)" % (name, "; ".join("%s: %s" % (a.get("asked"), a.get("said")) for a in weak) or probe.get("held", "not made"))
        )
    return ", ".join(told)
