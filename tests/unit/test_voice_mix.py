"""Parsing of a voice or a mixture of voices."""

from __future__ import annotations

import pytest

from deployments.errors import MotetError
from deployments.text.voice_mix import parse


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("a", "a"),
        ("  heart of gold ", "heart of gold"),
        ("a+b", "a(0.5000)+b(0.5000)"),
        (" b ( 1 ) + a (2.5)+a(0.5)", "a(0.7500)+b(0.2500)"),
        ("a(0)+b", "b"),
    ],
)
def test_a_mixture_is_read(text: str, written: str) -> None:
    assert str(parse(text)) == written


@pytest.mark.parametrize(
    "text",
    ["", " ", "+a", "a+", "(2)", "a)", "a(", "a()", "a(b)", "a(1)b", "a(1)(2)", "a((1))", "a(-1)", "a(1e3)", "a(0)",
     "a(1234567)", "a(nan)", "+".join("abcdefghi")],
)  # fmt: skip
def test_what_is_no_mixture_is_refused(text: str) -> None:
    with pytest.raises(MotetError):
        parse(text)


@pytest.mark.timeout(60)
def test_no_text_takes_long() -> None:
    """The work is that of reading once: a regular expression took a minute for 800 spaces."""
    for odd in (" " * 100_000 + "a" + " " * 100_000 + "(", "a(" * 100_000, "(" * 200_000, "a(" + "9" * 200_000):
        with pytest.raises(MotetError):
            parse(odd)
