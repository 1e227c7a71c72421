"""Ctrl-C in a command that has much to end."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from serve_app.cli.interruption import ENDING_S, is_interruption, one_interruption


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


def test_a_command_that_ends_is_not_interrupted_again_but_does_not_hang() -> None:
    program = (
        "import signal; from serve_app.cli.interruption import ENDING_S, end_without_further_interruptions\n"
        "now_s = 0.0\nend_without_further_interruptions(lambda: now_s)\n"
        "signal.raise_signal(signal.SIGINT); print('goes on', flush=True)\n"
        "now_s = ENDING_S; signal.raise_signal(signal.SIGINT); print('hangs')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "goes on\n", "")


def test_an_error_that_an_interruption_caused_is_one() -> None:
    cause, effect, other = KeyboardInterrupt(), ImportError("broken"), RuntimeError("also")
    effect.__context__, other.__cause__ = cause, effect
    assert is_interruption(other)
    cause.__context__ = other  # a circle
    effect.__context__ = None
    assert not is_interruption(other)
    assert not is_interruption(None)


# --- The program, while it imports

TWICE = "try:\n    signal.raise_signal(signal.SIGINT)\nfinally:\n    signal.raise_signal(signal.SIGINT)\n"
IMPORTS = {
    "two interruptions": TWICE,
    "an extension that makes an error of it": f"try:\n    exec({TWICE!r})\nexcept BaseException as error:\n"
    "    raise ImportError('the extension is broken') from error",
    "a callback that cannot raise": "class Lost:\n    def __del__(self):\n        signal.raise_signal(signal.SIGINT)\n"
    f"Lost()\n{TWICE}",
}


@pytest.mark.parametrize("how", IMPORTS)
def test_ctrl_c_during_the_imports_ends_with_130_and_no_word(how: str, tmp_path: Path) -> None:
    """A package that the command imports is replaced by one in which Ctrl-C is pressed."""
    (tmp_path / "typer.py").write_text(f"import signal\n{IMPORTS[how]}")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from serve_app.cli.main import main; main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, preexec_fn=_python_handler)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.03, 0.1, 0.2])
def test_many_interruptions_within_milliseconds_print_nothing(after_s: float, tmp_path: Path) -> None:
    """Wherever they fall: in imports, in the command, in the handler of another one, or while Python ends."""
    say = ["say", "Hello there.", "-o", str(tmp_path / "hello.wav")]
    program = (  # it says when the first line of `main` has run
        "from serve_app.cli import main\nhide = main.hide_interruptions\n"
        f"main.hide_interruptions = lambda: (hide(), print('begins', flush=True))\nmain.main({say!r})"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_python_handler,
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        assert running.stdout.readline() == "begins\n"
        wait_s = after_s
        while not _ended(running, wait_s):
            running.send_signal(signal.SIGINT)
            wait_s = 0.002
        # A shell says 130 for both: Python ends by the signal itself when one comes before the first one is handled.
        assert running.returncode in (130, -signal.SIGINT)
        assert "Traceback" not in running.stderr.read()


def _ended(running: subprocess.Popen[str], within_s: float) -> bool:
    try:
        running.wait(within_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _python_handler() -> None:
    """A background job of a shell would ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
