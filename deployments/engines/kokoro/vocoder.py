"""From frames, pitch and loudness to samples: iSTFTNet (https://arxiv.org/abs/2203.02395) with a harmonic source.

Shapes: (rows, width, channels) unless stated otherwise; `style` is (rows, style), the timbre half of a voice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from deployments.engines.kokoro.ragged import Conv, RaggedRows, UpConv
from deployments.engines.kokoro.text import AdaIn, StyleBlock

SAMPLE_RATE = 24_000
HARMONICS = 9
SINE_LEVEL, NOISE_LEVEL, VOICED_ABOVE_HZ = 0.1, 0.003, 10.0
REAL_BELOW = 1e-5
"""A spectrum value counts as real if its imaginary part is at most this share of it."""

Noise = Callable[[int, int], Tensor]
"""Standard normal noise (samples, HARMONICS) for a row and a number of samples."""


class HarmonicSource(nn.Module):
    """Sines at the pitch and its harmonics for voiced frames, noise for unvoiced ones (https://arxiv.org/abs/1904.12088)."""

    def __init__(self, samples_per_value: int) -> None:
        super().__init__()
        self.l_linear = nn.Linear(HARMONICS, 1)
        self._upsampling = samples_per_value

    def forward(self, pitch: Tensor, noise: Noise, rows: RaggedRows) -> Tensor:
        """Pitch (rows, width, 1) in Hz to samples (rows, samples)."""
        sine = torch.sin(self._phase(pitch)) * SINE_LEVEL
        voiced = (pitch > VOICED_ABOVE_HZ).repeat_interleave(self._upsampling, dim=1)
        level = torch.where(voiced, NOISE_LEVEL, SINE_LEVEL / 3)
        lengths = (rows.lengths * self._upsampling).tolist()
        drawn = nn.utils.rnn.pad_sequence([noise(row, n) for row, n in enumerate(lengths)], batch_first=True)
        mixed = sine * voiced + level * drawn.to(sine)
        return torch.tanh(self.l_linear(mixed)).squeeze(-1)

    def _phase(self, pitch: Tensor) -> Tensor:
        """Radians below 2 pi (rows, samples, HARMONICS).

        In float64: after a few seconds the phase of a harmonic is so large that float32 keeps only two decimals of it.
        """
        harmonics = torch.arange(1, HARMONICS + 1, device=pitch.device, dtype=torch.float64)
        turns = torch.cumsum(pitch.double() * harmonics / SAMPLE_RATE % 1, dim=1) * self._upsampling
        turns = functional.interpolate(turns.transpose(1, 2), scale_factor=float(self._upsampling), mode="linear")
        return (turns % 1 * (2 * math.pi)).float().transpose(1, 2)


class Stft(nn.Module):
    """The short-time Fourier transform with a Hann window as magnitude and phase, and its inverse."""

    def __init__(self, size: int, hop: int) -> None:
        super().__init__()
        self._size, self._hop = size, hop

    def forward(self, samples: Tensor, rows: RaggedRows) -> Tensor:
        """Samples (rows, width) to magnitudes and phases (rows, width // hop + 1, size + 2)."""
        half = self._size // 2
        if rows.mask is None:
            padded = functional.pad(samples[:, None], (half, half), mode="reflect")[:, 0]
        else:
            padded = samples.gather(1, self._reflected(rows, half))
        spectrum = torch.stft(
            padded, self._size, self._hop, window=self._window(padded), center=False, return_complex=True
        )
        magnitude = spectrum.abs()
        # A mirrored edge is symmetric, so its spectrum is real up to rounding, and the phase would jump between pi and -pi.
        imaginary = torch.where(spectrum.imag.abs() < REAL_BELOW * magnitude, 0.0, spectrum.imag)
        return torch.cat([magnitude, torch.atan2(imaginary, spectrum.real)], dim=1).transpose(1, 2)

    @staticmethod
    def _reflected(rows: RaggedRows, half: int) -> Tensor:
        """Positions (rows, half + width + half) that mirror every row at its own end."""
        positions = torch.arange(-half, rows.width + half, device=rows.lengths.device).abs()
        last = rows.lengths[:, None] - 1
        return (last - (last - positions).abs()).clamp(min=0)

    def inverse(self, magnitude: Tensor, phase: Tensor, rows: RaggedRows) -> Tensor:
        """Magnitude and phase (rows, frames, size // 2 + 1) to samples (rows, hop * (frames - 1)).

        Unlike `torch.istft` it divides by the windows that each row has, which matters in a row's last samples.
        """
        window = self._window(magnitude)
        frames = torch.fft.irfft(torch.polar(magnitude, phase), n=self._size) * window
        windows = window.square().expand(1, frames.shape[1], -1)
        if rows.mask is not None:
            frames, windows = frames * rows.mask, windows * rows.mask
        return self._added(frames) / self._added(windows).clamp(min=1e-6)

    def _window(self, like: Tensor) -> Tensor:
        return torch.hann_window(self._size, device=like.device)

    def _added(self, frames: Tensor) -> Tensor:
        """Overlap-add of frames (rows, frames, size), without the half window before and after."""
        width = self._hop * (frames.shape[1] - 1) + self._size
        added = functional.fold(frames.transpose(1, 2), (1, width), (1, self._size), stride=(1, self._hop))
        return added[:, 0, 0, self._size // 2 : width - self._size // 2]


class SnakeBlock(nn.Module):
    """Dilated convolutions with shortcuts, each after a style norm and a Snake activation
    (https://arxiv.org/abs/2006.08195)."""

    def __init__(self, channels: int, kernel: int, dilations: Sequence[int], style: int) -> None:
        super().__init__()
        self.convs1 = nn.ModuleList(Conv(channels, channels, kernel, dilation=dilation) for dilation in dilations)
        self.convs2 = nn.ModuleList(Conv(channels, channels, kernel) for _ in dilations)
        self.adain1 = nn.ModuleList(AdaIn(style, channels) for _ in dilations)
        self.adain2 = nn.ModuleList(AdaIn(style, channels) for _ in dilations)
        self.alpha1 = nn.ParameterList(torch.ones(1, 1, channels) for _ in dilations)
        self.alpha2 = nn.ParameterList(torch.ones(1, 1, channels) for _ in dilations)

    def forward(self, x: Tensor, style: Tensor, rows: RaggedRows) -> Tensor:
        """The same shape."""
        layers = zip(self.convs1, self.adain1, self.alpha1, self.convs2, self.adain2, self.alpha2, strict=True)
        for conv1, norm1, alpha1, conv2, norm2, alpha2 in layers:
            y = rows.clear(conv1(_snake(x, norm1, alpha1, style, rows)))
            y = rows.clear(conv2(_snake(y, norm2, alpha2, style, rows)))
            x = y.add_(x)
        return x


def _snake(x: Tensor, norm: AdaIn, alpha: Tensor, style: Tensor, rows: RaggedRows) -> Tensor:
    """The Snake activation y + sin(alpha y)^2 / alpha of the normed x."""
    y = norm(x, style, rows)
    wave = (alpha * y).sin_().square_()
    return rows.clear(y.addcmul_(wave, 1 / alpha))


class IstftGenerator(nn.Module):
    """Upsamples frames to a spectrum in stages, and adds the harmonic source at each stage."""

    def __init__(
        self,
        style: int,
        channels: int,
        rates: Sequence[int],
        kernels: Sequence[int],
        block_kernels: Sequence[int],
        dilations: Sequence[Sequence[int]],
        fft_size: int,
        hop: int,
    ) -> None:
        super().__init__()
        self.samples_per_value = math.prod(rates) * hop
        self.m_source = HarmonicSource(self.samples_per_value)
        self.stft = Stft(fft_size, hop)
        self.ups, self.resblocks = nn.ModuleList(), nn.ModuleList()
        self.noise_convs, self.noise_res = nn.ModuleList(), nn.ModuleList()
        for stage, (rate, kernel) in enumerate(zip(rates, kernels, strict=True)):
            channels //= 2
            self.ups.append(UpConv(2 * channels, channels, kernel, rate))
            self.resblocks.extend(
                SnakeBlock(channels, size, spread, style) for size, spread in zip(block_kernels, dilations, strict=True)
            )
            after = math.prod(rates[stage + 1 :])
            last = stage + 1 == len(rates)
            kernel = 1 if last else 2 * after
            padding = 0 if last else (after + 1) // 2
            self.noise_convs.append(Conv(fft_size + 2, channels, kernel, stride=after, padding=padding))
            self.noise_res.append(SnakeBlock(channels, 11 if last else 7, (1, 3, 5), style))
        self.conv_post = Conv(channels, fft_size + 2, 7)
        self._rates, self._hop = tuple(rates), hop

    def forward(self, x: Tensor, style: Tensor, pitch: Tensor, noise: Noise, rows: RaggedRows) -> Tensor:
        """Samples (rows, samples); `rows` are the lengths of `x` and of `pitch`."""
        whole = rows.resized(math.prod(self._rates) * self._hop)
        source = self.stft(self.m_source(pitch, noise, rows), whole)
        source = rows.resized(math.prod(self._rates), 1).clear(source)
        blocks = len(self.resblocks) // len(self.ups)
        for stage, (up, noise_conv, noise_res) in enumerate(
            zip(self.ups, self.noise_convs, self.noise_res, strict=True)
        ):
            last = stage + 1 == len(self.ups)
            x = up(functional.leaky_relu(x, 0.1))
            x = torch.cat([x[:, 1:2], x], dim=1) if last else x
            rows = rows.resized(self._rates[stage], int(last))
            x = rows.clear(noise_res(rows.clear(noise_conv(source)), style, rows).add_(x))
            several = self.resblocks[stage * blocks : (stage + 1) * blocks]
            x = _mean([block(x, style, rows) for block in several])
        x = self.conv_post(functional.leaky_relu(x))
        magnitude, phase = x.chunk(2, dim=-1)
        return self.stft.inverse(torch.exp(magnitude), torch.sin(phase), rows)


def _mean(several: Sequence[Tensor]) -> Tensor:
    """Overwrites the first tensor: allocating a new one costs a CPU more than the sum."""
    total = several[0]
    for other in several[1:]:
        total += other
    return total.mul_(1 / len(several))


class KokoroDecoder(nn.Module):
    """Combines text features, pitch and loudness for the generator."""

    def __init__(self, channels: int, style: int, residual: int, generator: IstftGenerator, out: int) -> None:
        super().__init__()
        wide = 2 * channels
        joined = wide + residual + 2
        self.encode = StyleBlock(channels + 2, wide, style)
        self.decode = nn.ModuleList([StyleBlock(joined, wide, style) for _ in range(3)])
        self.decode.append(StyleBlock(joined, out, style, doubles=True))
        self.F0_conv = Conv(1, 1, 3, stride=2)
        self.N_conv = Conv(1, 1, 3, stride=2)
        self.asr_res = nn.ModuleList([Conv(channels, residual, 1)])
        self.generator = generator

    def forward(
        self, text: Tensor, pitch: Tensor, loudness: Tensor, style: Tensor, noise: Noise, rows: RaggedRows
    ) -> Tensor:
        """Samples (rows, samples); `rows` are the lengths of `text`. Pitch and loudness have two values for each frame."""
        curves = torch.cat([rows.clear(self.F0_conv(pitch)), rows.clear(self.N_conv(loudness))], dim=-1)
        residual = rows.clear(self.asr_res[0](text))
        x = self.encode(torch.cat([text, curves], dim=-1), style, rows)
        for block in self.decode:
            x = block(torch.cat([x, residual, curves], dim=-1), style, rows)
        samples: Tensor = self.generator(x, style, pitch, noise, rows.resized(2))
        return samples
