"""The VibeVoice engine: a step gives the next frames of every utterance.

For each frame the language model (with the text and without, for guidance), the diffusion head, the codec's decoder, and the
encoder of the frame's audio are one captured step. `lm/engine.py` handles streams, prompts and pieces. Each piece of a script
has its own prompt, so a script of any length takes the same memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from deployments.engines.graphs import on_device
from deployments.engines.lm.checkpoint import load_weights
from deployments.engines.lm.cloning_engine import Clips, ClonerOptions, CloningEngine, PromptedPiece
from deployments.engines.lm.engine import CaptureOptions, LanguageUtterance, captured_step, options_on_this_thread
from deployments.engines.lm.kernel_choice import KernelOptions, choosing_for
from deployments.engines.lm.kv_cache import Slot
from deployments.engines.lm.linear import AnyPrecision
from deployments.engines.options import Bounds
from deployments.engines.protocols import EngineSpec, Samples, SpeechRequest
from deployments.engines.speech import SILENCE
from deployments.engines.vibevoice.config import VibeVoiceConfig, read
from deployments.engines.vibevoice.networks import VibeVoiceFrame, VibeVoiceNetworks
from deployments.engines.vibevoice.text import ScriptPrompts
from deployments.errors import fail
from deployments.text.speakers import MOST_SPEAKERS, check_speakers

SHORTEST_CLIP_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class VibeVoiceOptions(ClonerOptions, KernelOptions, CaptureOptions):
    """`engine_options` of a VibeVoice model. None means the value in the model's own files."""

    precision: Annotated[
        AnyPrecision, "The least precision of products; bfloat16 on CUDA, int8 or bfloat16 on CPUs."
    ] = "float32"
    clip_seconds: Annotated[float, Bounds(least=1, most=60), "Seconds of a clip that are used."] = 30.0
    chunk_frames: Annotated[
        int, Bounds(least=1, most=64), "Frames in a chunk of audio; 133 ms each in the published model."
    ] = 2
    guidance: Annotated[float | None, Bounds(least=1, most=10)] = None
    solver_steps: Annotated[int | None, Bounds(least=1, most=100)] = None


@dataclass(eq=False, slots=True, kw_only=True)
class VibeVoicePiece(PromptedPiece):
    """The state of one piece of text: `free` is its row without the text, `state` the past inputs of the codec."""

    free: Slot
    state: Tensor


VibeVoiceUtterance = LanguageUtterance[Clips, VibeVoicePiece]


class VibeVoiceEngine(CloningEngine[VibeVoicePiece]):
    """Speaks with clips, one for each speaker of a script."""

    most_speakers, rows = MOST_SPEAKERS, 2

    def __init__(
        self, networks: VibeVoiceNetworks, script: ScriptPrompts, folder: Path, options: VibeVoiceOptions, device: str
    ) -> None:
        self.config: VibeVoiceConfig = networks.config
        sample_rate, frame_rate = self.config.sample_rate, self.config.frame_rate
        super().__init__(networks.language, folder, options, device, sample_rate=sample_rate, frame_rate=frame_rate)
        self.networks, self.options, self._script = networks, options, script
        with on_device(device):
            inputs = networks.frame_inputs(self.cache)
            self.captured = captured_step(self._frame, inputs, options, options.slots, self.cache, device)

    def encode_clip(self, clip: Tensor) -> Tensor:
        """The embeddings (frames, dim) of the clip's beginning. Raises `MotetError` (invalid) for a clip that is too
        short."""
        rate = self.config.sample_rate
        sound = clip[: int(self.options.clip_seconds * rate)]
        if len(sound) < SHORTEST_CLIP_SECONDS * rate:
            cause = f"The clip is {len(sound) / rate:.1f} s long."
            raise fail("invalid", cause, "Give 5 to 30 s of one person speaking.", param="voice")
        return self.networks.voice(_normalised(sound, self.config.level_db))

    def voice_of(self, request: SpeechRequest) -> tuple[Clips, str]:
        """The request's clip, or a clip of the folder for each speaker: `ada`, or `ada,ben`. Raises `MotetError` (invalid) if
        a speaker of the text has no clip."""
        clips, language = super().voice_of(request)
        check_speakers(request.pieces, len(clips))
        return clips, language

    def prompt_length(self, text: str, clips: Clips) -> int:
        """Positions of the whole prompt: instruction, clips and text."""
        return len(self._script.prompt(text, [len(clip) for clip in clips]))

    def begin(self, utterance: VibeVoiceUtterance) -> VibeVoicePiece:
        """Tokenizes the text and takes a row with the text and one without."""
        clips = utterance.voice
        tokens = self._script.prompt(utterance.text, [len(clip) for clip in clips])
        prompt = self.networks.prompt(tokens.to(self.device), torch.cat(clips))
        return VibeVoicePiece(
            guard=self.guard(utterance.text),
            prompt=prompt[:-1],  # the last is the first frame's
            slot=self.join(),
            free=self.cache.join(),
            random=utterance.random(),
            embedding=prompt[-1],
            state=torch.zeros(self.networks.state_size),
        )

    def leave(self, piece: VibeVoicePiece) -> None:
        """Frees both rows."""
        super().leave(piece)
        self.cache.leave(piece.free)

    def advance(self, pieces: Sequence[VibeVoicePiece]) -> list[Samples]:
        """`chunk_frames` frames of each piece, fewer at its end."""
        self.cache.arrange([slot for piece in pieces for slot in (piece.slot, piece.free)])
        frames = self._frames(pieces)
        choices = torch.stack([made.choice for made in frames], dim=1).tolist()
        samples = torch.stack([made.samples for made in frames], dim=1).cpu().numpy()
        return [self._samples_of(*row) for row in zip(pieces, choices, samples, strict=True)]

    def _frames(self, pieces: Sequence[VibeVoicePiece]) -> list[VibeVoiceFrame]:
        """The next frames of all rows. Frames after a row's end are ignored."""
        count, scratch = self.options.chunk_frames, self.cache.scratch
        noise = torch.as_tensor(np.stack([self._noise(piece, count) for piece in pieces], axis=1)).to(self.device)
        embedding = torch.stack([piece.embedding for piece in pieces])
        state = torch.stack([piece.state for piece in pieces])
        positions = torch.tensor([piece.slot.position for piece in pieces])
        free = torch.tensor([piece.free.position for piece in pieces])
        longest = max(max(piece.slot.position, piece.free.position) for piece in pieces)
        made: list[VibeVoiceFrame] = []
        for number in range(count):
            inputs = {
                "embedding": embedding,
                "positions": positions,
                "free_positions": free,
                "noise": noise[number],
                "state": state,
            }
            packed = self.captured(inputs, min(longest + number + 1, self.cache.capacity)).clone()
            made.append(self.networks.unpack(packed))
            embedding, state = made[-1].embedding, made[-1].state
            positions = (positions + 1).clamp_max(scratch)
            free = self._free_after(free, made[-1].choice).clamp_max(scratch)
        for number, piece in enumerate(pieces):
            piece.embedding, piece.state = embedding[number].clone(), state[number].clone()
            piece.slot.position, piece.free.position = int(positions[number]), int(free[number])
        return made

    def _free_after(self, free: Tensor, choice: Tensor) -> Tensor:
        """The next positions of the rows without text: an audio token advances them, a begin token resets them, others leave
        them."""
        choices, config = self.config.choices, self.config
        moved = free + (choice == choices.index(config.audio))
        return torch.where(choice == choices.index(config.begin), 0, moved)

    def _noise(self, piece: VibeVoicePiece, count: int) -> Samples:
        """(count, latent), drawn frame by frame, so that a frame's noise does not depend on how the text is cut into
        chunks."""
        return piece.random.standard_normal((count, self.config.head.latent), dtype=np.float32)

    def _samples_of(self, piece: VibeVoicePiece, choices: list[int], samples: Samples) -> Samples:
        kept = []
        for name, sound in zip((self.config.choices[choice] for choice in choices), samples, strict=True):
            sounds = name == self.config.audio
            if sounds:
                kept.append(sound)
            piece.spoken = name == self.config.stop or piece.guard.frame(soundless=not sounds)
            if piece.spoken:
                break
        return np.clip(np.concatenate(kept), -1, 1) if kept else SILENCE

    def _frame(self, inputs: Mapping[str, Tensor], length: int) -> Tensor:
        return self.networks.frame(inputs, self.cache, length)


def _normalised(sound: Tensor, level_db: float | None) -> Tensor:
    """Scales a clip to the level of the training data, limited to full scale."""
    if level_db is None:
        return sound
    louder = sound * 10 ** (level_db / 20) / (sound.square().mean().sqrt() + 1e-6)
    peak = louder.abs().max()
    return louder / (peak + 1e-6) if peak > 1 else louder


def load(spec: EngineSpec) -> VibeVoiceEngine:
    """Loads `config.json`, the weights in safetensors, `tokenizer.json` and the clips of `voices/` from `spec.folder`."""
    folder, options = Path(spec.folder), options_on_this_thread(spec, VibeVoiceOptions)
    config = read(folder)
    with on_device(spec.device), choosing_for(spec, options):
        networks = networks_of(load_weights(folder, spec.device), config, options)
    return VibeVoiceEngine(networks, ScriptPrompts.read(folder, config), folder, options, spec.device)


def networks_of(weights: Mapping[str, Tensor], config: VibeVoiceConfig, options: VibeVoiceOptions) -> VibeVoiceNetworks:
    """The networks from weights in the Hugging Face layout."""
    return VibeVoiceNetworks(
        weights,
        config,
        options.precision,
        capacity=options.most_positions(config.frame_rate),
        solver_steps=options.solver_steps or config.solver_steps,
        guidance=config.guidance if options.guidance is None else options.guidance,
    )
