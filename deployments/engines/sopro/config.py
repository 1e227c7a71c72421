"""The configuration of a Sopro v2 model, from its `config.json`. An absent key has the published model's value."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from deployments.engines.lm.checkpoint import shape_of


@dataclass(frozen=True, slots=True)
class SoproModelConfig:
    """The language model over semantic tokens, and the acoustic head. `acoustic_mel_mean` and `_std` normalise the mel
    bands."""

    latent_dim: int = 1280
    semantic_vocab_size: int = 4375
    text_vocab_size: int = 8192
    cond_in_dim: int = 328
    cond_hidden_dim: int = 512
    ar_model_dim: int = 512
    ar_blocks: int = 12
    ar_heads: int = 8
    ar_kv_heads: int | None = None
    ar_qk_rms_norm: bool = True
    style_prefix_tokens: int = 8
    acoustic_time_embed_dim: int = 256
    acoustic_sway_sampling_coef: float = -1.0
    acoustic_upsampler_kernel_size: int = 3
    acoustic_dit_dim: int = 512
    acoustic_dit_depth: int = 8
    acoustic_dit_heads: int = 8
    acoustic_dit_dim_head: int = 64
    acoustic_mu_dim: int | None = None
    acoustic_spk_dim: int = 80
    acoustic_pre_lookahead_frames: int = 3
    acoustic_pos_kernel_size: int = 31
    acoustic_sigma_min: float = 1.0e-6
    acoustic_num_left_chunks: int = -1
    acoustic_mel_n_mels: int = 100
    acoustic_mel_hop_length: int = 256
    acoustic_mel_mean: list[float] | None = None
    acoustic_mel_std: list[float] | None = None

    @property
    def bos(self) -> int:
        """The token before the first semantic token."""
        return self.semantic_vocab_size

    @property
    def eos(self) -> int:
        """The token after the last one."""
        return self.semantic_vocab_size + 1


@dataclass(frozen=True, slots=True)
class SemanticEncoderConfig:
    """The encoder from a clip to semantic tokens (a small Whisper encoder with a quantised head)."""

    n_mels: int = 80
    d_model: int = 512
    layers: int = 6
    heads: int = 8
    fsq_levels: list[int] = field(default_factory=lambda: [7, 5, 5, 5, 5])
    sample_rate: int = 16000
    n_fft: int = 400
    hop_length: int = 160
    token_samples_24k: int = 1024


@dataclass(frozen=True, slots=True)
class SpeakerEncoderConfig:
    """The encoder from a clip to speaker identity and style."""

    sample_rate: int = 16000
    n_mels: int = 80
    n_fft: int = 1024
    win_length: int = 400
    hop_length: int = 160
    mel_log_floor: float = 1e-5
    stage_channels: list[int] = field(default_factory=lambda: [160, 192, 224])
    blocks_per_stage: list[int] = field(default_factory=lambda: [4, 4, 4])
    dilation_cycle: list[int] = field(default_factory=lambda: [1, 2, 4, 8])


@dataclass(frozen=True, slots=True)
class VocoderConfig:
    """The causal network from mel frames to samples (ConvNeXt blocks and an inverse STFT)."""

    sample_rate: int = 24000
    n_fft: int = 1024
    hop_length: int = 256
    n_mels: int = 100
    dim: int = 512
    num_layers: int = 8
    max_magnitude: float = 100.0
    causal: bool = True
    lookahead_frames: int = 3
    block_lookaheads: list[int] = field(default_factory=lambda: [3] * 8)


@dataclass(frozen=True, slots=True)
class SoproGenerationConfig:
    """The default generation settings."""

    temperature: float = 0.8
    top_p: float = 0.9
    top_k: int = 25
    steps: int = 2
    max_seconds: float = 30.0
    min_seconds: float = 0.4
    ref_seconds: float = 15.0
    style_tokens: int = 160
    prompt_tokens: int = 120


@dataclass(frozen=True, slots=True)
class SoproConfig:
    """The whole configuration."""

    sample_rate: int = 24000
    model: SoproModelConfig = field(default_factory=SoproModelConfig)
    semantic_encoder: SemanticEncoderConfig = field(default_factory=SemanticEncoderConfig)
    speaker_encoder: SpeakerEncoderConfig = field(default_factory=SpeakerEncoderConfig)
    vocoder: VocoderConfig = field(default_factory=VocoderConfig)
    generation: SoproGenerationConfig = field(default_factory=SoproGenerationConfig)

    @property
    def frames_per_token(self) -> int:
        """Mel frames that one semantic token lasts."""
        return self.semantic_encoder.token_samples_24k // self.model.acoustic_mel_hop_length

    @property
    def token_rate(self) -> float:
        """Semantic tokens in a second of audio."""
        return self.sample_rate / self.semantic_encoder.token_samples_24k

    def tokens_in(self, seconds: float) -> int:
        """Semantic tokens in this many seconds, rounded up."""
        return max(1, -int(-seconds * self.sample_rate // self.semantic_encoder.token_samples_24k))


def read(folder: Path) -> SoproConfig:
    """Reads `config.json`. Keys for training are ignored."""
    values = json.loads((folder / "config.json").read_text())
    return SoproConfig(
        sample_rate=int(values.get("sample_rate", 24000)),
        model=shape_of(SoproModelConfig, values.get("model")),
        semantic_encoder=shape_of(SemanticEncoderConfig, values.get("semantic_encoder")),
        speaker_encoder=shape_of(SpeakerEncoderConfig, values.get("speaker_encoder")),
        vocoder=shape_of(VocoderConfig, values.get("vocoder")),
        generation=shape_of(SoproGenerationConfig, values.get("generation")),
    )
