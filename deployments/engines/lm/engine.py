"""The engine of a language-model voice: streams of pieces, prompts read together, a chunk of sound for each at a step.

A model says how a piece of text begins, goes on and leaves; everything that is the same for all such models is here.
While some speak, a step reads a bounded part of the prompts of those who are new, so that nobody waits for a whole prompt
of somebody else. Sopro, VibeVoice, Pocket-TTS and IndexTTS are models of this engine.
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
"""What a step is recorded for: rows, or positions. In any order; what is more than the engine has is as much as it has."""


@dataclass(frozen=True, kw_only=True)
class LanguageVoiceOptions(EngineOptions):
    """`engine_options` that every language-model voice has."""

    slots: Annotated[int, Bounds(least=1, most=256), "Utterances that may be open at once."] = 32
    voices_kept: Annotated[int, Bounds(least=1, most=1024), "Clips whose voice is kept ready."] = 16
    read_ms: Annotated[
        float,
        Bounds(above=0),
        "While others speak, a step reads prompts of new pieces for about so long, at least one block of them.",
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
    """The step of an engine of `slots` streams, captured for the sizes of its options if they ask for it."""
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
    """The options of a model that is about to be loaded on this thread, which computes as the spec says from here on.

    Raises `MotetError` (invalid) with every fault in them.
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
    """One piece of text on its way to sound; a model's own piece adds whatever else it keeps.

    `prompt` (n, dim) is what is not read yet of what it begins with. It is `spoken` when its last sound is made. `guard`
    counts its tokens and says why it ended; `slot` is its row.
    """

    guard: RunawayGuard
    slot: Slot
    prompt: Tensor
    spoken: bool = False
    told: int = 0
    """Of its tokens, how many its chunks have told of."""

    @property
    def unread(self) -> int:
        """Positions of the prompt that are not read yet."""
        return len(self.prompt)


VoiceT = TypeVar("VoiceT")
PieceT = TypeVar("PieceT", bound=PieceState)


def next_parts(pieces: Sequence[PieceState], counts: Sequence[int]) -> list[Tensor]:
    """The next `counts` positions of each piece's prompt, (count, dim)."""
    return [piece.prompt[:count] for piece, count in zip(pieces, counts, strict=True)]


def prompt_shares(lengths: Sequence[int], most: int) -> list[int]:
    """How much is read of prompts of such lengths, the first ones first: `most` positions together, rounded down to whole
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
    """What is said, and how far it is. `piece` is None between two pieces; `heard` of its samples have left."""

    request: SpeechRequest
    voice: VoiceT
    language: str
    pieces: tuple[str, ...]
    position: int = 0
    closed: bool = False
    piece: PieceT | None = None
    heard: int = 0
    skipped: int = 0

    @property
    def finished(self) -> bool:
        """True when every piece was spoken, or the caller left."""
        return self.closed or self.position >= len(self.pieces)

    @property
    def text(self) -> str:
        """The piece that is said now."""
        return self.pieces[self.position]

    def random(self, *stream: int) -> np.random.Generator:
        """Random numbers of the piece: the same for the same seed, place and `stream`."""
        return np.random.default_rng([self.request.seed, self.place, *stream])

    @property
    def place(self) -> int:
        """The piece's place in the whole text, from which its random numbers follow."""
        return self.request.first_index + self.position


class LanguageVoiceEngine(ABC, Generic[VoiceT, PieceT]):
    """A `SpeechEngine` over what a model adds: a `cache`, and `traits`, `voice_of`, `begin`, `read` and `advance`.

    The utterances of a step stand in the order of their urgency.

    An utterance owns its state; the model holds weights and voices. A batch that fails as a whole may be tried again in
    parts: each piece begins anew, and says again, unheard, what has left already. So the same piece must always come to
    the same sound.
    """

    cache: KvCache
    began: float
    """When the present step did, on `time.perf_counter`."""

    def __init__(self, device: str, options: LanguageVoiceOptions, *, rate: float, most: int) -> None:
        """The model makes `rate` tokens (or frames) for a second of sound, and `most` of them for a piece."""
        self.device, self.max_streams, self.most_tokens = device, options.slots, most
        self._runaway, self._rate = options.runaway, rate
        self._read_seconds, self._reading = options.read_ms / 1000, WorkRate()

    @property
    @abstractmethod
    def traits(self) -> SpeechTraits:
        """What the model can do."""

    @abstractmethod
    def voice_of(self, request: SpeechRequest) -> tuple[VoiceT, str]:
        """The voice, and the language it speaks or ''. Raises `MotetError` (not_found) for a voice that is not here."""

    @abstractmethod
    def begin(self, utterance: LanguageUtterance[VoiceT, PieceT]) -> PieceT:
        """The piece of `utterance.text`, with a slot of its own. Raises what is wrong with it, and then holds no slot."""

    @abstractmethod
    def read(self, pieces: Sequence[PieceT], counts: Sequence[int]) -> None:
        """Reads the next `counts` positions of the pieces' prompts, together (`next_parts`)."""

    @abstractmethod
    def advance(self, pieces: Sequence[PieceT]) -> list[Samples]:
        """The next chunk of sound of each, as one batch, or no samples where it takes more steps. Sets `spoken`."""

    def leave(self, piece: PieceT) -> None:
        """Frees the piece's slot; safe to call twice."""
        self.cache.leave(piece.slot)

    def guard(self, text: str) -> RunawayGuard:
        """What watches over a piece of text."""
        return RunawayGuard(self._runaway, text, rate=self._rate, most=self.most_tokens)

    def watch(self, piece: PieceT, samples: Samples, rate: int) -> bool:
        """Whether the piece must end with the samples that `advance` gave. A model that holds some of its sound back tells
        the guard of all of it in `advance`, and answers here what the guard said."""
        return piece.guard.sound(samples, rate)

    def first_cost(self, request: SpeechRequest) -> float:
        """A step is as long for every row, whatever the text."""
        return 1.0

    def cost(self, utterance: LanguageUtterance[VoiceT, PieceT]) -> float:
        """A step is as long for every row, whatever the text."""
        return 1.0

    def open(self, request: SpeechRequest) -> LanguageUtterance[VoiceT, PieceT]:
        """Raises `MotetError` (not_found) for a voice that is not here."""
        with on_device(self.device):
            voice, language = self.voice_of(request)
        return LanguageUtterance(request, voice, language, request.pieces)

    def close(self, utterance: LanguageUtterance[VoiceT, PieceT]) -> None:
        """Frees the slot and forgets the rest."""
        utterance.closed = True
        self._leave(utterance)

    def _leave(self, utterance: LanguageUtterance[VoiceT, PieceT]) -> None:
        if utterance.piece is not None:
            self.leave(utterance.piece)
            utterance.piece = None

    def step(self, utterances: Sequence[LanguageUtterance[VoiceT, PieceT]]) -> list[AudioChunk | Exception]:
        """The next chunk of each; a pending one without samples while its sound takes more steps."""
        with on_device(self.device):
            return self._step(utterances)

    def _step(self, utterances: Sequence[LanguageUtterance[VoiceT, PieceT]]) -> list[AudioChunk | Exception]:
        self.began = time.perf_counter()
        errors = self._begin_pieces(utterances)
        live = [utterance for utterance, error in zip(utterances, errors, strict=True) if error is None]
        self._read_prompts([utterance for utterance in live if _piece(utterance).unread], everyone=live)
        ready = [utterance for utterance in live if not _piece(utterance).unread]
        with self._beginning_again_on_failure(ready):
            sounds = self.advance([_piece(utterance) for utterance in ready]) if ready else []
        heard = dict(zip(map(id, ready), sounds, strict=True))
        chunks = [self._chunk(utterance, heard.get(id(utterance), SILENCE)) for utterance in live]
        following = iter(chunks)
        return [next(following) if error is None else error for error in errors]

    def _begin_pieces(self, utterances: Sequence[LanguageUtterance[VoiceT, PieceT]]) -> list[Exception | None]:
        errors: list[Exception | None] = []
        for utterance in utterances:
            try:
                if utterance.piece is None:
                    utterance.piece, utterance.skipped = self.begin(utterance), 0
                errors.append(None)
            except Exception as error:
                utterance.closed = True
                errors.append(error)
        return errors

    def _read_prompts(
        self,
        fresh: Sequence[LanguageUtterance[VoiceT, PieceT]],
        everyone: Sequence[LanguageUtterance[VoiceT, PieceT]],
    ) -> None:
        """Reads the whole prompts while no other stream speaks, else as much as `read_ms` allows."""
        lengths = [_piece(utterance).unread for utterance in fresh]
        if len(fresh) < len(everyone):
            lengths = prompt_shares(lengths, self._reading.units_in(self._read_seconds))
        pieces, counts = [_piece(utterance) for utterance in fresh[: len(lengths)]], lengths
        with self._beginning_again_on_failure(fresh), self._reading.measuring(sum(counts)):
            if pieces:
                self.read(pieces, counts)
        for piece, count in zip(pieces, counts, strict=True):
            piece.prompt = piece.prompt[count:]

    @contextmanager
    def _beginning_again_on_failure(self, utterances: Sequence[LanguageUtterance[VoiceT, PieceT]]) -> Iterator[None]:
        """A failure in the middle leaves pieces half moved on: their next step begins them anew."""
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
            return fail("engine", "The model made samples that are not finite numbers.", "Try another seed.")
        rate = self.traits.sample_rate
        piece.spoken |= self.watch(piece, samples, rate)
        tokens, piece.told = piece.guard.tokens - piece.told, piece.guard.tokens
        new = samples[max(0, utterance.heard - utterance.skipped) :]
        utterance.skipped += len(samples)
        utterance.heard = max(utterance.heard, utterance.skipped)
        if piece.spoken:
            self._leave(utterance)
            utterance.position, utterance.heard = utterance.position + 1, 0
        return AudioChunk(
            new,
            rate,
            index,
            text,
            last=utterance.finished,
            tokens=tokens,
            pending=not (piece.spoken or len(new)),
            finish_reason=piece.guard.over() if piece.spoken else "stop",
            piece_over=piece.spoken,
        )


def _piece(utterance: LanguageUtterance[VoiceT, PieceT]) -> PieceT:
    """The piece that is said now, which has begun."""
    assert utterance.piece is not None
    return utterance.piece
