"""One request for speech through the simulated service: admission, its pieces one after the other, and its listener.

A piece of the text is a request to a replica, and a chunk is an event. Frames of the ring buffer and encoding are left out: a
listener gets a chunk as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from cluster.planning.replica import EngineCall
from deployments.errors import MotetError
from deployments.settings import PieceSettings
from deployments.tasks.speech import CHARACTERS_PER_SECOND
from serve_app.gateway.routing.admission import Ticket
from serve_app.gateway.speech.pacing import Pacer
from serve_app.planning.gateway import PlacedCall, SimulatedGateway
from serve_app.planning.requests import PlannedText, SpeechOutcome


def pieces_of(characters: float, settings: PieceSettings) -> list[float]:
    """The lengths of a text's pieces, in characters. Sentences end where they like: pieces after the first are equal."""
    first = min(characters, float(settings.first_piece_characters))
    rest = characters - first
    count = math.ceil(rest / settings.piece_characters)
    return [first, *([rest / count] * count)] if count else [first]


def requests_of(pieces: Sequence[float], most_characters: float) -> list[list[float]]:
    """Neighbouring pieces of at most so many characters together, at least one in each request."""
    requests: list[list[float]] = []
    for piece in pieces:
        if requests and sum(requests[-1]) + piece <= most_characters:
            requests[-1].append(piece)
        else:
            requests.append([piece])
    return requests


class SpeechRun:
    """A request from its arrival to its end."""

    def __init__(
        self, gateway: SimulatedGateway, text: PlannedText, due_s: float, on_end: Callable[[SpeechOutcome], None]
    ) -> None:
        self._gateway = gateway
        self._text = text
        self._due_s = due_s
        self._on_end = on_end
        rules = gateway.rules
        pieces = pieces_of(text.characters, rules.pieces)
        self._requests = requests_of(pieces, rules.request_seconds_of_audio * CHARACTERS_PER_SECOND)
        self._next = 0
        self._pacer = Pacer(rules.pacing)
        self._ticket: Ticket | None = None
        self._sent: PlacedCall | None = None
        self._first_s: float | None = None
        self._answered = False

    def begin(self) -> None:
        """The request arrives at its gateway."""
        self._gateway.time.later(self._gateway.work(self._gateway.settings.request_ms), self._admit)

    def _admit(self) -> None:
        text, gateway = self._text, self._gateway
        max_wait_s = text.max_wait_s or gateway.rules.admission.max_wait_s
        names = gateway.names_in_order(text.model)
        try:
            self._ticket = gateway.admission.admit(
                names, text.key, text.predicted_seconds, max_wait_s, patient=gateway.grows(text.model)
            )
        except MotetError as refusal:
            gateway.work(gateway.settings.refusal_ms)
            self._on_end(SpeechOutcome(text, "refused", retry_after_s=refusal.failure.retry_after_s or 0.0))
            return
        self._send_next()

    def _send_next(self) -> None:
        """Sends the next pieces to a replica, as the driver does."""
        assert self._ticket is not None
        pieces, text = self._requests[self._next], self._text
        self._next += 1
        self._ticket.start_waiting()
        self._answered = False
        call = EngineCall(
            seconds=[piece / text.characters_per_second for piece in pieces],
            predicted_seconds=sum(pieces) / CHARACTERS_PER_SECOND,
            on_chunk=self._chunk,
            on_lost=self._failed,
            buffered_seconds=max(0.0, self._pacer.buffered_seconds(0.0, self._gateway.time.now())),
        )
        begun, preferred = self._first_s is not None, self._ticket.placement
        self._sent = PlacedCall(self._gateway, text.model, call, self._failed, preferred=preferred, begun=begun)
        self._sent.send()

    def _chunk(self, seconds: float, last: bool) -> None:
        assert self._ticket is not None and self._sent is not None
        gateway, ticket = self._gateway, self._ticket
        if not self._answered:
            self._answered = True
            self._sent.answered()
            ticket.placement = self._sent.placement
        ticket.record_made(seconds)
        heard_s = gateway.time.now() + gateway.work(gateway.settings.chunk_ms) + gateway.settings.hop_ms / 1000
        if self._first_s is None:
            self._first_s = heard_s - self._due_s
        self._pacer.listener.send(seconds, heard_s)
        if last:
            self._sent.ended()
            self._go_on()

    def _go_on(self) -> None:
        """The pieces of a request are spoken: the next ones follow, at once or when the listener needs them."""
        assert self._ticket is not None
        gateway = self._gateway
        if self._next == len(self._requests):
            self._ticket.complete()
            self._end("complete")
            return
        wait_s = gateway.settings.hop_ms / 1000
        if self._text.played:
            most_s = self._pacer.look_ahead_seconds + gateway.rules.pacing.capacity_ms / 1000
            wait_s = max(wait_s, self._pacer.listener.buffered_seconds(gateway.time.now()) - most_s)
            self._ticket.stop_waiting()
        gateway.time.later(wait_s, self._send_next)

    def _failed(self) -> None:
        if self._ticket is not None:
            self._ticket.close()
        self._end("failed")

    def _end(self, status: str) -> None:
        listener, now_s = self._pacer.listener, self._gateway.time.now()
        plays_s = max(0.0, listener.buffered_seconds(now_s))
        self._on_end(
            SpeechOutcome(
                self._text, status, self._first_s, listener.underruns, listener.sent_seconds, plays_for_s=plays_s
            )
        )
