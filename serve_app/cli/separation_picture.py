"""A picture of a separation: the spectrograms of the recording and of its stems, one below the other. They are computed while
the stems are made, in the memory of the picture."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from deployments.engines.protocols import Chunk, Samples, SeparationEngine, SeparationTraits, Stems
from deployments.errors import fail

INPUT = "input"
"""The name of the recording beside its stems."""

FFT, HOP, BLOCK_FRAMES = 2048, 1024, 256
BANDS, LOWEST_HZ = 96, 40.0
COLUMNS = 1000
"""Columns that a picture has at least, if its sound is long enough, and half of what it has at most."""

RANGE_DB = 80.0
"""Below the loudest band of the recording, down to the darkest colour."""
TICKS_HZ = (100, 1000, 10_000)

Powers = NDArray[np.float64]


class WithInput:
    """A separation engine that also gives each chunk itself, as the stem `input`: joined, the chunks are the recording."""

    def __init__(self, engine: SeparationEngine) -> None:
        self._engine = engine

    @property
    def traits(self) -> SeparationTraits:
        """The engine's own."""
        return self._engine.traits

    def separate(self, chunks: Sequence[Chunk]) -> list[Stems | Exception]:
        """The stems of each chunk, and the chunk."""
        return [_with_input(chunk, stems) for chunk, stems in zip(chunks, self._engine.separate(chunks), strict=True)]


def _with_input(chunk: Chunk, stems: Stems | Exception) -> Stems | Exception:
    if isinstance(stems, Exception):
        return stems
    return Stems({INPUT: chunk.samples, **stems.stems}, stems.sample_rate, stems.index)


class Spectrogram:
    """The spectrogram of a sound at `sample_rate` Hz that comes in blocks. Its memory does not grow with the sound: when
    there are twice `COLUMNS` columns, neighbours become one."""

    def __init__(self, sample_rate: int) -> None:
        self._window = np.hanning(FFT).astype(np.float32)
        self._edges = _band_edges(sample_rate)
        self._rest: Samples | None = None
        self._frames: Powers = np.empty((0, BANDS))
        self._columns: Powers = np.empty((0, BANDS))
        self._frames_per_column = 1

    def push(self, samples: Samples) -> None:
        """Takes the next (channels, n) samples."""
        sound = samples if self._rest is None else np.concatenate((self._rest, samples), axis=1)
        count = max(0, (sound.shape[1] - FFT) // HOP + 1)
        for start in range(0, count, BLOCK_FRAMES):
            end = min(count, start + BLOCK_FRAMES)
            self._add(self._powers(sound[:, start * HOP : (end - 1) * HOP + FFT]))
        self._rest = sound[:, count * HOP :].copy()

    def levels(self) -> NDArray[np.float64]:
        """Levels in dB, (BANDS, columns): what came so far, the last part of a frame filled with silence."""
        if self._rest is not None and self._rest.shape[1]:
            self.push(np.zeros((len(self._rest), FFT - self._rest.shape[1]), np.float32))
        last = self._frames.mean(axis=0, keepdims=True) if len(self._frames) else self._frames
        return 10 * np.log10(np.concatenate((self._columns, last)).T + 1e-20)

    def _powers(self, sound: Samples) -> Powers:
        """The power of each band in each frame, (frames, BANDS); the mean of the channels."""
        frames = np.lib.stride_tricks.sliding_window_view(sound, FFT, axis=1)[:, ::HOP]
        spectrum = np.fft.rfft(frames * self._window)
        power = (spectrum.real**2 + spectrum.imag**2).mean(axis=0)
        below = np.pad(np.cumsum(power, axis=1), ((0, 0), (1, 0)))
        start, end = self._edges
        bands: Powers = (below[:, end] - below[:, start]) / (end - start)
        return bands

    def _add(self, frames: Powers) -> None:
        waiting = np.concatenate((self._frames, frames))
        while ready := min(len(waiting) // self._frames_per_column, 2 * COLUMNS - len(self._columns)):
            used = ready * self._frames_per_column
            columns = waiting[:used].reshape(ready, self._frames_per_column, BANDS).mean(axis=1)
            self._columns, waiting = np.concatenate((self._columns, columns)), waiting[used:]
            if len(self._columns) == 2 * COLUMNS:
                self._columns = self._columns.reshape(COLUMNS, 2, BANDS).mean(axis=1)
                self._frames_per_column *= 2
        self._frames = waiting


def _band_edges(sample_rate: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first bin of each band, and the one after its last. Bands are equally wide on a logarithmic scale; those that are
    narrower than a bin have the nearest one."""
    edges = np.round(np.geomspace(LOWEST_HZ, sample_rate / 2, BANDS + 1) * FFT / sample_rate).astype(np.int64)
    return edges[:-1], np.maximum(edges[1:], edges[:-1] + 1)


class SeparationPicture:
    """Draws the recording and its stems. Raises `MotetError` (unavailable) if the library that draws is not installed."""

    def __init__(self) -> None:
        try:
            self._figures = importlib.import_module("matplotlib.figure")
        except ImportError as error:
            cause = f"A picture needs a library that is not installed: {error}."
            raise fail("unavailable", cause, "Run: pip install --constraint constraints.txt 'motet[bench]'") from error
        self._spectrograms: dict[str, Spectrogram] = {}
        self._samples = 0
        self._rate = 0

    def push(self, sounds: Mapping[str, Samples], sample_rate: int) -> None:
        """Takes the next samples (channels, n) of the recording and its stems, by name; all have the same length."""
        self._rate = sample_rate
        self._samples += next(iter(sounds.values())).shape[-1]
        for name, samples in sounds.items():
            self._spectrograms.setdefault(name, Spectrogram(sample_rate)).push(samples)

    def save(self, file: BinaryIO) -> None:
        """Writes the picture as PNG. All parts have one scale of colours."""
        levels = {name: spectrogram.levels() for name, spectrogram in self._spectrograms.items()}
        loudest = max(float(each.max()) for each in levels.values())
        figure = self._figures.Figure(figsize=(11, 1 + 1.6 * len(levels)), layout="constrained")
        axes = figure.subplots(len(levels), 1, sharex=True, squeeze=False)[:, 0]
        for axis, (name, each) in zip(axes, levels.items(), strict=True):
            image = self._draw(axis, name, each, loudest)
        axes[-1].set_xlabel("seconds")
        figure.colorbar(image, ax=list(axes), label="dB below the loudest", fraction=0.03)
        figure.savefig(file, format="png", dpi=100)

    def _draw(self, axis: Any, name: str, levels: NDArray[np.float64], loudest: float) -> Any:
        low, high = np.log10(LOWEST_HZ), np.log10(self._rate / 2)
        ticks = [hertz for hertz in TICKS_HZ if hertz < self._rate / 2]
        axis.set_yticks([np.log10(hertz) for hertz in ticks], [f"{hertz} Hz" for hertz in ticks])
        axis.set_title(name, loc="left", fontsize="medium")
        return axis.imshow(
            levels - loudest,
            origin="lower",
            aspect="auto",
            extent=(0, self._samples / self._rate, low, high),
            vmin=-RANGE_DB,
            vmax=0,
            cmap="magma",
        )
