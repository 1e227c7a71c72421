"""Every invalid request gets a quick 4xx with a remedy, and the next request is answered."""

from __future__ import annotations

import io
import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import soundfile

from .conftest import Float, Service, cpu_seconds, encoded, settled_work, wait_for

SPEECH = "/v1/audio/speech"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
SEPARATIONS = "/v1/audio/separations"
LONGEST_S = 2.0
WORK_S = 8.0
GOOD = {"model": "tts-1", "input": "Good.", "voice": "alloy", "response_format": "pcm"}
JPEG = b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(4000)
LOUD = np.random.default_rng(0).uniform(-0.5, 0.5, 16_000).astype(np.float32)


@dataclass(frozen=True)
class Bad:
    """A request that must be refused with `status`, blaming `param`, in words that include `remedy`."""

    path: str
    status: int
    param: str | None
    remedy: str
    method: str = "POST"
    json: Any = None
    data: dict[str, str] = field(default_factory=dict)
    files: dict[str, Any] = field(default_factory=dict)
    content: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)


def speech(status: int, param: str | None, remedy: str, **changes: Any) -> Bad:
    return Bad(SPEECH, status, param, remedy, json={**GOOD, **changes})


def raw(status: int, param: str | None, remedy: str, content: bytes) -> Bad:
    return Bad(SPEECH, status, param, remedy, content=content, headers={"content-type": "application/json"})


def transcription(status: int, param: str | None, remedy: str, file: bytes, name: str = "a.wav", **fields: str) -> Bad:
    return Bad(
        TRANSCRIPTIONS, status, param, remedy, data={"model": "whisper-1", **fields}, files={"file": (name, file)}
    )


def separation(status: int, param: str | None, remedy: str, file: bytes | None = None, **fields: str) -> Bad:
    sound = encoded(LOUD, 16_000, "WAV") if file is None else file
    return Bad(
        SEPARATIONS, status, param, remedy, data={"model": "deepfilternet", **fields}, files={"file": ("a.wav", sound)}
    )


def head_of(kind: str, size: int) -> bytes:
    return encoded(LOUD, 16_000, kind)[:size]


FORMATS_READ = "Send WAV, FLAC, MP3"

BAD = {
    "empty text": speech(400, "input", "Send some words", input=""),
    "whitespace": speech(400, "input", "Send some words", input=" \n\t "),
    "only emoji": speech(400, "input", "Send some words", input="😀🎉"),
    "only marks": speech(400, "input", "Send some words", input="... !! --"),
    "text is a number": speech(400, "input", "valid string", input=5),
    "text is null": speech(400, "input", "valid string", input=None),
    "too much text": speech(413, "input", "Send it in parts", input="word " * 20_001),
    "10 MB of text": speech(413, None, "Send less", input="word " * 2_000_000),
    "unknown model": speech(404, "model", "Models for speech: hibari", model="nope"),
    "model that hears": speech(404, "model", "Models for speech: hibari", model="whisper-1"),
    "unknown voice": speech(404, "voice", "Voices: heart, alloy", voice="nope"),
    "voice is a path": speech(404, "voice", "Voices: heart, alloy", voice="../../etc/passwd"),
    "voice is a list": speech(400, "voice", "name", voice=["alloy"]),
    "voice with an unknown field": speech(400, "voice", "name", voice={"id": "heart", "name": "x"}),
    "unknown format": speech(400, "response_format", "'mp3', 'opus'", response_format="midi"),
    "misspelt field": speech(400, "sped", "did you mean 'speed'", sped=2),
    "speed 9": speech(400, "speed", "less than or equal to 4", speed=9),
    "speed 0": speech(400, "speed", "greater than or equal to 0.25", speed=0),
    "speed in words": speech(400, "speed", "valid number", speed="fast"),
    "negative seed": speech(400, "seed", "greater than or equal to 0", seed=-1),
    "no input": Bad(SPEECH, 400, "input", "required", json={"model": "tts-1", "voice": "alloy"}),
    "JSON that is not": raw(400, None, "Send a JSON object with 'model', 'input'", b"{nope"),
    "JSON that is cut": raw(400, None, "Send a JSON object with", json.dumps(GOOD).encode()[:-3]),
    "JSON list": raw(400, None, "Send a JSON object with", b"[1]"),
    "no body": raw(400, None, "Send a JSON object with", b""),
    "not UTF-8": raw(400, None, "Send a JSON object with", b'{"model":"tts-1","input":"\xff\xfe"}'),
    "half a surrogate": raw(400, None, "Send a JSON object with", b'{"model":"tts-1","input":"\\ud800 hello"}'),
    "deep JSON": raw(400, None, "Send a JSON object with", b"[" * 100_000),
    "picture called wav": transcription(400, "file", "looks like a JPEG picture. Send WAV", JPEG),
    "text called mp3": transcription(400, "file", FORMATS_READ, b"These are just words. " * 50, "a.mp3"),
    "noise": transcription(400, "file", FORMATS_READ, b"\x01" + np.random.default_rng(1).bytes(5000)),
    "wav cut in its header": transcription(400, "file", "Check that it plays", head_of("WAV", 20)),
    "wav without sound": transcription(400, "file", "Send a recording with some sound", head_of("WAV", 44)),
    "mp3 cut in its first frame": transcription(400, "file", "Check that it plays", head_of("MP3", 40), "a.mp3"),
    "flac cut in its header": transcription(400, "file", "Check that it plays", head_of("FLAC", 30), "a.flac"),
    "zero-length sound": transcription(400, "file", "some sound in it", encoded(LOUD[:0], 16_000, "WAV")),
    "empty file": transcription(400, "file", "Send a recording", b""),
    "1 Hz": transcription(400, "file", "4000 to 192000 Hz are accepted", encoded(LOUD, 1, "WAV")),
    "9 channels": transcription(400, "file", "up to 8 are accepted", encoded(np.tile(LOUD, (9, 1)), 16_000, "WAV")),
    "unknown answer format": transcription(400, "response_format", "'srt'", head_of("WAV", 9000), response_format="x"),
    "hot": transcription(400, "temperature", "less than or equal to 1", head_of("WAV", 9000), temperature="9"),
    "unknown granularity": transcription(
        400, "timestamp_granularities", "'word' or 'segment'", head_of("WAV", 9000), **{"timestamp_granularities[]": "x"}
    ),
    "misspelt form field": transcription(400, "langage", "did you mean 'language'", head_of("WAV", 9000), langage="en"),
    "unknown transcription model": transcription(404, "model", "whisper-base", head_of("WAV", 9000), model="nope"),
    "no file": Bad(TRANSCRIPTIONS, 400, "file", "field 'file'", data={"model": "whisper-1"}, files={"other": b"x"}),
    "file is a word": Bad(TRANSCRIPTIONS, 400, "file", "field 'file'", files={"model": (None, "whisper-1"), "file": (None, "x")}),
    "no model": Bad(TRANSCRIPTIONS, 400, "model", "required", files={"file": head_of("WAV", 9000)}),
    "no multipart": Bad(TRANSCRIPTIONS, 400, "file", "field 'file'", data={"model": "whisper-1"}),
    "broken multipart": Bad(
        TRANSCRIPTIONS, 400, None, "Send a multipart form", content=b"x", headers={"content-type": "multipart/form-data; boundary=b"}
    ),
    "no boundary": Bad(
        TRANSCRIPTIONS, 400, None, "Send a multipart form", content=b"x", headers={"content-type": "multipart/form-data"}
    ),
    "picture to separate": separation(400, "file", "looks like a JPEG picture. Send WAV", JPEG),
    "nothing to separate": separation(400, "file", "Send a recording", b""),
    "a description": separation(400, "description", "Leave it out", description="the drums"),
    "unknown stem": separation(400, "stems", "Its stems: speech, background", stems="drums"),
    "one unknown stem of two": separation(400, "stems", "Its stems: speech, background", stems="speech,drums"),
    "overlap over half": separation(400, "overlap_seconds", "half a chunk", chunk_seconds="4", overlap_seconds="3"),
    "negative overlap": separation(400, "overlap_seconds", "greater than or equal to 0", overlap_seconds="-1"),
    "endless chunks": separation(400, "chunk_seconds", "Use 0.5 to 60 s", chunk_seconds="1e9"),
    "tiny chunks": separation(400, "chunk_seconds", "Use 0.5 to 60 s", chunk_seconds="0.0001"),
    "chunks that are no number": separation(400, "chunk_seconds", "greater than 0", chunk_seconds="nan"),
    "model that speaks": separation(404, "model", "Models for separation: deepfilternet", model="tts-1"),
    "wrong method": Bad(SPEECH, 405, None, "GET /openapi.json", method="GET"),
    "unknown path": Bad("/v1/audio/singing", 404, None, "GET /openapi.json", json=GOOD),
    "path out of the page": Bad("/page/%2e%2e/config.py", 404, None, "GET /openapi.json", method="GET"),
    "unknown model to look up": Bad("/v1/models/nope", 404, "model", "Models: hibari", method="GET"),
    "voices of no model": Bad("/v1/audio/voices?model=nope", 404, "model", "Models for speech", method="GET"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_at_once_with_a_remedy(name: str, http: httpx.Client) -> None:
    bad = BAD[name]
    body = {"json": bad.json} if bad.json is not None else {"data": bad.data, "files": bad.files or None}
    if bad.content is not None:
        body = {"content": bad.content}
    asked = time.monotonic()
    answer = http.request(bad.method, bad.path, headers=bad.headers, **body)
    took = time.monotonic() - asked
    assert answer.status_code == bad.status, answer.text
    assert took < LONGEST_S
    check_error(answer.json(), bad.param, bad.remedy)
    check_next_request(http)


def check_error(answer: dict[str, Any], param: str | None, remedy: str) -> None:
    error = answer["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert remedy.lower() in error["message"].lower()
    assert not error["message"].startswith(":")
    assert "Traceback" not in error["message"]


def check_next_request(http: httpx.Client) -> None:
    answer = http.post(SPEECH, json=GOOD)
    assert answer.status_code == 200, answer.text
    assert np.abs(np.frombuffer(answer.content, "<i2")).max() > 1000


@pytest.mark.parametrize(("path", "length"), [(SPEECH, 10**11), (TRANSCRIPTIONS, 10**11), (SEPARATIONS, 10**13)])
def test_a_huge_announced_body_is_refused_before_it_is_sent(
    path: str, length: int, service: Service, http: httpx.Client
) -> None:
    connection = http_connection(service)
    connection.putrequest("POST", path)
    connection.putheader("content-type", "multipart/form-data; boundary=b")
    connection.putheader("content-length", str(length))
    connection.endheaders()
    asked = time.monotonic()
    answer = connection.getresponse()
    assert time.monotonic() - asked < LONGEST_S
    assert answer.status == 413
    check_error(json.load(answer), None, "Send less")
    connection.close()
    check_next_request(http)


def http_connection(service: Service) -> HTTPConnection:
    return HTTPConnection(service.host, service.port, timeout=20)


def test_a_body_that_hides_its_length_is_cut_off(http: httpx.Client) -> None:
    def endless() -> Any:
        for _ in range(64):
            yield b" " * 65_536

    answer = http.post(SPEECH, content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413
    check_error(answer.json(), None, "Send less")
    check_next_request(http)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
def test_a_recording_that_breaks_off_gives_what_it_holds(kind: str, http: httpx.Client, pangram: Float) -> None:
    data = encoded(pangram, 24_000, kind)
    answer = http.post(TRANSCRIPTIONS, data={"model": "whisper-1"}, files={"file": ("a", data[: len(data) // 2])})
    words = answer.json()["text"]
    assert "fox jumps over" in words.lower()
    assert "tree" not in words.lower()


def test_hours_of_silence_in_a_small_file_do_not_fill_the_memory(
    service: Service, http: httpx.Client, tmp_path: Path
) -> None:
    replicas = [service.replica("whisper-base@cpu"), service.replica("gateway")]
    before = resident(replicas)
    worked = cpu_seconds(replicas[0])
    bomb = silent_flac(hours=3)
    assert len(bomb) < 3 * 10**6
    (tmp_path / "bomb.flac").write_bytes(bomb)
    form = ("--form", "model=whisper-1", "--form", f"file=@{tmp_path}/bomb.flac")
    with subprocess.Popen(["curl", "--silent", f"{service.url}{TRANSCRIPTIONS}", *form]) as asking:
        peak = peak_while(replicas, lambda: asking.poll() is not None or cpu_seconds(replicas[0]) - worked > WORK_S)
        asking.terminate()
    assert peak - before < 300 * 2**20
    assert settled_work(replicas[0]) - worked < WORK_S + 3  # the rest is not computed
    check_next_request(http)


def silent_flac(hours: int) -> bytes:
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", 16_000, 1, format="FLAC") as flac:
        for _ in range(hours * 60):
            flac.write(np.zeros(60 * 16_000, np.int16))
    return file.getvalue()


def resident(processes: list[psutil.Process]) -> int:
    return int(sum(process.memory_info().rss for process in processes))


def peak_while(processes: list[psutil.Process], over: Callable[[], bool]) -> int:
    """The most memory seen until then."""
    peaks = [0]

    def watched() -> bool:
        peaks.append(resident(processes))
        return over()

    wait_for(watched, 90, "the bomb to be worked on")
    return max(peaks)
