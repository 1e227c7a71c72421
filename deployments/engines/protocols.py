"""What an engine is: advance these work items by one step, together.

An engine holds weights and nothing of any stream: the state of a stream is a value that the caller keeps. It is loaded
and called on one thread only. Results come back per item, and an item that fails is an exception in its place, so that
it never fails its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from deployments.errors import Failure

Samples = NDArray[np.float32]
"""Mono (n,) or many-channel (channels, n) float32 in [-1, 1]."""

FinishReason = Literal["stop", "length", "repetition", "silence"]
"""Why a piece of text ended: the model found its end, or it was stopped because it ran away."""


def first_reason(before: FinishReason, now: FinishReason) -> FinishReason:
    """Of a whole text: why the first of its pieces that did not end by itself was ended."""
    return now if before == "stop" else before


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice that a model speaks with. `language` is a BCP 47 tag."""

    id: str
    language: str
    description: str = ""


@dataclass(frozen=True, slots=True)
class VoiceReference:
    """A clip of someone's voice to speak with: mono float32 `samples` (n,) at `sample_rate` Hz.

    `id` names the content: clips with the same samples have the same one, so an engine keeps what it works out of a clip
    under it. `text` is what the clip says, where that is known. It travels with the request, and any replica can use it.
    """

    id: str
    samples: Samples = field(repr=False, compare=False)
    sample_rate: int
    text: str | None = None


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """Text already cut into speakable pieces, and how to say it.

    `voice` is one of the model's own, a mixture of them where the model mixes (`voice_mix.py`), or the id of the
    `reference`, where there is one. `speed` is relative to the voice's own pace. The same `seed` gives the same samples.
    `first_index` is the place of the first piece in the whole text, when the text is spoken in several requests.
    `lasts_seconds` is how long the listener's sound lasts from now: 0 for one who has none yet. `instructions` say in words
    how to speak, to a model that takes them.
    """

    pieces: tuple[str, ...]
    voice: str
    speed: float = 1.0
    seed: int = 0
    first_index: int = 0
    lasts_seconds: float = 0.0
    reference: VoiceReference | None = None
    instructions: str = ""


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """One step's sound of one utterance: mono float32 `samples` (n,) at `sample_rate` Hz.

    `text` is what the chunk says, where the engine knows; `last` marks the end of the utterance. `tokens` is how many of
    its own units (codec frames, phonemes) the model made for it, where it knows. A `pending` chunk has no samples: its
    stream advanced, and its sound takes more steps. `piece_over` tells whether a piece of the text ends with this chunk, and
    `finish_reason` why; a chunk that ends none says "stop".
    """

    samples: Samples
    sample_rate: int
    index: int
    text: str
    last: bool
    tokens: int = 0
    pending: bool = False
    finish_reason: FinishReason = "stop"
    piece_over: bool = True

    @property
    def seconds(self) -> float:
        """Duration of the sound."""
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True, slots=True)
class SpeechTraits:
    """What a speech model can do, known before it is loaded or just after.

    A model that `mixes` speaks with mixtures of its voices; one that `clones` speaks like a clip (`VoiceReference`). One
    without voices of its own has an empty `default_voice` and speaks only like a clip. One with several speakers takes
    scripts (`text/speakers.py`) and a voice for each, such as `ada,ben`. One that is told in words how to speak knows some
    `instruction_words`, such as names of emotions, and passes over all others. An `exact` one makes the same samples for the
    same request to the last bit, whoever else is in its batch; another one rounds a few of them otherwise.
    """

    sample_rate: int
    voices: tuple[Voice, ...]
    default_voice: str
    min_speed: float
    max_speed: float
    mixes: bool = False
    clones: bool = False
    most_speakers: int = 1
    instruction_words: tuple[str, ...] = ()
    exact: bool = False

    def heeds(self, instructions: str) -> bool:
        """Whether the model speaks otherwise for these words."""
        known = set(self.instruction_words)
        return not known.isdisjoint(re.findall(r"\w+", instructions.lower()))


class Utterance(Protocol):
    """The state of one stream, owned by its caller."""

    @property
    def finished(self) -> bool:
        """True when no further step will bring sound."""


UtteranceT = TypeVar("UtteranceT", bound=Utterance)


@runtime_checkable
class HasPlaces(Protocol):
    """A speech engine in which only so many utterances may be open at once; one without these takes any number."""

    @property
    def most_streams(self) -> int:
        """How many. One more would fail at one of its steps."""


@runtime_checkable
class BoundsItsStep(Protocol):
    """A speech engine whose step takes about so long, however many utterances it is given: it does as much as that holds,
    for the first of them first. The others have a pending chunk."""

    @property
    def step_ms(self) -> float:
        """How long, in ms."""


@runtime_checkable
class HasLanes(Protocol):
    """A speech engine that works on several utterances beside each other, not as one batch: nothing is padded, and a step
    ends as soon as one utterance is done. The chunks of the others are `pending`, be they begun or not."""

    @property
    def lanes(self) -> int:
        """How many. More utterances in one step would only wait in it."""


class SpeechEngine(Protocol[UtteranceT]):
    """Text to speech, one chunk per step for every utterance."""

    @property
    def traits(self) -> SpeechTraits:
        """What this model can do."""

    def open(self, request: SpeechRequest) -> UtteranceT:
        """Prepares the state of a new utterance. Raises `MotetError` when the request cannot be spoken."""

    def first_cost(self, request: SpeechRequest) -> float:
        """The length of the first step of a request that is not open yet, in the measure of `cost`."""

    def cost(self, utterance: UtteranceT) -> float:
        """The length of the utterance's next step in the engine's own measure. A batch is padded to its largest."""

    def step(self, utterances: Sequence[UtteranceT]) -> list[AudioChunk | Exception]:
        """One chunk for each utterance, as one batch; a `pending` one while its sound takes more steps. The most urgent
        ones come first."""

    def close(self, utterance: UtteranceT) -> None:
        """Frees the utterance's slot; safe to call twice."""


@dataclass(frozen=True, slots=True)
class RecognitionOptions:
    """How to transcribe. `language` is a two-letter code, or None to detect it."""

    language: str | None = None
    prompt: str | None = None
    temperature: float = 0.0
    translate: bool = False
    word_times: bool = False


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of speech: mono float32 (n,) at the engine's sample rate, starting `start` seconds into the recording."""

    samples: Samples
    start: float
    options: RecognitionOptions


@dataclass(frozen=True, slots=True)
class Word:
    """A word and when it is said, in seconds from the start of the recording."""

    text: str
    start: float
    end: float
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A phrase and when it is said, in seconds from the start of the recording."""

    text: str
    start: float
    end: float
    average_log_probability: float
    compression_ratio: float
    no_speech_probability: float
    tokens: tuple[int, ...] = ()
    words: tuple[Word, ...] = ()


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was said in one window."""

    segments: tuple[Segment, ...]
    language: str

    @property
    def text(self) -> str:
        """The segments' words as one line."""
        return " ".join(segment.text.strip() for segment in self.segments if segment.text.strip())


@dataclass(frozen=True, slots=True)
class RecognitionTraits:
    """What a recognition model can do. An empty `languages` means any."""

    sample_rate: int
    languages: tuple[str, ...]
    translates: bool
    max_window_seconds: float


class RecognitionEngine(Protocol):
    """Speech to text, window by window."""

    @property
    def traits(self) -> RecognitionTraits:
        """What this model can do."""

    def transcribe(self, windows: Sequence[Window]) -> list[Transcript | Exception]:
        """One transcript for each window, as one batch."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of a recording to separate: (channels, n) float32 at `sample_rate` Hz.

    `description` and `reference` (mono, same rate) tell a model that can be asked what to pull out.
    """

    samples: Samples
    sample_rate: int
    index: int
    description: str | None = None
    reference: Samples | None = None


@dataclass(frozen=True, slots=True)
class Stems:
    """The parts of one chunk, each (channels, n) float32, as long as the chunk."""

    stems: Mapping[str, Samples]
    sample_rate: int
    index: int


@dataclass(frozen=True, slots=True)
class SeparationTraits:
    """What a separation model can do. It takes any of `sample_rates`."""

    sample_rates: tuple[int, ...]
    stems: tuple[str, ...]
    takes_description: bool
    takes_reference: bool


class SeparationEngine(Protocol):
    """Sound to stems, chunk by chunk."""

    @property
    def traits(self) -> SeparationTraits:
        """What this model can do."""

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The stems of each chunk, as one batch."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What an engine's library holds of the device's memory, in bytes. `cached_bytes` is free but not given back."""

    active_bytes: int
    cached_bytes: int
    peak_bytes: int


@runtime_checkable
class CanBeFull(Protocol):
    """An engine that knows when it must take no more work. An engine without these always has room."""

    def room(self) -> Failure | None:
        """Why no new work is taken now, or None. Called on the engine's thread; gives back what it can first."""

    def memory(self) -> Memory:
        """What is held now. Callable from any thread."""


@dataclass(slots=True)
class StepRecords:
    """What became of an engine's recorded steps: those replayed and those taken plainly, captures, their failures, and their
    time."""

    replayed: int = 0
    plain: int = 0
    captures: int = 0
    failures: int = 0
    capture_seconds: float = 0.0
    last_failure: str = ""

    @property
    def hit_rate(self) -> float:
        """The share of steps that were replayed; 0 before the first."""
        steps = self.replayed + self.plain
        return self.replayed / steps if steps else 0.0


class StepRecorder(Protocol):
    """What records an engine's step, size by size (`deployments/engines/graphs.py`)."""

    counts: StepRecords

    def capture_one_wanted(self) -> bool:
        """Records one size that steps asked for in vain; False when there is none. For an idle moment, on the engine's
        thread."""


@runtime_checkable
class RecordsSteps(Protocol):
    """An engine whose step is recorded."""

    @property
    def captured(self) -> StepRecorder:
        """Its recorded step."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything needed to load an engine: where its weights are and what it may use.

    `device` is the hardware class's word for its device ("cpu", "cuda", "mlx"); `options` are the engine's own.
    """

    model: str
    folder: str
    device: str
    threads: int
    options: Mapping[str, object] = field(default_factory=dict)
