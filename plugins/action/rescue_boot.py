# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Gate and record M(rescue_boot): the module lays the rescue ready, this lets the host jump or boot, and judges what answers then."""

from __future__ import annotations

import contextlib
import shlex
import shutil
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleConnectionFailure

from ansible_collections.sunset.crm.plugins.action.host_power import POWER_OFF
from ansible_collections.sunset.crm.plugins.plugin_utils import relay
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.account import Account
from ansible_collections.sunset.crm.plugins.plugin_utils.actions.recording import RecordedAction, plain
from ansible_collections.sunset.crm.plugins.plugin_utils.errors import Refusal
from ansible_collections.sunset.crm.plugins.plugin_utils.planning.plan import BOOTED
from ansible_collections.sunset.crm.plugins.plugin_utils.power import booting
from ansible_collections.sunset.crm.plugins.plugin_utils.record import ledger
from ansible_collections.sunset.crm.plugins.plugin_utils.record.estate import Estate
from ansible_collections.sunset.crm.plugins.plugin_utils.rescue import medium as rescue_medium, rescue
from ansible_collections.sunset.crm.plugins.plugin_utils.rescue.restart import NotThere, Restart

# The rescue is looked for this long before a host is taken to run its old system.
ALREADY = 20.0
TIMEOUT = 600.0


class ActionModule(RecordedAction):
    """Look, build, jump or boot, look again."""

    def perform(self, args: dict[str, Any], task_vars: dict[str, Any], check: bool) -> dict[str, Any]:
        item = str(args["item"])
        estate = Estate.at(task_vars.get("sunset_estate_dir"))
        keys = rescue.Keys.of(estate, item, make=not check)
        account = Account(self.name, item)
        restart = None
        if args.get("way") in BOOTED and keys is not None and not check:
            restart = self._restart(args, estate, keys, account)
        if keys is not None:
            with rescue.way_in(self._connection, keys) as reach:
                found, _why = rescue.look(reach, ALREADY)
            if found is not None:
                return self._there(account, keys, item, found, restart)
        if check or keys is None:
            return self._module(args, task_vars)
        done = self._module({**args, **keys.options(item)}, task_vars)
        if done.get("failed") or (done.get("evidence") or {}).get("verdict") != "yes":
            return done
        evidence = plain(done["evidence"])
        account.before, account.tools = evidence["before"], evidence["tools"]
        for action in evidence["actions"]:
            account.did(**action)
        timeout = float(args.get("timeout") or TIMEOUT)
        if restart is not None:
            return self._boot(account, keys, restart, evidence["result"], timeout)
        return self._jump(account, keys, item, evidence["result"], timeout)

    def _module(self, args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        try:
            done: dict[str, Any] = self._execute_module(module_name=f"sunset.crm.{self.name}", module_args=dict(args), task_vars=task_vars)
            return done
        except AnsibleConnectionFailure as exc:
            raise Refusal(
                f"{args['item']} answers neither as a rescue nor as itself ({str(exc)[-200:]}). Nothing was changed by this step. "
                "Look at its console, or switch it on, and run the same command again."
            ) from exc

    def _there(
        self, account: Account, keys: rescue.Keys, item: str, found: dict[str, Any], restart: Restart | None = None
    ) -> dict[str, Any]:
        """A rescue answers already, of an earlier run."""
        account.before = account.after = found
        machine = self._machine or str((found.get("marker") or {}).get("machine_id") or "")
        wrong = rescue.problems(found, keys.marker(item), machine, "", elsewhere=restart is not None)
        if wrong:
            return account.failed(
                f"{item}: what answers with its rescue's key is not fit for a wipe: {'; '.join(wrong)}.", {"state": "unknown"}
            )
        more: dict[str, Any] = {}
        if restart is not None:
            # That run may not have lived to put the controller back.
            account.before = {"rescue": found}
            problem = restart.back()
            shutil.rmtree(keys.folder, ignore_errors=True)
            more = {"boot": {"former": restart.former, **restart.readings}}
            if problem:
                return account.failed(_not_put_back(item, problem), {"state": "unknown", **more})
        return {**account.done(account.acted, "yes", entered(found, more)), "connection": self._way(keys, found)}

    # --- kexec

    def _jump(self, account: Account, keys: rescue.Keys, item: str, loaded: dict[str, Any], timeout: float) -> dict[str, Any]:
        line = f"{shlex.quote(loaded['python'])} -I {shlex.quote(loaded['jump'])}"
        account.did(did="asked to jump into the rescue", command=line, **self._ask(line))
        # The control connection of ssh outlives the old system and would mislead the next task.
        with contextlib.suppress(Exception):
            self._connection.reset()
        with rescue.way_in(self._connection, keys) as reach:
            found, why, waited = rescue.wait(reach, timeout)
        account.after = found or {"answer": "none", "why": why}
        image = {"image": {name: loaded["image"][name] for name in ("bytes", "sha256")}, "waited": waited}
        if found is None:
            return account.failed(
                f"{item} did not come back as a rescue within {waited:g} s after the jump (last: {why}). Its disks were not touched. Look at "
                "its console; a reset starts its old system again. Then run the same command again, or take the disk to the station.",
                {"state": "lost", **image},
                verdict="unknown",
            )
        wrong = rescue.problems(found, keys.marker(item), loaded["machine_id"], loaded["boot_id"])
        if wrong:
            return account.failed(
                f"{item}: what answers after the jump is not fit for a wipe: {'; '.join(wrong)}. No disk was touched.",
                {"state": "unknown", **image},
            )
        return {**account.done(True, "yes", entered(found, image)), "connection": self._way(keys, found)}

    def _ask(self, line: str) -> dict[str, Any]:
        try:
            asked = self._low_level_execute_command(line, sudoable=True)
            return {"rc": asked["rc"], "stderr": str(asked.get("stderr") or "").strip()[-300:]}
        except AnsibleConnectionFailure as exc:
            return {"rc": None, "stderr": str(exc)[-300:]}

    # --- virtual medium, network

    def _restart(self, args: dict[str, Any], estate: Estate, keys: rescue.Keys, account: Account) -> Restart:
        boot = booting.addressed(booting.described(args["boot"]), keys.token)
        item, book = str(args["item"]), estate.ledger_file

        def note(former: dict[str, Any]) -> None:
            ledger.append(book, {"kind": "found", "item": item, "aspect": "boot", "former": former})

        former = booting.remembered(ledger.read(book), item) if book.exists() else {}
        return Restart(item, args["witness"], dict(args.get("board") or {}), boot, account, former, note)

    def _boot(self, account: Account, keys: rescue.Keys, restart: Restart, built: dict[str, Any], timeout: float) -> dict[str, Any]:
        item = restart.item
        shutil.rmtree(keys.folder, ignore_errors=True)
        keys.folder.mkdir(mode=0o700)
        more: dict[str, Any] = {"image": {name: built["image"][name] for name in ("bytes", "sha256")}}
        found, why, waited = None, "", 0.0
        try:
            files = self._medium(account, keys.folder, restart.boot, built)
            with rescue_medium.given_out(restart.boot, keys.token, item.partition(":")[2], files) as readers:
                restart.aim()
                restart.off(lambda: self._ask(POWER_OFF), timeout)
                with contextlib.suppress(Exception):
                    self._connection.reset()
                restart.on()
                with rescue.way_in(self._connection, keys) as reach:
                    found, why, waited = rescue.wait(reach, timeout, rescue.another)
                # Put back while the medium is still there: some controllers ask for it once more.
                problem = restart.back()
            if readers:
                account.did(did="gave out the medium", to=dict(readers))
        except NotThere as exc:
            at = {"boot": {"former": restart.former, **restart.readings}}
            return account.failed(
                f"{item} did not go into its rescue: {exc} Its disks were not touched. Then run the same command again.",
                {"state": "unknown", **more, **at},
            )
        except Refusal as exc:
            return account.failed(f"{item} cannot go into its rescue: {exc} It runs on as before.", {"state": "unknown", **more})
        finally:
            shutil.rmtree(keys.folder, ignore_errors=True)
        more |= {"waited": waited, "boot": {"former": restart.former, **restart.readings}}
        account.after = found or {"answer": "none", "why": why}
        told = _not_put_back(item, problem) if problem else "What it boots from is as it was before."
        if found is None:
            who = "another system answered" if rescue.another(why) else "nothing that it could be answered"
            return account.failed(
                f"{item} did not come up as its rescue: {who} in {waited:g} s after it was switched on (last: {why}). It is left on; its disks "
                f"were not touched. {told} Look at its console; a reset starts its old system. Then run the same command again.",
                {"state": "lost", **more},
                verdict="unknown",
            )
        wrong = rescue.problems(found, keys.marker(item), built["machine_id"], built["boot_id"], elsewhere=True)
        if wrong:
            return account.failed(
                f"{item}: what answers is not fit for a wipe: {'; '.join(wrong)}. No disk was touched. {told}", {"state": "unknown", **more}
            )
        if problem:
            return account.failed(told, {"state": "unknown", **more})
        return {**account.done(True, "yes", entered(found, more)), "connection": self._way(keys, found)}

    def _medium(self, account: Account, folder: Path, boot: Any, built: dict[str, Any]) -> dict[str, Path]:
        """Kernel and archive fetched from the host, and what is made of them for this way."""
        reach = relay.from_connection(self._connection)
        kernel, archive = folder / rescue_medium.KERNEL, folder / rescue_medium.ARCHIVE
        rescue_medium.fetched(reach, built["kernel"]["path"], built["kernel"]["sha256"], kernel)
        size = rescue_medium.fetched(
            reach, built["image"]["path"], built["image"]["sha256"], archive, packed=not built["image"].get("compressed")
        )
        account.did(did="fetched kernel and rescue from the host", kernel=built["kernel"], rescue=built["image"], compressed=size)
        if boot["way"] != "media":
            menu = folder / "rescue.menu"
            menu.write_text(rescue_medium.menu(built["arguments"]), encoding="ascii")
            (folder / "arguments").write_text(built["arguments"] + "\n", encoding="ascii")
            return {"kernel": kernel, "archive": archive, "menu": menu, "arguments": folder / "arguments"}
        target = folder / "rescue.iso"
        made = rescue_medium.iso(kernel, archive, built["arguments"], built["firmware"], target)
        account.did(did="made a medium of them and read it again", **made)
        return {"iso": target}

    def _way(self, keys: rescue.Keys, found: dict[str, Any]) -> dict[str, str]:
        """For C(add_host): the tasks that follow talk to the rescue."""
        common = self._connection.get_option("ssh_common_args")
        python = str((found.get("python")) or "/usr/bin/python3")
        return {"private_key_file": str(keys.login), "common_args": keys.arguments(common), "python": python}


def _not_put_back(item: str, problem: str) -> str:
    return (
        f"{item}: what it boots from was not put back: {problem} It stays up. Set it on the controller's own page, or mend the controller, "
        "and run the same command again."
    )


def entered(found: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """What the ledger keeps of a rescue that was recognised. Pure."""
    kept = {name: found.get(name) for name in ("machine_id", "boot_id", "kernel", "root", "disks", "mounted_from_disks", "swap")}
    return {"state": "entered", **kept, **more}
