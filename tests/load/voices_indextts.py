"""IndexTTS's language model at full size beside its own package: the same weights, texts, sampling and machine, in turn.

The package serves one text at a time, with three beams unless told otherwise; our engine says several as one batch, with one
beam as the package's own fast decoder does. Weights are seeded random numbers that never end a text, so that every text has
as many codes as 100 characters usually last. The networks behind the language model are small here: their work is in our
times and not in the package's. Both use as many threads.
"""

from __future__ import annotations

import ctypes
import gc
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from safetensors.torch import save_file
from torch import Tensor

from deployments.engines.indextts import package_networks
from deployments.engines.indextts.config import CODES_PER_SECOND, IndexDecoderConfig, read
from deployments.engines.indextts.decoder import IndexDecoder
from deployments.engines.indextts.text import IndexTextReader
from deployments.engines.lm.checkpoint import shape_of
from deployments.engines.lm.linear import Precision
from deployments.engines.lm.runaway import RunawayLimits
from deployments.engines.lm.sampler import NEVER
from deployments.engines.protocols import AudioChunk, SpeechRequest
from deployments.tasks.speech import CHARACTERS_PER_SECOND
from deployments.text.sample_sentences import LONG_TEXT
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out, interleaved, ratio, spread
from tests.load import indextts_package, voices_soak
from tests.load.indextts_package import FULL, Shape, merged

CHARACTERS = 100
CODES = round(CHARACTERS / CHARACTERS_PER_SECOND * CODES_PER_SECOND)
TOGETHER = (4, 8)
BEAMS = {"package": 3, "package with one beam": 1}
BEST: Precision = "int8"
OURS: Mapping[str, tuple[Precision, int]] = {
    f"{precision}, {count} at once": (precision, count) for precision in (BEST, "float32") for count in TOGETHER
}
TARGETS = {4: 3.8, 8: 6.0}

SMALL_SOUND: Shape = {
    # The vocabulary is that of the texts, and what hears emotions is small as well. The decoder is as large as ever.
    "gpt": {
        "number_text_tokens": 4096,
        "emo_condition_module": {"output_size": 32, "linear_units": 32, "attention_heads": 2, "num_blocks": 1},
    },
    "semantic_codec": {"vocos_dim": 32, "vocos_intermediate_dim": 32, "vocos_num_layers": 1},
    "s2mel": {
        "length_regulator": {"channels": 32, "content_codebook_size": 8},
        "DiT": {"hidden_dim": 32, "num_heads": 2, "depth": 3, "content_dim": 32, "content_codebook_size": 8},
        "wavenet": {"hidden_dim": 32, "num_layers": 1},
    },
    "bigvgan": {
        "upsample_rates": [16, 16],
        "upsample_kernel_sizes": [32, 32],
        "upsample_initial_channel": 16,
        "resblock_kernel_sizes": [3],
        "resblock_dilation_sizes": [[1, 3]],
    },
    "w2v_bert": {"num_hidden_layers": 1, "intermediate_size": 32},
}


@dataclass(frozen=True, slots=True)
class IndexVoicesPlan:
    """How much is measured: `codes` of every text, in so many rounds; `ours` are our settings."""

    codes: int
    rounds: int
    ours: Mapping[str, tuple[Precision, int]]


QUICK = IndexVoicesPlan(8, 2, {name: setting for name, setting in OURS.items() if setting != ("float32", 8)})
FULL_PLAN = IndexVoicesPlan(CODES, 2, OURS)


@dataclass(frozen=True, slots=True)
class Served:
    """Requests that came together: seconds until each was done."""

    seconds: tuple[float, ...]
    codes: int

    @property
    def rate(self) -> float:
        """Codes in a second."""
        return self.codes * len(self.seconds) / max(self.seconds)

    @property
    def mean_latency(self) -> float:
        """Seconds."""
        return float(np.mean(self.seconds))

    def queued(self, requests: int) -> Served:
        """As many requests that came together, when each is served alone, after those before it, as this one was."""
        (alone,) = self.seconds
        return Served(tuple(alone * place for place in range(1, requests + 1)), self.codes)


def run(quick: bool, soak_minutes: float = 0.0) -> Report:
    """Measures IndexTTS; with `soak_minutes`, only how its memory grows under load for so long."""
    plan = QUICK if quick else FULL_PLAN

    def carried_out(sheet: Sheet) -> None:
        with tempfile.TemporaryDirectory() as place:
            if soak_minutes:
                contest = IndexContest(Path(place) / "model", CODES)
                contest.build(BEST)
                voices_soak.soak(sheet, contest, soak_minutes)
            else:
                measure(sheet, Path(place) / "model", plan)

    figures = voices_soak.SOAK if soak_minutes else wanted(plan)
    return carry_out("voices of indextts", figures, carried_out, quick=quick)


class IndexContest:
    """Our engine in both precisions, and the package's language model, on the same weights."""

    def __init__(self, folder: Path, codes: int, shape: Shape | None = None) -> None:
        """`shape` is for a smaller model."""
        self.codes = codes
        self.shape = merged(merged(FULL, SMALL_SOUND), shape or {})
        write_small(folder, self.shape)
        self._folder, self._config = (
            folder,
            replace(read(folder), decoder=shape_of(IndexDecoderConfig, self.shape["gpt"])),
        )
        self.weights = package_networks.weights_of(folder, "gpt", "cpu") | indextts_package.random_decoder(
            self._config.decoder
        )
        self.weights["mel_head.bias"][self._config.decoder.stop_mel_token] = NEVER
        self._reader = IndexTextReader(folder, self._config.decoder.max_text_tokens)
        self.engines: dict[Precision, Any] = {}
        self._package: Any = None

    def build_package(self) -> None:
        """Its language model takes the weights themselves."""
        self._package = indextts_package.package_decoder(self.shape, self.weights)

    def build(self, precision: Precision) -> None:
        """Our engine. It has its own weights of the language model's layers; all else is shared."""
        from deployments.engines.indextts.engine import IndexEngine, IndexOptions

        options = IndexOptions(
            precision=precision,
            most_codes=self.codes,
            solver_steps=1,
            runaway=RunawayLimits(most_seconds_besides=60),
        )
        with torch.no_grad():
            networks = self._networks(options, IndexDecoder(self.weights, self._config.decoder, precision))
            self.engines[precision] = IndexEngine(self._folder, networks, options, "cpu")

    def _networks(self, options: Any, decoder: IndexDecoder) -> Any:
        from deployments.engines.indextts.emotions import EmotionTable
        from deployments.engines.indextts.engine import IndexNetworks, sound_of

        if self.engines:
            return replace(self.engine.networks, decoder=decoder)
        table = package_networks.weights_of(self._folder, "statistics", "cpu")
        return IndexNetworks(
            config=self._config,
            decoder=decoder,
            front=package_networks.front_of(self._config, self.weights),
            sound=sound_of(self._folder, self._config, options, "cpu"),
            emotions=EmotionTable(table["emotions"], table["speakers"], self._config.emotions),
        )

    @property
    def engine(self) -> Any:
        """The one that serves best here."""
        return self.engines[BEST]

    def request(self, number: int) -> SpeechRequest:
        """A text of 100 characters; the package's text of the same number is the same."""
        return SpeechRequest((text(number),), self.engine.traits.default_voice, seed=number)

    def together(self, precision: Precision, count: int) -> Served:
        """Ours, as one batch."""
        engine, started = self.engines[precision], time.perf_counter()
        utterances = [engine.open(self.request(number)) for number in range(count)]
        done = [0.0] * count
        while live := [number for number in range(count) if not utterances[number].finished]:
            for result in engine.step([utterances[number] for number in live]):
                _good(result)
            now = time.perf_counter() - started
            done = [now if number in live else before for number, before in enumerate(done)]
        return Served(tuple(done), self.codes)

    def alone(self, beams: int) -> Served:
        """One text of the package's, with its usual settings but for the number of beams."""
        started = time.perf_counter()
        codes = self._said(0, beams)
        assert codes.shape[1] == self.codes, f"the package said {codes.shape[1]} codes instead of {self.codes}"
        return Served((time.perf_counter() - started,), self.codes)

    def _said(self, number: int, beams: int) -> Tensor:
        voice, language = self.engine.voice_of(self.request(number))
        torch.manual_seed(number)
        with torch.no_grad():
            codes: Tensor = self._package.inference_speech(
                torch.tensor([self._reader.encode(text(number), language)]),
                torch.tensor([self._reader.language(language)]),
                voice.emotion[None],
                voice.style[None],
                max_generate_length=self.codes,
                do_sample=True,
                top_p=0.8,
                top_k=30,
                temperature=0.8,
                length_penalty=0.0,
                num_beams=beams,
                repetition_penalty=10.0,
            )
        return codes


def write_small(folder: Path, shape: Shape) -> None:
    """A folder with everything but the language model's layers, which are drawn in memory, and one voice."""
    indextts_package.write_random_model(folder, merged(shape, {"gpt": {"layers": 0}}), hears=False, text=LONG_TEXT)
    (folder / "voices").mkdir()
    random = torch.Generator().manual_seed(1)
    heard = {
        "style": torch.randn(package_networks.STYLE_SIZE, generator=random),
        "features": torch.randn(50, 1024, generator=random),
        "mel": torch.randn(80, 86, generator=random) - 4,
    }
    save_file(heard, folder / "voices" / "bench.safetensors")


def text(number: int) -> str:
    """100 characters of the long text."""
    whole = " ".join(LONG_TEXT.split())
    start = number * CHARACTERS % (len(whole) - CHARACTERS)
    return whole[start : start + CHARACTERS]


def _good(result: AudioChunk | Exception) -> AudioChunk:
    if isinstance(result, Exception):
        raise result
    return result


class MemoryWatch:
    """How much more memory of its own the process has than before the `with` block: `bytes` at its end, `peak_bytes` at most
    inside."""

    def __enter__(self) -> MemoryWatch:
        give_back()
        self._before = self._highest = own_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.look()

    def look(self) -> None:
        """Takes notice of what the process has now; a thread does so all the time."""
        self._highest = max(self._highest, own_bytes())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        give_back()
        self.bytes = own_bytes() - self._before
        self.peak_bytes = max(self._highest - self._before, self.bytes)


def give_back() -> None:
    """Gives the system what the allocator has kept of freed memory, where it can: on Linux."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def own_bytes() -> int:
    """Memory that no file stands behind."""
    info = psutil.Process(os.getpid()).memory_info()
    return int(info.rss - getattr(info, "shared", 0))


def wanted(plan: IndexVoicesPlan) -> list[Figure]:
    """The figures of the contest."""
    figures = [Figure(name, "codes/s") for name in (*BEAMS, *plan.ours)]
    for name, (precision, count) in plan.ours.items():
        target = at_least(TARGETS[count]) if precision == BEST else None
        figures.append(Figure(f"{name}, against the package", "x", target))
        figures.append(Figure(f"{name}, against one beam", "x"))
    figures += [
        Figure("mean latency of 4, package", "s"),
        Figure(f"mean latency of 4, {BEST}", "s"),
        Figure(f"mean latency of 4, {BEST} against the package", "%", at_most(-60)),
        Figure("memory, package", "MB"),
        Figure(f"memory, {BEST}, 1 at a time", "MB"),
        Figure(f"memory, {BEST}, 4 at once", "MB"),
        Figure("memory of 4 at once against 1 at a time", "%"),
        Figure("memory of 4 at once against the package", "%", at_most(10)),
    ]
    return figures


def measure(sheet: Sheet, folder: Path, plan: IndexVoicesPlan, shape: Shape | None = None) -> None:
    """Fills in the figures."""
    contest = IndexContest(folder, plan.codes, shape)
    with sheet.measuring("memory"):
        _measure_memory(sheet, contest)
    with sheet.measuring("speed"):
        contest.build("float32")
        _measure_speed(sheet, contest, plan)


def _measure_memory(sheet: Sheet, contest: IndexContest) -> None:
    """Of each side alone, while it speaks. What both use is counted for both."""
    shared = sum(tensor.nbytes for name, tensor in contest.weights.items() if not name.startswith(OWN_WEIGHTS))
    with MemoryWatch() as built:
        contest.build(BEST)
    with MemoryWatch() as one:
        contest.together(BEST, 1)
    with MemoryWatch() as four:
        contest.together(BEST, 4)
    with MemoryWatch() as package:
        contest.build_package()
    with MemoryWatch() as spoken:
        contest.alone(BEAMS["package"])
    single = shared + built.bytes + one.peak_bytes
    together = shared + built.bytes + one.bytes + four.peak_bytes
    theirs = sum(tensor.nbytes for tensor in contest.weights.values()) + package.bytes + spoken.peak_bytes
    sheet.put("memory, package", theirs / 1e6, "one at a time, three beams")
    sheet.put(f"memory, {BEST}, 1 at a time", single / 1e6)
    sheet.put(f"memory, {BEST}, 4 at once", together / 1e6)
    sheet.put("memory of 4 at once against 1 at a time", 100 * (together / single - 1), f"{contest.codes} codes a text")
    sheet.put("memory of 4 at once against the package", 100 * (together / theirs - 1))


OWN_WEIGHTS = ("gpt.h.", "mel_head.weight")
"""Of these our engine has copies in its own precision."""


def _measure_speed(sheet: Sheet, contest: IndexContest, plan: IndexVoicesPlan) -> None:
    served: dict[str, list[Served]] = {}

    def kept(name: str, serve: Callable[[], Served]) -> float:
        served.setdefault(name, []).append(serve())
        return served[name][-1].rate

    variants = {name: partial(contest.alone, beams) for name, beams in BEAMS.items()}
    variants |= {name: partial(contest.together, *setting) for name, setting in plan.ours.items()}
    rates = interleaved({name: partial(kept, name, serve) for name, serve in variants.items()}, plan.rounds)
    threads = torch.get_num_threads()
    note = f"{threads} threads, {plan.codes} codes a text"
    for name, values in rates.items():
        sheet.put(name, spread(values).p50, f"{spread(values)}, {note}")
    for name in plan.ours:
        for rival, short in (("package", "the package"), ("package with one beam", "one beam")):
            gain = ratio(rates[name], rates[rival])
            sheet.put(f"{name}, against {short}", gain.p50, str(gain))
    _put_latency(sheet, served["package"], served[f"{BEST}, 4 at once"])


def _put_latency(sheet: Sheet, theirs: Sequence[Served], ours: Sequence[Served]) -> None:
    queue = [served.queued(4).mean_latency for served in theirs]
    batch = [served.mean_latency for served in ours]
    sheet.put("mean latency of 4, package", spread(queue).p50, "one was measured; each waits for those before it")
    sheet.put(f"mean latency of 4, {BEST}", spread(batch).p50)
    change = [100 * (mine / other - 1) for mine, other in zip(batch, queue, strict=True)]
    sheet.put(f"mean latency of 4, {BEST} against the package", spread(change).p50, str(spread(change)))
