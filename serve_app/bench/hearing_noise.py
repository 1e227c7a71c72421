"""Sound without speech: noise of five colours, hum, clicks, breath, music and silence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from deployments.engines.protocols import Samples

NOISE_RATE = 16_000
Float = NDArray[np.float64]
Sound = Callable[[int, np.random.Generator], Float]
"""Makes a number of samples at `NOISE_RATE` Hz with a root mean square of about 1."""
LEVELS_DB = (-50.0, -30.0, -14.0)
"""Levels of the files below full scale, root mean square. At the highest one, sounds with high peaks
are quieter."""


def coloured(exponent: float, count: int, random: np.random.Generator) -> Float:
    """Noise whose power goes with frequency to the power of `exponent`: 0 white, -1 pink, -2 brown, 1 blue, 2 violet."""
    spectrum = np.fft.rfft(random.standard_normal(count))
    shape = np.arange(1, len(spectrum) + 1) ** (exponent / 2)
    return _levelled(np.fft.irfft(spectrum * shape, count))


def pink(count: int, random: np.random.Generator) -> Float:
    """Pink noise."""
    return coloured(-1, count, random)


def hum(count: int, random: np.random.Generator) -> Float:
    """The hum of the mains, 50 Hz and its harmonics."""
    time = np.arange(count) / NOISE_RATE
    return _levelled(sum(np.sin(2 * np.pi * 50 * n * time + random.uniform(0, 6)) / n for n in range(1, 12)))


def clicks(count: int, random: np.random.Generator) -> Float:
    """Two clicks a second, at random."""
    sound = np.zeros(count)
    places = random.integers(0, count, 2 * count // NOISE_RATE)
    sound[places] = random.choice([-1.0, 1.0], len(places))
    return _levelled(np.convolve(sound, np.exp(-np.arange(400) / 40), "same"))


def breath(count: int, random: np.random.Generator) -> Float:
    """Noise that swells and fades fifteen times a minute, like somebody who sleeps."""
    time = np.arange(count) / NOISE_RATE
    swell = np.clip(np.sin(2 * np.pi * time / 4), 0, None) ** 2
    return _levelled(coloured(-0.5, count, random) * swell)


def music(count: int, random: np.random.Generator) -> Float:
    """Chords of plucked strings, a new one each half second."""
    sound, step = np.zeros(count), NOISE_RATE // 2
    time = np.arange(2 * NOISE_RATE) / NOISE_RATE
    for start in range(0, count, step):
        root = 110 * 2 ** (random.integers(0, 12) / 12)
        for interval in (0, 4, 7):
            tone = root * 2 ** (interval / 12)
            note = sum(np.sin(2 * np.pi * tone * n * time) * np.exp(-3 * n * time) / n for n in range(1, 7))
            assert isinstance(note, np.ndarray)
            end = min(start + len(note), count)
            sound[start:end] += note[: end - start]
    return _levelled(sound)


def silence(count: int, random: np.random.Generator) -> Float:
    """Nothing at all."""
    return np.zeros(count)


SOUNDS: Mapping[str, Sound] = {
    "white noise": partial(coloured, 0),
    "pink noise": pink,
    "brown noise": partial(coloured, -2),
    "blue noise": partial(coloured, 1),
    "violet noise": partial(coloured, 2),
    "hum": hum,
    "clicks": clicks,
    "breath": breath,
    "music": music,
    "silence": silence,
}


def files_without_speech(count: int) -> Iterator[tuple[str, Samples]]:
    """`count` sounds of 5 to 40 s with their names: every kind, at three levels, with changing lengths."""
    for number in range(count):
        random = np.random.default_rng(number)
        name = list(SOUNDS)[number % len(SOUNDS)]
        level = LEVELS_DB[number // len(SOUNDS) % len(LEVELS_DB)]
        samples = SOUNDS[name](int(random.uniform(5, 40) * NOISE_RATE), random) * 10 ** (level / 20)
        yield f"{name} at {level:.0f} dB", (samples / max(1.0, np.abs(samples).max())).astype(np.float32)


def _levelled(sound: object) -> Float:
    assert isinstance(sound, np.ndarray)
    level: Float = sound / np.sqrt(np.mean(np.square(sound)))
    return level
