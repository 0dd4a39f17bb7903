#!/usr/bin/python
# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# This file is documentation: the act itself runs on the control node, in the action plugin of the same name.

DOCUMENTATION = r"""
module: docker_guests
short_description: Stop, save or start the containers of one stack, with proof of how each ended
version_added: 0.1.0
description:
  - Works on all containers of one Docker engine that carry O(label), and on nothing else. The engine is reached through
    the connection that Ansible has to its host (same user, key, port, jump host and become); nothing is installed there.
  - The set must be exactly O(containers). A container that is missing, or is there without being expected, is refused by
    name before anything is touched; so are containers that belong to Kubernetes, half-removed ones, running ones that were
    started with C(--rm), and dependencies in a circle.
  - On a manager of a swarm, a service that carries the label is one of the set by its own name; its tasks are not. It is scaled
    to zero and its replicas are put back. The swarm kills a task after the service's own stop grace period; such an end is V(by force).
    Running global services and jobs are refused, and so are tasks on a node that is no manager.
  - With Podman's compatible socket, a container of a systemd unit is taken only when an application of the host declares that
    unit and has been seen stopped; so is one with the restart policy V(always) or V(unless-stopped), which Podman cannot take
    away, with C(podman-restart.service) as the unit. A pod is taken whole or refused.
  - O(state=stopped) first sets every restart policy to V(no), then sends each container its own stop signal. Requests go
    out together, but a container is asked only when all that stand on it (Compose dependencies, links, shared network or
    volumes) are off. Nothing is killed unless O(force_after) says so.
  - An engine that is down behind a listening C(docker.socket) is not asked, for the question would start it, and with it containers. It is named
    and refused, but for O(state=started).
  - O(state=saved) writes the definition and the image of each stopped container into O(staging) on its host, with
    digests taken in the stream. Volumes are listed with their place on the host and are not part of the image.
  - O(state=started) puts the recorded restart policies back and starts exactly those that ran.
options:
  state:
    description: What the set is to be.
    type: str
    choices: [stopped, started, saved]
    required: true
  label:
    description: The label that picks the set, as C(key=value).
    type: str
    required: true
  containers:
    description:
      - The names that are expected. Taken from the plan.
      - Required for O(state=stopped) and O(state=saved).
    type: list
    elements: str
  others:
    description:
      - Names that carry the label and belong to other items of the plan, such as the database of the same Compose project,
        which stops later. They are neither touched nor counted. Taken from the plan.
    type: list
    elements: str
    default: []
  timeout:
    description: Seconds that each container has, from its own request, to end or to start.
    type: float
    default: 120
  force_after:
    description:
      - Seconds after which a container that did not end is killed. Not set means never.
      - A killed container's end is recorded as V(by force), and RV(result.way) is V(forced).
      - Must be above 0 and shorter than O(timeout).
    type: float
  force_allowed_by:
    description: Name of the person who allowed the killing. Recorded. Required with O(force_after).
    type: str
  former:
    description: For O(state=started), the RV(result.former) that the ledger keeps. Filled in by the action plugin.
    type: dict
  socket:
    description: The engine's socket on its host.
    type: path
    default: /var/run/docker.sock
  held_units:
    description: Systemd units of the host that the plan has stopped and holds off. Filled in by the action plugin.
    type: list
    elements: str
    default: []
  owned:
    description: Containers that such a unit removes when it stops, as the survey saw them. Filled in by the action plugin.
    type: dict
    default: {}
  engines:
    description: The container engines of the host, as the survey saw them. Filled in by the action plugin.
    type: dict
    default: {}
  prove:
    description:
      - With O(state=saved), each saved image is loaded back from O(staging) and a container of it is started without network,
        volumes and restart policy, watched for some seconds, and removed with the image. Comes from the item's declaration.
      - RV(result.starts) says what came of it. An image that the engine cannot start fails the step.
    type: bool
    default: false
  staging:
    description:
      - Directory on the engine's host for O(state=saved). Must lie on a medium that is wiped.
      - Required for O(state=saved).
    type: str
requirements:
  - Python package C(docker) on the control node
  - Python 3 on the host, or else C(socat) or the C(docker) command for stopping and starting
  - a connection of type V(ssh) that logs in with a key, or V(local)
notes:
  - A container that ends with exit code 137 without a kill that the engine knows of gets the end V(unknown), since the
    number alone does not say whether something outside the engine killed it.
  - The former state is noted in the ledger before the first change, so that a run that was interrupted between policy and
    stop does not take its own doing for what was there before.
seealso:
  - module: sunset.crm.host_power
  - module: sunset.crm.filestore_archive
extends_documentation_fragment:
  - sunset.crm.recorded
author:
  - sunset.crm contributors
"""

EXAMPLES = r"""
- name: Stop the shop's containers
  sunset.crm.docker_guests:
    item: container:shop
    state: stopped
    label: com.example.stack=shop
    containers: [shop-web, shop-worker, shop-db]
    timeout: 180

- name: Save what the containers are
  sunset.crm.docker_guests:
    item: container:shop
    state: saved
    label: com.example.stack=shop
    containers: [shop-web, shop-worker, shop-db]
    staging: /srv/shop/.sunset-staging
"""

RETURN = r"""
result:
  description: What later steps and the ledger read.
  returned: always
  type: dict
  contains:
    guests:
      description:
        - For O(state=stopped), each container's end by name.
        - C(how) is one of V(by itself), V(by force), V(already off), V(unknown), V(still running), V(not asked); C(graceful) is
          V(yes), V(no) or V(unknown).
      returned: when the set was looked at after acting
      type: dict
      sample:
        shop-db:
          id: 0f2a
          how: by itself
          graceful: 'yes'
          detail: exit code 0
          seconds: 6.1
          before: {status: running, exit_code: 0}
          after: {status: exited, exit_code: 0}
          returned_before: restart policy always
          returns_after: ''
    engine:
      description:
        - What of the engine could bring containers back, and whether they need it. With C(live_restore) they run on while it is down, so that its
          silence proves nothing; C(comes_back) is what starts it again, as the survey saw it.
      returned: O(state=stopped)
      type: dict
      sample:
        name: docker
        live_restore: 'yes'
        means: containers run on while the engine is down, so its silence proves nothing
        comes_back: ["docker.socket listens: the next call on its socket starts the engine"]
        then: 'an engine that comes back starts none of them: their restart policy is no'
    way:
      description: The word that the worst end of the set deserves; V(graceful), V(forced), V(unknown) or V(running).
      returned: O(state=stopped)
      type: str
      sample: graceful
    forced:
      description: Names of the containers that this call killed.
      returned: O(state=stopped)
      type: list
      elements: str
      sample: []
    former:
      description: What O(state=started) puts back.
      returned: O(state=stopped)
      type: dict
      sample:
        shop-db:
          id: 0f2a
          power: 'on'
          policy: {Name: always, MaximumRetryCount: 0}
    artefacts:
      description: For O(state=saved), the staged files with their digests, and those of their plain content.
      returned: O(state=saved)
      type: list
      elements: dict
      sample:
        - name: shop-db-image
          role: image
          path: /srv/shop/.sunset-staging/shop-db-0f2a.image.tar.gz
          sha256: 9c56
          bytes: 1048576
          plain_sha256: 51ab
          plain_bytes: 4194304
          codec: gzip
    volumes:
      description: For O(state=saved), the named volumes, where they lie on the host, and who uses them.
      returned: O(state=saved)
      type: list
      elements: dict
      sample:
        - {name: shop-data, driver: local, options: [], mountpoint: /var/lib/docker/volumes/shop-data/_data, containers: [shop-db]}
    starts:
      description:
        - For O(state=saved) with O(prove=true), what came of starting each saved image. C(starts) is V(yes), V(no) or V(unknown), the
          last where it began and ended with another exit code than 0, as many do without network and volumes.
      returned: O(state=saved)
      type: dict
      sample:
        shop-db: {starts: 'yes', detail: it still ran after 5 s, exit_code: null}
    left_to_units:
      description: Containers of systemd units, which are started by the step of their unit.
      returned: O(state=started), where there are any
      type: dict
      sample: {shop-cache: shop-cache.service}
    started:
      description: Names that were started.
      returned: O(state=started)
      type: list
      elements: str
      sample: [shop-db, shop-web]
    released:
      description: Names whose restart policy was put back.
      returned: O(state=started)
      type: list
      elements: str
      sample: [shop-db]
evidence:
  description: Before, actions, after, verdict, times and tool versions, as it enters the ledger.
  returned: always
  type: dict
  sample: {verdict: 'yes'}
evidence_sha256:
  description: Digest of the evidence.
  returned: always
  type: str
  sample: 2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae
"""
