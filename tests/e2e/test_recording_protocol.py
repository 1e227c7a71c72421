"""Speakers, subtitles, events and bad recordings over HTTP, with OpenAI's client where it has a method for it."""

from __future__ import annotations

import base64
import re
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from openai import OpenAI

from .conftest import PANGRAM, Float, encoded, spoken, word_errors
from .test_transcriptions import RATE, SALES, fruits_in

PAUSE = np.zeros(RATE, np.float32)
FRUITS = tuple(SALES)[:4]
SENTENCES = [SALES[fruit] for fruit in FRUITS]


@pytest.fixture(scope="module")
def sentences(client: OpenAI) -> bytes:
    """Four sentences with pauses of a second, and one before them."""
    parts = [part for sentence in SENTENCES for part in (PAUSE, spoken(client, sentence))]
    return encoded(np.concatenate([*parts, PAUSE]), RATE, "FLAC")


def data_url(data: bytes) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(data).decode()}"


def refusal(http: httpx.Client, data: bytes, path: str = "transcriptions", **fields: str) -> dict[str, Any]:
    answer = http.post(f"/v1/audio/{path}", data={"model": "whisper-1", **fields}, files={"file": data})
    assert answer.status_code == 400, answer.text
    error: dict[str, Any] = answer.json()["error"]
    return error


def test_diarized_json_names_a_known_speaker(sentences: bytes, client: OpenAI) -> None:
    reference = encoded(spoken(client, "I am the voice that tells you about the fruit of the farmers."), RATE, "WAV")
    answer = client.audio.transcriptions.create(
        model="whisper-1",
        file=("a.flac", sentences),
        response_format="diarized_json",
        chunking_strategy="auto",
        known_speaker_names=["Heart"],
        known_speaker_references=[data_url(reference)],
    )
    assert fruits_in(answer.text) == list(FRUITS)
    assert {segment.speaker for segment in answer.segments} == {"Heart"}
    assert all(0.8 < segment.start < segment.end <= answer.duration for segment in answer.segments)
    assert word_errors(" ".join(segment.text for segment in answer.segments), " ".join(SENTENCES)) < 0.1


def test_diarized_events_end_with_the_segments(sentences: bytes, client: OpenAI) -> None:
    stream = client.audio.transcriptions.create(
        model="whisper-1", file=("a.flac", sentences), response_format="diarized_json", stream=True
    )
    events = list(stream)
    kinds = [event.type for event in events]
    segments = kinds.index("transcript.text.segment")
    assert set(kinds[:segments]) == {"transcript.text.delta"}
    assert set(kinds[segments:-1]) == {"transcript.text.segment"}
    assert kinds[-1] == "transcript.text.done"
    assert {event.speaker for event in events if event.type == "transcript.text.segment"} == {"A"}
    assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == events[-1].text  # type: ignore[union-attr]


def test_rttm_and_diarizations_agree(sentences: bytes, http: httpx.Client) -> None:
    fields = {"model": "whisper-1", "response_format": "rttm"}
    transcript = http.post("/v1/audio/transcriptions", data=fields, files={"file": sentences})
    alone = http.post("/v1/audio/diarizations", data={"response_format": "rttm"}, files={"file": sentences})
    assert transcript.text == alone.text
    assert all(
        re.fullmatch(r"SPEAKER recording 1 [\d.]+ [\d.]+ <NA> <NA> A <NA> <NA>", t) for t in alone.text.splitlines()
    )
    found = http.post("/v1/audio/diarizations", files={"file": sentences}).json()
    assert len(found["segments"]) == len(alone.text.splitlines())


def test_speech_timestamps_are_the_sentences(sentences: bytes, http: httpx.Client) -> None:
    found = http.post("/v1/audio/speech/timestamps", data={"speech_pad_ms": "0"}, files={"file": sentences}).json()
    assert len(found) == len(SENTENCES)
    assert 900 < found[0]["start"] < 1500
    assert all(before["end"] + 500 < after["start"] for before, after in pairwise(found))


def test_an_embedding_knows_a_voice(client: OpenAI, http: httpx.Client, pangram: Float) -> None:
    def voice(samples: Float) -> Float:
        answer = http.post("/v1/audio/embeddings", files={"file": encoded(samples, RATE, "WAV")}).json()
        return np.array(answer["data"][0]["embedding"], np.float32)

    once, again = voice(pangram), voice(spoken(client, SENTENCES[0]))
    assert float(once @ again) > 0.7


def test_subtitles_have_short_lines_and_a_cue_does_not_reach_into_the_next(
    sentences: bytes, http: httpx.Client
) -> None:
    fields = {"model": "whisper-1", "response_format": "srt", "max_line_width": "24"}
    text = http.post("/v1/audio/transcriptions", data=fields, files={"file": sentences}).text
    cues = [cue.split("\n", 2) for cue in text.strip().split("\n\n")]
    assert all(len(line) <= 24 for _, _, lines in cues for line in lines.split("\n"))
    assert fruits_in(text) == list(FRUITS)


def test_log_probabilities(client: OpenAI, pangram: Float) -> None:
    file = ("pangram.wav", encoded(pangram, RATE, "WAV"))
    answer = client.audio.transcriptions.create(model="whisper-1", file=file, include=["logprobs"])
    assert answer.logprobs
    assert all(token.logprob is not None and token.logprob <= 0 for token in answer.logprobs)
    said = b"".join(bytes(int(byte) for byte in token.bytes or []) for token in answer.logprobs).decode()
    assert word_errors(said, PANGRAM) < 0.1


@pytest.mark.parametrize("language", ["en", "en-US", "en_US", "English", "eng"])
def test_a_language_in_any_spelling(language: str, client: OpenAI, pangram: Float) -> None:
    file = ("pangram.wav", encoded(pangram, RATE, "WAV"))
    answer = client.audio.transcriptions.create(model="whisper-1", file=file, language=language)
    assert word_errors(answer.text, PANGRAM) < 0.1


def test_word_times_with_json_are_refused(client: OpenAI, pangram: Float) -> None:
    file = ("pangram.wav", encoded(pangram, RATE, "WAV"))
    with pytest.raises(openai.BadRequestError, match="needs response_format=verbose_json"):
        client.audio.transcriptions.create(model="whisper-1", file=file, timestamp_granularities=["word"])


def test_unknown_fields_are_named_also_with_events(http: httpx.Client, pangram: Float) -> None:
    files = {"file": encoded(pangram, RATE, "WAV")}
    for stream in ("false", "true"):
        fields = {"model": "whisper-1", "beam_size": "5", "vad_filter": "true", "stream": stream}
        answer = http.post("/v1/audio/transcriptions", data=fields, files=files)
        assert (answer.status_code, answer.headers["x-motet-ignored"]) == (200, "beam_size")
    assert "did you mean 'temperature'" in refusal(http, files["file"], temprature="0")["message"]


@pytest.mark.parametrize("stream", ["false", "true"])
@pytest.mark.parametrize("path", ["transcriptions", "diarizations", "speech/timestamps", "embeddings"])
@pytest.mark.parametrize("damage", ["cut off", "noise", "text", "empty"])
def test_what_cannot_be_read_is_refused_with_a_remedy(
    damage: str, path: str, stream: str, http: httpx.Client, pangram: Float
) -> None:
    wav = encoded(pangram, RATE, "WAV")
    data = {"cut off": wav[:100], "noise": bytes(range(256)) * 40, "text": b"Hello there.\n" * 50, "empty": b""}[damage]
    error = refusal(http, data, path, **({"stream": stream} if path == "transcriptions" else {}))
    assert len(error["message"]) > 20
    assert error["param"] in ("file", None)
