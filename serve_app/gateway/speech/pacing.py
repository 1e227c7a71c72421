"""How urgent a stream is: an estimate of what its listener hears, from the first byte that was sent.

All of it is arithmetic on a clock that is passed in (`now_s`). Other seconds are of audio.
"""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.gateway.settings import PacingSettings

FASTER, SLOWER = 1.2, 0.8
LEAST_FACTOR, MOST_FACTOR = 0.5, 2.0


@dataclass(slots=True)
class ListenerClock:
    """A model of the listener's player: it starts with the first sound, and stalls when its buffer is empty."""

    started_s: float | None = None
    sent_seconds: float = 0.0
    stalled_seconds: float = 0.0
    underruns: int = 0
    idle: bool = False
    """Whether the player ran dry because the text paused. Until the next sound it is as before the first one."""

    @property
    def playing(self) -> bool:
        """Whether the listener expects sound without a gap."""
        return self.started_s is not None and not self.idle

    def end_pause(self, now_s: float) -> None:
        """The text paused until now: a player that is dry is idle."""
        self.idle = self.idle or (self.started_s is not None and self.buffered_seconds(now_s) <= 0)

    def send(self, seconds: float, now_s: float) -> None:
        """Sound leaves for the listener. A player that is dry starts again now."""
        if self.started_s is None:
            self.started_s = now_s
        elif (dry := -self.buffered_seconds(now_s)) > 0:
            self.stalled_seconds += dry
            self.underruns += not self.idle
        self.idle = False
        self.sent_seconds += seconds

    def buffered_seconds(self, now_s: float) -> float:
        """Seconds of sound that the player still has. Negative for how long it has been dry; 0 before the first sound."""
        if self.started_s is None:
            return 0.0
        return self.sent_seconds + self.stalled_seconds - (now_s - self.started_s)


class Pacer:
    """One stream's look-ahead, and how it changes with the level of the buffer."""

    def __init__(self, settings: PacingSettings) -> None:
        self._settings = settings
        self.listener = ListenerClock()
        self.factor = 1.0

    @property
    def look_ahead_seconds(self) -> float:
        """How far ahead of its playback the stream may be made."""
        return self._settings.look_ahead_ms / 1000 * self.factor

    def buffered_seconds(self, held_seconds: float, now_s: float) -> float:
        """Seconds of sound that the listener has not played yet, with those held here; only these before the first sound."""
        return (self.listener.buffered_seconds(now_s) if self.listener.playing else 0.0) + held_seconds

    def adapt(self, held_seconds: float) -> None:
        """Changes the look-ahead by one step: up when the buffer is below its low mark, down above its high mark."""
        share = held_seconds * 1000 / self._settings.capacity_ms
        if share < self._settings.low_mark:
            self.factor = min(MOST_FACTOR, self.factor * FASTER)
        elif share > self._settings.high_mark:
            self.factor = max(LEAST_FACTOR, self.factor * SLOWER)
