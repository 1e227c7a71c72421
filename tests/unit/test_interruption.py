"""Ctrl-C in a command that has much to end."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from serve_app.cli.interruption import ENDING_S, one_interruption


@pytest.fixture(autouse=True)
def python_handler() -> Iterator[None]:
    """The handler of a program that a terminal starts, whatever the tests were started by."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def press() -> None:
    """Ctrl-C."""
    signal.raise_signal(signal.SIGINT)


def test_a_second_interruption_does_not_break_the_ending_after_the_first() -> None:
    ended = []
    with pytest.raises(KeyboardInterrupt), one_interruption():
        try:
            press()
        finally:
            press()
            ended.append("whole")
    assert ended == ["whole"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_error_of_the_ending_does_not_hide_the_interruption() -> None:
    with pytest.raises(KeyboardInterrupt), one_interruption():
        try:
            press()
        finally:
            raise RuntimeError("release unlocked lock")


def test_an_error_without_an_interruption_stays() -> None:
    with pytest.raises(RuntimeError, match="broken"), one_interruption():
        raise RuntimeError("broken")


def test_an_interruption_that_was_lost_can_be_repeated() -> None:
    now_s = 0.0
    with pytest.raises(KeyboardInterrupt), one_interruption(lambda: now_s):
        with pytest.raises(KeyboardInterrupt):
            press()
        press()
        now_s = ENDING_S
        press()


def test_a_program_that_was_started_to_ignore_it_does_so() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with one_interruption():
        press()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
