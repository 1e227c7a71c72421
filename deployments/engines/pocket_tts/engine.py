"""Pocket-TTS, a small voice-cloning model: transformers' modules in a `CloningEngine`.

Its audio decoder is causal and keeps no state: when audio is due (after 4, 8, 16, ... frames), the piece is decoded from its
beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PocketTTSAudioTokenizerModel, PocketTTSForConditionalGeneration

from deployments.engines.graphs import on_device
from deployments.engines.lm.cloning_engine import Clips, ClonerOptions, CloningEngine, PromptedPiece
from deployments.engines.lm.engine import LanguageUtterance, options_on_this_thread
from deployments.engines.lm.rotary import RotaryStack, rotate
from deployments.engines.lm.tokenizer import TextTokenizer, plain_text_tokenizer
from deployments.engines.options import Bounds
from deployments.engines.protocols import EngineSpec, Samples
from deployments.engines.speech import SILENCE

LEAST_FRAMES, SHORT_TEXT_WORDS, TAIL, SHORT_TAIL, STEP_FRAMES = 6, 4, 2, 4, 16


@dataclass(frozen=True, kw_only=True)
class PocketOptions(ClonerOptions):
    """`engine_options` of a Pocket-TTS model."""

    first_frames: Annotated[int, Bounds(least=1, most=64), "Frames of 80 ms in the first chunk; later ones double."] = 4
    temperature: Annotated[float, Bounds(least=0, most=2), "Variance of the noise that frames begin with."] = 0.7
    flow_steps: Annotated[int, Bounds(least=1, most=32)] = 1
    ends_above: Annotated[float, "A frame whose end is more likely than this logit ends the text."] = -4.0


class PocketLayer:
    """One layer of transformers' backbone as a `DecoderLayer`."""

    def __init__(self, layer: Any) -> None:
        self._layer, self._attention = layer, layer.self_attn

    def attention_input(self, x: Tensor, *places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (n, heads, head_dim); `places` are the cosines and sines, (n, 1, head_dim)."""
        h, a = self._layer.input_layernorm(x), self._attention
        query, key, value = (p(h).view(len(x), -1, a.head_dim) for p in (a.q_proj, a.k_proj, a.v_proj))
        return rotate(query, *places), rotate(key, *places), value

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        """The rest of the layer after attention."""
        x = x + self._attention.o_proj(attended)
        return x + self._layer.mlp(self._layer.post_attention_layernorm(x))  # type: ignore[no-any-return]


@dataclass(eq=False, slots=True, kw_only=True)
class PocketPiece(PromptedPiece):
    """The state of a piece: the latents so far, the frames that were given out, and the frames left after the model's end
    (None before it)."""

    tail: int
    latents: list[Tensor] = field(default_factory=list)
    emitted: int = 0
    left: int | None = None


class PocketEngine(CloningEngine[PocketPiece]):
    """Speaks with the clips of the folder, and with the clip of a request."""

    def __init__(
        self, model: Any, codec: Any, tokenizer: TextTokenizer, folder: Path, options: PocketOptions, device: str
    ):
        config, sample_rate = model.config, int(codec.config.sampling_rate)
        with on_device(device):
            decoder = RotaryStack(
                [PocketLayer(layer) for layer in model.model.layers],
                kv_heads=config.num_key_value_heads,
                head_dim=config.head_dim,
                capacity=options.most_positions(config.frame_rate),
                base=config.rope_parameters["rope_theta"],
            )
        super().__init__(decoder, folder, options, device, sample_rate=sample_rate, frame_rate=config.frame_rate)
        self.model, self.codec, self.options, self._tokenizer = model.to(device), codec.to(device), options, tokenizer
        self.config, self._frame = config, int(codec.config.frame_size)

    def encode_clip(self, clip: Tensor) -> Tensor:
        """The embeddings (frames, dim) of a mono clip (n,) for the backbone."""
        whole = torch.nn.functional.pad(clip, (0, -len(clip) % self._frame))
        latents = self.codec.encode(whole[None, None]).latents[0]
        return self.model.model.audio_prompt_proj(latents)  # type: ignore[no-any-return]

    def prompt_length(self, text: str, clips: Clips) -> int:
        """Positions of the begin token, the clip and the text."""
        return 1 + sum(map(len, clips)) + len(self._words(text))

    def _words(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def begin(self, utterance: LanguageUtterance[Clips, PocketPiece]) -> PocketPiece:
        """The prompt is the clip, then the text; the first frame has an input embedding of its own."""
        model, text = self.model.model, utterance.text
        words = torch.tensor(self._words(text))
        opening = model.embed_tokens(torch.tensor([self.config.audio_prompt_bos_token_id]))
        prompt = torch.cat([opening, *utterance.voice, model.embed_tokens(words)])
        return PocketPiece(
            guard=self.guard(text),
            prompt=prompt,
            slot=self.join(),
            random=utterance.random(),
            embedding=model.embed_audio_latents(model.bos_latent),
            tail=SHORT_TAIL if len(text.split()) <= SHORT_TEXT_WORDS else TAIL,
        )

    def advance(self, pieces: Sequence[PocketPiece]) -> list[Samples]:
        """Generates frames until a piece has enough for its next chunk or ends, then decodes the audio of such pieces."""
        for _ in range(min(STEP_FRAMES, *map(self._missing, pieces))):
            self._frames(pieces)
            if any(piece.spoken for piece in pieces):
                break
        due = [piece for piece in pieces if piece.spoken or self._missing(piece) <= 0]
        if not due:
            return [SILENCE] * len(pieces)
        latents = torch.nn.utils.rnn.pad_sequence([torch.stack(piece.latents) for piece in due], batch_first=True)
        made = self.codec.decode(self.model.denormalize_latents(latents)).audio_values[:, 0].clamp(-1, 1).cpu().numpy()
        sounds = {id(piece): sound for piece, sound in zip(due, made, strict=True)}
        return [self._new(piece, sounds.get(id(piece))) for piece in pieces]

    def _missing(self, piece: PocketPiece) -> int:
        return max(self.options.first_frames, 2 * piece.emitted) - len(piece.latents)

    def _new(self, piece: PocketPiece, sound: Samples | None) -> Samples:
        first, piece.emitted = piece.emitted, piece.emitted if sound is None else len(piece.latents)
        return SILENCE if sound is None else sound[first * self._frame : piece.emitted * self._frame]

    def _frames(self, pieces: Sequence[PocketPiece]) -> None:
        self.cache.arrange([piece.slot for piece in pieces])
        x, positions = torch.stack([p.embedding for p in pieces]), torch.tensor([p.slot.position for p in pieces])
        hidden = self.model.model.norm(self.decoder.step(x, positions, self.cache, int(positions.max()) + 1))
        noise = np.stack([piece.random.standard_normal(self.config.latent_dim, np.float32) for piece in pieces])
        start = torch.as_tensor(noise).to(hidden.device) * self.options.temperature**0.5
        latents = self.model.sample_latent(hidden, start, self.options.flow_steps)
        ends = (self.model.eos_head(hidden)[:, 0] > self.options.ends_above).tolist()
        for piece, latent, end in zip(pieces, latents, ends, strict=True):
            piece.latents.append(latent)
            piece.embedding, piece.slot.position = self.model.model.embed_audio_latents(latent), piece.slot.position + 1
            if piece.left is not None:
                piece.left -= 1
            elif end and len(piece.latents) > LEAST_FRAMES:
                piece.left = piece.tail
            piece.spoken = piece.left == 0 or piece.guard.frame()


def load(spec: EngineSpec) -> PocketEngine:
    """Loads the model, `audio_tokenizer/`, `tokenizer.json` and the clips of `voices/` from `spec.folder`."""
    folder, options = Path(spec.folder), options_on_this_thread(spec, PocketOptions)
    model = PocketTTSForConditionalGeneration.from_pretrained(folder, use_safetensors=True)
    codec = PocketTTSAudioTokenizerModel.from_pretrained(folder / "audio_tokenizer", use_safetensors=True)
    words = plain_text_tokenizer(folder / "tokenizer.json")
    return PocketEngine(model.eval(), codec.eval(), words, folder, options, spec.device)
