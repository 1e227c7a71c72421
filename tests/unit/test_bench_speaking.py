"""What the benchmark of spoken texts counts."""

from __future__ import annotations

from deployments.text.word_error_rate import ErrorCount
from serve_app.bench import speaking
from serve_app.bench.written_sentences import written_sentences


def test_a_transcript_counts_as_written_or_as_read() -> None:
    def read(text: str) -> str:
        return text.replace("7:30", "seven thirty").replace("/", " slash ").replace("example.com", "example dot com")

    intended = "We meet at seven thirty, at example dot com slash help."
    assert speaking.best_count(intended, "We meet at 7.30, at example.com/help.", read) == ErrorCount(10, 0)
    assert speaking.best_count(intended, "We meet at 7.40, at example.com/help.", read).errors == 1
    assert speaking.best_count(intended, "", read).errors == 10


def test_each_kind_has_a_figure_and_all_sentences_are_taken() -> None:
    kinds = speaking.sentences_by_kind(200)
    assert sum(map(len, kinds.values())) == len(written_sentences())
    assert all(len(sentences) == 2 for sentences in speaking.sentences_by_kind(2).values())
    names = [figure.name for figure in speaking.figures(kinds)]
    assert all(f"word error rate, {kind}" in names for kind in kinds)


def test_the_cost_is_measured_on_texts_of_the_usual_length() -> None:
    texts = list(speaking._texts())
    assert len(texts) > 40
    assert all(speaking.COST_CHARACTERS <= len(text) <= 3 * speaking.COST_CHARACTERS for text in texts)
