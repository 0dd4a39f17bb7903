#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Wipe one medium with a keyed stream and prove it; see DOCUMENTATION."""

DOCUMENTATION = r"""
---
module: media_wipe
short_description: Wipe one medium, by a keyed stream or by its own firmware, read it back, keep the evidence
version_added: "0.1.0"
description:
  - Overwrites a block device with the key stream of AES-256-CTR, reads every byte back and compares it, and weighs
    the evidence.
  - Or, where the plan names such an O(technique), has the drive wipe itself. Before that, keyed blocks are put all over it and read back; the
    drive's own log is followed; after it, none of the blocks may be left. A drive that says "done" and did nothing has failed.
    None of these techniques has met a real drive yet; RV(result.firmware) says so for each.
  - The work is done by a detached job on the machine that sees the device (a wiping station, a rescue system). If the
    controller goes
    away, the job goes on, and the next call with the same O(item) and O(stream_key) attaches to it. A job that was killed is taken up
    where the stream on the device ends.
  - Some places, unpredictable ones, are left out of the pass on purpose. The verification must report exactly these;
    then they are
    overwritten and read again. A verification that reports none has not seen the device, and the wipe has failed.
  - Refuses a device that is mounted in any namespace, is swap, carries other devices, is opened by another process,
    carries the
    running system, is on the list of protected disks, is read-only or empty, is no whole disk, or is not the device that the plan names.
    The identity is read from the very descriptor that is written.
  - A file C(abort) in the job's directory stops the job on record; the next call takes it up again.
  - Runs only through the action plugin of the same name, which checks the authorisation and records an intent.
extends_documentation_fragment:
  - sunset.crm.recorded
  - sunset.crm.recorded.wiping
author:
  - sunset.crm contributors (@sunset-crm)
options:
  device:
    description: Path of the block device on this machine. It only says where to look; what counts is O(identity).
    type: path
    required: true
  identity:
    description:
      - What the plan and the authorisation say about the medium. Compared with what the opened device says.
      - Needs C(size) and one of C(serial), C(wwid), C(inode); may have C(kind), C(model), C(backing_file), C(offset).
      - A field that cannot be read counts as different.
    type: dict
    required: true
  identity_waiver:
    description:
      - SHA-256 of the signed waiver by which this medium may be wiped without such an identity. What is named is
        compared anyway.
    type: str
  protected:
    description: Identities of disks that are never wiped, such as those of the control node and the vaults.
    type: list
    elements: dict
    default: []
  policy:
    description:
      - What the plan asks for, as M(sunset.crm.media_plan) takes it (C(asked) is C(clear) or C(purge); C(prefer), C(logical), C(pool_reserve)).
      - Before a job is started the module reads this machine's devices, takes the decision of the dry run again, and refuses where it
        does not name the O(technique). Where nothing reaches what is asked for, the result has a proposal for a destruction order.
      - Comes from the plan (C(settings.wipe_policy), and C(sanitisation) of the medium). Without it C(clear) is asked for.
    type: dict
  hidden_waiver:
    description:
      - SHA-256 of the signed waiver by which a part that the device hides (HPA, DCO, accessible maximum) may stay as it is. The result then has an
        exception that says so.
    type: str
  stream_key:
    description:
      - The key of the stream, 64 hexadecimal digits, a new one for each medium.
      - It is no secret. The certificate discloses it, so that anybody can check any sector with stock tools.
    type: str
    required: true
  technique:
    description:
      - How the medium is wiped. Comes from the plan (C(wipe.method) of the medium), which the authorisation must name, too.
      - V(overwrite-keyed) is the keyed stream. Others are V(nvme-sanitize-crypto), V(nvme-sanitize-block), V(nvme-sanitize-overwrite),
        V(nvme-format-ses1), V(nvme-format-ses2), V(ata-sanitize-crypto), V(ata-sanitize-block), V(ata-sanitize-overwrite),
        V(ata-security-erase), V(ata-security-erase-enhanced), V(scsi-sanitize-crypto), V(scsi-sanitize-block), V(scsi-sanitize-overwrite),
        V(tcg-revert).
      - V(luks-destroy-keys) overwrites both headers and all key slots of a LUKS volume that is the whole medium, reads them back, and leaves the
        ciphertext. It needs O(key_copies), and is refused where places of the data are no ciphertext.
      - Another one, or one that the drive does not know, is refused. Nothing weaker is ever done in its place.
    type: str
    default: overwrite-keyed
  key_copies:
    description:
      - For V(luks-destroy-keys). What a person has signed about the volume and every copy of its keys (C(scripts/statement keys)), with the SHA-256 of
        the statement and its signer. Set by the action plugin; without it, or with a place that it is silent about, the technique is refused.
    type: dict
  psid_directory:
    description:
      - For V(tcg-revert). Directory on this machine with one file a drive, named by its serial number, mode 0600 of the user who wipes, which holds the
        PSID from the drive's label and nothing else. What is in it gets into no argument, log, state file or result.
    type: path
    default: /etc/sunset-crm/psid
  verify:
    description:
      - How much is read back. V(full) reads every byte. V(sample) follows NIST's sampling plan, 1,000 subsections with two places each, a tenth of the
        medium, with the first and the last block; the places are drawn anew for each wipe, after the pass.
      - For the firmware's techniques it says where the keyed blocks are put that must be gone afterwards.
      - Comes from the plan (C(wipe.verify)); by default V(full) for the overwrite and V(sample) for the others.
    type: str
    choices: [full, sample]
  final:
    description:
      - What an overwritten medium is left with. V(zeros) overwrites the stream with zeros once it is verified, and reads all of them.
      - Comes from the plan (C(wipe.final)).
    type: str
    choices: [stream, zeros]
    default: stream
  in_rescue:
    description:
      - The device is one of the host's own, and may be the one that it was started from. Refused anywhere but in the rescue system of
        M(sunset.crm.rescue_boot), where no disk carries the running system. Set by the action plugin from the plan (C(way)).
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description:
      - Makes the same decision, with the same refusals, and reports the same RV(ignore:changed), without writing.
  diff_mode:
    support: none
    description: There is nothing to show of a medium's content.
notes:
  - The result never claims more than was done. A virtual device is reported as logical sanitisation.
  - Needs root, and OpenSSL's libcrypto (any version since 1.0), which every common distribution has.
seealso:
  - module: sunset.crm.host_power
"""

EXAMPLES = r"""
- name: Wipe the database's medium at the station
  sunset.crm.media_wipe:
    item: medium:pgdata
    device: /dev/sdb
    identity: {kind: scsi, serial: S3Z9NB0K123456, size: 1000204886016}
    stream_key: "{{ sunset_stream_key }}"
    authorisation_sha256: "{{ sunset_authorisation_sha256 }}"

- name: Look at it from time to time instead of waiting
  sunset.crm.media_wipe:
    item: medium:pgdata
    device: /dev/sdb
    identity: {kind: scsi, serial: S3Z9NB0K123456, size: 1000204886016}
    stream_key: "{{ sunset_stream_key }}"
    wait: 30
  register: wipe
  until: wipe.result.state == 'done'
  retries: 100000
  delay: 1
"""

RETURN = r"""
evidence:
  description: What was seen before, done, and seen after.
  returned: always
  type: dict
  sample: {module: media_wipe, item: "medium:pgdata", verdict: "yes", before: {decision: start}, actions: [], after: {}}
evidence_sha256:
  description: Digest of RV(evidence) as the module sent it.
  returned: always
  type: str
  sample: 8441553a1da40336adc2e98e9ef36d025fca915fff9b245657387843d14bdf61
certificate:
  description: Name of the certificate's file in the estate's folder; its signature, PDF and time stamp lie beside it. From the action plugin.
  returned: when the medium is wiped
  type: str
  sample: medium_pgdata.certificate.json
order:
  description: Name of the destruction order's file. From the action plugin.
  returned: when data is, or may be, left on the medium
  type: str
  sample: medium_pgdata.order.json
result:
  description: What the certificate says about the wipe.
  returned: always
  type: dict
  contains:
    state:
      description: V(done) or V(running).
      type: str
      returned: always
      sample: done
    outcome:
      description: V(sanitised), V(sanitised_with_exceptions), V(failed), V(refused) or V(aborted).
      type: str
      returned: when the job has ended
      sample: sanitised
    reasons:
      description: Why it failed or was refused.
      type: list
      elements: str
      returned: when the job has ended
      sample: []
    exceptions:
      description: What the wipe could not cover or confirm.
      type: list
      elements: str
      returned: when the job has ended
      sample: []
    identity:
      description: Identity read from the written descriptor after the wipe.
      type: dict
      returned: when the device could be read
      sample: {kind: loop, serial: pgdata, inode: 2162706, size: 67108864}
    byte_ranges:
      description: What was overwritten, as start and end.
      type: list
      elements: list
      returned: success
      sample: [[0, 67108864]]
    error_ranges:
      description: What could not be written or read.
      type: list
      elements: list
      returned: success
      sample: []
    algorithm:
      description: The stream, and the digest of its key.
      type: dict
      returned: success
      sample: {name: AES-256-CTR keystream over zeros, passes: 1, key_sha256: 9a2db2e23f15}
    decision:
      description: What was decided on this machine before the first write. The technique with its class and reason, and why others were rejected.
      type: dict
      returned: when it was decided
      sample:
        verdict: plan
        asked: clear
        reachable: logical
        technique: overwrite-keyed
        chosen: {id: overwrite-keyed, class: logical}
        rejected: []
    state_before:
      description: What the device was, hid and carried before anything was written, with its own and the kernel's counters; raw structures by digest.
      type: dict
      returned: when it was decided
      sample: {class: virtual, layer: loop, hidden_areas: {hpa: "no", dco: "no", amac: "no"}, holders: [], contents: [ext4]}
    order:
      description: Proposal for a destruction order, where nothing here reaches what was asked for.
      type: dict
      returned: when it was refused for that
      sample: {asked: purge, reachable: clear, provisional: false, method: "IEEE 2883 Destruct"}
    technique:
      description: The technique that was used.
      type: str
      returned: success
      sample: overwrite-keyed
    final:
      description: The pass of zeros over the verified stream, and how it was read back.
      type: dict
      returned: when it was asked for
      sample: {pattern: zeros, verdict: "yes", bytes_read: 67108864}
    firmware:
      description: What the drive was asked, what it answered, and what its own log said, raw.
      type: dict
      returned: for techniques of the firmware
      sample: {met: "a protocol-level fake only, no real drive", trail: {running: 12, seconds: 61.2}}
    keys:
      description: What the header said, where headers were found before and after, the ledger of key copies, and how the data looked.
      type: dict
      returned: for the technique C(luks-destroy-keys)
      sample: {header: {version: 2, keyslots: ["0"]}, headers_after: [], witness: {verdict: gone}, ciphertext_left: 983547510784}
    left:
      description: Digests of some places as the drive left them; a later look tells whether they were written since.
      type: list
      elements: list
      returned: for techniques of the firmware
      sample: [[0, ad7facb2586fc6e966c004d7]]
    verification:
      description: Coverage, mismatches and the canaries.
      type: dict
      returned: success
      sample:
        {mode: full, verdict: "yes", bytes_read: 67108864, mismatches: 0, canaries_left: 16, canaries_found: 16, canaries_wiped: 16}
    accounting:
      description: Bytes that the kernel counted to and from the device.
      type: dict
      returned: success
      sample: {written: {verdict: "yes", bytes: 67108864, wanted_bytes: 67108864}}
    classes:
      description: What the technique may be called, per standard.
      type: dict
      returned: success
      sample: {called: logical sanitisation, nist_800_88r2: logical sanitisation}
    seconds:
      description: Working time of all sessions.
      type: float
      returned: success
      sample: 12.5
    sessions:
      description: One entry a start of the job. A resumed one says what it compared again and where it went on.
      type: list
      elements: dict
      returned: success
      sample: [{started: "2026-01-31T10:00:00Z", seconds: 12.5}]
    tools:
      description: Versions of what did the work.
      type: dict
      returned: when the job has ended
      sample: {libcrypto: OpenSSL 3.0.19}
"""

from ansible_collections.sunset.crm.plugins.module_utils._job import Job
from ansible_collections.sunset.crm.plugins.module_utils._recorded import Recorded
from ansible_collections.sunset.crm.plugins.module_utils._wipe import (
    call as wipe_call,
    firmware as wipe_firmware,
    job as wipe_job,
    tcg as wipe_tcg,
)

OVERWRITE = wipe_call.OVERWRITE


def main():
    rec = Recorded(
        argument_spec={
            "device": {"type": "path", "required": True},
            "identity": {"type": "dict", "required": True},
            "identity_waiver": {"type": "str"},
            "protected": {"type": "list", "elements": "dict", "default": []},
            "policy": {"type": "dict"},
            "hidden_waiver": {"type": "str"},
            "stream_key": {"type": "str", "required": True, "no_log": False},
            "authorisation_sha256": {"type": "str"},
            "technique": {"type": "str", "default": OVERWRITE},
            "key_copies": {"type": "dict", "no_log": False},
            "psid_directory": {"type": "path", "default": wipe_tcg.DIRECTORY},
            "verify": {"type": "str", "choices": ["full", "sample"]},
            "final": {"type": "str", "choices": ["stream", "zeros"], "default": "stream"},
            "in_rescue": {"type": "bool", "default": False},
            "rate": {"type": "int", "default": 0},
            "wait": {"type": "int", "default": 172800},
            "state_directory": {"type": "path", "default": "/var/lib/sunset-crm/wipe"},
        },
        object_lock="medium",
    )
    params = rec.params
    problem = wipe_call.key_problem(params["stream_key"])
    if problem:
        rec.fail(problem)
    params["technique"] = wipe_firmware.canonical(params["technique"])
    problem = wipe_firmware.unusable(params["technique"])
    if problem:
        rec.fail("%s is not wiped: %s" % (params["device"], problem), outcome="refused", reasons=[problem])
    if params["technique"] != OVERWRITE and params["final"] == "zeros":
        rec.fail("final: zeros goes with technique: overwrite-keyed only; a drive that wiped itself is left as it left itself")
    params["verify"] = params["verify"] or ("full" if params["technique"] == OVERWRITE else "sample")
    key = bytes(bytearray.fromhex(params["stream_key"]))
    job = Job(params["state_directory"], wipe_job.name(rec.item, key, params["technique"]))
    if rec.revisit:
        rec.let_others_attach()
        wipe_call.finish(rec, job, rec.attend(job, params["wait"]), params, key)
    before, status, decided = wipe_call.observe(params, job, key)
    rec.before(before)
    decision = before["decision"]
    if decision == "refuse":
        reasons = before["refusals"]
        more = {"decision": decided["decision"], "state_before": decided["state_before"]} if decided else {}
        if decided and decided["order"]:
            more["order"] = decided["order"]
        msg = "%s is not wiped: %s" % (params["device"], "; ".join(reasons))
        if "order" in more:
            msg += ". Nothing weaker was done in its place. It is to be destroyed%s: %s" % (
                ", once what is not known was found out" if more["order"]["provisional"] else "", more["order"]["method"],
            )  # fmt: skip
        rec.fail(msg, outcome="refused", reasons=reasons, **more)
    if decision == "none":
        rec.after(before)
        result = wipe_call.result_of(job, status)
        rec.finish(changed=False, verdict=wipe_job.final_verdict(result), result=wipe_job.trim(result))
    if rec.check_mode:
        rec.after(before)
        rec.finish(
            changed=True, verdict="unknown", result={"state": "planned", "act": decision, "decision": (decided or {}).get("decision")}
        )
    if decision == "start":
        wipe_call.start(job, params, decided)
    rec.note(act=decision, job=job.name, device=params["device"])
    rec.let_others_attach()
    wipe_call.finish(rec, job, rec.attend(job, params["wait"]), params, key)


if __name__ == "__main__":
    main()
