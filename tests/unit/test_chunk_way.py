"""How many asynchronous generators a chunk of speech passes between the replica's handle and the client."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import FrameType

import pytest

from tests.unit.test_api import Bench
from tests.unit.test_speech_sessions import CONFIG, DONE, conversation, text

MOST_GENERATORS = 5
PRODUCT = tuple(str(Path(__file__).parents[2] / package) for package in ("deployments", "cluster", "serve_app"))
SENTENCES = tuple(f"This is sentence number {number} of the text." for number in range(8))
TEXT = " ".join(SENTENCES)


class YieldCounter:
    """Counts how often each asynchronous generator of the product yields, while it is the thread's profile function."""

    def __init__(self) -> None:
        self.yields: Counter[str] = Counter()

    def __call__(self, frame: FrameType, event: str, argument: object) -> None:
        # CPython wraps what an asynchronous generator yields; what it awaits passes the same way unwrapped.
        if event == "return" and type(argument).__name__ == "async_generator_wrapped_value":
            code = frame.f_code
            assert code.co_flags & inspect.CO_ASYNC_GENERATOR
            if code.co_filename.startswith(PRODUCT):
                self.yields[code.co_qualname] += 1


async def _events(bench: Bench) -> None:
    assert (await bench.speak(input=TEXT, stream_format="sse")).status_code == 200


async def _file(bench: Bench) -> None:
    assert (await bench.speak(input=TEXT)).status_code == 200


async def _played_file(bench: Bench) -> None:
    assert (await bench.speak(input=TEXT, pacing="played")).status_code == 200


async def _session(bench: Bench) -> None:
    assert (await conversation(bench, CONFIG, text(TEXT), DONE))[-1] == 1000


def generators_on_the_way(client: Callable[[Bench], Awaitable[None]] = _events) -> list[str]:
    """The qualified names of the asynchronous generators that every chunk passes from the replica's handle to the client.

    Speaks a text of eight chunks through the whole application, with a stand-in for the replica, and counts the generators
    that yield at least once for each chunk. A context manager yields once for each call, and is not counted.
    """
    counter = YieldCounter()

    async def speak() -> None:
        bench = Bench(speech={"request_seconds_of_audio": 0.1})  # a request to the replica for each sentence
        sys.setprofile(counter)
        try:
            await client(bench)
        finally:
            sys.setprofile(None)
        assert bench.synthesizer.closed == len(SENTENCES)

    asyncio.run(speak())
    return sorted(name for name, count in counter.yields.items() if count >= len(SENTENCES))


@pytest.mark.parametrize("client", [_events, _file, _played_file, _session])
def test_a_chunk_passes_few_generators(client: Callable[[Bench], Awaitable[None]]) -> None:
    found = generators_on_the_way(client)
    assert "speak" in found
    assert len(found) <= MOST_GENERATORS, found
