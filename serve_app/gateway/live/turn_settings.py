"""Who decides when a user's turn is over, with OpenAI's fields, bounds and defaults: `session.audio.input.turn_detection`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from deployments.settings import StrictModel

Eagerness = Literal["low", "medium", "high", "auto"]

LONGEST_PAUSE_MS: Mapping[Eagerness, int] = {"low": 8000, "medium": 4000, "auto": 4000, "high": 2000}
"""Silence that ends a turn which sounds unfinished."""
MAX_PREFIX_MS = 5000
MAX_SILENCE_MS = 30_000


class ServerVad(StrictModel):
    """A turn is over after a silence."""

    type: Literal["server_vad"] = "server_vad"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """The probability of speech at which speech begins."""
    prefix_padding_ms: Annotated[int, Field(ge=0, le=MAX_PREFIX_MS)] = 300
    """Sound before the speech that belongs to the turn."""
    silence_duration_ms: Annotated[int, Field(ge=0, le=MAX_SILENCE_MS)] = 500
    """Silence after which the turn is over."""
    idle_timeout_ms: Annotated[int, Field(ge=5000, le=30_000)] | None = None
    """Silence after a response at which the model responds once more. null: it waits."""
    create_response: bool = True
    """Whether the model responds at the end of a turn."""
    interrupt_response: bool = True
    """Whether the start of a turn cancels a response."""


class SemanticVad(StrictModel):
    """A turn is over when it sounds finished, or after a long silence."""

    type: Literal["semantic_vad"] = "semantic_vad"
    eagerness: Eagerness = "auto"
    """How long a turn that sounds unfinished waits for more: 8 s (low), 4 s (medium, auto) or 2 s (high)."""
    create_response: bool = True
    """Whether the model responds at the end of a turn."""
    interrupt_response: bool = True
    """Whether the start of a turn cancels a response."""


TurnSettings = Annotated[ServerVad | SemanticVad, Field(discriminator="type")]
"""`type` chooses, and has no default here."""
