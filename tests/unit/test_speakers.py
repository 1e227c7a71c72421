"""Scripts of several speakers, whole and in pieces."""

from __future__ import annotations

import pytest

from deployments.engines.protocols import SpeechTraits, Voice
from deployments.errors import MotetError
from deployments.tasks.voice_choice import choose_voice
from deployments.text.speakers import Script, Turn, check_speakers, turns, without_marks

PAIR = SpeechTraits(24_000, (Voice("ada", "en"), Voice("ben", "en")), "ada", 1.0, 1.0, most_speakers=2)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Good morning.", [Turn(1, "Good morning.")]),
        ("Speaker 2: Yes. It is.", [Turn(2, "Yes. It is.")]),
        ("Well. Speaker 1: Now? Speaker 12: No.", [Turn(1, "Well."), Turn(1, "Now?"), Turn(12, "No.")]),
        ("Speaker 1:\nOne.\nSpeaker 2: Two.", [Turn(1, "One."), Turn(2, "Two.")]),
        ("The loudspeaker 2: is no mark, Speaker 123: neither.", [Turn(1, "The loudspeaker 2: is no mark, Speaker 123: neither.")]),
        ("Speaker 1: Speaker 2: Hm.", [Turn(2, "Hm.")]),
    ],
)  # fmt: skip
def test_a_text_is_cut_at_its_marks(text: str, expected: list[Turn]) -> None:
    assert turns(text) == expected


def test_a_mark_holds_until_the_next_one_however_the_text_is_cut() -> None:
    pieces = ["Hello.", "Speaker 2: Yes. Speaker 1: No.", "Never.", "Speaker 2: Well."]
    assert Script().carry_on(pieces) == (
        "Hello.",
        "Speaker 2: Yes. Speaker 1: No.",
        "Speaker 1: Never.",
        "Speaker 2: Well.",
    )


def test_a_text_without_marks_stays_as_it_is() -> None:
    assert Script().carry_on(["One.", "Two."]) == ("One.", "Two.")


def test_a_model_of_several_speakers_takes_a_voice_for_each() -> None:
    assert choose_voice("nova, ben", PAIR, {"nova": "ada"}) == "ada,ben"
    assert choose_voice(None, PAIR, {}) == "ada"
    with pytest.raises(MotetError, match="'carl'"):
        choose_voice("ada,carl", PAIR, {})
    with pytest.raises(MotetError, match="most 2"):
        choose_voice("ada,ben,ada", PAIR, {})


def test_a_piece_that_only_names_a_speaker_is_no_piece_and_is_heeded() -> None:
    assert Script().carry_on(["Speaker 2:", "Yes.", "Speaker 1: Speaker 2:"]) == ("Speaker 2: Yes.",)


def test_one_voice_reads_the_words_and_not_the_marks() -> None:
    script = ("Speaker 2: Yes. Speaker 1: No, Speaker 12 said so.", "Speaker 1: Never.", "Plain words: here.")
    assert without_marks(script) == ("Yes. No, Speaker 12 said so.", "Never.", "Plain words: here.")


@pytest.mark.parametrize(("text", "voices", "missing"), [
    ("Speaker 1: Yes. Speaker 3: No.", 2, "There are 2 voices, and the text has a Speaker 3"),
    ("Speaker 2: Yes.", 1, "There is 1 voice, and the text has a Speaker 2"),
    ("Speaker 0: Yes.", 2, "Speaker 0"),
])  # fmt: skip
def test_a_speaker_without_a_voice_is_told_with_the_remedy(text: str, voices: int, missing: str) -> None:
    with pytest.raises(MotetError, match=missing) as caught:
        check_speakers(["Good morning.", text], voices)
    failure = caught.value.failure
    assert (failure.kind, failure.param) == ("invalid", "voice")
    assert "ada,ben" in failure.remedy


def test_speakers_with_voices_and_none_are_fine() -> None:
    check_speakers(["Good morning. Speaker 2: Yes.", "Speaker 1: No."], 2)
    check_speakers(["Good morning."], 1)
