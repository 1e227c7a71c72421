"""The configuration of a VibeVoice-Realtime model, from Microsoft's `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deployments.engines.lm.llama import LlamaShape
from deployments.engines.vibevoice.config import CodecShape, DiffusionHeadShape
from deployments.engines.vibevoice.diffusion import TRAINED_STEPS
from deployments.errors import fail

MODEL_TYPE = "vibevoice_streaming"
SAMPLE_RATE = 24_000
TEXT_WINDOW, SPEECH_WINDOW = 5, 6
"""Tokens of text that are read, and frames of audio that are generated after them. The model was trained so; its files do not
say it."""
SCHEDULE = {"ddpm_beta_schedule": ("cosine", "squaredcos_cap_v2"), "prediction_type": ("v_prediction",)}
"""The noise schedule of the training, which has two names; the only one that is supported."""
TIME_FREQUENCIES, LONGEST_TIME_PERIOD = 256, 10_000.0


@dataclass(frozen=True, slots=True)
class VibeVoiceRealtimeConfig:
    """The whole configuration. `lower` reads text; `upper` reads what `lower` made of it, and audio."""

    lower: LlamaShape
    upper: LlamaShape
    codec: CodecShape
    head: DiffusionHeadShape
    solver_steps: int

    @property
    def frame_rate(self) -> float:
        """Frames in a second of audio."""
        return SAMPLE_RATE / self.codec.hop


def config_of(values: Mapping[str, Any]) -> VibeVoiceRealtimeConfig:
    """From the parsed `config.json`. Raises `MotetError`: invalid for an absent key, unsupported for another noise
    schedule."""
    try:
        return _config_of(values)
    except KeyError as error:
        cause = f"The model's config.json has no key {error.args[0]!r}."
        raise fail("invalid", cause, "Use the published file.", param="source") from error


def _config_of(values: Mapping[str, Any]) -> VibeVoiceRealtimeConfig:
    decoder, head = values["decoder_config"], values["diffusion_head_config"]
    _check_schedule(head)
    shape, upper = LlamaShape.of(decoder), int(values["tts_backbone_num_hidden_layers"])
    return VibeVoiceRealtimeConfig(
        lower=replace(shape, layers=shape.layers - upper),
        upper=replace(shape, layers=upper),
        codec=_codec(values["acoustic_tokenizer_config"]),
        head=DiffusionHeadShape(
            dim=int(head["hidden_size"]),
            latent=int(head["latent_size"]),
            layers=int(head["head_layers"]),
            eps=float(head["rms_norm_eps"]),
            frequencies=TIME_FREQUENCIES,
            longest_period=LONGEST_TIME_PERIOD,
        ),
        solver_steps=int(head["ddpm_num_inference_steps"]),
    )


def _check_schedule(head: Mapping[str, Any]) -> None:
    expected = {"ddpm_num_steps": (TRAINED_STEPS,)} | SCHEDULE
    for key, known in expected.items():
        if head[key] not in known:
            cause = f"This VibeVoice model has an unsupported noise schedule: {key} is {head[key]!r}."
            raise fail("unsupported", cause, "Use the published weights.", param="source")


def _codec(config: Mapping[str, Any]) -> CodecShape:
    """The codec's decoder. Microsoft's file lists ratios from latents to samples, and depths from samples to latents."""
    depths = config.get("decoder_depths")
    return CodecShape(
        latent=int(config["vae_dim"]),
        filters=int(config.get("decoder_n_filters") or config["encoder_n_filters"]),
        kernel=7,
        ratios=tuple(reversed(config.get("decoder_ratios") or config["encoder_ratios"])),
        depths=_numbers(depths)[::-1] if depths else _numbers(config["encoder_depths"]),
        eps=float(config["layernorm_eps"]),
    )


def _numbers(depths: str | list[int]) -> tuple[int, ...]:
    """`3-3-8`, or a list."""
    return tuple(int(depth) for depth in (depths.split("-") if isinstance(depths, str) else depths))


def read(folder: Path) -> VibeVoiceRealtimeConfig:
    """Reads a folder. Raises `MotetError` (invalid) if it contains no VibeVoice-Realtime model."""
    file = folder / "config.json"
    values: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    if values.get("model_type") != MODEL_TYPE:
        raise fail(
            "invalid", f"{folder} contains no VibeVoice-Realtime model.", "Check the model's source.", param="source"
        )
    return config_of(values)
