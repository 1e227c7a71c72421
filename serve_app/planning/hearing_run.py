"""Recordings and live turns through the simulated service: windows in flight, and hearings while somebody speaks.

A window is an event; decoding and cutting at the audio helpers are left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from cluster.planning.replica import EngineCall
from deployments.errors import MotetError
from deployments.settings import WindowSettings
from serve_app.gateway.routing.admission import Ticket
from serve_app.planning.gateway import PlacedCall, SimulatedGateway
from serve_app.planning.requests import PlannedText, SpeechOutcome

WINDOW_S = WindowSettings().window_s
IN_FLIGHT = 2
"""Windows of one recording in flight for each item of a step, as `windows.windows_in_flight` has it by default."""


class RecordingRun:
    """One recording: its windows go to replicas, some at a time. Its outcome counts the first transcript as first sound."""

    def __init__(
        self,
        gateway: SimulatedGateway,
        model: str,
        seconds: float,
        items_of_a_step: int,
        due_s: float,
        on_end: Callable[[SpeechOutcome], None],
    ) -> None:
        self._gateway = gateway
        self._model = model
        self._seconds = seconds
        self._windows = math.ceil(seconds / WINDOW_S)
        self._in_flight = IN_FLIGHT * items_of_a_step
        self._due_s = due_s
        self._on_end = on_end
        self._sent = self._heard = 0
        self._first_s: float | None = None
        self._ticket: Ticket | None = None
        self._over = False

    def begin(self) -> None:
        """The recording arrives."""
        gateway = self._gateway
        gateway.work(gateway.settings.request_ms)
        try:
            wait_s = gateway.rules.windows_max_wait_s
            names = gateway.names_in_order(self._model)
            self._ticket = gateway.admission.admit(names, None, self._seconds, wait_s)
        except MotetError as refusal:
            self._end("refused", refusal.failure.retry_after_s or 0.0)
            return
        self._ticket.start_waiting()
        for _ in range(min(self._in_flight, self._windows)):
            self._send()

    def _send(self) -> None:
        self._sent += 1
        self._send_window(self._sent - 1, again=True)

    def _send_window(self, number: int, *, again: bool) -> None:
        """Sends a window; `again` if it is sent once more after a failure."""
        seconds = min(WINDOW_S, self._seconds - number * WINDOW_S)

        def failed() -> None:
            if again and not self._over:
                self._send_window(number, again=False)
            else:
                self._failed()

        call = EngineCall([seconds], seconds, lambda made, _: self._window(made, sent), failed, window=number)
        begun = self._first_s is not None
        sent = PlacedCall(self._gateway, self._model, call, failed, learns=False, begun=begun)
        sent.send()

    def _window(self, seconds: float, sent: PlacedCall) -> None:
        sent.answered()
        sent.ended()
        if self._over or self._ticket is None:
            return
        self._heard += 1
        self._ticket.placement = sent.placement
        self._ticket.record_made(seconds)
        if self._first_s is None:
            self._first_s = self._gateway.time.now() - self._due_s
        if self._heard == self._windows:
            self._ticket.complete()
            self._end("complete")
        elif self._sent < self._windows:
            self._send()

    def _failed(self) -> None:
        if not self._over and self._ticket is not None:
            self._ticket.close()
            self._end("failed")

    def _end(self, status: str, retry_after_s: float = 0.0) -> None:
        self._over = True
        text = PlannedText(self._model, 0.0, 1.0)
        heard_s = self._heard * WINDOW_S if status != "complete" else self._seconds
        self._on_end(SpeechOutcome(text, status, self._first_s, audio_seconds=heard_s, retry_after_s=retry_after_s))


def hear_turn(
    gateway: SimulatedGateway, model: str, seconds: float, every_s: float, on_heard: Callable[[bool], None]
) -> None:
    """Hears a turn while it is spoken, and at its end; `on_heard` gets whether the last hearing was answered. The hearings of
    a turn grow with it."""

    def hear(length: float, last: bool) -> None:
        def end(answered: bool) -> None:
            if last:
                on_heard(answered)

        def heard(_made: float, _last: bool) -> None:
            sent.answered()
            sent.ended()
            end(True)

        call = EngineCall([length], length, heard, lambda: end(False), live=last)
        sent = PlacedCall(gateway, model, call, lambda: end(False), learns=False)
        sent.send()

    for number in range(1, math.ceil(seconds / every_s)):
        length = number * every_s
        gateway.time.later(length, lambda length=length: hear(min(length, WINDOW_S), False))  # type: ignore[misc]
    gateway.time.later(seconds, lambda: hear(min(seconds, WINDOW_S), True))
