"""The Qwen3-TTS engine: a step gives the next frames of every utterance.

For each frame the talker, the code predictor and the codec are one captured step. `lm/engine.py` handles streams, prompts and
pieces.
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
from deployments.engines.lm.checkpoint import Weights, load_weights
from deployments.engines.lm.clip_voices import split_language, tagged_voices
from deployments.engines.lm.cloning_engine import Clips, ClonerOptions, CloningEngine, PromptedPiece
from deployments.engines.lm.engine import CaptureOptions, LanguageUtterance, captured_step, options_on_this_thread
from deployments.engines.lm.kernel_choice import KernelOptions, choosing_for
from deployments.engines.lm.kv_cache import Slot
from deployments.engines.lm.linear import AnyPrecision
from deployments.engines.options import Bounds
from deployments.engines.protocols import EngineSpec, Samples, SpeechRequest, SpeechTraits
from deployments.engines.qwen3_tts.config import Qwen3TtsConfig, read
from deployments.engines.qwen3_tts.networks import Qwen3TtsFrame, Qwen3TtsNetworks
from deployments.engines.qwen3_tts.prompt import Qwen3TtsPrompts, read_tokenizer
from deployments.engines.speech import SILENCE
from deployments.errors import fail

TAGS: Mapping[str, str] = {
    "chinese": "zh",
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "portuguese": "pt",
    "russian": "ru",
    "spanish": "es",
}
"""BCP 47 tags of the languages that the published models name."""


@dataclass(frozen=True, kw_only=True)
class Qwen3TtsOptions(ClonerOptions, KernelOptions, CaptureOptions):
    """`engine_options` of a Qwen3-TTS model."""

    precision: Annotated[
        AnyPrecision, "The least precision of products; bfloat16 on CUDA, int8 or bfloat16 on CPUs."
    ] = "float32"
    language: Annotated[str, 'The language of voices without one, such as "en"; "" is that of the text.'] = ""
    chunk_frames: Annotated[int, Bounds(least=1, most=64), "Frames of 80 ms in a chunk of audio."] = 3


@dataclass(eq=False, slots=True, kw_only=True)
class Qwen3TtsPiece(PromptedPiece):
    """The state of one piece of text: `window` is its row of the codec's cache, `state` the past inputs of the codec, `said`
    (codes,) the first codes so far, and `frames` their number."""

    window: Slot
    state: Tensor
    said: Tensor
    frames: int = 0


Qwen3TtsUtterance = LanguageUtterance[Clips, Qwen3TtsPiece]


class Qwen3TtsEngine(CloningEngine[Qwen3TtsPiece]):
    """Speaks with the model's own speakers, each by its name or as `<name>.<language>`. The "clip" of an utterance is all of
    its prompt that comes before the text."""

    def __init__(
        self, networks: Qwen3TtsNetworks, prompts: Qwen3TtsPrompts, folder: Path, options: Qwen3TtsOptions, device: str
    ) -> None:
        self.config: Qwen3TtsConfig = networks.config
        sample_rate, frame_rate = self.config.sample_rate, self.config.frame_rate
        super().__init__(networks.talker, folder, options, device, sample_rate=sample_rate, frame_rate=frame_rate)
        self.networks, self.options, self._prompts = networks, options, prompts
        self._languages = {TAGS[name]: code for name, code in self.config.languages.items() if name in TAGS}
        with on_device(device):
            self.caches = networks.new_caches(options.slots, self.cache)
            inputs = networks.frame_inputs(self.caches)
            self.captured = captured_step(self._frame, inputs, options, options.slots, self.cache, device)

    @property
    def traits(self) -> SpeechTraits:
        """The voices are the model's speakers, at their own pace."""
        voices = tagged_voices(self.config.speakers, self._languages, self.options.language)
        default = voices[0].id if voices else ""
        return SpeechTraits(self.config.sample_rate, voices, default, 1.0, 1.0, free_instructions=self.config.follows)

    def voice_of(self, request: SpeechRequest) -> tuple[Clips, str]:
        """The prompt before the text, and the language. Raises `MotetError` (not_found) for an unknown voice."""
        name, tag = split_language(request.voice, self.config.speakers, self._languages, self.options.language)
        speaker = self.config.speakers[name]
        language = self._languages.get(tag)
        if tag in ("", "zh") and speaker.dialect:
            language = self.config.languages[speaker.dialect]
        instructions = request.instructions.strip() if self.config.follows else ""
        return (self._prompts.prefix(self._prompts.speaker(speaker.code), language, instructions),), tag

    def encode_clip(self, clip: Tensor) -> Tensor:
        """Raises `MotetError` (unsupported)."""
        raise fail("unsupported", "This model does not clone voices.", "Name one of its voices.", param="voice")

    def prompt_length(self, text: str, clips: Clips) -> int:
        """Positions of the whole prompt."""
        return len(clips[0]) + self._prompts.text_positions(text)

    def begin(self, utterance: Qwen3TtsUtterance) -> Qwen3TtsPiece:
        """Builds the prompt, and takes a row of the talker's cache and one of the codec's."""
        prompt = torch.cat([utterance.voice[0], self._prompts.text(utterance.text)])
        return Qwen3TtsPiece(
            guard=self.guard(utterance.text),
            prompt=prompt[:-1],  # the last is the first frame's
            slot=self.join(),
            window=self.caches.codec.join(),
            random=utterance.random(),
            embedding=prompt[-1],
            state=torch.zeros(self.networks.codec.state_size),
            said=torch.zeros(self.config.codes, dtype=torch.bool),
        )

    def leave(self, piece: Qwen3TtsPiece) -> None:
        """Frees both rows."""
        super().leave(piece)
        self.caches.codec.leave(piece.window)

    def advance(self, pieces: Sequence[Qwen3TtsPiece]) -> list[Samples]:
        """`chunk_frames` frames of each piece, fewer at its end."""
        self.cache.arrange([piece.slot for piece in pieces])
        self.caches.codec.arrange([piece.window for piece in pieces])
        frames = self._frames(pieces)
        firsts = torch.stack([made.codes[:, 0] for made in frames], dim=1).tolist()
        samples = torch.stack([made.samples for made in frames], dim=1).cpu().numpy()
        return [self._samples_of(*row) for row in zip(pieces, firsts, samples, strict=True)]

    def _frames(self, pieces: Sequence[Qwen3TtsPiece]) -> list[Qwen3TtsFrame]:
        """The next frames of all rows. Frames after a row's end are ignored."""
        count, longest = self.options.chunk_frames, max(piece.slot.position for piece in pieces)
        draws = torch.as_tensor(np.stack([self._draws(piece, count) for piece in pieces], axis=1)).to(self.device)
        embedding = torch.stack([piece.embedding for piece in pieces])
        state, said = torch.stack([piece.state for piece in pieces]), torch.stack([piece.said for piece in pieces])
        positions = torch.tensor([piece.slot.position for piece in pieces])
        frames = torch.tensor([piece.frames for piece in pieces])
        made: list[Qwen3TtsFrame] = []
        for number in range(count):
            inputs = {
                "embedding": embedding,
                "positions": (positions + number).clamp_max(self.cache.scratch),
                "frames": (frames + number).clamp_max(self.networks.codec.transformer.most_frames),
                "said": said,
                "draws": draws[number],
                "state": state,
            }
            length = min(longest + number + 1, self.cache.capacity)
            made.append(self.networks.unpack(self.captured(inputs, length).clone()))
            embedding, state = made[-1].embedding, made[-1].state
            said = said.scatter(1, made[-1].codes[:, :1], True)
        for number, piece in enumerate(pieces):
            piece.embedding, piece.state, piece.said = (
                embedding[number].clone(),
                state[number].clone(),
                said[number].clone(),
            )
            piece.slot.position = min(piece.slot.position + count, self.cache.scratch)
            piece.frames += count
            piece.window.position = min(piece.frames, self.config.codec.window)
        return made

    def _draws(self, piece: Qwen3TtsPiece, count: int) -> Samples:
        """(count, groups), drawn frame by frame, so that a frame's random numbers do not depend on the size of chunks."""
        return piece.random.random((count, self.config.groups), dtype=np.float32)

    def _samples_of(self, piece: Qwen3TtsPiece, firsts: list[int], samples: Samples) -> Samples:
        kept = []
        for first, sound in zip(firsts, samples, strict=True):
            piece.spoken = first == self.config.marks.end
            if piece.spoken:
                break
            kept.append(sound)
            piece.spoken = piece.guard.token(first)
            if piece.spoken:
                break
        return np.concatenate(kept) if kept else SILENCE

    def _frame(self, inputs: Mapping[str, Tensor], length: int) -> Tensor:
        return self.networks.frame(inputs, self.caches, length)


def load(spec: EngineSpec) -> Qwen3TtsEngine:
    """Loads `config.json`, the weights in safetensors, the tokenizer and the codec in `speech_tokenizer/` from
    `spec.folder`."""
    folder, options = Path(spec.folder), options_on_this_thread(spec, Qwen3TtsOptions)
    config = read(folder)
    with on_device(spec.device), choosing_for(spec, options):
        codec = load_weights(folder / "speech_tokenizer", spec.device)
        networks = networks_of(load_weights(folder, spec.device), codec, config, options)
    return Qwen3TtsEngine(networks, Qwen3TtsPrompts(read_tokenizer(folder), networks), folder, options, spec.device)


def networks_of(
    weights: Weights, codec_weights: Weights, config: Qwen3TtsConfig, options: Qwen3TtsOptions
) -> Qwen3TtsNetworks:
    """The networks from weights in the published layout."""
    return Qwen3TtsNetworks(
        weights,
        codec_weights,
        config,
        options.precision,
        capacity=options.most_positions(config.frame_rate),
        most_frames=options.most_frames(config.frame_rate),
    )
