"""The IndexTTS engine: a step draws some codes of every piece of text, and synthesises some audio of the pieces with all
codes.

Prompts are prefilled together, codes are drawn for all rows as one batch, and pieces that have ended are synthesised
together. The solver for mel frames processes a whole piece many times, so a step does a bounded part of that work: pieces
that draw codes do not wait for all the others' audio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import indextts25  # noqa: F401 (what is loaded later needs it: say so at once)
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deployments.engines.graphs import on_device
from deployments.engines.indextts import emotions, package_networks
from deployments.engines.indextts.acoustic import AcousticInput, AcousticNetworks, PieceSynthesis, frames_of
from deployments.engines.indextts.config import CODES_PER_SECOND, IndexConfig, read
from deployments.engines.indextts.decoder import IndexDecoder
from deployments.engines.indextts.emotions import EmotionTable
from deployments.engines.indextts.text import LANGUAGES, IndexTextReader
from deployments.engines.indextts.voices import ClipEncoder, ClipFeatures, IndexVoice, prepared, voice_of
from deployments.engines.lm.clip_voices import ClipVoices, split_language, tagged_voices
from deployments.engines.lm.engine import (
    LanguageUtterance,
    LanguageVoiceEngine,
    LanguageVoiceOptions,
    PieceState,
    next_parts,
    options_on_this_thread,
)
from deployments.engines.lm.kernel_choice import KernelOptions, choosing_for
from deployments.engines.lm.linear import Precision
from deployments.engines.lm.sampler import Sampling, choose, penalized, uniforms
from deployments.engines.options import Bounds
from deployments.engines.protocols import EngineSpec, Samples, SpeechRequest, SpeechTraits
from deployments.engines.speech import SILENCE

PROMPT_BESIDES_TEXT = 6
"""Positions: the voice and two empty ones, the tokens before and after the text, and the begin code."""
SLOWEST, FASTEST = 0.5, 1.28
"""The range of speeds that the model's duration control follows."""


@dataclass(frozen=True, kw_only=True)
class IndexOptions(LanguageVoiceOptions, KernelOptions):
    """`engine_options` of an IndexTTS model."""

    precision: Annotated[Precision, "The least precision of the language model's products; int8 is for CPUs."] = (
        "float32"
    )
    slots: Annotated[int, Bounds(least=1, most=64), "Utterances that may be open at once."] = 8
    language: Annotated[Literal["en", "zh", "es", "ar"], "The language of voices whose name gives none."] = "en"
    emotion: Annotated[str, 'Where a request has no instructions, such as "calm 0.3".'] = ""
    chunk_codes: Annotated[int, Bounds(least=1, most=100), "Codes of 40 ms that a step draws for each utterance."] = 12
    most_codes: Annotated[int, Bounds(least=1, most=1500), "The most codes of one piece of text: 30 s."] = 750
    temperature: Annotated[float, Bounds(least=0, most=2)] = 0.8
    top_p: Annotated[float, Bounds(above=0, most=1)] = 0.8
    top_k: Annotated[int, Bounds(least=0)] = 30
    repetition_penalty: Annotated[float, Bounds(least=1)] = 10.0
    solver_steps: Annotated[
        int, Bounds(least=1, most=100), "Solver steps from noise to mel frames; fewer are faster and less accurate."
    ] = 25
    step_frames: Annotated[
        int, Bounds(least=512), "Mel frames of all pieces and clips in one step of the synthesis."
    ] = 1536
    guidance: Annotated[float, Bounds(least=0, most=3), "Weight of the guidance towards the voice and the text."] = 0.7
    pause_ms: Annotated[int, Bounds(least=0, most=2000), "Silence before each piece of a text but the first."] = 200

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.emotion.strip() and emotions.parse(self.emotion) is None:
            raise ValueError(f"emotion: it must name one of {', '.join(emotions.NAMES)}")


@dataclass(eq=False, slots=True, kw_only=True)
class IndexPiece(PieceState):
    """The state of one piece of text. `draws` are its random numbers; `said` (codes,) marks the codes that count as repeated.
    `ended` is True once its last code is known; `synthesis` is then its synthesis."""

    voice: IndexVoice
    draws: NDArray[np.float32]
    noise: np.random.Generator
    said: Tensor
    duration: float
    pause: int
    codes: list[int] = field(default_factory=list)
    ended: bool = False
    synthesis: PieceSynthesis | None = None


IndexUtterance = LanguageUtterance[IndexVoice, IndexPiece]


@dataclass(frozen=True, slots=True)
class IndexNetworks:
    """All networks of a model, and its emotion examples. `front` builds prompts."""

    config: IndexConfig
    decoder: IndexDecoder
    front: Any
    sound: AcousticNetworks
    emotions: EmotionTable


class IndexEngine(LanguageVoiceEngine[IndexVoice, IndexPiece]):
    """Speaks with the voices of the folder, and clones any clip if the folder has the networks that encode clips."""

    def __init__(self, folder: Path, networks: IndexNetworks, options: IndexOptions, device: str) -> None:
        config = networks.config
        most = min(options.most_codes, config.decoder.max_mel_tokens)
        super().__init__(device, options, rate=CODES_PER_SECOND, most=most)
        self.networks, self.options = networks, options
        self._reader = IndexTextReader(folder, config.decoder.max_text_tokens)
        self._clip_encoder = ClipEncoder(folder, config, device)
        self._clips = ClipVoices(folder, self._encode, rate=config.sample_rate, most=options.voices_kept)
        files = (folder / "voices").glob("*.safetensors")
        self._prepared = {file.stem: self._voice(prepared(file, device)) for file in files}
        self._sampling = Sampling(options.temperature, options.top_p, options.top_k)
        longest = config.decoder.max_text_tokens + PROMPT_BESIDES_TEXT + self.most_tokens
        self.cache = networks.decoder.new_cache(options.slots, longest)

    @property
    def traits(self) -> SpeechTraits:
        """22.05 kHz. Each voice is listed in the default language, and as `<voice>.<language>` for each language."""
        voices = tagged_voices(self._names, LANGUAGES, self.options.language)
        return SpeechTraits(
            self.networks.config.sample_rate,
            voices,
            voices[0].id if voices else "",
            SLOWEST,
            FASTEST,
            clones=self._clip_encoder.available,
            instruction_words=emotions.NAMES,
        )

    def forget_voice(self, id: str) -> None:
        """See `KeepsVoices`."""
        self._clips.forget(id)

    def voice_of(self, request: SpeechRequest) -> tuple[IndexVoice, str]:
        """The request's clip in the default language, or a voice of the folder, with the requested emotion."""
        voice, language = self._voice_and_language(request)
        strengths = emotions.parse(request.instructions) or emotions.parse(self.options.emotion)
        if strengths is None:
            return voice, language
        return replace(voice, emotion=self.networks.emotions.mixed(voice.emotion, voice.style, strengths)), language

    def _voice_and_language(self, request: SpeechRequest) -> tuple[IndexVoice, str]:
        if request.reference is not None:
            return self._clips.of_reference(request.reference), self.options.language
        name, language = split_language(request.voice, self._names, LANGUAGES, self.options.language)
        return self._named(name), language

    @property
    def _names(self) -> list[str]:
        """The voices of the folder: encoded ones, and clips if they can be encoded."""
        return sorted({*self._prepared, *(self._clips.names if self._clip_encoder.available else ())})

    def _named(self, name: str) -> IndexVoice:
        return self._prepared[name] if name in self._prepared else self._clips.of_name(name)

    def _encode(self, clip: Samples, rate: int) -> IndexVoice:
        return self._voice(self._clip_encoder.encode(clip, rate))

    def _voice(self, features: ClipFeatures) -> IndexVoice:
        return voice_of(features, self.networks.front, self.networks.sound)

    def first_cost(self, request: SpeechRequest) -> float:
        """Characters: pieces of equal length end together, and then share the batches of the synthesis."""
        return float(len(request.pieces[0]))

    def cost(self, utterance: IndexUtterance) -> float:
        """Characters of the current piece."""
        return float(len(utterance.text))

    def begin(self, utterance: IndexUtterance) -> IndexPiece:
        """Tokenizes the text and draws its random numbers."""
        request, place = utterance.request, utterance.place
        tokens = self._reader.encode(utterance.text, utterance.language)
        prompt = self._prompt(tokens, utterance.voice, self._reader.language(utterance.language))
        return IndexPiece(
            guard=self.guard(utterance.text),
            voice=utterance.voice,
            prompt=prompt,
            slot=self.cache.join(),
            draws=uniforms(request.seed, place, self.most_tokens + 1),
            noise=utterance.random(1),
            said=self.networks.decoder.initially_repeated(),
            duration=1 / request.speed,
            pause=self.options.pause_ms * self.networks.config.sample_rate // 1000 if place else 0,
        )

    def _prompt(self, tokens: Sequence[int], voice: IndexVoice, language: int) -> Tensor:
        """The prompt (n, dim): speaker and emotion, two empty positions, and the text."""
        front = self.networks.front
        manner = front.spk_emb_proj(voice.style)[None] + voice.emotion
        conditions = torch.cat([manner, manner.new_zeros(2, manner.shape[1])])
        prompt: Tensor = front.prepare_gpt_inputs(
            conditions[None], torch.tensor(tokens)[None], torch.tensor([language])
        )[1][0]
        return self.networks.decoder.with_begin_code(prompt)

    def prefill(self, pieces: Sequence[IndexPiece], counts: Sequence[int]) -> None:
        """Prefills the prompts, and draws the first code of those that are complete."""
        slots = [piece.slot for piece in pieces]
        logits = self.networks.decoder.prefill(next_parts(pieces, counts), slots, self.cache)
        ends = [number for number, piece in enumerate(pieces) if piece.prompt_left == counts[number]]
        if ends:
            self._choose([pieces[number] for number in ends], logits[ends])

    def _choose(self, pieces: Sequence[IndexPiece], logits: Tensor) -> None:
        said = torch.stack([piece.said for piece in pieces])
        draws = torch.tensor([piece.draws[len(piece.codes)] for piece in pieces])
        logits = penalized(logits, said, self.options.repetition_penalty)
        for piece, code in zip(pieces, choose(logits, draws, self._sampling).tolist(), strict=True):
            piece.ended = code == self.networks.config.decoder.stop_mel_token
            if not piece.ended:
                piece.codes.append(code)
                piece.said[code] = True
                piece.ended = piece.guard.token(code)

    def advance(self, pieces: Sequence[IndexPiece]) -> list[Samples]:
        """More codes of the pieces that have not ended, and the next audio of the others."""
        for _ in range(self.options.chunk_codes):
            if rows := [piece for piece in pieces if not piece.ended]:
                self._draw(rows)
        self._begin_sound([piece for piece in pieces if piece.ended and piece.codes and piece.synthesis is None])
        syntheses = [piece.synthesis for piece in pieces if piece.synthesis is not None]
        sounds = iter(self.networks.sound.advance(syntheses, self.options.step_frames))
        return [self._with_pause(piece, next(sounds) if piece.synthesis else SILENCE) for piece in pieces]

    def _begin_sound(self, pieces: Sequence[IndexPiece]) -> None:
        if pieces:
            syntheses = self.networks.sound.begin([self._acoustic_input(piece) for piece in pieces])
            for piece, synthesis in zip(pieces, syntheses, strict=True):
                piece.synthesis = synthesis

    def _with_pause(self, piece: IndexPiece, samples: Samples) -> Samples:
        """The samples, with the pause before the first of them."""
        piece.spoken = piece.ended and (piece.synthesis is None or piece.synthesis.finished)
        pause, piece.pause = (piece.pause, 0) if len(samples) else (0, piece.pause)
        return np.concatenate([np.zeros(pause, np.float32), samples])

    def _draw(self, rows: Sequence[IndexPiece]) -> None:
        self.cache.arrange([piece.slot for piece in rows])
        codes = torch.tensor([piece.codes[-1] for piece in rows])
        said = torch.tensor([len(piece.codes) for piece in rows])
        positions = torch.tensor([piece.slot.position for piece in rows])
        logits = self.networks.decoder.logits(codes, said, positions, self.cache)
        for piece in rows:
            piece.slot.position += 1
        self._choose(rows, logits)

    def _acoustic_input(self, piece: IndexPiece) -> AcousticInput:
        shape = (self.networks.config.mels, frames_of(len(piece.codes), piece.duration))
        return AcousticInput(
            codes=torch.tensor(piece.codes),
            condition=piece.voice.condition,
            mel=piece.voice.mel,
            style=piece.voice.style,
            noise=torch.tensor(piece.noise.standard_normal(shape, dtype=np.float32)),
        )


def networks_of(folder: Path, options: IndexOptions, device: str) -> IndexNetworks:
    """The networks of a folder of weights."""
    config = read(folder)
    weights = package_networks.weights_of(folder, "gpt", device)
    table = package_networks.weights_of(folder, "statistics", device)
    return IndexNetworks(
        config=config,
        decoder=IndexDecoder(weights, config.decoder, options.precision),
        front=package_networks.front_of(config, weights),
        sound=sound_of(folder, config, options, device),
        emotions=EmotionTable(table["emotions"], table["speakers"], config.emotions),
    )


def sound_of(folder: Path, config: IndexConfig, options: IndexOptions, device: str) -> AcousticNetworks:
    """The networks after the language model."""
    regulator, estimator = package_networks.mel_networks_of(
        config, package_networks.weights_of(folder, "s2mel", device)
    )
    return AcousticNetworks(
        config,
        package_networks.codec_of(config, package_networks.weights_of(folder, "codec", device)),
        regulator,
        estimator,
        package_networks.vocoder_of(config, package_networks.weights_of(folder, "vocoder", device)),
        steps=options.solver_steps,
        guidance=options.guidance,
    )


def load(spec: EngineSpec) -> IndexEngine:
    """Loads a folder as docs/indextts.md describes it."""
    options = options_on_this_thread(spec, IndexOptions)
    folder = Path(spec.folder)
    with on_device(spec.device), choosing_for(spec, options):
        networks = networks_of(folder, options, spec.device)
    with on_device(spec.device):
        return IndexEngine(folder, networks, options, spec.device)
