"""Adds and removes models in a `serve_config.yaml`, as text: every other line, and every comment, stays as it is."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from deployments.errors import MotetError, fail
from serve_app import config_file

INDENT = 2
NEW_FILE = """\
http_options:
  host: 127.0.0.1
  port: 8000

applications:
  - name: motet
    route_prefix: /
    import_path: serve_app.app:build
    args:
"""
"""A configuration to which models are added where there is none."""


def add_model(file: Path, name: str, model: Mapping[str, Any]) -> None:
    """Writes a model into a configuration, which is made if it is not there. It changes as a whole, once it was checked.

    Raises `MotetError`: conflict if it has a model of that name, invalid if it is written in a way that cannot be extended.
    """
    text = file.read_text() if file.exists() else NEW_FILE
    lines = text.splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines[-1] += "\n"
    arguments = _arguments(text, file)
    models = arguments.value("models")
    if models is None:
        column = arguments.column
        block = _block("models", {name: model}, column)
        at = arguments.end(lines)
    else:
        if name in models.names:
            raise fail(
                "conflict", f"{file} has a model {name!r} already.", "Name this one with --as NAME.", param="name"
            )
        block, at = _block(name, model, models.column), models.end(lines)
    _replace(file, "".join([*lines[:at], *block, *lines[at:]]))


def remove_model(file: Path, name: str) -> bool:
    """Removes a model from a configuration, with the comments inside it. False if the file does not have it.

    The key `models` goes with its last entry. Raises `MotetError` (invalid) if the rest is not a valid configuration.
    """
    text = file.read_text()
    lines = text.splitlines(keepends=True)
    arguments = _arguments(text, file)
    models = arguments.value("models")
    if models is None or name not in models.names:
        return False
    holder, key = (arguments, "models") if len(models.names) == 1 else (models, name)
    first, last = holder.lines_of(key, lines)
    _replace(file, "".join([*lines[:first], *lines[last:]]))
    return True


class _Block:
    """A block mapping of the file, by the marks of its nodes. Lines count from 0."""

    def __init__(self, node: yaml.MappingNode | None, column: int, empty_after: int) -> None:
        self._pairs = [] if node is None else node.value
        self.column = node.value[0][0].start_mark.column if node is not None and node.value else column
        self._empty_after = empty_after

    @property
    def names(self) -> list[str]:
        """The keys."""
        return [key.value for key, _ in self._pairs]

    def value(self, name: str) -> _Block | None:
        """The mapping of a key; None if it is absent."""
        for key, value in self._pairs:
            if key.value == name:
                return _block_of(value, key.start_mark.column + INDENT, key.start_mark.line + 1, name)
        return None

    def end(self, lines: Sequence[str]) -> int:
        """The line before which another entry goes: after the last one and its comments."""
        return self.lines_of(self.names[-1], lines)[1] if self._pairs else self._empty_after

    def lines_of(self, name: str, lines: Sequence[str]) -> tuple[int, int]:
        """The first line of an entry, and the line after its last one. Comments that are indented deeper belong to it."""
        key, value = next(pair for pair in self._pairs if pair[0].value == name)
        after = max(_last_line(value), key.start_mark.line) + 1
        while after < len(lines) and _comment_column(lines[after]) > self.column:
            after += 1
        return key.start_mark.line, after


def _comment_column(line: str) -> int:
    """How far a comment is indented; -1 for another line."""
    text = line.lstrip(" ")
    return len(line) - len(text) if text.startswith("#") else -1


def _last_line(node: yaml.Node) -> int:
    """The last line with a value of a node. A block's own end mark lies after the comments that follow it."""
    if isinstance(node, yaml.MappingNode | yaml.SequenceNode) and node.value and not node.flow_style:
        last = node.value[-1]
        return _last_line(last[1] if isinstance(last, tuple) else last)
    end = node.end_mark
    return int(end.line - 1 if end.column == 0 and end.line > node.start_mark.line else end.line)


def _block_of(node: yaml.Node, column: int, empty_after: int, name: str) -> _Block:
    if isinstance(node, yaml.MappingNode) and not (node.flow_style and node.value):
        if node.flow_style:
            raise _unwritable(name, "{}")
        return _Block(node, column, empty_after)
    if isinstance(node, yaml.ScalarNode) and node.value in ("", "null", "~"):
        return _Block(None, column, empty_after)
    raise _unwritable(name, "in one line")


def _unwritable(name: str, how: str) -> MotetError:
    cause = f"The key {name} of the configuration is written {how}, so that no lines can be added to it."
    return fail("invalid", cause, "Write it as a block, with each entry on lines of its own.", code="flow_style")


def _arguments(text: str, file: Path) -> _Block:
    """The `args` of the application. Raises `MotetError` (invalid)."""
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise fail("invalid", f"{file} cannot be read: {error}", "Check the file.") from error
    found = _in(_first(_in(root, "applications")), "args")
    if found is None:
        cause = f"{file} has no application with the key args."
        raise fail("invalid", cause, "Start from the serve_config.yaml that Motet comes with.")
    key, value = found
    return _block_of(value, key.start_mark.column + INDENT, key.start_mark.line + 1, "args")


def _in(node: Any, name: str) -> Any:
    """The pair of a key in a mapping; for `applications` its sequence."""
    node = node[1] if isinstance(node, tuple) else node
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((pair for pair in node.value if pair[0].value == name), None)


def _first(pair: Any) -> Any:
    if pair is None or not isinstance(pair[1], yaml.SequenceNode) or not pair[1].value:
        return None
    return pair[1].value[0]


def _block(name: str, value: Mapping[str, Any], column: int) -> list[str]:
    """An entry as lines, at a depth of the file."""
    text = yaml.safe_dump({name: value}, sort_keys=False, allow_unicode=True, width=1000)
    return [f"{' ' * column}{line}" for line in text.splitlines(keepends=True)]


def _replace(file: Path, text: str) -> None:
    """Puts a new text in the place of a file, once it was checked as a configuration."""
    target = file.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=target.parent, prefix=f".{target.name}.", delete=False) as part:
        part.write(text)
    written = Path(part.name)
    try:
        config_file.read_app(written)
        written.chmod(target.stat().st_mode if target.exists() else 0o644)
        written.replace(target)
    finally:
        written.unlink(missing_ok=True)
