"""The events of a transcription, as OpenAI's clients parse them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from deployments.tasks.transcription import TranscriptWindow
from deployments.text.sentences import joined
from serve_app.gateway.sse import event
from serve_app.gateway.transcript_answers import TranscriptDelta, TranscriptDone
from serve_app.gateway.transcript_formats import (
    TranscriptContents,
    diarized_segment,
    languages_json,
    log_probabilities,
    spoken_segments,
    token_usage,
    words_of,
)

MAX_TOKENS = 80
MAX_WORDS = 200
"""Tokens with their log probabilities, and words with their times, in one event: below 24 KiB, so that its line is one that
simple clients read."""


async def events(windows: AsyncGenerator[TranscriptWindow], contents: TranscriptContents) -> AsyncGenerator[bytes]:
    """A delta for each window with text, with the times of its words if they are wanted; at the end the segments with their
    speakers, if the format is `diarized_json` or the recording was diarized, and the whole text. Speakers are only known at
    the end."""
    heard: list[TranscriptWindow] = []
    said = ""
    async with aclosing(windows):
        async for window in windows:
            heard.append(window)
            if text := window.text:
                # Only the last letter of what was said decides whether a space follows.
                delta = joined([said[-1:], text])[len(said[-1:]) :]
                said += delta
                for part in _deltas(delta, window, contents):
                    yield event(part)
    segments = spoken_segments(heard)
    if contents.form == "diarized_json" or (contents.words and any(segment.speaker for segment in segments)):
        for number, segment in enumerate(segments):
            yield event(diarized_segment(number, segment))
    whole = [token for window in heard for token in log_probabilities(window)]
    facts: TranscriptDone = {
        "type": "transcript.text.done",
        "text": said,
        "languages": languages_json(heard),
        "usage": token_usage(heard),
    }
    if contents.log_probabilities and len(whole) <= MAX_TOKENS:
        facts["logprobs"] = whole  # a longer list is not repeated: the deltas have all of it
    yield event(facts)


def _deltas(delta: str, window: TranscriptWindow, contents: TranscriptContents) -> Iterator[TranscriptDelta]:
    """The events of a window's text. If it has many tokens or words, the later events have no text, only the others."""
    first: TranscriptDelta = {"type": "transcript.text.delta", "delta": delta}
    rest: TranscriptDelta = {"type": "transcript.text.delta", "delta": ""}
    if contents.log_probabilities:
        tokens = log_probabilities(window)
        for start in range(0, max(1, len(tokens)), MAX_TOKENS):
            yield {**(rest if start else first), "logprobs": tokens[start : start + MAX_TOKENS]}
    elif contents.words:
        words = words_of(window)
        for start in range(0, max(1, len(words)), MAX_WORDS):
            yield {**(rest if start else first), "words": words[start : start + MAX_WORDS]}
    else:
        yield first
