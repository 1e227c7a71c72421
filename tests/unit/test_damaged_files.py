"""Damaged recordings of every container, and bombs: sound or a refusal, in processes of their own and in bounded memory.

`motet bench decoding` decodes 10,000 of each; `MOTET_DAMAGED_FILES=1000 pytest tests/unit/test_damaged_files.py` as many as that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest

from deployments.audio.isolated_decode import DecoderProcesses
from deployments.errors import fail
from deployments.settings import DecoderSettings
from serve_app.bench import decoding
from serve_app.bench.decoding import DecodedFiles, outcome_of, try_file
from serve_app.bench.decoding_bombs import bombs
from serve_app.bench.frame import Sheet
from serve_app.bench.mutated_files import mutated, seeds

COUNT = int(os.environ.get("MOTET_DAMAGED_FILES", "10"))
"""Of each container and codec."""
LONGEST_S = 60.0
SEEDS = seeds()
QUICK_BOMBS = {name: make for name, make in bombs().items() if "hours" not in name}
"""Without those that are made of hours of packets."""

pytestmark = pytest.mark.timeout(120 + COUNT)


@pytest.fixture(scope="module")
def processes() -> Iterator[DecoderProcesses]:
    with closing(DecoderProcesses(DecoderSettings(memory_mb=128))) as processes:
        yield processes


@pytest.mark.parametrize("name", SEEDS)
def test_a_damaged_file_is_sound_or_a_refusal(name: str, processes: DecoderProcesses) -> None:
    assert outcome_of(SEEDS[name], processes.open, LONGEST_S) == "decoded"
    generator, found, others = np.random.default_rng(7), DecodedFiles(), list(SEEDS.values())
    for _ in range(COUNT):
        data = mutated(SEEDS[name], name.split()[0], others[generator.integers(len(others))], generator)
        try_file(found, name, data, processes.open)
    assert found.faults == []
    assert found.codes.total() == COUNT


@pytest.mark.parametrize("name", QUICK_BOMBS)
def test_a_bomb_is_sound_or_a_refusal(name: str, processes: DecoderProcesses) -> None:
    outcome = outcome_of(QUICK_BOMBS[name](), processes.open, LONGEST_S)
    assert outcome == "decoded" or outcome.endswith("_audio"), outcome


@pytest.mark.parametrize(
    "error", [ValueError("a bug"), fail("engine", "A fault.", "Report it."), fail("invalid", "No.")]
)
def test_what_is_neither_is_found(error: Exception) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    found = DecodedFiles()
    opened: Callable[..., None] = broken
    try_file(found, "wav", b"", opened)  # type: ignore[arg-type]
    assert len(found.faults) == 1


def refusing(*_: Any, **__: Any) -> Any:
    """A decoder that accepts nothing."""
    raise fail("invalid", "No sound.", "Send some.")


def test_the_files_that_count_are_those_that_were_tried() -> None:
    sheet, found = Sheet(decoding.figures(quick=True), lambda _: None), DecodedFiles()
    for number in range(decoding.QUICK_FILES):
        for name in ("wav", "mp3")[: 1 + (number % 2)]:
            try_file(found, name, b"", refusing)
    decoding.put_damaged(sheet, found, ["wav", "mp3"])
    (files,) = (figure for figure in sheet.figures if figure.name == decoding.FILES)
    assert files.value == decoding.QUICK_FILES / 2 and files.verdict == "not met"
