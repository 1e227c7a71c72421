"""VibeVoice's step at full size with random weights: recorded against plain, a batch against single steps, and streams.

The sizes are those of the published 1.5B model; only its vocabulary's table is cut, of which a step reads a row. Every frame
is made to be a sound, so all streams last as long. The quick run has the same parts with fewer layers: its ratios are not
those of the model.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deployments.audio.hum import hum
from deployments.engines.base import EngineSpec, SpeechRequest, VoiceReference
from deployments.engines.lm.kernel_choice import KernelSetting, choosing_for
from deployments.engines.lm.linear import AnyPrecision
from deployments.engines.vibevoice.config import VibeVoiceConfig, config_of
from deployments.engines.vibevoice.engine import VibeVoiceEngine, VibeVoiceOptions, networks_of
from deployments.engines.vibevoice.text import Script
from deployments.graphs import Bucket, CapturedStep, backend_for, on_device
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out, interleaved, ratio, spread
from serve_app.bench.random_weights import RandomWeights, tokenizer
from serve_app.bench.sentences import SENTENCES
from serve_app.bench.voices import SOAK, THREADS, most_megabytes, run_together, soak, using_threads

ROWS = 300
AUDIO, BEGIN, END, STOP = 290, 291, 292, 293
POSITIONS = 256
ARTICLE = {
    "32 streams, ended a second": "the article, one 24 GB card: 18.7 plain, 22.8 recorded",
    "1 streams, first audio p95": "the article: 320 ms plain, 310 ms recorded (latency of one)",
    "32 streams, first audio p95": "the article: 420 ms plain, 380 ms recorded (the service's response)",
    "memory": "the article: recorded steps take 4 % less",
}
"""What "CUDA Graphs for streaming TTS" reports of VibeVoice; printed beside ours, whatever this machine is."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured, and of how large a model. `seconds` is how long each stream speaks; the steps of so many streams
    are `recorded`, each of which takes a compiler minutes at full size."""

    layers: int
    head_layers: int
    solver_steps: int
    filters: int
    ratios: tuple[int, ...]
    depths: tuple[int, ...]
    seconds: float
    rounds: int
    streams: tuple[int, ...]
    recorded: tuple[int, ...]


QUICK = Plan(4, 1, 3, 64, (40, 80), (1, 1, 1), 0.8, 8, (1, 8), (8,))
FULL = Plan(28, 4, 10, 32, (2, 2, 4, 5, 5, 8), (3, 3, 3, 3, 3, 3, 8), 2.0, 5, (1, 8), (1, 8))


def sizes(plan: Plan) -> dict[str, Any]:
    """A `config.json` of the 1.5B model, with the plan's layers."""
    codec = {
        "num_filters": plan.filters,
        "kernel_size": 7,
        "downsampling_ratios": list(plan.ratios),
        "depths": list(plan.depths),
        "rms_norm_eps": 1e-5,
    }
    return {
        "text_config": {
            "model_type": "qwen2",
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": plan.layers,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "rms_norm_eps": 1e-6,
            "vocab_size": ROWS,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
        "audio_config": {"model_type": "vibevoice_acoustic_tokenizer", "hidden_size": 64, **codec},
        "semantic_model_config": {"model_type": "vibevoice_acoustic_tokenizer_encoder", "hidden_size": 128, **codec},
        "diffusion_head_config": {
            "hidden_size": 1536,
            "latent_size": 64,
            "num_hidden_layers": plan.head_layers,
            "intermediate_size": 4608,
            "rms_norm_eps": 1e-5,
            "frequency_embedding_size": 256,
            "diffusion_max_period": 10_000,
        },
        "audio_token_id": AUDIO,
        "audio_bos_token_id": BEGIN,
        "audio_eos_token_id": END,
        "eos_token_id": STOP,
    }


def shapes(values: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of such a model, by its name in the Hugging Face layout."""
    from transformers import VibeVoiceConfig as TheirConfig
    from transformers import VibeVoiceForConditionalGeneration

    with torch.device("meta"):
        model = VibeVoiceForConditionalGeneration(TheirConfig(**values))
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


class VibeVoiceContest:
    """Our engine at the plan's size; every frame is a sound."""

    def __init__(
        self, folder: Path, plan: Plan, precision: AnyPrecision, device: str, kernels: KernelSetting = "measured"
    ) -> None:
        values = sizes(plan)
        config = config_of(values, {"guidance_scale": 1.3}, {})
        frames = int(plan.seconds * config.frame_rate)
        options = VibeVoiceOptions(
            precision=precision,
            chunk_frames=1,
            longest_prompt=POSITIONS - frames,
            most_seconds=plan.seconds,
            solver_steps=plan.solver_steps,
            kernels=kernels,
        )
        spec = EngineSpec("vibevoice", str(folder), device, torch.get_num_threads())
        with on_device(device), choosing_for(spec, options) as self.choice:
            networks = networks_of(RandomWeights(shapes(values), device=device), config, options)
        networks.ends.zero_()  # nothing is likelier than the first choice, which is a sound
        self.engine = VibeVoiceEngine(networks, Script(tokenizer(), config), folder, options, device)
        self._clip = VoiceReference("bench", hum(24_000, 5.0), 24_000)

    def request(self, number: int) -> SpeechRequest:
        """One piece of text, spoken like the clip."""
        text = SENTENCES[number % len(SENTENCES)][:100]
        return SpeechRequest((text,), self._clip.id, seed=number, reference=self._clip)

    def inputs(self, streams: int) -> dict[str, Tensor]:
        """Of one step, in the middle of a text."""
        config: VibeVoiceConfig = self.engine.config
        random = torch.Generator(device="cpu").manual_seed(streams)
        with on_device(self.engine.device):
            return {
                "embedding": torch.randn(streams, config.language.dim, generator=random, device="cpu").to(self.device),
                "positions": torch.full((streams,), 200),
                "free_positions": torch.full((streams,), 60),
                "noise": torch.randn(streams, config.head.latent, generator=random, device="cpu").to(self.device),
                "state": torch.zeros(streams, self.engine.networks.state_size),
            }

    @property
    def device(self) -> str:
        """Where it runs."""
        return self.engine.device


def run(
    quick: bool,
    soak_minutes: float = 0.0,
    streams: tuple[int, ...] | None = None,
    captured: bool = True,
    precision: AnyPrecision | None = None,
    device: str = "cpu",
) -> Report:
    """Measures the step and so many `streams`; with `soak_minutes`, only how memory grows under load for so long. The
    precision is the one that suits the device, unless it is given."""
    precision = precision or ("int8" if device == "cpu" else "bfloat16")
    plan = QUICK if quick else FULL
    counts = streams or plan.streams

    def measure(sheet: Sheet) -> None:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            contest = VibeVoiceContest(Path(folder), plan, precision, device)
            if soak_minutes:
                soak(sheet, contest, soak_minutes)
            else:
                sheet.put("building the model", time.perf_counter() - started, f"{plan.layers} layers, {precision}")
                _measure(sheet, contest, plan, counts, captured)

    wanted = SOAK if soak_minutes else _wanted(plan, counts, captured)
    return carry_out("voices of vibevoice", wanted, measure, quick=quick)


def _steps(counts: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({1, 8, *counts}))


def _recorded(plan: Plan, counts: tuple[int, ...], captured: bool) -> tuple[int, ...]:
    """Which steps are recorded: the plan's, and those of every batch that was asked for."""
    return tuple(sorted({*plan.recorded, *(count for count in counts if count > 1)})) if captured else ()


def _wanted(plan: Plan, counts: tuple[int, ...], captured: bool) -> list[Figure]:
    figures, recorded = [Figure("building the model", "s"), Figure("threads", "")], _recorded(plan, counts, captured)
    for count in _steps(counts):
        figures.append(Figure(f"step of {count}, plain", "ms"))
        if count in recorded:
            figures.append(Figure(f"step of {count}, recorded", "ms"))
            figures.append(Figure(f"recorded against plain, {count}", "x", at_least(1.22) if count == 8 else None))
            figures.append(Figure(f"recorded differs from plain, {count}", "% of level", at_most(5)))
    figures.append(Figure("a step of 8 against 8 of one", "x", at_least(4) if plan is FULL else None))
    for count in counts:
        figures.append(Figure(f"{count} streams", "audio s/s"))
        figures.append(Figure(f"{count} streams, ended a second", "1/s"))
        figures.append(Figure(f"{count} streams, first audio p95", "ms"))
    return [*figures, Figure("memory", "MB")]


def _measure(sheet: Sheet, contest: VibeVoiceContest, plan: Plan, counts: tuple[int, ...], captured: bool) -> None:
    with sheet.measuring("how many threads"):
        threads = _best_threads(contest)
        sheet.put("threads", threads)
    with using_threads(threads), torch.no_grad():
        with sheet.measuring("the step"):
            _measure_steps(sheet, contest, plan, _steps(counts), _recorded(plan, counts, captured))
        with sheet.measuring("streams side by side"):
            _measure_streams(sheet, contest, counts)
    sheet.put("memory", _megabytes(contest.device), ARTICLE["memory"])


def _best_threads(contest: VibeVoiceContest) -> int:
    """How many make a plain step of eight fastest, of three each."""
    inputs = contest.inputs(8)

    def seconds(threads: int) -> float:
        with using_threads(threads), torch.no_grad():
            return _seconds(partial(contest.engine.captured.step, inputs, POSITIONS), contest.device)

    seconds(1)
    times = interleaved({f"{threads}": partial(seconds, threads) for threads in THREADS}, rounds=3)
    return min(THREADS, key=lambda threads: min(times[f"{threads}"]))


def _measure_steps(
    sheet: Sheet, contest: VibeVoiceContest, plan: Plan, counts: tuple[int, ...], recorded: tuple[int, ...]
) -> None:
    step = contest.engine.captured
    step.batches, step.lengths = counts, (POSITIONS,)
    step.backend = backend_for(contest.device) if recorded else None
    variants: dict[str, Callable[[], float]] = {}
    for count in counts:
        inputs = contest.inputs(count)
        plain, replayed = partial(step.step, inputs, POSITIONS), partial(step, inputs, POSITIONS)
        variants[f"{count} plain"] = partial(_seconds, plain, contest.device)
        if count in recorded:
            _capture(sheet, step, count)
            sheet.put(f"recorded differs from plain, {count}", _difference(contest, plain(), replayed().clone()))
            variants[f"{count} recorded"] = partial(_seconds, replayed, contest.device)
    times = interleaved(variants, plan.rounds)
    for count in counts:
        sheet.put(f"step of {count}, plain", 1000 * spread(times[f"{count} plain"]).p50)
        if count in recorded:
            gain = ratio(times[f"{count} plain"], times[f"{count} recorded"])
            sheet.put(f"step of {count}, recorded", 1000 * spread(times[f"{count} recorded"]).p50)
            sheet.put(f"recorded against plain, {count}", gain.p50, str(gain))
    kind = "recorded" if {1, 8} <= {*recorded} else "plain"
    gain = ratio([8 * seconds for seconds in times[f"1 {kind}"]], times[f"8 {kind}"])
    sheet.put("a step of 8 against 8 of one", gain.p50, f"{gain}; both {kind}")


def _capture(sheet: Sheet, step: CapturedStep, count: int) -> None:
    with sheet.measuring(f"recording the step of {count}"):
        if not step.capture(Bucket(count, POSITIONS)):
            raise RuntimeError(step.counts.last_failure)


def _difference(contest: VibeVoiceContest, plain: Tensor, recorded: Tensor) -> float:
    """Root mean square of the samples' difference, as a share of their level, in percent. Eight bits round a few the other
    way when sums are taken in another order."""
    before, after = (contest.engine.networks.unpack(packed).samples for packed in (plain, recorded))
    return float(100 * (after - before).square().mean().sqrt() / before.square().mean().sqrt())


def _seconds(function: Callable[[], Any], device: str) -> float:
    started = time.perf_counter()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _measure_streams(sheet: Sheet, contest: VibeVoiceContest, counts: tuple[int, ...]) -> None:
    run_together(contest, 1, chunks=1)  # the clip is heard once
    for count in counts:
        made = run_together(contest, count)
        streams = f"{count} streams"
        sheet.put(streams, made.rate, f"a listener each needs {count}")
        for name, value in (
            (f"{streams}, ended a second", count / made.seconds),
            (f"{streams}, first audio p95", 1000 * spread(made.first_audio).p95),
        ):
            sheet.put(name, value, ARTICLE.get(name, ""))


def _megabytes(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    return most_megabytes()
