"""Reads a plan from YAML: a file, or one of the scenarios that come with Motet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from deployments.errors import fail
from deployments.strict_yaml import strict_yaml
from deployments.validation import in_words
from serve_app.planning.settings import PlanSettings

SCENARIOS = Path(__file__).parent / "scenarios"
MAX_BYTES = 1024 * 1024
CARDS = "cards.yaml"
MOST_MISTAKES = 20
"""Mistakes of a file that are listed."""


def scenarios() -> list[str]:
    """The names of the scenarios."""
    return sorted(file.stem for file in SCENARIOS.glob("*.yaml") if file.name != CARDS)


def summaries() -> list[str]:
    """A line for each scenario: its name, and the first comment of its file."""
    names = scenarios()
    width = max(map(len, names))
    firsts = [(SCENARIOS / f"{name}.yaml").read_text().split("\n", 1)[0].removeprefix("# ") for name in names]
    return [f"{name:<{width}}  {first}" for name, first in zip(names, firsts, strict=True)]


def read(name: str) -> PlanSettings:
    """The plan in a file, or the scenario of that name. Raises `MotetError` (invalid) that lists every mistake."""
    file = Path(name)
    if not file.exists() and name in scenarios():
        file = SCENARIOS / f"{name}.yaml"
    if not file.is_file():
        remedy = f"Name a YAML file, or a scenario: {', '.join(scenarios())}."
        raise fail("not_found", f"There is no plan {name!r}.", remedy)
    if file.stat().st_size > MAX_BYTES:
        raise fail("too_large", f"The plan {name!r} is longer than 1 MiB.", "Shorten it.")
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise fail("invalid", f"The plan {name!r} is not UTF-8 text.", "Save it as a YAML file in UTF-8.") from error
    return parsed(text, name)


def parsed(text: str, name: str) -> PlanSettings:
    """A plan from the text of a YAML file. Classes of machines may name a `card`, whose figures they then begin with."""
    try:
        document = strict_yaml(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        # YAML's own reader raises ValueError for a date such as 2026-99-99, and RecursionError for deep nesting.
        raise fail("invalid", f"The plan {name!r} is not valid YAML: {error}.", "Correct it.") from error
    try:
        return PlanSettings.model_validate(_with_cards(document))
    except ValidationError as error:
        mistakes = "; ".join(in_words(error, PlanSettings, MOST_MISTAKES))
        raise fail("invalid", f"The plan {name!r} has mistakes: {mistakes}.", "Correct these keys.") from error


def cards() -> dict[str, Any]:
    """Usual machines of clouds, none of them measured by us."""
    document: dict[str, Any] = yaml.safe_load((SCENARIOS / CARDS).read_text())
    return document


def _with_cards(document: Any) -> Any:
    machines = document.get("machines") if isinstance(document, dict) else None
    if not isinstance(machines, dict):
        return document
    known, filled = cards(), {}
    for kind, machine in machines.items():
        card = machine.get("card") if isinstance(machine, dict) else None
        if card is not None and not (isinstance(card, str) and card in known):
            raise fail("not_found", f"There is no card {card!r}.", f"Cards: {', '.join(known)}.")
        own = {key: value for key, value in machine.items() if key != "card"} if card is not None else machine
        filled[kind] = {**known[card], **own} if card is not None else own
    return {**document, "machines": filled}
