"""POST /v1/audio/separations: complete output, less noise, audio that is sent early, and no files left."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import soundfile
import soxr
from numpy.typing import NDArray

from .conftest import Float, Service, cpu_seconds, decoded, encoded, wait_for

PATH = "/v1/audio/separations"
RATE = 48_000
Sessions = Callable[[], int]


def separate(http: httpx.Client, file: bytes, **fields: str) -> httpx.Response:
    answer = http.post(PATH, data={"model": "deepfilternet", **fields}, files={"file": ("mix.wav", file)})
    assert answer.status_code == 200, answer.text
    return answer


def stems_in(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        assert file.testzip() is None
        return {name: file.read(name) for name in file.namelist()}


def int16_noise(samples: int, channels: int, seed: int = 0) -> NDArray[np.int16]:
    noise = np.random.default_rng(seed).integers(-32768, 32768, (samples, channels), dtype=np.int16)
    noise[:2] = [[-32768], [32767]]
    return noise


def int16_file(samples: NDArray[np.int16], rate: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="WAV", subtype="PCM_16")
    return file.getvalue()


CUTS = {
    "as it comes": {},
    "no overlap": {"chunk_seconds": "2", "overlap_seconds": "0"},
    "half overlap": {"chunk_seconds": "1", "overlap_seconds": "0.5"},
    "odd numbers": {"chunk_seconds": "0.731", "overlap_seconds": "0.1234"},
    "one chunk for all": {"chunk_seconds": "60", "overlap_seconds": "3"},
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize(
    ("rate", "channels", "samples"),
    [(44_100, 2, 44_100 * 3 + 17), (16_000, 1, 16_000 * 12 + 1), (8_000, 1, 7), (48_000, 2, 48_000 * 2)],
    ids=["stereo 44.1k", "mono 16k", "seven samples", "two whole seconds"],
)
def test_identity_gives_back_every_bit(cut: str, rate: int, channels: int, samples: int, http: httpx.Client) -> None:
    sent = int16_noise(samples, channels)
    answer = separate(http, int16_file(sent, rate), model="identity", **CUTS[cut])
    got, got_rate = soundfile.read(io.BytesIO(answer.content), dtype="int16", always_2d=True)
    assert got_rate == rate
    np.testing.assert_array_equal(got, sent)


def noisy(pangram: Float) -> tuple[Float, Float]:
    """(clean, mixture) at 24 kHz: speech in steady noise, as loud as the speech."""
    noise = np.random.default_rng(3).standard_normal(len(pangram)).astype(np.float32)
    return pangram, pangram + noise * np.float32(np.std(pangram))


def si_sdr(clean: Float, got: Float) -> float:
    """Scale-invariant signal-to-distortion ratio, in dB."""
    size = min(len(clean), len(got))
    clean, got = clean[:size].astype(np.float64), got[:size].astype(np.float64)
    target = clean * (got @ clean) / (clean @ clean)
    return float(10 * np.log10((target @ target) / ((got - target) @ (got - target))))


def test_deepfilternet_takes_the_noise_away(http: httpx.Client, pangram: Float) -> None:
    clean, mixture = noisy(pangram * 0.5)
    file = encoded(mixture, 24_000, "WAV", "FLOAT")
    answer = separate(http, file, stems="speech", chunk_seconds="2", overlap_seconds="0.5")
    speech, rate = decoded(answer.content)
    speech_back = resampled_to(speech[0], rate, 24_000)
    assert len(speech_back) == pytest.approx(len(clean), abs=24)
    assert si_sdr(clean, speech_back) >= si_sdr(clean, mixture) + 4


def test_an_enhancement_is_the_speech_without_the_noise(http: httpx.Client, pangram: Float) -> None:
    clean, mixture = noisy(pangram * 0.5)
    files = {"file": ("mix.wav", encoded(mixture, 24_000, "WAV", "FLOAT"))}
    answer = http.post("/v1/audio/enhancements", files=files)
    assert (answer.status_code, answer.headers["x-motet-model"]) == (200, "deepfilternet")
    assert answer.headers["server-timing"].startswith("first_result;dur=")
    speech, rate = decoded(answer.content)
    speech_back = resampled_to(speech[0], rate, 24_000)
    assert len(speech_back) == pytest.approx(len(clean), abs=24)
    assert si_sdr(clean, speech_back) >= si_sdr(clean, mixture) + 6


def resampled_to(samples: Float, rate: int, wanted: int) -> Float:
    changed: Float = soxr.resample(samples, rate, wanted).astype(np.float32)
    return changed


def test_all_stems_come_as_a_zip_and_add_up(http: httpx.Client, pangram: Float) -> None:
    _, mixture = noisy(pangram * 0.3)
    sent = soxr.resample(mixture, 24_000, RATE).astype(np.float32)
    answer = separate(http, encoded(sent, RATE, "WAV"))
    assert answer.headers["content-type"] == "application/zip"
    assert 'filename="stems.zip"' in answer.headers["content-disposition"]
    assert answer.headers["x-motet-stems"] == "speech,background"
    files = stems_in(answer.content)
    assert list(files) == ["speech.wav", "background.wav"]
    speech, background = (decoded(file)[0][0] for file in files.values())
    np.testing.assert_allclose(speech + background, sent, atol=3e-4)
    assert np.std(speech) > 0.01
    assert np.std(background) > 0.01


@pytest.mark.parametrize("form", ["mp3", "opus", "aac", "flac", "wav"])
def test_stems_come_in_every_format(form: str, http: httpx.Client, pangram: Float) -> None:
    files = stems_in(separate(http, encoded(pangram, 24_000, "WAV"), response_format=form).content)
    assert set(files) == {f"speech.{form}", f"background.{form}"}
    for file in files.values():
        samples, rate = decoded(file)
        assert samples.shape[1] / rate == pytest.approx(len(pangram) / 24_000, abs=0.15)


def test_asked_for_stems_come_in_the_asked_order(http: httpx.Client, pangram: Float) -> None:
    file = encoded(pangram, 24_000, "WAV")
    assert list(stems_in(separate(http, file, stems="background,speech").content)) == ["background.wav", "speech.wav"]


def test_one_stem_streams_as_a_plain_sound(http: httpx.Client, pangram: Float) -> None:
    file = encoded(pangram, 24_000, "WAV")
    alone = separate(http, file, stems="speech")
    assert alone.headers["content-type"] == "audio/wav"
    assert "content-length" not in alone.headers
    assert alone.content == stems_in(separate(http, file).content)["speech.wav"]


def test_sse_interleaves_the_stems_and_ends_with_done(http: httpx.Client, pangram: Float) -> None:
    file = encoded(np.tile(pangram, 4), 24_000, "WAV")
    fields = {"chunk_seconds": "4", "overlap_seconds": "1"}
    answer = separate(http, file, stream_format="sse", **fields)
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in answer.text.split("\n\n") if line]
    *told, done = events
    assert done == {"type": "separation.audio.done", "stems": ["speech", "background"]}
    deltas = [event for event in told if event["type"] == "separation.audio.delta"]
    progress = [event for event in told if event["type"] == "separation.progress"]
    assert len(deltas) + len(progress) == len(told)
    assert progress[-1]["seconds"] == pytest.approx(4 * len(pangram) / 24_000, abs=0.01)
    assert progress[-1]["remaining_seconds"] == pytest.approx(0, abs=0.1)
    order = [event["stem"] for event in deltas]
    assert order[:4] == ["speech", "background"] * 2
    files = stems_in(separate(http, file, **fields).content)
    for stem in ("speech", "background"):
        sound = b"".join(base64.b64decode(event["audio"]) for event in deltas if event["stem"] == stem)
        assert sound == files[f"{stem}.wav"]


SESSIONS = """
import asyncio, ray, sys
from ray import serve

async def main():
    helper = serve.get_deployment_handle("audio-helper", "motet")
    while await asyncio.to_thread(sys.stdin.readline):
        print("sessions", await helper.sessions.remote(), flush=True)

ray.init(sys.argv[1], namespace="serve", log_to_driver=False, logging_level="ERROR")
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def sessions(service: Service) -> Iterator[Sessions]:
    """The number of uploads in the chunker, read from inside the cluster with its token."""
    inside = {
        k: v
        for k, v in service.replica("gateway").environ().items()
        if k.startswith(("RAY_AUTH_", "RAY_SERVE_", "RAY_ENABLE_"))
    }
    program = [sys.executable, "-c", SESSIONS, service.cluster_address()]
    with subprocess.Popen(
        program, env={**os.environ, **inside}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as asking:
        assert asking.stdin
        assert asking.stdout
        question, answers = asking.stdin, asking.stdout

        def count() -> int:
            question.write("\n")
            question.flush()
            answer = next(line for line in answers if line.startswith("sessions"))
            return int(answer.split()[1])

        count()  # the program takes seconds to join the cluster, in which a recording might end
        yield count
        question.close()
        assert asking.wait(30) == 0


def five_minutes() -> dict[str, bytes]:
    noise = np.random.default_rng(5).standard_normal(300 * RATE).astype(np.float32) * 0.05
    return {"file": encoded(noise, RATE, "WAV")}


def test_five_minutes_leave_before_their_end_is_separated(
    http: httpx.Client, service: Service, sessions: Sessions
) -> None:
    replica = service.replica("deepfilternet@cpu")
    began = cpu_seconds(replica)
    with http.stream("POST", PATH, data={"model": "deepfilternet", "stems": "speech"}, files=five_minutes()) as answer:
        blocks = answer.iter_raw()
        first = next(blocks)
        until_first = cpu_seconds(replica) - began
        assert sessions() == 1
        sound = first + b"".join(blocks)
    work = cpu_seconds(replica) - began
    samples, _ = soundfile.read(io.BytesIO(sound), dtype="int16")
    assert len(samples) == 300 * RATE
    assert work > 1
    assert until_first < work / 2
    wait_for(lambda: sessions() == 0, 10, "the session to be closed")


LEAVING = {
    "one stem": {"stems": "speech"},
    "events": {"stream_format": "sse"},
    "archive": {},
}


@pytest.mark.parametrize("way", LEAVING)
def test_a_client_that_leaves_takes_its_session_along(
    way: str, http: httpx.Client, service: Service, sessions: Sessions
) -> None:
    replica = service.replica("deepfilternet@cpu")
    with http.stream("POST", PATH, data={"model": "deepfilternet", **LEAVING[way]}, files=five_minutes()) as answer:
        blocks = answer.iter_raw()
        assert next(blocks)
        assert sessions() == 1
    wait_for(lambda: sessions() == 0, 20, "the session to be closed")
    work = cpu_seconds(replica)
    sent = int16_noise(RATE * 2, 1)
    got, _ = soundfile.read(io.BytesIO(separate(http, int16_file(sent, RATE), model="identity").content), dtype="int16")
    np.testing.assert_array_equal(got, sent[:, 0])
    assert cpu_seconds(replica) - work < 1


def test_a_damaged_upload_leaves_no_session(http: httpx.Client, sessions: Sessions) -> None:
    answer = http.post(PATH, data={"model": "deepfilternet"}, files={"file": ("a.wav", b"\xff\xd8\xff" + bytes(10**6))})
    assert answer.status_code == 400
    wait_for(lambda: sessions() == 0, 10, "the session to be closed")


def test_three_at_once_each_get_their_own(http: httpx.Client, sessions: Sessions) -> None:
    sent = [int16_noise(RATE * 25 + n, 1 + n % 2, seed=n) for n in range(3)]
    with ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda one: separate(http, int16_file(one, RATE), model="identity"), sent))
    for one, answer in zip(sent, answers, strict=True):
        got, _ = soundfile.read(io.BytesIO(answer.content), dtype="int16", always_2d=True)
        np.testing.assert_array_equal(got, one)
    wait_for(lambda: sessions() == 0, 10, "the sessions to be closed")
