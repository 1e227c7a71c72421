"""Sopro's encoders of a clip: semantic tokens, speaker identity and style. They run once for each voice, in float32.

Mel filters and windows come with the weights.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from deployments.engines.lm.checkpoint import Weights
from deployments.engines.sopro.config import SemanticEncoderConfig, SpeakerEncoderConfig, VocoderConfig


def power_mel(wav: Tensor, window: Tensor, filters: Tensor, hop: int, power: float) -> Tensor:
    """The mel spectrogram (mels, frames) of (samples,): centred frames of the FFT size of `filters`, magnitudes to
    `power`."""
    size = 2 * (filters.shape[0] - 1)
    spectrum = torch.stft(
        wav, size, hop, len(window), window, center=True, pad_mode="reflect", onesided=True, return_complex=True
    )
    return filters.t() @ spectrum.abs().pow(power)


@cache
def _resampling_kernel(source: int, target: int) -> tuple[Tensor, int]:
    """The windowed-sinc filters (target, 1, taps) of a rational resampling, and their reach to the left.

    A Hann window, six zero crossings, a cutoff at 0.99 of the lower Nyquist frequency: torchaudio's default, with which the
    encoders were trained.
    """
    base = min(source, target) * 0.99
    width = math.ceil(6 * source / base)
    taps = torch.arange(-width, width + source, dtype=torch.float64)[None, None] / source
    times = (torch.arange(0, -target, -1, dtype=torch.float64)[:, None, None] / target + taps) * base
    times = times.clamp(-6, 6)
    window = torch.cos(times * math.pi / 12) ** 2
    times = times * math.pi
    kernel = torch.where(times == 0, 1.0, times.sin() / torch.where(times == 0, 1.0, times))
    return (kernel * window * (base / source)).float(), width


def resample(wav: Tensor, source_hz: int, target_hz: int) -> Tensor:
    """Resamples (samples,) to (ceil(samples * target / source),)."""
    if source_hz == target_hz:
        return wav
    common = math.gcd(source_hz, target_hz)
    source, target = source_hz // common, target_hz // common
    kernel, width = _resampling_kernel(source, target)
    padded = F.pad(wav, (width, width + source))
    resampled = F.conv1d(padded[None, None], kernel, stride=source).transpose(1, 2).flatten()
    return resampled[: -(-target * len(wav) // source)]


def vocoder_mel(weights: Weights, config: VocoderConfig, wav: Tensor) -> Tensor:
    """The natural-logarithm mel spectrogram (frames, mels) of (samples,) at 24 kHz, in the scale of the vocoder."""
    name = "feature_extractor.mel_spec"
    window, filters = weights[f"{name}.spectrogram.window"], weights[f"{name}.mel_scale.fb"]
    return power_mel(wav, window, filters, config.hop_length, 1).clamp_min(1e-7).log().t()


class SemanticEncoder:
    """The semantic tokens of a clip: a Whisper-like encoder, interpolated to the token rate, with a head of quantised digits
    (FSQ)."""

    def __init__(self, weights: Weights, config: SemanticEncoderConfig) -> None:
        self._w, self.config = weights, config

    def __call__(self, wav: Tensor) -> Tensor:
        """(tokens,) int64 of (samples,) at 24 kHz."""
        config, w = self.config, self._w
        count = -(-len(wav) // config.token_samples_24k)
        wav16 = resample(wav, 24000, config.sample_rate)
        length = (len(wav) * 2 + 2) // 3
        mel, frames = self._mel(F.pad(wav16, (0, max(0, length - len(wav16))))[:length])
        x = F.gelu(F.conv1d(mel[None], w["conv1.weight"], w["conv1.bias"], padding=1))
        x = F.gelu(F.conv1d(x, w["conv2.weight"], w["conv2.bias"], stride=2, padding=1))[0].t()
        x = (x + w["pos_emb"][: len(x)])[: (frames + 1) // 2]
        for number in range(config.layers):
            x = self._layer(f"layers.{number}", x)
        x = self._normed("pre_head_norm", _interpolated(self._normed("final_norm", x), count))
        digits = [part.argmax(-1) for part in self._linear("digit_head", x).split(config.fsq_levels, dim=-1)]
        tokens, base = torch.zeros(count, dtype=torch.int64), 1
        for digit, levels in zip(digits, config.fsq_levels, strict=True):
            tokens += digit * base
            base *= levels
        return tokens

    def _mel(self, wav: Tensor) -> tuple[Tensor, int]:
        frames = -(-len(wav) // self.config.hop_length)
        window, filters = self._w["frontend.mel.spectrogram.window"], self._w["frontend.mel.mel_scale.fb"]
        mel = power_mel(F.pad(wav, (0, self.config.n_fft)), window, filters, self.config.hop_length, 2)
        mel = mel[:, : frames + 2].clamp_min(1e-10).log10()  # two frames more: the convolutions look ahead
        return (mel.maximum(mel.max() - 8) + 4) / 4, frames

    def _layer(self, name: str, x: Tensor) -> Tensor:
        heads = self.config.heads
        normed = self._normed(f"{name}.self_attn_layer_norm", x)
        query, key, value = (
            self._linear(f"{name}.self_attn.{part}_proj", normed).view(len(x), heads, -1).transpose(0, 1)
            for part in "qkv"
        )
        y = F.scaled_dot_product_attention(query[None], key[None], value[None])[0].transpose(0, 1).flatten(1)
        x = x + self._linear(f"{name}.self_attn.out_proj", y)
        hidden = F.gelu(self._linear(f"{name}.fc1", self._normed(f"{name}.final_layer_norm", x)))
        return x + self._linear(f"{name}.fc2", hidden)

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._w[f"{name}.weight"], self._w.get(f"{name}.bias"))

    def _normed(self, name: str, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._w[f"{name}.weight"], self._w[f"{name}.bias"])


def _interpolated(x: Tensor, count: int) -> Tensor:
    """(n, dim) to (count, dim) by linear interpolation between frame centres."""
    ratio = torch.tensor(float(len(x))) / torch.tensor(float(count))
    places = ((torch.arange(count, dtype=torch.float32) + 0.5) * ratio - 0.5).clamp(0, len(x) - 1)
    left = places.floor().long()
    weight = (places - left)[:, None]
    return x[left] * (1 - weight) + x[(left + 1).clamp_max(len(x) - 1)] * weight


class SpeakerEncoder:
    """The speaker identity and style of a clip."""

    def __init__(self, weights: Weights, config: SpeakerEncoderConfig) -> None:
        self._w, self.config = weights, config

    def __call__(self, wav16: Tensor) -> Tensor:
        """Identity, style and style controls as one vector, of (samples,) at 16 kHz."""
        x = F.silu(self._grouped("stem.1", self._padded_conv("stem.0.conv", self._mel(wav16)[None], 1, 1)))
        heard = []
        for stage, blocks in enumerate(self.config.blocks_per_stage):
            name = f"transitions.{stage}"
            x = self._conv(f"{name}.conv", F.pad(x, (1, 1)), stride=2 if stage == 0 else 1)
            x = F.silu(self._grouped(f"{name}.norm", x))
            for number in range(blocks):
                dilation = self.config.dilation_cycle[number % len(self.config.dilation_cycle)]
                x = x + self._block(f"stages.{stage}.{number}", x, dilation)
            heard.append(x)
        x = F.silu(self._grouped("fuse.1", self._conv("fuse.0", torch.cat(heard, dim=1))))
        identity = F.normalize(self._head("id_head", self._attentive(x)), p=2, dim=-1)
        style = self._statistics(x)
        return torch.cat([identity, self._head("style_head", style), self._head("style_ctrl_head", style)], dim=-1)[0]

    def _mel(self, wav: Tensor) -> Tensor:
        window, filters = self._w["frontend.mel.spectrogram.window"], self._w["frontend.mel.mel_scale.fb"]
        mel = power_mel(wav, window, filters, self.config.hop_length, 2).clamp_min(self.config.mel_log_floor).log()
        return F.layer_norm(mel.t(), mel.shape[:1]).t()

    def _block(self, name: str, x: Tensor, dilation: int) -> Tensor:
        value, gate = self._conv(f"{name}.pw_in", self._grouped(f"{name}.norm1", x)).chunk(2, dim=1)
        h = self._padded_conv(f"{name}.dw.conv", value * gate.sigmoid(), dilation, x.shape[1])
        h = F.silu(self._grouped(f"{name}.norm2", h))
        squeezed = F.silu(self._conv(f"{name}.se.net.1", h.mean(-1, keepdim=True)))
        return self._conv(f"{name}.pw_out", h * self._conv(f"{name}.se.net.3", squeezed).sigmoid())

    def _attentive(self, x: Tensor) -> Tensor:
        share = torch.softmax(self._conv("id_pool.attn.2", self._conv("id_pool.attn.0", x).tanh()), dim=-1)
        mean = (share * x).sum(-1)
        deviation = (share * (x - mean[:, :, None]) ** 2).sum(-1).clamp_min(1e-6).sqrt()
        return torch.cat([mean, deviation], dim=1)

    @staticmethod
    def _statistics(x: Tensor) -> Tensor:
        parts = []
        for y in (x, F.avg_pool1d(x, 5, 1, 2)):
            mean = y.mean(-1)
            parts += [mean, ((y - mean[:, :, None]) ** 2).mean(-1).clamp_min(1e-6).sqrt()]
        return torch.cat(parts, dim=1)

    def _head(self, name: str, x: Tensor) -> Tensor:
        w = self._w
        hidden = F.silu(F.linear(x, w[f"{name}.0.weight"], w[f"{name}.0.bias"]))
        return F.linear(hidden, w[f"{name}.3.weight"], w[f"{name}.3.bias"])

    def _grouped(self, name: str, x: Tensor) -> Tensor:
        return F.group_norm(x, 1, self._w[f"{name}.weight"], self._w[f"{name}.bias"])

    def _conv(self, name: str, x: Tensor, *, stride: int = 1, dilation: int = 1, groups: int = 1) -> Tensor:
        weight, bias = self._w[f"{name}.weight"], self._w[f"{name}.bias"]
        return F.conv1d(x, weight, bias, stride=stride, dilation=dilation, groups=groups)

    def _padded_conv(self, name: str, x: Tensor, dilation: int, groups: int) -> Tensor:
        total = dilation * (self._w[f"{name}.weight"].shape[-1] - 1)
        return self._conv(name, F.pad(x, (total // 2, total - total // 2)), dilation=dilation, groups=groups)
