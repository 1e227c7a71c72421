"""Subtitles: what a cue holds, how long it is shown, and how lines are cut."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.settings import SubtitleSettings
from deployments.text.subtitles import Cue, TimedWord, clock, cues_of, srt, vtt, width_of, wrapped

USUAL = SubtitleSettings()


def spoken(text: str, start_s: float = 0.0, word_s: float = 0.4, speaker: str | None = None) -> list[TimedWord]:
    return [
        TimedWord(word, start_s + at * word_s, start_s + (at + 1) * word_s, speaker)
        for at, word in enumerate(text.split())
    ]


def shown(cues: list[Cue]) -> list[str]:
    return [" / ".join(cue.lines) for cue in cues]


words = st.builds(
    lambda texts, lengths, pauses, speakers: [
        TimedWord(text, start, start + length, speaker)
        for text, length, start, speaker in zip(
            texts,
            lengths,
            [sum(lengths[:n]) + sum(pauses[: n + 1]) for n in range(len(lengths))],
            speakers,
            strict=False,
        )
    ],
    st.lists(
        st.text("abcdefgh你.,?", min_size=1, max_size=60) | st.sampled_from(["so", "it", "is.", "well,"]), max_size=60
    ),
    st.lists(st.floats(0.02, 2), min_size=60, max_size=60),
    st.lists(st.sampled_from([0.0, 0.0, 0.0, 0.05, 0.4, 3.0]), min_size=60, max_size=60),
    st.lists(st.sampled_from([None, None, "A", "B"]), min_size=60, max_size=60) | st.just([None] * 60),
)
limits = st.builds(
    SubtitleSettings,
    line_characters=st.integers(1, 60),
    lines=st.integers(1, 4),
    characters_per_second=st.floats(5, 40),
    min_cue_s=st.floats(0.1, 2),
    max_cue_s=st.floats(1, 10),
)


def until(spoken: list[TimedWord]) -> float:
    return spoken[-1].end_s + 0.5 if spoken else 0.0


@given(words, limits)
def test_every_word_stands_once_and_in_order(spoken: list[TimedWord], limits: SubtitleSettings) -> None:
    cues = cues_of(spoken, until(spoken), limits)
    assert [word for cue in cues for line in cue.lines for word in line.split()] == [word.text for word in spoken]


@given(words, limits)
def test_cues_are_in_order_and_never_overlap(spoken: list[TimedWord], limits: SubtitleSettings) -> None:
    cues = cues_of(spoken, until(spoken), limits)
    assert all(0 <= cue.start_s < cue.end_s <= until(spoken) + 1e-3 for cue in cues)
    assert all(before.end_s <= after.start_s for before, after in pairwise(cues))


@given(words, limits)
def test_lines_are_short_unless_one_word_is_longer(spoken: list[TimedWord], limits: SubtitleSettings) -> None:
    for cue in cues_of(spoken, until(spoken), limits):
        for line in cue.lines:
            assert width_of(line) <= limits.line_characters or len(line.split()) == 1
        assert len(cue.lines) <= limits.lines


@given(words, limits)
def test_there_is_time_to_read_wherever_nobody_speaks(spoken: list[TimedWord], limits: SubtitleSettings) -> None:
    cues = cues_of(spoken, until(spoken), limits)
    nexts = [*(cue.start_s for cue in cues[1:]), until(spoken)]
    for cue, next_s in zip(cues, nexts, strict=bool(cues)):
        columns = sum(map(width_of, cue.lines))
        needed = max(limits.min_cue_s, columns / limits.characters_per_second)
        assert cue.end_s - cue.start_s >= needed - 2e-3 or cue.end_s >= next_s - 2e-3


@given(words, limits)
def test_a_cue_lasts_no_longer_than_its_words_and_its_reading(
    spoken: list[TimedWord], limits: SubtitleSettings
) -> None:
    for cue in cues_of(spoken, until(spoken), limits):
        last = max(word.end_s for word in spoken if word.start_s < cue.end_s)
        needed = max(limits.min_cue_s, sum(map(width_of, cue.lines)) / limits.characters_per_second)
        assert cue.end_s <= max(last, cue.start_s + needed) + 2e-3


@given(words, limits)
def test_a_cue_has_one_speaker_and_no_long_pause(spoken: list[TimedWord], limits: SubtitleSettings) -> None:
    by_start = {round(word.start_s, 3): word for word in spoken}
    at = 0
    for cue in cues_of(spoken, until(spoken), limits):
        own = spoken[at : at + sum(len(line.split()) for line in cue.lines)]
        at += len(own)
        assert {word.speaker for word in own} == {cue.speaker} == {by_start[cue.start_s].speaker}
        assert all(after.start_s - before.end_s < limits.pause_s for before, after in pairwise(own))
        assert len(own) == 1 or own[-1].end_s - own[0].start_s <= limits.max_cue_s


def test_sentences_have_cues_of_their_own_if_they_can_be_read() -> None:
    assert shown(cues_of(spoken("Good morning to everyone here. It is a fine day."), 9, USUAL)) == [
        "Good morning to everyone here.",
        "It is a fine day.",
    ]
    assert shown(cues_of(spoken("Yes. No. Stop."), 1.2, USUAL)) == ["Yes. No. Stop."]


def test_a_long_sentence_is_cut_at_a_comma_into_similar_parts() -> None:
    text = (
        "When the tide went out in the early morning, the children walked along the shore with their buckets, "
        "and they looked for shells until the sun stood high above the lighthouse."
    )
    assert shown(cues_of(spoken(text, word_s=0.3), 12, USUAL)) == [
        "When the tide went out / in the early morning,",
        "the children walked along the / shore with their buckets,",
        "and they looked for shells until the / sun stood high above the lighthouse.",
    ]


def test_a_cue_is_shown_until_it_is_read_but_not_into_the_next() -> None:
    quick = spoken("Extraordinarily complicated circumstances.", word_s=0.1)
    (alone,) = cues_of(quick, 60, USUAL)
    assert alone.start_s == 0.0
    assert alone.end_s == pytest.approx(42 / 17, abs=1e-3)
    first, _ = cues_of([*quick, *spoken("Then more.", 1.5)], 60, USUAL)
    assert first.end_s == 1.5
    slow = spoken("One two.", word_s=3)
    assert cues_of(slow, 60, USUAL)[0].end_s == 6.0
    assert cues_of(quick, 0.5, USUAL)[0].end_s == 0.5


def test_speakers_who_speak_at_once_have_cues_at_once() -> None:
    both = [*spoken("I was about to say that we", speaker="A"), *spoken("No, never.", 1.0, speaker="B")]
    cues = cues_of(both, 9, USUAL)
    assert [(cue.speaker, round(cue.end_s, 3)) for cue in cues] == [("A", 2.8), ("B", 2.0)]


def test_speakers_who_begin_together_both_have_time_to_be_read() -> None:
    both = [*spoken("Yes, of course.", speaker="A", word_s=0.2), *spoken("No.", speaker="B", word_s=0.2)]
    assert [cue.end_s - cue.start_s for cue in cues_of(both, 9, USUAL)] == [1.0, 1.0]


@given(words, words, limits)
def test_cues_of_people_who_speak_at_once(
    one: list[TimedWord], other: list[TimedWord], limits: SubtitleSettings
) -> None:
    both = [*(replace(word, speaker="A") for word in one), *(replace(word, speaker="B") for word in other)]
    end_s = max(until(one), until(other))
    cues = cues_of(both, end_s, limits)
    assert all(0 <= cue.start_s < cue.end_s <= end_s + 1e-3 for cue in cues)
    assert [cue.start_s for cue in cues] == sorted(cue.start_s for cue in cues)
    for speaker, said in (("A", one), ("B", other)):
        own = [cue for cue in cues if cue.speaker == speaker]
        assert [word for cue in own for line in cue.lines for word in line.split()] == [word.text for word in said]
        assert all(before.end_s <= after.start_s for before, after in pairwise(own))


def test_a_long_name_is_shortened_so_that_lines_are_short() -> None:
    queen = "Alexandrina Victoria of Saxe-Coburg and Gotha the Younger"
    text = "it was a quiet day and nobody in the whole house knew what to say about it"
    cues = cues_of(spoken(text, speaker=queen), 20, USUAL, named=True)
    assert all(cue.lines[0].startswith("Alexandrina Victor…: ") for cue in cues)
    assert all(width_of(line) <= 42 for cue in cues for line in cue.lines)
    assert cues[0].speaker == queen


def test_two_lines_are_even() -> None:
    line = wrapped(spoken("the children walked along the shore with their small buckets"), 42)
    assert line == ("the children walked along the", "shore with their small buckets")
    assert wrapped(spoken("short"), 42) == ("short",)


def test_words_of_scripts_without_spaces_are_attached_and_wide() -> None:
    text = "今天天气很好我们去公园散步吧然后一起吃午饭"
    chinese = [TimedWord(c, n * 0.3, (n + 1) * 0.3, None, attached=n > 0) for n, c in enumerate(text)]
    (cue,) = cues_of(chinese, 20, USUAL.model_copy(update={"lines": 3, "line_characters": 16}))
    assert "".join(cue.lines) == text
    assert all(width_of(line) <= 16 for line in cue.lines)


def test_srt_names_speakers_in_the_text() -> None:
    dialogue = [*spoken("Go --> north.", speaker="Ada"), *spoken("Why?", 2.0, speaker="B. Okoye")]
    assert srt(dialogue, 4.0, USUAL) == (
        "1\n00:00:00,000 --> 00:00:01,200\nAda: Go -> north.\n\n2\n00:00:02,000 --> 00:00:03,000\nB. Okoye: Why?\n\n"
    )


def test_vtt_has_voices_and_escapes() -> None:
    dialogue = [*spoken("Salt & <pepper> -->", speaker="A > B\n&"), *spoken("Why?", 2.0)]
    assert vtt(dialogue, 4.0, USUAL) == (
        "WEBVTT\n\n00:00:00.000 --> 00:00:01.600\n<v A &gt; B &amp;>Salt &amp; &lt;pepper&gt; --&gt;\n\n"
        "00:00:02.000 --> 00:00:03.000\nWhy?\n\n"
    )
    assert (vtt([], 4.0, USUAL), srt([], 4.0, USUAL)) == ("WEBVTT\n\n", "")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "00:00:00.000"), (-0.2, "00:00:00.000"), (59.9996, "00:01:00.000"), (7384.5, "02:03:04.500")],
)
def test_clock(seconds: float, text: str) -> None:
    assert clock(seconds, ".") == text
