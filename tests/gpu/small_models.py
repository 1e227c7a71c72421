"""Small models with seeded random weights, made without the models' own packages.

Their shapes are those of the published models with fewer layers, so that a card and a CPU say the same in seconds.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from deployments.engines.sopro.config import SoproConfig
from tests.load.shapes import Shapes, read
from tests.load.voices_sopro_card import SoproCardContest
from tests.load.voices_vibevoice import QUICK, VibeVoiceContest
from tests.load.voices_vibevoice_realtime import QUICK as QUICK_REALTIME
from tests.load.voices_vibevoice_realtime import VibeVoiceRealtimeContest

SECONDS = 0.9
LAYERS = 2


def sopro(folder: Path, device: str) -> SoproCardContest:
    """Sopro with two layers of decoder and acoustic head."""
    config = SoproConfig()
    config = replace(config, model=replace(config.model, ar_blocks=LAYERS, acoustic_dit_depth=LAYERS))
    return SoproCardContest(folder, SECONDS, device, config=config, shapes=read("sopro"))


def vibevoice(folder: Path, device: str) -> VibeVoiceContest:
    """VibeVoice with one layer of language model, in float32."""
    plan = replace(QUICK, layers=1, seconds=0.4)
    shapes: Shapes = read("vibevoice")[plan.shapes]
    return VibeVoiceContest(folder, plan, "float32", device, shapes)


def vibevoice_realtime(folder: Path, device: str) -> VibeVoiceRealtimeContest:
    """VibeVoice-Realtime with one lower and two upper layers, in float32."""
    plan = replace(QUICK_REALTIME, upper_layers=LAYERS, seconds=0.4)
    return VibeVoiceRealtimeContest(folder, plan, "float32", device)
