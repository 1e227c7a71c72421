"""The engine of a language-model voice: prompts are prefilled together, and each step gives a chunk of audio for every
stream.

A model defines how a piece of text begins, continues and ends; this module has all that such models share. While streams are
speaking, a step prefills a bounded part of new prompts, so that no stream waits for the whole prompt of another. Sopro,
VibeVoice, VibeVoice-Realtime, Qwen3-TTS, Pocket-TTS and IndexTTS use it.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from deployments.engines.graphs import Bucket, CapturedStep, Step, StepInput, backend_for, on_device
from deployments.engines.lm.kv_cache import KvCache, Slot
from deployments.engines.lm.runaway import RunawayGuard, RunawayLimits
from deployments.engines.lm.transformer import PROMPT_BLOCK
from deployments.engines.lm.work_rate import WorkRate
from deployments.engines.options import Bounds, EngineOptions, checked
from deployments.engines.protocols import AudioChunk, EngineSpec, Samples, SpeechRequest, SpeechTraits
from deployments.engines.speech import SILENCE
from deployments.errors import fail

CaptureSizes = Annotated[tuple[Annotated[int, Bounds(least=1)], ...], Bounds(items=1)]
"""Sizes for which a step is captured, rows or positions, in any order. A size above the engine's own is reduced to it."""


@dataclass(frozen=True, kw_only=True)
class LanguageVoiceOptions(EngineOptions):
    """`engine_options` of every language-model voice."""

    slots: Annotated[int, Bounds(least=1, most=256), "Utterances that may be open at once."] = 32
    voices_kept: Annotated[int, Bounds(least=1, most=1024), "Voices that are cached."] = 16
    prefill_ms: Annotated[
        float,
        Bounds(above=0),
        "While streams are speaking, a step prefills prompts of new pieces for about this long, at least one block.",
    ] = 50.0
    runaway: Annotated[RunawayLimits, "When a piece that does not end is stopped."] = field(
        default_factory=RunawayLimits
    )


@dataclass(frozen=True, kw_only=True)
class CaptureOptions(EngineOptions):
    """`engine_options` of a model whose step is captured."""

    capture: Annotated[
        bool, "Capture the step when the model is loaded, size by size. On a CPU it is compiled, which takes long."
    ] = False
    capture_batches: Annotated[CaptureSizes, "Streams of the captured steps."] = (1, 2, 4, 8, 16, 32)
    capture_lengths: Annotated[CaptureSizes, "Positions that the captured steps attend to."] = (512, 1024)


def captured_step(
    step: Step, inputs: Mapping[str, StepInput], options: CaptureOptions, slots: int, cache: KvCache, device: str
) -> CapturedStep:
    """The step of an engine of `slots` streams, captured for the sizes in `options` if `options.capture` is set."""
    captured = CapturedStep(
        step,
        inputs,
        sorted({min(batch, slots) for batch in options.capture_batches}),
        sorted({min(length, cache.capacity) for length in options.capture_lengths}),
        backend_for(device) if options.capture else None,
        device,
        most=Bucket(slots, cache.capacity),
    )
    captured.capture_all()
    return captured


OptionsT = TypeVar("OptionsT", bound=EngineOptions)


def options_on_this_thread(spec: EngineSpec, kind: type[OptionsT]) -> OptionsT:
    """The validated options of a model that is about to be loaded on this thread; also sets the thread count of torch.

    Raises `MotetError`: invalid with every error in them, unsupported for int8 on another device than a CPU.
    """
    torch.set_num_threads(spec.threads)
    torch.set_flush_denormal(True)
    options = checked(kind, spec.options, spec.model)
    if spec.device != "cpu" and getattr(options, "precision", "") == "int8":
        cause = f"Model {spec.model!r} has precision int8 on {spec.device}; int8 weights run on a CPU only."
        raise fail("unsupported", cause, "Set its option precision to float32.", param="precision")
    return options


@dataclass(eq=False, slots=True, kw_only=True)
class PieceState:
    """The state of one piece of text; a model's subclass adds its own fields.

    `prompt` (n, dim) is the part of the prompt that is not prefilled yet. `spoken` is True when its last audio is made.
    `guard` counts its tokens and says why it ended; `slot` is its row of the cache.
    """

    guard: RunawayGuard
    slot: Slot
    prompt: Tensor
    spoken: bool = False
    reported: int = 0
    """Tokens that its chunks have reported so far."""

    @property
    def prompt_left(self) -> int:
        """Positions of the prompt that are not prefilled yet."""
        return len(self.prompt)


VoiceT = TypeVar("VoiceT")
PieceT = TypeVar("PieceT", bound=PieceState)


def next_parts(pieces: Sequence[PieceState], counts: Sequence[int]) -> list[Tensor]:
    """The next `counts` positions of each piece's prompt, (count, dim)."""
    return [piece.prompt[:count] for piece, count in zip(pieces, counts, strict=True)]


def prompt_shares(lengths: Sequence[int], most: int) -> list[int]:
    """How many positions to prefill of each prompt, the first prompts first: `most` positions in all, rounded down to whole
    blocks where a prompt is cut, and at least one block."""
    counts: list[int] = []
    most = max(most, PROMPT_BLOCK)
    for length in lengths:
        count = length if length <= most else most // PROMPT_BLOCK * PROMPT_BLOCK
        if not count:
            break
        counts.append(count)
        most -= count
        if count < length:
            break
    return counts


@dataclass(eq=False, slots=True)
class LanguageUtterance(Generic[VoiceT, PieceT]):
    """The state of a stream. `piece` is None between two pieces; `emitted` counts the samples of the piece that were given
    out, and `made` those that were made since the piece began (again)."""

    request: SpeechRequest
    voice: VoiceT
    language: str
    pieces: tuple[str, ...]
    position: int = 0
    closed: bool = False
    piece: PieceT | None = None
    emitted: int = 0
    made: int = 0

    @property
    def finished(self) -> bool:
        """True when every piece was spoken, or the caller closed the utterance."""
        return self.closed or self.position >= len(self.pieces)

    @property
    def text(self) -> str:
        """The current piece of text."""
        return self.pieces[self.position]

    def random(self, *stream: int) -> np.random.Generator:
        """A generator for the piece: the same for the same seed, index and `stream`."""
        return np.random.default_rng([self.request.seed, self.place, *stream])

    @property
    def place(self) -> int:
        """The index of the current piece in the whole text; random numbers depend on it."""
        return self.request.first_index + self.position


class LanguageVoiceEngine(ABC, Generic[VoiceT, PieceT]):
    """A `SpeechEngine` for a model that adds a `cache`, and `traits`, `voice_of`, `begin`, `prefill` and `advance`.

    The utterances of a step are in order of urgency.

    An utterance owns its state; the engine holds weights and voices. A batch that fails as a whole may be retried in parts:
    each piece then begins again, and the samples that were given out before are skipped. So a piece must give the same
    samples each time.
    """

    cache: KvCache
    began: float
    """The start of the current step, on `time.perf_counter`."""

    def __init__(self, device: str, options: LanguageVoiceOptions, *, rate: float, most: int) -> None:
        """The model generates `rate` tokens (or frames) for a second of audio, and at most `most` for a piece."""
        self.device, self.max_streams, self.most_tokens = device, options.slots, most
        self._runaway, self._rate = options.runaway, rate
        self._prefill_seconds, self._prefill_rate = options.prefill_ms / 1000, WorkRate()

    @property
    @abstractmethod
    def traits(self) -> SpeechTraits:
        """The model's abilities."""

    @abstractmethod
    def voice_of(self, request: SpeechRequest) -> tuple[VoiceT, str]:
        """The voice, and its language or "". Raises `MotetError` (not_found) for an unknown voice."""

    @abstractmethod
    def begin(self, utterance: LanguageUtterance[VoiceT, PieceT]) -> PieceT:
        """The state of the piece `utterance.text`, with a slot of its own. If it raises, it holds no slot."""

    @abstractmethod
    def prefill(self, pieces: Sequence[PieceT], counts: Sequence[int]) -> None:
        """Prefills the next `counts` positions of the pieces' prompts, as one batch (`next_parts`)."""

    @abstractmethod
    def advance(self, pieces: Sequence[PieceT]) -> list[Samples]:
        """The next samples of each piece, as one batch; none for a piece that needs more steps. Sets `spoken`."""

    def leave(self, piece: PieceT) -> None:
        """Frees the piece's slot; safe to call twice."""
        self.cache.leave(piece.slot)

    def guard(self, text: str) -> RunawayGuard:
        """The guard against runaway generation for a piece of text."""
        return RunawayGuard(self._runaway, text, rate=self._rate, most=self.most_tokens)

    def watch(self, piece: PieceT, samples: Samples, rate: int) -> bool:
        """Whether the piece must end with these samples. A model that holds audio back passes all of it to the guard in
        `advance`, and returns the guard's answer here."""
        return piece.guard.sound(samples, rate)

    def first_cost(self, request: SpeechRequest) -> float:
        """Every step costs the same, whatever the text."""
        return 1.0

    def cost(self, utterance: LanguageUtterance[VoiceT, PieceT]) -> float:
        """Every step costs the same, whatever the text."""
        return 1.0

    def open(self, request: SpeechRequest) -> LanguageUtterance[VoiceT, PieceT]:
        """Raises `MotetError` (not_found) for an unknown voice."""
        with on_device(self.device):
            voice, language = self.voice_of(request)
        return LanguageUtterance(request, voice, language, request.pieces)

    def close(self, utterance: LanguageUtterance[VoiceT, PieceT]) -> None:
        """Frees the slot and drops the pieces that were not spoken."""
        utterance.closed = True
        self._leave(utterance)

    def _leave(self, utterance: LanguageUtterance[VoiceT, PieceT]) -> None:
        if utterance.piece is not None:
            self.leave(utterance.piece)
            utterance.piece = None

    def step(self, utterances: Sequence[LanguageUtterance[VoiceT, PieceT]]) -> list[AudioChunk | Exception]:
        """The next chunk of each; a pending one while its audio needs more steps."""
        with on_device(self.device):
            return self._step(utterances)

    def _step(self, utterances: Sequence[LanguageUtterance[VoiceT, PieceT]]) -> list[AudioChunk | Exception]:
        self.began = time.perf_counter()
        errors = self._begin_pieces(utterances)
        live = [utterance for utterance, error in zip(utterances, errors, strict=True) if error is None]
        self._prefill_prompts([utterance for utterance in live if _piece(utterance).prompt_left], everyone=live)
        ready = [utterance for utterance in live if not _piece(utterance).prompt_left]
        with self._restart_on_failure(ready):
            sounds = self.advance([_piece(utterance) for utterance in ready]) if ready else []
        samples = dict(zip(map(id, ready), sounds, strict=True))
        chunks = [self._chunk(utterance, samples.get(id(utterance), SILENCE)) for utterance in live]
        following = iter(chunks)
        return [next(following) if error is None else error for error in errors]

    def _begin_pieces(self, utterances: Sequence[LanguageUtterance[VoiceT, PieceT]]) -> list[Exception | None]:
        errors: list[Exception | None] = []
        for utterance in utterances:
            try:
                if utterance.piece is None:
                    utterance.piece, utterance.made = self.begin(utterance), 0
                errors.append(None)
            except Exception as error:
                utterance.closed = True
                errors.append(error)
        return errors

    def _prefill_prompts(
        self, fresh: Sequence[LanguageUtterance[VoiceT, PieceT]], everyone: Sequence[LanguageUtterance[VoiceT, PieceT]]
    ) -> None:
        """Prefills whole prompts if no other stream is speaking, else as much as `prefill_ms` allows."""
        lengths = [_piece(utterance).prompt_left for utterance in fresh]
        if len(fresh) < len(everyone):
            lengths = prompt_shares(lengths, self._prefill_rate.units_in(self._prefill_seconds))
        pieces, counts = [_piece(utterance) for utterance in fresh[: len(lengths)]], lengths
        with self._restart_on_failure(fresh), self._prefill_rate.measuring(sum(counts)):
            if pieces:
                self.prefill(pieces, counts)
        for piece, count in zip(pieces, counts, strict=True):
            piece.prompt = piece.prompt[count:]

    @contextmanager
    def _restart_on_failure(self, utterances: Sequence[LanguageUtterance[VoiceT, PieceT]]) -> Iterator[None]:
        """After an error pieces may be partly advanced, so they begin again in their next step."""
        try:
            yield
        except Exception:
            for utterance in utterances:
                self._leave(utterance)
            raise

    def _chunk(self, utterance: LanguageUtterance[VoiceT, PieceT], samples: Samples) -> AudioChunk | Exception:
        piece, index, text = utterance.piece, utterance.place, utterance.text
        assert piece is not None
        if not np.isfinite(samples).all():
            self.close(utterance)
            return fail("engine", "The model generated samples that are not finite numbers.", "Try another seed.")
        rate = self.traits.sample_rate
        piece.spoken |= self.watch(piece, samples, rate)
        tokens, piece.reported = piece.guard.tokens - piece.reported, piece.guard.tokens
        new = samples[max(0, utterance.emitted - utterance.made) :]
        utterance.made += len(samples)
        utterance.emitted = max(utterance.emitted, utterance.made)
        if piece.spoken:
            self._leave(utterance)
            utterance.position, utterance.emitted = utterance.position + 1, 0
        return AudioChunk(
            new,
            rate,
            index,
            text,
            last=utterance.finished,
            tokens=tokens,
            pending=not (piece.spoken or len(new)),
            finish_reason=piece.guard.final_reason() if piece.spoken else "stop",
            piece_over=piece.spoken,
        )


def _piece(utterance: LanguageUtterance[VoiceT, PieceT]) -> PieceT:
    assert utterance.piece is not None
    return utterance.piece
