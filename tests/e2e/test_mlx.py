"""Tiny models on MLX through the whole service: a batch session that streams share, and separation by description."""

from __future__ import annotations

import io
import signal
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("mlx_audio")

from tests.e2e.conftest import Service, config_of, encoded
from tests.unit import tiny_qwen3_tts, tiny_sam_audio

STREAMS = 8


@pytest.fixture(scope="module")
def mlx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("mlx")
    placements = [{"hardware": {"kind": "mlx", "cpus": 0.1, "share": 0.5}}]
    speech = {
        "engine": "mlx_speech",
        "source": f"path:{tiny_qwen3_tts.write(folder / 'qwen3')}",
        "options": {"temperature": 0.0, "max_tokens": 40, "frames_per_step": 2},
        "placements": placements,
    }
    separation = {
        "engine": "mlx_separation",
        "source": f"path:{tiny_sam_audio.write(folder / 'sam')}",
        "options": {"ode_opt": {"method": "euler", "step_size": 0.5}},
        "placements": placements,
    }
    settings = {
        "models": {"tiny-tts": speech, "tiny-sam": separation},
        "speech": {"piece_cache_bytes": 1},
    }
    config = config_of(folder, settings)
    running = Service.start(config, folder)
    with httpx.Client(base_url=running.url, timeout=60) as client:
        yield client
    running.stop(signal.SIGTERM)


def report(client: httpx.Client, model: str) -> dict[str, Any]:
    found: dict[str, Any] = client.get("/readyz").raise_for_status().json()["models"][model]
    return found


def speak(client: httpx.Client, number: int) -> np.ndarray[Any, np.dtype[np.int16]]:
    body = {"model": "tiny-tts", "input": f"Stream number {number}.", "voice": "ben", "response_format": "pcm"}
    return np.frombuffer(client.post("/v1/audio/speech", json=body).raise_for_status().content, "<i2")


def test_eight_streams_share_a_session_and_sound_as_they_do_alone(mlx: httpx.Client) -> None:
    alone = [speak(mlx, number) for number in range(STREAMS)]
    assert report(mlx, "tiny-tts")["steps"]["largest"] == 1
    with ThreadPoolExecutor(STREAMS) as pool:
        together = list(pool.map(lambda number: speak(mlx, number), range(STREAMS)))
    assert report(mlx, "tiny-tts")["steps"]["largest"] > 4
    assert report(mlx, "tiny-tts")["engine_memory"]["active_bytes"] > 0
    for one, other in zip(together, alone, strict=True):
        assert len(one) == len(other) > 0
        assert np.abs(one.astype(int) - other).max() <= 8  # of 32768; the sums of a batch are taken in another order
    assert len({sound.tobytes() for sound in alone}) == STREAMS


def test_a_recording_is_separated_by_description(mlx: httpx.Client) -> None:
    rate = tiny_sam_audio.RATE
    sound = (0.1 * np.random.default_rng(0).standard_normal(rate * 2)).astype(np.float32)
    stems = [
        _stems(mlx, encoded(sound, rate, "WAV"), description=description, chunk_seconds="1", overlap_seconds="0.25")
        for description in ("a dog", "a dog", "a bell")
    ]
    assert set(stems[0]) == {"target", "residual"}
    assert stems[0] == stems[1]
    assert stems[0]["target"] != stems[2]["target"]


def _stems(client: httpx.Client, recording: bytes, **fields: str) -> dict[str, bytes]:
    data = {"model": "tiny-sam", "response_format": "wav", **fields}
    answer = client.post("/v1/audio/separations", files={"file": ("sound.wav", recording)}, data=data)
    with zipfile.ZipFile(io.BytesIO(answer.raise_for_status().content)) as archive:
        return {name.removesuffix(".wav"): archive.read(name) for name in archive.namelist()}
