"""Voxtral Realtime: a causal audio encoder and a language model that writes one token for each 80 ms of sound.

Each token is an input of the next, so what the model has written is final. The prompt is built here, because transformers'
processor needs mistral-common (see `voxtral.py`): a start token, and padding for the silence before the stream and for the
delay, as mistral-common's `encode_streaming_tokens` does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import VoxtralRealtimeFeatureExtractor
from transformers.models.voxtral_realtime import modeling_voxtral_realtime as modeling

from deployments.engines.hf_recognition.adapter import EmittedToken, HfRecognitionOptions
from deployments.engines.hf_recognition.stacked_cache import (
    Attention,
    Convolutions,
    StackedCache,
    convolution_rows,
    stacked_convolutions,
)
from deployments.engines.hf_recognition.stream_sound import StreamSound
from deployments.engines.hf_recognition.streaming_family import AFTER_SPEECH_S, PAUSE_S, ChunkResult, StreamingFamily
from deployments.engines.hf_recognition.voxtral import mistral_tokenizer
from deployments.engines.protocols import RecognitionOptions
from deployments.errors import fail

LEFT_PAD_TOKENS = 32
"""Silence before the stream, if `tekken.json` does not say how much."""
WORD_TOKENS = 10
"""No word is longer, in the silence that mistral-common appends to a recording."""
CONVOLUTION_LAYERS = dict.fromkeys(("conv1", "conv2"), modeling.VoxtralRealtimeConv1dCacheLayer)
UNLIMITED = 1 << 30


class VoxtralRealtimeProcessor(SimpleNamespace):
    """The feature extractor and the tokenizer of a checkpoint, and the tokens of silence before a stream."""

    @classmethod
    def from_pretrained(cls, folder: Path, **loading: Any) -> VoxtralRealtimeProcessor:
        """Reads the files of the checkpoint."""
        tekken = folder / "tekken.json"
        audio = json.loads(tekken.read_text()).get("audio", {}) if tekken.exists() else {}
        return cls(
            feature_extractor=VoxtralRealtimeFeatureExtractor.from_pretrained(folder, **loading),
            tokenizer=mistral_tokenizer(folder, **loading),
            left_pad_tokens=audio.get("streaming_n_left_pad_tokens", LEFT_PAD_TOKENS),
        )


@dataclass(frozen=True, slots=True)
class VoxtralState:
    """`position` counts the audio tokens that were heard, those of the silence included; `origin` is the sample of the stream
    at which that silence ends; `token` is the last one written, and `spoken` the position of the last one of text."""

    origin: int = 0
    position: int = 0
    token: int = 0
    spoken: int = 0
    audio: Attention = ()
    text: Attention = ()
    convolutions: Convolutions | None = None


class VoxtralRealtime(StreamingFamily[VoxtralState]):
    """Streams at different positions share a batch: their caches are padded and masked, and their positions are their own.
    The first chunk of a stream is the whole prompt; new streams are a batch of their own.

    The model detects the language and does not name it. If it ends its text while the stream goes on, the stream starts
    anew with the sound that the text does not cover.
    """

    delays = True

    def __init__(self, model: Any, processor: Any, options: HfRecognitionOptions) -> None:
        super().__init__(model, processor, options)
        extractor = processor.feature_extractor
        self._mel_frames: int = model.config.audio_length_per_tok
        self._hop: int = extractor.hop_length
        self._reach: int = extractor.n_fft // 2
        self._token_samples: int = self._mel_frames * self._hop
        self._left: int = processor.left_pad_tokens
        self._delay = self._delay_tokens(options.delay_ms)
        start, padding = self.tokenizer.convert_tokens_to_ids(["<s>", "[STREAMING_PAD]"])
        self._prompt = [start, *[padding] * (self._left + self._delay)]
        self._silent = frozenset(self.tokenizer.all_special_ids)
        ends = model.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, Sequence) else [ends])

    def _delay_tokens(self, delay_ms: int | None) -> int:
        token_ms = 1000 * self._token_samples // self.sample_rate
        if delay_ms is None:
            return int(self.model.config.default_num_delay_tokens)
        if delay_ms % token_ms:
            cause = f"The model has no delay of {delay_ms} ms."
            raise fail("invalid", cause, f"Use a multiple of {token_ms} ms.", param="delay_ms")
        return delay_ms // token_ms

    def start(self, options: RecognitionOptions) -> VoxtralState:
        """Before the prompt."""
        return VoxtralState()

    def _new_tokens(self, state: VoxtralState) -> list[int]:
        """The input tokens of the next chunk."""
        return [state.token] if state.position else self._prompt

    def _sample(self, state: VoxtralState, position: int) -> int:
        """The sample at which an audio token starts."""
        return state.origin + (position - self._left) * self._token_samples

    def needed(self, state: VoxtralState) -> int:
        """The end of the last mel frame, which reaches to both sides of its centre."""
        end = self._sample(state, state.position + len(self._new_tokens(state)))
        return end - self._hop + self._reach

    def heard(self, state: VoxtralState) -> int:
        """The text is behind the sound by the delay."""
        return max(state.origin, self._sample(state, state.position - self._delay))

    def first_kept(self, state: VoxtralState) -> int:
        """That of the next mel frame, or that at which the stream would start anew."""
        return min(self._sample(state, state.position) - self._reach, self.heard(state))

    def padded(self, samples: int) -> int:
        """As mistral-common pads a recording: whole tokens, the delay, a start token and a long word."""
        return (ceil(samples / self._token_samples) + self._delay + 1 + WORD_TOKENS) * self._token_samples

    def advance(self, states: Sequence[VoxtralState], sounds: Sequence[StreamSound]) -> list[ChunkResult[VoxtralState]]:
        """One batch for new streams and one for the others."""
        made: dict[int, ChunkResult[VoxtralState]] = {}
        for group in (
            [row for row, state in enumerate(states) if not state.position],
            [row for row, state in enumerate(states) if state.position],
        ):
            if group:
                results = self._advance([states[row] for row in group], [sounds[row] for row in group])
                made.update(zip(group, results, strict=True))
        return [made[row] for row in range(len(states))]

    def _advance(
        self, states: Sequence[VoxtralState], sounds: Sequence[StreamSound]
    ) -> list[ChunkResult[VoxtralState]]:
        tokens = torch.tensor([self._new_tokens(state) for state in states], device=self.model.device)
        heard, audio, convolutions = self._encoded(self._features(states, sounds, tokens.shape[1]), states)
        logits, text = self._written(self.model.get_input_embeddings()(tokens) + heard, states)
        best = logits.float().log_softmax(dim=-1).max(dim=-1)
        results: list[ChunkResult[VoxtralState]] = []
        for row, (token, chance) in enumerate(zip(best.indices.tolist(), best.values.tolist(), strict=True)):
            position = states[row].position + tokens.shape[1]
            spoken = states[row].spoken if token in self._silent else position
            state = VoxtralState(states[row].origin, position, token, spoken, audio[row], text[row], convolutions[row])
            results.append(self._result(state, EmittedToken(token, chance)))
        return results

    def _result(self, state: VoxtralState, token: EmittedToken) -> ChunkResult[VoxtralState]:
        heard = self.heard(state)
        if token.id in self._ends:
            return ChunkResult(VoxtralState(origin=heard), (), settled=heard)
        pauses = (state.position - max(self._left, state.spoken)) * self._token_samples >= PAUSE_S * self.sample_rate
        settled = max(0, heard - round(AFTER_SPEECH_S * self.sample_rate)) if pauses else None
        return ChunkResult(state, [token], settled=settled)

    def _features(self, states: Sequence[VoxtralState], sounds: Sequence[StreamSound], tokens: int) -> Tensor:
        """(batch, bins, mel frames) of the next `tokens` audio tokens. The extractor leaves out the last frame."""
        audio: list[np.ndarray[Any, Any]] = []
        for state, sound in zip(states, sounds, strict=True):
            start, end = self._sample(state, state.position), self._sample(state, state.position + tokens)
            audio.append(sound.between(start - self._reach, end + self._reach))
        made = self.processor.feature_extractor(
            audio, sampling_rate=self.sample_rate, center=False, return_tensors="pt"
        )
        features: Tensor = self.on_device(made)["input_features"]
        return features

    def _encoded(
        self, features: Tensor, states: Sequence[VoxtralState]
    ) -> tuple[Tensor, list[Attention], list[Convolutions]]:
        """(batch, tokens, dim) of the language model, and the encoder's caches."""
        config = self.model.config
        past = StackedCache([state.audio for state in states], config.audio_config.sliding_window - 1)
        empty = modeling.VoxtralRealtimeConv1dPaddingCache()
        cache = stacked_convolutions(empty, [state.convolutions or {} for state in states], CONVOLUTION_LAYERS)
        factor = config.downsample_factor
        frames = features.shape[-1] // self._mel_frames * factor
        made = self.model.get_audio_features(
            input_features=features,
            padding_cache=cache,
            cache=past,
            use_cache=True,
            position_ids=self._positions([state.position * factor for state in states], frames),
            attention_mask=past.causal(frames, features),
        )
        return made.pooler_output, past.rows(), convolution_rows(cache, len(states))

    def _written(self, inputs: Tensor, states: Sequence[VoxtralState]) -> tuple[Tensor, list[Attention]]:
        """The logits (batch, vocabulary) after the last of the inputs (batch, n, dim), and the language model's caches."""
        window = self.model.config.text_config.sliding_window
        past = StackedCache([state.text for state in states], window - 1 if window else UNLIMITED)
        delay = torch.full((1,), self._delay, device=inputs.device, dtype=inputs.dtype)
        made = self.model.model.language_model(
            inputs_embeds=inputs,
            cache=past,
            use_cache=True,
            position_ids=self._positions([state.position for state in states], inputs.shape[1]),
            attention_mask=past.causal(inputs.shape[1], inputs),
            t_cond=self.model.model.time_embedding(delay)[None],
        )
        return self.model.lm_head(made.last_hidden_state[:, -1]), past.rows()

    def _positions(self, starts: Sequence[int], count: int) -> Tensor:
        """(batch, count)"""
        device = self.model.device
        return torch.tensor(starts, device=device)[:, None] + torch.arange(count, device=device)
