"""Measures the structure of a checkout: folders, levels of imports, cycles, lines, functions, names, settings, drivers.

    python tests/structure.py                          # this checkout
    python tests/structure.py --before ../other        # a table of both, the other one first

Everything is read from the source text with `ast`; nothing of the product is imported or run.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

HERE = Path(__file__).parents[1]
PACKAGES = ("deployments", "cluster", "serve_app")
BENCHMARKS = "serve_app/bench/"
COUNTED_BY_HAND = {"generators that a chunk of speech passes": 11}
"""Of the commit before the redesign: what a static count cannot find there."""

PARTS_WITH_STATEMENTS = ("body", "orelse", "handlers", "finalbody", "cases")
Scope = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
Graph = Mapping[str, frozenset[str]]

TASKS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    "speech": (frozenset({"Stretcher"}), frozenset()),
    "transcription": (frozenset({"WindowCutter", "windows_of"}), frozenset({"windows_of"})),
    "separation": (
        frozenset({"deployments.audio.chunking.Chunker", "AudioChunker", "chunks_of"}),
        frozenset({"chunks_of"}),
    ),
}
"""For each task the calls that only a driver makes, because they cut its input or put its output together, and the helpers
among those calls, which are not drivers themselves."""


@dataclass(frozen=True)
class Module:
    """One source file of the product. `path` is relative to the checkout, with forward slashes."""

    path: str
    text: str

    @property
    def name(self) -> str:
        """The dotted name; a package has the name of its folder."""
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text)

    @cached_property
    def statements(self) -> list[ast.AST]:
        """Every statement of the file, nested ones included. Definitions and imports are statements, so nobody has to look
        into expressions for them, which are most of a file."""
        found: list[ast.AST] = []
        pending: list[ast.AST] = [self.tree]
        while pending:
            node = pending.pop()
            found.append(node)
            for part in PARTS_WITH_STATEMENTS:
                pending += getattr(node, part, ())
        return found

    @cached_property
    def imports(self) -> list[str]:
        """The dotted names that the file imports, wherever it does."""
        return [name for node in self.statements for name in _imported(node)]

    @property
    def lines(self) -> int:
        """As `wc -l` counts them."""
        return self.text.count("\n")

    @property
    def is_benchmark(self) -> bool:
        """Whether it is no part of the product that serves."""
        return self.path.startswith(BENCHMARKS)


@dataclass(frozen=True)
class Function:
    """A function or method, nested ones included, with its length in lines; decorators are not counted."""

    where: str
    lines: int


def modules_of(root: Path) -> list[Module]:
    """Every Python file of the product's packages, sorted by path."""
    files = sorted(file for package in PACKAGES for file in (root / package).rglob("*.py"))
    return [Module(file.relative_to(root).as_posix(), file.read_text()) for file in files]


# Imports


def imports_of(module: Module, *, at_import_time_only: bool = False) -> Iterator[str]:
    """The dotted names that a file imports; `from a import b` gives `a.b`.

    `at_import_time_only` leaves out imports inside functions and under `if TYPE_CHECKING`.
    """
    if not at_import_time_only:
        yield from module.imports
        return
    pending: list[ast.AST] = [module.tree]
    while pending:
        node = pending.pop()
        yield from _imported(node)
        if _is_function(node) or _is_for_types(node):
            pending += node.orelse if isinstance(node, ast.If) else []
        else:
            pending += ast.iter_child_nodes(node)


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def import_graph(modules: Iterable[Module], *, at_import_time_only: bool = False) -> Graph:
    """Which module imports which, by dotted name."""
    modules = list(modules)
    known = {module.name for module in modules}

    def target(name: str) -> str | None:
        return name if name in known else parent if (parent := name.rpartition(".")[0]) in known else None

    return {
        module.name: frozenset(
            found
            for name in imports_of(module, at_import_time_only=at_import_time_only)
            if (found := target(name)) is not None and found != module.name
        )
        for module in modules
    }


def cycles_of(graph: Graph) -> list[list[str]]:
    """The groups of modules that import each other in a circle (strongly connected components of two or more)."""
    return [sorted(group) for group in _components(graph) if len(group) > 1]


def longest_chain(graph: Graph, package: str) -> list[str]:
    """The longest chain of imports inside a package, the module at the top first. A cycle counts as one level."""
    inside = {name: graph[name] & graph.keys() for name in graph if name.split(".")[0] == package}
    inside = {name: frozenset(other for other in found if other in inside) for name, found in inside.items()}
    best: dict[str, list[str]] = {}
    for group in _components(inside):  # leaves first
        below = [best[other] for name in group for other in inside[name] if other not in group]
        chain = max(below, key=len, default=[])
        best.update({name: [name, *chain] for name in group})
    return max(best.values(), key=len, default=[])


def _components(graph: Graph) -> list[set[str]]:
    """Strongly connected components, those that are imported before those that import them (Tarjan, 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(name: str) -> None:
        number[name] = low[name] = len(number)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in number:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], number[other])
        if low[name] == number[name]:
            at = stack.index(name)
            found.append(set(stack[at:]))
            del stack[at:]

    for name in sorted(graph):
        if name not in number:
            visit(name)
    return found


# Names, functions, settings, drivers


def functions_of(modules: Iterable[Module]) -> list[Function]:
    """Every function and method."""
    return [
        Function(f"{module.path}:{node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for module in modules
        for node in module.statements
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def classes_of(modules: Iterable[Module]) -> Iterator[tuple[Module, ast.ClassDef]]:
    """Every class with the module that defines it."""
    for module in modules:
        yield from ((module, node) for node in module.statements if isinstance(node, ast.ClassDef))


def ambiguous_classes(modules: Iterable[Module]) -> dict[str, list[str]]:
    """Class names that are defined more than once, with the files."""
    places: defaultdict[str, list[str]] = defaultdict(list)
    for module, node in classes_of(modules):
        places[node.name].append(module.path)
    return {name: found for name, found in sorted(places.items()) if len(found) > 1}


def settings_defined_twice(modules: Iterable[Module]) -> dict[str, list[str]]:
    """Settings classes of which another class repeats fields, with those fields.

    A settings class is one that `AppConfig` reaches through the annotations of its fields. Another class repeats it when
    most fields of each, and at least two, are fields of both. A base class repeats it when they share any field. The tag
    of a tagged union does not count.
    """
    modules = [module for module in modules if not module.is_benchmark]
    classes = [(module, node, _fields(node)) for module, node in classes_of(modules)]
    by_name: defaultdict[str, list[ast.ClassDef]] = defaultdict(list)
    for _, node, _ in classes:
        by_name[node.name].append(node)
    settings = _reachable("AppConfig", by_name)
    twice: defaultdict[str, set[str]] = defaultdict(set)
    for module, node, fields in classes:
        if node not in settings:
            continue
        bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for other_module, other, other_fields in classes:
            shared = [name for name in fields if name in other_fields]
            first = (module.path, node.name) < (other_module.path, other.name) or other not in settings
            most = len(shared) >= 2 and 2 * len(shared) > max(len(fields), len(other_fields))
            if other is not node and first and shared and (other.name in bases or most):
                twice[f"{module.path}:{node.name}"].update(shared)
    return {name: sorted(fields) for name, fields in twice.items()}


def _fields(node: ast.ClassDef) -> dict[str, ast.expr]:
    """A class's annotated fields and their annotations, without tags (`Literal`)."""
    annotated = (item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name))
    fields = {item.target.id: item.annotation for item in annotated if isinstance(item.target, ast.Name)}
    return {name: annotation for name, annotation in fields.items() if not _is_tag(annotation)}


def _is_tag(annotation: ast.expr) -> bool:
    generic = annotation.value if isinstance(annotation, ast.Subscript) else None
    return isinstance(generic, ast.Name) and generic.id == "Literal"


def _reachable(start: str, by_name: Mapping[str, list[ast.ClassDef]]) -> set[ast.ClassDef]:
    found: set[ast.ClassDef] = set()
    pending = list(by_name.get(start, ()))
    while pending:
        node = pending.pop()
        if node in found:
            continue
        found.add(node)
        names = set(re.findall(r"\w+", " ".join(map(ast.unparse, _fields(node).values()))))
        pending += [other for name in names for other in by_name.get(name, ())]
    return found


def drivers_of(modules: Iterable[Module]) -> dict[str, list[str]]:
    """For each task the functions and classes that drive it, by the calls in `TASKS`."""
    found: dict[str, list[str]] = {task: [] for task in TASKS}
    named = {call.rpartition(".")[2] for calls, _ in TASKS.values() for call in calls}
    for module in modules:
        if module.is_benchmark or module.path.startswith(("deployments/engines/", "deployments/audio/")):
            continue
        if not any(name in module.text for name in named):
            continue
        aliases = _aliases(module)
        for scope in (node for node in module.tree.body if isinstance(node, Scope)):
            called = {known for name in _called(scope) for known in aliases.get(name, {name})}
            for task, (calls, helpers) in TASKS.items():
                if called & calls and scope.name not in helpers:
                    found[task].append(f"{module.path}:{scope.name}")
    return found


def _called(scope: Scope) -> set[str]:
    return {node.func.id for node in ast.walk(scope) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}


def _aliases(module: Module) -> dict[str, set[str]]:
    """A local name to the names under which its definition is known: the dotted one and the last part."""
    return {
        alias.asname or alias.name: {f"{node.module}.{alias.name}", alias.name}
        for node in module.statements
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


# The table


def figures_of(root: Path) -> dict[str, str]:
    """Every measured figure of a checkout by its name."""
    modules = modules_of(root)
    product = [module for module in modules if not module.is_benchmark]
    every, of_product = import_graph(modules), import_graph(product)
    started = import_graph(product, at_import_time_only=True)
    lengths = sorted(function.lines for function in functions_of(product))
    files = Counter(module.path.rpartition("/")[0] for module in modules if not module.path.endswith("__init__.py"))
    twice = settings_defined_twice(modules)
    figures = {
        "levels of imports in serve_app, all imports": len(longest_chain(of_product, "serve_app")),
        "levels of imports in serve_app, at import time": len(longest_chain(started, "serve_app")),
        "levels of imports in serve_app with benchmarks": len(longest_chain(every, "serve_app")),
        "levels of imports in deployments": len(longest_chain(every, "deployments")),
        "import cycles, all imports": len(cycles_of(every)),
        "import cycles, at import time": len(cycles_of(started)),
        "product lines": sum(module.lines for module in modules),
        "product lines without benchmarks": sum(module.lines for module in product),
        "product lines without benchmarks and blank lines": sum(map(_written_lines, product)),
        "longest file, lines": max(module.lines for module in product),
        "functions, lines: median / p95 / longest": _spread(lengths),
        "class names with two meanings": len(ambiguous_classes(modules)),
        "settings classes / fields defined twice": f"{len(twice)} / {sum(map(len, twice.values()))}",
        **{f"drivers of {task}": len(found) for task, found in drivers_of(modules).items()},
        "generators that a chunk of speech passes": generators_on_the_way(root),
        **{f"files in {folder}": count for folder, count in sorted(files.items())},
    }
    return {name: str(value) for name, value in figures.items()}


def generators_on_the_way(root: Path) -> int | str:
    """How many generators hand on a chunk of speech, counted by the test of this checkout."""
    if root.resolve() != HERE:
        return COUNTED_BY_HAND["generators that a chunk of speech passes"]
    try:
        way = importlib.import_module("tests.unit.test_chunk_way")
    except ImportError:
        return "not counted"
    return len(way.generators_on_the_way())


def _written_lines(module: Module) -> int:
    return sum(bool(line.strip()) for line in module.text.splitlines())


def _spread(lengths: list[int]) -> str:
    return f"{median(lengths):g} / {lengths[int(0.95 * len(lengths))]} / {lengths[-1]}"


def table(columns: Mapping[str, Mapping[str, str]]) -> str:
    """A Markdown table with a column for each checkout; `-` where one has no such figure."""
    names = list(dict.fromkeys(name for column in columns.values() for name in column))
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    rows += [[name, *(column.get(name, "-") for column in columns.values())] for name in names]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Prints the table, and with `--list` what the counts consist of."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=HERE, help="the checkout to measure")
    parser.add_argument("--before", type=Path, help="a checkout to compare with")
    parser.add_argument("--list", action="store_true", help="name what is counted, of --root")
    given = parser.parse_args()
    columns = {"before": figures_of(given.before)} if given.before else {}
    print(table({**columns, "now": figures_of(given.root)}))
    if given.list:
        modules = modules_of(given.root)
        graph = import_graph(modules)
        print("\nlongest chain:", " -> ".join(longest_chain(graph, "serve_app")))
        print("\ncycles:", *cycles_of(graph), sep="\n  ")
        print("\ntwo meanings:", *ambiguous_classes(modules).items(), sep="\n  ")
        print("\nsettings defined twice:", *settings_defined_twice(modules).items(), sep="\n  ")
        print("\ndrivers:", *drivers_of(modules).items(), sep="\n  ")
        longest = sorted(functions_of(modules), key=lambda function: -function.lines)[:10]
        print("\nlongest functions:", *longest, sep="\n  ")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
