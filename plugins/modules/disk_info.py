#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What every block device of a machine is, can do, hides, and who uses it; see DOCUMENTATION.

The shapes that others rely on:

fact (one device)
    path, name, number, class, layer, transport, vendor, model, serial, wwn, eui64, nguid, firmware; identity (the
    fields that plan and survey compare); sizes {current, native, accessible_max, namespaces, unallocated};
    blocks {logical, physical}; traits, security, sanitize, format, hidden, tcg: mappings of "yes" | "no" | "unknown"
    beside numbers that are None where nobody knows; holders [{kind, what, device}]; held, root; sources; why.

technique (made by module_utils/_wipe/decide.py from a fact and a policy)
    {"id": "nvme-sanitize-crypto", "class": "purge" | "clear" | "logical", "rev1": class of the withdrawn Rev. 1,
    "ieee2883": its name there, "why": one sentence, "seconds": number or None}
"""

DOCUMENTATION = r"""
module: disk_info
short_description: Reads what every block device is, what it can do, what it hides and who uses it
version_added: 0.1.0
description:
  - Reads every block device of a machine, and SCSI disks that have no block device. Writes nothing, starts nothing, changes no setting.
  - What a device says of itself is asked for as raw structures, and decoded here. These are ATA IDENTIFY DEVICE and
    SANITIZE STATUS, NVMe Identify and the log page of sanitize, SCSI INQUIRY, VPD pages, READ CAPACITY and REPORT SUPPORTED OPERATION CODES, and
    the Level 0 Discovery of TCG. What the kernel says is the second source. The text of other tools is used where neither answers.
  - A fact is C(yes), C(no) or C(unknown). The reason of each unknown is in C(why). A device that answers nonsense (an address beyond
    what the standard allows, a checksum that is wrong, an answer without its status) gives C(unknown), never C(yes).
  - Names, models and serials come from devices. They are text of a stranger; control characters in them are replaced.
options:
  devices:
    description:
      - Kernel names or paths of devices to report. All are looked at, for what lies above and below one is part of its answer.
      - Without it every device is reported.
    type: list
    elements: str
    default: []
  ask:
    description:
      - V(true) asks the devices themselves. V(false) reads only what the kernel knows, for a machine whose disks must not be
        disturbed. A sleeping disk is woken by a question.
    type: bool
    default: true
attributes:
  check_mode:
    description: It only reads.
    support: full
  diff_mode:
    description: It changes nothing.
    support: none
notes:
  - Whether a device is free is asked of the kernel by claiming it for a moment. Who mounts it, or makes a file system on it, in that very
    moment is told that it is busy, and can do it again.
  - Needs root, and C(CAP_SYS_RAWIO) to ask ATA and SCSI devices. In a container much is C(unknown); ask on the host itself.
seealso:
  - module: sunset.crm.host_survey
  - module: sunset.crm.media_wipe
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Read the media of this machine
  sunset.crm.disk_info:
  register: seen

- name: Name the disks whose firmware cannot sanitise by itself
  ansible.builtin.debug:
    msg: "{{ item.path }} {{ item.model }}"
  loop: "{{ seen.disks.devices | selectattr('sanitize.supported', 'ne', 'yes') }}"
"""

RETURN = r"""
disks:
  description: What was read.
  returned: success
  type: dict
  contains:
    schema:
      description: Version of this shape.
      type: int
      returned: success
      sample: 1
    machine:
      description: Id of the installation, and whether the machine is itself virtual.
      type: dict
      returned: success
      sample: {machine_id: 3f0c9a4e8d6b4c0f9a1d2e3f4a5b6c7d, virtual: "no", container: "no"}
    complete:
      description: Whether all mounts, processes and devices could be seen. C(unknown) with the reasons otherwise.
      type: dict
      returned: success
      sample: {verdict: "yes", why: []}
    root:
      description: The devices below the running system.
      type: dict
      returned: success
      sample: {verdict: "yes", numbers: ["259:0", "259:2"], names: [nvme0n1, nvme0n1p2], why: ""}
    devices:
      description: One entry a device.
      type: list
      elements: dict
      returned: success
      contains:
        path:
          description: The device node; none where there is no node.
          type: str
          returned: always
          sample: /dev/nvme0n1
        name:
          description: The kernel's name.
          type: str
          returned: always
          sample: nvme0n1
        number:
          description: Major and minor number.
          type: str
          returned: always
          sample: "259:0"
        class:
          description:
            - C(ata-hdd), C(ata-ssd), C(ata) (nobody knows which), C(nvme), C(scsi-hdd), C(scsi-ssd), C(scsi), C(emmc), C(sd-card), C(usb),
              C(virtual), C(raid-volume), C(layer) (made of other devices), C(memory), C(optical) or C(unknown).
          type: str
          returned: always
          sample: nvme
        layer:
          description:
            - What a C(layer) or C(virtual) device is, such as C(partition), C(lvm), C(lvm-thin), C(lvm-thin-pool), C(dm-crypt), C(multipath),
              C(dm), C(md), C(bcache), C(loop), C(rbd), C(nbd), C(zvol), C(drbd), C(card-area), C(virtio), C(lun), C(fabric) or C(emulated).
          type: str
          returned: always
          sample: null
        transport:
          description: C(sata), C(nvme), C(sas), C(usb), C(mmc), C(virtio), C(loop), C(fc), C(iscsi), C(device-mapper), C(md) or C(unknown).
          type: str
          returned: always
          sample: nvme
        vendor:
          description: Who made it.
          type: str
          returned: always
          sample: null
        model:
          description: Its model.
          type: str
          returned: always
          sample: SAMSUNG MZQL2960HCJR-00A07
        serial:
          description: Its serial number.
          type: str
          returned: always
          sample: S64FNE0R500001
        wwn:
          description: World wide name (NAA), lower case, without prefix.
          type: str
          returned: always
          sample: 5000c500a1b2c3d4
        eui64:
          description: EUI-64 of an NVMe namespace.
          type: str
          returned: always
          sample: 002538b511b0a1c2
        nguid:
          description: NGUID of an NVMe namespace.
          type: str
          returned: always
          sample: 36344630525000010025384500000001
        firmware:
          description: Revision of the firmware.
          type: str
          returned: always
          sample: GDC5602Q
        identity:
          description: The identity as plan, authorisation and M(sunset.crm.media_wipe) compare it.
          type: dict
          returned: always
          sample: {kind: nvme, serial: S64FNE0R500001, wwid: eui.36344630525000010025384500000001, size: 960197124096}
        sizes:
          description:
            - Bytes; C(current) as the kernel sees it, C(native) with what HPA hides, C(accessible_max), C(namespaces) with all of the controller,
              C(unallocated) outside of namespaces, C(capacity) as the device itself tells it.
          type: dict
          returned: always
          sample: {current: 960197124096, capacity: 960197124096, native: null, accessible_max: null, unallocated: 0, namespaces: [{nsid: 1, bytes: 960197124096}]}
        blocks:
          description: Bytes of a logical and a physical block, and of the metadata of each.
          type: dict
          returned: always
          sample: {logical: 512, physical: 4096, metadata: 0}
        traits:
          description: C(rotational), C(removable), C(read_only), C(self_encrypting), C(luks), C(emulated).
          type: dict
          returned: always
          sample: {rotational: "no", removable: "no", read_only: "no", self_encrypting: "unknown", luks: "no", emulated: "no"}
        security:
          description:
            - The security feature set of ATA, C(supported), C(enabled), C(locked), C(frozen), C(count_expired), C(enhanced), and the drive's
              estimates C(minutes) and C(enhanced_minutes).
          type: dict
          returned: always
          sample: {supported: "yes", enabled: "no", locked: "no", frozen: "yes", count_expired: "no", enhanced: "yes", minutes: 2, enhanced_minutes: 8}
        sanitize:
          description:
            - Whether the firmware's own sanitize has C(block), C(crypto), C(overwrite); whether it is C(frozen); its C(state) (C(idle), C(never),
              C(running), C(succeeded), C(failed), C(unknown)), C(progress) in per cent, C(seconds) by action as the device estimates it.
          type: dict
          returned: always
          sample: {supported: "yes", block: "yes", crypto: "yes", overwrite: "no", frozen: "no", state: never, progress: null, seconds: {block: 60}}
        format:
          description: NVMe Format, C(supported), C(crypto), and whether it and the erase by it reach all namespaces.
          type: dict
          returned: always
          sample: {supported: "yes", crypto: "yes", all_namespaces: "no", erase_all_namespaces: "yes"}
        hidden:
          description: Whether a host protected area, a device configuration overlay or a lowered accessible maximum hides a part.
          type: dict
          returned: always
          sample: {hpa: "no", dco: "unknown", amac: "no"}
        tcg:
          description:
            - Level 0 Discovery of a self-encrypting drive. C(owned) says whether its SID is no longer the factory's (some drives tell), C(credential)
              whether this machine has the PSID from its label in a file, never what it is; both only where there is such a drive.
          type: dict
          returned: always
          sample: {present: "yes", ssc: [opal-2], locking_supported: "yes", locking_enabled: "no", locked: "no", media_encryption: "yes", mbr_enabled: "no"}
        luks:
          description:
            - The LUKS header, if there is one. Version, UUID, the key slots and tokens that it names, cipher and length of the key. C(strength) says whether
              the cipher holds, C(whole) whether one encrypted segment is all that follows, C(unfinished) whether a reencryption was begun.
          type: dict
          returned: always
          sample: {version: 2, uuid: 2b1c9a52-0a50-4cfe-9a43-0f2b6e0a1c11, keyslots: ["0", "1"], tokens: ["0 systemd-tpm2"], header_bytes: 16777216, secondary: "yes"}
        subsystem:
          description: What several devices have in common. The NVMe subsystem or the drive behind several paths.
          type: str
          returned: always
          sample: "nvme:nqn.1994-11.com.samsung:nvme:PM9A3:S64FNE0R500001"
        multipath:
          description: The map above, if this is one path of several.
          type: str
          returned: always
          sample: null
        below:
          description: Names of the devices that this one is made of.
          type: list
          elements: str
          returned: always
          sample: []
        above:
          description: Names of the devices that are made of this one, directly and through others.
          type: list
          elements: str
          returned: always
          sample: [nvme0n1p1, dm-0]
        contents:
          description: Signatures found on the device itself (member of RAID, physical volume, ZFS, LUKS, swap, file systems).
          type: list
          elements: str
          returned: always
          sample: []
        thin:
          description: For a thin volume its pool, and the pool's free space.
          type: dict
          returned: always
          sample: {}
        holders:
          description:
            - Who uses the device or something on it. C(kind) is C(mount), C(swap), C(stacked), C(loop), C(descriptor), C(vm), C(export), C(zfs), C(exclusive)
              or C(system).
          type: list
          elements: dict
          returned: always
          sample: [{kind: mount, what: /srv (ext4), device: dm-0}]
        held:
          description: Whether anybody uses it.
          type: str
          returned: always
          sample: "yes"
        root:
          description: Whether it carries the running system.
          type: str
          returned: always
          sample: "no"
        sources:
          description: Where each group of facts comes from.
          type: dict
          returned: always
          sample: {identify: "ioctl: NVMe Identify", sanitize: "ioctl: NVMe log page 81h", sizes: kernel}
        raw:
          description: Raw structures in hexadecimal, without the serial number's neighbours; what a certificate keeps by digest.
          type: dict
          returned: always
          sample: {sanitize_log: ffff0000}
        why:
          description: The reason of each C(unknown), by the name of the fact.
          type: dict
          returned: always
          sample: {security.frozen: "the device gave no answer: Operation not permitted"}
"""

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sunset.crm.plugins.module_utils._disk import facts as disk_facts


def main():
    module = AnsibleModule(
        argument_spec=dict(
            devices=dict(type="list", elements="str", default=[]),
            ask=dict(type="bool", default=True),
        ),
        supports_check_mode=True,
    )
    found = disk_facts.read(ask=module.params["ask"])
    names = [name.rsplit("/", 1)[-1] for name in module.params["devices"]]
    known = {fact["name"] for fact in found["devices"]}
    lost = [name for name in names if name not in known]
    if lost:
        module.fail_json(
            msg="no such block device: %s. Found: %s. Give kernel names or their paths (links are not followed)."
            % (", ".join(lost), ", ".join(sorted(known)) or "none")
        )
    if names:
        found["devices"] = [fact for fact in found["devices"] if fact["name"] in names]
    module.exit_json(changed=False, disks=found)


if __name__ == "__main__":
    main()
