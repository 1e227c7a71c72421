"""Simulated clients: requests at random, retries, conversations, and recordings. The same seed gives the same traffic."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import cycle

import numpy as np

from cluster.planning.clock import SimulatedTime
from serve_app.planning.gateway import SimulatedGateway
from serve_app.planning.hearing_run import RecordingRun, hear_turn
from serve_app.planning.outcome import TrafficCounts
from serve_app.planning.requests import PlannedText, SpeechOutcome
from serve_app.planning.settings import (
    MAX_CHARACTERS,
    MIN_CHARACTERS,
    LiveTraffic,
    PlanSettings,
    RecordingTraffic,
    SpeechTraffic,
    TextLengths,
)
from serve_app.planning.speech_run import SpeechRun

RETRY_SPREAD = 0.2
"""Clients come back after `Retry-After` and up to this share of it later."""
LOST_RETRY_S = 1.0
"""A client that lost its stream comes back after this time, and up to as much later."""
QUIET_S = 30.0
"""How often a curve at zero is looked at again."""
SESSIONS_EVERY_S = 5.0
"""How often the number of conversations follows its curve."""


def share_at(curve: Sequence[float], at_s: float, duration_s: float) -> float:
    """The value of a curve, interpolated between its points. The first and the last are at the ends of the duration."""
    if len(curve) == 1:
        return curve[0]
    position = min(max(at_s / duration_s, 0.0), 1.0) * (len(curve) - 1)
    low = min(int(position), len(curve) - 2)
    return curve[low] + (curve[low + 1] - curve[low]) * (position - low)


class SimulatedClients:
    """All clients of a plan, which take the gateways by turns. Counts begin after the warm-up."""

    def __init__(
        self, time: SimulatedTime, settings: PlanSettings, gateways: Sequence[SimulatedGateway], seed: int
    ) -> None:
        self.counts: dict[str, TrafficCounts] = {}
        self.open_streams = 0
        self.recent = TrafficCounts()
        """What became of requests since this was last replaced."""
        self._time = time
        self.settings = settings
        self._gateways = cycle(gateways)
        self._random = np.random.default_rng(seed)
        traffic = settings.traffic
        for number, speech in enumerate(traffic.speech, 1):
            time.process(self._speech(speech, self._name("speech", speech.model, number, len(traffic.speech))))
        for number, live in enumerate(traffic.live, 1):
            time.process(self._live(live, self._name("live", live.speaks_with, number, len(traffic.live))))
        for number, recordings in enumerate(traffic.recordings, 1):
            name = self._name("recordings", recordings.model, number, len(traffic.recordings))
            time.process(self._recordings(recordings, name))

    def request(self, text: PlannedText, name: str, retries: int = 0) -> None:
        """One client asks for a text."""
        self.count_asked(name)
        self._attempt(text, name, retries, self._time.now())

    def _name(self, kind: str, model: str, number: int, of: int) -> str:
        name = f"{kind} {model}" if of == 1 else f"{kind} {number} {model}"
        self.counts[name] = TrafficCounts()
        return name

    @property
    def _counted(self) -> bool:
        return self._time.now() >= self.settings.warm_up_s

    def count_asked(self, name: str) -> None:
        """A request came."""
        self.recent.asked += 1
        self.counts[name].asked += self._counted

    def _count(self, name: str, outcome: SpeechOutcome) -> None:
        self.recent.add(outcome)
        if self._counted:
            self.counts[name].add(outcome)

    def _attempt(self, text: PlannedText, name: str, retries: int, due_s: float) -> None:
        def ended(outcome: SpeechOutcome) -> None:
            self.open_streams -= 1
            self._count(name, outcome)
            if outcome.status != "complete" and retries > 0:
                wait_s = self._retry_s(outcome)
                self._time.later(wait_s, lambda: self._attempt(text, name, retries - 1, due_s))

        self.open_streams += 1
        SpeechRun(next(self._gateways), text, due_s, ended).begin()

    def _retry_s(self, outcome: SpeechOutcome) -> float:
        random = float(self._random.random())
        if outcome.status == "refused":
            return max(1.0, outcome.retry_after_s) * (1 + RETRY_SPREAD * random)
        return LOST_RETRY_S * (1 + random)

    def _share(self, curve: Sequence[float]) -> float:
        return share_at(curve, self._time.now(), self.settings.duration_s) / self.settings.cells

    def _speech(self, traffic: SpeechTraffic, name: str) -> Iterator[float]:
        model = self.settings.models[traffic.model]
        mean_s = traffic.text.mean_characters / model.characters_per_second
        keys = cycle(f"{name}, key {number}" for number in range(traffic.keys)) if traffic.keys else None
        for wait_s in self._arrivals(
            lambda: traffic.streams_at_once * self._share(traffic.day_curve) / mean_s, traffic
        ):
            if wait_s is not None:
                yield wait_s
                continue
            text = PlannedText(
                traffic.model,
                self.length(traffic.text),
                model.characters_per_second,
                traffic.pacing == "played",
                next(keys) if keys else None,
                model.max_wait_s,
            )
            self.request(text, name, traffic.retries)

    def _arrivals(self, rate: Callable[[], float], traffic: SpeechTraffic | RecordingTraffic) -> Iterator[float | None]:
        """Waits in seconds, and None for each arrival. The rate, per second, is looked at again after each wait."""
        steady = isinstance(traffic, SpeechTraffic) and traffic.arrivals == "steady"
        left = self.exponential() if not steady else 1.0
        while True:
            now = rate()
            wait_s = left / now if now > 0 else math.inf
            if wait_s > QUIET_S:
                left -= QUIET_S * now
                yield QUIET_S
                continue
            yield wait_s
            yield None
            left = 1.0 if steady else self.exponential()

    def exponential(self) -> float:
        """A random time, of 1 on average."""
        return float(self._random.exponential())

    def length(self, text: TextLengths) -> float:
        """The length of a text, in characters."""
        middle = math.log(text.mean_characters) - text.spread**2 / 2
        length = math.exp(middle + text.spread * float(self._random.standard_normal()))
        return min(max(length, MIN_CHARACTERS), MAX_CHARACTERS)

    def _recordings(self, traffic: RecordingTraffic, name: str) -> Iterator[float]:
        batch = self.settings.models[traffic.model].steps.max_batch_size
        for wait_s in self._arrivals(lambda: traffic.per_hour / 3600 * self._share(traffic.day_curve), traffic):
            if wait_s is not None:
                yield wait_s
                continue
            self.count_asked(name)
            self.open_streams += 1
            seconds = traffic.minutes * 60
            RecordingRun(
                next(self._gateways), traffic.model, seconds, batch, self._time.now(), lambda o: self.heard(name, o)
            ).begin()

    def heard(self, name: str, outcome: SpeechOutcome) -> None:
        """A request without retries ended."""
        self.open_streams -= 1
        self._count(name, outcome)

    def _live(self, traffic: LiveTraffic, name: str) -> Iterator[float]:
        """Opens and closes conversations, so that their number follows the curve."""
        conversations: list[Conversing] = []
        while True:
            wanted = round(traffic.sessions_at_once * self._share(traffic.day_curve))
            while len(conversations) > wanted:
                conversations.pop().closed = True
            while len(conversations) < wanted:
                conversations.append(Conversing(self, traffic, name, next(self._gateways)))
                conversations[-1].listen()
            yield SESSIONS_EVERY_S


class Conversing:
    """One conversation: turns of the user, and answers."""

    def __init__(self, clients: SimulatedClients, traffic: LiveTraffic, name: str, gateway: SimulatedGateway) -> None:
        self.closed = False
        self._clients = clients
        self._traffic = traffic
        self._name = name
        self._gateway = gateway

    def listen(self) -> None:
        """The user thinks and speaks."""
        if self.closed:
            return
        traffic, clients = self._traffic, self._clients
        seconds = max(0.5, clients.exponential() * traffic.turn_s)
        if traffic.hears_with is None:
            self._gateway.time.later(seconds, lambda: self._answer(True))
        else:
            hear_turn(self._gateway, traffic.hears_with, seconds, traffic.hear_every_s, self._answer)

    def _answer(self, _heard: bool) -> None:
        """The turn was heard: an answer is spoken. A turn that was not heard is answered too ("I did not hear you")."""
        clients, traffic = self._clients, self._traffic
        model = clients.settings.models[traffic.speaks_with]
        pace = model.characters_per_second
        text = PlannedText(
            traffic.speaks_with, clients.length(traffic.answer), pace, played=True, max_wait_s=model.max_wait_s
        )
        clients.count_asked(self._name)
        clients.open_streams += 1
        SpeechRun(self._gateway, text, self._gateway.time.now(), self._spoken).begin()

    def _spoken(self, outcome: SpeechOutcome) -> None:
        self._clients.heard(self._name, outcome)
        self._gateway.time.later(max(outcome.plays_for_s, outcome.retry_after_s), self.listen)
