"""Validation errors of pydantic as messages for people: each error with its path, and the nearest valid name."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from deployments.errors import clipped

LONGEST_KEY = 64
"""Characters. A longer key is not a misspelling of a valid one, and comparing it would take long."""


def in_words(error: ValidationError, schema: type[BaseModel], most: int | None = None) -> list[str]:
    """A validation error as at most `most` lines, and one with the number of the others. The time is linear in the number of
    errors."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    around = {fault["loc"][:end] for fault in faults for end in range(len(fault["loc"]))}
    innermost = [
        fault for fault in faults if fault["loc"] not in around
    ]  # a list is "too short" by a mistake inside it
    lines = [_line(fault, schema) for fault in innermost[:most]]
    return lines + ([f"and {len(innermost) - len(lines):,} more"] if len(lines) < len(innermost) else [])


def _line(fault: ErrorDetails, schema: type[BaseModel]) -> str:
    *path, last = fault["loc"] or ("",)
    place = ".".join(clipped(str(part)) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f"{place}: unknown key{nearest(str(last), _schema_at(schema, tuple(path)))}"
    return f"{place}: {plain_message(fault)}"


def plain_message(fault: ErrorDetails) -> str:
    """What is wrong, without pydantic's note of which exception a validator raised."""
    return fault["msg"].removeprefix("Value error, ")


SIMILAR = 0.75
"""The similarity (of `difflib`) from which an unknown field counts as a misspelling. Lower, and fields of other servers would
count: `stream` and `stream_format` have 0.67. Higher, and short words would not: `voyce` has 0.8."""


def misspelt(key: str, valid: Iterable[str]) -> str | None:
    """The valid field that a client meant by an unknown one, if they are almost the same; else None."""
    if len(key) > LONGEST_KEY:
        return None
    plain = {_letters(name): name for name in valid}
    near = get_close_matches(_letters(key), plain, n=1, cutoff=SIMILAR)
    return plain[near[0]] if near else None


def _letters(name: str) -> str:
    """`responseFormat`, `response-format` and `response_format` differ in nothing that matters."""
    return name.lower().replace("_", "").replace("-", "")


def nearest(key: str, schema: type[BaseModel]) -> str:
    """The nearest valid key, or all of them, as the end of a sentence."""
    valid = list(schema.model_fields)
    near = get_close_matches(key, valid, n=1) if len(key := str(key)) <= LONGEST_KEY else []
    return f"; did you mean {near[0]!r}?" if near else f"; valid keys: {', '.join(sorted(valid))}"


def _schema_at(schema: type[BaseModel], path: tuple[int | str, ...]) -> type[BaseModel]:
    """The model that holds the field at `path`. Names of mappings and list positions are skipped; the tag of a union, which
    stands after its field, chooses one of its models."""
    models: tuple[type[BaseModel], ...] = ()
    for part in path:
        if field := schema.model_fields.get(str(part)):
            models = models_inside(field.annotation)
            schema = models[0] if models else schema
        else:
            schema = next((model for model in models if _has_tag(model, part)), schema)
    return schema


def _has_tag(model: type[BaseModel], tag: int | str) -> bool:
    return any(field.default == tag for field in model.model_fields.values())


def model_inside(annotation: Any) -> type[BaseModel] | None:
    """The first pydantic model in a type such as `tuple[Placement, ...]` or `Mapping[str, Model]`."""
    return next(iter(models_inside(annotation)), None)


def models_inside(annotation: Any) -> tuple[type[BaseModel], ...]:
    """All pydantic models in a type, such as those of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(model for argument in getattr(annotation, "__args__", ()) for model in models_inside(argument))
