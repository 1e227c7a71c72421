"""Separation by description on MLX, with mlx-audio's SAM-Audio: the described sound, and everything else.

The separation graph cuts a recording into chunks and merges the stems. A chunk's noise depends only on the seed, the chunk's
index and its channel, so a chunk sounds the same in any batch. It is the noise of mlx-audio's `separate_long`, so that a mono
recording of several chunks has the same stems.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from deployments.engines.mlx.memory import MlxEngine
from deployments.engines.mlx.runtime import loading, mx, on_cpu
from deployments.engines.protocols import Chunk, EngineSpec, Samples, SeparationTraits, Stems
from deployments.engines.separation import in_equal_batches
from deployments.errors import fail

STEMS = ("target", "residual")
DESCRIPTION = "speech"
"""The default description, unless the option `description` sets another."""
TEXT_ENCODER = "text_encoder"
"""The folder with the model's T5, beside its weights: `config.json`, `model.safetensors` and a tokenizer."""
METHODS = ("midpoint", "euler")
MOST_DESCRIPTIONS = 64
"""Encoded descriptions that are kept, of about 100 KB each: all chunks of a recording have the same one."""


class SamAudio(MlxEngine):
    """SAM-Audio. The channels of a chunk are separated independently."""

    def __init__(self, spec: EngineSpec) -> None:
        super().__init__(spec)
        self._ode = ode_options(spec.options.get("ode_opt"))
        self._seed = int(str(spec.options.get("seed", 42)))
        self._description = str(spec.options.get("description", DESCRIPTION))
        frames = spec.options.get("decode_frames")
        self._decode_frames = None if frames is None else int(str(frames))
        self._model = _model_in(Path(spec.folder))
        self._encoded = lru_cache(MOST_DESCRIPTIONS)(self._encode)

    @property
    def traits(self) -> SeparationTraits:
        """The model's sample rate, usually 48 kHz."""
        return SeparationTraits(
            (int(self._model.sample_rate),),
            STEMS,
            takes_description=True,
            takes_reference=False,
            takes_ode_options=True,
        )

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The stems of each chunk, or an error in its place. Chunks of one length and of the same options are one batch."""
        return in_equal_batches(chunks, self.traits, self._separate_batch)

    def _separate_batch(self, chunks: Sequence[Chunk]) -> Sequence[Stems]:
        rows = np.concatenate([chunk.samples for chunk in chunks])
        with on_cpu():
            audios = self.edge.to_mlx(rows)[:, None]
            noise = mx.concatenate([self._noise(chunk) for chunk in chunks])
        descriptions = [chunk.description or self._description for chunk in chunks for _ in chunk.samples]
        features, mask = self._texts(descriptions)
        result = self._model.separate(
            audios,
            descriptions=descriptions,
            noise=noise,
            ode_opt=self._options(chunks[0]),
            ode_decode_chunk_size=self._decode_frames,
            _text_features=features,
            _text_mask=mask,
        )
        with on_cpu():
            both = [self._rows(parts, rows.shape[1]) for parts in (result.target, result.residual)]
        bounds = np.cumsum([len(chunk.samples) for chunk in chunks])[:-1]
        split = [np.split(stem, bounds) for stem in both]
        return [
            Stems(dict(zip(STEMS, parts, strict=True)), chunk.sample_rate, chunk.index)
            for chunk, *parts in zip(chunks, *split, strict=True)
        ]

    def _options(self, chunk: Chunk) -> dict[str, Any]:
        """The solver's options: the request's, and the model's where it has none."""
        asked = {"method": chunk.ode_method, "step_size": chunk.ode_step_size}
        return dict(self._ode) | {name: value for name, value in asked.items() if value is not None}

    def _encode(self, description: str) -> tuple[Any, Any]:
        features, mask = self._model.text_encoder([description])
        mx.eval(features, mask)
        return features, mask

    def _texts(self, descriptions: Sequence[str]) -> tuple[Any, Any]:
        """The encoded descriptions, (rows, words, features), and which words are not padding, (rows, words)."""
        encoded = [self._encoded(description) for description in descriptions]
        words = max(mask.shape[1] for _, mask in encoded)
        features = [mx.pad(each, [(0, 0), (0, words - each.shape[1]), (0, 0)]) for each, _ in encoded]
        masks = [mx.pad(mask, [(0, 0), (0, words - mask.shape[1])]) for _, mask in encoded]
        return mx.concatenate(features), mx.concatenate(masks)

    def _noise(self, chunk: Chunk) -> Any:
        """The flow's starting noise, (channels, frames, features): what MLX's generator gives to one channel after another
        once it is seeded with the model's seed and the chunk's index."""
        codec = self._model.audio_codec
        frames = -(-chunk.samples.shape[1] // codec.hop_length)
        key, noise = mx.random.key(self._seed + chunk.index), []
        for _ in chunk.samples:
            key, own = mx.random.split(key)
            noise.append(mx.random.normal((frames, 2 * codec.config.codebook_dim), key=own))
        return mx.stack(noise)

    def _rows(self, parts: Sequence[Any], length: int) -> Samples:
        """One stem of every row, (rows, length): the codec's last frame is cut or padded with silence."""
        stem = mx.stack([part.reshape(-1) for part in parts])[:, :length]
        return self.edge.to_numpy(mx.pad(stem, [(0, 0), (0, length - stem.shape[1])]))


def ode_options(wanted: object) -> Mapping[str, Any]:
    """The solver's `method` and `step_size`. `euler` evaluates the network once for each step, `midpoint` twice.

    Raises `MotetError` (invalid) for a key or a value that the solver does not have.
    """
    chosen: dict[str, Any] = {"method": "midpoint", "step_size": 2 / 32}
    if wanted is not None and not isinstance(wanted, Mapping):
        raise fail(
            "invalid", "ode_opt is not a mapping.", "Write {method: midpoint, step_size: 0.0625}.", param="options"
        )
    chosen |= dict(wanted or {})
    if unknown := sorted(set(chosen) - {"method", "step_size"}):
        raise fail(
            "invalid",
            f"ode_opt has unknown keys: {', '.join(unknown)}.",
            "Its keys are method and step_size.",
            param="options",
        )
    if chosen["method"] not in METHODS or not 0 < float(chosen["step_size"]) < 1:
        remedy = f"A method is one of {', '.join(METHODS)}; a step_size lies between 0 and 1."
        raise fail("invalid", f"ode_opt is {chosen}.", remedy, param="options")
    return chosen


def _model_in(folder: Path) -> Any:
    from mlx_audio.sts.utils import load_model

    with loading():
        model = load_model(folder)
    _load_text_encoder(model, folder / TEXT_ENCODER)
    return model


def _load_text_encoder(model: Any, folder: Path) -> None:
    """Loads T5 from the model's own folder: the library would download one by name, without a pinned revision."""
    from mlx_audio.sts.models.sam_audio.text_encoder import T5Config, T5Encoder
    from transformers import AutoTokenizer

    if not (folder / "model.safetensors").is_file():
        cause = f"{folder.parent} has no folder {TEXT_ENCODER}/ with the T5 text encoder."
        raise fail("unavailable", cause, "Copy its config.json, model.safetensors and tokenizer there.", param="source")
    config = json.loads((folder / "config.json").read_text())
    known = {name: config[name] for name in T5Config.__dataclass_fields__ if name in config}
    # The published T5 does not say what came with its version 1.1, whose values are the library's defaults.
    encoder = T5Encoder(T5Config(**{"is_gated_act": False, "dense_act_fn": "relu", **known}))
    encoder.load_weights(list(T5Encoder.sanitize(mx.load(str(folder / "model.safetensors"))).items()))
    encoder.eval()
    mx.eval(encoder.parameters())
    model.text_encoder.model = encoder
    model.text_encoder.tokenizer = AutoTokenizer.from_pretrained(str(folder))
