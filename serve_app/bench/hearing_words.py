"""The times of recognized words beside those of the voice, and invented words."""

from __future__ import annotations

from serve_app.bench.frame import Figure, Sheet, at_most, spread
from serve_app.bench.hearing_corpus import CORPUS_RATE, Corpus
from serve_app.bench.hearing_noise import files_without_speech
from serve_app.bench.hearing_service import transcribe, words_of
from serve_app.bench.hearing_times import compare
from serve_app.bench.local_engines import wav_of
from serve_app.bench.running_service import RunningProgram

MEDIAN, LATE = "error of word times, median", "error of word times, p95"
IN_SILENCE = "words in silences of over 0.5 s"
INVENTED = "words in {} files without speech"
LISTED = 5
"""Files named in the note."""


def figures(files: int) -> list[Figure]:
    """What is measured."""
    return [
        Figure(MEDIAN, "ms", at_most(60)),
        Figure(LATE, "ms", at_most(200)),
        Figure(IN_SILENCE, "words", at_most(0)),
        Figure(INVENTED.format(files), "words", at_most(0)),
    ]


def measure_words(sheet: Sheet, service: RunningProgram, corpus: Corpus, files: int) -> None:
    """Fills the figures in."""
    with sheet.measuring("times of words"):
        _measure_times(sheet, service, corpus)
    with sheet.measuring(f"{files} files without speech"):
        _measure_invented(sheet, service, files)


def _measure_times(sheet: Sheet, service: RunningProgram, corpus: Corpus) -> None:
    times = compare(corpus.words, words_of(service, corpus.encoded("flac")), corpus.silences)
    starts, ends = spread(times.start_errors_ms), spread(times.end_errors_ms)
    both = spread([*times.start_errors_ms, *times.end_errors_ms])
    compared = f"starts and ends of {times.compared} of {len(corpus.words)} words beside the voice's durations"
    sheet.put(MEDIAN, both.p50, f"{compared}; starts {starts.p50:.0f}, ends {ends.p50:.0f}")
    sheet.put(LATE, both.p95, f"starts {starts.p95:.0f}, ends {ends.p95:.0f}")
    sheet.put(IN_SILENCE, times.in_silence, f"{len(corpus.silences)} silences")


def _measure_invented(sheet: Sheet, service: RunningProgram, files: int) -> None:
    invented, words = list[str](), 0
    for name, samples in files_without_speech(files):
        # Without a language: to detect one is part of what may go wrong.
        if text := transcribe(service, wav_of(samples, CORPUS_RATE), language=None).body.decode().strip():
            words += len(text.split())
            invented.append(f"{name}: {text[:40]!r}")
    sheet.put(INVENTED.format(files), words, "; ".join(invented[:LISTED]))
