"""Stand-ins for handles and engines, so that the service can be tested without Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
from ray.serve._private.common import DeploymentID
from ray.serve.exceptions import DeploymentUnavailableError

from deployments.engines.protocols import AudioChunk, FinishReason, SpeechRequest, SpeechTraits, Voice
from deployments.replica.wire import PackedChunk, pack
from deployments.tasks.separation import Merged

RATE = 8000
TRAITS = SpeechTraits(RATE, (Voice("ada", "en-GB"), Voice("bo", "en-US")), "ada", 0.5, 2.0, exact=True, is_speech=False)


@dataclass(slots=True)
class ToneUtterance:
    """What is left to say."""

    request: SpeechRequest
    position: int = 0
    closed: bool = False

    @property
    def finished(self) -> bool:
        """True when every piece was said."""
        return self.closed or self.position >= len(self.request.pieces)


@dataclass
class ToneEngine:
    """Says each piece as a tone: ten milliseconds a character, its pitch that of the first character."""

    batches: list[int] = field(default_factory=list)

    @property
    def traits(self) -> SpeechTraits:
        """Two voices at 8 kHz."""
        return TRAITS

    def open(self, request: SpeechRequest) -> ToneUtterance:
        """Any request."""
        return ToneUtterance(request)

    def first_cost(self, request: SpeechRequest) -> float:
        """Characters of the first piece."""
        return float(len(request.pieces[0]))

    def cost(self, utterance: ToneUtterance) -> float:
        """Characters of the next piece."""
        return float(len(utterance.request.pieces[utterance.position]))

    def step(self, utterances: Sequence[ToneUtterance]) -> list[AudioChunk | Exception]:
        """The next piece of each."""
        self.batches.append(len(utterances))
        return [self._say(utterance) for utterance in utterances]

    def close(self, utterance: ToneUtterance) -> None:
        """Marks it."""
        utterance.closed = True

    def _say(self, utterance: ToneUtterance) -> AudioChunk:
        request = utterance.request
        piece = request.pieces[utterance.position]
        index = request.first_index + utterance.position
        utterance.position += 1
        samples = tone(piece, request.speed)
        return AudioChunk(samples, RATE, index, piece, last=utterance.finished)


def tone(piece: str, speed: float = 1.0) -> Any:
    """The sound of a piece."""
    times = np.arange(int(0.01 * len(piece) * RATE / speed)) / RATE
    return (0.5 * np.sin(2 * np.pi * (200 + 10 * (ord(piece[0]) % 64)) * times)).astype(np.float32)


@dataclass
class Answers:
    """A handle's streamed answer, as Ray Serve gives it: an iterator that can be cancelled."""

    items: AsyncIterator[Any]
    cancelled: bool = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self.items

    def cancel(self) -> None:
        """Remembers that it was called."""
        self.cancelled = True


@dataclass
class Answer:
    """A single answer, which ends with the task that waits for it."""

    pending: Any
    cancelled: bool = False

    def __await__(self) -> Any:
        return self.pending.__await__()

    def cancel(self) -> None:
        """Remembers that it was called. The task is cancelled already."""
        self.cancelled = True


@dataclass
class FakeMethod:
    """`handle.method`."""

    handle: FakeHandle
    name: str

    def remote(self, *arguments: Any, **named: Any) -> Any:
        """Calls the stand-in."""
        self.handle.calls.append((self.name, arguments))
        answer = _asked(self.handle.target, self.name)(*arguments, **named)
        if not hasattr(answer, "__anext__"):
            single = Answer(answer)
            self.handle.single_answers.append(single)
            return single
        answers = Answers(answer)
        self.handle.answers.append(answers)
        return answers


def _asked(target: Any, name: str) -> Any:
    """A stand-in's method. Each of them lives, as far as it does not say otherwise itself."""
    return getattr(target, name, _lives) if name == "report" else getattr(target, name)


async def _lives() -> None:
    pass


class FakeHandle:
    """A deployment handle over an object in this process."""

    def __init__(self, target: Any) -> None:
        self.target = target
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.answers: list[Answers] = []
        self.single_answers: list[Answer] = []

    def _init_router_and_get_metadata(self) -> tuple[Any, None]:
        """A router that knows no replica yet."""
        return SimpleNamespace(_asyncio_router=SimpleNamespace(_request_router=None)), None

    def options(self, **_: Any) -> FakeHandle:
        """Options change nothing here."""
        return self

    def broadcast(self, name: str, *arguments: Any) -> FakeBroadcast:
        """Asks the only replica, or none."""
        return FakeBroadcast(self, name, arguments)

    def __getattr__(self, name: str) -> FakeMethod:
        return FakeMethod(self, name)


@dataclass
class FakeBroadcast:
    """The answers of all replicas: of the stand-in or its `replicas`, or of none while it says that it is `asleep`."""

    handle: FakeHandle
    name: str
    arguments: tuple[Any, ...] = ()

    async def _fetch_replica_results_async(self) -> list[FakeResult]:
        """What each replica was asked, without waiting where there is none."""
        asleep = getattr(self.handle.target, "asleep", None)
        if asleep is not None and asleep.is_set():
            raise DeploymentUnavailableError(DeploymentID("m@cuda", "motet"))
        targets = getattr(self.handle.target, "replicas", [self.handle.target])
        return [FakeResult(target, self.name, self.arguments) for target in targets]


@dataclass
class FakeResult:
    """One replica's answer."""

    target: Any
    name: str
    arguments: tuple[Any, ...] = ()

    async def get_async(self) -> Any:
        """Asks the replica."""
        return await _asked(self.target, self.name)(*self.arguments)


class ToneSynthesizer:
    """The synthesizer deployment's calls, over a `ToneEngine`."""

    def __init__(self, failing_at: int | None = None, finish_reason: FinishReason = "stop") -> None:
        self.engine = ToneEngine()
        self.failing_at = failing_at
        self.finish_reason = finish_reason
        self.closed = 0
        self.forgotten: list[str] = []

    async def forget_voice(self, id: str) -> None:
        """Remembers which voices were deleted."""
        self.forgotten.append(id)

    async def traits(self) -> SpeechTraits:
        """The engine's."""
        return self.engine.traits

    async def speak(self, request: SpeechRequest) -> AsyncIterator[PackedChunk]:
        """Piece by piece."""
        utterance = self.engine.open(request)
        try:
            while not utterance.finished:
                if utterance.position == self.failing_at:
                    raise RuntimeError("the engine broke")
                result = self.engine.step([utterance])[0]
                assert isinstance(result, AudioChunk)
                yield pack(replace(result, finish_reason=self.finish_reason))
        finally:
            self.closed += 1


class SilentGraph:
    """The separation graph's call: reads the upload, and gives a second of silence for each stem."""

    def __init__(self, *stems: str) -> None:
        self.stems = stems

    async def run(self, upload: AsyncIterator[bytes], *_: object, **__: object) -> AsyncIterator[Merged]:
        """One part."""
        async for _block in upload:
            pass
        yield Merged({stem: np.zeros((1, RATE), np.float32) for stem in self.stems}, RATE)
