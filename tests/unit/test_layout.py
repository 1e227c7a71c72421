"""The layout: which folder may import which, no cycles, few levels, short files and short functions."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping

import pytest

from tests import structure
from tests.structure import PACKAGES, Module, modules_of

ROOT = structure.HERE
MODULES = modules_of(ROOT)
GRAPH = structure.import_graph(MODULES)

SECTION = (ROOT / "docs" / "architecture.md").read_text().split("\n## Imports\n")[1].split("\n## ")[0]
ROWS = re.findall(r"^\| `([\w/.]+)` \|(.*)\|(.*)\|$", SECTION, re.MULTILINE)


def names_in(text: str) -> tuple[str, ...]:
    """The dotted names of the paths that a part of the page has between backticks."""
    paths = re.findall(r"`([\w/.]+)`", text)
    return tuple(path.removesuffix("/").removesuffix(".py").replace("/", ".") for path in paths)


COMMON = names_in(SECTION.split("own row's folder, and")[1].split("\n\n")[0])
"""What every folder may import; these import only each other."""

MAY_IMPORT: Mapping[str, tuple[str, ...]] = {names_in(f"`{path}`")[0]: names_in(allowed) for path, allowed, _ in ROWS}
"""A folder or module to what it may import besides itself and `COMMON`; the longest name that fits holds."""

ONLY_FROM: Mapping[str, tuple[str, ...]] = {
    names_in(f"`{path}`")[0]: names_in(by) for path, _, by in ROWS if by.strip() != "anything"
}
"""A folder to the only ones that may import it."""

WITHOUT_RAY = ("deployments.engines", "deployments.audio", "deployments.text", "deployments.weights")
READS_TENSORS_OF_PICKLES = (
    "deployments/weights/convert_vibevoice_voices.py",
    "deployments/weights/torch_checkpoints.py",
)
"""Of programs that an operator runs once, before a service has the result; torch builds tensors and nothing else."""
RUNS_CODE = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve")
MOST_LEVELS = 7
LONGEST_FILE, LONGEST_FUNCTION = 400, 60


def by_path(module: Module) -> str:
    """How a test names a module."""
    return module.path


def is_in(name: str, folder: str) -> bool:
    """Whether a dotted name is a folder or in it."""
    return f"{name}.".startswith(f"{folder}.")


def may_import(name: str, other: str) -> bool:
    """Whether the table allows it."""
    room = max((folder for folder in MAY_IMPORT if is_in(name, folder)), key=len)
    if any(is_in(other, only) and not any(is_in(name, by) for by in allowed) for only, allowed in ONLY_FROM.items()):
        return False
    return any(is_in(other, folder) for folder in (*MAY_IMPORT[room], *COMMON, room))


def test_each_folder_imports_only_what_the_table_allows() -> None:
    assert not [f"{name} -> {other}" for name in GRAPH for other in GRAPH[name] if not may_import(name, other)]


def test_the_table_of_the_page_was_read() -> None:
    assert len(ROWS) == SECTION.count("\n|") - 2
    assert COMMON == ("deployments.errors", "deployments.settings", "deployments.validation")
    assert not may_import("serve_app.gateway.routes.speech", "serve_app.gateway.routes.voices")
    assert not may_import("serve_app.gateway.api", "serve_app.config")
    assert not may_import("deployments.engines.registry", "deployments.replica.base")
    named = {name for path, allowed, by in ROWS for name in names_in(f"`{path}` {allowed} {by}")}
    assert not [name for name in named if not (ROOT / name.replace(".", "/")).is_dir() and name not in GRAPH]


def test_there_are_no_cycles() -> None:
    assert not structure.cycles_of(GRAPH)


def test_there_are_few_levels() -> None:
    product = structure.import_graph(module for module in MODULES if not module.is_benchmark)
    chain = structure.longest_chain(product, "serve_app")
    assert len(chain) <= MOST_LEVELS, " -> ".join(chain)


def test_files_are_short() -> None:
    assert not [module.path for module in MODULES if module.lines > LONGEST_FILE]


def test_functions_are_short() -> None:
    assert not [each.where for each in structure.functions_of(MODULES) if each.lines > LONGEST_FUNCTION]


def test_a_class_name_means_one_thing() -> None:
    assert not structure.ambiguous_classes(MODULES)


def test_a_setting_is_defined_once() -> None:
    assert not structure.settings_defined_twice(MODULES)


def test_a_task_has_one_driver() -> None:
    assert {task: len(found) for task, found in structure.drivers_of(MODULES).items()} == dict.fromkeys(
        structure.TASKS, 1
    )


@pytest.mark.parametrize("module", [each for each in MODULES if each.name.startswith(WITHOUT_RAY)], ids=by_path)
def test_engines_audio_text_and_weights_do_not_import_ray(module: Module) -> None:
    assert not {name.split(".")[0] for name in structure.imports_of(module)} & {"ray", "fastapi", "starlette"}


@pytest.mark.parametrize("module", MODULES, ids=by_path)
def test_nothing_that_runs_code_from_a_file_is_imported(module: Module) -> None:
    assert not [name for name in structure.imports_of(module) if name.split(".")[0] in RUNS_CODE]
    assert "trust_remote_code=True" not in module.text
    loads = re.findall(r"torch\.load\(.*", module.text)
    assert all("weights_only=True" in load for load in loads)
    assert not loads or module.path in READS_TENSORS_OF_PICKLES


def test_the_folders_that_were_agreed_exist() -> None:
    for name in (*PACKAGES, "tests", "notebooks", "pyproject.toml", "serve_config.yaml"):
        assert (ROOT / name).exists(), name


def test_the_modules_are_found() -> None:
    """A wrong path would make every test above pass."""
    assert len(MODULES) > 40
    assert "deployments.replica.engine_thread" in GRAPH["deployments.replica.step_gate"]
    step_gate = next(module for module in MODULES if module.path == "deployments/replica/step_gate.py")
    assert any(name.split(".")[0] == "ray" for name in structure.imports_of(step_gate))


def test_private_interfaces_of_ray_are_used_in_one_file() -> None:
    """`cluster/ray_private.py` says why each is used, so that a new version of Ray is checked in one place."""
    private = re.compile(r"(from|import) ray(\.\w+)*\._\w|\b_get_global_client\b|\b_global_node\b|\b_internal=")
    maybe = re.compile(r"ray[\s.\w\\]*\._|_get_global_client|_global_node|_internal\s*=")  # unparsing takes long
    found = [module for module in MODULES if maybe.search(module.text)]
    assert {module.path for module in found if private.search(ast.unparse(module.tree))} == {"cluster/ray_private.py"}
