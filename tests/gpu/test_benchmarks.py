"""The benchmarks of voices on a card at full size: each prints its table, and every figure is measured."""

from __future__ import annotations

import pytest

from tests.load import voices


@pytest.mark.parametrize("model", ["sopro", "vibevoice", "vibevoice-realtime"])
def test_the_table(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    report = voices.run(False, model=model, device="cuda", streams=(1, 4, 8, 16, 32))
    with capsys.disabled():
        print(f"\n{report.in_text()}")
    assert all(figure.measured for figure in report.figures)
