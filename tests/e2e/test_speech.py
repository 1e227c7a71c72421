"""POST /v1/audio/speech with real clients: valid files, early first bytes, order, and no mixed streams."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import subprocess
import wave
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from openai import OpenAI

from .conftest import (
    PANGRAM,
    Float,
    Service,
    cpu_seconds,
    decoded,
    encoded,
    from_int16,
    heard_in,
    settled_work,
    spoken,
    word_errors,
)

RATE = 24_000
FORMATS = ("mp3", "opus", "aac", "flac", "wav")
MEDIA_TYPES = {"mp3": "mpeg", "opus": "ogg", "aac": "aac", "flac": "flac", "wav": "wav", "pcm": "pcm"}
CODECS = {"mp3": "mp3", "opus": "opus", "aac": "aac", "flac": "flac", "wav": "pcm_s16le"}
LONG_TEXT = " ".join(f"Item number {n} is a small red boat on the wide blue lake." for n in range(100, 331))


def said(client: OpenAI, **changes: object) -> bytes:
    """The answer to the pangram, with some fields changed; `seed` is not one of OpenAI's."""
    fields = {"model": "tts-1", "input": PANGRAM, "voice": "alloy", "response_format": "wav", **changes}
    extra = {"seed": fields.pop("seed")} if "seed" in fields else {}
    return client.audio.speech.create(**fields, extra_body=extra).content  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMATS)
def test_each_format_is_one_valid_file_of_the_right_length_and_words(
    form: str, client: OpenAI, pangram: Float, tmp_path: Path
) -> None:
    data = said(client, response_format=form)
    samples, rate = decoded(data)
    assert samples.shape[0] == 1
    assert samples.shape[1] / rate == pytest.approx(len(pangram) / RATE, abs=0.15)
    assert word_errors(heard_in(client, data, f"sound.{form}"), PANGRAM) < 0.1
    if shutil.which("ffprobe"):
        file = tmp_path / f"sound.{form}"
        file.write_bytes(data)
        assert probed_codec(file) == CODECS[form]


def probed_codec(file: Path) -> str:
    asked = ("ffprobe", "-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", str(file))
    return subprocess.run(asked, capture_output=True, check=True, text=True).stdout.strip()


@pytest.mark.parametrize("form", [*FORMATS, "pcm"])
def test_the_answer_says_what_it_is(form: str, http: httpx.Client) -> None:
    body = {"model": "tts-1", "input": "Yes.", "voice": "alloy", "response_format": form}
    answer = http.post("/v1/audio/speech", json=body)
    assert answer.headers["content-type"] == f"audio/{MEDIA_TYPES[form]}"
    assert answer.headers["x-sample-rate"] == str(RATE)
    assert answer.content


def test_a_text_in_another_script_is_refused_and_a_word_is_named(http: httpx.Client) -> None:
    refused = http.post("/v1/audio/speech", json={"model": "tts-1", "input": "Привет, как дела?", "voice": "alloy"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "script_not_supported")
    assert "does not read Cyrillic. Send a text in its script" in refused.json()["error"]["message"]
    partly = http.post("/v1/audio/speech", json={"model": "tts-1", "input": "The word is мир.", "voice": "alloy"})
    assert (partly.status_code, partly.headers["x-motet-unread-scripts"]) == (200, "Cyrillic")


def test_pcm_is_the_body_of_the_wav(client: OpenAI, pangram: Float) -> None:
    samples, _ = soundfile.read(io.BytesIO(said(client)), dtype="float32")
    np.testing.assert_array_equal(samples, pangram)


def test_wav_opens_with_pythons_wave(client: OpenAI, pangram: Float) -> None:
    with wave.open(io.BytesIO(said(client))) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        np.testing.assert_array_equal(from_int16(file.readframes(file.getnframes())), pangram)


def test_a_prefix_of_a_streamed_wav_is_readable(client: OpenAI, pangram: Float) -> None:
    prefix = said(client)[: 44 + 2 * RATE]  # a second
    samples, _ = soundfile.read(io.BytesIO(prefix), dtype="float32")
    np.testing.assert_array_equal(samples, pangram[:RATE])
    with wave.open(io.BytesIO(prefix)) as file:
        np.testing.assert_array_equal(from_int16(file.readframes(file.getnframes())), pangram[:RATE])


def test_curl_saves_a_playable_file(service: Service, client: OpenAI, tmp_path: Path) -> None:
    file = tmp_path / "speech.mp3"
    body = json.dumps({"model": "tts-1", "input": PANGRAM, "voice": "alloy"})
    asked = ("curl", "--silent", "--show-error", "--fail", "--no-buffer", f"{service.url}/v1/audio/speech")
    subprocess.run([*asked, "--json", body, "--output", str(file)], check=True, timeout=60)
    assert word_errors(heard_in(client, file.read_bytes(), file.name), PANGRAM) < 0.1


def test_sse_events_hold_the_same_bytes_and_a_usage(client: OpenAI) -> None:
    fields = {"model": "tts-1", "input": PANGRAM, "voice": "alloy", "response_format": "mp3"}
    with client.audio.speech.with_streaming_response.create(**fields, stream_format="sse") as answer:  # type: ignore[arg-type]
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: ")]
    *deltas, done = events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas) == said(client, response_format="mp3")
    assert done["type"] == "speech.audio.done"
    usage = done["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 0


@pytest.mark.parametrize("speed", [0.25, 0.5, 2.0, 4.0])
def test_speed_changes_the_length_and_not_the_words(speed: float, client: OpenAI, pangram: Float) -> None:
    samples = from_int16(said(client, response_format="pcm", speed=speed))
    assert len(samples) == pytest.approx(len(pangram) / speed, rel=0.12)
    if speed < 4:
        assert word_errors(heard_in(client, encoded(samples, RATE, "WAV")), PANGRAM) < 0.35


def test_the_same_seed_is_the_same_sound_and_another_is_not(client: OpenAI) -> None:
    assert said(client, seed=7) == said(client, seed=7) != said(client, seed=8)


@pytest.mark.parametrize("voice", ["heart", "nova", {"id": "heart"}, {"id": "shimmer"}], ids=str)
def test_a_voice_goes_by_its_name_alias_or_id(voice: object, client: OpenAI) -> None:
    assert said(client, voice=voice) == said(client, voice="alloy")


def test_models_are_listed_and_found_with_their_aliases(client: OpenAI) -> None:
    ids = {model.id for model in client.models.list()}
    assert {"hibari", "whisper-base", "deepfilternet", "tts-1", "whisper-1", "gpt-4o-mini-tts"} <= ids
    found = client.models.retrieve("tts-1")
    assert (found.id, found.object, found.owned_by) == ("tts-1", "model", "motet")


def test_voices_are_listed_with_their_aliases(http: httpx.Client) -> None:
    (voice,) = http.get("/v1/audio/voices", params={"model": "tts-1"}).json()["data"]
    assert (voice["id"], voice["model"], voice["language"]) == ("heart", "hibari", "en-US")
    assert {"alloy", "nova", "shimmer"} <= set(voice["aliases"])


def test_sixteen_at_once_never_get_each_others_sound(client: OpenAI) -> None:
    texts = [f"Passenger {n} has a ticket to platform {17 - n}. It leaves in {n + 3} minutes." for n in range(1, 17)]
    alone = [spoken(client, text) for text in texts]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda text: spoken(client, text), texts))
    for one, same in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, same)
    assert len({one.tobytes() for one in alone}) == 16


@dataclass(frozen=True, slots=True)
class Reading:
    """A long text: the CPU seconds of the synthesizer until the first bytes, and in total."""

    headers: httpx.Headers
    first: bytes
    sound: Float
    work_until_first: float
    work: float


@pytest.fixture(scope="module")
def reading(service: Service, http: httpx.Client) -> Reading:
    """3,000 words, read as they are made."""
    replica = service.replica("hibari@cpu")
    began = cpu_seconds(replica)
    body = {"model": "tts-1", "input": LONG_TEXT, "voice": "alloy", "response_format": "pcm"}
    with http.stream("POST", "/v1/audio/speech", json=body) as answer:
        blocks = answer.iter_raw()
        first = next(blocks)
        until_first = cpu_seconds(replica) - began
        sound = from_int16(first + b"".join(blocks))
        return Reading(answer.headers, first, sound, until_first, cpu_seconds(replica) - began)


def test_the_first_sound_leaves_before_the_rest_is_made(reading: Reading) -> None:
    assert "content-length" not in reading.headers
    assert reading.headers["transfer-encoding"] == "chunked"
    assert 0 < len(reading.first) < reading.sound.nbytes / 2 / 20
    assert reading.work > 2.0
    assert reading.work_until_first < reading.work / 10


@pytest.mark.long
def test_three_thousand_words_come_whole_and_in_order(reading: Reading, client: OpenAI) -> None:
    assert len(LONG_TEXT.split()) >= 3000
    items = len(re.findall("Item", LONG_TEXT))
    per_item = len(reading.sound) / items
    assert 2.0 < per_item / RATE < 8.0
    for place in (0.0, 0.5, 1.0):
        start = int(place * (len(reading.sound) - 6 * per_item))
        numbers = heard_numbers(client, reading.sound[start : start + int(6 * per_item)])
        first, heard_right = Counter(number - at for at, number in enumerate(numbers)).most_common(1)[0]
        assert heard_right >= len(numbers) - 1 >= 4  # the model makes an occasional error
        assert abs(first - (100 + start / per_item)) < 6
    assert numbers[-1] == 330


def heard_numbers(client: OpenAI, sound: Float) -> list[int]:
    return [int(number) for number in re.findall(r"\b[1-3]\d\d\b", heard_in(client, encoded(sound, RATE, "WAV")))]


LEAVERS = 6


@pytest.mark.parametrize("headers", [{}, {"x-request-disconnect-disabled": "?1"}], ids=["plain", "asks to go on"])
def test_the_work_stops_when_the_client_leaves(
    headers: dict[str, str], reading: Reading, service: Service, client: OpenAI, http: httpx.Client
) -> None:
    replica = service.replica("hibari@cpu")
    began = settled_work(replica)
    for _ in range(LEAVERS):
        take_first_bytes(http, headers)
    assert spoken(client, "Next, please.").size > RATE / 4
    # Without the disconnect, each would have made the whole request: a minute of audio.
    cost_of_a_minute = reading.work / (len(reading.sound) / RATE) * 60
    assert settled_work(replica) - began < LEAVERS * cost_of_a_minute / 2


def take_first_bytes(http: httpx.Client, headers: dict[str, str]) -> None:
    body = {"model": "tts-1", "input": LONG_TEXT, "voice": "alloy", "response_format": "pcm"}
    with http.stream("POST", "/v1/audio/speech", json=body, headers=headers) as answer:
        assert next(answer.iter_raw())


@pytest.mark.parametrize("audio_format", ["mp3", "opus"])
def test_clients_that_leave_while_it_encodes_do_not_end_the_gateway(
    service: Service, http: httpx.Client, audio_format: str
) -> None:
    gateway = service.replica("gateway").pid
    text = "This goes on for a while, and nobody stays to hear the end of it. " * 20
    for seed in range(12):
        body = {"model": "hibari", "input": text, "response_format": audio_format, "seed": seed}
        with http.stream("POST", "/v1/audio/speech", json=body) as answer:
            assert len(next(answer.iter_raw())) > 0
    good = http.post("/v1/audio/speech", json={"model": "hibari", "input": "Still here.", "response_format": "wav"})
    assert good.status_code == 200
    assert service.replica("gateway").pid == gateway
