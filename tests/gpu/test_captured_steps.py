"""CUDA Graphs: in every bucket a captured step equals the plain one."""

from __future__ import annotations

import torch

from deployments.engines.graphs import Buffers, CapturedStep, CudaGraphBackend, StepInput


def test_every_bucket_equals_the_plain_step() -> None:
    weight = torch.randn(16, 16, device="cuda")

    def step(inputs: Buffers, length: int) -> torch.Tensor:
        return torch.softmax(inputs["x"] @ weight, -1)[:, :length]

    captured = CapturedStep(step, {"x": StepInput((16,), torch.float32)}, (1, 4), (8, 16), CudaGraphBackend(), "cuda")
    captured.capture_all()
    assert captured.counts.captures == 4, captured.counts.last_failure
    for batch in (1, 2, 3, 4):
        for length in (8, 16):
            rows = {"x": torch.randn(batch, 16, device="cuda")}
            torch.testing.assert_close(captured(rows, length), step(rows, length))
    assert captured.counts.plain == 0
