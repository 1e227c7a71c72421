"""What the parts below the service are told: strict, frozen values with units in their names.

There are no defaults here. Each model is given its defaults once, in `serve_app/config.py`.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class StrictModel(BaseModel):
    """Refuses unknown keys and changes after construction."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class StepSettings(StrictModel):
    """How calls of one engine are gathered into batches.

    `max_padding_share` is how much of a padded batch may be padding. A listener whose sound lasts less than
    `urgent_below_ms` is urgent; one whose sound lasts more than `ahead_above_ms` lets urgent ones go first. While more than
    `backlog_cost` waits, an item of at most `short_cost` goes alone and first. Costs are the engine's own measure of a step.
    An engine that records its step takes time for sizes not recorded yet when it has been idle for `record_after_idle_s`.
    """

    max_batch_size: int
    batch_wait_ms: float
    max_padding_share: float
    urgent_below_ms: float
    ahead_above_ms: float
    backlog_cost: float
    short_cost: float
    record_after_idle_s: float
    gate: bool


BAD_CHECKS = 3
"""So many in a row, and Ray Serve 2.60 replaces a replica: `ray.serve._private.constants`, where it cannot be set."""


class HealthSettings(StrictModel):
    """How often Ray Serve asks a replica whether it is well, and how long that may take to answer. After three bad or
    missing answers in a row the replica is ended, with whatever it still does, and another one is started."""

    period_s: float
    timeout_s: float

    @property
    def noticed_within_s(self) -> float:
        """How long it takes at most until a replica that stands still is ended. Ray Serve varies its period by a tenth, and
        looks which checks are due every half period."""
        longest_period_s = 1.6 * self.period_s
        return longest_period_s + (BAD_CHECKS - 1) * max(self.timeout_s, longest_period_s) + self.timeout_s


class PacingSettings(StrictModel):
    """The buffer between an engine and a socket, and what is done when sound comes late.

    Marks are shares of the capacity. `chunk_budget_ms` is how late a chunk may be before it is concealed;
    `fallback_after_ms` how late before another model takes over.
    """

    capacity_ms: float
    low_mark: float
    high_mark: float
    look_ahead_ms: float
    frame_ms: float
    chunk_budget_ms: float
    fallback_after_ms: float


class PieceSettings(StrictModel):
    """How long text is cut into speakable pieces."""

    first_piece_characters: int
    piece_characters: int


class ArrivalSettings(StrictModel):
    """How a text that arrives while it is spoken is waited for.

    It has at most `max_characters`. When none came for `pause_s`, what is there is spoken; when there was nothing to say for
    `idle_s`, its writer is taken to be gone.
    """

    max_characters: int
    pause_s: float
    idle_s: float


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
