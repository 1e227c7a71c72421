"""The voices of VibeVoice-Realtime: prompts that the model has read already, as keys and values.

A file of `voices/` has the tensors `<decoder>_key_<layer>` and `<decoder>_value_<layer>` (1, heads, n, head_dim), and
`<decoder>_hidden` (1, n, dim), of three decoders: `lm` (the lower one), `tts_lm` (the upper one), and `neg_tts_lm` (the upper
one without the text). mlx-audio reads the same files; `deployments/weights/convert_vibevoice_voices.py` writes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from deployments.engines.lm.checkpoint import Weights
from deployments.engines.lm.kv_cache import KvCache, Slot
from deployments.engines.lm.llama import LlamaShape
from deployments.engines.protocols import Voice
from deployments.engines.speech import unknown_voice
from deployments.engines.vibevoice_realtime.config import VibeVoiceRealtimeConfig
from deployments.errors import MotetError, fail

LOWER, UPPER, FREE = "lm", "tts_lm", "neg_tts_lm"
TAGS: Mapping[str, str] = {"in": "en", "jp": "ja", "kr": "ko", "sp": "es"}
"""BCP 47 tags for the prefixes of the published voices that are none: English from India, Japanese, Korean, Spanish."""


@dataclass(frozen=True, slots=True)
class DecoderPrompt:
    """What a decoder keeps of a prompt: for each layer the keys and values (heads, n, head_dim) of its n positions."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]

    def __len__(self) -> int:
        """Positions."""
        return self.keys[0].shape[1]

    def write(self, cache: KvCache, slot: Slot) -> None:
        """Fills the beginning of a row."""
        for layer, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.write(slot, layer, 0, keys, values)
        slot.position = len(self)


@dataclass(frozen=True, slots=True)
class PromptVoice:
    """A voice: the prompt of each decoder, and the hidden state (dim,) of the upper one without the text at its end."""

    lower: DecoderPrompt
    upper: DecoderPrompt
    free: DecoderPrompt
    hidden: Tensor

    def positions(self, tokens: int) -> int:
        """The positions that the voice and this many tokens of text take, in the decoder that has the most."""
        return max(len(self.lower) + tokens, len(self.upper) + tokens, len(self.free))


class PromptVoices:
    """The voices of a folder. The latest ones are kept in memory."""

    def __init__(self, folder: Path, config: VibeVoiceRealtimeConfig, *, most: int, device: str) -> None:
        """`most` voices are kept. Raises `MotetError` (invalid) if the folder's `voices/` has none."""
        self._files = {file.stem: file for file in sorted((folder / "voices").glob("*.safetensors"))}
        if not self._files:
            raise fail(
                "invalid",
                f"{folder / 'voices'} contains no voices.",
                "Convert the published ones: python -m deployments.weights.convert_vibevoice_voices",
                param="source",
            )
        self._config, self._device = config, device
        self._kept = lru_cache(maxsize=most)(self._read)

    @property
    def all(self) -> tuple[Voice, ...]:
        """The voices, named after their files."""
        return tuple(Voice(name, language_of(name)) for name in self._files)

    def get(self, name: str) -> PromptVoice:
        """Raises `MotetError` (not_found) for an unknown voice, and for one whose file cannot be used."""
        if name not in self._files:
            raise unknown_voice(name, self._files)
        return self._kept(name)

    def _read(self, name: str) -> PromptVoice:
        try:
            return voice_of(load_file(self._files[name], self._device), self._config)
        except (OSError, SafetensorError, KeyError, ValueError) as error:
            why = f"its file has no tensor {error}" if isinstance(error, KeyError) else str(error)
            raise _unusable(name, why) from error


def _unusable(name: str, why: str) -> MotetError:
    remedy = "Use another voice, or ask the operator of this service to convert it again."
    cause = f"The voice {name!r} is not available: {why}."
    return fail("not_found", cause, remedy, param="voice", code="voice_not_found")


def language_of(name: str) -> str:
    """The language of a published name, such as `en-Emma_woman`; "und" for other names."""
    prefix, dash, _ = name.partition("-")
    return TAGS.get(prefix, prefix) if dash and len(prefix) == 2 and prefix.isalpha() else "und"


def voice_of(tensors: Weights, config: VibeVoiceRealtimeConfig) -> PromptVoice:
    """A voice from the tensors of a file. Raises `KeyError` for an absent one, `ValueError` for one of another shape."""
    return PromptVoice(
        lower=_prompt(tensors, LOWER, config.lower),
        upper=_prompt(tensors, UPPER, config.upper),
        free=_prompt(tensors, FREE, config.upper),
        hidden=_checked(tensors, f"{FREE}_hidden", (1, None, config.upper.dim))[0, -1].float(),
    )


def _prompt(tensors: Weights, name: str, shape: LlamaShape) -> DecoderPrompt:
    first = _checked(tensors, f"{name}_key_0", (1, shape.kv_heads, None, shape.head_dim))
    keys, values = (
        tuple(_checked(tensors, f"{name}_{kind}_{layer}", first.shape)[0] for layer in range(shape.layers))
        for kind in ("key", "value")
    )
    return DecoderPrompt(keys, values)


def _checked(tensors: Weights, name: str, sizes: Sequence[int | None]) -> Tensor:
    tensor = tensors[name]
    found = tuple(tensor.shape)
    if len(found) != len(sizes) or any(
        size == 0 or wanted not in (None, size) for size, wanted in zip(found, sizes, strict=True)
    ):
        raise ValueError(f"its tensor {name} has the shape {found}, which does not belong to this model")
    if not tensor.isfinite().all():
        raise ValueError(f"its tensor {name} has numbers that are not finite")
    return tensor
