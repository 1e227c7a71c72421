"""Conversations with the stub of a chat model: the wait for the first sound, and barge-in."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle, islice

from serve_app.bench.frame import Figure, Sheet, at_most
from serve_app.bench.live_chat_model import AT_LENGTH, FIRST_TOKEN_S
from serve_app.bench.live_conversation import AnswerTime, ConversationLoad, converse, interrupt
from serve_app.bench.live_points import Stage, middle_and_high
from serve_app.bench.live_recordings import LiveRecording
from serve_app.bench.live_service import VOICE

FIRST_SOUND = "conversation, {} at once, first sound after the turn, p95"
LIMITS_MS = {1: 900.0, 4: 1500.0}
BARGE_IN = "barge-in, from the user's speech to silence, p95"
STEPS = "barge-in, steps of the voice afterwards, beyond the one under way"


def figures(counts: Sequence[int]) -> list[Figure]:
    """What is measured."""
    return [
        *(Figure(FIRST_SOUND.format(count), "ms", at_most(LIMITS_MS[count])) for count in counts),
        Figure(BARGE_IN, "ms", at_most(150)),
        Figure(STEPS, "steps", at_most(0)),
    ]


def measure_answers(
    sheet: Sheet,
    stage: Stage,
    model: str,
    said: Sequence[LiveRecording],
    counts: Sequence[int],
    turns: int,
    interruptions: int,
) -> None:
    """Fills the figures in. Each session has `turns`; `model` hears them. Without turns, the answers that are interrupted
    count for one conversation."""
    everything, program = cycle(said), stage.service.program
    for count in counts if turns else ():
        with sheet.measuring(f"conversations, {count} at once"):
            spoken = tuple(tuple(islice(everything, turns)) for _ in range(count))
            load = ConversationLoad(program, model, VOICE, spoken)
            _put_answers(sheet, stage.clients.run(converse, load), count, model)
    with sheet.measuring("barge-in"):
        load = ConversationLoad(program, model, VOICE, (tuple(islice(everything, interruptions + 1)),), AT_LENGTH)
        found = stage.clients.run(interrupt, load)
        if not turns:
            _put_answers(sheet, [each.answer for each in found], 1, model)
        silent = middle_and_high([each.silent_s * 1000 for each in found])
        sheet.put(BARGE_IN, silent[1], f"p50 {silent[0]:.0f} ms; {len(found)} interruptions")
        sheet.put(
            STEPS, sum(max(each.steps - 1, 0) for each in found), f"{[each.steps for each in found]} ended after it"
        )


def _put_answers(sheet: Sheet, times: Sequence[AnswerTime], count: int, model: str) -> None:
    sound = middle_and_high([time.sound_s * 1000 for time in times])
    turn, text = (middle_and_high([getattr(time, name) * 1000 for time in times])[0] for name in ("turn_s", "text_s"))
    token = "{:.0f} to {:.0f} ms".format(*(seconds * 1000 for seconds in FIRST_TOKEN_S))
    note = f"p50 {sound[0]:.0f} ms: end of turn {turn:.0f}, text {text:.0f}; first token {token}; {len(times)} turns"
    sheet.put(FIRST_SOUND.format(count), sound[1], f"{note}, heard by {model}")
