#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

DOCUMENTATION = r"""
module: vault_probe
short_description: Looks whether a vault has what it needs, before a run begins
version_added: 0.1.0
description:
  - Runs on a vault and only reads. M(sunset.crm.run_open) refuses a run for which too few vaults answer well, before anything of
    the estate was touched.
options:
  root:
    description: Directory of the vault that holds all packages. It, or the nearest directory above it that is there, must be writable.
    type: path
    required: true
  live_dir:
    description: Directory in memory for live keys. The default is a folder of C(/dev/shm).
    type: path
  shelf:
    description: Whether packages go on to object storage from here (M(sunset.crm.vault_shelf)), which needs boto3.
    type: bool
    default: false
  disks:
    description: Whether it tells which media it has in use (mounted, swapped to, below O(root)), so that a wipe can refuse them.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
    description: It only reads.
  diff_mode:
    support: none
    description: It changes nothing.
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Ask the vault whether it has what it needs
  sunset.crm.vault_probe:
    root: /srv/vault
  register: sunset_vault_seen
"""

RETURN = r"""
vault:
  description: What was found.
  returned: success
  type: dict
  contains:
    uid:
      description: Number of the account that the vault's modules run as.
      type: int
      returned: always
      sample: 906
    free_bytes:
      description: Room for packages; -1 where it is not known.
      type: int
      returned: always
      sample: 52428800000
    problems:
      description: What is missing, in words; empty if nothing is.
      type: list
      elements: str
      returned: always
      sample: ["the program age is not there"]
    servers:
      description: For each engine whose copies are proven in a server of its own, why there is none here; empty if there is one.
      type: dict
      returned: always
      sample: {mariadb: "", mysql: "this vault has no mysqld of MySQL; install MySQL's server and client on the vault", postgresql: ""}
    disks:
      description: Names of the media in use; one that has no name in the world has its size alone.
      type: list
      elements: dict
      returned: when O(disks) is set
      sample: [{serial: S64FNE0R500001, wwn: 5002538fc1234567, size: 960197124096, kind: scsi}]
"""

import os
import subprocess

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.sunset.crm.plugins.module_utils._disk import kept as disk_kept
from ansible_collections.sunset.crm.plugins.module_utils._proof import (
    mariadb as proof_mariadb,
    mysql as proof_mysql,
    postgresql as proof_postgresql,
    redis as proof_redis,
)
from ansible_collections.sunset.crm.plugins.module_utils._shelf import s3 as shelf_s3
from ansible_collections.sunset.crm.plugins.module_utils._vault.state import VaultError, require_memory

PROGRAMS = ("age", "age-keygen", "ssh-keygen", "ssh", "zstd", "tar")


def nearest(path):
    """The path itself, or the first directory above it that is there."""
    while not os.path.isdir(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path


def place_problems(root):
    if not os.path.isabs(root):
        return ["root is %r; expected an absolute path" % root]
    place = nearest(root)
    if not os.access(place, os.W_OK | os.X_OK):
        return ["%s cannot be written by the vault's account; make %s for it" % (place, root)]
    return []


def memory_problems(live_dir):
    place = nearest(live_dir or "/dev/shm")  # noqa: S108 - memory, on purpose
    try:
        require_memory(place)
    except VaultError as exc:
        return [str(exc)]
    return [] if os.access(place, os.W_OK | os.X_OK) else ["%s cannot be written by the vault's account" % place]


def free_bytes(root):
    try:
        stats = os.statvfs(nearest(root))
    except OSError:
        return -1
    return stats.f_bavail * stats.f_frsize


def missing_server(look):
    """Why an engine's server is not there; empty if it is."""
    try:
        look()
    except VaultError as exc:
        return str(exc)
    except (OSError, subprocess.SubprocessError) as exc:
        return "its program on this vault does not tell its version: %s" % exc
    return ""


def postgresql_there():
    if not proof_postgresql.installed():
        raise VaultError("this vault has no PostgreSQL server; install postgresql, of the source's version or newer, on the vault")


def mariadb_there():
    path = proof_mariadb.find(["mariadbd", "mysqld"])
    if proof_mysql.is_mysql(proof_mariadb.scratch_version(path)):
        raise VaultError("%s of this vault is MySQL's, which cannot prove a MariaDB dump; install mariadb-server on the vault" % path)


# Asked before a run begins: a copy that no vault can prove need not be made.
SERVERS = {
    "postgresql": postgresql_there,
    "mariadb": mariadb_there,
    "mysql": lambda: (proof_mysql.find("mysqld"), proof_mysql.find("mysql")),
    "redis": proof_redis.find,
}


def main():
    module = AnsibleModule(
        argument_spec=dict(
            root=dict(type="path", required=True),
            live_dir=dict(type="path"),
            shelf=dict(type="bool", default=False),
            disks=dict(type="bool", default=False),
        ),
        supports_check_mode=True,
    )
    root = module.params["root"]
    problems = ["the program %s is not there" % name for name in PROGRAMS if module.get_bin_path(name) is None]
    problems += place_problems(root) + memory_problems(module.params["live_dir"])
    if module.params["shelf"]:
        problems += shelf_s3.library_problems()
    servers = {engine: missing_server(look) for engine, look in SERVERS.items()}
    told = dict(uid=os.geteuid(), free_bytes=free_bytes(root), problems=problems, servers=servers)
    if module.params["disks"]:
        told["disks"] = disk_kept.read([nearest(root)])
    module.exit_json(changed=False, vault=told)


if __name__ == "__main__":
    main()
