"""Pocket-TTS at its published size with random weights, beside `generate` of transformers: the same weights, texts and clip.

transformers speaks one stream after another, with the number of threads that suits it best; ours steps them together. No
stream ends by itself, so that all last as long.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    PocketTTSAudioTokenizerConfig,
    PocketTTSAudioTokenizerModel,
    PocketTTSConfig,
    PocketTTSForConditionalGeneration,
)

from deployments.audio.test_tone import hum
from deployments.engines.pocket_tts.engine import PocketEngine, PocketOptions
from deployments.engines.protocols import Samples, SpeechRequest, VoiceReference
from deployments.text.sample_sentences import SENTENCES
from serve_app.bench.frame import Figure, Report, Sheet, at_least, carry_out, interleaved, ratio, spread
from tests.load.random_weights import LetterTokenizer
from tests.load.voice_runs import Setting, run_package, run_together, using_threads
from tests.load.voices_soak import SOAK, soak
from tests.load.voices_sopro import THREADS

RATE = 24_000
NEVER = -1e4
"""The logit of a frame's end."""


@dataclass(frozen=True, slots=True)
class PocketVoicesPlan:
    """How much is measured. `seconds` is how long each stream speaks."""

    seconds: float
    rounds: int
    streams: tuple[int, ...]


QUICK = PocketVoicesPlan(2.0, 3, (1, 8))
FULL = PocketVoicesPlan(4.0, 5, (1, 2, 4, 8))


class PocketContest:
    """Our engine and transformers' model, which share their weights. Without other sizes they have the
    published model's, which their configurations have by themselves."""

    def __init__(self, folder: Path, seconds: float, model: Any = None, codec: Any = None) -> None:
        torch.manual_seed(0)
        self._model = PocketTTSForConditionalGeneration(model or PocketTTSConfig()).eval()
        self._codec = PocketTTSAudioTokenizerModel(codec or PocketTTSAudioTokenizerConfig()).eval()
        with torch.no_grad():
            self._model.eos_head.bias.fill_(NEVER)
        self._frames = int(seconds * self._model.config.frame_rate)
        options = PocketOptions(most_seconds=seconds)
        self.engine = PocketEngine(self._model, self._codec, LetterTokenizer(), folder, options, "cpu")
        self._clip = VoiceReference("bench", hum(RATE, 5.0), RATE)
        with torch.no_grad():
            self._heard = self._codec.encode(torch.from_numpy(self._clip.samples)[None, None]).latents

    @property
    def package(self) -> list[Setting]:
        """With one thread or two."""
        return [Setting(f"{threads} threads", partial(self._generated, threads)) for threads in THREADS]

    def request(self, number: int) -> SpeechRequest:
        """One piece of text, spoken like the clip."""
        return SpeechRequest((_text(number),), self._clip.id, seed=number, reference=self._clip)

    def _generated(self, threads: int, number: int) -> Iterator[Samples]:
        config = self._model.config
        text = LetterTokenizer().encode(_text(number), add_special_tokens=False).ids
        clip = [config.audio_prompt_token_id] * self._heard.shape[1]
        ids = torch.tensor([[config.audio_prompt_bos_token_id, *clip, *text, config.audio_bos_token_id]])
        with using_threads(threads), torch.no_grad():
            made = self._model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                audio_prompt_latents=self._heard,
                frames_after_eos=1,
                max_new_tokens=self._frames,
                return_dict_in_generate=False,
            )
            yield self._codec.decode(made[0][None]).audio_values[0, 0].numpy()


def _text(number: int) -> str:
    return SENTENCES[number % len(SENTENCES)]


def run(quick: bool, soak_minutes: float = 0.0) -> Report:
    """Measures Pocket-TTS; with `soak_minutes`, only how its memory grows under load for so long."""
    plan = QUICK if quick else FULL

    def measure(sheet: Sheet) -> None:
        with tempfile.TemporaryDirectory() as folder:
            contest = PocketContest(Path(folder), plan.seconds)
            if soak_minutes:
                soak(sheet, contest, soak_minutes)
            else:
                measure_streams(sheet, contest, plan)

    return carry_out("voices of pocket-tts", SOAK if soak_minutes else wanted(plan), measure, quick=quick)


def wanted(plan: PocketVoicesPlan) -> list[Figure]:
    """What is measured."""
    figures = [Figure("threads of ours", ""), Figure("package, best setting", "audio s/s")]
    for streams in plan.streams:
        figures.append(Figure(f"{streams} streams", "audio s/s"))
        figures.append(Figure(f"{streams} streams, first audio p95", "ms"))
    return [*figures, Figure("ours against the package, 8 streams", "x", at_least(1))]


def measure_streams(sheet: Sheet, contest: PocketContest, plan: PocketVoicesPlan) -> None:
    """Puts every figure."""
    with sheet.measuring("how many threads"):
        threads = _best_threads(contest)
        sheet.put("threads of ours", threads)
    firsts: dict[int, list[float]] = {streams: [] for streams in plan.streams}

    def ours(streams: int) -> float:
        with using_threads(threads):
            made = run_together(contest, streams)
        firsts[streams] += made.first_audio
        return made.rate

    variants: dict[str, Callable[[], float]] = {f"{streams}": partial(ours, streams) for streams in plan.streams}
    for setting in contest.package:
        variants[setting.name] = partial(_theirs, setting)
    with sheet.measuring("streams side by side"):
        rates = interleaved(variants, plan.rounds)
    best = max((setting.name for setting in contest.package), key=lambda name: spread(rates[name]).p50)
    sheet.put("package, best setting", spread(rates[best]).p50, best)
    for streams in plan.streams:
        sheet.put(f"{streams} streams", spread(rates[f"{streams}"]).p50)
        sheet.put(f"{streams} streams, first audio p95", 1000 * spread(firsts[streams]).p95)
    gain = ratio(rates["8"], rates[best])
    sheet.put("ours against the package, 8 streams", gain.p50, f"{gain}; the package one after another")


def _theirs(setting: Setting) -> float:
    return run_package(setting, 0).rate


def _best_threads(contest: PocketContest) -> int:
    def rate(threads: int) -> float:
        with using_threads(threads):
            return run_together(contest, 8, chunks=2).rate

    rate(1)
    rates = interleaved({f"{threads}": partial(rate, threads) for threads in THREADS}, 2)
    return max(THREADS, key=lambda threads: max(rates[f"{threads}"]))
