"""Nemotron's streaming models: a cache-aware FastConformer encoder and an RNN-T that decodes greedily.

The encoder hears chunks of `look-ahead + 1` frames; within a chunk each frame sees all others, so the chunk is the delay.
What the transducer emits is final. A window is transcribed as a whole by `Transducer`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from transformers.models.nemotron_asr_streaming import modeling_nemotron_asr_streaming as modeling

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
from deployments.engines.hf_recognition.transducer import LanguageTransducer, Transducer
from deployments.engines.hf_recognition.transducer_decoding import FrameToken, Prediction, decoded, first_prediction
from deployments.engines.protocols import RecognitionOptions
from deployments.errors import fail

CONVOLUTION_LAYERS = {
    "subsampling": modeling.NemotronAsrStreamingEncoderCausalConv2dCacheLayer,
    "conv": modeling.NemotronAsrStreamingEncoderCausalConv1dCacheLayer,
}


@dataclass(frozen=True, slots=True)
class NemotronState:
    """`frames` are the encoder frames that were decoded, and `spoken` those up to the last token. `language` is the name that
    the model's prompt has for it."""

    frames: int
    spoken: int
    language: str | None
    prediction: Prediction
    attention: Attention = ()
    subsampling: Convolutions | None = None
    convolutions: Convolutions | None = None


class Nemotron(Transducer, StreamingFamily[NemotronState]):
    """Streams at different positions share a batch: their attention caches are padded and masked."""

    delays = True

    def __init__(self, model: Any, processor: Any, options: HfRecognitionOptions) -> None:
        super().__init__(model, processor, options)
        self._chunk = self._look_ahead(options.delay_ms) + 1
        extractor = processor.feature_extractor
        self._hop: int = extractor.hop_length
        self._reach: int = extractor.n_fft // 2
        self._edge: int = extractor.win_length // 2
        self._factor: int = model.config.encoder_config.subsampling_factor

    def _look_ahead(self, delay_ms: int | None) -> int:
        """Encoder frames."""
        if delay_ms is None:
            return int(self.processor.default_num_lookahead_tokens)
        known: dict[int, int] = {
            delay: frames for frames, delay in self.processor.supported_streaming_latencies_ms.items()
        }
        if delay_ms not in known:
            remedy = f"Use one of {', '.join(map(str, sorted(known)))}."
            raise fail("invalid", f"The model has no delay of {delay_ms} ms.", remedy, param="delay_ms")
        return known[delay_ms]

    def start(self, options: RecognitionOptions) -> NemotronState:
        """With the prediction that follows a blank."""
        return NemotronState(0, 0, self.conditions(options).get("language"), self._first_prediction)

    @cached_property
    def _first_prediction(self) -> Prediction:
        return first_prediction(self.model)

    def _mel_end(self, frames: int) -> int:
        """The end, in mel frames, of the chunk that ends after `frames` encoder frames. The first mel frame makes the first
        encoder frame by itself."""
        return max(0, self._factor * (frames - 1) + 1)

    def _sound_end(self, frames: int) -> int:
        return (self._mel_end(frames) - 1) * self._hop + self._edge if frames else 0

    def needed(self, state: NemotronState) -> int:
        """The end of the last mel frame."""
        return self._sound_end(state.frames + self._chunk)

    def heard(self, state: NemotronState) -> int:
        """The end of the last mel frame."""
        return self._sound_end(state.frames)

    def first_kept(self, state: NemotronState) -> int:
        """The start of the next mel frame."""
        return self._mel_end(state.frames) * self._hop - self._reach

    def padded(self, samples: int) -> int:
        """Whole chunks for the speech and `AFTER_SPEECH_S`."""
        rest = samples + AFTER_SPEECH_S * self.sample_rate - self._edge
        frames = 1 + rest / (self._factor * self._hop)
        return self._sound_end(self._chunk * ceil(frames / self._chunk))

    def advance(
        self, states: Sequence[NemotronState], sounds: Sequence[StreamSound]
    ) -> list[ChunkResult[NemotronState]]:
        """One batch of the encoder and one of the decoder; subsampling is a batch for new streams and one for the others."""
        embedded, subsampling = self._subsampled(states, sounds)
        hidden, attention, convolutions = self._encoded(embedded, states)
        emitted, predictions = decoded(
            self.model, self.projected(hidden, states), [state.prediction for state in states]
        )
        return [
            self._result(
                states[row], emitted[row], predictions[row], attention[row], subsampling[row], convolutions[row]
            )
            for row in range(len(states))
        ]

    def _result(
        self, before: NemotronState, found: Sequence[FrameToken], prediction: Prediction, *caches: Any
    ) -> ChunkResult[NemotronState]:
        frames = before.frames + self._chunk
        tokens = [
            EmittedToken(token.id, token.log_probability, *self._span(before.frames + token.frame)) for token in found
        ]
        spoken = before.frames + found[-1].frame + 1 if found else before.spoken
        after = NemotronState(frames, spoken, before.language, prediction, *caches)
        pauses = (frames - spoken) * self.frame_s >= PAUSE_S
        settled = self.heard(after) - round(AFTER_SPEECH_S * self.sample_rate) if pauses else None
        return ChunkResult(after, tokens, settled=settled)

    def _span(self, frame: int) -> tuple[float, float]:
        return frame * self.frame_s, (frame + 1) * self.frame_s

    def _subsampled(
        self, states: Sequence[NemotronState], sounds: Sequence[StreamSound]
    ) -> tuple[Tensor, list[Convolutions]]:
        """(batch, chunk, dim), and what the convolutions need again. The first chunk of a stream has fewer mel frames."""
        made: dict[int, tuple[Tensor, Convolutions]] = {}
        for group in (
            [row for row, state in enumerate(states) if not state.frames],
            [row for row, state in enumerate(states) if state.frames],
        ):
            if group:
                cache = self._padding_cache([states[row].subsampling or {} for row in group])
                features = self._features([states[row] for row in group], [sounds[row] for row in group])
                hidden = self.model.encoder.subsampling(features, padding_cache=cache)
                made.update(zip(group, zip(hidden, convolution_rows(cache, len(group)), strict=True), strict=True))
        rows = [made[row] for row in range(len(states))]
        return torch.stack([hidden for hidden, _ in rows]), [kept for _, kept in rows]

    def _features(self, states: Sequence[NemotronState], sounds: Sequence[StreamSound]) -> Tensor:
        """(batch, mel frames, bins) of the next chunk of streams that are all new or all not. Frames reach to both sides of
        their centre; silence precedes the stream."""
        audio: list[np.ndarray[Any, Any]] = []
        for state, sound in zip(states, sounds, strict=True):
            start, end = self._mel_end(state.frames), self._mel_end(state.frames + self._chunk)
            audio.append(sound.between(start * self._hop - self._reach, (end - 1) * self._hop + self._reach))
        made = self.processor.feature_extractor(
            audio, sampling_rate=self.sample_rate, center=False, return_tensors="pt"
        )
        features: Tensor = self.on_device(made)["input_features"]
        return features

    @staticmethod
    def _padding_cache(rows: Sequence[Convolutions]) -> Any:
        empty = modeling.NemotronAsrStreamingEncoderCausalConvPaddingCache()
        return stacked_convolutions(empty, rows, CONVOLUTION_LAYERS)

    def _encoded(
        self, embedded: Tensor, states: Sequence[NemotronState]
    ) -> tuple[Tensor, list[Attention], list[Convolutions]]:
        """The encoder's layers, called as `NemotronAsrStreamingEncoder.forward` does, which has no mask for streams at
        different positions: (batch, chunk, dim) and the caches."""
        encoder = self.model.encoder
        left = (encoder.config.sliding_window - 1) // self._chunk * self._chunk
        past = StackedCache([state.attention for state in states], left)
        blank = {key: row.new_zeros(row.shape) for state in states for key, row in (state.convolutions or {}).items()}
        cache = self._padding_cache([state.convolutions or blank for state in states])
        hidden = embedded * encoder.input_scale
        mask = past.visible(self._chunk, hidden.device)[:, None, None].expand(-1, -1, self._chunk, -1)
        positions = encoder.encode_positions(hidden, cached_frames=past.length)
        for layer in encoder.layers:
            hidden = layer(hidden, attention_mask=mask, position_embeddings=positions, cache=past, padding_cache=cache)
        return hidden, past.rows(), convolution_rows(cache, len(states))

    def projected(self, hidden: Tensor, states: Sequence[NemotronState]) -> Tensor:
        """What the joint network takes of the encoder's output (batch, frames, dim)."""
        made: Tensor = self.model.encoder_projector(hidden)
        return made


class LanguageNemotron(Nemotron, LanguageTransducer):
    """Nemotron 3.5: the language is an input after the encoder."""

    def projected(self, hidden: Tensor, states: Sequence[NemotronState]) -> Tensor:
        """As `Nemotron3_5AsrForRNNT.get_audio_features`, with one language for each stream."""
        prompts = torch.tensor([self.processor.prompt_dictionary[state.language] for state in states])
        languages = one_hot(prompts.to(hidden.device), num_classes=self.model.config.num_prompts).to(hidden.dtype)
        languages = languages[:, None].expand(-1, hidden.shape[1], -1)
        return super().projected(self.model.prompt_projector(torch.cat([hidden, languages], dim=-1)), states)
