"""The Sopro engine: a step gives the next chunk of audio of the most urgent utterances.

A token for eight rows takes little longer than for one, so all rows draw together, up to some chunks ahead. Mel frames and
samples cost the same for each row, so a step makes them for as many rows as its time allows, the most urgent first.
`lm/engine.py` handles streams, prompts and pieces.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from deployments.engines.graphs import on_device
from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.clip_voices import ClipVoices, split_language, tagged_voices
from deployments.engines.lm.engine import (
    CaptureOptions,
    CaptureSizes,
    LanguageUtterance,
    LanguageVoiceEngine,
    LanguageVoiceOptions,
    PieceState,
    captured_step,
    next_parts,
    options_on_this_thread,
)
from deployments.engines.lm.kernel_choice import KernelOptions, choosing_for
from deployments.engines.lm.linear import Precision
from deployments.engines.lm.sampler import Sampling, uniforms
from deployments.engines.lm.work_rate import WorkRate
from deployments.engines.options import Bounds
from deployments.engines.protocols import EngineSpec, Samples, SpeechRequest, SpeechTraits
from deployments.engines.sopro.acoustic import AcousticFrames, AcousticHead, AcousticState
from deployments.engines.sopro.config import SoproConfig, read
from deployments.engines.sopro.decoder import SoproDecoder
from deployments.engines.sopro.encoders import SemanticEncoder, SpeakerEncoder
from deployments.engines.sopro.levels import OnsetGate, fade_out, soft_limit, trim_end
from deployments.engines.sopro.text import LANGUAGES, SoproTextEncoder, SoproTokenizer
from deployments.engines.sopro.vocoder import SoproVocoder, VocoderFrames, VocoderState
from deployments.engines.sopro.voices import WARM_UP_FRAMES, SoproNetworks, SoproVoice, encode_clip
from deployments.engines.speech import SILENCE
from deployments.errors import fail

LONGEST_PROMPT = 700
"""Positions of a prompt: style, text (512 at most), the clip's tokens and the begin token."""
CHUNKS_AHEAD = 3
"""A row that has enough tokens for its next chunk still draws with the others until it is this many chunks ahead, so that
more rows share each draw."""


@dataclass(frozen=True, kw_only=True)
class SoproOptions(LanguageVoiceOptions, KernelOptions, CaptureOptions):
    """`engine_options` of a Sopro model. None means the value in the model's own `config.json`."""

    precision: Annotated[Precision, "Precision of matrix products. int8 works on CPUs only, and is faster."] = "float32"
    slots: Annotated[int, Bounds(least=1, most=256), "Utterances that may be open at once."] = 64
    language: Annotated[Literal["", "en", "pt", "fr", "de"], "The language of voices whose name gives none."] = ""
    chunk_frames: Annotated[int, Bounds(least=64, most=512), "Mel frames of 10.7 ms in a chunk of audio."] = 64
    step_ms: Annotated[
        float, Bounds(above=0), "The target duration of a step. Requests that arrive wait until it ends."
    ] = 500.0
    solver_steps: Annotated[int | None, Bounds(least=1, most=64)] = None
    temperature: Annotated[float | None, Bounds(least=0, most=2)] = None
    top_p: Annotated[float | None, Bounds(above=0, most=1)] = None
    top_k: Annotated[int | None, Bounds(least=0)] = None
    trim_silence: Annotated[bool, "Hold back the silence before, and cut that after, each piece."] = True
    capture_batches: CaptureSizes = (1, 4, 8)
    capture_lengths: CaptureSizes = (384,)


@dataclass(eq=False, slots=True, kw_only=True)
class SoproPiece(PieceState):
    """The state of one piece of text. `draws` are its random numbers, `noise` generates those of its mel frames.

    `tokens` belong to the chunks so far, `ahead` to later chunks. `ended` is True once the last token is in `tokens`. The
    guard sees a token when its chunk is due, so its decision does not depend on the rows that draw together.
    """

    voice: SoproVoice
    draws: NDArray[np.float32]
    noise: np.random.Generator
    acoustic: AcousticState
    vocoder: VocoderState
    gate: OnsetGate
    tokens: list[int] = field(default_factory=list)
    ahead: list[int] = field(default_factory=list)
    ended: bool = False

    @property
    def drawn(self) -> int:
        """Tokens drawn so far."""
        return len(self.tokens) + len(self.ahead)


SoproUtterance = LanguageUtterance[SoproVoice, SoproPiece]


class SoproEngine(LanguageVoiceEngine[SoproVoice, SoproPiece]):
    """Speaks with the clips of the folder, and with the clip of a request."""

    def __init__(
        self, networks: SoproNetworks, tokenizer: SoproTextEncoder, folder: Path, options: SoproOptions, device: str
    ) -> None:
        config, generation = networks.config, networks.config.generation
        super().__init__(device, options, rate=config.token_rate, most=config.tokens_in(generation.max_seconds))
        if options.chunk_frames % config.frames_per_token:
            raise fail(
                "invalid",
                f"chunk_frames is {options.chunk_frames}; it must be a multiple of {config.frames_per_token}.",
                param="chunk_frames",
            )
        self.networks, self.options = networks, options
        self._tokenizer = tokenizer
        self._clips = ClipVoices(
            folder,
            lambda clip, rate: encode_clip(self.networks, clip, rate),
            rate=config.sample_rate,
            most=options.voices_kept,
        )
        self._least_tokens = config.tokens_in(generation.min_seconds)
        self._sampling = Sampling(
            generation.temperature if options.temperature is None else options.temperature,
            generation.top_p if options.top_p is None else options.top_p,
            generation.top_k if options.top_k is None else options.top_k,
        )
        self._drawing, self._sounding = WorkRate(), WorkRate()
        with on_device(device):
            self.cache = networks.decoder.new_cache(options.slots)
            inputs = networks.decoder.step_inputs(self.cache)
            self.captured = captured_step(self._decode, inputs, options, options.slots, self.cache, device)
        # The first hop of the stream's own audio: after the clip's last frames and half a window.
        self._first_hop = WARM_UP_FRAMES + config.vocoder.n_fft // config.vocoder.hop_length // 2

    @property
    def traits(self) -> SpeechTraits:
        """24 kHz, at the voice's own pace. Each clip is a voice in the default language, and one `<clip>.<language>` for each
        language."""
        voices = tagged_voices(self._clips.names, LANGUAGES, self.options.language)
        default = voices[0].id if voices else ""
        return SpeechTraits(self.networks.config.sample_rate, voices, default, 1.0, 1.0, clones=True)

    @property
    def step_ms(self) -> float:
        """The target duration of a step, for any number of utterances."""
        return self.options.step_ms

    def forget_voice(self, id: str) -> None:
        """See `KeepsVoices`."""
        self._clips.forget(id)

    def voice_of(self, request: SpeechRequest) -> tuple[SoproVoice, str]:
        """The request's clip in the default language, or a clip of the folder."""
        if request.reference is not None:
            return self._clips.of_reference(request.reference), self.options.language
        name, language = split_language(request.voice, self._clips.names, LANGUAGES, self.options.language)
        return self._clips.of_name(name), language

    def begin(self, utterance: SoproUtterance) -> SoproPiece:
        """Tokenizes the text and draws its random numbers."""
        ids = torch.tensor(self._tokenizer.encode(utterance.text, utterance.language))
        seed, place, voice = utterance.request.seed, utterance.place, utterance.voice
        # Rows are drawn past the longest piece's end: by CHUNKS_AHEAD, and by at most a chunk each for the chunk that is due,
        # the acoustic head's lookahead, and the last draw, which may pass the bound.
        return SoproPiece(
            guard=self.guard(utterance.text),
            voice=voice,
            prompt=self.networks.decoder.prompt(voice.style, ids, voice.prompt),
            slot=self.cache.join(),
            draws=uniforms(seed, place, self.most_tokens + (CHUNKS_AHEAD + 3) * self._tokens_per_chunk),
            noise=utterance.random(1),
            acoustic=AcousticState(self.networks.head, voice.acoustic),
            vocoder=voice.vocoder,
            gate=OnsetGate(self.networks.config.sample_rate, is_open=not self.options.trim_silence),
        )

    @property
    def _tokens_per_chunk(self) -> int:
        return self.options.chunk_frames // self.networks.config.frames_per_token

    def prefill(self, pieces: Sequence[SoproPiece], counts: Sequence[int]) -> None:
        """Prefills the prompts, and draws the first token of those that are complete."""
        decoder = self.networks.decoder
        logits = decoder.prefill(next_parts(pieces, counts), [piece.slot for piece in pieces], self.cache)
        ends = [number for number, piece in enumerate(pieces) if counts[number] == piece.prompt_left]
        if not ends:
            return
        ready = [pieces[number] for number in ends]
        draws, may_end = self._chances(ready, 1)
        tokens = decoder.pick(logits[ends], may_end[0], draws[0], self._sampling).tolist()
        for piece, token in zip(ready, tokens, strict=True):
            piece.ahead.append(token)

    def _chances(self, pieces: Sequence[SoproPiece], count: int) -> tuple[Tensor, Tensor]:
        """For `count` tokens of each piece, (count, pieces): the random numbers, and whether the text may end at the
        token."""
        numbers = np.array([piece.drawn for piece in pieces])[None, :] + np.arange(count)[:, None]
        draws = np.stack([piece.draws[numbers[:, column]] for column, piece in enumerate(pieces)], axis=1)
        return torch.tensor(draws), torch.tensor(numbers + 1 >= self._least_tokens)

    def _take_tokens(self, piece: SoproPiece) -> None:
        """Moves the tokens of the next chunk from `ahead` to `tokens`."""
        model, missing = self.networks.config.model, self._missing(piece)
        for token in piece.ahead[:missing]:
            piece.ended = token == model.eos
            if not piece.ended:
                piece.tokens.append(min(token, model.semantic_vocab_size - 1))
                piece.ended = piece.guard.token(piece.tokens[-1])
            if piece.ended:
                break
        piece.ahead = piece.ahead[missing:]

    def advance(self, pieces: Sequence[SoproPiece]) -> list[Samples]:
        """Draws tokens, and makes the next chunks of the pieces that have theirs, within the step's time. The most urgent
        piece comes first and always advances."""
        until = self.began + self.options.step_ms / 1000
        if self._tokens_to_draw(pieces[0]):
            self._draw_tokens(pieces, until, least=1)
            return self._next_sounds(pieces, until, least=0)
        due = len(pieces) - sum(map(bool, map(self._tokens_to_draw, pieces)))
        sounds = self._next_sounds(pieces, until, least=1)
        if sum(map(bool, map(len, sounds))) == due:  # else the others that are due come first, in the next step
            self._draw_tokens(pieces, until, least=0)
        return sounds

    def _next_sounds(self, pieces: Sequence[SoproPiece], until: float, *, least: int) -> list[Samples]:
        # Round to the nearest: one piece at a time is slower, so a speed that was measured with one would otherwise keep two
        # from sharing a step.
        chunks = round(self._sounding.units_in(until - perf_counter()) / self.options.chunk_frames)
        due = [piece for piece in pieces if not self._tokens_to_draw(piece)][: max(least, chunks)]
        for piece in due:
            self._take_tokens(piece)
        targets = [self._end(piece) if self._missing(piece) else self._chunk_border(piece) for piece in due]
        frames = sum(target - piece.acoustic.solved for piece, target in zip(due, targets, strict=True))
        with self._sounding.measuring(frames):
            sounds = iter(self._sounds(due, targets) if due else [])
        made = {id(piece) for piece in due}
        return [next(sounds) if id(piece) in made else SILENCE for piece in pieces]

    def _sounds(self, pieces: Sequence[SoproPiece], targets: Sequence[int]) -> list[Samples]:
        """About `chunk_frames` of audio for each: less for a piece's first audio, and the rest at its end."""
        for piece in pieces:
            # Tokens are missing only after the end token.
            piece.spoken = self._missing(piece) > 0
        rows = [self._frames(piece, target) for piece, target in zip(pieces, targets, strict=True)]
        starts = [piece.acoustic.solved for piece in pieces]
        mels = self.networks.head.solve(rows)
        vocoder_rows = [
            VocoderFrames(
                piece.vocoder,
                mel[max(0, len(piece.voice.mel) - start) :] * self.networks.mel_std + self.networks.mel_mean,
                last=piece.spoken,
            )
            for piece, mel, start in zip(pieces, mels, starts, strict=True)
        ]
        sounds, states = self.networks.vocoder.decode(vocoder_rows)
        return [self._output_of(*row) for row in zip(pieces, sounds, states, strict=True)]

    def _end(self, piece: SoproPiece) -> int:
        """The end frame of a piece that has ended, counted from the start of the clip."""
        return len(piece.voice.mel) + len(piece.tokens) * self.networks.config.frames_per_token

    def _chunk_border(self, piece: SoproPiece) -> int:
        """The next chunk border that gives audio, as a frame counted from the start of the clip."""
        chunk, vocoder = self.options.chunk_frames, self.networks.vocoder
        silent = len(piece.voice.mel) + vocoder.lookahead + self._first_hop - WARM_UP_FRAMES
        return (max(piece.acoustic.solved, silent) // chunk + 1) * chunk

    def _tokens_to_draw(self, piece: SoproPiece, *, chunks_after: int = 0) -> int:
        """Tokens to draw before the next chunk, and `chunks_after` later ones, can be made; 0 after the end token."""
        if piece.ended or self.networks.config.model.eos in piece.ahead:
            return 0
        return max(0, self._missing(piece) + chunks_after * self._tokens_per_chunk - len(piece.ahead))

    def _missing(self, piece: SoproPiece) -> int:
        """Tokens of the next chunk that are not in `tokens`."""
        each = self.networks.config.frames_per_token
        needed = -(-(self._chunk_border(piece) - len(piece.voice.mel)) // each) + self.networks.head.lookahead
        return max(0, needed - len(piece.tokens))

    def _draw_tokens(self, pieces: Sequence[SoproPiece], until: float, *, least: int) -> None:
        """Draws tokens for all rows until none lacks any, or the time is over. Rows with enough tokens for their next chunk
        draw as well."""
        while lacking := max(map(self._tokens_to_draw, pieces)):
            fits = max(least, self._drawing.units_in(until - perf_counter()))
            count = min(lacking, self._tokens_per_chunk, fits)
            if not count:
                return
            rows = [piece for piece in pieces if self._tokens_to_draw(piece, chunks_after=CHUNKS_AHEAD)]
            with self._drawing.measuring(count):
                drawn = self._draw(rows, count)
            for piece, tokens in zip(rows, drawn, strict=True):
                piece.ahead += tokens
            least = 0

    def _draw(self, rows: Sequence[SoproPiece], count: int) -> list[list[int]]:
        """The next `count` tokens of each row. Tokens after a row's end are ignored."""
        self.cache.arrange([piece.slot for piece in rows])
        last = self.networks.config.model.semantic_vocab_size - 1
        tokens = torch.tensor([piece.ahead[-1] if piece.ahead else piece.tokens[-1] for piece in rows]).clamp_max(last)
        positions = torch.tensor([piece.slot.position for piece in rows])
        draws, may_end = self._chances(rows, count)
        drawn = []
        length = int(positions.max()) + 1
        for number in range(count):
            inputs = {"tokens": tokens, "positions": positions, "may_end": may_end[number], "draws": draws[number]}
            tokens = self.captured(inputs, min(length + number, self.cache.capacity)).clone()
            positions = (positions + 1).clamp_max(self.cache.scratch)
            drawn.append(tokens)
        for piece in rows:
            piece.slot.position = min(piece.slot.position + count, self.cache.capacity)
        return torch.stack(drawn, dim=1).tolist()

    def _decode(self, inputs: Mapping[str, Tensor], length: int) -> Tensor:
        decoder = self.networks.decoder
        logits = decoder.logits(inputs["tokens"], inputs["positions"], self.cache, length)
        return decoder.pick(logits, inputs["may_end"], inputs["draws"], self._sampling)

    def _frames(self, piece: SoproPiece, target: int) -> AcousticFrames:
        voice, each = piece.voice, self.networks.config.frames_per_token
        start = piece.acoustic.solved
        first, last = start // each, target // each
        tokens = torch.cat([voice.tokens, torch.tensor(piece.tokens, dtype=torch.int64)])
        fresh = target - max(start, len(voice.mel))
        # Drawn frame by frame, so that a frame's noise does not depend on how the text is cut into chunks.
        noise = torch.tensor(piece.noise.standard_normal((fresh, voice.mel.shape[1]), dtype=np.float32))
        return AcousticFrames(
            state=piece.acoustic,
            tokens=tokens[first:last],
            ahead=tokens[last:],
            noise=torch.cat([voice.noise[start:], noise]),
            clip=voice.mel[start:],
            speaker=voice.speaker,
        )

    def watch(self, piece: SoproPiece, samples: Samples, rate: int) -> bool:
        """The guard saw the audio before the gate in `_output_of`: the gate holds silence back, which must also end a
        piece."""
        return piece.guard.ended

    def _output_of(self, piece: SoproPiece, sound: Tensor, state: VocoderState) -> Samples:
        """The samples of the piece after the clip's, at the output level."""
        skipped = max(0, self._first_hop - piece.vocoder.hops)
        samples: Samples = sound[skipped:].flatten().cpu().numpy() * np.float32(piece.voice.gain)
        piece.vocoder = state
        piece.spoken |= piece.guard.sound(samples, self.networks.config.sample_rate)
        heard = piece.gate.push(samples)
        return soft_limit(self._last_part(piece, heard) if piece.spoken else heard)

    def _last_part(self, piece: SoproPiece, heard: Samples) -> Samples:
        """The end of a piece. If the gate never opened, all of what it held, if any of it is audible."""
        rate = self.networks.config.sample_rate
        if not piece.gate.is_open:
            heard = piece.gate.finish() if piece.guard.sounded else heard
        elif self.options.trim_silence:
            heard = trim_end(heard, rate)
        return fade_out(heard, rate)


def load(spec: EngineSpec) -> SoproEngine:
    """Loads `config.json`, the four weight files, `tokenizer.model` and the clips of `voices/` from `spec.folder`."""
    folder = Path(spec.folder)
    options = options_on_this_thread(spec, SoproOptions)
    with on_device(spec.device), choosing_for(spec, options):
        networks = networks_of(folder, options, spec.device)
    return SoproEngine(networks, SoproTokenizer.read(folder / "tokenizer.model"), folder, options, spec.device)


def networks_of(folder: Path, options: SoproOptions, device: str) -> SoproNetworks:
    """The networks from a folder of weights."""
    return networks_with(read(folder), lambda name: load_file(folder / f"{name}.safetensors", device), options)


def networks_with(config: SoproConfig, read_weights: Callable[[str], Weights], options: SoproOptions) -> SoproNetworks:
    """The networks from weights that `read_weights` returns by file name."""
    weights, vocoder = read_weights("model"), read_weights("vocoder")
    steps = options.solver_steps or config.generation.steps
    longest = LONGEST_PROMPT + config.tokens_in(config.generation.max_seconds)
    mels = config.model.acoustic_mel_n_mels
    return SoproNetworks(
        config=config,
        decoder=SoproDecoder(weights, config.model, options.precision, longest),
        head=AcousticHead(weights, config.model, options.precision, steps=steps, chunk=options.chunk_frames),
        vocoder=SoproVocoder(vocoder, config.vocoder, options.precision),
        semantic=SemanticEncoder(read_weights("semantic_encoder"), config.semantic_encoder),
        speaker=SpeakerEncoder(read_weights("speaker_encoder"), config.speaker_encoder),
        condition=weights,
        vocoder_weights=vocoder,
        mel_mean=torch.tensor(config.model.acoustic_mel_mean or [0.0] * mels),
        mel_std=torch.tensor(config.model.acoustic_mel_std or [1.0] * mels),
    )
