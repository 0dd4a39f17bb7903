# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A copy that is too large for the staging place: its small artefacts are staged, the large one is made for each vault anew.

<staging>/<slug>/<dump_id>/direct/ holds direct.json and the code of the job. A vault asks the reader to make what direct.json
describes; the job then goes the whole way of a dump again, with the large artefact on standard output.
"""

import os
import shutil

from ansible_collections.sunset.crm.plugins.module_utils import _job
from ansible_collections.sunset.crm.plugins.module_utils._copy import staging as copy_staging, stream as copy_stream

# The artefacts that take the room: of a database its dump, of a file store its archive.
LARGE = ("dump", "archive")
SPEC = "direct.json"
FOLDER = "direct"


class Deferred(copy_staging.Staging):
    """A staging place in which the large artefact is described instead of written."""

    def __init__(self, directory, item, estimate):
        super(Deferred, self).__init__(directory, item)
        self.estimate = estimate

    def stage(self, chunks, directory, name, role, codec, *rest):
        if role not in LARGE:
            return copy_stream.stage(chunks, directory, name, role, codec, *rest)
        return {
            "name": name + copy_stream.SUFFIX.get(codec[0], ""),
            "role": role,
            "path": os.path.join(directory, FOLDER, SPEC),
            "codec": codec[0],
            "direct": True,
            "estimate": self.estimate,
            "sha256": None,
            "bytes": None,
            "plain_sha256": None,
            "plain_bytes": None,
        }

    def seal(self, spec, artefacts, content):
        """Write the job of each large artefact. It is run as root later, so it lies in directories of root alone."""
        for artefact in artefacts:
            if not artefact.get("direct"):
                continue
            artefact["of"] = content
            folder = os.path.dirname(artefact["path"])
            os.mkdir(folder, 0o700)
            code = _job.PACKAGE.split(".")[0]
            shutil.copytree(os.path.join(spec["directory"], code), os.path.join(folder, code))
            _job.start_file(folder, "_copy.direct_job")
            told = dict(spec, of=content, role=artefact["role"], codec=artefact["codec"])
            _job.write_json_atomic(artefact["path"], told)
            os.chmod(artefact["path"], 0o600)
            artefact["spec_sha256"] = copy_stream.file_sha256(artefact["path"])


class Outlet(object):
    """A staging place for the second way: the large artefact goes to a descriptor, the small ones are staged already."""

    reads_back = False

    def __init__(self, spec, descriptor):
        self.slug = copy_staging.slug(spec["item"])
        self._spec, self._descriptor = spec, descriptor
        self.facts = None

    def begin(self, dump_id):
        if not self._spec["of"].startswith(dump_id):
            raise ValueError(
                "the source is not what it was when its copy was begun (content {0}, was {1}). Stop what writes there, then make the "
                "dump again".format(dump_id, self._spec["of"][: len(dump_id)])
            )
        return ""

    def stage(self, chunks, directory, name, role, codec, rate, progress):
        if role == self._spec["role"]:
            self.facts = copy_stream.pour(chunks, self._descriptor, self.codec(codec), rate, progress)
        return {"name": name, "role": role, "direct": True}

    def codec(self, found):
        """The compression that the artefact's name promises."""
        if found[0] != self._spec["codec"]:
            raise copy_stream.StreamError(
                "the copy was begun with {0}; this machine has only {1} now".format(self._spec["codec"], found[0])
            )
        return found


def place(spec):
    """The staging place that the spec of a job asks for."""
    if spec.get("direct"):
        return Deferred(spec["staging"], spec["item"], spec["estimate"])
    return copy_staging.Staging(spec["staging"], spec["item"])
