"""The configuration of a Qwen3-TTS model, from its `config.json`, `generation_config.json` and the codec's
`speech_tokenizer/config.json`."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.engines.lm.llama import LlamaShape
from deployments.engines.lm.sampler import Sampling
from deployments.errors import MotetError, fail

CODEC_TYPE = "qwen3_tts_tokenizer_12hz"
CONTROL_CODES = 1024
"""The last codes of the talker's vocabulary: marks, languages and speakers. Of them it may only choose the end."""


@dataclass(frozen=True, slots=True)
class Qwen3TtsCodecShape:
    """The sizes of the codec's decoder. `strides` are those of the upsampling layers before `rates`; `window` is the number
    of frames that its transformer attends to."""

    decoder: LlamaShape
    codebooks: int
    window: int
    strides: tuple[int, ...]
    rates: tuple[int, ...]
    channels: int

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Qwen3TtsCodecShape:
        """From `decoder_config`."""
        return cls(
            decoder=LlamaShape.of(config),
            codebooks=int(config["num_quantizers"]),
            window=int(config["sliding_window"]),
            strides=tuple(config["upsampling_ratios"]),
            rates=tuple(config["upsample_rates"]),
            channels=int(config["decoder_dim"]),
        )

    @property
    def hop(self) -> int:
        """Samples in a frame."""
        return math.prod(self.strides) * math.prod(self.rates)


@dataclass(frozen=True, slots=True)
class PromptMarks:
    """The ids of the marks of a prompt: codes, and after them text tokens."""

    pad: int
    begin: int
    end: int
    think: int
    no_think: int
    think_begin: int
    think_end: int
    text_pad: int
    text_begin: int
    text_end: int
    turn_begin: int
    turn_end: int

    @classmethod
    def of(cls, talker: Mapping[str, Any], model: Mapping[str, Any]) -> PromptMarks:
        """From `talker_config`, and the whole configuration."""
        return cls(
            pad=int(talker["codec_pad_id"]),
            begin=int(talker["codec_bos_id"]),
            end=int(talker["codec_eos_token_id"]),
            think=int(talker["codec_think_id"]),
            no_think=int(talker["codec_nothink_id"]),
            think_begin=int(talker["codec_think_bos_id"]),
            think_end=int(talker["codec_think_eos_id"]),
            text_pad=int(model["tts_pad_token_id"]),
            text_begin=int(model["tts_bos_token_id"]),
            text_end=int(model["tts_eos_token_id"]),
            turn_begin=int(model["im_start_token_id"]),
            turn_end=int(model["im_end_token_id"]),
        )


@dataclass(frozen=True, slots=True)
class Speaker:
    """A speaker of the model: its code, and the language of its dialect or ""."""

    code: int
    dialect: str


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """How codes are sampled: the first of a frame, and the others."""

    first: Sampling
    others: Sampling
    repetition_penalty: float

    @classmethod
    def of(cls, generation: Mapping[str, Any]) -> SamplingSettings:
        """From a `generation_config.json`; what is absent has the published values."""
        return cls(
            _sampling(generation, "", "do_sample"),
            _sampling(generation, "subtalker_", "subtalker_dosample"),
            float(generation.get("repetition_penalty", 1.05)),
        )


@dataclass(frozen=True, slots=True)
class Qwen3TtsConfig:
    """The whole configuration. `languages` are the codes of the languages by name; a model that `follows` reads
    instructions."""

    talker: LlamaShape
    predictor: LlamaShape
    codec: Qwen3TtsCodecShape
    marks: PromptMarks
    sampling: SamplingSettings
    codes: int
    languages: Mapping[str, int]
    speakers: Mapping[str, Speaker]
    follows: bool
    sample_rate: int

    @property
    def groups(self) -> int:
        """Codes in a frame."""
        return self.codec.codebooks

    @property
    def frame_rate(self) -> float:
        """Frames in a second of audio."""
        return self.sample_rate / self.codec.hop


def read(folder: Path) -> Qwen3TtsConfig:
    """Reads a folder. Raises `MotetError`: invalid if it contains no Qwen3-TTS model, or a key is absent; unsupported for
    another codec than that of 12 Hz, and for a model without speakers of its own."""
    model = _json(folder / "config.json")
    if model.get("model_type") != "qwen3_tts":
        raise fail("invalid", f"{folder} contains no Qwen3-TTS model.", "Check the model's source.", param="source")
    if model.get("tokenizer_type", CODEC_TYPE) != CODEC_TYPE:
        cause = f"This Qwen3-TTS model has the codec {model['tokenizer_type']!r}; only {CODEC_TYPE!r} is supported."
        raise fail("unsupported", cause, "Use a model whose name says 12Hz.", param="source")
    if model.get("tts_model_type") != "custom_voice":
        cause = f"This Qwen3-TTS model is of type {model.get('tts_model_type')!r}; only 'custom_voice' is supported."
        raise fail("unsupported", cause, "Use a model whose name says CustomVoice.", param="source")
    codec = _json(folder / "speech_tokenizer" / "config.json")
    try:
        return config_of(model, _json(folder / "generation_config.json"), codec)
    except KeyError as error:
        cause = f"The configuration of the Qwen3-TTS model in {folder} has no key {error.args[0]!r}."
        raise fail("invalid", cause, "Use the published files.", param="source") from error


def config_of(model: Mapping[str, Any], generation: Mapping[str, Any], codec: Mapping[str, Any]) -> Qwen3TtsConfig:
    """From the parsed files; `generation` may be empty. Raises `KeyError` for an absent key, `MotetError` (unsupported) for
    groups that differ between the model and its codec."""
    talker = model["talker_config"]
    predictor = talker["code_predictor_config"]
    shape = Qwen3TtsCodecShape.of(codec["decoder_config"])
    counts = {int(talker["num_code_groups"]), int(predictor["num_code_groups"]), shape.codebooks}
    if len(counts) > 1:
        raise _differing(counts)
    return Qwen3TtsConfig(
        talker=LlamaShape.of(talker),
        predictor=LlamaShape.of(predictor),
        codec=shape,
        marks=PromptMarks.of(talker, model),
        sampling=SamplingSettings.of(generation),
        codes=int(talker["vocab_size"]),
        languages={name: int(code) for name, code in talker["codec_language_id"].items()},
        speakers=_speakers(talker),
        follows=model["tts_model_size"] != "0b6",
        sample_rate=int(codec["output_sample_rate"]),
    )


def _speakers(talker: Mapping[str, Any]) -> dict[str, Speaker]:
    dialects: Mapping[str, Any] = talker.get("spk_is_dialect") or {}
    return {
        name: Speaker(int(code[0] if isinstance(code, list) else code), dialects.get(name) or "")
        for name, code in (talker.get("spk_id") or {}).items()
    }


def _sampling(generation: Mapping[str, Any], prefix: str, switch: str) -> Sampling:
    if not generation.get(switch, True):
        return Sampling()
    return Sampling(
        temperature=float(generation.get(f"{prefix}temperature", 0.9)),
        top_p=float(generation.get(f"{prefix}top_p", 1.0)),
        top_k=int(generation.get(f"{prefix}top_k", 50)),
    )


def _differing(counts: set[int]) -> MotetError:
    numbers = ", ".join(map(str, sorted(counts)))
    cause = f"The talker, the code predictor and the codec of this model have different numbers of codes: {numbers}."
    return fail("unsupported", cause, "Use the published files.", param="source")


def _json(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return values
