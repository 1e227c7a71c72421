"""The protocols between Motet and its engines, and the values that cross them. This module imports nothing of Motet.

An engine holds weights and no state of any stream: a stream's state is a value that the caller keeps. An engine is loaded on
one thread, and all its methods run on that thread unless they say otherwise. A call takes several items and gives one result
for each; an item that fails gives an exception in its place, so it does not fail its neighbours.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float32]
"""Audio: mono (n,) or multichannel (channels, n), float32 in [-1, 1]."""

Effort = Literal["full", "bounded", "least"]
"""How thoroughly a window is transcribed. "full": with every attempt that may help. "bounded": live streams wait for it.
"least": it is heard again when it has grown."""

FinishReason = Literal["stop", "length", "repetition", "silence"]
"""Why a piece of text ended. "stop": the model found its end. The others: it did not, and was stopped (`lm/runaway.py`)."""


def first_reason(before: FinishReason, now: FinishReason) -> FinishReason:
    """The reason for a whole text: that of its first piece which did not end with "stop"."""
    return now if before == "stop" else before


@dataclass(frozen=True, slots=True)
class Voice:
    """A voice of a model. `language` is a BCP 47 tag, "und" if the voice speaks any; it reads `other_languages`, too."""

    id: str
    language: str
    description: str = ""
    other_languages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class VoiceReference:
    """A clip of a voice to clone: mono float32 `samples` (n,) at `sample_rate` Hz.

    `id` identifies the content: clips with equal samples have equal ids, so engines cache by it what they compute from a
    clip. `text` is the transcript of the clip, if known. The clip travels with each request, so any replica can serve it.
    """

    id: str
    samples: Samples = field(repr=False, compare=False)
    sample_rate: int
    text: str | None = None


@dataclass(frozen=True, slots=True)
class SpeechRequest:
    """Text that is already cut into pieces, and how to speak it.

    `voice` is the id of one of the model's voices, a mixture of them if the model mixes (`text/voice_mix.py`), or the id of
    the `reference`. `speed` 1 is the voice's own pace. Equal seeds give equal samples. `first_index` is the index of the
    first piece in the whole text, for a text that is spoken in several requests. `buffered_seconds` is how much
    audio the client still has: 0 before the first audio. `instructions` describe the manner of speaking.
    """

    pieces: tuple[str, ...]
    voice: str
    speed: float = 1.0
    seed: int = 0
    first_index: int = 0
    buffered_seconds: float = 0.0
    reference: VoiceReference | None = None
    instructions: str = ""


@dataclass(frozen=True, slots=True)
class SpokenWord:
    """A word of a text, and when it is said: `start` to `end` in seconds of the sound that the context names. A word that is
    not said, such as a dash, lasts no time."""

    text: str
    start: float
    end: float

    def later(self, seconds: float) -> SpokenWord:
        """The same word in a sound that begins that much earlier."""
        return replace(self, start=self.start + seconds, end=self.end + seconds)


@dataclass(frozen=True, slots=True)
class AudioChunk:
    """The audio of one utterance from one step: mono float32 `samples` (n,) at `sample_rate` Hz.

    `index` is the piece's index in the whole text, and `text` what the chunk says, if the engine knows. `last` marks the end
    of the utterance. `tokens` counts the model's own units (codec frames, phonemes), if known. A `pending` chunk has no
    samples: the stream advanced, and its audio needs more steps. `piece_over` marks the last chunk of a piece, and then
    `finish_reason` says why the piece ended.

    `words` are the words of the piece whose times became known with this chunk, in seconds from the start of the piece. If an
    engine knows times, its chunks of a piece have all words of it (`text/word_mapping.py`), in order.
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
    words: tuple[SpokenWord, ...] = ()

    @property
    def seconds(self) -> float:
        """Duration of the audio."""
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True, slots=True)
class SpeechTraits:
    """The abilities of a speech model.

    A model that `mixes` speaks with mixtures of its voices; one that `clones` speaks like a `VoiceReference`. A model without
    voices of its own has an empty `default_voice` and needs a reference. A model of several speakers (`most_speakers`) takes
    scripts (`text/speakers.py`) and one voice for each speaker, such as `ada,ben`. `instruction_words` are the words that the
    model understands in instructions, such as names of emotions; it ignores all others. A model with `free_instructions`
    understands any words. A model that reads `phonemes` takes `[word](/ipa/)` in a piece (`text/phonemes.py`). An `exact`
    model gives the same bits for the same request in every batch; other models may differ in their rounding. A model with
    `word_times` says when it speaks each word (`AudioChunk.words`). Only what `is_speech` is checked
    (`tasks/piece_checks.py`).
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
    free_instructions: bool = False
    exact: bool = False
    phonemes: bool = False
    word_times: bool = False
    is_speech: bool = True

    def follows(self, instructions: str) -> bool:
        """Whether the instructions contain a word that the model understands."""
        return self.free_instructions or not set(self.instruction_words).isdisjoint(
            re.findall(r"\w+", instructions.lower())
        )


class Utterance(Protocol):
    """The state of one stream, owned by its caller."""

    @property
    def finished(self) -> bool:
        """True when further steps give no audio."""


UtteranceT = TypeVar("UtteranceT", bound=Utterance)


class SpeechEngine(Protocol[UtteranceT]):
    """Text to speech: each step gives one chunk for every utterance.

    An engine may also implement `LimitsStreams`, `LimitsStepTime`, `StepsConcurrently`, `LimitsMemory` (`limits.py`) or
    `CapturesGraphs` (`graph_protocol.py`).
    """

    @property
    def traits(self) -> SpeechTraits:
        """The model's abilities."""

    def open(self, request: SpeechRequest) -> UtteranceT:
        """Prepares the state of a new utterance. Raises `MotetError` for a request that the model cannot speak."""

    def first_cost(self, request: SpeechRequest) -> float:
        """The cost of the first step of a request that is not open yet, in the unit of `cost`."""

    def cost(self, utterance: UtteranceT) -> float:
        """The cost of the utterance's next step, in a unit of the engine. A batch is padded to its largest cost."""

    def step(self, utterances: Sequence[UtteranceT]) -> list[AudioChunk | Exception]:
        """One chunk for each utterance, computed as one batch. The most urgent utterances come first."""

    def close(self, utterance: UtteranceT) -> None:
        """Frees what the utterance holds; safe to call twice."""


@dataclass(frozen=True, slots=True)
class RecognitionOptions:
    """How to transcribe. `language` is a two-letter code, or None to detect it for each window.

    `prompt` is text that comes before the window, and `keywords` are words that may occur in it; both steer the spelling.
    `word_times` asks for the times of words, `token_probabilities` for `Transcript.tokens`. `effort` bounds the time that the
    engine may take.
    """

    language: str | None = None
    prompt: str | None = None
    keywords: tuple[str, ...] = ()
    temperature: float = 0.0
    translate: bool = False
    word_times: bool = False
    token_probabilities: bool = False
    effort: Effort = "full"


@dataclass(frozen=True, slots=True)
class Span:
    """Speech in a window: it begins `offset_s` into the window, and lies from `start_s` to `end_s` of the recording."""

    offset_s: float
    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a recording to transcribe: mono float32 `samples` (n,) at the engine's sample rate. Silences may be cut
    out; the caller keeps the `Span`s."""

    samples: Samples
    options: RecognitionOptions


@dataclass(frozen=True, slots=True)
class Word:
    """A word with its start and end in seconds: from the start of the window when an engine returns it, and of the
    recording after the driver has placed it. `tokens` are the model's own units."""

    text: str
    start: float
    end: float
    probability: float
    tokens: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Segment:
    """A phrase with its start and end in seconds, from the same start as those of a `Word`."""

    text: str
    start: float
    end: float
    average_log_probability: float
    no_speech_probability: float
    tokens: tuple[int, ...] = ()
    words: tuple[Word, ...] = ()
    speaker: str | None = None
    language: str | None = None

    def moved(self, by_s: float) -> Segment:
        """The segment with its times, and those of its words, moved by `by_s` seconds."""
        words = tuple(replace(word, start=word.start + by_s, end=word.end + by_s) for word in self.words)
        return replace(self, start=self.start + by_s, end=self.end + by_s, words=words)


@dataclass(frozen=True, slots=True)
class Token:
    """A unit of a model's text: its text, natural logarithm of its probability, and UTF-8 bytes. A character may be
    divided between tokens; then only `bytes` is exact."""

    text: str
    log_probability: float
    bytes: bytes


@dataclass(frozen=True, slots=True)
class Transcript:
    """The words of one window, and their language as a two-letter code. `language_probability` is 1 if the options state
    the language."""

    segments: tuple[Segment, ...]
    language: str
    language_probability: float = 1.0
    tokens: tuple[Token, ...] = ()

    @property
    def text(self) -> str:
        """The segments' texts as one line."""
        return " ".join(segment.text.strip() for segment in self.segments if segment.text.strip())


@dataclass(frozen=True, slots=True)
class RecognitionTraits:
    """The abilities of a recognition model. `sample_rate` is in Hz; an empty `languages` means any language.

    `word_times`, `prompts` (and keywords) and `token_probabilities` say which options the model follows. `batch_windows` is
    the largest useful number of windows in one step: more would only make the step longer.
    """

    sample_rate: int
    languages: tuple[str, ...]
    translates: bool
    max_window_seconds: float
    word_times: bool = False
    prompts: bool = False
    token_probabilities: bool = False
    batch_windows: int = 1


class RecognitionEngine(Protocol):
    """Speech to text, window by window."""

    @property
    def traits(self) -> RecognitionTraits:
        """The model's abilities."""

    def transcribe(self, windows: Sequence[Window]) -> list[Transcript | Exception]:
        """One transcript for each window, computed as one batch."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a recording to separate: float32 `samples` (channels, n) at `sample_rate` Hz.

    `description` and `reference` (mono, same rate) say what to extract. `ode_method` and `ode_step_size` say how a model
    solves its differential equation, in 1 / `ode_step_size` steps. Each is for a model that takes it.
    """

    samples: Samples
    sample_rate: int
    index: int
    description: str | None = None
    reference: Samples | None = None
    ode_method: Literal["midpoint", "euler"] | None = None
    ode_step_size: float | None = None


@dataclass(frozen=True, slots=True)
class Stems:
    """The parts of one chunk, each float32 of the chunk's shape (channels, n)."""

    stems: Mapping[str, Samples]
    sample_rate: int
    index: int


@dataclass(frozen=True, slots=True)
class LiveBlocks:
    """How a model enhances a stream: blocks of `block_samples` at `sample_rate` Hz, and an output that is `late_samples`
    behind the input. The delay of a sample is at most both together."""

    sample_rate: int
    block_samples: int
    late_samples: int

    @property
    def delay_s(self) -> float:
        """The longest delay of a sample, in seconds."""
        return (self.block_samples + self.late_samples) / self.sample_rate


@dataclass(frozen=True, slots=True)
class SeparationTraits:
    """The abilities of a separation model. It takes each of `sample_rates`, in Hz. `live` is None for a model that does not
    enhance streams. A chunk has at most `most_channels` and lasts at most `most_chunk_seconds`, if they are set."""

    sample_rates: tuple[int, ...]
    stems: tuple[str, ...]
    takes_description: bool
    takes_reference: bool
    live: LiveBlocks | None = None
    takes_ode_options: bool = False
    most_channels: int | None = None
    most_chunk_seconds: float | None = None


class SeparationEngine(Protocol):
    """Audio to stems, chunk by chunk."""

    @property
    def traits(self) -> SeparationTraits:
        """The model's abilities."""

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The stems of each chunk, computed as one batch."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is loaded with.

    `folder` holds the weights. `device` is "cpu", "cuda" or "mlx". `threads` is the number of CPU threads that the engine may
    use. `options` are the engine's own, from the model's configuration.
    """

    model: str
    folder: str
    device: str
    threads: int
    options: Mapping[str, object] = field(default_factory=dict)
