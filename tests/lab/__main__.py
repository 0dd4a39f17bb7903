# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""python -m tests.lab up | down | fill | status | reset [HOST...] | start HOST | stop HOST | exec HOST ARG... | clean [--images]"""

from __future__ import annotations

import argparse
import os
import shutil
import sys

from . import estate, paths
from .layout import HOSTS
from .shell import LabError, die, say


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="The throwaway estate.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("up", help="build what is missing and switch all on")
    verbs.add_parser("down", help="remove containers, network, volumes, loop devices and their files")
    verbs.add_parser("fill", help="make and keep the filled media, once a machine")
    verbs.add_parser("status", help="what is there")
    reset = verbs.add_parser("reset", help="hosts as on the first day; without names all of them")
    reset.add_argument("hosts", nargs="*", metavar="HOST")
    for verb, help_text in (("start", "power on"), ("stop", "power off")):
        verbs.add_parser(verb, help=help_text).add_argument("host", choices=list(HOSTS))
    execute = verbs.add_parser("exec", help="run a command inside a host")
    execute.add_argument("host", choices=list(HOSTS))
    execute.add_argument("argv", nargs=argparse.REMAINDER)
    clean = verbs.add_parser("clean", help="down, and the state folder too")
    clean.add_argument("--images", action="store_true", help="the engine's images of the lab too")
    clean.add_argument("--caches", action="store_true", help="the cached images, wheels and prepared media too")
    return parser


def _clean(images: bool, caches: bool) -> None:
    estate.down(remove_images=images)
    shutil.rmtree(paths.STATE, ignore_errors=True)
    if caches:
        for name in ("images", "wheels", "prepared"):
            shutil.rmtree(paths.CACHE / name, ignore_errors=True)
        say(f"the caches in {paths.CACHE} are gone")


def main() -> int:
    wanted = _parser().parse_args()
    if os.geteuid() != 0 and wanted.verb != "status":
        return die("loop devices and mmdebstrap need root: run this as root")
    try:
        match wanted.verb:
            case "up":
                estate.up()
            case "down":
                estate.down()
            case "fill":
                estate.filled()
            case "status":
                rows = estate.status()
                print("\n".join(f"{part:<24} {state}" for part, state in rows))
                return 0 if all(state == "running" or state.startswith("/dev/") for _part, state in rows) else 3
            case "reset":
                estate.reset(*wanted.hosts)
            case "start" | "stop":
                getattr(estate, wanted.verb)(wanted.host)
            case "exec":
                sys.stdout.write(estate.execute(wanted.host, wanted.argv))
            case "clean":
                _clean(wanted.images, wanted.caches)
    except LabError as error:
        return die(str(error))
    except KeyboardInterrupt:
        return die("interrupted; the same command goes on, 'down' removes all")
    return 0


sys.exit(main())
