# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Five probes on a canary object: does this store keep what it was told to keep?

Private to the collection. Valid for Python 3.6, standard library. Each probe tries what must not be possible, with the very
credentials that the vault has, and reads the canary again afterwards. The answers are evidence; a probe that got no clear
answer is unknown, and unknown is never WORM.

A refusal proves a lock only where the same credentials may do the same thing to something that is not locked so: otherwise a key
without rights would make any store a WORM. That is the control of a probe; without it the probe is unknown.
"""

import datetime
import hashlib
from typing import Any, Dict, List, Optional, Tuple  # noqa: F401

from ansible_collections.sunset.crm.plugins.module_utils._shelf import rules as shelf_rules
from ansible_collections.sunset.crm.plugins.module_utils._shelf.s3 import Store, base64_of  # noqa: F401
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError

Answer = Dict[str, str]
# Probes that were made by other rules are made again. 2: with controls.
RULES = 2


def answer(asked, held, said):
    # type: (str, str, str) -> Answer
    return {"asked": asked, "held": held, "said": said}


def probe(store, key, lock, data):
    # type: (Store, str, shelf_rules.Lock, bytes) -> Dict[str, Any]
    """All five on a new canary; {probe: {held, answers}} and the canary's version."""
    version = store.put(key, data, lock)
    may_delete, may_shorten = _controls(store, key, lock)
    steps = {
        "checksum": [answer("stored with its own SHA-256", "yes", "version %s" % version)] + _checksum(store, key, lock),
        "retention": _retention(store, key, version, lock, "the lock reads back as asked"),
        "delete": [may_delete] + _delete(store, key, version),
        "shorten": [may_shorten] + _shorten(store, key, version, lock),
        "bytes": _bytes(store, key, version, data),
    }  # type: Dict[str, List[Answer]]
    found = {name: {"held": shelf_rules.together([one["held"] for one in answers]), "answers": answers} for name, answers in steps.items()}
    return {"version": version, "probes": found}


def _forbidden(store, asked, by, operation, **options):
    # type: (Store, str, str, str, **Any) -> Answer
    status, code, _whole = store.attempt(operation, **options)
    return answer(asked, shelf_rules.refused(status, code, by), _said(status, code))


def _said(status, code):
    # type: (int, str) -> str
    return ("%d %s" % (status, code)).strip() if status else "no answer (%s)" % code


def _control(asked, status, code, seen):
    # type: (str, int, str, bool) -> Answer
    held, said = shelf_rules.allowed(status, seen), _said(status, code) + ("" if seen or code else ", but nothing changed")
    return answer(shelf_rules.CONTROL + asked, held, said if held == "yes" else shelf_rules.NO_RIGHTS % said)


def _controls(store, key, lock):
    # type: (Store, str, shelf_rules.Lock) -> Tuple[Answer, Answer]
    """The controls of delete and shorten, on an object under GOVERNANCE, which gives way to whoever may bypass it.

    Its lock is its own, so that a default retention of the bucket does not matter, and ends after a day, should it have to stay.
    """
    deleting, shortening = "deleting a version past governance", "an earlier date past governance"
    if lock.mode != shelf_rules.MODES[0]:
        told = [answer(shelf_rules.CONTROL + asked, "unknown", shelf_rules.GOVERNED) for asked in (deleting, shortening)]
        return told[0], told[1]
    key, now = key + "-control", datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    try:
        version = store.put(key, b"control", shelf_rules.Lock(shelf_rules.MODES[1], now + datetime.timedelta(days=1), False))
        options = {"Key": key, "VersionId": version, "BypassGovernanceRetention": True}
        sooner = now + datetime.timedelta(hours=1)
        shorter = {"Mode": shelf_rules.MODES[1], "RetainUntilDate": sooner}
        status, code, _whole = store.attempt("put_object_retention", Retention=shorter, **options)
        left = store.head(key, version).lock
        may_shorten = _control(shortening, status, code, left is not None and left.until <= sooner)
        status, code, _whole = store.attempt("delete_object", **options)
        return _control(deleting, status, code, store.head(key, version).version is None), may_shorten
    except VaultError as exc:
        told = [answer(shelf_rules.CONTROL + asked, "unknown", shelf_rules.NO_RIGHTS % exc) for asked in (deleting, shortening)]
        return told[0], told[1]


def _checksum(store, key, lock):
    # type: (Store, str, shelf_rules.Lock) -> List[Answer]
    """Bytes that do not fit their checksum must not be stored. They go without a lock, so that they can be taken away again."""
    key = key + "-wrong"
    wrong = base64_of(hashlib.sha256(b"those bytes").digest())
    options = {"Key": key, "Body": b"not these bytes", "ChecksumAlgorithm": "SHA256", "ChecksumSHA256": wrong}
    status, code, whole = store.attempt("put_object", **options)
    held = shelf_rules.refused(status, code, "digest")
    if held == "no":
        version = {"VersionId": whole["VersionId"]} if whole.get("VersionId") else {}
        store.attempt("delete_object", Key=key, **version)
    return [answer("a wrong SHA-256 is refused", held, ("%d %s" % (status, code)).strip())]


def _retention(store, key, version, lock, asked):
    # type: (Store, str, str, shelf_rules.Lock, str) -> List[Answer]
    found = store.head(key, version)
    if found.version is None:
        return [answer(asked, "no", "the object is gone")]
    if found.lock is None:
        return [answer(asked, "no", "the object has no lock")]
    said = "%s until %s%s" % (found.lock.mode, found.lock.until.isoformat(), ", held" if found.lock.hold else "")
    return [answer(asked, "yes" if shelf_rules.lock_holds(found.lock, lock) else "no", said)]


def _delete(store, key, version):
    # type: (Store, str, str) -> List[Answer]
    options = {"Key": key, "VersionId": version}
    tried = [
        _forbidden(store, "deleting the version is refused", "lock", "delete_object", **options),
        _forbidden(store, "deleting it past governance is refused", "lock", "delete_object", BypassGovernanceRetention=True, **options),
    ]
    gone = store.head(key, version).version is None
    return tried + [answer("the version is still there", "no" if gone else "yes", "gone" if gone else "there")]


def _shorten(store, key, version, lock):
    # type: (Store, str, str, shelf_rules.Lock) -> List[Answer]
    sooner = lock.until - datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.timezone.utc)
    if sooner <= now:
        sooner = now + (lock.until - now) / 2
    shorter = {"Key": key, "VersionId": version, "Retention": {"Mode": lock.mode, "RetainUntilDate": sooner}}
    tried = [
        _forbidden(store, "an earlier date is refused", "lock", "put_object_retention", **shorter),
        _forbidden(
            store, "an earlier date past governance is refused", "lock", "put_object_retention", BypassGovernanceRetention=True, **shorter
        ),
    ]
    if lock.mode == shelf_rules.MODES[0]:
        weaker = dict(shorter, Retention={"Mode": shelf_rules.MODES[1], "RetainUntilDate": lock.until})
        tried.append(
            _forbidden(
                store, "COMPLIANCE to GOVERNANCE is refused", "lock", "put_object_retention", BypassGovernanceRetention=True, **weaker
            )
        )
    tried += _suspend(store)
    return tried + _retention(store, key, version, lock, "the lock is as it was")


def _suspend(store):
    # type: (Store) -> List[Answer]
    """Suspending the versioning of the bucket; a store that lets it happen gets it back on at once.

    Its control is to switch on what is on: a store that names the bucket's lock as its reason needs none."""
    operation = "put_bucket_versioning"
    try:
        tried = _forbidden(store, "suspending versioning is refused", "lock", operation, VersioningConfiguration={"Status": "Suspended"})
    finally:
        _status, _code, seen = store.attempt("get_bucket_versioning")
        if seen.get("Status") == "Suspended":
            store.attempt(operation, VersioningConfiguration={"Status": "Enabled"})
    if seen.get("Status") == "Suspended":
        return [dict(tried, held="no", said=tried["said"] + ", it was suspended; switched on again")]
    if not tried["said"].startswith("403"):
        return [tried]
    status, code, _whole = store.attempt(operation, VersioningConfiguration={"Status": "Enabled"})
    return [tried, _control("switching versioning on", status, code, True)]


def _bytes(store, key, version, data):
    # type: (Store, str, str, bytes) -> List[Answer]
    asked = "the bytes read back are the ones that were stored"
    if store.head(key, version).version is None:
        return [answer(asked, "no", "the object is gone")]
    found = store.digest(key, version)
    same = found == (hashlib.sha256(data).hexdigest(), len(data))
    return [answer(asked, "yes" if same else "no", "SHA-256 %s" % found[0])]
