"""GET /v1/audio/enhancements/stream with a real client: the samples of the offline answer, also when a replica is lost."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import httpx
import numpy as np
import soundfile
import soxr
from websockets.sync.client import ClientConnection, connect

from .conftest import Float, Service
from .test_separations import RATE, int16_file, int16_noise, noisy


def enhanced_live(service: Service, sent: bytes, rate: int, halfway: Callable[[], object] = lambda: None) -> bytes:
    """The sound that a session gives back for 16-bit samples, which it gets 40 ms at a time and at most a second ahead."""
    url = service.url.replace("http", "ws") + "/v1/audio/enhancements/stream"
    back, step = b"", rate // 25 * 2
    with connect(url) as socket:
        socket.send(json.dumps({"type": "session.config", "sample_rate": rate}))
        assert json.loads(socket.recv())["type"] == "session.ready"
        for start in range(0, len(sent), step):
            socket.send(sent[start : start + step])
            while start - len(back) > 2 * rate:
                back += received(socket)
            if start // step == len(sent) // step // 2:
                halfway()
        socket.send(json.dumps({"type": "input.done"}))
        while len(back) < len(sent):
            back += received(socket)
        assert json.loads(socket.recv())["type"] == "session.done"
    return back


def received(socket: ClientConnection) -> bytes:
    message = socket.recv(60)
    assert isinstance(message, bytes), message
    return message


def test_a_sound_is_enhanced_while_it_is_recorded_as_it_is_afterwards(
    http: httpx.Client, service: Service, pangram: Float
) -> None:
    _, mixture = noisy(pangram * 0.5)
    sent = np.rint(soxr.resample(mixture, 24_000, RATE) * 32768).clip(-32768, 32767).astype("<i2")
    live = np.frombuffer(enhanced_live(service, sent.tobytes(), RATE), "<i2")
    answer = http.post("/v1/audio/enhancements", files={"file": ("a.wav", int16_file(sent, RATE))})
    whole, _ = soundfile.read(io.BytesIO(answer.content), dtype="int16")
    np.testing.assert_allclose(live, whole, atol=2)


def test_a_lost_replica_changes_no_sample(service: Service) -> None:
    sent = int16_noise(RATE * 6, 1)
    expected = enhanced_live(service, sent.tobytes(), RATE)
    lost = service.replica("deepfilternet@cpu")
    got = enhanced_live(service, sent.tobytes(), RATE, lost.kill)
    assert not lost.is_running()
    # Sums are rounded differently in blocks of another length.
    np.testing.assert_allclose(np.frombuffer(got, "<i2"), np.frombuffer(expected, "<i2"), atol=2)
    assert service.replica("deepfilternet@cpu").pid != lost.pid


def test_live_sound_of_another_rate_has_as_many_samples(service: Service) -> None:
    sent = int16_noise(16_000 * 2 + 77, 1).tobytes()
    assert len(enhanced_live(service, sent, 16_000)) == len(sent)
