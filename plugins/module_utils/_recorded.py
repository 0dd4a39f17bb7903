# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The frame around each module that changes the world: receipt, object lock, evidence.

Private to the collection; it may change at any time. Valid for Python 3.6.

A module builds one Recorded, reads the world, decides, acts through run(), reads again and calls
finish(). The evidence that it returns is what the action plugin writes into the ledger.
"""

import datetime
import errno
import fcntl
import json
import os
import re
import subprocess
import time
from typing import Any, Dict, List, Optional  # noqa: F401

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sunset.crm.plugins.module_utils._canonical import canonical, digest

STDERR_TAIL = 2000
# A module outlives its controller by seconds: the command that is typed again after a kill waits for it instead of failing.
LOCK_PATIENCE = 30
# What an action that comes back to a running job carries from one call to the next; it says how, not whether, so it is not sealed.
VISIT = "visit"
LOCK_DIRECTORIES = ("/run/lock", "/var/lock", "/dev/shm", "/tmp")


def utc_now():
    # type: () -> str
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def make_receipt(module, item, intent, check=False, machine=""):
    # type: (str, str, str, bool, str) -> Dict[str, Any]
    """The receipt that binds one module call to one intent of the ledger, and to one machine where its id is known.

    It is no secret: it keeps an operator who calls a module past the action plugin from changing
    anything without a record, and it keeps a receipt of check mode from being used for the real thing.
    """
    bound = {"module": module, "item": item, "intent": intent, "check": bool(check), "machine": machine}
    return dict(bound, seal=digest(bound))


def machine_id():
    # type: () -> str
    """The id of this installation; empty where there is none."""
    try:
        with open("/etc/machine-id") as stream:
            return stream.read().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def receipt_problem(receipt, module, item, check, here=""):
    # type: (Optional[Dict[str, Any]], str, str, bool, str) -> Optional[str]
    """Why this receipt does not allow this call; None if it does."""
    if not receipt:
        return "there is no receipt"
    bound = make_receipt(module, item, receipt.get("intent", ""), bool(receipt.get("check")), receipt.get("machine", ""))
    if {key: value for key, value in receipt.items() if key != VISIT} != bound:
        return "the receipt belongs to another module or item, or was altered"
    if receipt["check"] and not check:
        return "the receipt was given for check mode"
    if receipt["machine"] and receipt["machine"] != here:
        return "this is the machine %s, the plan says that the item is on %s" % (here or "without an id", receipt["machine"])
    return None


class Result(object):
    """What a command did: argv, rc, out, err (text) and how many seconds it took."""

    def __init__(self, argv, rc, out, err, seconds):
        # type: (List[str], int, str, str, float) -> None
        self.argv = argv
        self.rc = rc
        self.out = out
        self.err = err
        self.seconds = seconds


def run_command(argv, stdin="", timeout=60, env=None):
    # type: (List[str], str, float, Optional[Dict[str, str]]) -> Result
    """Run argv without a shell, with LC_ALL=C and its own standard input.

    A missing program is rc 127, an elapsed timeout rc 124 (the child is killed); nothing is raised.
    """
    start = time.time()
    environment = dict(os.environ, LC_ALL="C", LANG="C")
    environment.update(env or {})
    try:
        child = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, close_fds=True
        )
    except OSError as exc:
        return Result(argv, 127, "", "%s: %s" % (argv[0], exc.strerror), time.time() - start)
    try:
        out, err = child.communicate(stdin.encode("utf-8"), timeout=timeout)
        rc = child.returncode
    except subprocess.TimeoutExpired:
        child.kill()
        out, err = child.communicate()
        rc, err = 124, err + ("\nno end after %s seconds, killed" % timeout).encode("ascii")
    return Result(argv, rc, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"), time.time() - start)


def taken_within(fd, seconds):
    # type: (int, float) -> bool
    """Take an exclusive lock on an open file, waiting that long for its holder to end."""
    deadline = time.time() + seconds
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as exc:
            if exc.errno not in (errno.EACCES, errno.EAGAIN):
                raise
        if time.time() >= deadline:
            return False
        time.sleep(0.2)


class Recorded(object):
    """One call of a state-changing module.

    argument_spec: the module's own options; C(item) and C(receipt) are added.
    object_lock: name of the kind of thing that is changed; two calls on the same (object_lock, item)
    exclude each other on the target. The other keywords go to AnsibleModule.
    """

    def __init__(self, argument_spec, object_lock, **kwargs):
        # type: (Dict[str, Any], str, **Any) -> None
        spec = dict(argument_spec, item=dict(type="str", required=True), receipt=dict(type="dict"))
        self.module = AnsibleModule(argument_spec=spec, supports_check_mode=True, **kwargs)
        self.params = self.module.params
        self.check_mode = self.module.check_mode
        self.item = self.params["item"]
        self.name = self.module._name.split(".")[-1]
        self._clock = time.time()
        self._evidence = {
            "module": self.name,
            "item": self.item,
            "started": utc_now(),
            "before": {},
            "actions": [],
            "after": {},
            "tools": {},
        }  # type: Dict[str, Any]
        problem = receipt_problem(self.params["receipt"], self.name, self.item, self.check_mode, machine_id())
        if problem is not None:
            self.fail(
                "%s refuses to act: %s. It changes things only when the collection's own action plugin has checked the "
                "gates and recorded an intent; run it from a play, with its full name sunset.crm.%s." % (self.name, problem, self.name)
            )
        self._visit = self.params["receipt"].get(VISIT) or {}
        self._evidence.update(self._visit.get("carried") or {})
        self._lock = self._take_lock(object_lock) if not self.check_mode else None

    @property
    def revisit(self):
        # type: () -> bool
        """Whether an earlier call of the same step has started or joined the job: then nothing is decided again."""
        return bool(self._visit.get("carried"))

    def _take_lock(self, object_lock):
        # type: (str) -> int
        name = re.sub(r"[^A-Za-z0-9._-]", "_", "sunset-%s-%s.lock" % (object_lock, self.item))
        for directory in LOCK_DIRECTORIES:
            try:
                fd = os.open(os.path.join(directory, name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except OSError:
                continue
            if not taken_within(fd, LOCK_PATIENCE):
                self.fail(
                    "another %s is at work on %s on this machine (lock %s/%s), for %d s at least; wait for it to end, then run "
                    "the same command again" % (self.name, self.item, directory, name, LOCK_PATIENCE)
                )
            return fd
        self.fail("no directory of %s can hold the lock file %s" % (", ".join(LOCK_DIRECTORIES), name))
        raise AssertionError("fail() does not return")

    def let_others_attach(self):
        # type: () -> None
        """Give back the object lock once a job holds its own: after a cut connection, or a controller that was killed, the
        next run can attach to the job although this process still sits here waiting for it."""
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_UN)

    def attend(self, job, timeout):
        # type: (Any, float) -> Dict[str, Any]
        """The job's status at its end, or after timeout seconds over all calls.

        Where the action gives a patience, the module ends after that long as "pending": the action says how far the job is and calls
        again. So a person sees progress, and no connection has to live for hours.
        """
        waited, patience = float(self._visit.get("waited", 0)), self._visit.get("patience")
        left = timeout - waited
        status = job.wait(min(left, patience) if patience else left)  # type: Dict[str, Any]
        if status["state"] == "running" and patience and left > patience:
            carried = self._visit.get("carried") or {key: self._evidence[key] for key in ("started", "before", "actions", "tools")}
            visit = {"waited": waited + patience, "patience": patience, "carried": carried}
            self.module.exit_json(changed=True, pending={"progress": status["progress"], VISIT: visit})
        return status

    def before(self, value):
        # type: (Dict[str, Any]) -> None
        self._evidence["before"] = value

    def after(self, value):
        # type: (Dict[str, Any]) -> None
        self._evidence["after"] = value

    def tool(self, name, version):
        # type: (str, str) -> None
        self._evidence["tools"][name] = version

    def note(self, **action):
        # type: (**Any) -> None
        """Record an act that was no command (a file written, a signal sent)."""
        self._evidence["actions"].append(action)

    def run(self, argv, check=True, stdin="", timeout=60, env=None):
        # type: (List[str], bool, str, float, Optional[Dict[str, str]]) -> Result
        """Run a command that changes something and record it. Standard output is not recorded: it may hold data."""
        result = run_command(argv, stdin=stdin, timeout=timeout, env=env)
        self.note(argv=argv, rc=result.rc, seconds=round(result.seconds, 3), stderr=result.err[-STDERR_TAIL:])
        if check and result.rc != 0:
            self.fail("%s ended with exit code %d: %s" % (" ".join(argv), result.rc, result.err.strip()[-500:]))
        return result

    def read(self, argv, stdin="", timeout=60, env=None):
        # type: (List[str], str, float, Optional[Dict[str, str]]) -> Result
        """Run a command that only reads; not recorded as an action."""
        return run_command(argv, stdin=stdin, timeout=timeout, env=env)

    def _closed(self, verdict, result):
        # type: (str, Dict[str, Any]) -> Dict[str, Any]
        self._evidence.update(verdict=verdict, result=result, ended=utc_now(), seconds=round(time.time() - self._clock, 3))
        # What cannot be JSON now would be altered on its way to the ledger: fix its form before it is digested.
        evidence = json.loads(canonical(self._evidence).decode("utf-8"))
        return dict(evidence=evidence, evidence_sha256=digest(evidence), result=evidence["result"])

    def finish(self, changed, verdict="yes", result=None):
        # type: (bool, str, Optional[Dict[str, Any]]) -> None
        """End well. verdict: C(yes) only if the world was read after acting and showed the wanted state."""
        self.module.exit_json(changed=bool(changed), **self._closed(verdict, result or {}))

    def fail(self, msg, verdict="no", **result):
        # type: (str, str, **Any) -> None
        """End with one clear message: what was found, what was expected, what to do."""
        self.module.fail_json(msg=msg, **self._closed(verdict, result))
