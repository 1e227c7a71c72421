"""Loudness, pauses and edges: Sopro's processing of a clip before the encoders, and of its audio before the output."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from deployments.engines.protocols import Samples

PROMPT_LEVEL_DB = -19.8
OUTPUT_LEVEL_DB = -23.0
MOST_GAIN_DB = 30.0
KNEE = 0.9
PAUSE_SECONDS = 0.10
KEPT_PAUSE_SECONDS = 0.15
CROP_REACH_SECONDS = 5.0
KEPT_FRACTION = 0.75
SHORTEST_SECONDS = 1.0
"""The shortest clip. A pause that would leave a shorter clip is not a place to cut."""
ROOM_TONE_SECONDS = 0.25
FADE_SECONDS = 0.02
ONSET_DB = -45.0
ONSET_OVER_FLOOR_DB = 15.0
ENERGY_OVER_FLOOR_DB = 10.0
ONSET_WINDOW = 6
ONSET_FRAMES = 5
ENERGY_FRAMES = 3
LEAD_SECONDS = 0.08
TRAIL_SECONDS = 0.30
HOLD_SECONDS = 2.0
FINAL_FADE_SECONDS = 0.08


def _ratio(db: float) -> float:
    return float(10.0 ** (db / 20.0))


def _frame_levels(samples: Samples, rate: int) -> NDArray[np.float32]:
    """Root mean squares of windows of 25 ms, every 10 ms."""
    frames = np.lib.stride_tricks.sliding_window_view(samples, int(rate * 0.025))[:: int(rate * 0.010)]
    levels: NDArray[np.float32] = np.maximum(np.sqrt(np.mean(frames**2, axis=1, dtype=np.float32)), 1e-6)
    return levels


def crop_on_pause(samples: Samples, seconds: float, rate: int) -> Samples:
    """The clip cut in a pause near `seconds`. Without a pause there, it is faded into noise at its own noise floor."""
    window, hop = int(rate * 0.025), int(rate * 0.010)
    if len(samples) < 4 * window:
        return samples
    levels = _frame_levels(samples, rate)
    floor = float(np.quantile(levels, 0.1))
    runs = _pauses(levels < floor * 4.0, round(PAUSE_SECONDS / 0.010))
    places = [run for run in runs if run[0] * hop >= SHORTEST_SECONDS * rate]
    target, total, reach = round(seconds * rate), len(samples), int(CROP_REACH_SECONDS * rate)

    def cut_in(run: tuple[int, int]) -> Samples:
        start, stop = run
        return samples[: (start + min(stop - start, round(KEPT_PAUSE_SECONDS / 0.010))) * hop + window]

    if total <= target:
        if runs and runs[-1][1] * hop + window >= total - hop:
            return samples
        late = [run for run in places if run[0] * hop >= int(total * KEPT_FRACTION)]
        return cut_in(late[-1]) if late else _into_room_tone(samples, rate, floor)
    after = [run for run in places if target <= run[0] * hop <= target + reach]
    before = [run for run in places if run[0] * hop < target and run[1] * hop >= target - reach]
    if after or before:
        return cut_in(after[0] if after else before[-1])
    return _into_room_tone(samples[:target], rate, floor)


def _pauses(quiet: NDArray[np.bool_], shortest: int) -> list[tuple[int, int]]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= shortest]


def _into_room_tone(samples: Samples, rate: int, floor: float) -> Samples:
    faded, fade = samples.copy(), int(FADE_SECONDS * rate)
    faded[-fade:] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    tone = np.random.default_rng(0).standard_normal(int(ROOM_TONE_SECONDS * rate), dtype=np.float32)
    return np.concatenate([faded, tone * np.float32(floor)])


def normalized(samples: Samples, rate: int) -> tuple[Samples, float]:
    """Amplifies a quiet clip; returns it with its speech level in dB."""
    level = _speech_level_db(samples, rate)
    gain = min(max(PROMPT_LEVEL_DB - level, 0.0), MOST_GAIN_DB)
    if (peak := float(np.abs(samples).max(initial=0))) > 0:
        gain = min(gain, max(0.0, 20 * np.log10(0.95 / peak)))
    louder: Samples = samples * np.float32(_ratio(gain))
    return louder, level + gain


def _speech_level_db(samples: Samples, rate: int) -> float:
    if len(samples) < int(rate * 0.025):
        return float(20 * np.log10(max(float(np.sqrt(np.mean(samples**2))), 1e-6)))
    levels = _frame_levels(samples, rate)
    active = levels[levels > np.quantile(levels, 0.2) * 1.5]
    ordered = np.sort(active if len(active) else levels)
    return float(20 * np.log10(ordered[(len(ordered) - 1) // 2]))


def output_gain(prompt_level_db: float) -> float:
    """The factor from the clip's level to the output level."""
    return _ratio(OUTPUT_LEVEL_DB - prompt_level_db)


def soft_limit(samples: Samples) -> Samples:
    """Compresses samples above the knee, so that nothing clips."""
    size = np.abs(samples)
    bent = KNEE + (1 - KNEE) * np.tanh((size - KNEE) / (1 - KNEE))
    limited: Samples = np.where(size > KNEE, np.sign(samples) * bent, samples).astype(np.float32)
    return limited


def fade_out(samples: Samples, rate: int) -> Samples:
    """Fades the last 80 ms, if the audio is longer than twice that."""
    fade = int(FINAL_FADE_SECONDS * rate)
    if len(samples) <= 2 * fade:
        return samples
    faded = samples.copy()
    faded[-fade:] *= np.linspace(1.0, 0.0, fade, dtype=np.float32)
    return faded


def _ten_ms_levels(samples: Samples, rate: int) -> NDArray[np.float32]:
    window = int(rate * 0.010)
    frames = samples[: len(samples) // window * window].reshape(-1, window)
    levels: NDArray[np.float32] = np.sqrt(np.mean(frames**2, axis=1, dtype=np.float32))
    return levels


def _threshold(levels: NDArray[np.float32]) -> float:
    least = _ratio(ONSET_DB)
    if len(levels) < 30:
        return least
    return max(least, float(np.quantile(levels, 0.1)) * _ratio(ONSET_OVER_FLOOR_DB))


def _first_hit(above: NDArray[np.bool_], window: int, enough: int) -> int | None:
    if len(above) < window:
        return None
    sums = np.lib.stride_tricks.sliding_window_view(above, window).sum(axis=1)
    hits = np.flatnonzero(sums >= enough)
    return int(hits[0]) if len(hits) else None


def trim_end(samples: Samples, rate: int) -> Samples:
    """Removes silence at the end that is longer than the trail."""
    window = int(rate * 0.010)
    levels = _ten_ms_levels(samples, rate)
    loud = np.flatnonzero(levels > _threshold(levels)) if len(levels) else levels
    if not len(loud):
        return samples
    return samples[: (int(loud[-1]) + 1) * window + int(TRAIL_SECONDS * rate)]


@dataclass(slots=True)
class OnsetGate:
    """Holds back the silence and breath before a text's first sound, except for a short lead.

    While closed it holds everything in `held`, and searches for the first sound after the first `passed` samples.
    """

    rate: int
    is_open: bool = False
    held: Samples = field(default_factory=lambda: np.zeros(0, np.float32))
    passed: int = 0

    def push(self, samples: Samples) -> Samples:
        """The samples that may be given out now."""
        if self.is_open:
            return samples
        self.held = np.concatenate([self.held, samples])
        levels = _ten_ms_levels(self.held[self.passed :], self.rate)
        threshold = _threshold(levels)
        onset = _first_hit(levels > threshold, ONSET_WINDOW, ONSET_FRAMES)
        if onset is None:
            self.passed = max(0, len(self.held) - int(HOLD_SECONDS * self.rate))
            return self.held[:0]
        return self._open(min(self._passed_sound(threshold), max(self.passed, self._cut(levels, onset))))

    def finish(self) -> Samples:
        """All held samples of a text that ended without a detected onset, as short, even and quiet ones do."""
        return self._open(0)

    def _passed_sound(self, threshold: float) -> int:
        """The onset of a sound within the passed samples, or the end: an even sound is detected only once a pause follows
        it."""
        levels = _ten_ms_levels(self.held[: self.passed], self.rate)
        onset = _first_hit(levels > threshold, ONSET_WINDOW, ONSET_FRAMES)
        if onset is None:
            return len(self.held)
        return max(0, onset * int(self.rate * 0.010) - int(LEAD_SECONDS * self.rate))

    def _open(self, first: int) -> Samples:
        self.is_open = True
        heard, self.held = self.held[first:], self.held[:0]
        return heard

    def _cut(self, levels: NDArray[np.float32], onset: int) -> int:
        """Where the output begins, in samples from the start of the text."""
        window = int(self.rate * 0.010)
        start = self.passed + onset * window
        cut = max(0, start - int(LEAD_SECONDS * self.rate))
        floor = max(float(np.quantile(levels, 0.1)) * _ratio(ENERGY_OVER_FLOOR_DB), _ratio(ONSET_DB))
        soft = _first_hit(levels > floor, ENERGY_FRAMES, ENERGY_FRAMES)
        if soft is None or soft >= onset:
            return cut
        near = (onset - soft) * window <= int(0.05 * self.rate)
        over = float(np.quantile(levels, 0.1)) * _ratio(ENERGY_OVER_FLOOR_DB)
        if near or float(np.mean(levels[soft:onset] > over)) >= 0.35:
            cut = min(cut, max(0, self.passed + soft * window - int(0.05 * self.rate)))
        return cut
