"""The events of a transcription, as OpenAI's clients parse them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from deployments.tasks.transcription import TranscriptWindow
from deployments.text.sentences import joined
from serve_app.gateway.sse import event
from serve_app.gateway.transcript_formats import (
    TranscriptContents,
    diarized_segment,
    languages_json,
    log_probabilities,
    spoken_segments,
    token_usage,
)


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
                logprobs = {"logprobs": log_probabilities(window)} if contents.log_probabilities else {}
                yield event({"type": "transcript.text.delta", "delta": delta, **logprobs})
    if contents.form == "diarized_json":
        for number, segment in enumerate(spoken_segments(heard)):
            yield event(diarized_segment(number, segment))
    whole = [token for window in heard for token in log_probabilities(window)]
    logprobs = {"logprobs": whole} if contents.log_probabilities else {}
    done = {"text": said, "languages": languages_json(heard), "usage": token_usage(heard), **logprobs}
    yield event({"type": "transcript.text.done", **done})
