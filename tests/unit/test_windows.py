"""Windows hold all speech once, in order, and are cut at pauses or quiet moments; spans say where each sample was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.audio.voice_activity import AllSound, SpeechPart
from deployments.audio.windows import SpeechWindow, WindowCutter
from deployments.engines.protocols import Samples

RATE = 1000
SHORTEST_S, LONGEST_S = 2.0, 3.0
PAD = 100


class Planned:
    """A detector that knows its sections of speech: (start, end) in samples, without padding."""

    def __init__(self, sections: Sequence[tuple[int, int]]) -> None:
        self._sections = [(start, end) for start, end in sections if end > start]
        self._given = 0
        self._now = 0

    @property
    def settled(self) -> int:
        return max(self._given, self._now - 2 * PAD)

    def push(self, samples: Samples) -> list[SpeechPart]:
        self._now += len(samples)
        return self._parts(self._now)

    def finish(self) -> list[SpeechPart]:
        return self._parts(10**9)

    def _parts(self, now: int) -> list[SpeechPart]:
        """Sections that are over come whole; one that is not over comes as far as it is known."""
        parts = []
        while self._sections and now - PAD > self._sections[0][0]:
            start, end = self._sections[0]
            at = max(self._given, start - PAD)
            if now < end + PAD:
                until = min(now, end)
                if until > max(at, start):
                    parts.append(SpeechPart(at, until, max(at, start), until, ends=False))
                    self._given = until
                break
            until = min(end + PAD, self._now)
            parts.append(SpeechPart(at, until, min(max(at, start), end), end, ends=True))
            self._given = until
            self._sections.pop(0)
        return parts


def windows_of(
    samples: Samples, sections: Sequence[tuple[int, int]] | None, block: int, first_s: float | None = None
) -> list[SpeechWindow]:
    detector = AllSound() if sections is None else Planned(sections)
    cutter = WindowCutter(RATE, detector, SHORTEST_S, LONGEST_S, first_s)
    cut = [window for at in range(0, len(samples), block) for window in cutter.push(samples[at : at + block])]
    return cut + cutter.finish()


def noise(length: int, seed: int = 0) -> Samples:
    return np.random.default_rng(seed).standard_normal(length).astype(np.float32)


def sections_from(lengths: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], int]:
    """Sections from (silence, speech) pairs, and the length of the recording."""
    at, sections = 0, []
    for silence, speech in lengths:
        sections.append((at + silence, at + silence + speech))
        at += silence + speech
    return sections, at + 500


@given(length=st.integers(0, 20_000), block=st.integers(1, 5_000), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_without_voice_activity_windows_are_the_recording(length: int, block: int, seed: int) -> None:
    samples = noise(length, seed)
    windows = windows_of(samples, None, block)
    together = np.concatenate([w.samples for w in windows]) if windows else np.zeros(0, np.float32)
    np.testing.assert_array_equal(together, samples)
    starts = np.cumsum([0, *(len(w.samples) for w in windows)])[:-1] / RATE
    np.testing.assert_allclose([w.spans[0].start_s for w in windows], starts)
    assert all(len(w.samples) <= LONGEST_S * RATE for w in windows)
    assert all(len(w.samples) >= SHORTEST_S * RATE for w in windows[:-1])


LENGTHS = st.lists(st.tuples(st.integers(2 * PAD, 9_000), st.integers(1, 9_000)), max_size=12)


@given(lengths=LENGTHS, block=st.integers(1, 3_000), first_s=st.sampled_from([None, 0.5, 9.0]))
@settings(max_examples=150, deadline=None)
def test_all_speech_is_in_the_windows_once(lengths: list[tuple[int, int]], block: int, first_s: float | None) -> None:
    sections, length = sections_from(lengths)
    samples = noise(length)
    windows = windows_of(samples, sections, block, first_s)
    heard = np.zeros(length, np.int64)
    last_s = 0.0
    for window in windows:
        assert 0 < len(window.samples) <= LONGEST_S * RATE
        assert window.end_s >= window.spans[-1].end_s
        for span in window.spans:
            start, end, offset = (round(x * RATE) for x in (span.start_s, span.end_s, span.offset_s))
            np.testing.assert_array_equal(window.samples[offset : offset + end - start], samples[start:end])
            heard[start:end] += 1
            assert span.start_s >= last_s
            last_s = span.end_s
    expected = np.zeros(length, np.int64)
    for start, end in sections:
        expected[start:end] = 1
    np.testing.assert_array_equal(heard, expected)


@given(lengths=LENGTHS, block=st.integers(1, 3_000))
@settings(max_examples=50, deadline=None)
def test_silence_is_cut_out_down_to_the_padding(lengths: list[tuple[int, int]], block: int) -> None:
    sections, length = sections_from(lengths)
    windows = windows_of(noise(length), sections, block)
    total = sum(len(window.samples) for window in windows)
    assert total <= sum(end - start + 2 * PAD for start, end in sections)


@pytest.mark.parametrize("quiet_at", [2.2, 2.5, 2.8])
def test_long_speech_is_cut_at_its_quietest_moment(quiet_at: float) -> None:
    samples = noise(5 * RATE)
    samples[int((quiet_at - 0.1) * RATE) : int((quiet_at + 0.1) * RATE)] *= 0.001
    first = windows_of(samples, None, 500)[0]
    assert len(first.samples) / RATE == pytest.approx(quiet_at, abs=0.1)


def test_of_equally_quiet_places_the_latest_is_cut() -> None:
    first = windows_of(np.zeros(10 * RATE, np.float32), None, 500)[0]
    assert len(first.samples) / RATE > 2.9


def test_a_window_ends_at_a_pause_if_there_is_one() -> None:
    sections = [(0, 900), (1500, 2600), (3500, 4100), (4500, 5500)]
    windows = windows_of(noise(7000), sections, 300)
    assert [[span.start_s for span in window.spans] for window in windows] == [[0.0, 1.5], [3.5, 4.5]]


def test_the_first_window_may_be_short() -> None:
    sections = [(200, 900), (1500, 2600), (3500, 4100), (4500, 5500)]
    windows = windows_of(noise(7000), sections, 300, first_s=0.8)
    assert [span.start_s for span in windows[0].spans] == [0.2]
    assert len(windows) == 2 + 1
    without_pause = windows_of(noise(9000), None, 300, first_s=0.8)
    assert 0.8 <= len(without_pause[0].samples) / RATE <= 1.6
    assert len(without_pause[1].samples) >= SHORTEST_S * RATE


def test_speech_does_not_wait_long_for_more_speech() -> None:
    cutter = WindowCutter(RATE, Planned([(0, 500), (20_000, 20_500)]), SHORTEST_S, LONGEST_S)
    windows = [window for _ in range(9) for window in cutter.push(noise(1000))]
    assert [window.spans[0].end_s for window in windows] == [0.5]
    assert cutter.idle


def test_blocks_do_not_matter() -> None:
    samples = noise(20_000, 1)
    sections, _ = sections_from([(500, 4000), (700, 800), (900, 1000), (200, 7000)])
    for these in (None, sections):
        whole, pieces = windows_of(samples, these, 20_000), windows_of(samples, these, 77)
        assert [w.spans for w in whole] == [w.spans for w in pieces]


def test_only_what_may_still_be_needed_is_held() -> None:
    cutter = WindowCutter(RATE, Planned([(0, 500)]), SHORTEST_S, LONGEST_S)
    for _ in range(100):
        cutter.push(noise(1000))
    held = cutter._sound.held + cutter._length
    assert held <= 2 * PAD
