"""CUDA Graphs on a real device: a captured step equals the plain one in every bucket, and Sopro speaks the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from deployments.engines.base import EngineSpec, SpeechRequest
from deployments.engines.sopro import load
from deployments.graphs import Buffers, CapturedStep, CudaGraphBackend, Input
from tests.unit.sopro_models import write_tiny
from tests.unit.speech_engine_properties import TEXTS, joined, speak

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_every_bucket_equals_the_plain_step() -> None:
    weight = torch.randn(16, 16, device="cuda")

    def step(inputs: Buffers, length: int) -> torch.Tensor:
        return torch.softmax(inputs["x"] @ weight, -1)[:, :length]

    captured = CapturedStep(step, {"x": Input((16,), torch.float32)}, (1, 4), (8, 16), CudaGraphBackend(), "cuda")
    captured.capture_all()
    assert captured.counts.captures == 4, captured.counts.last_failure
    for batch in (1, 2, 3, 4):
        for length in (8, 16):
            rows = {"x": torch.randn(batch, 16, device="cuda")}
            torch.testing.assert_close(captured(rows, length), step(rows, length))
    assert captured.counts.plain == 0


def test_sopro_speaks_as_on_a_cpu_with_captured_steps_and_without(tmp_path: Path) -> None:
    folder = write_tiny(tmp_path / "tiny")
    options = {"temperature": 0.0, "trim_silence": False, "capture_batches": (1, 4), "capture_lengths": (128, 256)}
    request = SpeechRequest((TEXTS[0][0],), "ada")
    heard = [
        joined(speak(load(EngineSpec("sopro", str(folder), device, 1, options | {"capture": capture})), request))
        for device, capture in (("cpu", False), ("cuda", False), ("cuda", True))
    ]
    for other in heard[1:]:
        np.testing.assert_allclose(other, heard[0], rtol=0, atol=1e-3)
