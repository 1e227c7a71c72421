"""The engine of language-model voices with a counting model, and the limit for runaway pieces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deployments.engines.lm import transformer
from deployments.engines.lm.engine import (
    LanguageUtterance,
    LanguageVoiceEngine,
    LanguageVoiceOptions,
    PieceState,
    next_parts,
    prompt_shares,
)
from deployments.engines.lm.kv_cache import KvCache, Slot
from deployments.engines.lm.runaway import RunawayGuard, RunawayLimits
from deployments.engines.lm.transformer import PROMPT_BLOCK
from deployments.engines.lm.work_rate import WorkRate
from deployments.engines.protocols import AudioChunk, Samples, SpeechRequest, SpeechTraits, Voice
from deployments.errors import MotetError, fail
from tests.unit.speech_engine_properties import good, joined

RATE = 100
CHUNK = 10
LIMITS = RunawayLimits(
    most_seconds_per_character=1.0, most_seconds_besides=1.0, circling_seconds=1.0, silent_seconds=1.0
)


@dataclass(eq=False, slots=True, kw_only=True)
class Counted(PieceState):
    chunks: int
    said: int = 0


class Counting(LanguageVoiceEngine[str, Counted]):
    """Says ten samples a step: 0.01 for the first, 0.02 for the second; as many chunks as the text has characters.

    A prompt has a position for each word; to read one takes a second of the clock.
    """

    def __init__(self, slots: int = 8, **options: Any) -> None:
        super().__init__("cpu", LanguageVoiceOptions(runaway=LIMITS, **options), rate=RATE / CHUNK, most=1000)
        self.now_s = 0.0
        self._prefill_rate = WorkRate(lambda: self.now_s)
        self.cache = KvCache(layers=1, slots=slots, heads=1, capacity=1, head_dim=1, dtype=torch.float32)
        self.failing = self.poison = False
        self.prefill_counts: list[list[int]] = []
        self.level = 0.01

    @property
    def traits(self) -> SpeechTraits:
        return SpeechTraits(RATE, (Voice("ada", "en"),), "ada", 1.0, 1.0)

    def voice_of(self, request: SpeechRequest) -> tuple[str, str]:
        if request.voice != "ada":
            raise fail("not_found", "no such voice")
        return "ada", "en"

    def begin(self, utterance: LanguageUtterance[str, Counted]) -> Counted:
        chunks, prompt = len(utterance.text), torch.zeros(len(utterance.text.split(" ")), 1)
        return Counted(guard=self.guard(utterance.text), slot=self.cache.join(), prompt=prompt, chunks=chunks)

    def prefill(self, pieces: Sequence[Counted], counts: Sequence[int]) -> None:
        self.prefill_counts.append(list(counts))
        self.now_s += sum(counts)
        assert all(0 < len(part) == count for part, count in zip(next_parts(pieces, counts), counts, strict=True))

    def advance(self, pieces: Sequence[Counted]) -> list[Samples]:
        sounds = []
        for piece in pieces:
            piece.said += 1
            piece.guard.frame()
            level = np.nan if self.poison else self.level * piece.said
            sounds.append(np.full(CHUNK, level, np.float32))
            piece.spoken = piece.said == piece.chunks or piece.guard.ended
        if self.failing:
            raise RuntimeError("no memory")
        return sounds


def utterance(engine: Counting, *pieces: str) -> LanguageUtterance[str, Counted]:
    return engine.open(SpeechRequest(pieces, "ada"))


def rest(engine: Counting, spoken: LanguageUtterance[str, Counted]) -> list[AudioChunk]:
    chunks = []
    while not spoken.finished:
        chunks.append(good(engine.step([spoken])[0]))
    return chunks


def test_chunks_tell_their_piece_their_tokens_and_the_end() -> None:
    engine = Counting()
    chunks = rest(engine, utterance(engine, "ab", "c"))
    assert [(chunk.index, chunk.text, chunk.last, chunk.tokens) for chunk in chunks] == [
        (0, "ab", False, 1),
        (0, "ab", False, 1),
        (1, "c", True, 1),
    ]
    assert {chunk.finish_reason for chunk in chunks} == {"stop"}
    assert engine.cache.free == 8


def test_prompts_of_new_pieces_are_prefilled_together() -> None:
    engine = Counting()
    both = [utterance(engine, "abc"), utterance(engine, "a", "b")]
    engine.step(both)
    engine.step(both)
    assert engine.prefill_counts == [[1, 1], [1]]


def test_who_speaks_does_not_wait_for_a_whole_prompt_of_somebody_else() -> None:
    """At most as much is prefilled as fits into the time, and then nothing is heard yet of the new ones."""
    engine = Counting(prefill_ms=140_000)
    speaking = utterance(engine, "abcdefgh")
    engine.step([speaking])
    new = [utterance(engine, "a " * 100), utterance(engine, "b " * 149)]
    seen = []
    for _ in range(4):
        chunks = [good(chunk) for chunk in engine.step([speaking, *new])]
        seen.append([len(chunk.samples) > 0 for chunk in chunks])
        assert not chunks[0].pending
    assert engine.prefill_counts == [[1], [101], [128], [22]]
    assert seen == [[True, True, False], [True, True, False], [True, True, True], [True, True, True]]


def test_of_prompts_at_least_a_block_is_prefilled_and_all_of_them_while_nobody_speaks() -> None:
    engine = Counting(prefill_ms=1)
    new = [utterance(engine, "a " * 100), utterance(engine, "b " * 149)]
    engine.step(new)
    assert engine.prefill_counts == [[101, 150]]
    late = utterance(engine, "c " * 149)
    while late.piece is None or late.piece.prompt_left:
        engine.step([*new, late])
    assert engine.prefill_counts[1:] == [[PROMPT_BLOCK], [PROMPT_BLOCK], [150 - 2 * PROMPT_BLOCK]]


@pytest.mark.parametrize(
    ("lengths", "most", "counts"),
    [
        ([], 100, []),
        ([30, 50], 200, [30, 50]),
        ([100, 300, 10], 300, [100, 192]),
        ([100, 300, 10], 120, [100]),
        ([10, 300], 0, [10]),
        ([300], 0, [64]),
        ([64], 64, [64]),
    ],
)
def test_a_share_is_whole_blocks_of_the_first_prompts(lengths: list[int], most: int, counts: list[int]) -> None:
    assert prompt_shares(lengths, most) == counts


def test_a_rate_is_an_average_that_forgets() -> None:
    now_s = [0.0]
    rate = WorkRate(lambda: now_s[0])
    assert rate.units_in(10.0) == 0
    for each in [1.0, 1.0, 9.0, *[1.0] * 20]:
        with rate.measuring(4):
            now_s[0] += 4 * each
        assert 1.0 <= (rate.seconds_each or 0) <= 3.0
    with rate.measuring(0):
        now_s[0] += 1.0
    assert rate.units_in(10.0) == 9 and rate.units_in(-1.0) == 0


def test_a_piece_that_cannot_begin_fails_alone_and_holds_no_slot() -> None:
    engine = Counting(slots=1)
    first, second = utterance(engine, "ab"), utterance(engine, "ab")
    results = engine.step([first, second])
    assert isinstance(results[1], MotetError) and second.finished
    assert len(rest(engine, first)) == 1


def test_a_batch_that_fails_in_the_middle_goes_on_where_its_listeners_are() -> None:
    """What had left already is said again unheard, and nothing is said twice or left out."""
    engine = Counting()
    spoken = [utterance(engine, "abcd"), utterance(engine, "abc", "d")]
    before = [good(chunk) for chunk in engine.step(spoken)]
    engine.failing = True
    with pytest.raises(RuntimeError, match="no memory"):
        engine.step(spoken)
    assert engine.cache.free == 8
    engine.failing = False
    after = rest(engine, spoken[0])
    assert [chunk.pending for chunk in after] == [True, False, False, False]
    np.testing.assert_allclose(joined([before[0], *after]), np.repeat([0.01, 0.02, 0.03, 0.04], CHUNK))
    np.testing.assert_allclose(
        joined([before[1], *rest(engine, spoken[1])]), np.repeat([0.01, 0.02, 0.03, 0.01], CHUNK)
    )


def test_samples_that_are_no_numbers_end_the_utterance() -> None:
    engine = Counting()
    engine.poison = True
    spoken = utterance(engine, "ab")
    refused = engine.step([spoken])[0]
    assert isinstance(refused, MotetError) and refused.failure.kind == "engine"
    assert spoken.finished and engine.cache.free == 8


def test_closing_twice_frees_one_slot() -> None:
    engine = Counting()
    spoken = utterance(engine, "ab")
    engine.step([spoken])
    engine.close(spoken)
    engine.close(spoken)
    assert engine.cache.free == 8


def test_silence_that_does_not_end_ends_the_piece_and_the_next_one_is_said() -> None:
    engine = Counting()
    engine.level = 0.0
    spoken = utterance(engine, "a" * 30, "b")
    chunks = rest(engine, spoken)
    assert len(chunks) == RATE // CHUNK + 1
    assert [chunk.finish_reason for chunk in chunks[-3:]] == ["stop", "silence", "silence"]
    assert chunks[-1].last and engine.cache.free == 8


def test_a_piece_of_which_nothing_is_heard_says_so_though_it_ended_by_itself() -> None:
    engine = Counting()
    engine.level = 0.0
    assert [chunk.finish_reason for chunk in rest(engine, utterance(engine, "abc"))] == ["stop", "stop", "silence"]


def test_a_piece_that_was_ended_keeps_its_reason_though_nothing_of_it_is_heard() -> None:
    guard = RunawayGuard(LIMITS, "abc", rate=10, most=2)
    assert [guard.frame() for _ in range(2)] == [False, True]
    assert guard.final_reason() == "length"


def test_frames_that_bring_no_sound_at_all_are_silence_from_the_start_and_between() -> None:
    guard = RunawayGuard(LIMITS, "a" * 99, rate=10)
    assert [guard.frame(soundless=True) for _ in range(10)] == [False] * 9 + [True]
    assert guard.reason == "silence"
    guard, word = RunawayGuard(LIMITS, "a" * 99, rate=10), np.full(10, 0.1, np.float32)
    for _ in range(5):
        assert not any(guard.frame(soundless=True) for _ in range(9))
        assert not guard.frame() and not guard.sound(word, RATE)
    assert guard.final_reason() == "stop"
    assert not guard.sound(np.zeros(50, np.float32), RATE)
    assert [guard.frame(soundless=True) for _ in range(5)] == [False] * 4 + [True]


def test_a_text_bounds_its_sound() -> None:
    guard = RunawayGuard(LIMITS, "abc", rate=10)
    assert guard.most_tokens == 40
    assert [guard.frame() for _ in range(40)] == [False] * 39 + [True]
    assert guard.reason == "length"
    assert RunawayGuard(LIMITS, "abc", rate=10, most=7).most_tokens == 7


@pytest.mark.parametrize("circle", [(5,), (1, 2), (3, 1, 4, 1, 5, 9, 2)])
def test_tokens_that_go_round_in_a_circle_are_a_repetition(circle: tuple[int, ...]) -> None:
    guard = RunawayGuard(LIMITS, "a long text" * 9, rate=20)
    said = list(range(10, 25)) + list(circle) * 30
    ends = [guard.token(token) for token in said]
    assert guard.reason == "repetition"
    assert ends.index(True) == 15 + len(circle) + 20 - 1


def test_tokens_that_come_back_now_and_then_are_none() -> None:
    guard = RunawayGuard(LIMITS, "a long text" * 9, rate=20)
    random = np.random.default_rng(0)
    assert not any(guard.token(int(token)) for token in random.integers(0, 4, 300))


def test_a_pause_is_no_silence() -> None:
    guard = RunawayGuard(LIMITS, "abc", rate=10)
    pause, word = np.zeros(60, np.float32), np.full(10, 0.1, np.float32)
    assert not any(guard.sound(part, RATE) for part in (pause, word, pause, word, pause))
    assert guard.sound(pause, RATE) and guard.reason == "silence"
    guard.frame()
    assert guard.reason == "silence"


class Plain(nn.Module):
    """A layer as small as can be: four query heads over two of keys and values."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.qkv = torch.randn(32, 16, generator=random) / 4
        self.out = torch.randn(16, 16, generator=random) / 4

    def attention_input(self, x: Tensor, *places: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = (x @ self.qkv.t()).view(len(x), 8, 4).split([4, 2, 2], dim=1)
        return query + places[0][:, None, None], key, value

    def rest(self, x: Tensor, attended: Tensor) -> Tensor:
        return x + attended @ self.out


def test_packed_prompts_and_steps_are_what_each_stream_is_alone() -> None:
    modules = nn.ModuleList([Plain(0), Plain(1)])
    x = torch.randn(12, 16, generator=torch.Generator().manual_seed(3))

    def read(parts: list[Tensor]) -> tuple[Tensor, list[Slot], KvCache]:
        cache = KvCache(layers=2, slots=3, heads=2, capacity=10, head_dim=4, dtype=torch.float32)
        slots = [cache.join() for _ in parts]
        places = transformer.packed_positions([len(part) for part in parts], [0] * len(parts)) / 10
        lengths = [len(part) for part in parts]
        return (
            transformer.prefill(transformer.stack(modules), torch.cat(parts), lengths, slots, cache, places),
            slots,
            cache,
        )

    def end(part: Tensor) -> Tensor:
        return read([part])[0][0]

    ragged, slots, cache = read([x[:4], x[7:10]])
    assert transformer.last_rows([4, 3]).tolist() == [3, 6]
    torch.testing.assert_close(ragged, torch.stack([end(x[:4]), end(x[7:10])]))
    for offset in range(2):
        positions = torch.tensor([slot.position for slot in slots])
        rows = torch.stack([x[4 + offset], x[10 + offset]])
        stepped: Any = transformer.step(transformer.stack(modules), rows, positions, cache, 6, positions / 10)
        torch.testing.assert_close(stepped, torch.stack([end(x[: 5 + offset]), end(x[7 : 11 + offset])]))
        for slot in slots:
            slot.position += 1
