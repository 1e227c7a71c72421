"""What answers a turn: the chat model, `echo` or `translate`."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from deployments.errors import fail, quoted
from serve_app.gateway.live.chat import ChatModel, ChatRequest
from serve_app.gateway.live.chat_stream import AnswerEnd, AnswerPart, TextPart
from serve_app.gateway.live.conversation import Conversation, chat_messages
from serve_app.gateway.live.items import Item, Message
from serve_app.gateway.live.response_fields import ItemReference, ResponseParams, ResponseSettings
from serve_app.gateway.live.settings import RealtimeSettings

Responder = Literal["chat", "echo", "translate"]
CHAT_NAMES = ("gpt-realtime", "gpt-4o-realtime", "gpt-4o-mini-realtime", "gpt-audio")
"""How names of OpenAI's models begin that hold conversations."""
SILENCE = "(The user says nothing.)"
WITHOUT_CHAT: Mapping[str, Responder] = {"echo": "echo", "translate": "translate"}
"""Models that need no chat model, by name."""


def responder_of(model: str, settings: RealtimeSettings) -> Responder:
    """What answers in conversations with a model of this name. Raises `MotetError` (not_found)."""
    if model in WITHOUT_CHAT:
        return WITHOUT_CHAT[model]
    if model.startswith(CHAT_NAMES) or (settings.chat and model == settings.chat.model):
        return "chat" if settings.chat else settings.without_chat
    cause = f"The model {quoted(model)} holds no conversations."
    raise fail("not_found", cause, "Models: gpt-realtime, echo, translate.", param="model", code="model_not_found")


@dataclass(frozen=True, slots=True)
class ResponseInput:
    """What a response answers: a conversation in the form of chat messages, and its last turn in the user's words and, if
    that was asked for, in English."""

    messages: Sequence[dict[str, Any]]
    said: str
    english: str | None = None


def input_of(conversation: Conversation, params: ResponseParams | None) -> ResponseInput:
    """The input of a response. Raises `MotetError` (not_found) if its input refers to an unknown item."""
    if params is not None and params.input is not None:
        items = [_resolved(item, conversation) for item in params.input]
        turns = [item.words for item in items if isinstance(item, Message) and item.role == "user"]
        return ResponseInput(chat_messages(items), turns[-1] if turns else "")
    entry = conversation.last_turn
    said = entry.item.words if entry and isinstance(entry.item, Message) else ""
    return ResponseInput(conversation.messages(), said, entry.english if entry else None)


def prompting(conversation: Conversation) -> ResponseInput:
    """The input of a response to a user who says nothing. Chat models answer a message of the user, so there is one."""
    return ResponseInput([*conversation.messages(), {"role": "user", "content": SILENCE}], "")


def _resolved(item: Item | ItemReference, conversation: Conversation) -> Item:
    return conversation.items([item.id])[0] if isinstance(item, ItemReference) else item


def answer_to(
    asked: ResponseInput, settings: ResponseSettings, responder: Responder, chat: ChatModel | None
) -> AsyncGenerator[AnswerPart]:
    """The parts of an answer while it is written. Raises `MotetError` as `ChatModel.answer` does."""
    if responder != "chat" or chat is None:
        return _repeated(asked.english or asked.said if responder == "translate" else asked.said)
    instructions = {"role": "system", "content": settings.instructions or chat.instructions}
    request = ChatRequest(
        messages=[instructions, *asked.messages],
        tools=settings.chat_tools,
        tool_choice=settings.chat_tool_choice,
        max_tokens=settings.max_output_tokens,
    )
    return chat.answer(request)


async def _repeated(words: str) -> AsyncGenerator[AnswerPart]:
    if words:
        yield TextPart(words)
    yield AnswerEnd("stop")
