# Copyright: sunset.crm contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Rules of the house that a reader would otherwise have to check by eye: nothing that changes the world escapes recording."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.sunset.crm.plugins.plugin_utils.steps import filling, steps
from tests.unit.documented import documentation

TOP = Path(__file__).parents[2]
PLUGINS = TOP / "plugins"
MODULES = sorted((PLUGINS / "modules").glob("*.py"))
UTILS = sorted((PLUGINS / "module_utils").rglob("*.py"))
CONTROL_UTILS = sorted((PLUGINS / "plugin_utils").rglob("*.py"))
ROLES = sorted(path for path in (TOP / "roles").iterdir() if path.is_dir())
# What neither changes a machine of the estate nor waits for a person.
READ_ONLY = {
    f"ansible.builtin.{name}"
    for name in (
        "include_tasks",
        "include_role",
        "import_role",
        "import_playbook",
        "import_tasks",
        "debug",
        "assert",
        "add_host",
        "set_fact",
    )
}
# Modules of ours that only read, or only write the estate's own folder on the control node.
UNRECORDED = {"host_survey", "guest_survey", "plan_build", "report", "run_open", "run_close", "run_gate", "run_joined"}
UNRECORDED |= {"vault_verify", "vault_probe", "host_idle", "machine_look", "disk_info", "media_plan", "wipe_audit", "volume_info"}
RECORDED = {path.stem for path in MODULES} - UNRECORDED
KEYWORDS = {"name", "loop", "loop_control", "when", "register", "vars", "tags", "block", "rescue", "always", "run_once", "changed_when"}
KEYWORDS |= {"failed_when", "no_log", "become", "become_user", "check_mode", "ignore_unreachable", "notify", "until", "retries", "delay"}


def calls(path: Path, name: str) -> bool:
    return any(
        isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    )


# --- recording cannot be forgotten ---


def test_every_module_that_can_change_something_is_known_as_recorded() -> None:
    by_frame = {path.stem for path in MODULES if calls(path, "Recorded")}
    by_action = {
        path.stem
        for path in (PLUGINS / "action").glob("*.py")
        if re.search(r"class ActionModule\((RecordedAction|GuestsAction|WipeAction)\)", path.read_text())
    }
    assert by_frame <= RECORDED
    assert by_action == RECORDED
    assert {step.module for step in steps.STEPS} == set(filling._FILL) == set(filling.KINDS) == RECORDED


@pytest.mark.parametrize("path", [path for path in MODULES if path.stem in UNRECORDED], ids=lambda path: path.stem)
def test_an_unrecorded_module_does_not_use_the_frame_for_changes(path: Path) -> None:
    assert not calls(path, "Recorded")


@pytest.mark.parametrize("name", sorted(RECORDED))
def test_a_recorded_module_acts_through_the_frame_or_only_documents_a_verb_of_the_control_node(name: str) -> None:
    path = PLUGINS / "modules" / f"{name}.py"
    where = {step.where for step in steps.STEPS if step.module == name}
    if where == {steps.CONTROL}:
        assert not calls(path, "AnsibleModule")
    else:
        assert calls(path, "Recorded")
        assert not calls(path, "AnsibleModule")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_every_module_has_its_documentation(path: Path) -> None:
    found = documentation(path)
    assert found["module"] == path.stem
    assert {"check_mode", "diff_mode"} <= set(found["attributes"])
    text = path.read_text(encoding="utf-8")
    assert "EXAMPLES = r" in text
    assert "RETURN = r" in text
    if path.stem in RECORDED:
        assert {"item", "receipt"} <= set(found["options"])
        assert found["options"]["item"]["required"] is True


def test_actions_are_thin_and_none_is_reached_by_a_redirect() -> None:
    runtime = yaml.safe_load((TOP / "meta/runtime.yml").read_text())
    assert not (runtime.get("plugin_routing") or {}).get("action")
    assert not (runtime.get("plugin_routing") or {}).get("modules")
    control = UNRECORDED - {"host_survey", "vault_probe", "host_idle", "machine_look", "disk_info", "volume_info"}
    assert {path.stem for path in (PLUGINS / "action").glob("*.py")} == RECORDED | control


def test_every_recorded_module_is_in_an_action_group() -> None:
    groups = yaml.safe_load((TOP / "meta/runtime.yml").read_text())["action_groups"]
    assert {name for group in groups.values() for name in group} >= RECORDED


# --- roles and playbooks ---


def tasks_of(path: Path) -> Iterator[dict[str, Any]]:
    """Every task of a file, those in blocks too; the tasks of a playbook's plays."""

    def walk(nodes: Any) -> Iterator[dict[str, Any]]:
        for node in nodes or []:
            inner = [node[part] for part in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers") if part in node]
            for part in inner:
                yield from walk(part)
            if not inner and "hosts" not in node:
                yield node

    yield from walk(yaml.safe_load(path.read_text(encoding="utf-8")))


TASK_FILES = [
    *sorted((TOP / "roles").glob("*/tasks/*.yml")),
    *sorted((TOP / "roles").glob("*/handlers/*.yml")),
    *sorted((TOP / "playbooks").rglob("*.yml")),
]


@pytest.mark.parametrize("path", TASK_FILES, ids=lambda path: str(path.relative_to(TOP)))
def test_roles_and_playbooks_change_the_world_through_this_collection_alone(path: Path) -> None:
    allowed = READ_ONLY | {f"sunset.crm.{path.stem}" for path in MODULES}
    for task in tasks_of(path):
        for word in set(task) - KEYWORDS:
            assert word in allowed, f"{path.name}: {task.get('name')} uses {word}"
        assert not set(task) & {"ignore_errors", "delegate_to", "args", "environment"}, task.get("name")


@pytest.mark.parametrize("path", [path for path in TASK_FILES if path.parent.name == "tasks"], ids=lambda path: str(path.relative_to(TOP)))
def test_each_way_into_a_role_begins_by_joining_the_run(path: Path) -> None:
    """A skipped first play must end in an error, not in empty loops and exit code 0."""
    role = path.parents[1].name
    specs = yaml.safe_load((path.parents[1] / "meta/argument_specs.yml").read_text())["argument_specs"]
    if role == "survey" or path.stem not in specs:
        return
    assert "sunset.crm.run_joined" in next(iter(tasks_of(path)))


def play_files() -> list[Path]:
    return sorted((TOP / "playbooks").glob("*.yml"))


@pytest.mark.parametrize("path", play_files(), ids=lambda path: path.stem)
def test_phases_open_and_close_a_run_and_use_no_keyword_as_a_gate(path: Path) -> None:
    plays = yaml.safe_load(path.read_text())
    for play in plays:
        # The survey changes nothing; what did not answer is named by the plan.
        keywords = {"serial", "strategy", "max_fail_percentage", "ignore_errors"} | (
            {"ignore_unreachable"} if path.stem != "survey" else set()
        )
        assert not set(play) & keywords
    if path.stem in ("shutdown", "wipe", "resume", "expire"):
        assert plays[0]["ansible.builtin.import_playbook"] == "internal/open.yml"
        assert plays[-1]["ansible.builtin.import_playbook"] == "internal/close.yml"


@pytest.mark.parametrize("role", ROLES, ids=lambda path: path.name)
def test_a_roles_argument_specs_are_its_defaults_and_what_it_uses(role: Path) -> None:
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text())["argument_specs"]
    declared = {name: option for spec in specs.values() for name, option in (spec.get("options") or {}).items()}
    file = role / "defaults/main.yml"
    defaults = (yaml.safe_load(file.read_text()) or {}) if file.exists() else {}
    assert set(defaults) <= set(declared)
    for name, value in defaults.items():
        if not (isinstance(value, str) and "{{" in value):
            assert declared[name].get("default") == value, name
    text = "\n".join(path.read_text() for path in (role / "tasks").glob("*.yml"))
    # Told by the run (M(sunset.crm.run_open)) through add_host, or made by the role itself.
    given = set(re.findall(r"(?:loop_var|register): (\w+)", text)) | {
        "sunset_run_vaults",
        "sunset_run_vaults_all",
        "survey_guests",
        "survey_seen",
    }
    used = set(re.findall(rf"(?<![.\w])(?:{role.name}|sunset)_[a-z_]+\b", text))
    assert used - given <= set(declared), "used, but not declared"
    of_defaults = set(re.findall(r"\w+", " ".join(map(str, defaults.values()))))
    assert set(declared) <= used | of_defaults, "declared, but not used"


# --- code that travels ---


def old_python() -> str | None:
    """A Python 3.6, wherever it is: on PATH, or among pyenv's versions."""
    found = shutil.which("python3.6")
    pyenv = shutil.which("pyenv")
    if pyenv:
        listed = subprocess.run([pyenv, "versions", "--bare"], capture_output=True, text=True, check=False).stdout.split()
        for version in listed:
            if version.startswith("3.6."):
                prefix = subprocess.run([pyenv, "prefix", version], capture_output=True, text=True, check=False).stdout.strip()
                found = str(Path(prefix) / "bin/python3.6") if prefix else found
    if found and subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode == 0:
        return found
    return None


TRAVELLING = [
    *UTILS,
    *(
        path
        for path in MODULES
        if path.stem
        not in UNRECORDED - {"host_survey", "vault_verify", "vault_probe", "host_idle", "machine_look", "disk_info", "wipe_audit"}
    ),
    *sorted((TOP / "roles").glob("*/files/*.py")),
]


def test_code_that_travels_compiles_under_python_3_6(tmp_path: Path) -> None:
    python = old_python()
    if python is None:
        pytest.skip("there is no Python 3.6 here; vermin checks the same")
    code = "import sys\nfor name in sys.argv[1:]:\n    compile(open(name, encoding='utf-8').read(), name, 'exec')\n"
    done = subprocess.run([python, "-c", code, *map(str, TRAVELLING)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_vermin_finds_nothing_newer_than_python_3_6() -> None:
    vermin = Path(sys.executable).with_name("vermin")
    if not vermin.exists():
        pytest.skip("vermin is not installed (test-requirements.txt)")
    # Type annotations are not evaluated on hosts; what is imported under a guard is no requirement.
    line = [str(vermin), "-t=3.6-", "--no-tips", "--violations", "--eval-annotations", *map(str, TRAVELLING)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]


# Libraries of the vaults, imported where they are wanted and refused in plain words where they are not there.
OF_VAULTS = {PLUGINS / "module_utils/_export/xlsx.py": {"xlsxwriter"}}


@pytest.mark.parametrize("path", TRAVELLING, ids=lambda path: str(path.relative_to(TOP)))
def test_code_that_travels_imports_the_standard_library_and_itself_only(path: Path) -> None:
    own = "ansible_collections.sunset.crm.plugins.module_utils"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0
            names = [node.module or ""]
        for name in names:
            mine = name.startswith((own, "ansible.module_utils"))
            allowed = sys.stdlib_module_names | OF_VAULTS.get(path, set())
            assert mine or name.split(".")[0] in allowed, f"{path.name} imports {name}"


ROOMS = sorted({path.parent for path in [*UTILS, *CONTROL_UTILS]} - {PLUGINS / "module_utils", PLUGINS / "plugin_utils"})


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: str(room.relative_to(PLUGINS)))
def test_each_room_says_what_it_is_for_and_is_small_enough_to_be_read(room: Path) -> None:
    inside = ast.parse((room / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(inside) and len(inside.body) == 1, "a docstring and nothing else: what is in a room is imported from its file"
    assert len(list(room.glob("*.py"))) <= 21, "a room for twenty files; more want another one"
    assert room.name.startswith("_") == (room.parent.name == "module_utils"), "what travels is private by its underscore"
    assert not [path.name for path in room.glob("_*.py") if path.name != "__init__.py"], "a file in a room needs no underscore"


def test_a_file_that_travels_goes_by_one_name() -> None:
    """Its room and its own name: ``from ._wipe import engine as wipe_engine``, wherever it is used."""
    own = "ansible_collections.sunset.crm.plugins.module_utils._"
    seen = 0
    for path in [*MODULES, *UTILS, *CONTROL_UTILS, *sorted((PLUGINS / "action").glob("*.py"))]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(own) and "." not in (node.module or "")[len(own) :]:
                room = (node.module or "")[len(own) :]
                if not (PLUGINS / "module_utils" / f"_{room}").is_dir():
                    continue
                for alias in node.names:
                    seen += 1
                    assert alias.asname in (f"{room}_{alias.name}", f"{room}_{alias.name}_file"), (
                        f"{path.name} calls {alias.name} {alias.asname}"
                    )
    assert seen > 300


def test_nothing_imports_in_a_circle() -> None:
    """Also where an import is put into a function, or under TYPE_CHECKING, to hide one."""
    package = "ansible_collections.sunset.crm.plugins"
    files = {".".join([package, *path.relative_to(PLUGINS).with_suffix("").parts]): path for path in [*UTILS, *CONTROL_UTILS]}
    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        found = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
        named = {f"{node.module}.{alias.name}" for node in found for alias in node.names} | {str(node.module) for node in found}
        graph[name] = named & set(files)
    assert sum(map(len, graph.values())) > 300
    list(TopologicalSorter(graph).static_order())  # a CycleError names the files


def sources() -> list[Path]:
    """Everything of ours that is written by hand."""
    skip = {".git", ".venv", ".lab", ".collections", "__pycache__", ".mypy_cache", ".ruff_cache"}
    found = []
    for folder, names, files in os.walk(TOP):
        names[:] = [name for name in names if name not in skip]
        found += [Path(folder, name) for name in files if name.endswith((".py", ".yml", ".sh"))]
    return found


def test_every_file_names_its_licence() -> None:
    plain = {"galaxy.yml"}
    lacking = [
        str(path.relative_to(TOP))
        for path in sources()
        if path.suffix == ".py" and path.name not in plain and "SPDX-License-Identifier: GPL-3.0-or-later" not in path.read_text()[:400]
    ]
    assert lacking == []


def test_no_shell_and_no_secret_in_a_command_line() -> None:
    for path in [*MODULES, *UTILS, *CONTROL_UTILS]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "shell":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path.name
