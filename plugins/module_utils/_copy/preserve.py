# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The way both copying modules go: is the finished copy whole and its source unchanged? If not, start the job or attach to it."""

from ansible_collections.sunset.crm.plugins.module_utils._copy import (
    direct_job as copy_direct_job,
    job as copy_job,
    staging as copy_staging,
)

OPTIONS = {
    "staging": {"type": "path", "required": True},
    "direct": {"type": "str", "choices": ["auto", "never", "always"], "default": "auto"},
    "rate": {"type": "int"},
    "timeout": {"type": "int", "default": 86400},
}


def decide(record, damage, fresh, job_state, refused=False):
    """(changed, why). Pure: what was read decides, in check mode as in the real one."""
    if job_state == "running":
        return True, "a copy is being made"
    if record is None:
        return True, "the job that made a copy was interrupted" if job_state == "died" else "there is no finished copy"
    if damage:
        return True, "the staged copy is damaged: " + "; ".join(damage)
    if refused:
        return True, "the copy was not staged, and direct is now never"
    if not fresh:
        return True, "the source is not what was copied"
    return False, "the staged copy is whole and its source unchanged"


def is_direct(record):
    return any(artefact.get("direct") for artefact in record["artefacts"])


def observe(staging, is_fresh, direct="auto"):
    """What is there now. The source is only read where the staged copy is whole; nothing else could make it the right one."""
    job_state = staging.job.status()["state"]
    record = staging.finished() if job_state != "running" else None
    damage = staging.damage(record) if record else []
    refused = bool(record) and direct == "never" and is_direct(record)
    fresh = is_fresh(record) if record and not damage and not refused else None
    changed, why = decide(record, damage, fresh, job_state, refused)
    return (
        record,
        changed,
        {"job": job_state, "finished": record["dump_id"] if record else None, "damage": damage, "source_unchanged": fresh, "why": why},
    )


def way(staging, data_bytes, direct):
    """(goes straight to the vaults, sentence why, sentence that refuses). Known before anything is started."""
    shortage = staging.shortage(data_bytes)
    if direct == "never" or not (shortage or direct == "always"):
        return False, None, shortage
    return True, shortage or "direct is always", staging.shortage(0)


def outcome(record):
    return {"dump_id": record["dump_id"], "artefacts": record["artefacts"], "source": record["source"]}


def preserve(rec, staging, spec, is_fresh, data_bytes):
    """Ends the module. spec goes to the job; is_fresh(record) reads the source; data_bytes is the need if nothing compresses."""
    problem = staging.problem()
    if problem:
        rec.fail(problem)
    if rec.revisit:
        rec.let_others_attach()
        conclude(rec, staging)
    record, changed, before = observe(staging, is_fresh, rec.params["direct"])
    before["staging_free_bytes"] = staging.free()
    rec.before(before)
    if not changed:
        rec.after(before)
        rec.finish(changed=False, verdict="yes", result=outcome(record))
        return
    if before["job"] != "running":
        direct, why, shortage = way(staging, data_bytes, rec.params["direct"])
        if shortage:
            rec.fail(shortage, free_bytes=before["staging_free_bytes"], need_bytes=data_bytes + copy_staging.MARGIN)
        if direct:
            rec.note(act="the large artefact is not staged, each vault's stream is made when it pulls", why=why)
            spec = dict(spec, direct=True, estimate=int(data_bytes) + copy_staging.MARGIN)
    if rec.check_mode:
        rec.finish(changed=True, verdict="unknown", result={})
        return
    staging.prepare()
    rec.note(act="attached to the running job" if before["job"] == "running" else "started the job", job=staging.job.name)
    staging.job.start(spec, copy_job, copy_direct_job)
    rec.let_others_attach()
    conclude(rec, staging)


def conclude(rec, staging):
    """Wait for the job and look at what it left. Ends the module."""
    record = finished_record(rec, staging)
    damage = staging.damage(record)
    rec.after({"job": "done", "finished": record["dump_id"], "damage": damage})
    if damage:
        rec.fail(
            "the copy was finished, but its staged files are not what was written: {0}. Look at the disk of {1}, then run "
            "the same command again".format("; ".join(damage), staging.root)
        )
    rec.finish(changed=True, verdict="yes", result=outcome(record))


def left_by(record):
    """What lies there after a job that has died, in words. It may have died behind its last rename; an earlier copy stays too."""
    if record is None:
        return "Nothing it made carries a final name"
    return "The finished copy {0} lies there, whose digests and source are read before it counts".format(record["dump_id"])


def finished_record(rec, staging):
    status = rec.attend(staging.job, rec.params["timeout"])
    if status["state"] == "running":
        rec.fail(
            "the copy is still being made after {0} seconds ({1}); it goes on by itself, run the same command again to attach to it".format(
                rec.params["timeout"], status["progress"].get("phase", "no phase yet")
            ),
            verdict="unknown",
        )
    if status["state"] != "done":
        rec.fail(
            "the job that makes the copy ended without a result ({0}). {1}; run the same command again. Its last words: {2}".format(
                status["state"], left_by(staging.finished()), staging.job.log_tail(500).strip() or "none"
            )
        )
    if not status["result"].get("ok"):
        rec.fail(status["result"].get("error", "the job reported no reason"))
    record = staging.finished()
    if record is None or record != status["result"]["record"]:
        rec.fail(
            "the job reports a finished copy, but {0} does not hold it; another process changed the staging place".format(
                staging.record_path
            )
        )
    return record
