"""Errors as values: what went wrong, and what the caller can do about it.

A `Failure` is plain data, so it crosses process boundaries unchanged and can stand in a list beside the
results of its batch-mates. `MotetError` carries one through code that raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "invalid",  # the request is wrong and would be wrong again
    "unauthorized",  # no key, or one we do not know
    "forbidden",  # whoever asks may not ask this
    "not_found",  # a model, voice or session that does not exist
    "unsupported",  # well formed, but this model cannot do it
    "wrong_media_type",  # the body is of another content type than the route reads
    "too_large",  # over a configured limit
    "storage_full",  # the disk has no room for what was sent
    "overloaded",  # no room now; try again later
    "unavailable",  # a replica is gone or not ready
    "timeout",  # a deadline passed
    "engine",  # the engine itself failed
]


@dataclass(frozen=True, slots=True)
class Failure:
    """A cause, and the remedy in the caller's own terms.

    `param` names the request field at fault; `code` is a stable word for programs; `retry_after_s` is how many seconds
    from now the same request would get through, where that is known. `detail` is what an exception said: it is written
    to logs and shown by the command line, and the service's clients do not see it.
    """

    kind: Kind
    cause: str
    remedy: str = ""
    param: str | None = None
    code: str | None = None
    retry_after_s: float | None = None
    detail: str | None = None

    @property
    def message(self) -> str:
        """Cause and remedy as one sentence pair."""
        return f"{self.cause} {self.remedy}".strip()

    @property
    def explained(self) -> str:
        """The message with the detail, for whoever runs the service or the command."""
        return f"{self.message} ({self.detail})" if self.detail else self.message


class MotetError(Exception):
    """Raises a `Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return self.failure.explained


LONGEST_QUOTE = 64
"""Characters of a client's value that a message repeats."""


def clipped(text: str) -> str:
    """The beginning of a client's value, for a message: its length is bounded, whatever was sent."""
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…"


def quoted(text: str) -> str:
    """The same in quotes, on one line."""
    return repr(clipped(text))


def fail(
    kind: Kind,
    cause: str,
    remedy: str = "",
    *,
    param: str | None = None,
    code: str | None = None,
    retry_after_s: float | None = None,
    detail: str | None = None,
) -> MotetError:
    """Builds the exception for `raise fail("invalid", "...", "...")`."""
    return MotetError(Failure(kind, cause, remedy, param, code, retry_after_s, detail))


REPORT_IT = "Try again; if it happens again, report the request id to whoever runs this service."
"""The remedy for an error that the client can do nothing about. The log has the rest under that id."""


def as_failure(error: BaseException) -> Failure:
    """The `Failure` inside an exception, or an `engine` one whose detail is what the exception said."""
    if isinstance(error, MotetError):
        return error.failure
    return Failure(
        "engine", "The model failed on this request.", REPORT_IT, code="engine_failure", detail=in_one_line(error)
    )


MOST_DETAIL_CHARACTERS = 1000


def in_one_line(error: BaseException) -> str:
    """The type and the text of an exception, cut where it is long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= MOST_DETAIL_CHARACTERS else f"{text[:MOST_DETAIL_CHARACTERS]} ..."
