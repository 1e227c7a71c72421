"""The message of Ray's core about its log level is held back, and nothing else."""

from __future__ import annotations

import os

import pytest

from cluster.ray_messages import without_log_level_message

OURS = b"[2026-11-30 06:56:59,945 I 29497 29497] logging.cc:303: Set ray log level from environment variable X to 3\n"


def test_other_lines_are_passed_on_in_order(capfd: pytest.CaptureFixture[str]) -> None:
    with without_log_level_message():
        os.write(2, b"before\n" + OURS + b"after\n")
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "before\nafter\nlater\n"


def test_lines_before_an_error_are_passed_on(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyError), without_log_level_message():
        os.write(2, OURS + b"the cause")
        raise KeyError
    assert capfd.readouterr().err == "the cause"
