"""A Sopro voice, computed once from a clip: tokens, mel frames, speaker, and the states of the networks after the clip."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.engines.lm.checkpoint import Weights
from deployments.engines.protocols import Samples
from deployments.engines.sopro.acoustic import AcousticFrames, AcousticHead, AcousticState
from deployments.engines.sopro.config import SoproConfig
from deployments.engines.sopro.decoder import SoproDecoder
from deployments.engines.sopro.encoders import SemanticEncoder, SpeakerEncoder, resample, vocoder_mel
from deployments.engines.sopro.levels import SHORTEST_SECONDS, crop_on_pause, normalized, output_gain
from deployments.engines.sopro.vocoder import SoproVocoder, VocoderFrames, VocoderState
from deployments.errors import fail

WARM_UP_FRAMES = 32


@dataclass(frozen=True, slots=True)
class SoproVoice:
    """What every stream of this voice starts with; shared, and never changed.

    `style` (style_prefix_tokens, dim) and `prompt` (tokens,) go before and after the text. `tokens` and `mel` (frames, mels)
    are the clip's, `noise` the noise that it is solved from; `speaker` is its part of the acoustic head's input layer.
    """

    style: Tensor
    prompt: Tensor
    tokens: Tensor
    mel: Tensor
    noise: Tensor
    speaker: Tensor
    acoustic: AcousticState
    vocoder: VocoderState
    gain: float


@dataclass(frozen=True, slots=True)
class SoproNetworks:
    """All networks of a model, and the mean and deviation of the mel bands."""

    config: SoproConfig
    decoder: SoproDecoder
    head: AcousticHead
    vocoder: SoproVocoder
    semantic: SemanticEncoder
    speaker: SpeakerEncoder
    condition: Weights
    vocoder_weights: Weights
    mel_mean: Tensor
    mel_std: Tensor


def encode_clip(networks: SoproNetworks, clip: Samples, rate: int) -> SoproVoice:
    """The voice of a mono clip at `rate` Hz. Raises `MotetError` (invalid) for a clip that is too short."""
    config = networks.config
    wav = resample(torch.tensor(clip), rate, config.sample_rate).clamp(-1, 1)
    cropped = crop_on_pause(wav.cpu().numpy(), config.generation.ref_seconds, config.sample_rate)
    if len(cropped) < SHORTEST_SECONDS * config.sample_rate:
        raise fail(
            "invalid",
            f"The clip is {len(cropped) / config.sample_rate:.1f} s long.",
            "Give 5 to 20 s of one person speaking.",
            param="voice",
        )
    louder, level = normalized(cropped, config.sample_rate)
    wav = torch.tensor(louder)
    vector = networks.speaker(resample(wav, config.sample_rate, config.speaker_encoder.sample_rate))
    mel = (vocoder_mel(networks.vocoder_weights, config.vocoder, wav) - networks.mel_mean) / networks.mel_std
    return voice_of(networks, networks.semantic(wav), mel, _condition(networks.condition, vector), level)


def _condition(weights: Weights, vector: Tensor) -> Tensor:
    hidden = F.silu(F.linear(vector, weights["cond_proj.0.weight"], weights["cond_proj.0.bias"]))
    return F.linear(hidden, weights["cond_proj.3.weight"], weights["cond_proj.3.bias"])


def voice_of(networks: SoproNetworks, tokens: Tensor, mel: Tensor, condition: Tensor, level_db: float) -> SoproVoice:
    """The voice of an encoded clip: its `tokens` (n,), `mel` (frames, mels) in the head's scale, and speaker `condition`."""
    config, head, vocoder = networks.config, networks.head, networks.vocoder
    each, generation = config.frames_per_token, config.generation
    aligned = min(len(mel) // each, len(tokens))
    # The clip's solved part ends with a whole chunk, so that a stream's first chunk contains as little of the clip as
    # possible and its first audio needs few tokens. The excess is cut at the clip's start, where it matters least.
    cut = (aligned - head.lookahead) % (head.chunk // each)
    own, mel = tokens[cut:aligned], mel[cut * each : aligned * each]
    frames = len(mel)
    noise = torch.tensor(np.random.default_rng(0).standard_normal((frames, mel.shape[1]), dtype=np.float32))
    settled = frames - head.lookahead * each
    speaker, state = head.speaker(condition), AcousticState(head)
    if settled:
        split = settled // each
        head.solve([AcousticFrames(state, own[:split], own[split:], noise[:settled], mel[:settled], speaker)])
    end = mel[max(0, frames - WARM_UP_FRAMES) :] * networks.mel_std + networks.mel_mean
    _, (warm,) = vocoder.decode([VocoderFrames(vocoder.begin(), end)])
    return SoproVoice(
        style=networks.decoder.style_prefix(tokens[: generation.style_tokens]),
        prompt=tokens[: generation.prompt_tokens],
        tokens=own,
        mel=mel,
        noise=noise,
        speaker=speaker,
        acoustic=state,
        vocoder=warm,
        gain=output_gain(level_db),
    )
