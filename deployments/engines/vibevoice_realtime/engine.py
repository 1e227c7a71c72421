"""The VibeVoice-Realtime engine: a step gives the next frames of every utterance.

A piece begins with a copy of its voice's prompt. Before every sixth frame it reads the next window of its text, so its first
audio does not wait for the whole text. Windows and frames are two captured steps. `lm/engine.py` handles streams and pieces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.engines.graphs import CapturedSteps, on_device
from deployments.engines.lm.checkpoint import Weights, load_weights
from deployments.engines.lm.cloning_engine import ClonerOptions, check_prompt_length
from deployments.engines.lm.engine import (
    CaptureOptions,
    LanguageUtterance,
    LanguageVoiceEngine,
    PieceState,
    captured_step,
    options_on_this_thread,
)
from deployments.engines.lm.kernel_choice import KernelOptions, choosing_for
from deployments.engines.lm.kv_cache import Slot
from deployments.engines.lm.linear import AnyPrecision
from deployments.engines.options import Bounds
from deployments.engines.protocols import EngineSpec, Samples, SpeechRequest, SpeechTraits
from deployments.engines.speech import SILENCE
from deployments.engines.vibevoice_realtime.config import (
    SAMPLE_RATE,
    SPEECH_WINDOW,
    TEXT_WINDOW,
    VibeVoiceRealtimeConfig,
    read,
)
from deployments.engines.vibevoice_realtime.networks import RealtimeFrame, VibeVoiceRealtimeNetworks
from deployments.engines.vibevoice_realtime.text import PieceTokenizer
from deployments.engines.vibevoice_realtime.voices import PromptVoice, PromptVoices


@dataclass(frozen=True, kw_only=True)
class VibeVoiceRealtimeOptions(ClonerOptions, KernelOptions, CaptureOptions):
    """`engine_options` of a VibeVoice-Realtime model. The defaults of `guidance` and `solver_steps` are those of Microsoft's
    own programs; None for `solver_steps` means the value in the model's `config.json`, 20."""

    precision: Annotated[
        AnyPrecision, "The least precision of products; bfloat16 on CUDA, int8 or bfloat16 on CPUs."
    ] = "float32"
    chunk_frames: Annotated[Literal[1, 2, 3, 6], "Frames of 133 ms in a chunk of audio."] = 2
    guidance: Annotated[float, Bounds(least=1, most=10)] = 1.5
    solver_steps: Annotated[int | None, Bounds(least=1, most=100)] = 5


@dataclass(eq=False, slots=True, kw_only=True)
class RealtimePiece(PieceState):
    """The state of one piece of text.

    `slot` is its row of the upper decoder, `free` that without the text, `lower` that of the lower decoder. `text` (n, dim)
    are the embeddings that were not read yet, `hidden` (2, dim) the upper decoder's states with the text and without, `state`
    the past inputs of the codec, and `frames` the number of frames so far.
    """

    free: Slot
    lower: Slot
    text: Tensor
    hidden: Tensor
    state: Tensor
    random: np.random.Generator
    frames: int = 0

    @property
    def reads(self) -> bool:
        """Whether it reads a window of text before its next frame."""
        return self.frames % SPEECH_WINDOW == 0 and len(self.text) > 0


RealtimeUtterance = LanguageUtterance[PromptVoice, RealtimePiece]


class VibeVoiceRealtimeEngine(LanguageVoiceEngine[PromptVoice, RealtimePiece]):
    """Speaks with the prompts of the folder's `voices/`."""

    def __init__(
        self,
        networks: VibeVoiceRealtimeNetworks,
        tokenizer: PieceTokenizer,
        voices: PromptVoices,
        options: VibeVoiceRealtimeOptions,
        device: str,
    ) -> None:
        self.config: VibeVoiceRealtimeConfig = networks.config
        frame_rate = self.config.frame_rate
        super().__init__(device, options, rate=frame_rate, most=options.most_frames(frame_rate))
        self.networks, self.options, self._tokenizer, self._voices = networks, options, tokenizer, voices
        with on_device(device):
            self.caches = networks.new_caches(options.slots)
            self.cache = self.caches.upper
            windows, frames = networks.window_inputs(), networks.frame_inputs(self.caches)
            self.window_step = captured_step(self._window, windows, options, options.slots, self.cache, device)
            self.frame_step = captured_step(self._frame, frames, options, options.slots, self.cache, device)
        self.captured = CapturedSteps((self.window_step, self.frame_step))

    @property
    def traits(self) -> SpeechTraits:
        """The voices are those of the folder, at their own pace. The default is the first English one, if there is any: the
        model is meant for English."""
        voices = self._voices.all
        default = next((voice for voice in voices if voice.language == "en"), voices[0])
        return SpeechTraits(SAMPLE_RATE, voices, default.id, 1.0, 1.0)

    def voice_of(self, request: SpeechRequest) -> tuple[PromptVoice, str]:
        """The prompt of the request's voice."""
        return self._voices.get(request.voice), ""

    def open(self, request: SpeechRequest) -> RealtimeUtterance:
        """Raises `MotetError`: not_found for an unknown voice, invalid for a piece of text that is too long."""
        utterance = super().open(request)
        for text in request.pieces:
            length = utterance.voice.positions(len(self._tokenizer.tokens(text)))
            check_prompt_length(length, self.options.longest_prompt)
        return utterance

    def begin(self, utterance: RealtimeUtterance) -> RealtimePiece:
        """Tokenizes the text, and copies the voice into rows of the caches."""
        tokens = torch.tensor(self._tokenizer.tokens(utterance.text))
        voice, upper = utterance.voice, self.caches.upper
        piece = RealtimePiece(
            guard=self.guard(utterance.text),
            prompt=torch.zeros(0),
            slot=upper.join(),
            free=upper.join(),
            lower=self.caches.lower.join(),
            text=self.networks.embedded(tokens),
            hidden=voice.hidden.expand(2, -1),  # a window of text gives the other one before it is used
            state=torch.zeros(self.networks.decoder.state_size),
            random=utterance.random(),
        )
        voice.upper.write(upper, piece.slot)
        voice.free.write(upper, piece.free)
        voice.lower.write(self.caches.lower, piece.lower)
        return piece

    def leave(self, piece: RealtimePiece) -> None:
        """Frees all rows."""
        super().leave(piece)
        self.cache.leave(piece.free)
        self.caches.lower.leave(piece.lower)

    def prefill(self, pieces: Sequence[RealtimePiece], counts: Sequence[int]) -> None:
        """Does nothing: a piece has no prompt of its own. Its text is read while it is spoken."""

    def advance(self, pieces: Sequence[RealtimePiece]) -> list[Samples]:
        """`chunk_frames` frames of each piece, fewer at its end."""
        self.cache.arrange([slot for piece in pieces for slot in (piece.slot, piece.free)])
        if reading := [piece for piece in pieces if piece.reads]:
            self._read(reading)
        frames = self._frames(pieces)
        ends = torch.stack([made.end for made in frames], dim=1).tolist()
        samples = torch.stack([made.samples for made in frames], dim=1).cpu().numpy()
        return [self._samples_of(*row) for row in zip(pieces, ends, samples, strict=True)]

    def _read(self, pieces: Sequence[RealtimePiece]) -> None:
        """Reads the next window of text of each piece."""
        parts = [piece.text[:TEXT_WINDOW] for piece in pieces]
        inputs = {
            "embedding": torch.stack([F.pad(part, (0, 0, 0, TEXT_WINDOW - len(part))) for part in parts]),
            "count": torch.tensor([len(part) for part in parts]),
            "lower_row": torch.tensor([piece.lower.row for piece in pieces]),
            "lower_position": torch.tensor([piece.lower.position for piece in pieces]),
            "upper_row": torch.tensor([piece.slot.row for piece in pieces]),
            "upper_position": torch.tensor([piece.slot.position for piece in pieces]),
        }
        longest = TEXT_WINDOW + max(max(piece.lower.position, piece.slot.position) for piece in pieces)
        read = self.window_step(inputs, min(longest, self.cache.capacity)).clone()
        for piece, part, hidden in zip(pieces, parts, read, strict=True):
            piece.text = piece.text[len(part) :]
            piece.hidden = torch.stack([hidden, piece.hidden[1]])
            for slot in (piece.lower, piece.slot):
                slot.position += len(part)

    def _frames(self, pieces: Sequence[RealtimePiece]) -> list[RealtimeFrame]:
        """The next frames of all rows. Frames after a row's end are ignored."""
        count, scratch = self.options.chunk_frames, self.cache.scratch
        noise = torch.as_tensor(np.stack([self._noise(piece, count) for piece in pieces], axis=1)).to(self.device)
        hidden, state = torch.stack([piece.hidden for piece in pieces]), torch.stack([piece.state for piece in pieces])
        positions = torch.tensor([piece.slot.position for piece in pieces])
        free = torch.tensor([piece.free.position for piece in pieces])
        longest = max(max(piece.slot.position, piece.free.position) for piece in pieces)
        made: list[RealtimeFrame] = []
        for number in range(count):
            inputs = {
                "hidden": hidden,
                "positions": (positions + number).clamp_max(scratch),
                "free_positions": (free + number).clamp_max(scratch),
                "noise": noise[number],
                "state": state,
            }
            packed = self.frame_step(inputs, min(longest + number + 1, self.cache.capacity)).clone()
            made.append(self.networks.unpack(packed))
            hidden, state = made[-1].hidden, made[-1].state
        for number, piece in enumerate(pieces):
            piece.hidden, piece.state = hidden[number].clone(), state[number].clone()
            piece.frames += count
            for slot in (piece.slot, piece.free):
                slot.position = min(slot.position + count, scratch)
        return made

    def _noise(self, piece: RealtimePiece, count: int) -> Samples:
        """(count, latent), drawn frame by frame, so that a frame's noise does not depend on the size of chunks."""
        return piece.random.standard_normal((count, self.config.head.latent), dtype=np.float32)

    def _samples_of(self, piece: RealtimePiece, ends: list[float], samples: Samples) -> Samples:
        """The frames up to the end, which belongs to them."""
        kept = []
        for end, sound in zip(ends, samples, strict=True):
            kept.append(sound)
            piece.spoken = piece.guard.frame() or end > 0
            if piece.spoken:
                break
        return np.clip(np.concatenate(kept), -1, 1) if kept else SILENCE

    def _window(self, inputs: Mapping[str, Tensor], length: int) -> Tensor:
        return self.networks.window(inputs, self.caches, length)

    def _frame(self, inputs: Mapping[str, Tensor], length: int) -> Tensor:
        return self.networks.frame(inputs, self.caches, length)


def load(spec: EngineSpec) -> VibeVoiceRealtimeEngine:
    """Loads `config.json`, the weights in safetensors, `tokenizer.json` and the prompts of `voices/` from `spec.folder`."""
    folder, options = Path(spec.folder), options_on_this_thread(spec, VibeVoiceRealtimeOptions)
    config, tokenizer = read(folder), PieceTokenizer.read(folder)
    voices = PromptVoices(folder, config, most=options.voices_kept, device=spec.device)
    with on_device(spec.device), choosing_for(spec, options):
        networks = networks_of(load_weights(folder, spec.device), config, options)
    return VibeVoiceRealtimeEngine(networks, tokenizer, voices, options, spec.device)


def networks_of(
    weights: Weights, config: VibeVoiceRealtimeConfig, options: VibeVoiceRealtimeOptions
) -> VibeVoiceRealtimeNetworks:
    """The networks from weights with Microsoft's names."""
    return VibeVoiceRealtimeNetworks(
        weights,
        config,
        options.precision,
        capacity=options.most_positions(config.frame_rate),
        solver_steps=options.solver_steps or config.solver_steps,
        guidance=options.guidance,
    )
