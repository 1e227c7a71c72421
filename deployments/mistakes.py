"""What a person reads of a value that pydantic refuses: each mistake with its place, and the nearest valid name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError

Tagged = Mapping[str, type[BaseModel]]
"""The models of a union, by the tag that stands for one in the place of a mistake."""


def in_words(error: ValidationError, schema: type[BaseModel], tagged: Tagged) -> list[str]:
    """A validation error as lines a person can act on."""
    lines = []
    faults = error.errors(include_url=False)
    for fault in faults:
        if any(other["loc"][: len(fault["loc"])] == fault["loc"] and other is not fault for other in faults):
            continue  # a list is "too short" because of a mistake inside it
        place = ".".join(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            there = _schema_at(schema, fault["loc"][:-1], tagged)
            lines.append(f"{place}: unknown key{nearest(str(fault['loc'][-1]), there)}")
        else:
            lines.append(f"{place}: {fault['msg'].removeprefix('Value error, ')}")
    return lines


def nearest(key: str, schema: type[BaseModel]) -> str:
    """The valid key that was meant, or all of them, as the end of a sentence."""
    valid = list(schema.model_fields)
    near = get_close_matches(str(key), valid, n=1)
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
