"""The events of a transcription, as OpenAI's clients parse them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

from deployments.tasks.transcription import TranscriptWindow
from deployments.text.sentences import joined
from serve_app.gateway.sse import event
from serve_app.gateway.transcript_answers import TokenLogprob, TranscriptDone
from serve_app.gateway.transcript_formats import (
    TranscriptContents,
    diarized_segment,
    languages_json,
    log_probabilities,
    spoken_segments,
    token_usage,
)

MAX_TOKENS = 80
"""Tokens with their log probabilities in one event: below 24 KiB, so that its line is one that simple clients read."""


async def events(windows: AsyncGenerator[TranscriptWindow], contents: TranscriptContents) -> AsyncGenerator[bytes]:
    """A delta for each window with words; at the end the segments with their speakers, if the format is `diarized_json`, and
    the whole text. Speakers are only known at the end."""
    heard: list[TranscriptWindow] = []
    said = ""
    async with aclosing(windows):
        async for window in windows:
            heard.append(window)
            if text := window.text:
                # Only the last letter of what was said decides whether a space follows.
                delta = joined([said[-1:], text])[len(said[-1:]) :]
                said += delta
                for part in _deltas(delta, log_probabilities(window) if contents.log_probabilities else None):
                    yield part
    if contents.form == "diarized_json":
        for number, segment in enumerate(spoken_segments(heard)):
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


def _deltas(delta: str, tokens: list[TokenLogprob] | None) -> Iterator[bytes]:
    """The events of a window's text. If it has many tokens, the later events have no text, only the other tokens."""
    if tokens is None:
        yield event({"type": "transcript.text.delta", "delta": delta})
        return
    for start in range(0, max(1, len(tokens)), MAX_TOKENS):
        text = "" if start else delta
        yield event({"type": "transcript.text.delta", "delta": text, "logprobs": tokens[start : start + MAX_TOKENS]})
