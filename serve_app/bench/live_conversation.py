"""Conversations in real time: how long the user waits for the first sound, and how soon the voice stops when they speak."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deployments.engines.protocols import SpokenWord
from deployments.errors import fail
from serve_app.bench.live_client import (
    AUDIO,
    COMPLETED,
    DONE,
    STOPPED,
    LiveClient,
    ServerEvent,
    input_settings,
    live_client,
)
from serve_app.bench.live_microphone import messages_of
from serve_app.bench.live_recordings import LiveRecording
from serve_app.bench.load import steps_of
from serve_app.bench.running_service import RunningProgram

SILENCE_MS = 300
"""Silence after which a turn ends."""
ANSWER_S = 60.0
"""The longest wait for the end of an answer, whose sound may come at the speed at which it is played."""
PAUSE_S = 0.5
"""Between an answer and the next turn."""
TALKS_S = 1.5
"""How long the voice has talked when the user interrupts it."""
AFTERWARDS_S = 0.8
"""How long steps are counted after a response was cancelled. The user still speaks, so no new response has begun."""


@dataclass(frozen=True, slots=True)
class ConversationLoad:
    """Sessions at once, each with what its user says, turn by turn."""

    service: RunningProgram
    model: str
    voice: str
    turns: tuple[tuple[LiveRecording, ...], ...]
    instructions: str = ""

    @property
    def session(self) -> dict[str, Any]:
        """The settings of a session."""
        audio = {"input": input_settings(self.model, SILENCE_MS), "output": {"voice": "alloy"}}
        return {"type": "realtime", "instructions": self.instructions, "output_modalities": ["audio"], "audio": audio}


@dataclass(frozen=True, slots=True)
class AnswerTime:
    """Seconds from the end of the user's speech: to the end of the turn, the text of the turn, and the first sound."""

    turn_s: float
    text_s: float
    sound_s: float


@dataclass(frozen=True, slots=True)
class Interruption:
    """Seconds from the start of the user's speech to the last sound and the end of the response, the steps of the voice that
    ended after that, and how long the user had waited for that response."""

    silent_s: float
    steps: int
    answer: AnswerTime


def converse(load: ConversationLoad) -> list[AnswerTime]:
    """All turns of all sessions. Raises `MotetError` if a turn has no answer."""

    async def everyone() -> list[list[AnswerTime]]:
        return await asyncio.gather(*(_session(load, turns, number) for number, turns in enumerate(load.turns)))

    return [answer for session in asyncio.run(everyone()) for answer in session]


def interrupt(load: ConversationLoad) -> list[Interruption]:
    """Interrupts the answer to each turn of the first session with the next turn."""
    return asyncio.run(_interruptions(load, load.turns[0]))


def answer_time(words: Sequence[SpokenWord], begins_s: float, events: Sequence[ServerEvent]) -> AnswerTime | None:
    """The times of the answer to a turn whose recording begins at `begins_s`, from the events after that; None if there is
    none. An answer that begins before the turn's last word ends is one to a part of the turn, and is left out."""
    ends = begins_s + words[-1].end
    times = dict[str, float]()
    for event in events:
        if event.type in (STOPPED, COMPLETED, AUDIO) and event.at_s > ends:
            times.setdefault(event.type, event.at_s - ends)
    if AUDIO not in times:
        return None
    return AnswerTime(*(times.get(kind, float("nan")) for kind in (STOPPED, COMPLETED, AUDIO)))


def silent_after(words: Sequence[SpokenWord], begins_s: float, events: Sequence[ServerEvent]) -> float | None:
    """Seconds from the first word of a recording that begins at `begins_s` to the last sound, or the end, of the response
    that it interrupts; None if it did not end, or ended before."""
    speaks = begins_s + words[0].start
    done = next((event for event in events if event.type == DONE), None)
    if done is None or done.at_s < speaks or done.facts["response"]["status"] != "cancelled":
        return None
    response = done.facts["response"]["id"]
    of_it = [event.at_s for event in events if event.type == AUDIO and event.facts.get("response_id") == response]
    return max(done.at_s, *of_it) - speaks if of_it else done.at_s - speaks


async def _session(load: ConversationLoad, turns: Sequence[LiveRecording], number: int) -> list[AnswerTime]:
    await asyncio.sleep(number * PAUSE_S)
    answers = list[AnswerTime]()
    async with live_client(load.service, "model=gpt-realtime", load.session) as client:
        for turn in turns:
            known = len(client.events)
            begins = client.microphone.say(messages_of(turn.samples))
            done = await client.until(_ended_after(begins + turn.words[-1].end), ANSWER_S, known)
            answer = answer_time(turn.words, begins, client.events[known:])
            if done is None or answer is None:
                raise fail("engine", f"A turn was not answered: {_types(client.events[known:])}")
            answers.append(answer)
            await asyncio.sleep(PAUSE_S)
    return answers


async def _interruptions(load: ConversationLoad, turns: Sequence[LiveRecording]) -> list[Interruption]:
    found = list[Interruption]()
    async with live_client(load.service, "model=gpt-realtime", load.session) as client:
        begins, spoken, known = client.microphone.say(messages_of(turns[0].samples)), turns[0], 0
        for turn in turns[1:]:
            await client.until(_sounds_after(begins + spoken.words[-1].end), ANSWER_S)
            answer = answer_time(spoken.words, begins, client.events[known:])
            if answer is None:
                raise fail("engine", f"A turn was not answered: {_types(client.events)}")
            await asyncio.sleep(TALKS_S)
            known = len(client.events)
            begins, spoken = client.microphone.say(messages_of(turn.samples)), turn
            silent_s, steps = await _interruption(load, client, turn, begins, known)
            found.append(Interruption(silent_s, steps, answer))
    return found


async def _interruption(
    load: ConversationLoad, client: LiveClient, turn: LiveRecording, begins: float, known: int
) -> tuple[float, int]:
    if await client.until(_is(DONE), turn.seconds, known) is None:
        raise fail("engine", f"A response was not interrupted: {_types(client.events[known:])}")
    before = await steps_of(load.service, load.voice)
    await asyncio.sleep(AFTERWARDS_S)
    after = await steps_of(load.service, load.voice)
    silent = silent_after(turn.words, begins, client.events[known:])
    if silent is None:
        raise fail("engine", "A response ended by itself before it was interrupted.")
    return silent, after["steps"] - before["steps"]


def _is(kind: str) -> Callable[[ServerEvent], bool]:
    return lambda event: event.type == kind


def _ended_after(moment_s: float) -> Callable[[ServerEvent], bool]:
    return lambda event: event.type == DONE and event.at_s > moment_s


def _sounds_after(moment_s: float) -> Callable[[ServerEvent], bool]:
    return lambda event: event.type == AUDIO and event.at_s > moment_s


def _types(events: Sequence[ServerEvent]) -> str:
    return ", ".join(event.type + str(event.facts.get("error", "")) for event in events[-12:])
