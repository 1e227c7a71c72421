"""What a person reads of a value that pydantic refuses: each mistake with its place, and the nearest valid name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from deployments.errors import clipped

LONGEST_KEY = 64
"""Characters. A longer key is no misspelling of a valid one, and comparing it would take long."""

Tagged = Mapping[str, type[BaseModel]]
"""The models of a union, by the tag that stands for one in the place of a mistake."""


def in_words(error: ValidationError, schema: type[BaseModel], tagged: Tagged, most: int | None = None) -> list[str]:
    """A validation error as lines a person can act on: at most `most` and one that counts the rest. The work is linear in
    the number of mistakes."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    around = {fault["loc"][:end] for fault in faults for end in range(len(fault["loc"]))}
    innermost = [
        fault for fault in faults if fault["loc"] not in around
    ]  # a list is "too short" by a mistake inside it
    lines = [_line(fault, schema, tagged) for fault in innermost[:most]]
    return lines + ([f"and {len(innermost) - len(lines):,} more"] if len(lines) < len(innermost) else [])


def _line(fault: ErrorDetails, schema: type[BaseModel], tagged: Tagged) -> str:
    *path, last = fault["loc"] or ("",)
    place = ".".join(clipped(str(part)) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{place}: unknown key{nearest(str(last), _schema_at(schema, tuple(path), tagged))}"
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}"


def nearest(key: str, schema: type[BaseModel]) -> str:
    """The valid key that was meant, or all of them, as the end of a sentence."""
    valid = list(schema.model_fields)
    near = get_close_matches(key, valid, n=1) if len(key := str(key)) <= LONGEST_KEY else []
    return f"; did you mean {near[0]!r}?" if near else f"; valid keys: {', '.join(sorted(valid))}"


def _schema_at(schema: type[BaseModel], path: tuple[int | str, ...], tagged: Tagged) -> type[BaseModel]:
    """The model that holds the field at `path`; names of mappings, list positions and union tags are stepped over."""
    for part in path:
        field = schema.model_fields.get(str(part))
        inner = model_inside(field.annotation) if field is not None else None
        if inner is not None:
            schema = inner
        elif part in tagged:
            schema = tagged[str(part)]
    return schema


def model_inside(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model in a type such as `tuple[Placement, ...]` or `Mapping[str, Model]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = (model_inside(argument) for argument in getattr(annotation, "__args__", ()))
    return next((model for model in inner if model is not None), None)
