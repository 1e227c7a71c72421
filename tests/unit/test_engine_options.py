"""Options of engines: accepted values, and messages for wrong ones."""

from __future__ import annotations

import builtins
import importlib.util
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from deployments.engines.options import Bounds, EngineOptions, checked
from deployments.errors import MotetError


@dataclass(frozen=True, kw_only=True)
class Limits(EngineOptions):
    silent_below: Annotated[float, Bounds(above=0, below=1), "A smaller sample is silent."] = 0.1


@dataclass(frozen=True, kw_only=True)
class TinyOptions(EngineOptions):
    slots: Annotated[int, Bounds(least=1, most=8), "Streams at once."] = 4
    language: Literal["", "en"] = ""
    sizes: Annotated[tuple[Annotated[int, Bounds(least=1)], ...], Bounds(items=1)] = (1,)
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.slots == 7:
            raise ValueError("slots: seven is unlucky")


def test_lists_and_nested_tables_of_a_configuration_become_values() -> None:
    options = checked(TinyOptions, {"slots": 2, "sizes": [3, 4], "limits": {"silent_below": 0.5}}, "tiny")
    assert options == TinyOptions(slots=2, sizes=(3, 4), limits=Limits(silent_below=0.5))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"slots": 0}, "slots: .* greater than or equal to 1"),
        ({"slots": 9}, "slots: .* less than or equal to 8"),
        ({"language": "xx"}, "language: "),
        ({"sizes": []}, "sizes: .* at least 1 item"),
        ({"sizes": [0]}, r"not valid: sizes\.0: .* greater than or equal to 1\. "),
        ({"limits": {"silent_below": 0}}, r"limits\.silent_below: .* greater than 0"),
        ({"limits": {"silent_below": 1}}, r"limits\.silent_below: .* less than 1"),
        ({"slotz": 1}, "slotz: unknown key; did you mean 'slots'?"),
        ({"x": 1}, "x: unknown key; valid keys: language, limits, sizes, slots"),
        ({"limits": {"silent": 1}}, "limits.silent: unknown key; did you mean 'silent_below'?"),
        ({"slots": 7}, "not valid: slots: seven is unlucky"),
        ({"slots": "many", "language": 3}, "slots: .*; language: "),
    ],
)
def test_every_fault_is_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(MotetError, match=words) as raised:
        checked(TinyOptions, values, "tiny")
    assert raised.value.failure.param == "options"


def test_without_pydantic_values_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    found, imported = importlib.util.find_spec, builtins.__import__

    def refuse(name: str, *arguments: Any, **named: Any) -> Any:
        assert name.partition(".")[0] not in ("pydantic", "annotated_types")
        return imported(name, *arguments, **named)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pydantic" else found(name))
    monkeypatch.setattr(builtins, "__import__", refuse)
    assert checked(TinyOptions, {"slots": 3}, "tiny") == TinyOptions(slots=3)
    with pytest.raises(TypeError, match="slotz"):
        checked(TinyOptions, {"slotz": 3}, "tiny")
