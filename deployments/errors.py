"""Errors as values: what went wrong, and what the caller can do about it.

A `Failure` is plain data, so it can be sent between processes and stand in a list beside the results of other items of a
batch. `MotetError` is the exception that carries one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "invalid",  # the request is wrong; repeating it does not help
    "unauthorized",  # no API key, or an unknown one
    "forbidden",  # this host or origin may not send the request
    "not_found",  # a model, voice or session that does not exist
    "conflict",  # it does not fit what was requested before
    "unsupported",  # valid, but this model cannot do it
    "wrong_media_type",  # the route does not accept the content type of the body
    "too_large",  # over a configured limit
    "storage_full",  # the disk of the service is full
    "overloaded",  # too much to do now; try again later
    "unavailable",  # a replica is gone or not ready
    "timeout",  # a deadline passed
    "engine",  # the engine itself failed
]


@dataclass(frozen=True, slots=True)
class Failure:
    """A cause, and a remedy in the caller's terms.

    `param` names the request field at fault; `code` is a stable word for programs; `retry_after_s` is the time after which
    the same request would succeed, if known. `detail` is the text of an exception: logs and the command line show it, clients
    of the service do not see it.
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
        """Cause and remedy."""
        return f"{self.cause} {self.remedy}".strip()

    @property
    def explained(self) -> str:
        """The message with the detail, for the operator of the service or the user of the command line."""
        return f"{self.message} ({self.detail})" if self.detail else self.message


class MotetError(Exception):
    """The exception that carries a `Failure`."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure

    def __str__(self) -> str:
        return self.failure.explained


MAX_QUOTE = 64
"""The most characters of a client's value that a message repeats."""


def clipped(text: str) -> str:
    """The beginning of a client's value, for a message of bounded length."""
    return text if len(text) <= MAX_QUOTE else f"{text[:MAX_QUOTE]}…"


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


REPORT_IT = "Try again. If it happens again, report the request id to the operator of this service."
"""The remedy of errors that the client cannot correct. The logs of the gateway and the replica have the id."""


def as_failure(error: BaseException) -> Failure:
    """The `Failure` of a `MotetError`; for any other exception a failure of the engine with the exception as its detail."""
    if isinstance(error, MotetError):
        return error.failure
    return Failure(
        "engine", "The model failed on this request.", REPORT_IT, code="engine_failure", detail=in_one_line(error)
    )


MAX_DETAIL_CHARACTERS = 1000


def in_one_line(error: BaseException) -> str:
    """The type and the text of an exception on one line, shortened if it is long."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= MAX_DETAIL_CHARACTERS else f"{text[:MAX_DETAIL_CHARACTERS]} ..."
