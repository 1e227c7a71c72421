"""The frame of the benchmarks: a report never looks better than the measurement."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from cluster.hardware import CpuClass
from deployments.errors import MotetError
from serve_app.bench import catalogue
from serve_app.bench.frame import (
    Figure,
    Instruments,
    MachineInfo,
    Report,
    RunInfo,
    Sheet,
    Target,
    Verdict,
    at_least,
    at_most,
    carry_out,
    difference,
    interleaved,
    ratio,
    spread,
)

MACHINE = MachineInfo("a processor", 2, {"python": "3.11", "ray": "2.60"}, "abc123 dirty", "a card")
FACTS = RunInfo("quick", "2026-01-02T03:04:05+00:00", 7.5, 0.25, 1.5, MACHINE)


def instruments(said: list[str] | None = None) -> Instruments:
    """A clock that shows 100 s and then 107.5 s, and a load that shows 0.25 and then 1.5."""
    clock, load = iter((100.0, 107.5)), iter((0.25, 1.5))
    return Instruments(
        clock=lambda: next(clock),
        now=lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        load=lambda: next(load),
        machine=lambda: MACHINE,
        progress=(said if said is not None else []).append,
    )


def figures_of(wanted: list[Figure], measure: Callable[[Sheet], None]) -> dict[str, Figure]:
    report = carry_out("sums", wanted, measure, quick=True, instruments=instruments())
    return {figure.name: figure for figure in report.figures}


@pytest.mark.parametrize(
    ("value", "target", "verdict"),
    [
        (40.0, at_least(40), "met"),
        (39.9, at_least(40), "not met"),
        (10.0, at_most(10), "met"),
        (10.1, at_most(10), "not met"),
        (0.0, at_most(0), "met"),
        (math.inf, at_least(40), "met"),
        (math.inf, at_most(40), "not met"),
        (7.0, None, "-"),
        (None, at_most(10), "not met"),
        (None, None, "not met"),
        (math.nan, at_most(10), "not met"),
        (math.nan, None, "not met"),
    ],
)
def test_verdict(value: float | None, target: Target | None, verdict: Verdict) -> None:
    assert Figure("speed", "x", target, value).verdict == verdict


@pytest.mark.parametrize(
    ("values", "status"), [((9.0, 1.0), 0), ((11.0, 1.0), 1), ((9.0, None), 1), ((None, 1.0), 1), ((9.0, math.nan), 1)]
)
def test_exit_status(values: tuple[float | None, float | None], status: int) -> None:
    with_target, without = values
    figures = (Figure("overhead", "ms", at_most(10), with_target), Figure("memory", "MB", None, without))
    assert Report("sums", figures, FACTS).exit_status == status


def test_everything_wanted_is_reported_in_order_whatever_was_measured_first() -> None:
    wanted = [Figure("a", "s"), Figure("b", "s"), Figure("c", "s")]

    def measure(sheet: Sheet) -> None:
        sheet.put("c", 3.0)
        sheet.put("a", 1.0, "a note")

    figures = figures_of(wanted, measure)
    assert list(figures) == ["a", "b", "c"]
    assert (figures["a"].value, figures["a"].note, figures["a"].verdict) == (1.0, "a note", "-")
    assert (figures["b"].value, figures["b"].verdict) == (None, "not met")


def test_a_figure_that_was_not_declared_cannot_be_put() -> None:
    with pytest.raises(KeyError):
        Sheet([Figure("a", "s")], list[str]().append).put("b", 1.0)


def test_a_broken_measurement_leaves_its_figure_unmeasured_with_the_cause_and_the_next_one_runs() -> None:
    wanted = [Figure("a", "s", at_most(1)), Figure("b", "s", at_most(1))]

    def broken() -> float:
        raise OSError("no room")

    def measure(sheet: Sheet) -> None:
        with sheet.measuring("the first"):
            sheet.put("a", broken())
        with sheet.measuring("the second"):
            sheet.put("b", 0.5)

    figures = figures_of(wanted, measure)
    assert figures["a"].verdict == "not met"
    assert figures["a"].note == "the first: OSError: no room"
    assert (figures["b"].value, figures["b"].verdict, figures["b"].note) == (0.5, "met", "")


def test_a_benchmark_that_breaks_outside_a_measurement_still_reports_and_fails() -> None:
    def measure(sheet: Sheet) -> None:
        sheet.put("a", 1.0)
        raise RuntimeError("the service did not start")

    report = carry_out("sums", [Figure("a", "s"), Figure("b", "s")], measure, quick=False, instruments=instruments())
    assert report.exit_status == 1
    assert report.figures[0] == Figure("a", "s", None, 1.0)
    assert report.figures[1].note == "RuntimeError: the service did not start"


def test_ctrl_c_is_not_a_result() -> None:
    def measure(_: Sheet) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out("sums", [Figure("a", "s")], measure, quick=True, instruments=instruments())


def test_facts_and_progress() -> None:
    said: list[str] = []

    def measure(sheet: Sheet) -> None:
        with sheet.measuring("sums"):
            sheet.put("a", 2.0)

    report = carry_out("sums", [Figure("a", "s")], measure, quick=True, instruments=instruments(said))
    assert report.facts == FACTS
    assert said == ["sums"]


def test_json_says_the_same_as_the_report(tmp_path: Path) -> None:
    figures = (
        Figure("overhead", "ms", at_most(10), 12.5, "paired"),
        Figure("speed", "x", at_least(40), math.nan),
        Figure("memory", "MB", None, 310.0),
    )
    Report("sums", figures, FACTS).write(tmp_path / "sums.json")
    assert json.loads((tmp_path / "sums.json").read_text()) == {
        "benchmark": "sums",
        "exit_status": 1,
        "figures": [
            {
                "name": "overhead",
                "unit": "ms",
                "target": {"at": "most", "limit": 10},
                "value": 12.5,
                "note": "paired",
                "verdict": "not met",
            },
            {
                "name": "speed",
                "unit": "x",
                "target": {"at": "least", "limit": 40},
                "value": None,
                "note": "",
                "verdict": "not met",
            },
            {"name": "memory", "unit": "MB", "target": None, "value": 310.0, "note": "", "verdict": "-"},
        ],
        "facts": {
            "mode": "quick",
            "started_utc": "2026-01-02T03:04:05+00:00",
            "duration_seconds": 7.5,
            "load_at_start": 0.25,
            "load_at_end": 1.5,
            "machine": {
                "cpu": "a processor",
                "cores": 2,
                "versions": {"python": "3.11", "ray": "2.60"},
                "commit": "abc123 dirty",
                "card": "a card",
            },
        },
    }


def test_table_shows_value_target_verdict_note_and_facts() -> None:
    figures = (
        Figure("overhead", "ms", at_most(10), 12.34567, "paired [bold]"),
        Figure("speed", "x real time", at_least(40), None, "it broke"),
    )
    shown = io.StringIO()
    Report("sums", figures, FACTS).show(Console(file=shown, width=200))
    first, second = (line for line in shown.getvalue().splitlines() if "overhead" in line or "speed" in line)
    assert [cell.strip() for cell in first.split("│")[1:-1]] == [
        "overhead", "12.35", "ms", "at most 10", "not met", "paired [bold]",
    ]  # fmt: skip
    assert [cell.strip() for cell in second.split("│")[1:-1]] == [
        "speed", "not measured", "x real time", "at least 40", "not met", "it broke",
    ]  # fmt: skip
    assert "load 0.25 at the start and 1.50 at the end, 2 cores of a processor, a card" in shown.getvalue()
    assert "commit abc123 dirty" in shown.getvalue()


def test_plain_lines_say_the_same() -> None:
    figures = (Figure("overhead", "ms", at_most(10), 12.34567, "paired"), Figure("speed", "x", None, None, "it broke"))
    lines = Report("sums", figures, FACTS).in_text().splitlines()
    assert lines[0] == "motet bench sums (quick)"
    assert lines[2].split() == ["overhead", "12.35", "ms", "at", "most", "10", "not", "met", "paired"]
    assert lines[3].split() == ["speed", "not", "measured", "x", "not", "met", "it", "broke"]
    assert lines[-1].endswith("a card, python 3.11, ray 2.60, commit abc123 dirty")


class Recorder:
    """Variants that count their calls into one list, and return 1, 2, 3 and so on in the order of the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def variants(self, *names: str) -> dict[str, Callable[[], float]]:
        return {name: self._variant(name) for name in names}

    def _variant(self, name: str) -> Callable[[], float]:
        def measured() -> float:
            self.calls.append(name)
            return float(len(self.calls))

        return measured


def test_interleaved_measures_each_variant_once_a_round_and_keeps_rounds_together() -> None:
    recorder = Recorder()
    results = interleaved(recorder.variants("a", "b", "c"), 20)
    rounds = [recorder.calls[start : start + 3] for start in range(0, 60, 3)]
    assert len(recorder.calls) == 60
    assert all(sorted(names) == ["a", "b", "c"] for names in rounds)
    for name, values in results.items():
        assert values == [3 * number + names.index(name) + 1 for number, names in enumerate(rounds)]


def test_interleaved_puts_every_variant_at_every_place() -> None:
    recorder = Recorder()
    interleaved(recorder.variants("a", "b", "c"), 60)
    places = Counter(zip(recorder.calls, itertools.cycle(range(3))))
    assert set(places) == set(itertools.product("abc", range(3)))
    assert min(places.values()) >= 10


def test_interleaved_repeats_its_order_for_the_same_seed_only() -> None:
    orders = []
    for seed in (1, 1, 2):
        recorder = Recorder()
        interleaved(recorder.variants("a", "b", "c"), 10, seed=seed)
        orders.append(recorder.calls)
    assert orders[0] == orders[1] != orders[2]


def test_spread_interpolates() -> None:
    of_hundred = spread([float(n) for n in range(101)])
    assert (of_hundred.p5, of_hundred.p50, of_hundred.p95) == pytest.approx((5, 50, 95))
    assert spread([4.0]).p95 == 4.0
    assert str(of_hundred) == "5 to 95 (p5 to p95)"


def test_spread_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_comparisons_are_made_within_rounds() -> None:
    # The machine is ten times slower in the second round; paired, that does not show.
    base, values = [10.0, 100.0, 10.0], [20.0, 200.0, 20.0]
    assert ratio(values, base).p95 == ratio(values, base).p5 == 2.0
    assert difference([15.0, 105.0, 15.0], base).p95 == 5.0


def test_rounds_that_do_not_match_are_an_error() -> None:
    with pytest.raises(ValueError, match="zip"):
        difference([1.0, 2.0], [1.0])


def test_an_unknown_benchmark_names_the_nearest() -> None:
    with pytest.raises(MotetError, match="'first-sound'"):
        catalogue.run("first-sond", quick=True, json_file=None)


def test_catalogue_refuses_options_that_a_benchmark_has_not() -> None:
    with pytest.raises(MotetError, match="no option 'compare'"):
        catalogue.run("first-sound", quick=True, compare=True, json_file=None)


def test_catalogue_prints_writes_and_returns_the_status(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def run(quick: bool) -> Report:
        asked.append(quick)
        return Report("sums", (Figure("overhead", "ms", at_most(10), 11.0),), FACTS)

    def imported(name: str) -> SimpleNamespace:
        assert os.environ["OMP_NUM_THREADS"] == "2"  # libraries read it when they are imported
        return {"sums": SimpleNamespace(run=run)}[name]

    for name in CpuClass(cpus=2, threads=2).environment():
        monkeypatch.setenv(name, "1")
    benchmark = catalogue.Benchmark("Sums", "sums", replica_threads=2)
    monkeypatch.setitem(catalogue.BENCHMARKS, "sums", benchmark)
    monkeypatch.setattr(catalogue.importlib, "import_module", imported)  # type: ignore[attr-defined]
    assert catalogue.run("sums", quick=True, json_file=tmp_path / "sums.json") == 1
    assert asked == [True]
    assert "overhead" in capsys.readouterr().out
    assert json.loads((tmp_path / "sums.json").read_text())["exit_status"] == 1
