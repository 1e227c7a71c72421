"""The recordings of the benchmark of transcription, and what it counts, on recordings and words that are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from deployments.audio.decode import decode_all
from deployments.engines.protocols import RecognitionOptions, SpokenWord, Window
from deployments.errors import MotetError
from serve_app.bench import hearing, hearing_corpus, hearing_long, hearing_noise, hearing_replicas
from serve_app.bench.hearing_corpus import CORPUS_RATE, Corpus
from serve_app.bench.hearing_times import compare
from serve_app.bench.hearing_voices import (
    RATE,
    Voice,
    hibari_voice,
    sounding,
)


@pytest.fixture(scope="module")
def hibari() -> Voice:
    return hibari_voice()


@pytest.fixture(scope="module")
def recording() -> Corpus:
    return hearing_corpus.make(40.0, two_voices=False)


# --- The voice


def test_words_lie_in_order_within_the_sound(hibari: Voice) -> None:
    sentence = "The old man waited, and then he left the house."
    spoken = hibari(sentence, 0)
    assert [word.text for word in spoken.words] == sentence.split()
    assert [word.start for word in spoken.words] == sorted(word.start for word in spoken.words)
    assert all(word.start < word.end for word in spoken.words)
    begins, ends = sounding(spoken.samples)
    assert begins <= spoken.words[0].start < begins + 0.1
    assert spoken.words[-1].end == pytest.approx(ends, abs=0.05)
    gaps = [later.start - word.end for word, later in pairwise(spoken.words)]
    assert np.argmax(gaps) == 3  # the pause is behind the comma


def test_a_number_is_one_word(hibari: Voice) -> None:
    assert [word.text for word in hibari("It is 1984 now.", 0).words] == ["It", "is", "1984", "now."]


def test_the_silence_at_both_ends_is_found() -> None:
    tone = np.sin(np.arange(RATE // 2)).astype(np.float32)
    quiet = np.zeros(RATE, np.float32)
    assert sounding(np.concatenate([quiet, tone, quiet])) == (1.0, 1.5)


# --- The recording


def test_a_recording_says_what_it_contains(recording: Corpus) -> None:
    assert 40.0 <= recording.seconds < 80.0
    assert recording.voices == "hibari"
    assert [word.text for word in recording.words] == recording.text.replace("—", " ").split()
    assert recording.words[-1].end <= recording.seconds


def test_silences_are_silent_and_words_are_not(recording: Corpus) -> None:
    def level(start: float, end: float) -> float:
        part = recording.samples[int(start * CORPUS_RATE) : int(end * CORPUS_RATE)].astype(np.float64) / 32768
        return float(np.sqrt(np.mean(np.square(part))))

    assert recording.silences
    assert max(level(start, end) for start, end in recording.silences) < 0.02
    assert np.median([level(word.start, word.end) for word in recording.words]) > 0.05
    assert compare((), recording.words, recording.silences).in_silence == 0


def test_a_recording_is_made_once(recording: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = list[float]()

    def make(seconds: float, *, two_voices: bool, longest: int | None) -> Corpus:
        made.append(seconds)
        return recording

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(hearing_corpus, "make", make)
    for _ in range(2):
        again = hearing_corpus.corpus(40.0, two_voices=False)
        assert np.array_equal(again.samples, recording.samples)
        assert (again.text, again.words, again.silences) == (recording.text, recording.words, recording.silences)
    assert made == [40.0]
    assert [file.suffix for file in (tmp_path / "motet" / "bench").iterdir()] == [".npz"]


def test_clips_are_whole_and_follow_each_other(recording: Corpus) -> None:
    clips = list(recording.clips(15.0))
    assert clips and clips[0][0] == 0.0
    assert all(end == start for (_, end), (start, _) in pairwise(clips))
    for _, end in clips:
        assert any(start < end < stop for start, stop in recording.silences)


def test_files_hold_the_recording(recording: Corpus) -> None:
    start, end = next(recording.clips(15.0))
    part = decode_all(recording.part(start, end), CORPUS_RATE, mono=True, max_seconds=100)
    assert part.shape[1] == int(end * CORPUS_RATE)
    twice = decode_all(recording.encoded("flac", 2), CORPUS_RATE, mono=True, max_seconds=1000)[0]
    assert twice.tolist() == pytest.approx(np.tile(recording.samples / 32768, 2).tolist(), abs=2 / 32768)


def test_a_long_recording_is_cut_at_its_length(recording: Corpus) -> None:
    long = decode_all(hearing_long._repeated(recording, 100.0), CORPUS_RATE, mono=True, max_seconds=1000)
    assert long.shape[1] / CORPUS_RATE == pytest.approx(100.0, abs=0.2)


# --- What is counted


def test_only_words_that_both_sides_have_are_compared() -> None:
    said = [SpokenWord("The", 0.0, 0.2), SpokenWord("cat,", 0.2, 0.5), SpokenWord("sat.", 1.0, 1.4)]
    heard = [SpokenWord(" the", 0.1, 0.2), SpokenWord("hat", 0.2, 0.5), SpokenWord("Sat", 0.95, 1.6)]
    times = compare(said, heard, [])
    assert times.start_errors_ms == pytest.approx((100, 50))
    assert times.end_errors_ms == pytest.approx((0, 200))


@pytest.mark.parametrize(
    ("start", "end", "counts"),
    [(0.0, 1.0, 0), (0.5, 1.19, 0), (0.5, 1.3, 1), (1.1, 1.15, 1), (1.85, 2.5, 0), (1.5, 2.5, 1), (0.5, 2.5, 1)],
)
def test_a_word_in_a_silence_is_counted(start: float, end: float, counts: int) -> None:
    assert compare((), [SpokenWord("well", start, end)], [(1.0, 2.0), (5.0, 6.0)]).in_silence == counts


def files() -> Iterator[tuple[str, float, float]]:
    for name, samples in hearing_noise.files_without_speech(30):
        yield name, len(samples) / CORPUS_RATE, float(np.sqrt(np.mean(np.square(samples, dtype=np.float64))))


def test_files_without_speech_are_of_every_kind_and_level() -> None:
    found = list(files())
    assert len({name for name, _, _ in found}) == 30
    assert all(5 <= seconds <= 40 for _, seconds, _ in found)
    for name, _, level in found:
        wanted = 0.0 if name.startswith("silence") else 10 ** (float(name.split()[-2]) / 20)
        has_peaks = name.endswith("-14 dB")
        assert level == pytest.approx(wanted, rel=0.01) or (has_peaks and 0.03 < level < wanted), name


@pytest.mark.parametrize(("exponent", "ratio"), [(0, 1), (-1, 4), (-2, 16), (1, 1 / 4), (2, 1 / 16)])
def test_noise_has_its_colour(exponent: float, ratio: float) -> None:
    power = np.abs(np.fft.rfft(hearing_noise.coloured(exponent, 160_000, np.random.default_rng(0)))) ** 2
    low, high = power[9_000:11_000].mean(), power[36_000:44_000].mean()  # 1 kHz and 4 kHz
    assert low / high == pytest.approx(ratio, rel=0.15)


def test_the_events_of_a_stream_are_read() -> None:
    assert hearing_long._facts(b'event: x\ndata: {"delta": "Hi"}') == {"delta": "Hi"}
    assert hearing_long._facts(b": ping") == hearing_long._facts(b"data: [DONE]") == {}


@pytest.mark.parametrize("plan", [hearing.QUICK, hearing.FULL], ids=["quick", "full"])
def test_no_two_figures_have_one_name(plan: hearing.HearingPlan) -> None:
    names = [figure.name for figure in hearing._figures(plan, plan.parts)]
    assert len(names) == len(set(names))
    assert sum(figure.target is not None for figure in hearing._figures(plan, plan.parts)) >= 9


def test_every_part_has_figures_of_its_own() -> None:
    parts = [{figure.name for figure in hearing._figures(hearing.FULL, [part])} for part in hearing.FULL.parts]
    everything = {figure.name for figure in hearing._figures(hearing.FULL, hearing.FULL.parts)}
    assert set.union(*parts) == everything
    assert all(part - {hearing.RECORDING} for part in parts)
    assert sum(len(part - {hearing.RECORDING}) for part in parts) == len(everything) - 1


def test_an_unknown_part_is_refused_with_the_nearest() -> None:
    with pytest.raises(MotetError, match="replicas"):
        hearing.run(quick=True, parts=("replica",))


def test_a_part_of_a_recording_ends_in_a_silence(recording: Corpus) -> None:
    part = recording.of_length(15.0)
    assert 15.0 <= part.seconds < recording.seconds
    assert any(start < part.seconds < end for start, end in recording.silences)
    assert all(end <= part.seconds for _, end in part.silences)
    assert len(recording.of_length(1000.0).samples) == len(recording.samples)


def test_windows_are_shared_out_among_processes() -> None:
    windows = [Window(np.zeros(at, np.float32), RecognitionOptions()) for at in range(5)]
    heard: list[list[int]] = []

    def process(share: Sequence[Window]) -> Future[int]:
        heard.append([len(window.samples) for window in share])
        done: Future[int] = Future()
        done.set_result(len(share))
        return done

    assert hearing_replicas._transcribe(windows, [process, process]) == 5
    assert heard == [[0, 2, 4], [1, 3]]
