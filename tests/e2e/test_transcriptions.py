"""POST /v1/audio/transcriptions with real clients: every container, every answer format, long recordings and silence."""

from __future__ import annotations

import re
from itertools import pairwise

import httpx
import numpy as np
import openai
import pytest
import soxr
from openai import OpenAI

from .conftest import PANGRAM, Float, encoded, heard_in, spoken, word_errors

RATE = 24_000
CLOCK = r"(\d\d):([0-5]\d):([0-5]\d)"
SALES = {
    "apples": "On Monday the farmer sold apples at the big market in town.",
    "bananas": "My sister bought green bananas for her children last week.",
    "cherries": "We picked cherries in the garden behind the old house.",
    "lemons": "You need three lemons and some sugar to make this cake.",
    "melons": "The melons were so heavy that nobody could carry them home.",
    "onions": "He cried a little while he was cutting the onions.",
    "oranges": "A truck full of oranges stopped at the side of the road.",
    "peaches": "In summer the peaches from the south are sweet and soft.",
    "potatoes": "Please peel the potatoes before your father comes back.",
    "tomatoes": "Their neighbors grow tomatoes on a small balcony.",
}
"""Sentences that differ: a small model repeats itself where ten are almost the same."""
FRUITS = tuple(SALES)

RECORDINGS = {
    "wav 8k mono": ("WAV", "PCM_16", 8_000, 1),
    "wav 24-bit 48k stereo": ("WAV", "PCM_24", 48_000, 2),
    "wav float 16k mono": ("WAV", "FLOAT", 16_000, 1),
    "flac 44.1k stereo": ("FLAC", None, 44_100, 2),
    "flac 16k mono": ("FLAC", None, 16_000, 1),
    "ogg vorbis 22k mono": ("OGG", "VORBIS", 22_050, 1),
    "ogg opus 48k stereo": ("OGG", "OPUS", 48_000, 2),
    "mp3 32k stereo": ("MP3", None, 32_000, 2),
    "mp3 8k mono": ("MP3", None, 8_000, 1),
    "m4a 44.1k stereo": ("M4A", None, 44_100, 2),
    "m4a 16k mono": ("M4A", None, 16_000, 1),
}


def resampled(samples: Float, rate: int) -> Float:
    changed: Float = soxr.resample(samples, RATE, rate).astype(np.float32)
    return changed


@pytest.mark.parametrize("recording", RECORDINGS)
def test_every_kind_of_recording_is_understood(recording: str, client: OpenAI, pangram: Float) -> None:
    kind, subtype, rate, channels = RECORDINGS[recording]
    samples = np.tile(resampled(pangram, rate), (channels, 1))
    data = encoded(samples if channels > 1 else samples[0], rate, kind, subtype)
    assert word_errors(heard_in(client, data, "no.extension"), PANGRAM) < 0.2


@pytest.fixture(scope="module")
def recording(pangram: Float) -> tuple[str, bytes]:
    return "pangram.wav", encoded(pangram, RATE, "WAV")


def test_json_is_text_and_usage(recording: tuple[str, bytes], client: OpenAI, pangram: Float) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=recording, language="en", response_format="json"
    )
    assert word_errors(answer.text, PANGRAM) < 0.1
    assert answer.usage is not None
    assert answer.usage.type == "duration"
    assert answer.usage.seconds == pytest.approx(len(pangram) / RATE, abs=0.01)


def test_the_answer_says_where_the_time_went(recording: tuple[str, bytes], http: httpx.Client) -> None:
    answer = http.post("/v1/audio/transcriptions", data={"model": "whisper-1"}, files={"file": recording})
    assert re.fullmatch(r"first_result;dur=[\d.]+, total;dur=[\d.]+", answer.headers["server-timing"])


def test_text_is_the_words_and_a_line_end(recording: tuple[str, bytes], client: OpenAI) -> None:
    answer = client.audio.transcriptions.create(model="whisper-1", file=recording, response_format="text")
    assert word_errors(answer, PANGRAM) < 0.1
    assert answer.endswith("\n")
    assert answer.count("\n") == 1


def seconds_of(hours: str, minutes: str, seconds: str, thousandths: str) -> float:
    return int(hours) * 3600 + int(minutes) * 60 + int(seconds) + int(thousandths) / 1000


def cues_of(text: str, mark: str) -> list[tuple[float, float, str]]:
    """(start, end, text) of every cue, strictly."""
    found = []
    for cue in text.strip().split("\n\n"):
        times, *lines = cue.split("\n")
        match = re.fullmatch(rf"{CLOCK}\{mark}(\d\d\d) --> {CLOCK}\{mark}(\d\d\d)", times)
        assert match, times
        found.append((seconds_of(*match.groups()[:4]), seconds_of(*match.groups()[4:]), " ".join(lines)))
    return found


def check_cues(cues: list[tuple[float, float, str]], said: str, seconds: float) -> None:
    assert word_errors(" ".join(text for _, _, text in cues), said) < 0.1
    assert all(0 <= start < end <= seconds + 0.05 for start, end, _ in cues)
    assert all(before[1] <= after[0] for before, after in pairwise(cues))


def test_srt_parses(recording: tuple[str, bytes], client: OpenAI, pangram: Float) -> None:
    answer = client.audio.transcriptions.create(model="whisper-1", file=recording, response_format="srt")
    cues = answer.strip().split("\n\n")
    assert [cue.split("\n")[0] for cue in cues] == [str(number) for number in range(1, len(cues) + 1)]
    check_cues(cues_of("\n\n".join(cue.split("\n", 1)[1] for cue in cues), ","), PANGRAM, len(pangram) / RATE)


def test_vtt_parses(recording: tuple[str, bytes], client: OpenAI, pangram: Float) -> None:
    answer = client.audio.transcriptions.create(model="whisper-1", file=recording, response_format="vtt")
    assert answer.startswith("WEBVTT\n\n")
    check_cues(cues_of(answer.removeprefix("WEBVTT\n\n"), "."), PANGRAM, len(pangram) / RATE)


def test_verbose_json_has_segments_and_words_in_order(
    recording: tuple[str, bytes], client: OpenAI, pangram: Float
) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=recording, response_format="verbose_json", timestamp_granularities=["word", "segment"]
    )
    seconds = len(pangram) / RATE
    assert answer.language == "english"
    assert float(answer.duration) == pytest.approx(seconds, abs=0.01)
    assert answer.segments
    assert answer.words
    assert word_errors(" ".join(word.word for word in answer.words), PANGRAM) < 0.1
    assert word_errors("".join(segment.text for segment in answer.segments), PANGRAM) < 0.1
    assert [segment.id for segment in answer.segments] == list(range(len(answer.segments)))
    for times in ([(s.start, s.end) for s in answer.segments], [(w.start, w.end) for w in answer.words]):
        assert all(0 <= start <= end <= seconds + 0.05 for start, end in times)
        assert all(before[1] <= after[0] + 0.01 for before, after in pairwise(times))
    assert answer.words[-1].end > seconds / 2


@pytest.mark.parametrize(("granularity", "absent"), [("word", "segments"), ("segment", "words")])
def test_only_the_times_that_were_asked_for_are_given(
    granularity: str, absent: str, recording: tuple[str, bytes], http: httpx.Client
) -> None:
    fields = {"model": "whisper-1", "response_format": "verbose_json", "timestamp_granularities[]": granularity}
    answer = http.post("/v1/audio/transcriptions", data=fields, files={"file": recording}).json()
    assert answer[f"{granularity}s"]
    assert absent not in answer


def test_options_are_taken(recording: tuple[str, bytes], client: OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=recording, language="en", prompt="Animals in the wood.", temperature=0.2
    )
    assert word_errors(answer.text, PANGRAM) < 0.2


@pytest.mark.parametrize(
    ("prompt", "spelt"),
    [("The colour, the centre, the theatre: grey.", "colour"), ("The color, the center, the theater: gray.", "color ")],
    ids=["British", "American"],
)
def test_the_prompt_decides_how_a_word_is_spelt(prompt: str, spelt: str, client: OpenAI) -> None:
    file = ("theatre.wav", encoded(spoken(client, "The colour of the theatre is grey."), RATE, "WAV"))
    answer = client.audio.transcriptions.create(model="whisper-1", file=file, prompt=prompt)
    assert spelt in answer.text
    assert prompt not in answer.text


def test_an_unknown_language_is_refused_with_the_nearest(recording: tuple[str, bytes], client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match=r"Did you mean 'german' \(de\)") as caught:
        client.audio.transcriptions.create(model="whisper-1", file=recording, language="germna")
    assert caught.value.param == "language"


@pytest.mark.filterwarnings("ignore:deprecated:DeprecationWarning")  # the client's own, of all its translations
def test_a_translation_is_english(recording: tuple[str, bytes], client: OpenAI) -> None:
    answer = client.audio.translations.create(model="whisper-1", file=recording, response_format="verbose_json")
    assert answer.language == "english"
    assert word_errors(answer.text, PANGRAM) < 0.3


@pytest.fixture(scope="module")
def long_recording(client: OpenAI) -> bytes:
    """Ten sentences with long pauses, over seventy seconds."""
    pause = np.zeros(4 * RATE, np.float32)
    sentences = [spoken(client, sentence) for sentence in SALES.values()]
    samples = np.concatenate([part for sentence in sentences for part in (sentence, pause)])
    assert len(samples) > 70 * RATE
    return encoded(samples, RATE, "FLAC")


def fruits_in(text: str) -> list[str]:
    return re.findall("|".join(FRUITS), text.lower())


def test_a_long_recording_is_heard_in_order_across_windows(long_recording: bytes, client: OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        model="whisper-1", file=("long.flac", long_recording), response_format="verbose_json"
    )
    assert fruits_in(answer.text) == list(FRUITS)
    assert answer.segments
    starts = [segment.start for segment in answer.segments]
    assert starts == sorted(starts)
    assert 60 < starts[-1] < float(answer.duration)


def test_a_long_recording_streams_a_delta_for_each_window(long_recording: bytes, client: OpenAI) -> None:
    file = ("long.flac", long_recording)
    deltas: list[str] = []
    done: list[str] = []
    for event in client.audio.transcriptions.create(model="whisper-1", file=file, stream=True):
        if event.type == "transcript.text.delta":
            assert not done
            deltas.append(event.delta)
        elif event.type == "transcript.text.done":
            done.append(event.text)
    assert len(deltas) >= 2
    assert done == ["".join(deltas)]
    assert fruits_in(done[0]) == list(FRUITS)


def test_silence_is_no_words(client: OpenAI) -> None:
    file = ("silence.wav", encoded(np.zeros(5 * RATE, np.float32), RATE, "WAV"))
    answer = client.audio.transcriptions.create(model="whisper-1", file=file, response_format="verbose_json")
    assert answer.text == ""
    assert answer.segments == []
    assert float(answer.duration) == pytest.approx(5)
    assert client.audio.transcriptions.create(model="whisper-1", file=file, response_format="srt") == ""
    assert client.audio.transcriptions.create(model="whisper-1", file=file, response_format="vtt") == "WEBVTT\n\n"
