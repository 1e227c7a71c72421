"""Text that arrives while it is spoken: when its pieces are sent, and how long the source waits. The clock jumps."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deployments.errors import MotetError
from deployments.settings import ArrivalSettings, PieceSettings
from deployments.text.piece import Piece, as_written
from deployments.text.segmentation import Cutter, cut_into_pieces
from deployments.text.sources import CUT_AT_ONCE, ArrivingText, PieceSource, WholeText
from tests.unit.jumping_clock import now, run

PIECES = PieceSettings(first_piece_characters=40, piece_characters=80)
ARRIVAL = ArrivalSettings(max_characters=1000, pause_s=1.0, idle_s=30.0)
PROSE = "It rained all day, in town and on the hills. We stayed inside. Dr. Smith read 1,250 pages aloud; nobody slept."


def arriving() -> ArrivingText:
    return ArrivingText(Cutter(PIECES), ARRIVAL)


async def all_of(text: PieceSource, characters: float = 1.0) -> list[str]:
    pieces: list[Piece] = []
    while group := await text.take(len(pieces), characters):
        pieces += group
    return [piece.text for piece in pieces]


@pytest.mark.parametrize(("characters", "sizes"), [(1, [1, 1, 1]), (5, [1, 1, 1]), (6, [2, 1]), (99, [3])])
def test_a_whole_text_is_taken_in_groups_from_any_place(characters: float, sizes: list[int]) -> None:
    async def test() -> None:
        text = WholeText(as_written(("abc", "def", "ghi")))
        taken = [len(await text.take(sum(sizes[:n]), characters)) for n in range(len(sizes))]
        assert taken == sizes
        assert await text.take(1, 99) == as_written(("def", "ghi"))
        assert await text.take(3, 99) == ()

    run(test)


@settings(max_examples=50)
@given(st.lists(st.integers(0, len(PROSE)), max_size=8), st.floats(1, 200))
def test_the_pieces_are_those_of_the_whole_text(places: list[int], characters: float) -> None:
    async def test() -> None:
        text, borders = arriving(), sorted({0, len(PROSE), *places})
        reader = asyncio.create_task(all_of(text, characters))
        for begin, end in pairwise(borders):
            text.write(PROSE[begin:end])
            await asyncio.sleep(ARRIVAL.pause_s / 8)  # a few messages without words are no pause
        text.end()
        assert tuple(await reader) == cut_into_pieces(PROSE, PIECES)
        assert tuple(text.pieces) == as_written(cut_into_pieces(PROSE, PIECES))

    run(test)


def test_a_piece_leaves_as_soon_as_nothing_can_change_it() -> None:
    async def test() -> None:
        text = arriving()
        reader = asyncio.create_task(text.take(0, 1))
        await asyncio.sleep(5)
        text.write("It rained all day. We stayed ")
        await asyncio.sleep(0.5)
        assert not reader.done()
        text.write("inside and")
        assert await reader == as_written(("It rained all day.",))
        assert now() == 5.5

    run(test)


def test_what_is_there_is_spoken_when_no_more_text_comes_for_a_while() -> None:
    async def test() -> None:
        text = arriving()
        text.write("We went to the har")
        assert await text.take(0, 1) == as_written(("We went to the",))
        assert now() == ARRIVAL.pause_s
        text.write("bor.")
        text.end()
        assert await text.take(1, 1) == as_written(("harbor.",))
        assert await text.take(2, 1) == ()

    run(test)


def test_a_pause_is_counted_from_the_last_letter() -> None:
    async def test() -> None:
        text = arriving()
        reader = asyncio.create_task(text.take(0, 1))
        for word in ("We ", "went ", "home "):
            text.write(word)
            await asyncio.sleep(0.9)
        assert await reader == as_written(("We went home",))
        assert now() == pytest.approx(3 * 0.9 + 0.1)

    run(test)


def test_a_flush_speaks_everything_at_once() -> None:
    async def test() -> None:
        text = arriving()
        text.write("We went to the har")
        text.flush()
        assert await text.take(0, 1) == as_written(("We went to the har",))
        assert now() == 0

    run(test)


def test_a_writer_who_is_gone_is_not_waited_for() -> None:
    async def test() -> None:
        text = arriving()
        with pytest.raises(MotetError) as caught:
            await text.take(0, 1)
        assert (caught.value.failure.kind, caught.value.failure.code) == ("timeout", "session_idle")
        assert now() == ARRIVAL.idle_s

    run(test)


def test_time_in_which_there_was_something_to_say_is_not_idle() -> None:
    async def test() -> None:
        text = arriving()
        text.write("We went home.")
        text.flush()
        assert await text.take(0, 1) == as_written(("We went home.",))
        await asyncio.sleep(100)  # it is being spoken
        reader = asyncio.create_task(text.take(1, 1))
        await asyncio.sleep(ARRIVAL.idle_s - 1)
        text.write("And")
        await asyncio.sleep(ARRIVAL.idle_s - 1)
        text.write(" then we slept, all of us. Nobody knows why")
        assert await reader == as_written(("And then we slept, all of us.",))

    run(test)


@pytest.mark.parametrize("sign", ["", " ", "\n\n", "...", None])
@pytest.mark.parametrize("said", ["", "We went home."])
def test_a_writer_who_sends_no_words_is_not_waited_for(sign: str | None, said: str) -> None:
    async def test() -> None:
        text = arriving()
        text.write(said)
        text.flush()
        taken = len(await text.take(0, 1)) if said else 0
        reader = asyncio.create_task(text.take(taken, 1))
        for _ in range(round(2 * ARRIVAL.idle_s)):
            assert reader.done() is (now() > ARRIVAL.idle_s)
            await asyncio.sleep(0.7)
            text.flush() if sign is None else text.write(sign)
        assert isinstance(reader.exception(), MotetError)

    run(test)


def test_a_long_message_lets_others_go_on_while_it_is_cut() -> None:
    async def test() -> None:
        text = ArrivingText(Cutter(PIECES), ArrivalSettings(max_characters=10**6, pause_s=1.0, idle_s=30.0))
        text.write("It rained all day in town. " * 2000)
        text.end()
        reader, turns = asyncio.create_task(text.take(0, 1)), 0
        while not reader.done():
            turns += 1
            await asyncio.sleep(0)
        assert turns > 2000 * 27 // CUT_AT_ONCE
        assert len(text.pieces) == 2000

    run(test)


def test_a_flood_of_flushes_takes_no_memory() -> None:
    async def test() -> None:
        text = arriving()
        for _ in range(1000):
            text.flush()
        assert len(text._unread) == 1
        text.write("We went home")
        text.flush()
        assert await text.take(0, 1) == as_written(("We went home",))

    run(test)


def test_a_text_is_bounded_and_ends_once() -> None:
    async def test() -> None:
        text = arriving()
        text.write("a" * 1000)
        with pytest.raises(MotetError) as caught:
            text.write("b")
        assert caught.value.failure.code == "string_above_max_length"
        other = arriving()
        other.end()
        with pytest.raises(MotetError, match="ended"):
            other.write("more")

    run(test)
