"""One service for all end-to-end tests, started and stopped like a user does it, and shared material."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import av
import httpx
import jiwer
import numpy as np
import psutil
import pytest
import soundfile
import yaml
from numpy.typing import NDArray
from openai import OpenAI

from serve_app.bench.running_service import free_loopback_port
from serve_app.cli.processes import command_line, kill, with_variable
from serve_app.config import DEFAULT_MODELS

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from .browser import Browsers
    from .scripted_service import ScriptedService

Float = NDArray[np.float32]
Found = TypeVar("Found")

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "serve_config.yaml"
OUT = ROOT / "out"
START_S = 300.0
STOP_S = 60.0
POLL_S = 0.1
MARK = "MOTET_E2E_MARK"
KEYS = ("motet-test-key", "another-key")
PROFILES = ["throughput", pytest.param("plain", marks=pytest.mark.long)]
"""The profiles of a service. `plain` is `throughput` without HAProxy in front; test_doors.py starts it each time."""
PANGRAM = "The quick brown fox jumps over the lazy dog, and then it sleeps under a tree."


def wait_for(found: Callable[[], Found], seconds: float, what: str) -> Found:
    """Polls until the answer is true; fails with `what` after the timeout."""
    deadline = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(POLL_S)
    return answer


def run_serve(config: Path, mark: str, output: Path, profile: str = "", **environment: str) -> subprocess.Popen[bytes]:
    """Starts `motet serve` in its own session, like a terminal. Its processes inherit the mark."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MOTET_"))}
    with output.open("wb") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "serve_app.cli.main", "serve", "--config", str(config)),
                *(("--profile", profile) if profile else ()),
            ],
            cwd=ROOT,
            env={**clean, MARK: mark, **environment},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def marked_processes(mark: str) -> list[psutil.Process]:
    """Every live process that inherited the mark, whichever its parent is now."""
    return list(with_variable(MARK, mark))


def titles(processes: list[psutil.Process]) -> dict[int, str]:
    """The title of each process, by pid."""
    return {process.pid: " ".join(command_line(process)) for process in processes}


def answers(processes: list[psutil.Process], question: Callable[[psutil.Process], Found]) -> list[Found]:
    """The answers of the processes that still run."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found.append(question(process))
    return found


@dataclass
class Service:
    """A running `motet serve`."""

    host: str
    port: int
    mark: str
    process: subprocess.Popen[bytes]
    output: Path

    @classmethod
    def start(
        cls, config: Path, folder: Path, host: str = "127.0.0.1", profile: str = "", **environment: str
    ) -> Service:
        """Starts it and waits for its ready line."""
        port, mark = free_loopback_port(), uuid.uuid4().hex
        output = folder / f"serve-{mark[:6]}.log"
        process = run_serve(config, mark, output, profile, MOTET_PORT=str(port), MOTET_HOST=host, **environment)
        started = cls(host, port, mark, process, output)
        try:
            wait_for(started._ready_or_ended, START_S, "the ready line")
            assert process.poll() is None, f"the service ended:\n{started.said}"
        except BaseException:
            started.kill()
            raise
        return started

    def _ready_or_ended(self) -> bool:
        return "Motet is ready" in self.said or self.process.poll() is not None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def said(self) -> str:
        return self.output.read_text()

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def processes(self) -> list[psutil.Process]:
        return marked_processes(self.mark)

    def replica(self, deployment: str) -> psutil.Process:
        """The pid of a deployment's only replica."""
        own = titles(self.processes()).items()
        (pid,) = [pid for pid, title in own if title.startswith(f"ray::ServeReplica:motet:{deployment}")]
        return psutil.Process(pid)

    def cluster_address(self) -> str:
        """The address of its Ray cluster, from the arguments of its only node."""
        words = [word for process in self.processes() for word in command_line(process)]
        (address,) = {word.partition("=")[2] for word in words if word.startswith("--gcs-address=")}
        return address

    def stop(self, number: signal.Signals) -> None:
        """Stops it with a signal, and checks its exit status and that no process stays."""
        if number is signal.SIGINT:
            os.killpg(self.process.pid, number)  # as Ctrl-C does
        else:
            self.process.send_signal(number)
        try:
            status = self.process.wait(STOP_S)
            left = [f"{pid} {title[:100]}" for pid, title in titles(self.processes()).items()]
        finally:
            self.kill()
        assert status == 0, f"exit status {status}:\n{self.said}"
        assert left == []

    def kill(self) -> None:
        """Kills every process that is left."""
        kill(self.processes(), STOP_S)
        self.process.wait()


def cpu_seconds(process: psutil.Process) -> float:
    """The CPU seconds of a process: its work so far, independent of the machine's load."""
    times = process.cpu_times()
    return float(times.user + times.system)


def settled_work(replica: psutil.Process) -> float:
    """The CPU seconds of a replica, once it is idle."""
    seen: deque[float] = deque(maxlen=6)

    def rests() -> bool:
        seen.append(cpu_seconds(replica))
        return len(seen) == seen.maxlen and seen[-1] - seen[0] < 0.05

    wait_for(rests, 60, "the replica to rest")
    return seen[-1]


def config_of(folder: Path, settings: Mapping[str, object], port: int = 8000) -> Path:
    """A configuration with these settings and without the default models, as a file in the folder."""
    arguments = {"defaults": False, **settings}
    application = {"name": "motet", "import_path": "serve_app.app:build", "args": arguments}
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump({"http_options": {"port": port}, "applications": [application]}))
    return config


def with_identity(folder: Path) -> Path:
    """`serve_config.yaml` with the default models and `identity`."""
    document = yaml.safe_load(CONFIG.read_text())
    models = {name: model.model_dump(mode="json") for name, model in DEFAULT_MODELS.items()}
    arguments = document["applications"][0]["args"]
    arguments["models"] = {**models, "identity": {"engine": "identity"}}
    arguments["jobs"] = {"folder": str(folder / "jobs")}
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump(document, sort_keys=False))  # the page picks the first model of a task
    return config


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The service with its own `serve_config.yaml`, and besides the default models one that returns its input."""
    folder = tmp_path_factory.mktemp("service")
    running = Service.start(with_identity(folder), folder)
    yield running
    assert running.alive, f"the service ended during the tests:\n{running.said}"
    running.stop(signal.SIGINT)


@pytest.fixture(scope="session")
def keyed_services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    """The services that were started; the last one may be running."""
    started: list[Service] = []
    yield started
    for running in started:
        if running.alive:
            running.stop(signal.SIGTERM)


@pytest.fixture
def keyed_service(keyed_services: list[Service], tmp_path: Path) -> Service:
    """A small service that is open to the network and needs a key. A test may stop it; the next test gets a new one."""
    if not keyed_services or not keyed_services[-1].alive:
        digests = [hashlib.sha256(key.encode()).hexdigest() for key in KEYS]
        settings = {
            "models": {"identity": {"engine": "identity"}},
            "security": {"api_key_sha256": digests},
            "voices": {"folder": str(tmp_path / "voices")},
        }
        config = config_of(tmp_path, settings)
        keyed_services.append(Service.start(config, tmp_path, host="0.0.0.0"))
    return keyed_services[-1]


@pytest.fixture(scope="session")
def cloning_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with one language-model voice of random weights, which speaks with uploaded clips only, in two slots."""
    pytest.importorskip("transformers")
    from tests.unit.test_pocket_tts import write_tiny

    folder = tmp_path_factory.mktemp("pocket")
    model = write_tiny(folder / "tiny")
    shutil.rmtree(model / "voices")
    own = {"engine": "pocket_tts", "source": f"path:{model}", "options": {"slots": 2, "most_seconds": 0.4}}
    settings = {
        "models": {"pocket": own},
        "voices": {"folder": str(folder / "uploaded")},
        "speech": {"pieces": {"first_piece_characters": 20, "piece_characters": 30}},
    }
    config = config_of(folder, settings)
    running = Service.start(config, folder)
    yield running
    running.stop(signal.SIGTERM)


BROWSERS: pytest.StashKey[Browsers] = pytest.StashKey()


@pytest.fixture(scope="session")
def browsers(pytestconfig: pytest.Config) -> Iterator[Browsers]:
    """The browsers that all tests of the page share."""
    from .browser import Browsers

    shared = pytestconfig.stash[BROWSERS] = Browsers()
    yield shared
    shared.close()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Ends the shared browsers before a file that does not use them: with them, `asyncio.run` does not work."""
    shared = item.config.stash.get(BROWSERS, None)
    if shared is None or nextitem is None or nextitem.path == item.path:
        return
    following = (
        each for each in item.session.items if each.path == nextitem.path and isinstance(each, pytest.Function)
    )
    if not any("browsers" in each.fixturenames for each in following):
        shared.close()


@pytest.fixture
def browser(browsers: Browsers) -> Browser:
    """A browser whose microphone beeps."""
    return browsers.get()


@pytest.fixture
def scripted() -> Iterator[ScriptedService]:
    """A service that answers as the test says."""
    from .scripted_service import scripted_service

    with scripted_service() as running:
        yield running


@pytest.fixture(scope="session")
def http(service: Service) -> Iterator[httpx.Client]:
    """A plain HTTP client of the service."""
    with httpx.Client(base_url=service.url, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def client(service: Service) -> Iterator[OpenAI]:
    """OpenAI's client for the service, without retries, which would hide failures."""
    with OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=120) as openai:
        yield openai


@pytest.fixture(scope="session")
def pangram(client: OpenAI) -> Float:
    """The pangram, spoken: mono at 24 kHz."""
    return spoken(client, PANGRAM)


def spoken(client: OpenAI, text: str, seed: int = 0) -> Float:
    """A spoken text, float32 mono at 24 kHz."""
    answer = client.audio.speech.create(
        model="tts-1", voice="alloy", input=text, response_format="pcm", extra_body={"seed": seed}
    )
    return from_int16(answer.content)


def from_int16(data: bytes) -> Float:
    return np.frombuffer(data, "<i2").astype(np.float32) / np.float32(32768)


def decoded(data: bytes) -> tuple[Float, int]:
    """A file's samples, (channels, n), and sample rate, by FFmpeg. Fails if FFmpeg cannot read the whole file."""
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        convert = av.AudioResampler(format="fltp")
        blocks = [part.to_ndarray() for frame in container.decode(stream) for part in convert.resample(frame)]
        return np.concatenate(blocks, axis=1), stream.sample_rate


def encoded(samples: Float, rate: int, kind: str, subtype: str | None = None) -> bytes:
    """A file of (n,) or (channels, n) samples: WAV, FLAC, OGG and MP3 by libsndfile, M4A by FFmpeg."""
    if kind == "M4A":
        return _m4a(np.atleast_2d(samples), rate)
    file = io.BytesIO()
    soundfile.write(file, samples.T, rate, format=kind, subtype=subtype)
    return file.getvalue()


def _m4a(samples: Float, rate: int) -> bytes:
    file = io.BytesIO()
    layout = "mono" if len(samples) == 1 else "stereo"
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout = layout
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=layout)
        frame.sample_rate = rate
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def word_errors(heard: str, said: str) -> float:
    """The share of wrong words, without case and punctuation."""
    return float(jiwer.wer(_plain(said), _plain(heard)))


def _plain(text: str) -> str:
    return " ".join(re.findall(r"[\w']+", text.lower()))


def heard_in(client: OpenAI, data: bytes, name: str = "sound.wav") -> str:
    """The service's transcript of a file."""
    return client.audio.transcriptions.create(model="whisper-1", file=(name, data)).text
