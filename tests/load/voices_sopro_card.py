"""Sopro v2 on a card, at full size with random weights: captured steps beside plain ones, and streams in a batch.

Its package is not compared with: it serves one stream at a time and is not installed on every machine with a card.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from deployments.audio.test_tone import hum
from deployments.engines.graphs import CapturedStep, on_device
from deployments.engines.protocols import SpeechRequest, VoiceReference
from deployments.engines.sopro.config import SoproConfig
from deployments.engines.sopro.engine import SoproEngine, SoproOptions, networks_with
from deployments.text.sample_sentences import SENTENCES
from serve_app.bench.frame import Report, Sheet, carry_out
from tests.load.random_weights import LetterTokenizer, RandomWeights
from tests.load.shapes import Shapes, read
from tests.load.voices_soak import SOAK, soak
from tests.load.voices_steps import StepPlan, measure, wanted

POSITIONS = 384
SCALE = 0.3
"""Of the layers that training starts at nothing, so that every layer matters."""
MEL_MEAN, MEL_STD = -4.0, 1.5


class LetterText:
    """Stands for Sopro's tokenizer: a begin, every four letters, an end."""

    def encode(self, text: str, language: str) -> list[int]:
        """Token numbers of a text; the language makes no difference."""
        return [1, *LetterTokenizer().encode(text, add_special_tokens=False).ids, 2]


@dataclass(frozen=True, slots=True)
class SoproCardPlan:
    """`seconds` is how long each stream speaks."""

    seconds: float
    steps: StepPlan


QUICK = SoproCardPlan(2.7, StepPlan(rounds=8, steps=(1, 8), recorded=(1, 8), streams=(1, 8)))
FULL = SoproCardPlan(
    5.4, StepPlan(rounds=30, steps=(1, 4, 8, 16, 32), recorded=(1, 4, 8, 16, 32), streams=(1, 4, 8, 16, 32))
)


class SoproCardContest:
    """Our engine on one device; every stream speaks as long."""

    length = POSITIONS

    def __init__(self, folder: Path, seconds: float, device: str, *, config: SoproConfig, shapes: dict[str, Shapes]):
        """`shapes` are those of the model that `config` describes, by the name of their file."""
        mels = config.model.acoustic_mel_n_mels
        model = replace(config.model, acoustic_mel_mean=[MEL_MEAN] * mels, acoustic_mel_std=[MEL_STD] * mels)
        generation = replace(config.generation, min_seconds=seconds, max_seconds=seconds)
        config = replace(config, model=model, generation=generation)
        options = SoproOptions(trim_silence=False, slots=max(32, *FULL.steps.streams))
        weights = {
            name: RandomWeights(tensors, device=device, dtype=torch.float32, scale=SCALE)
            for name, tensors in shapes.items()
        }
        with on_device(device):
            networks = networks_with(config, weights.__getitem__, options)
        self.engine = SoproEngine(networks, LetterText(), folder, options, device)
        self.device = device
        self._clip = VoiceReference("bench", hum(24_000, 10.0), 24_000)

    @property
    def step(self) -> CapturedStep:
        """The decoder's step: sixteen of them make a chunk."""
        return self.engine.captured

    def request(self, number: int) -> SpeechRequest:
        """One piece of text, spoken like the clip."""
        text = SENTENCES[number % len(SENTENCES)]
        return SpeechRequest((text,), self._clip.id, seed=number, reference=self._clip)

    def inputs(self, streams: int) -> dict[str, Tensor]:
        """Of one step, in the middle of a text."""
        with on_device(self.device):
            return {
                "tokens": torch.arange(streams),
                "positions": torch.full((streams,), self.length - 2),
                "may_end": torch.zeros(streams, dtype=torch.bool),
                "draws": torch.linspace(0.1, 0.9, streams),
            }

    def difference(self, plain: Tensor, recorded: Tensor) -> float:
        """Tokens that are not the same, in percent."""
        return float(100 * (plain != recorded).float().mean())


def run(
    quick: bool,
    soak_minutes: float = 0.0,
    streams: tuple[int, ...] | None = None,
    captured: bool = True,
    device: str = "cuda",
) -> Report:
    """Measures the step and so many `streams`; with `soak_minutes`, only how memory grows under load for so long."""
    plan = QUICK if quick else FULL
    steps = plan.steps
    if streams:
        rows = tuple(sorted({1, 8, *streams}))
        steps = replace(steps, streams=streams, steps=rows, recorded=rows)
    if not captured:
        steps = replace(steps, recorded=())

    def carry(sheet: Sheet) -> None:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            contest = SoproCardContest(Path(folder), plan.seconds, device, config=SoproConfig(), shapes=read("sopro"))
            if soak_minutes:
                soak(sheet, contest, soak_minutes)
            else:
                sheet.put("building the model", time.perf_counter() - started, "float32")
                measure(sheet, contest, steps)

    return carry_out("voices of sopro on a card", SOAK if soak_minutes else wanted(steps), carry, quick=quick)
