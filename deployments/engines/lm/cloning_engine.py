"""The engine of a voice-cloning model that takes a clip and a text as one prompt and then generates frame after frame.

VibeVoice, Pocket-TTS and Qwen3-TTS use it. A model encodes the clip, builds the prompt, and generates frames.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from deployments.audio.resample import resample
from deployments.engines.graphs import on_device
from deployments.engines.lm.clip_voices import ClipVoices
from deployments.engines.lm.engine import (
    LanguageUtterance,
    LanguageVoiceEngine,
    LanguageVoiceOptions,
    PieceState,
    next_parts,
)
from deployments.engines.lm.kv_cache import KvCache, Slot
from deployments.engines.options import Bounds
from deployments.engines.protocols import Samples, SpeechRequest, SpeechTraits
from deployments.errors import fail

Clips = tuple[Tensor, ...]
"""For each speaker of a request the embeddings of the clip, (frames, dim)."""


VOICES_SHARE = 0.75
"""The share of a prompt's positions that clips may take."""


@dataclass(frozen=True, kw_only=True)
class ClonerOptions(LanguageVoiceOptions):
    """`engine_options` of a model that takes a voice and a text as one prompt."""

    longest_prompt: Annotated[int, Bounds(least=64), "Positions of voice and text together, for one piece."] = 1024
    most_seconds: Annotated[float, Bounds(above=0), "Seconds of audio for one piece."] = 60.0

    def most_frames(self, rate: float) -> int:
        """The most frames of a piece, at `rate` frames a second."""
        return max(1, int(self.most_seconds * rate))

    def most_positions(self, rate: float) -> int:
        """The most positions of a piece, for its prompt and its frames."""
        return self.longest_prompt + self.most_frames(rate)


@dataclass(eq=False, slots=True, kw_only=True)
class PromptedPiece(PieceState):
    """A piece with its random numbers and the input `embedding` (dim,) of its next frame."""

    random: np.random.Generator
    embedding: Tensor


class LanguageDecoder(Protocol):
    """A decoder: the prefill and step passes over a key-value cache."""

    def new_cache(self, slots: int) -> KvCache:
        """A cache of `slots` rows."""

    def prefill(self, prompts: Sequence[Tensor], slots: Sequence[Slot], cache: KvCache) -> Tensor:
        """Prefills the next parts (n_i, dim) of prompts."""

    def step(self, x: Tensor, positions: Tensor, cache: KvCache, length: int) -> Tensor:
        """One more position of the cache's first rows: (batch, dim) to (batch, dim), attending to `length` positions."""


PieceT = TypeVar("PieceT", bound=PromptedPiece)


def check_prompt_length(length: int, longest: int) -> None:
    """Raises `MotetError` (invalid) for voices and a piece of text that are longer than `longest` positions together."""
    if length > longest:
        raise fail(
            "invalid",
            f"The voices and a piece of the text take {length} positions; the model allows {longest}.",
            "Send shorter clips, fewer speakers or shorter sentences, or raise the model's longest_prompt.",
            param="input",
            code="prompt_too_long",
        )


class CloningEngine(LanguageVoiceEngine[Clips, PieceT]):
    """Speaks with the clips of the folder, and with the clip of a request."""

    most_speakers: ClassVar[int] = 1
    rows: ClassVar[int] = 1
    """Rows of the cache for each piece."""

    def __init__(
        self,
        decoder: LanguageDecoder,
        folder: Path,
        options: ClonerOptions,
        device: str,
        *,
        sample_rate: int,
        frame_rate: float,
    ) -> None:
        super().__init__(device, options, rate=frame_rate, most=options.most_frames(frame_rate))
        self.decoder, self.cache = decoder, decoder.new_cache(self.rows * options.slots)
        self._longest_prompt = options.longest_prompt
        self._clips = ClipVoices(folder, self._encode, rate=sample_rate, most=options.voices_kept)

    @abstractmethod
    def encode_clip(self, clip: Tensor) -> Tensor:
        """The embeddings (frames, dim) of a mono clip (n,) at the model's sample rate."""

    @property
    def traits(self) -> SpeechTraits:
        """The voices are clips, one for each speaker of a script, at the clip's own pace."""
        return self._clips.traits(most_speakers=self.most_speakers)

    def forget_voice(self, id: str) -> None:
        """See `KeepsVoices`."""
        self._clips.forget(id)

    @abstractmethod
    def prompt_length(self, text: str, clips: Clips) -> int:
        """Positions of the prompt of a piece of text."""

    def voice_of(self, request: SpeechRequest) -> tuple[Clips, str]:
        """The request's clip, or a clip of the folder for each speaker: `ada`, or `ada,ben`. Only the beginnings of long
        clips are used, so that the text fits in the prompt."""
        clips = self._clips.of_request(request)
        most = int(VOICES_SHARE * self._longest_prompt) // len(clips)
        return tuple(clip[:most] for clip in clips), ""

    def open(self, request: SpeechRequest) -> LanguageUtterance[Clips, PieceT]:
        """Raises `MotetError`: not_found for an unknown voice, invalid for a piece of text that is too long."""
        utterance = super().open(request)
        for text in request.pieces:
            check_prompt_length(self.prompt_length(text, utterance.voice), self._longest_prompt)
        return utterance

    def join(self) -> Slot:
        """A row for a piece. Raises `MotetError` (overloaded) if none is free."""
        if self.cache.free < self.rows:
            raise fail("overloaded", "All slots of the model are in use.", "Try again in a moment.", retry_after_s=1.0)
        return self.cache.join()

    def prefill(self, pieces: Sequence[PieceT], counts: Sequence[int]) -> None:
        """Prefills the prompts."""
        self.decoder.prefill(next_parts(pieces, counts), [piece.slot for piece in pieces], self.cache)

    def _encode(self, clip: Samples, rate: int) -> Tensor:
        with on_device(self.device):
            return self.encode_clip(torch.as_tensor(resample(clip, rate, self.traits.sample_rate)).to(self.device))
