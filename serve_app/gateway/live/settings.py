"""Settings of live sessions: `/v1/realtime`. `serve_app/config.py` composes them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from deployments.settings import Count, Positive, StrictModel


class ChatSettings(StrictModel):
    """The chat model that answers in conversations: any OpenAI-compatible endpoint."""

    base_url: Annotated[str, Field(pattern=r"^https?://")]
    """The address before `/chat/completions`, such as `http://localhost:11434/v1`."""
    model: str
    """The model's name there."""
    api_key_env: str | None = None
    """The environment variable that holds the key."""
    first_word_s: Positive = 10.0
    """How long the first word of an answer may take."""
    next_word_s: Positive = 10.0
    """How long any later word may take."""
    max_answer_characters: Count = 20_000
    """The longest answer. It ends there."""
    instructions: str = "You are talking with the user. Answer briefly, in plain sentences, without lists and Markdown."
    """The system message of a session that has no instructions."""


class RealtimeSettings(StrictModel):
    """Live sessions of a gateway replica."""

    chat: ChatSettings | None = None
    """The chat model behind `gpt-realtime`. Without one, `without_chat` answers."""
    without_chat: Literal["echo", "translate"] = "echo"
    """What answers where no chat model is configured: `echo` repeats what was said, `translate` says it in English."""
    transcription_model: str | None = None
    """The model that hears conversations. Without a name it is the first one that transcribes."""
    speech_model: str | None = None
    """The model that speaks in conversations. Without a name it is the first one that speaks."""
    max_sessions: Count = 64
    """Open sessions. It must be less than `gateway_max_ongoing_requests`."""
    max_sessions_per_client: Count | None = 16
    """How many of them one client may have open: one API key, or in a service without keys one address. Addresses of this
    machine are not counted. null: no limit, as behind a proxy that is the only client."""
    idle_s: Positive = 60.0
    """A session whose client sent nothing for this long is closed."""
    max_session_s: Positive = 3600.0
    """The longest session."""
    max_message_bytes: Count = 1024 * 1024
    """The longest message."""
    max_buffered_s: Positive = 60.0
    """Sound that waits to be heard. A client that sends more is refused."""
    hear_every_ms: Positive = 400.0
    """New sound after which a turn is heard again, where nothing else waits."""
    hear_at_least_every_ms: Positive = 1000.0
    """The same under load. A session that would make it slower for all is refused."""
    max_unsent_bytes: Count = 8 * 1024 * 1024
    """Events that wait to be sent. A client that reads more slowly is disconnected."""
    max_items: Count = 1000
    """Items of a conversation. The oldest are forgotten."""
    max_conversation_characters: Count = 200_000
    """Text of all items. The oldest are forgotten."""

    @model_validator(mode="after")
    def _rates_in_order(self) -> RealtimeSettings:
        if self.hear_every_ms > self.hear_at_least_every_ms:
            raise ValueError("hear_every_ms must be at most hear_at_least_every_ms")
        return self
