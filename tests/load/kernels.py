"""The kernels that full-size layers choose on this processor, and steps with them beside steps of one precision.

Layers have their published sizes; there are fewer of them, so that every variant is in memory at once. A step of each
variant is taken by turns, and times are the thread's own processor time, so that a busy machine disturbs less. `default` is
what a precision has without measuring.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from deployments.audio.test_tone import hum
from deployments.engines.lm.kernel_choice import KernelChoice, KernelSetting, choosing_for
from deployments.engines.lm.kernel_store import ChosenKernel
from deployments.engines.lm.kernel_timing import MOST_WEIGHTS
from deployments.engines.lm.linear import AnyPrecision, LinearSpec, Precision
from deployments.engines.protocols import EngineSpec, SpeechRequest, VoiceReference
from deployments.text.sample_sentences import SENTENCES
from serve_app.bench.frame import Figure, Report, Sheet, at_least, carry_out, interleaved, ratio, spread
from tests.load import voices_vibevoice
from tests.load.voice_runs import run_together
from tests.load.voices_vibevoice import POSITIONS, VibeVoiceContest

STREAMS = (1, 8)
MEASURED = "measured"
USUAL = "int8"
"""What the measured choice is compared with: the precision that a CPU is given."""
WORTH = 0.97

Variants = Mapping[str, Callable[[], float]]


@dataclass(frozen=True, slots=True)
class KernelModel:
    """A model's steps by name, each as its variants, and what was chosen."""

    name: str
    steps: Mapping[str, Variants]
    choice: KernelChoice


@dataclass(frozen=True, slots=True)
class KernelsPlan:
    """How much is measured, and the first `chunks` of how many streams of Sopro."""

    vibevoice: voices_vibevoice.VibeVoicesPlan
    chunks: tuple[int, ...]
    rounds: int


QUICK = KernelsPlan(replace(voices_vibevoice.FULL, layers=1, head_layers=1, solver_steps=3, depths=(1,) * 7), (1,), 5)
FULL = KernelsPlan(replace(voices_vibevoice.FULL, layers=4), STREAMS, 15)


def run(quick: bool) -> Report:
    """Measures both models on one thread, as a replica has by default."""
    plan = QUICK if quick else FULL
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    with ExitStack() as stack:
        models = [stack.enter_context(vibevoice(plan)), stack.enter_context(sopro(plan))]
        wanted = [figure for model in models for figure in _wanted(model)]
        return carry_out("kernels", wanted, partial(_measure, models=models, rounds=plan.rounds), quick=quick)


@contextmanager
def vibevoice(plan: KernelsPlan) -> Iterator[KernelModel]:
    """Its step of some streams."""
    fixed: tuple[AnyPrecision, ...] = ("float32", "bfloat16", "int8")
    with tempfile.TemporaryDirectory() as folder:
        contests: dict[str, VibeVoiceContest] = {
            precision: VibeVoiceContest(Path(folder), plan.vibevoice, precision, "cpu", kernels="default")
            for precision in fixed
        }
        contests[MEASURED] = VibeVoiceContest(Path(folder), plan.vibevoice, "int8", "cpu")
        choice = contests[MEASURED].choice
        assert choice is not None
        steps = {
            f"step of {count}": {
                name: partial(_seconds, partial(contest.engine.captured.step, contest.inputs(count), POSITIONS))
                for name, contest in contests.items()
            }
            for count in STREAMS
        }
        yield KernelModel("vibevoice", steps, choice)


class SoproSpeakers:
    """Our engine of a folder, and what it says."""

    def __init__(self, folder: Path, precision: Precision, kernels: KernelSetting) -> None:
        from deployments.engines.sopro.engine import SoproEngine, SoproOptions, networks_of
        from deployments.engines.sopro.text import SoproTokenizer

        options = SoproOptions(precision=precision, kernels=kernels, trim_silence=False)
        with torch.no_grad(), choosing_for(EngineSpec("sopro", str(folder), "cpu", 1), options) as self.choice:
            networks = networks_of(folder, options, "cpu")
        self.engine = SoproEngine(networks, SoproTokenizer.read(folder / "tokenizer.model"), folder, options, "cpu")
        self._clip = VoiceReference("bench", hum(24_000, 5.0), 24_000)

    def request(self, number: int) -> SpeechRequest:
        """One piece of text, spoken like the clip."""
        return SpeechRequest((SENTENCES[number],), self._clip.id, seed=number, reference=self._clip)

    def decoder_step(self, count: int) -> Callable[[], Any]:
        """One token for each of `streams` streams."""
        inputs = {
            "tokens": torch.arange(count),
            "positions": torch.full((count,), 200),
            "may_end": torch.zeros(count, dtype=torch.bool),
            "draws": torch.linspace(0.1, 0.9, count),
        }
        return partial(self.engine.captured.step, inputs, 256)


@contextmanager
def sopro(plan: KernelsPlan) -> Iterator[KernelModel]:
    """Its decoder's step, and the first chunk of sound of some streams."""
    from tests.load.sopro_package import write_random_model

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "sopro"
        write_random_model(folder, {"generation": {"max_seconds": 2.7, "min_seconds": 2.7}}, SENTENCES)
        fixed: tuple[Precision, ...] = ("float32", "int8")
        speakers: dict[str, SoproSpeakers] = {
            precision: SoproSpeakers(folder, precision, "default") for precision in fixed
        }
        measured = SoproSpeakers(folder, "int8", "measured")
        assert measured.choice is not None
        every: dict[str, SoproSpeakers] = {**speakers, MEASURED: measured}
        for one in every.values():
            run_together(one, 1, chunks=1)  # the clip is heard once
        steps: dict[str, Variants] = {}
        for count in STREAMS:
            decoders = {name: one.decoder_step(count) for name, one in every.items()}
            steps[f"decoder's step of {count}"] = {name: partial(_seconds, step) for name, step in decoders.items()}
        for count in plan.chunks:
            steps[f"first chunk of {count}"] = {
                name: partial(_seconds, partial(run_together, one, count, chunks=1)) for name, one in every.items()
            }
        yield KernelModel("sopro", steps, measured.choice)


def _seconds(function: Callable[[], Any]) -> float:
    """Of this thread, which is the only one."""
    started = time.thread_time()
    function()
    return time.thread_time() - started


def _wanted(model: KernelModel) -> list[Figure]:
    figures = [Figure(f"{model.name}, measuring", "s")]
    for step in model.steps:
        figures.append(Figure(f"{model.name}, {step}", "ms"))
        figures.append(Figure(f"{model.name}, {step} against the best precision", "x", at_least(WORTH)))
        figures.append(Figure(f"{model.name}, {step} against the default", "x", at_least(WORTH)))
    return [*figures, *(Figure(name, "GOP/s") for name, _, _, _ in _rates(model))]


def _rates(model: KernelModel) -> Iterator[tuple[str, LinearSpec, ChosenKernel, int]]:
    """Every measured layer with each of its numbers of rows."""
    for spec, chosen in sorted(model.choice.chosen.items(), key=lambda entry: (entry[0].inputs, entry[0].outputs)):
        permitted = "" if spec.precision == USUAL else f" ({spec.precision})"
        usual = "" if spec.usual.startswith(spec.precision) else f" usually {spec.usual}"
        used = "/".join(f"{count}" for count, _ in spec.rows)
        for count, _ in spec.rows if chosen.milliseconds else ():
            yield f"{model.name} {spec.shape}{permitted}{usual}, {count} of {used} rows", spec, chosen, count


def _measure(sheet: Sheet, models: Sequence[KernelModel], rounds: int) -> None:
    for model in models:
        sheet.put(f"{model.name}, measuring", model.choice.seconds_spent, f"{model.choice.measured} layers' shapes")
        for name, variants in model.steps.items():
            with sheet.measuring(f"{model.name}, {name}"), torch.no_grad():
                _measure_step(sheet, f"{model.name}, {name}", variants, rounds)
        for name, spec, chosen, count in _rates(model):
            sheet.put(name, *_rate(spec, chosen, count))


def _measure_step(sheet: Sheet, name: str, variants: Variants, rounds: int) -> None:
    for variant in variants.values():
        variant()
    times = interleaved(variants, rounds)
    best = min((other for other in times if other != MEASURED), key=lambda other: spread(times[other]).p50)
    notes = ", ".join(f"{other} {1000 * spread(values).p50:.3g}" for other, values in times.items())
    sheet.put(name, 1000 * spread(times[MEASURED]).p50, notes)
    for against, other in (("best precision", best), ("default", USUAL)):
        gain = ratio(times[other], times[MEASURED])
        sheet.put(f"{name} against the {against}", gain.p50, f"{other}; {gain}")


def _rate(spec: LinearSpec, chosen: ChosenKernel, count: int) -> tuple[float, str]:
    """The chosen kernel's rate, and all others' in words."""
    operations = 2 * count * spec.inputs * max(1, min(spec.outputs, MOST_WEIGHTS // spec.inputs))
    rates = {kernel: operations / of[f"{count}"] / 1e6 for kernel, of in chosen.milliseconds.items()}
    gain = rates[chosen.kernel] / rates[spec.usual]
    others = ", ".join(f"{kernel} {rate:.3g}" for kernel, rate in rates.items())
    return rates[chosen.kernel], f"{chosen.kernel}, {gain:.2f}x {spec.usual}; {others}"
