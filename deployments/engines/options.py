"""Engine options: frozen dataclasses with a bound and a meaning for each field.

Pydantic validates the values of a configuration. The dataclasses themselves need no package, so that engines also run where
only torch is installed.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, get_type_hints

from deployments.errors import fail

if TYPE_CHECKING:
    from pydantic import ValidationError


@dataclass(frozen=True, slots=True)
class Bounds:
    """The range of a number, or with `items` the minimum length of a tuple: `Annotated[int, Bounds(least=1)]`.

    It implements the grouped metadata of `annotated_types`, which pydantic unpacks; that package is imported only then.
    """

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    items: int | None = None

    __is_annotated_types_grouped_metadata__: ClassVar[Literal[True]] = True

    def __iter__(self) -> Iterator[Any]:
        """The constraints that are set."""
        import annotated_types as at

        kinds = {"least": at.Ge, "most": at.Le, "above": at.Gt, "below": at.Lt, "items": at.MinLen}
        for name, kind in kinds.items():
            if (bound := getattr(self, name)) is not None:
                yield kind(bound)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Base of the options of an engine. A field is `name: Annotated[type, Bounds(...), "what it means"] = default`."""

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}


OptionsT = TypeVar("OptionsT", bound=EngineOptions)


def checked(kind: type[OptionsT], values: Mapping[str, Any], model: str) -> OptionsT:
    """The options of a model, with defaults for what `values` leaves out.

    Raises `MotetError` (invalid) with every error and the nearest valid name. Without pydantic the values are not validated,
    and an unknown name raises `TypeError`.
    """
    if importlib.util.find_spec("pydantic") is None:
        return kind(**values)
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        cause = f"The options of model {model!r} are not valid: {'; '.join(_in_words(error, kind))}."
        raise fail("invalid", cause, "Correct them where the model is configured.", param="options") from error


def _in_words(error: ValidationError, kind: type[EngineOptions]) -> list[str]:
    faults = error.errors(include_url=False)
    lines = []
    for fault in faults:
        place = ".".join(map(str, fault["loc"]))
        if fault["type"] == "unexpected_keyword_argument":
            lines.append(f"{place}: unknown key{_nearest(fault['loc'], kind)}")
        elif not any(_inside(other["loc"], fault["loc"]) for other in faults):
            lines.append(": ".join(filter(None, [place, fault["msg"].removeprefix("Value error, ")])))
    return lines


def _inside(inner: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    """Pydantic reports a tuple as "too short" if one of its items is invalid; the error of the item says more."""
    return len(inner) > len(outer) > 0 and inner[: len(outer)] == outer


def _nearest(place: tuple[int | str, ...], kind: type[Any]) -> str:
    for part in place[:-1]:
        kind = get_type_hints(kind)[str(part)]
    valid = [field.name for field in fields(kind)]
    near = get_close_matches(str(place[-1]), valid, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; valid keys: {', '.join(sorted(valid))}"
