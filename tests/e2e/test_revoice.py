"""POST /v1/audio/revoice: the same words, the pauses and the background of the recording, and nothing left of a client that
leaves."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from openai import OpenAI

from .conftest import Float, Service, decoded, encoded, heard_in, settled_work, spoken, wait_for, word_errors
from .test_separations import Sessions, sessions

__all__ = ["sessions"]  # a fixture

PATH = "/v1/audio/revoice"
RATE = 24_000
SENTENCES = (
    "The train to the coast leaves at noon.",
    "Please bring a warm coat and a sandwich.",
    "We will be back before it gets dark.",
)
PAUSES_S = (1.0, 1.5, 2.5, 0.8)
"""Before each sentence, and after the last."""
PLACE_S = 0.25
"""Where voice activity sees speech begin, it may be off by as much."""
NOISE = 0.02


@pytest.fixture(scope="module")
def talk(client: OpenAI) -> Float:
    """The sentences with pauses, mono at `RATE`."""
    parts = [np.zeros(round(PAUSES_S[0] * RATE), np.float32)]
    for sentence, pause_s in zip(SENTENCES, PAUSES_S[1:], strict=True):
        parts += [sounding(spoken(client, sentence)), np.zeros(round(pause_s * RATE), np.float32)]
    return np.concatenate(parts)


def sounding(samples: Float) -> Float:
    """A sound without the silence around it."""
    loud = np.flatnonzero(np.abs(samples) > 0.02)
    return samples[loud[0] : loud[-1] + 1]


def onsets(samples: Float, rate: int, pause_s: float = 0.5) -> list[float]:
    """Where sound begins after a pause, in seconds."""
    loud = np.flatnonzero(np.abs(samples) > 0.05)
    begins = np.flatnonzero(np.diff(loud, prepend=-rate) > pause_s * rate)
    return [float(loud[at]) / rate for at in begins]


def revoiced(http: httpx.Client, file: bytes, **fields: str) -> httpx.Response:
    answer = http.post(PATH, data=fields, files={"file": ("talk.wav", file)})
    assert answer.status_code == 200, answer.text
    return answer


def test_the_same_words_are_spoken_at_the_same_places(http: httpx.Client, client: OpenAI, talk: Float) -> None:
    answer = revoiced(http, encoded(talk, RATE, "WAV"))
    assert answer.headers["content-type"] == "audio/wav"
    assert (answer.headers["x-motet-model"], answer.headers["x-motet-voice"]) == ("hibari", "heart")
    assert "total;dur=" in answer.headers["server-timing"]
    rows, rate = decoded(answer.content)
    assert str(rate) == answer.headers["x-sample-rate"]
    assert rows.shape[1] / rate == pytest.approx(len(talk) / RATE, abs=0.01)
    assert onsets(rows[0], rate) == pytest.approx(onsets(talk, RATE), abs=PLACE_S)
    assert word_errors(heard_in(client, answer.content), " ".join(SENTENCES)) <= 2 / 24


def test_events_say_what_is_spoken_where(http: httpx.Client, talk: Float) -> None:
    fields = {"stream_format": "sse", "response_format": "pcm"}
    text = revoiced(http, encoded(talk, RATE, "WAV"), **fields).text
    *found, done = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]
    phrases = [each for each in found if each["type"] == "revoice.phrase"]
    assert len(phrases) == len(SENTENCES)
    assert [each["start"] for each in phrases] == pytest.approx(onsets(talk, RATE), abs=PLACE_S)
    assert word_errors(" ".join(each["text"] for each in phrases), " ".join(SENTENCES)) <= 2 / 24
    assert all(each["spoken"] and each["drift"] == 0 for each in phrases)
    sound = b"".join(base64.b64decode(each["audio"]) for each in found if each["type"] == "revoice.audio.delta")
    assert len(sound) / 2 / RATE == pytest.approx(done["duration"], abs=0.001)
    assert done["duration"] == pytest.approx(done["recording_duration"], abs=0.001)
    assert done["recording_duration"] == pytest.approx(len(talk) / RATE, abs=0.01)


def test_the_background_stays_at_its_level_if_it_is_asked_for(http: httpx.Client, talk: Float) -> None:
    noise = np.random.default_rng(1).standard_normal((2, len(talk))).astype(np.float32) * NOISE
    file = encoded(talk * 0.5 + noise, RATE, "WAV", "FLOAT")
    rows, rate = decoded(revoiced(http, file, background="keep").content)
    assert rows.shape[1] / rate == pytest.approx(len(talk) / RATE, abs=0.01)
    assert (len(rows), rate) == (2, 48_000)
    pause = slice(round(0.2 * rate), round(0.8 * rate))
    assert 20 * np.log10(np.std(rows[:, pause]) / NOISE) == pytest.approx(0, abs=1.5)
    alone, _ = decoded(revoiced(http, file).content)
    assert len(alone) == 1
    assert not alone[:, round(0.2 * RATE) : round(0.7 * RATE)].any()


@pytest.mark.parametrize("form", ["mp3", "opus", "aac", "flac", "pcm"])
def test_it_comes_in_every_format(form: str, http: httpx.Client, talk: Float) -> None:
    data = revoiced(http, encoded(talk[: 5 * RATE], RATE, "WAV"), response_format=form).content
    if form == "pcm":
        assert len(data) / 2 / RATE == pytest.approx(5, abs=0.01)
    else:
        rows, rate = decoded(data)
        assert rows.shape[1] / rate == pytest.approx(5, abs=0.15)


def test_a_recording_without_speech_is_refused(http: httpx.Client) -> None:
    file = encoded(np.zeros(3 * RATE, np.float32), RATE, "WAV")
    for fields in ({}, {"background": "keep"}, {"stream_format": "sse"}):
        answer = http.post(PATH, data=fields, files={"file": ("a.wav", file)})
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "no_speech")


def test_a_language_that_the_voice_does_not_speak_is_refused(http: httpx.Client, talk: Float) -> None:
    files = {"file": ("talk.wav", encoded(talk, RATE, "WAV"))}
    answer = http.post(PATH, data={"language": "de"}, files=files)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "language_not_supported")
    assert "translate=true" in answer.json()["error"]["message"]


def test_a_client_that_leaves_takes_everything_along(
    http: httpx.Client, service: Service, sessions: Sessions, talk: Float
) -> None:
    long = encoded(np.tile(talk, 30), RATE, "WAV")
    with http.stream("POST", PATH, data={"background": "keep"}, files={"file": ("a.wav", long)}) as answer:
        assert answer.status_code == 200
        blocks = answer.iter_raw()  # the end of an iterator that nobody holds would close the connection
        assert next(blocks)
        assert sessions() >= 1
    wait_for(lambda: sessions() == 0, 20, "the sessions to be closed")
    wait_for(lambda: open_requests(http) == 0, 20, "the places in the queues to be free")
    for replica in ("hibari@cpu", "whisper-base@cpu", "deepfilternet@cpu"):
        settled_work(service.replica(replica))


def open_requests(http: httpx.Client) -> int:
    queues: dict[str, Any] = http.get("/readyz").json()["queues"]
    return sum(queue["open"] for queue in queues.values())


def test_several_at_once_each_get_their_own(http: httpx.Client, client: OpenAI) -> None:
    def one(sentence: str) -> str:
        silence = np.zeros(RATE, np.float32)
        sound = np.concatenate([silence, sounding(spoken(client, sentence)), silence])
        return heard_in(client, revoiced(http, encoded(sound, RATE, "WAV")).content)

    with ThreadPoolExecutor(3) as pool:
        for sentence, heard in zip(SENTENCES, pool.map(one, SENTENCES), strict=True):
            assert word_errors(heard, sentence) <= 1 / 8
