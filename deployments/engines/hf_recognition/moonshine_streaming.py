"""Moonshine streaming: an encoder whose frames see a few frames before and after them, and a decoder that writes anew.

transformers has no streaming caches for it. A stream keeps the encoder frames that no later sound changes, and each hearing
encodes only the sound since the last one, with the sound before it that its frames see. The decoder then continues the
committed tokens. It could change any of the others with every hearing, so those are committed that two hearings agree on
(LocalAgreement-2, see `text/agreement.py`). Hearings are at fixed positions of the stream: its text does not depend on how
the sound was divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers.models.moonshine_streaming.modeling_moonshine_streaming import MoonshineStreamingEncoderModelOutput

from deployments.engines.hf_recognition.adapter import EmittedToken
from deployments.engines.hf_recognition.generation import generated
from deployments.engines.hf_recognition.moonshine import TOKENS_PER_SECOND, Moonshine
from deployments.engines.hf_recognition.stream_sound import StreamSound
from deployments.engines.hf_recognition.streaming_family import ChunkResult, StreamingFamily
from deployments.engines.protocols import RecognitionOptions, Samples

HOP_FRAMES = 24
"""Encoder frames of 20 ms between two hearings."""
SEGMENT_FRAMES = 1440
"""After these the whole text is committed, and the decoder begins again without it."""
WORD_MARKS = ("▁", "Ġ")
"""What a token that begins a word begins with, in the vocabularies of SentencePiece and of bytes."""
STEM = 4
"""Frames of the waveform from which the embedder makes one encoder frame."""
STEM_REACH = 3
"""Encoder frames at the start of an encoded part that would see sound before it through the embedder's convolutions."""


@dataclass(frozen=True, slots=True)
class MoonshineState:
    """`frames` of the stream are encoded; `encoded` (n, dim) are those of the segment. `committed` are the tokens of the
    segment, and `previous` is what the last hearing added to them."""

    frames: int = 0
    encoded: Tensor | None = None
    committed: tuple[int, ...] = ()
    previous: tuple[int, ...] = ()


class MoonshineStreaming(Moonshine, StreamingFamily[MoonshineState]):
    """One batch of the encoder and one of the decoder for streams at any position. A window is transcribed as a whole."""

    @cached_property
    def _frame(self) -> int:
        """Samples of an encoder frame."""
        return int(STEM * self.model.get_encoder().embedder.frame_len)

    @cached_property
    def _before(self) -> int:
        """Encoder frames that a frame sees before it, through all layers and the embedder."""
        windows: list[tuple[int, int]] = self.model.config.encoder_config.sliding_windows
        return sum(left - 1 for left, _ in windows) + STEM_REACH

    @cached_property
    def _after(self) -> int:
        """Encoder frames that a frame sees after it, through all layers."""
        windows: list[tuple[int, int]] = self.model.config.encoder_config.sliding_windows
        return sum(max(0, right - 1) for _, right in windows)

    @cached_property
    def _segment(self) -> int:
        longest: int = self.model.config.max_position_embeddings // HOP_FRAMES * HOP_FRAMES
        return min(SEGMENT_FRAMES, longest)

    def start(self, options: RecognitionOptions) -> MoonshineState:
        """Without a frame."""
        return MoonshineState()

    def _sound_end(self, frames: int) -> int:
        """Where the sound ends that determines the first `frames`. A frame sees the first quarter of its own samples."""
        return (frames - 1 + self._after) * self._frame + self._frame // STEM if frames else 0

    def needed(self, state: MoonshineState) -> int:
        """The look-ahead of the last frame."""
        return self._sound_end(state.frames + HOP_FRAMES)

    def heard(self, state: MoonshineState) -> int:
        """The end of the last frame."""
        return state.frames * self._frame

    def first_kept(self, state: MoonshineState) -> int:
        """That of the first frame that the next one sees."""
        return max(0, state.frames - self._before) * self._frame

    def padded(self, samples: int) -> int:
        """A whole number of hearings, and the look-ahead."""
        return self._sound_end(ceil(samples / (HOP_FRAMES * self._frame)) * HOP_FRAMES)

    def advance(
        self, states: Sequence[MoonshineState], sounds: Sequence[StreamSound]
    ) -> list[ChunkResult[MoonshineState]]:
        """One hearing of each stream."""
        fresh = self._next_frames(states, sounds)
        encoded = [
            new if state.encoded is None else torch.cat([state.encoded, new])
            for state, new in zip(states, fresh, strict=True)
        ]
        added = self._continued(encoded, [state.committed for state in states])
        return [self._agreed(*stream) for stream in zip(states, encoded, added, strict=True)]

    def _agreed(
        self, state: MoonshineState, encoded: Tensor, added: Sequence[EmittedToken]
    ) -> ChunkResult[MoonshineState]:
        frames = state.frames + HOP_FRAMES
        if len(encoded) >= self._segment:
            after = MoonshineState(frames)
            return ChunkResult(after, added, settled=self.heard(after))
        same = self._whole_words(added, _common(added, state.previous))
        committed = (*state.committed, *(token.id for token in added[:same]))
        tentative = added[same:]
        after = MoonshineState(frames, encoded, committed, tuple(token.id for token in tentative))
        return ChunkResult(after, added[:same], tentative)

    def _whole_words(self, tokens: Sequence[EmittedToken], count: int) -> int:
        """The number of the first `count` tokens that are whole words: the next one begins a word."""
        while count and (count == len(tokens) or tokens[count].id not in self._word_starts):
            count -= 1
        return count

    @cached_property
    def _word_starts(self) -> frozenset[int]:
        """The tokens that begin a word."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab()
        return frozenset(number for token, number in vocabulary.items() if token.startswith(WORD_MARKS))

    def _next_frames(self, states: Sequence[MoonshineState], sounds: Sequence[StreamSound]) -> list[Tensor]:
        """The next (hop, dim) frames of each stream."""
        starts = [max(0, state.frames - self._before) for state in states]
        parts = [
            sound.between(start * self._frame, self._sound_end(state.frames + HOP_FRAMES))
            for state, sound, start in zip(states, sounds, starts, strict=True)
        ]
        hidden = self._encode(parts)
        firsts = [state.frames - start for state, start in zip(states, starts, strict=True)]
        return [hidden[row, first : first + HOP_FRAMES].clone() for row, first in enumerate(firsts)]

    def _encode(self, windows: Sequence[Samples]) -> Tensor:
        """(batch, frames, dim). The encoder sees only a few frames on each side, so padding changes no frame of a window.
        Without a mask it would see all."""
        samples = pad_sequence([torch.from_numpy(window) for window in windows], batch_first=True)
        mask = pad_sequence([torch.ones(len(window), dtype=torch.int32) for window in windows], batch_first=True)
        device = self.model.device
        made = self.model.get_encoder()(samples.to(device, self.model.dtype), attention_mask=mask.to(device))
        hidden: Tensor = made.last_hidden_state
        return hidden

    def _states(self, window: Samples) -> Tensor:
        inputs = self.on_device(self.processor(window, sampling_rate=self.sample_rate, return_tensors="pt"))
        mask = inputs.get("attention_mask", torch.ones_like(inputs["input_values"], dtype=torch.int32))
        made = self.model.get_encoder()(inputs["input_values"], attention_mask=mask)
        states: Tensor = made.last_hidden_state[0][made.attention_mask[0]]
        return states

    def _continued(self, encoded: Sequence[Tensor], committed: Sequence[tuple[int, ...]]) -> list[list[EmittedToken]]:
        """The tokens that the decoder adds to the committed ones. Those are padded on the left and masked: the decoder's
        positions are relative."""
        first = self.model.generation_config.decoder_start_token_id
        longest = max(map(len, committed))
        pads = [longest - len(tokens) for tokens in committed]
        device = self.model.device
        rows = [[first] * (1 + pad) + list(tokens) for pad, tokens in zip(pads, committed, strict=True)]
        seen = [[0] * pad + [1] * (1 + longest - pad) for pad in pads]
        frames = pad_sequence([one.new_ones(len(one), dtype=torch.int32) for one in encoded], batch_first=True)
        output = MoonshineStreamingEncoderModelOutput(
            last_hidden_state=pad_sequence(list(encoded), batch_first=True), attention_mask=frames
        )
        inputs = {
            "encoder_outputs": output,
            "attention_mask": frames,
            "decoder_input_ids": torch.tensor(rows, device=device),
            "decoder_attention_mask": torch.tensor(seen, device=device),
        }
        seconds = [len(one) * self._frame / self.sample_rate for one in encoded]
        room = min(self.options.most_tokens, self.model.config.max_position_embeddings - 1)
        most = [
            max(1, min(room, int(length * TOKENS_PER_SECOND)) - len(tokens))
            for length, tokens in zip(seconds, committed, strict=True)
        ]
        return generated(self.model, inputs, RecognitionOptions(), most, 1 + longest)


def _common(tokens: Sequence[EmittedToken], before: Sequence[int]) -> int:
    """How many tokens two hearings have in common at their start."""
    count = 0
    for token, other in zip(tokens, before, strict=False):
        if token.id != other:
            break
        count += 1
    return count
