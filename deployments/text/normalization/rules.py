"""Which parts of a written text are rewritten before a model reads it."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import AfterValidator, StrictBool, model_validator

from deployments.errors import fail
from deployments.settings import StrictModel


class ReadingRules(StrictModel):
    """How written texts are read aloud. `true` or `false` in its place turns all rules on or off. A rule that is off leaves
    its kind of text to the model."""

    markdown: bool = True
    """Read headings, emphasis, lists, tables, links and code as text, without their signs."""
    lines: bool = True
    """Read lines that end without punctuation as separate phrases."""
    emoji: bool = True
    """Read emoji by their names; leave them out in languages without names for them."""
    addresses: bool = True
    """Read URLs, e-mail addresses, file names, versions, handles and hashtags as a person says them."""
    phones: bool = True
    """Read telephone numbers digit by digit."""
    dates: bool = True
    """Read dates, times of day and decades."""
    money: bool = True
    """Read amounts of money."""
    units: bool = True
    """Read units, percentages and degrees."""
    roman: bool = True
    """Read Roman numerals after words such as "Chapter" and after the names of rulers."""
    numbers: bool = True
    """Read numbers, ordinals, fractions and ranges as words."""
    signs: bool = True
    """Read signs of mathematics and other signs between words."""
    abbreviations: bool = True
    """Read abbreviations such as "Dr." and "approx."."""
    capitals: bool = True
    """Read words in capitals as words, not letter by letter."""

    @model_validator(mode="before")
    @classmethod
    def _all_or_nothing(cls, rules: Any) -> Any:
        return dict.fromkeys(cls.model_fields, rules) if isinstance(rules, bool) else rules

    def changed(self, wanted: bool | Mapping[str, bool] | None) -> ReadingRules:
        """These rules as a request wants them (`RuleChanges`)."""
        if wanted is None:
            return self
        return ReadingRules.model_validate(wanted if isinstance(wanted, bool) else {**self.model_dump(), **wanted})


AS_WRITTEN = ReadingRules.model_validate(False)
"""No rules: a text is spoken as it is written."""


def _known(changes: bool | dict[str, bool]) -> bool | dict[str, bool]:
    for name in () if isinstance(changes, bool) else changes:
        if name not in ReadingRules.model_fields:
            near = get_close_matches(name, ReadingRules.model_fields, n=1)
            hint = f"the nearest is {near[0]!r}" if near else f"rules: {', '.join(ReadingRules.model_fields)}"
            raise ValueError(f"{name!r} is not a rule; {hint}")
    return changes


RuleChanges = Annotated[StrictBool | dict[str, StrictBool], AfterValidator(_known)]
"""What a request may change: all rules on or off, or some of them by name."""


def parsed_changes(text: str) -> bool | dict[str, bool]:
    """The changes that a command names: `on`, `off`, or `emoji=off,money=off`. Raises `MotetError` (invalid)."""
    words = {"on": True, "off": False}
    if text in words:
        return words[text]
    pairs = [part.strip().partition("=") for part in text.split(",")]
    try:
        return _known({name: words[value] for name, _, value in pairs}) or {}
    except (KeyError, ValueError) as error:
        cause = str(error) if isinstance(error, ValueError) else f"{text!r} names no rule and whether it is on or off"
        raise fail(
            "invalid", f"{cause}.", "Write on, off, or such as emoji=off,money=off.", param="normalize"
        ) from None
