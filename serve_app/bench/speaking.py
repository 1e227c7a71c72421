"""How well written texts are spoken, what the front-end costs, the times of words, and spoiled pieces that are found.

The sentences are of three groups (`written_sentences`), because a sentence that a rule was written on proves little:

* own: the rules were written on them, and a test checks that each is read as intended.
* corrected: they were held out at first: written before anybody looked at the rules, or with the forms that stand on public
  pages. General rules were corrected or added where they showed errors, so they are no longer held out for these rules: phone
  numbers with points and slashes; scales before counted things; ranges of prices, factors and dates; sizes; decimal commas;
  mixed fractions with a hyphen, and shares "of" something; units after fractions and articles; inches; temperatures of ovens;
  minutes and seconds; times with a point or "h"; days without a year; months and states in short; directions of streets;
  functions; options of commands; numbered items without a space; dates with a month between hyphens, and with slashes after
  "on"; ranges with mixed fractions and of letters; degrees with a space; paces; versions "or later".
* held-out: written after the rules, for other kinds of text. No rule was changed after they were read, so only they say how
  unseen texts are read.

A figure has a target only where its sample can carry one (`target_for`). `quick` reads all sentences, hears one of each kind,
takes one spoiled piece of each fault, and leaves out the voices that need torch, which alone take half a minute to load.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from functools import partial

from deployments.text.normalization.normalizer import load_libraries
from deployments.text.normalization.rules import AS_WRITTEN, ReadingRules
from deployments.text.sample_sentences import SENTENCES
from serve_app.bench import speaking_errors, speaking_quality, speaking_words
from serve_app.bench.frame import Figure, Report, Sheet, at_most, carry_out, interleaved, spread
from serve_app.bench.local_engines import Engines
from serve_app.bench.written_sentences import written_sentences
from serve_app.config import AppConfig

LATER = "first sound later than without the front-end"
COST = "front-end, p95"
QUICK_ROUNDS, ROUNDS = 5, 30
"""Rounds of the first sound."""
COST_CALLS = 5
COST_CHARACTERS = 100
"""The texts whose cost is measured are at least this long, as most requests are."""


def run(quick: bool) -> Report:
    """Measures everything; `quick` measures less, in less than 50 s."""

    def measure(sheet: Sheet) -> None:
        engines = Engines(AppConfig())
        with sheet.measuring("the cost of the front-end"):
            _measure_cost(sheet, engines)
        with sheet.measuring("the first sound"):
            _measure_first_sound(sheet, engines, QUICK_ROUNDS if quick else ROUNDS)
        speaking_errors.measure(sheet, engines, quick)
        speaking_words.measure(sheet, engines, quick)
        speaking_quality.measure(sheet, engines, quick)

    return carry_out("speaking", figures(quick), measure, quick=quick)


def figures(quick: bool) -> list[Figure]:
    """What is measured."""
    return [
        *speaking_errors.figures(quick),
        Figure(COST, "ms per 100 characters", at_most(1)),
        Figure(LATER, "ms", at_most(2)),
        *speaking_words.figures(quick),
        *speaking_quality.figures(quick),
    ]


def _measure_cost(sheet: Sheet, engines: Engines) -> None:
    """What reading costs: the time with the front-end less the time for cutting alone."""
    costs = []
    load_libraries()
    gc.collect()
    for text in _texts():
        read, cut = (_least_seconds(partial(engines.pieces, text, rules)) for rules in (None, AS_WRITTEN))
        costs.append((read - cut) * 1000 / len(text) * 100)
    found = spread(costs)
    sheet.put(COST, found.p95, f"median {found.p50:.2f}, of {len(costs)} texts")


def _texts() -> Iterator[str]:
    """All written sentences, with as many in a text as it takes."""
    text = ""
    for sentence in written_sentences():
        text = f"{text}\n\n{sentence.written}" if text else sentence.written
        if len(text) >= COST_CHARACTERS:
            yield text
            text = ""


def _least_seconds(call: Callable[[], object]) -> float:
    """Of a few calls: other processes take the processor in between."""
    times = []
    for _ in range(COST_CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _measure_first_sound(sheet: Sheet, engines: Engines, rounds: int) -> None:
    """The front-end's part of the first sound, of sentences whose first piece it leaves as it is. Each sentence counts with
    its shortest time of all rounds, because other processes take the processor in between."""
    texts = [text for text in SENTENCES if engines.pieces(text)[0].spoken == engines.pieces(text, AS_WRITTEN)[0].spoken]
    later, without = [], []
    for text in texts:
        with_it, without_it = (partial(_first_sound_ms, engines, text, rules) for rules in (None, AS_WRITTEN))
        times = interleaved({"with": with_it, "without": without_it}, rounds)
        later.append(min(times["with"]) - min(times["without"]))
        without.append(min(times["without"]))
    found = spread(later)
    sheet.put(
        LATER, found.p50, f"{found}; {spread(without).p50:.1f} ms without it; {len(texts)} sentences, {rounds} rounds"
    )


def _first_sound_ms(engines: Engines, text: str, rules: ReadingRules | None) -> float:
    start = time.perf_counter()
    chunks = engines.spoken(engines.pieces(text, rules))
    next(chunks)
    passed = time.perf_counter() - start
    chunks.close()
    return passed * 1000
