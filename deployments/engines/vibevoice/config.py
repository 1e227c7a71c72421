"""The configuration of a VibeVoice model, from `config.json` and `generation_config.json` in the Hugging Face layout."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.engines.lm.llama import LlamaShape
from deployments.errors import fail

SCHEDULER = {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
"""The noise schedule of the training; the only one that is supported."""


@dataclass(frozen=True, slots=True)
class CodecShape:
    """A stack of causal convolutions between samples and latents: one stage for each of `depths` blocks, resampling by
    `ratios` between."""

    latent: int
    filters: int
    kernel: int
    ratios: tuple[int, ...]
    depths: tuple[int, ...]
    eps: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> CodecShape:
        """From the configuration of a codec."""
        return cls(
            latent=int(config["hidden_size"]),
            filters=int(config["num_filters"]),
            kernel=int(config["kernel_size"]),
            ratios=tuple(config["downsampling_ratios"]),
            depths=tuple(config["depths"]),
            eps=float(config["rms_norm_eps"]),
        )

    @property
    def hop(self) -> int:
        """Samples in a frame."""
        return math.prod(self.ratios)


@dataclass(frozen=True, slots=True)
class DiffusionHeadShape:
    """The sizes of the diffusion head."""

    dim: int
    latent: int
    layers: int
    eps: float
    frequencies: int
    longest_period: float

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> DiffusionHeadShape:
        """From the head's configuration."""
        return cls(
            dim=int(config["hidden_size"]),
            latent=int(config["latent_size"]),
            layers=int(config["num_hidden_layers"]),
            eps=float(config["rms_norm_eps"]),
            frequencies=int(config["frequency_embedding_size"]),
            longest_period=float(config["diffusion_max_period"]),
        )


@dataclass(frozen=True, slots=True)
class VibeVoiceConfig:
    """The whole configuration with the default generation settings. `audio`, `begin`, `end` and `stop` are token ids."""

    language: LlamaShape
    acoustic: CodecShape
    semantic: CodecShape
    head: DiffusionHeadShape
    audio: int
    begin: int
    end: int
    stop: int
    guidance: float
    solver_steps: int
    sample_rate: int
    level_db: float | None

    @property
    def frame_rate(self) -> float:
        """Frames in a second of audio."""
        return self.sample_rate / self.acoustic.hop

    @property
    def choices(self) -> tuple[int, ...]:
        """The tokens that the model may choose, in order of their ids."""
        return tuple(sorted((self.audio, self.begin, self.end, self.stop)))


def config_of(values: Mapping[str, Any], generation: Mapping[str, Any], clips: Mapping[str, Any]) -> VibeVoiceConfig:
    """From the parsed `config.json`, `generation_config.json` and `preprocessor_config.json`; the last two may be empty.

    Raises `MotetError` (unsupported) for another noise schedule than the published one.
    """
    schedule = generation.get("noise_scheduler_config", SCHEDULER)
    scheduler = generation.get("noise_scheduler_class", "DPMSolverMultistepScheduler")
    if scheduler != "DPMSolverMultistepScheduler" or {**SCHEDULER, **schedule} != SCHEDULER:
        raise fail(
            "unsupported", "This VibeVoice model has an unsupported noise schedule.", "Use the published weights."
        )
    language, head = LlamaShape.of(values["text_config"]), DiffusionHeadShape.of(values["diffusion_head_config"])
    return VibeVoiceConfig(
        language=language,
        acoustic=CodecShape.of(values["audio_config"]),
        semantic=CodecShape.of(values["semantic_model_config"]),
        head=head,
        audio=int(values["audio_token_id"]),
        begin=int(values["audio_bos_token_id"]),
        end=int(values["audio_eos_token_id"]),
        stop=int(values["eos_token_id"]),
        guidance=float(generation.get("guidance_scale") or 1.0),
        solver_steps=int(generation.get("num_diffusion_steps") or 10),
        sample_rate=int(clips.get("sampling_rate", 24_000)),
        level_db=float(clips.get("target_dB_FS", -25)) if clips.get("normalize_audio", True) else None,
    )


def read(folder: Path) -> VibeVoiceConfig:
    """Reads a folder. Raises `MotetError` (invalid) if it contains no VibeVoice model."""
    values = _json(folder / "config.json")
    if values.get("model_type") != "vibevoice":
        raise fail("invalid", f"{folder} contains no VibeVoice model.", "Check the model's source.", param="source")
    return config_of(values, _json(folder / "generation_config.json"), _clip_settings(folder))


def _clip_settings(folder: Path) -> dict[str, Any]:
    processor = _json(folder / "processor_config.json").get("feature_extractor", {})
    return {**processor, **_json(folder / "preprocessor_config.json")}


def _json(file: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return values
