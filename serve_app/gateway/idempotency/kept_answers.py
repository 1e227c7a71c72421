"""The answers of requests with an `Idempotency-Key` that are being made, and those of the last minutes."""

from __future__ import annotations

from collections.abc import Callable

from deployments.errors import MotetError, fail, quoted
from serve_app.gateway.idempotency.shared_answer import SharedAnswer
from serve_app.gateway.request_context import RequestRecord
from serve_app.gateway.settings import IdempotencySettings

AnswerId = tuple[str, str]
"""A client and its `Idempotency-Key`."""


class KeptAnswers:
    """The answers of one gateway replica, in bounded memory. `clock` is monotonic, in seconds. `made` is called with the
    record of each request when its answer is made or given up, which may be long after its client left."""

    def __init__(
        self,
        settings: IdempotencySettings,
        clock: Callable[[], float],
        made: Callable[[RequestRecord], None] = lambda record: None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._made = made
        self._answers: dict[AnswerId, SharedAnswer] = {}

    def find(self, id: AnswerId) -> SharedAnswer | None:
        """The answer of an earlier request; None if there is none."""
        oldest_s = self._clock() - self._settings.keep_s
        for each in [id for id, answer in self._answers.items() if answer.over and answer.ended_s < oldest_s]:
            del self._answers[each]
        return self._answers.get(id)

    def new(self, id: AnswerId, record: RequestRecord) -> SharedAnswer:
        """The answer of a first request, still to be made. Raises `MotetError` (overloaded) if there are too many."""
        while len(self._answers) >= self._settings.max_answers:
            if not self._drop_oldest():
                cause = f"{len(self._answers)} requests with an Idempotency-Key are being answered."
                raise fail("overloaded", cause, "Try again in a moment.", code="too_many_requests")

        def ended(answer: SharedAnswer) -> None:
            answer.ended_s = self._clock()
            self._made(answer.record)
            if answer.is_too_long:
                answer.forget()
            elif not answer.is_complete and self._answers.get(id) is answer:
                del self._answers[id]

        answer = SharedAnswer(record, self._settings.rejoin_s, self._fits, ended)
        self._answers[id] = answer
        return answer

    def ensure_kept(self, key: str, answer: SharedAnswer) -> None:
        """Raises `MotetError` (conflict) for an answer that was too long to be kept."""
        if answer.is_too_long:
            cause = f"The request with the Idempotency-Key {quoted(key)} has an answer that is too long to be kept."
            raise conflict(cause, "Send another key, or make it a job (/v1/jobs).", "idempotency_answer_not_kept")

    def ensure_same(self, key: str, first: str | None, second: str) -> None:
        """Raises `MotetError` (conflict) if two requests with one key ask for different things, or the first was not read."""
        if first is None:
            cause = f"The first request with the Idempotency-Key {quoted(key)} has just failed."
            raise conflict(cause, "Send the same request again.", "idempotency_first_failed")
        if first != second:
            cause = f"The Idempotency-Key {quoted(key)} was used for another request."
            raise conflict(cause, "Send another key.", "idempotency_key_reused")

    def _fits(self, answer: SharedAnswer) -> bool:
        if answer.bytes > self._settings.max_answer_bytes:
            return False
        while self._bytes > self._settings.max_bytes:
            if not self._drop_oldest():
                return False
        return True

    @property
    def _bytes(self) -> int:
        return sum(answer.bytes for answer in self._answers.values() if not answer.is_too_long)

    def _drop_oldest(self) -> bool:
        """Forgets the answer that was begun first of those that are over. False if there is none."""
        oldest = next((id for id, answer in self._answers.items() if answer.over), None)
        if oldest is None:
            return False
        del self._answers[oldest]
        return True


def conflict(cause: str, remedy: str, code: str) -> MotetError:
    """The error of a request whose `Idempotency-Key` cannot be used."""
    return fail("conflict", cause, remedy, param="Idempotency-Key", code=code)
