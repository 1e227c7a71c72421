"""What the benchmark of spoken texts counts, and which of its figures it judges."""

from __future__ import annotations

import pytest

from deployments.text.word_error_rate import ErrorCount
from serve_app.bench import speaking, speaking_errors, speaking_quality
from serve_app.bench.frame import Figure, at_least, at_most, target_for
from serve_app.bench.written_sentences import FILES, written_sentences


def figures(quick: bool) -> dict[str, Figure]:
    return {figure.name: figure for figure in speaking.figures(quick)}


def test_a_transcript_counts_as_written_or_as_read() -> None:
    def read(text: str) -> str:
        return text.replace("7:30", "seven thirty").replace("/", " slash ").replace("example.com", "example dot com")

    intended = "We meet at seven thirty, at example dot com slash help."
    assert speaking_errors.best_count(intended, "We meet at 7.30, at example.com/help.", read) == ErrorCount(10, 0)
    assert speaking_errors.best_count(intended, "We meet at 7.40, at example.com/help.", read).errors == 1
    assert speaking_errors.best_count(intended, "", read).errors == 10


def test_the_groups_are_told_apart() -> None:
    assert {sentence.group for sentence in written_sentences()} == set(FILES)
    assert sum(len(written_sentences(group)) for group in FILES) == len(written_sentences())
    assert len(written_sentences("held-out")) >= 40
    kinds = {sentence.kind for sentence in written_sentences("own")}
    assert all({sentence.kind for sentence in written_sentences(group)} == kinds for group in FILES)


def test_each_group_and_kind_has_a_figure() -> None:
    for name in (speaking_errors.as_read, speaking_errors.as_heard):
        assert {name(f"{group} sentences") for group in FILES} <= figures(quick=False).keys()
        assert {name(sentence.kind) for sentence in written_sentences()} <= figures(quick=False).keys()


def test_a_quick_run_reads_all_and_hears_one_held_out_sentence_of_each_kind() -> None:
    heard = speaking_errors.sentences_to_hear(quick=True)
    kinds = {sentence.kind for sentence in written_sentences()}
    assert {sentence.kind for sentence in heard} == kinds
    assert len(heard) == len(kinds)
    assert {sentence.group for sentence in heard} == {"held-out"}
    assert speaking_errors.sentences_to_hear(quick=False) == written_sentences()
    assert {speaking_errors.as_read(f"{group} sentences") for group in FILES} <= figures(quick=True).keys()


@pytest.mark.parametrize(
    ("target", "least"), [(at_most(4), 25), (at_least(90), 10), (at_most(1), 100), (at_most(8), 13)], ids=str
)
def test_a_sample_carries_a_target_that_one_wrong_case_does_not_miss(target: object, least: int) -> None:
    assert isinstance(target, type(at_most(1)))
    assert target_for(target, least) == target
    assert target_for(target, least - 1) is None
    assert target.met_by(100 / least if target.at == "most" else 100 - 100 / least)


def test_a_quick_run_judges_only_what_its_samples_carry() -> None:
    quick, full = figures(quick=True), figures(quick=False)
    assert {name for name, figure in quick.items() if figure.target} < {
        name for name, figure in full.items() if figure.target
    }
    unjudged = [name for name in quick if quick[name].target is None and full[name].target]
    assert speaking_quality.FOUND in unjudged
    assert speaking_quality.FALSE_ALARMS in unjudged
    assert speaking_errors.as_heard("held-out sentences") in unjudged
    assert speaking_errors.SIGNS in unjudged


def test_each_fault_is_made_once_in_a_quick_run_and_twice_in_a_full_one() -> None:
    faults = list(speaking_quality.SPOILED)
    assert sorted(speaking_quality.spoiled_pieces(quick=True).values()) == sorted(faults)
    assert sorted(speaking_quality.spoiled_pieces(quick=False).values()) == sorted(faults * 2)


def test_the_cost_is_measured_on_texts_of_the_usual_length() -> None:
    texts = list(speaking._texts())
    assert len(texts) > 40
    assert all(speaking.COST_CHARACTERS <= len(text) <= 3 * speaking.COST_CHARACTERS for text in texts)
