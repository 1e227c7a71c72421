"""Whisper's network on CTranslate2: encodes, generates and aligns, in batches of the size that suits the device."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ctranslate2
import numpy as np
import tokenizers
from faster_whisper.feature_extractor import FeatureExtractor
from numpy.typing import NDArray

from deployments.engines.protocols import Samples

FRAME = 160
"""Samples of a frame of the spectrogram: 10 ms at 16 kHz."""
MEL_FRAMES = 3000
"""Frames of 10 ms in the 30 s that the encoder takes at most."""
MARGIN_FRAMES = 200
"""Frames of silence after the sound. The cost of a hearing is about proportional to its padded length. Measured with Whisper
tiny.en on clips of 5 s in pink noise (two minutes): with 1, 1.5 and 2 s of silence 3.8, 3.4 and 3.0 % wrong words, and 2.7 %
at 30 s, which takes 2.5 times as long. With half a second, Whisper base repeated itself in
one clip of eight."""
GRID_FRAMES = 250
"""The encoder takes multiples of this, so that windows of about the same length share batches, and a window has the same
length in every batch."""
LEAST_SHORTER = 2500
"""Windows that would be longer with their margin are padded to 30 s."""
DYNAMIC_RANGE = 2.0
"""The log-mel spectrogram is clipped this far below its maximum: 80 dB, in units of 40 dB."""

States = NDArray[Any]
"""Encoder output of one window: (n, width), a state for each 20 ms of its padded length."""
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Batching:
    """How a device is used: `workers` batches at once, and the number of windows in a batch of the encoder and of the
    decoder."""

    compute_type: str
    workers: int
    encoder_windows: int
    decoder_windows: int


def on_cpu(threads: int) -> Batching:
    """A worker for each thread; the encoder takes windows one by one.

    Measured on two cores (AMD EPYC), Whisper base in int8, windows of 30 s: the encoder takes 0.50 s for a window alone and
    0.65 s for each of a batch of 8, because a batch does not fit the cache. The decoder (beam 5) takes 0.82 s alone, 0.58 s
    for each of 4, and 0.53 s for each of 16. Two workers of one thread are 1.4 times as fast as one of two threads. With two
    windows a worker a step takes about 2.4 s, and a newcomer does not wait longer.
    """
    return Batching("int8", workers=threads, encoder_windows=1, decoder_windows=2)


def on_cuda(threads: int) -> Batching:
    """One batch for all: a GPU is faster the larger its batches are."""
    return Batching("float16", workers=1, encoder_windows=16, decoder_windows=16)


BATCHINGS: Mapping[str, Callable[[int], Batching]] = {"cpu": on_cpu, "cuda": on_cuda}


class CTranslate2Whisper:
    """The network of a CTranslate2 folder. Its methods may be called from several threads."""

    def __init__(self, folder: Path, device: str, batching: Batching) -> None:
        self.batching = batching
        self._model = ctranslate2.models.Whisper(
            str(folder),
            device=device,
            compute_type=batching.compute_type,
            inter_threads=batching.workers,
            intra_threads=1,
        )
        self._pool = ThreadPoolExecutor(batching.workers, thread_name_prefix="whisper")
        self._features = FeatureExtractor(feature_size=self._model.n_mels)
        self.multilingual = bool(self._model.is_multilingual)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))

    def encode(self, sounds: Sequence[Samples]) -> list[States]:
        """The encoder's states for mono sounds (n,) at 16 kHz of up to 30 s. Those of one padded length share batches."""
        size = self.batching.encoder_windows
        groups = grouped(range(len(sounds)), lambda at: padded_frames(len(sounds[at])))
        batches = [group[at : at + size] for group in groups for at in range(0, len(group), size)]
        encoded = self._pool.map(self._encode, [[sounds[at] for at in batch] for batch in batches])
        return in_order(zip(batches, encoded, strict=True))

    def _encode(self, sounds: Sequence[Samples]) -> list[States]:
        frames = max(padded_frames(len(samples)) for samples in sounds)
        spectrograms = np.stack([self.spectrogram(samples, frames) for samples in sounds])
        # The states go through the host's memory, so windows can be combined into other batches: 61 MB for 16 windows of the
        # largest Whisper, some 10 ms on a GPU.
        return list(np.asarray(self._model.encode(_view(spectrograms), to_cpu=True)))

    def spectrogram(self, samples: Samples, length: int) -> NDArray[np.float32]:
        """The log-mel spectrogram (bands, length) of the sound and the silence that follows it.

        Silence has the lowest value of the spectrogram, as in training (openai/whisper pads the sound). faster-whisper pads
        with 0, which is the loudness of speech.
        """
        frames = self._features(samples, padding=self._features.hop_length)[:, :-1][:, :length]
        padded = np.full((len(frames), length), frames.max() - DYNAMIC_RANGE, np.float32)
        padded[:, : frames.shape[1]] = frames
        return padded

    def for_each_batch(self, lengths: Sequence[int], work: Callable[[Sequence[int]], Sequence[Result]]) -> list[Result]:
        """Calls `work` with positions of windows, one decoder batch a worker at a time, and returns the results in order.

        `lengths` are in samples. Windows of one padded length share batches, and all batches take about as long.
        """
        batches = list[list[int]]()
        for group in grouped(range(len(lengths)), lambda at: padded_frames(lengths[at])):
            count = max(min(self.batching.workers, len(group)), -(-len(group) // self.batching.decoder_windows))
            longest_first = sorted(group, key=lambda position: -lengths[position])
            batches += [longest_first[first::count] for first in range(count)]
        batches.sort(key=lambda batch: -sum(lengths[position] for position in batch))
        return in_order(zip(batches, self._pool.map(work, batches), strict=True))

    def languages(self, states: Sequence[States]) -> list[tuple[str, float]]:
        """The most probable language of each window, as a two-letter code, and its probability."""
        found = self._model.detect_language(_view(np.stack(states)))
        return [(names[0][0].strip("<|>"), float(names[0][1])) for names in found]

    def generate(self, states: Sequence[States], prompts: Sequence[Sequence[int]], **options: Any) -> list[Any]:
        """A generation result for each window. All prompts must have the same length."""
        results: list[Any] = self._model.generate(
            _view(np.stack(states)),
            [list(prompt) for prompt in prompts],
            return_scores=True,
            return_no_speech_prob=True,
            **options,
        )
        return results

    def align(
        self, states: Sequence[States], start: Sequence[int], tokens: Sequence[Sequence[int]], frames: Sequence[int]
    ) -> list[Any]:
        """For each window, the states that its `tokens` attend to, and their probabilities. `frames` are those of the sound,
        of 10 ms."""
        found: list[Any] = self._model.align(
            _view(np.stack(states)), list(start), [list(each) for each in tokens], list(frames)
        )
        return found


def padded_frames(samples: int) -> int:
    """The number of encoder input frames for a sound of `samples` samples at 16 kHz."""
    frames = -(-samples // FRAME) + MARGIN_FRAMES
    return MEL_FRAMES if frames > LEAST_SHORTER else -(-frames // GRID_FRAMES) * GRID_FRAMES


def grouped(positions: Iterable[int], key: Callable[[int], int]) -> list[list[int]]:
    """The positions with equal keys together."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for position in positions:
        groups[key(position)].append(position)
    return list(groups.values())


def in_order(batches: Iterable[tuple[Sequence[int], Sequence[Result]]]) -> list[Result]:
    """The results of batches of positions, by position."""
    results = {at: result for batch, part in batches for at, result in zip(batch, part, strict=True)}
    return [results[at] for at in range(len(results))]


def _view(array: NDArray[Any]) -> ctranslate2.StorageView:
    return ctranslate2.StorageView.from_array(np.ascontiguousarray(array))
