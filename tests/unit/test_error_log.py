"""An exception on a replica is logged there with its traceback; clients do not see its text."""

from __future__ import annotations

import errno
import io
import logging
import sys
from typing import Any

import pytest

from deployments.errors import MAX_DETAIL_CHARACTERS, Failure, MotetError, as_failure, in_one_line
from deployments.replica.error_log import ignore_unwritten_lines, logged_failure


def raised(error: Exception) -> Exception:
    """An exception with a traceback."""
    try:
        raise error
    except Exception as caught:
        return caught


def test_an_engine_error_is_logged_with_the_model_and_its_traceback(logged: pytest.LogCaptureFixture) -> None:
    failure = logged_failure(raised(ValueError("shape (3, 4)\nin layer 7")), "hibari")
    (record,) = logged.records
    first, *lines = record.getMessage().splitlines()
    assert record.levelname == "ERROR"
    assert "hibari" in first and "ValueError: shape (3, 4) in layer 7" in first
    assert lines[0] == "Traceback (most recent call last):" and "in raised" in "".join(lines)
    assert (failure.kind, failure.code) == ("engine", "engine_failure")


def test_clients_do_not_read_what_the_exception_said() -> None:
    failure = as_failure(ValueError("shape (3, 4)"))
    assert "shape" not in failure.message and "ValueError" not in failure.message
    assert "report the request id" in failure.message
    assert failure.explained == f"{failure.message} (ValueError: shape (3, 4))"
    assert str(MotetError(failure)) == failure.explained


@pytest.mark.parametrize("kind", ["invalid", "unsupported", "too_large", "overloaded", "unavailable"])
def test_what_is_no_fault_of_the_engine_has_no_traceback(kind: str, logged: pytest.LogCaptureFixture) -> None:
    failure = Failure(kind, "Something else.")  # type: ignore[arg-type]
    assert logged_failure(raised(MotetError(failure)), "hibari") is failure
    assert not logged.records


def test_a_long_text_of_an_exception_is_cut() -> None:
    assert len(in_one_line(ValueError("x" * 10**6))) <= MAX_DETAIL_CHARACTERS + 4


class LogAsStream:
    """Standard error as Ray Serve 2.60 replaces it in replicas: each line goes to the log."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def write(self, text: str) -> None:
        self._logger.info(text)

    def flush(self) -> None:
        pass


class FullDisk(logging.StreamHandler[Any]):
    """A handler that can write nothing."""

    tries = 0

    def flush(self) -> None:
        type(self).tries += 1
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_line_that_cannot_be_written_is_not_written_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.Logger("full")
    logger.addHandler(FullDisk(io.StringIO()))
    monkeypatch.setattr(sys, "stderr", LogAsStream(logger))
    monkeypatch.setattr(logging, "raiseExceptions", True)
    monkeypatch.setattr(FullDisk, "tries", 0)
    ignore_unwritten_lines()
    logger.error("a line")
    assert FullDisk.tries == 1
