"""Voices on a card: the same audio as on a CPU, captured or not, alone or in a batch, and all memory is freed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deployments.engines.graphs import Bucket, CudaGraphBackend
from tests.gpu import small_models
from tests.gpu.speaking import speak_together
from tests.load.voices_steps import SteppedContest

MODELS: dict[str, Callable[[Path, str], Any]] = {
    "sopro": small_models.sopro,
    "vibevoice": small_models.vibevoice,
    "vibevoice-realtime": small_models.vibevoice_realtime,
}
TOLERANCE = 1e-2
"""Allowed difference, of full scale, between devices and batch sizes: the order of sums differs in every layer."""


@pytest.fixture(params=MODELS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], Any]:
    return lambda device: MODELS[request.param](tmp_path, device)


def captured(contest: SteppedContest, batches: tuple[int, ...]) -> SteppedContest:
    step = contest.step
    step.backend, step.batches, step.lengths = CudaGraphBackend(), batches, (contest.length,)
    for batch in batches:
        assert step.capture(Bucket(batch, contest.length)), step.counts.last_failure
    return contest


def test_a_card_says_what_a_cpu_says(make: Callable[[str], Any]) -> None:
    heard = [speak_together(contest.engine, [contest.request(0)])[0] for contest in (make("cpu"), make("cuda"))]
    assert np.abs(heard[0]).max() > 0.01
    np.testing.assert_allclose(heard[1], heard[0], rtol=0, atol=TOLERANCE)


def test_captured_steps_say_what_plain_ones_say(make: Callable[[str], Any]) -> None:
    plain, replayed = make("cuda"), captured(make("cuda"), (1, 4))
    requests = [plain.request(number) for number in range(4)]
    expected = speak_together(plain.engine, requests)
    for one, other in zip(speak_together(replayed.engine, requests), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)
    assert replayed.step.counts.replayed > 0


def test_together_they_say_what_each_says_alone(make: Callable[[str], Any]) -> None:
    contest = make("cuda")
    requests = [contest.request(number) for number in range(8)]
    together = speak_together(contest.engine, requests)
    for request, sound in zip(requests, together, strict=True):
        alone = speak_together(contest.engine, [request])[0]
        np.testing.assert_allclose(sound, alone, rtol=0, atol=TOLERANCE)


def test_32_streams_that_leave_free_every_slot_and_all_memory(make: Callable[[str], Any]) -> None:
    contest = make("cuda")
    free = contest.engine.cache.free
    taken = []
    for _ in range(3):
        utterances = [contest.engine.open(contest.request(number)) for number in range(32)]
        contest.engine.step(utterances)
        for utterance in utterances:
            contest.engine.close(utterance)
        torch.cuda.synchronize()
        taken.append(torch.cuda.memory_allocated())
    assert contest.engine.cache.free == free
    assert taken[2] <= taken[1] * 1.01
