"""Who speaks when: turns of recordings of tones, each tone a voice, and speakers of segments."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import soxr
from hibari import SAMPLE_RATE as HIBARI_RATE
from hibari import Hibari
from hypothesis import given
from hypothesis import strategies as st

from deployments.audio import speaker_embedding
from deployments.audio.speaker_embedding import HOP_S, SAMPLE_RATE, DVectorEncoder, Embeddings
from deployments.engines.protocols import RecognitionOptions, Samples, Segment, Word
from deployments.errors import MotetError
from deployments.settings import WindowSettings
from deployments.tasks.diarization import (
    KnownSpeaker,
    SpeakerTask,
    SpeakerTracker,
    SpeakerTurn,
    joined,
    rttm,
    speaker_letters,
    with_speakers,
)
from deployments.tasks.transcription import TranscriptionTask
from serve_app.bench.local_engines import wav_of


class ToneEncoder(DVectorEncoder):
    """Takes a tone of 100, 200, 300 ... Hz for a voice. What is between two tones is between two voices."""

    def __init__(self, spread: float = 0.3) -> None:
        self._noise = np.random.default_rng(0)
        self._spread = spread

    def windows(self, samples: Samples) -> Embeddings:
        window, hop = int(0.8 * SAMPLE_RATE), int(HOP_S * SAMPLE_RATE)
        samples = np.resize(samples, max(window, len(samples)))
        rows = []
        for first in range(0, len(samples) - window + 1, hop):
            power = np.abs(np.fft.rfft(samples[first : first + window]))
            row = np.zeros(256, np.float32)
            row[:20] = power[80 : 80 * 21 : 80]
            rows.append(row / np.linalg.norm(row))
        noise = self._noise.standard_normal((len(rows), 256)).astype(np.float32) * self._spread / 16
        return speaker_embedding.unit((np.stack(rows) + noise).astype(np.float32))


def tone(voice: int, seconds: float, level: float = 0.3) -> Samples:
    moments = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * 100 * voice * moments)).astype(np.float32)


ANYBODY = SpeakerTask()


def turns_of(
    speech: list[tuple[float, int, float]], task: SpeakerTask = ANYBODY, block_s: float = 1e9
) -> tuple[SpeakerTurn, ...]:
    """The turns found in stretches of (start, voice, seconds), pushed in blocks."""
    tracker = SpeakerTracker(task, ToneEncoder())
    for start_s, voice, seconds in speech:
        samples = tone(voice, seconds)
        block = min(len(samples), int(block_s * SAMPLE_RATE))
        for first in range(0, len(samples), block):
            tracker.push(samples[first : first + block], start_s + first / SAMPLE_RATE)
    return tracker.turns()


DIALOGUE = [(0.5, 3, 4.0), (5.0, 7, 3.0), (9.0, 3, 2.5), (12.0, 5, 5.0), (17.5, 7, 2.0)]
"""Three voices with pauses."""


def test_turns_follow_the_sections_and_speakers_are_named_in_order_of_appearance() -> None:
    assert turns_of(DIALOGUE) == (
        SpeakerTurn(0.5, 4.5, "A"),
        SpeakerTurn(5.0, 8.0, "B"),
        SpeakerTurn(9.0, 11.5, "A"),
        SpeakerTurn(12.0, 17.0, "C"),
        SpeakerTurn(17.5, 19.5, "B"),
    )


@pytest.mark.parametrize("block_s", [0.1, 0.512, 1.0])
def test_a_section_may_come_in_parts(block_s: float) -> None:
    expected, found = turns_of(DIALOGUE), turns_of(DIALOGUE, block_s=block_s)
    assert [(turn.speaker, turn.start_s) for turn in found] == [(turn.speaker, turn.start_s) for turn in expected]
    assert [turn.end_s for turn in found] == pytest.approx([turn.end_s for turn in expected])


def test_a_change_without_a_pause_is_found() -> None:
    turns = turns_of([(0.0, 3, 4.1), (4.1, 7, 3.9), (8.0, 3, 4.0)])
    assert [turn.speaker for turn in turns] == ["A", "B", "A"]
    assert [turn.end_s for turn in turns] == pytest.approx([4.1, 8.0, 12.0], abs=0.4)
    assert all(before.end_s == after.start_s for before, after in pairwise(turns))


def test_a_short_remark_in_a_section_of_another_speaker_is_its_own() -> None:
    turns = turns_of([(0.0, 3, 4.0), (4.5, 7, 0.7), (6.0, 3, 4.0), (11.0, 7, 3.0)])
    assert [turn.speaker for turn in turns] == ["A", "B", "A", "B"]


def test_pauses_of_one_speaker_are_part_of_the_turn_while_they_are_short() -> None:
    assert joined([SpeakerTurn(0, 1, "A"), SpeakerTurn(1.4, 2, "A"), SpeakerTurn(2.6, 3, "A")]) == (
        SpeakerTurn(0, 2, "A"),
        SpeakerTurn(2.6, 3, "A"),
    )


@pytest.mark.parametrize("speakers", [1, 2, 3])
def test_the_number_of_speakers_may_be_given(speakers: int) -> None:
    assert len({turn.speaker for turn in turns_of(DIALOGUE, SpeakerTask(speakers=speakers))}) == speakers


def test_the_number_of_speakers_may_be_bounded() -> None:
    assert len({turn.speaker for turn in turns_of(DIALOGUE, SpeakerTask(max_speakers=2))}) == 2
    assert len({turn.speaker for turn in turns_of(DIALOGUE, SpeakerTask(min_speakers=2, max_speakers=9))}) == 3


def test_without_speech_there_are_no_turns() -> None:
    assert turns_of([]) == ()


def test_a_moment_of_speech_is_a_turn() -> None:
    assert turns_of([(1.0, 3, 0.2)]) == (SpeakerTurn(1.0, 1.2, "A"),)


def clip(voice: int, seconds: float = 3.0) -> bytes:
    return wav_of(tone(voice, seconds), SAMPLE_RATE)


def test_known_voices_have_their_names_and_others_letters() -> None:
    task = SpeakerTask((KnownSpeaker("Ada", clip(7)), KnownSpeaker("Ben", clip(9))))
    assert [turn.speaker for turn in turns_of(DIALOGUE, task)] == ["A", "Ada", "A", "B", "Ada"]


def test_a_letter_that_is_a_known_name_is_not_used_for_another_speaker() -> None:
    task = SpeakerTask((KnownSpeaker("A", clip(7)),))
    assert [turn.speaker for turn in turns_of(DIALOGUE, task)] == ["B", "A", "B", "C", "A"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        (clip(3, 1.5), r"'Ada' has 1\.5 s\. Send 2 to 10 seconds"),
        (clip(3, 11.0), r"'Ada' is longer than 10 s\. Send 2 to 10 seconds"),
        (b"not a recording", r"reference of the speaker 'Ada': "),
    ],
)
def test_a_reference_that_cannot_be_used_is_refused(reference: bytes, message: str) -> None:
    with pytest.raises(MotetError, match=message) as caught:
        SpeakerTracker(SpeakerTask((KnownSpeaker("Ada", reference),)), ToneEncoder())
    assert caught.value.failure.param == "known_speaker_references"


@pytest.mark.parametrize("seconds", [2.0, 10.0])
def test_references_at_the_bounds_are_accepted(seconds: float) -> None:
    SpeakerTracker(SpeakerTask((KnownSpeaker("Ada", clip(3, seconds)),)), ToneEncoder())


@pytest.mark.parametrize(
    ("wrong", "param"),
    [
        ({"speakers": 0}, "speakers"),
        ({"max_speakers": 65}, "max_speakers"),
        ({"speakers": 2, "min_speakers": 1}, "speakers"),
        ({"min_speakers": 3, "max_speakers": 2}, "min_speakers"),
        ({"known": (KnownSpeaker("Ada", b""), KnownSpeaker("Ada", b""))}, "known_speaker_names"),
        ({"known": (KnownSpeaker(" ", b""),)}, "known_speaker_names"),
    ],
)
def test_a_contradictory_task_is_refused(wrong: dict[str, object], param: str) -> None:
    with pytest.raises(MotetError) as caught:
        SpeakerTask(**wrong)  # type: ignore[arg-type] # wrong on purpose
    assert (caught.value.failure.kind, caught.value.failure.param) == ("invalid", param)


def test_letters_never_end() -> None:
    letters = speaker_letters()
    first = [next(letters) for _ in range(26 + 26 * 26 + 1)]
    assert first[:3] == ["A", "B", "C"]
    assert first[25:28] == ["Z", "AA", "AB"]
    assert first[-2:] == ["ZZ", "AAA"]


PAUSE_S = 1.0


def recording(*pitches: float) -> tuple[bytes, list[tuple[float, float]]]:
    """A WAV file in which hibari says a sentence at each pitch, and where the sentences are in seconds."""
    parts, places, now = [], [], 0.0
    for at, pitch in enumerate(pitches):
        pause, speech = np.zeros(round(PAUSE_S * SAMPLE_RATE), np.float32), sentence(at % 2, pitch)
        parts += [pause, speech]
        places.append((now + PAUSE_S, now + PAUSE_S + len(speech) / SAMPLE_RATE))
        now = places[-1][1]
    return wav_of(np.concatenate(parts), SAMPLE_RATE), places


@cache
def sentence(number: int, pitch: float) -> Samples:
    text = (
        "The meeting was moved from the morning to the afternoon.",
        "She sells sea shells by the sea shore every day.",
    )
    samples = np.asarray(Hibari()(text[number]), np.float32)
    scaled: Samples = soxr.resample(samples, HIBARI_RATE * pitch, SAMPLE_RATE).astype(np.float32)
    heard = np.flatnonzero(np.abs(scaled) > 0.01)
    return scaled[heard[0] : heard[-1]]


def turns_in(file: bytes, speakers: SpeakerTask = ANYBODY) -> tuple[SpeakerTurn, ...]:
    task = TranscriptionTask(SAMPLE_RATE, RecognitionOptions(), 30.0, speakers=speakers)
    *_, (last, _) = task.cut(io.BytesIO(file), WindowSettings())
    return last.turns


def test_the_turns_of_a_recording_begin_and_end_with_its_speech() -> None:
    file, places = recording(1.0, 0.8, 1.0, 0.8)
    turns = turns_in(file)
    assert [turn.speaker for turn in turns] == ["A", "B", "A", "B"]
    for turn, (start_s, end_s) in zip(turns, places, strict=True):
        assert (turn.start_s, turn.end_s) == pytest.approx((start_s, end_s), abs=0.25)


def test_a_known_voice_is_recognized_in_a_recording() -> None:
    file, _ = recording(0.8, 1.0, 0.8)
    known = KnownSpeaker("Heart", wav_of(sentence(1, 1.0), SAMPLE_RATE))
    turns = turns_in(file, SpeakerTask((known,)))
    assert [turn.speaker for turn in turns] == ["A", "Heart", "A"]


def test_a_recording_of_silence_has_no_turns() -> None:
    file = wav_of(np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE)
    assert turns_in(file) == ()


def segment(text: str, start: float, *, words: bool = True) -> Segment:
    """A segment of which each word takes a second."""
    parts = text.split()
    found = tuple(Word(f" {word}", start + at, start + at + 1, 0.9, (at,)) for at, word in enumerate(parts))
    return Segment(f" {text}", start, start + len(parts), -0.2, 0.0, tuple(range(len(parts))), found if words else ())


TURNS = (SpeakerTurn(0.0, 2.1, "A"), SpeakerTurn(2.1, 4.0, "B"), SpeakerTurn(5.0, 6.0, "A"))


def test_a_segment_is_divided_where_the_speaker_changes() -> None:
    first, second = with_speakers([segment("one two three four", 0.0)], TURNS)
    assert (first.text, first.speaker, first.start, first.end, first.tokens) == (" one two", "A", 0.0, 2.0, (0, 1))
    assert (second.text, second.speaker, second.start, second.end, second.tokens) == (
        " three four",
        "B",
        2.0,
        4.0,
        (2, 3),
    )


def test_a_segment_without_words_has_the_speaker_of_most_of_its_time() -> None:
    (found,) = with_speakers([segment("two three four", 1.0, words=False)], TURNS)
    assert (found.text, found.speaker) == (" two three four", "B")


@pytest.mark.parametrize(("start", "speaker"), [(4.05, "B"), (4.7, "A"), (9.0, "A")])
def test_a_word_outside_every_turn_has_the_nearest_speaker(start: float, speaker: str) -> None:
    word = Word(" so", start, start + 0.1, 1.0)
    (found,) = with_speakers([replace(segment("so", start), words=(word,), end=start + 0.1)], TURNS)
    assert found.speaker == speaker


def test_without_turns_segments_stay_as_they_are() -> None:
    segments = (segment("one two", 0.0), segment("three", 2.0, words=False))
    assert with_speakers(segments, ()) == segments


@given(st.lists(st.tuples(st.floats(0.01, 3), st.floats(0, 2), st.sampled_from("ABC")), max_size=12), st.floats(0, 30))
def test_no_word_is_lost(stretches: list[tuple[float, float, str]], start: float) -> None:
    turns, now = [], 0.0
    for seconds, pause, speaker in stretches:
        turns.append(SpeakerTurn(now, now + seconds, speaker))
        now += seconds + pause
    whole = segment("one two three four five", start)
    parts = with_speakers([whole], turns)
    assert "".join(part.text for part in parts) == whole.text
    assert [word for part in parts for word in part.words] == list(whole.words)
    assert (parts[0].start, parts[-1].end) == (whole.start, whole.end)
    assert all(part.speaker in {turn.speaker for turn in turns} or not turns for part in parts)


def test_rttm_has_a_line_for_each_turn() -> None:
    assert rttm((SpeakerTurn(0.5, 4.25, "A"), SpeakerTurn(5, 6, "Ada Lovelace")), "the talk") == (
        "SPEAKER the_talk 1 0.500 3.750 <NA> <NA> A <NA> <NA>\n"
        "SPEAKER the_talk 1 5.000 1.000 <NA> <NA> Ada_Lovelace <NA> <NA>\n"
    )
