"""YAML in which every entry counts: YAML's own loader keeps the last of two entries with the same name, without a word."""

from __future__ import annotations

from typing import Any

import yaml


class DuplicateEntryError(yaml.MarkedYAMLError):
    """A mapping has the same name twice. `problem_mark` is where the second one begins."""


class _StrictLoader(yaml.SafeLoader):
    """Plain data only, and each name of a mapping once."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """The mapping. Raises `DuplicateEntryError`."""
        node = super().compose_mapping_node(anchor)
        first: dict[tuple[str, str], yaml.Mark] = {}
        for name in (name for name, _ in node.value if isinstance(name, yaml.ScalarNode)):
            before = first.setdefault((name.tag, name.value), name.start_mark)
            if before is not name.start_mark:
                line, earlier = name.start_mark.line + 1, before.line + 1
                # Without the name: somebody may have put a secret there.
                problem = f"line {line} has the name of an earlier entry, in line {earlier}"
                raise DuplicateEntryError(problem=problem, problem_mark=name.start_mark)
        return node


def strict_yaml(text: str | bytes) -> Any:
    """A document as plain data. Raises `yaml.YAMLError`, also for a mapping with two entries of the same name."""
    return yaml.load(text, _StrictLoader)  # noqa: S506 - a safe loader
