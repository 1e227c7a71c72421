"""Mixtures of voices: `a(2)+b(1)` is two parts of `a` and one part of `b`; `a+b` is equal parts."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from deployments.errors import MotetError, fail, quoted

MOST_PARTS = 8
_NUMBER = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True)
class VoiceMix:
    """Voices and their shares, which sum to 1."""

    shares: tuple[tuple[str, float], ...]

    def __str__(self) -> str:
        """A single voice is its name."""
        if len(self.shares) == 1:
            return self.shares[0][0]
        return "+".join(f"{name}({share:.4f})" for name, share in self.shares)


def parse(text: str, resolve: Callable[[str], str] = str) -> VoiceMix:
    """Parses a voice or a mixture. `resolve` maps a voice to its own name; parts with equal names are added.

    Raises `MotetError` (invalid), or what `resolve` raises.
    """
    parts = text.split("+")
    if len(parts) > MOST_PARTS:
        raise fail(
            "invalid",
            f"The mixture has {len(parts)} voices; it may have {MOST_PARTS}.",
            "Use fewer voices.",
            param="voice",
        )
    weights: dict[str, float] = {}
    for name, weight in map(_share, parts):
        if not name:
            raise _unreadable(text)
        own = resolve(name)
        weights[own] = weights.get(own, 0.0) + weight
    total = sum(weights.values())
    if total == 0:
        raise _unreadable(text)
    return VoiceMix(tuple((name, weight / total) for name, weight in sorted(weights.items()) if weight))


def _share(part: str) -> tuple[str, float]:
    """The voice and its weight, 1 by default; "" for an invalid part."""
    name, opens, rest = (piece.strip() for piece in part.partition("("))
    if ")" in name or not opens:
        return ("" if ")" in name else name), 1.0
    number = rest.removesuffix(")").strip()
    return (name, float(number)) if rest.endswith(")") and _NUMBER.fullmatch(number) else ("", 0.0)


def _unreadable(text: str) -> MotetError:
    return fail(
        "invalid",
        f"{quoted(text)} is not a voice or a mixture of voices.",
        "Write a mixture like first(2)+second(1).",
        param="voice",
    )
