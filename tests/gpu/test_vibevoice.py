"""VibeVoice on a real device: recorded steps speak as plain ones do, and the full-size benchmark prints its table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from deployments.engines.base import EngineSpec, SpeechRequest
from deployments.engines.vibevoice import load
from serve_app.bench import voices_vibevoice
from tests.unit.speech_engine_properties import TEXTS, joined, speak
from tests.unit.vibevoice_models import write_tiny

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_it_speaks_as_on_a_cpu_with_captured_steps_and_without(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "tiny")
    options = {"most_seconds": 0.4, "longest_prompt": 700, "capture_batches": (1, 4), "capture_lengths": (730,)}
    request = SpeechRequest((TEXTS[0][1],), "ada")
    heard = [
        joined(speak(load(EngineSpec("vibevoice", str(folder), device, 1, options | {"capture": capture})), request))
        for device, capture in (("cpu", False), ("cuda", False), ("cuda", True))
    ]
    for other in heard[1:]:
        np.testing.assert_allclose(other, heard[0], rtol=0, atol=1e-2)


@pytest.mark.timeout(3600)
def test_the_full_size_benchmark() -> None:
    """32 streams on one card: prints the table, beside the article's."""
    for captured in (False, True):
        report = voices_vibevoice.run(False, 0.0, (1, 8, 16, 32), captured, "bfloat16", "cuda")
        report.show(Console())
        assert all(figure.measured for figure in report.figures)
