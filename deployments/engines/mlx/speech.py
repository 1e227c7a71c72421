"""Text to speech on MLX: any model of mlx-audio.

The engine drives a model by the best interface that the model has (`DRIVERS`), never by its name: a batch session that
streams join and leave between frames, one call for the pieces of several streams, phonemes with a voice pack, or one piece
after another.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from deployments.engines.mlx.batch_session import SeededSession
from deployments.engines.mlx.convolution import prepare_cpu_backend
from deployments.engines.mlx.memory import MlxEngine
from deployments.engines.mlx.runtime import ArrayBridge, loading, mx
from deployments.engines.protocols import AudioChunk, EngineSpec, Samples, SpeechRequest, SpeechTraits, Voice
from deployments.engines.speech import SILENCE, PieceUtterance, unknown_voice
from deployments.errors import fail

DEFAULT_VOICE = "default"
"""The voice id of a model with one voice and no name for it."""
MOST_PHONEMES = 510


@dataclass(slots=True, eq=False, kw_only=True)
class MlxUtterance(PieceUtterance):
    """The state of a stream. `number` identifies it in the engine's batch session."""

    number: int

    @property
    def piece(self) -> str:
        """The text of the next piece. Raises `MotetError` (invalid) if it is not a string."""
        text = self.pieces[self.position]
        if not isinstance(text, str):
            raise fail("invalid", "A piece of the text is not a string.", "Send a string.", param="input")
        return text

    @property
    def seed(self) -> int:
        """The seed of the next piece, from the request's seed and the piece's index alone, so it is the same in any batch."""
        return (self.request.seed * 1_000_003 + self.index) % 2**32


@dataclass(frozen=True, slots=True)
class MlxModel:
    """A model of mlx-audio, its folder, and its options."""

    model: Any
    folder: Path
    options: Mapping[str, object]
    edge: ArrayBridge

    def option(self, name: str, default: Any) -> Any:
        """An option in the type of its default."""
        value = self.options.get(name)
        return default if value is None else type(default)(str(value))

    @property
    def sampling(self) -> dict[str, Any]:
        """The sampling options that are set; the model has defaults for the others."""
        names = ("temperature", "top_p", "top_k", "max_tokens")
        return {name: self.options[name] for name in names if name in self.options}


@dataclass(frozen=True, slots=True)
class PieceAudio:
    """A piece's samples, (n,) float32, and the number of the model's own units."""

    samples: Samples
    tokens: int


PieceOutcome = PieceAudio | Exception | None
"""A piece's audio, or its error, or None while it is not complete."""


class SpeechDriver(Protocol):
    """A way to call a model."""

    speeds: ClassVar[tuple[float, float]]
    """The slowest and the fastest speed."""

    @staticmethod
    def fits(loaded: MlxModel, voice: str | None) -> bool:
        """Whether the model has the methods for this driver."""

    def cost(self, piece: str) -> float:
        """The cost of a step that speaks the piece or continues it."""

    def speak(self, utterances: Sequence[MlxUtterance]) -> list[PieceOutcome]:
        """One step for each: the audio of its next piece, or None if that needs more steps."""

    def leave(self, utterance: MlxUtterance) -> None:
        """Removes a stream; safe to call twice."""


class BatchSessionDriver:
    """Drives the model's own batch session: a step is `frames_per_step` frames of all streams together.

    The session holds the caches of the current pieces, and nothing else of a stream.
    """

    speeds: ClassVar[tuple[float, float]] = (1.0, 1.0)

    def __init__(self, loaded: MlxModel) -> None:
        self._session = SeededSession(loaded.model, loaded.option("batch_size", 8), loaded.options)
        self._frames = loaded.option("frames_per_step", 6)
        self._edge = loaded.edge

    @staticmethod
    def fits(loaded: MlxModel, voice: str | None) -> bool:
        """Asks the model, with its default voice."""
        can = getattr(loaded.model, "supports_tts_continuous_batch", None)
        return can is not None and bool(can(voice=voice, stream=False))

    def cost(self, piece: str) -> float:
        """The same for every step."""
        return 1.0

    def speak(self, utterances: Sequence[MlxUtterance]) -> list[PieceOutcome]:
        """Inserts new streams, and steps until the first piece is complete or the step is over."""
        refused = [self._insert(utterance) for utterance in utterances]
        waiting = {u.number for u, refusal in zip(utterances, refused, strict=True) if refusal is None}
        if waiting:
            self._session.advance(self._frames, waiting)
        return [
            refusal if refusal is not None else self._collected(utterance)
            for utterance, refusal in zip(utterances, refused, strict=True)
        ]

    def leave(self, utterance: MlxUtterance) -> None:
        """Removes the stream's piece from the batch."""
        self._session.cancel(utterance.number)

    def _insert(self, utterance: MlxUtterance) -> Exception | None:
        try:
            if utterance.number not in self._session:
                voice = _named(utterance.request.voice)
                self._session.insert(utterance.number, utterance.piece, voice, utterance.seed)
        except Exception as error:
            return error
        return None

    def _collected(self, utterance: MlxUtterance) -> PieceOutcome:
        outcome = self._session.collect(utterance.number)
        if outcome is None or isinstance(outcome, Exception):
            return outcome
        return PieceAudio(self._edge.to_numpy(outcome.audio), outcome.token_count)


class WholePieceDriver:
    """Base of the drivers that speak a whole piece in a step."""

    def cost(self, piece: str) -> float:
        """The number of characters."""
        return float(len(piece))

    def speak(self, utterances: Sequence[MlxUtterance]) -> list[PieceOutcome]:
        """One piece after another."""
        return [self._outcome(utterance) for utterance in utterances]

    def _outcome(self, utterance: MlxUtterance) -> PieceOutcome:
        try:
            return self._speak(utterance)
        except Exception as error:
            return error

    def _speak(self, utterance: MlxUtterance) -> PieceAudio:
        raise NotImplementedError

    def leave(self, utterance: MlxUtterance) -> None:
        """Does nothing: no state is held between steps."""


class BatchGenerateDriver(WholePieceDriver):
    """Calls `batch_generate`: the next pieces of all streams in one call."""

    speeds: ClassVar[tuple[float, float]] = (1.0, 1.0)

    def __init__(self, loaded: MlxModel) -> None:
        self._loaded = loaded

    @staticmethod
    def fits(loaded: MlxModel, voice: str | None) -> bool:
        """Whether the model has `batch_generate`."""
        return hasattr(loaded.model, "batch_generate")

    def speak(self, utterances: Sequence[MlxUtterance]) -> list[PieceOutcome]:
        """One call. At a temperature above 0 the tokens of one stream may depend on the others."""
        texts = [_text_or_error(utterance) for utterance in utterances]
        good = [at for at, text in enumerate(texts) if isinstance(text, str)]
        if not good:
            return [text for text in texts if isinstance(text, Exception)]
        spoken: dict[int, list[Any]] = {at: [] for at in good}
        for result in self._generated([utterances[at] for at in good], [texts[at] for at in good]):
            spoken[good[result.sequence_idx]].append(result)
        return [
            text if isinstance(text, Exception) else _joined(spoken[at], self._loaded.edge)
            for at, text in enumerate(texts)
        ]

    def _generated(self, utterances: Sequence[MlxUtterance], texts: Sequence[Any]) -> Any:
        mx.random.seed(utterances[0].seed)
        voices = [_named(utterance.request.voice) for utterance in utterances]
        named = {} if voices == [None] * len(voices) else {"voices": voices}
        return self._loaded.model.batch_generate(texts=list(texts), stream=False, **named, **self._loaded.sampling)


class PhonemeDriver(WholePieceDriver):
    """Passes phonemes and a voice pack, for models such as Kokoro. hibari converts the text, so the language is English.

    With the option `phonemes: library` mlx-audio converts the text, which needs `misaki`.
    """

    speeds: ClassVar[tuple[float, float]] = (0.5, 2.0)

    def __init__(self, loaded: MlxModel) -> None:
        from hibari import Hibari

        from deployments.text.english import readable

        self._loaded = loaded
        reader = Hibari()
        self._phonemize: Callable[[str], list[str]] = lambda text: reader.phonemize(readable(text))
        self._packs = {
            path.stem: mx.load(str(path))["voice"] for path in sorted((loaded.folder / "voices").glob("*.safetensors"))
        }

    @staticmethod
    def fits(loaded: MlxModel, voice: str | None) -> bool:
        """Whether the model has a phoneme vocabulary, and its folder has voice packs."""
        by_us = loaded.option("phonemes", "hibari") == "hibari"
        return by_us and hasattr(loaded.model, "vocab") and (loaded.folder / "voices").is_dir()

    def _speak(self, utterance: MlxUtterance) -> PieceAudio:
        mx.random.seed(utterance.seed)
        pack = self._packs[utterance.request.voice]
        read = [part[:MOST_PHONEMES] for part in self._phonemize(utterance.piece)]
        parts = [
            self._loaded.model(part, pack[min(len(part), len(pack)) - 1], utterance.request.speed).reshape(-1)
            for part in read
        ]
        samples = self._loaded.edge.to_numpy(mx.concatenate(parts)) if parts else SILENCE
        return PieceAudio(samples, sum(map(len, read)))


class GenerateDriver(WholePieceDriver):
    """Calls `generate`, one piece after another, for any model. With `steps.max_batch_size: 1` the most urgent stream is
    next."""

    speeds: ClassVar[tuple[float, float]] = (0.5, 2.0)

    def __init__(self, loaded: MlxModel) -> None:
        self._loaded = loaded

    @staticmethod
    def fits(loaded: MlxModel, voice: str | None) -> bool:
        """Every model of mlx-audio."""
        return hasattr(loaded.model, "generate")

    def _speak(self, utterance: MlxUtterance) -> PieceAudio:
        mx.random.seed(utterance.seed)
        loaded, request = self._loaded, utterance.request
        asked: dict[str, Any] = {"voice": _named(request.voice), "lang_code": loaded.options.get("language")}
        asked = {name: value for name, value in asked.items() if value is not None}
        if request.speed != 1.0:
            asked["speed"] = request.speed
        return _joined(loaded.model.generate(text=utterance.piece, **asked, **loaded.sampling), loaded.edge)


DRIVERS: Sequence[type[BatchSessionDriver | BatchGenerateDriver | PhonemeDriver | GenerateDriver]] = (
    BatchSessionDriver,
    BatchGenerateDriver,
    PhonemeDriver,
    GenerateDriver,
)
"""The best driver first."""


class MlxSpeech(MlxEngine):
    """Speaks with one model of mlx-audio."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        prepare_cpu_backend()
        model = _model_in(Path(spec.folder))
        loaded = MlxModel(model, Path(spec.folder), spec.options, self.edge)
        self._voices = voices_of(loaded)
        fitting = (driver for driver in DRIVERS if driver.fits(loaded, _named(self._voices[0].id)))
        driver = next(fitting, None)
        if driver is None:
            raise fail("unsupported", f"The model in {spec.folder} does not speak.", "Check the model's source.")
        self._driver: SpeechDriver = driver(loaded)
        self._sample_rate = int(model.sample_rate)
        self._numbers = itertools.count()

    @property
    def traits(self) -> SpeechTraits:
        """The model's voices, or those of the options `voices` and `language`."""
        slowest, fastest = self._driver.speeds
        return SpeechTraits(self._sample_rate, self._voices, self._voices[0].id, slowest, fastest)

    def open(self, request: SpeechRequest) -> MlxUtterance:
        """Raises `MotetError` (not_found) for an unknown voice."""
        names = [voice.id for voice in self._voices]
        if request.voice not in names:
            raise unknown_voice(request.voice, names)
        return MlxUtterance(request=request, number=next(self._numbers))

    def first_cost(self, request: SpeechRequest) -> float:
        """The cost of the first piece."""
        return self._driver.cost(request.pieces[0])

    def cost(self, utterance: MlxUtterance) -> float:
        """The cost of the next piece."""
        return self._driver.cost(utterance.pieces[utterance.position])

    def step(self, utterances: Sequence[MlxUtterance]) -> list[AudioChunk | Exception]:
        """The next piece of each, or a pending chunk while a session works on it."""
        spoken = self._driver.speak(utterances)
        return [self._chunk(utterance, sound) for utterance, sound in zip(utterances, spoken, strict=True)]

    def close(self, utterance: MlxUtterance) -> None:
        """Removes the stream from the batch and drops the pieces that were not spoken."""
        self._driver.leave(utterance)
        utterance.closed = True
        utterance.pieces = ()

    def _chunk(self, utterance: MlxUtterance, sound: PieceOutcome) -> AudioChunk | Exception:
        if isinstance(sound, Exception):
            self.close(utterance)
            return sound
        index, text = utterance.index, utterance.pieces[utterance.position]
        if sound is None:
            return AudioChunk(SILENCE, self._sample_rate, index, text, last=False, pending=True, piece_over=False)
        utterance.position += 1
        samples = np.clip(sound.samples, -1, 1)
        return AudioChunk(samples, self._sample_rate, index, text, utterance.finished, sound.tokens)


def voices_of(loaded: MlxModel) -> tuple[Voice, ...]:
    """The option `voices`, else the model's speakers, else the voice packs in its folder, else `DEFAULT_VOICE`."""
    language = str(loaded.options.get("language", "en"))
    configured = loaded.options.get("voices")
    speakers = getattr(loaded.model, "get_supported_speakers", list)
    packs = sorted(path.stem for path in (loaded.folder / "voices").glob("*.safetensors"))
    names = list(configured) if isinstance(configured, (list, tuple)) else list(speakers()) or packs or [DEFAULT_VOICE]
    preferred = loaded.options.get("default_voice")
    return tuple(Voice(str(name), language) for name in sorted(names, key=lambda name: name != preferred))


def _named(voice: str) -> str | None:
    return None if voice == DEFAULT_VOICE else voice


def _text_or_error(utterance: MlxUtterance) -> str | Exception:
    try:
        return utterance.piece
    except Exception as error:
        return error


def _joined(results: Iterable[Any], edge: ArrayBridge) -> PieceAudio:
    parts, tokens = [SILENCE], 0
    for result in results:
        parts.append(edge.to_numpy(result.audio.reshape(-1)))
        tokens += result.token_count
    return PieceAudio(np.concatenate(parts), tokens)


def _model_in(folder: Path) -> Any:
    from mlx_audio.tts.utils import load as load_model

    with loading():
        return load_model(folder)


def load(spec: EngineSpec) -> MlxSpeech:
    """Loads the model in `spec.folder`.

    Options: `voices`, `default_voice`, `language`, `memory_share`; `temperature`, `top_p`, `top_k`, `max_tokens`; for a batch
    session `batch_size` and `frames_per_step`; for Kokoro `phonemes`.
    """
    return MlxSpeech(spec)
