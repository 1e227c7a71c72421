"""The names and shapes of the tensors of published models, for random weights without a package or a download.

The files of `shapes/` are written by `python -m tests.unit.test_bench_shapes`, from the models' own packages. Layers that are
alike stand once: `layers.[28].weight` is `layers.0.weight` to `layers.27.weight`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

Shapes = dict[str, tuple[int, ...]]
FOLDER = Path(__file__).parent / "shapes"
_REPEATED = re.compile(r"\[(\d+)\]")


def read(name: str) -> dict[str, Shapes]:
    """The shapes of `shapes/<name>.json`: tensors by name, for each file or part of a model."""
    content: dict[str, Mapping[str, list[int]]] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return {part: expand(shapes) for part, shapes in content.items()}


def expand(shapes: Mapping[str, list[int]]) -> Shapes:
    """Every tensor by its own name."""
    expanded: Shapes = {}
    for name, shape in shapes.items():
        repeated = _REPEATED.search(name)
        numbers = range(int(repeated[1])) if repeated else [0]
        expanded |= {_REPEATED.sub(str(number), name): tuple(shape) for number in numbers}
    return expanded


def collapse(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, list[int]]:
    """The inverse of `expand`: tensors that differ in one number of their name only, counted from 0, become one entry."""
    left, collapsed = dict(shapes), dict[str, list[int]]()
    for name in shapes:
        if name in left:
            pattern, names = _alike(name, left)
            collapsed[pattern] = list(shapes[name])
            for other in names:
                del left[other]
    return collapsed


def in_text(parts: Mapping[str, Mapping[str, tuple[int, ...]]]) -> str:
    """The content of such a file, a tensor a line."""
    sections = []
    for part, shapes in parts.items():
        lines = ",\n".join(f"  {json.dumps(name)}: {shape}" for name, shape in collapse(shapes).items())
        sections.append(f"{json.dumps(part)}: {{\n{lines}\n}}")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def _alike(name: str, shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, list[str]]:
    """The longest run of tensors like `name`, which has the number 0 in the place that counts."""
    parts = name.split(".")
    best = (name, [name])
    for place, part in enumerate(parts):
        if part != "0":
            continue
        names: list[str] = []
        while (other := ".".join([*parts[:place], str(len(names)), *parts[place + 1 :]])) in shapes:
            if shapes[other] != shapes[name]:
                break
            names.append(other)
        if len(names) > len(best[1]):
            best = (".".join([*parts[:place], f"[{len(names)}]", *parts[place + 1 :]]), names)
    return best
