"""Texts are joined as their scripts are written."""

from __future__ import annotations

import pytest

from deployments.text.sentences import joined, sentences


@pytest.mark.parametrize(
    ("texts", "line"),
    [
        ([" One.", " Two. ", "", "  ", "Three"], "One. Two. Three"),
        (["今日は。", "明日は。"], "今日は。明日は。"),
        (["你好，", "世界"], "你好，世界"),
        (["สวัสดี", "ครับ"], "สวัสดีครับ"),
        (["안녕하세요.", "네."], "안녕하세요. 네."),
        (["今日は。", "OK.", "はい。"], "今日は。 OK. はい。"),
        ([], ""),
    ],
)
def test_texts_are_joined(texts: list[str], line: str) -> None:
    assert joined(texts) == line


def test_sentences_are_the_text() -> None:
    text = " Mr. Hill paid 4.50. Did he? 今日は。明日は。"
    assert "".join(sentences(text)) == text
    assert [sentence.strip() for sentence in sentences(text)] == [
        "Mr. Hill paid 4.50.",
        "Did he?",
        "今日は。",
        "明日は。",
    ]
