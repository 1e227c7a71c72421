"""What a response is like: the settings of its session, and what `response.create` changes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, StringConstraints, field_validator

from serve_app.gateway.live.items import FunctionCall, FunctionCallOutput, ItemId, Message, NestedFields

Modality = Literal["audio", "text"]
OutputFormat = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]
CancelReason = Literal["client_cancelled", "turn_detected"]
Tokens = Annotated[int, Field(ge=1, le=4096)] | Literal["inf"]
Value = TypeVar("Value")


class Tool(NestedFields):
    """A function that the client can run."""

    type: Literal["function"] = "function"
    name: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    description: str | None = None
    parameters: dict[str, Any] | None = None


class ToolChoice(NestedFields):
    """The function that must be called."""

    type: Literal["function"]
    name: str


AnyToolChoice = Literal["auto", "none", "required"] | ToolChoice


class PcmOutput(NestedFields):
    """16-bit samples at 24 kHz."""

    type: Literal["audio/pcm"]
    rate: Literal[24000] = 24000


class G711Output(NestedFields):
    """G.711 at 8 kHz."""

    type: Literal["audio/pcmu", "audio/pcma"]


class AudioOutputParams(NestedFields):
    """How a response sounds."""

    format: Annotated[PcmOutput | G711Output, Field(discriminator="type")] | None = None
    voice: str | None = None

    @field_validator("voice", mode="before")
    @classmethod
    def _voice_by_id(cls, voice: object) -> object:
        return voice["id"] if isinstance(voice, dict) and set(voice) == {"id"} else voice


class AudioParams(NestedFields):
    """The sound of a response."""

    output: AudioOutputParams | None = None


class ItemReference(NestedFields):
    """An item of the conversation, by id."""

    type: Literal["item_reference"]
    id: ItemId


InputItem = Annotated[Message | FunctionCall | FunctionCallOutput | ItemReference, Field(discriminator="type")]


class ResponseParams(NestedFields):
    """`response` of `response.create`. What it leaves out is as in the session."""

    instructions: str | None = None
    output_modalities: Annotated[tuple[Modality, ...], Field(min_length=1)] | None = None
    audio: AudioParams | None = None
    tools: tuple[Tool, ...] | None = None
    tool_choice: AnyToolChoice | None = None
    max_output_tokens: Tokens | None = None
    conversation: Literal["auto", "none"] = "auto"
    input: tuple[InputItem, ...] | None = None
    metadata: Annotated[dict[str, str], Field(max_length=16)] | None = None


@dataclass(frozen=True, slots=True)
class ResponseSettings:
    """What a session says about its responses. `model` is the name that the client uses. `max_output_tokens` bounds the text
    of a chat model; None: it has no bound."""

    model: str
    instructions: str = ""
    modality: Modality = "audio"
    voice: str | None = None
    speed: float = 1.0
    output_format: OutputFormat = "audio/pcm"
    tools: Sequence[Tool] = ()
    tool_choice: AnyToolChoice = "auto"
    max_output_tokens: int | None = None

    def changed(self, params: ResponseParams | None) -> ResponseSettings:
        """The settings for one response."""
        if params is None:
            return self
        output = (params.audio and params.audio.output) or AudioOutputParams()
        modality = one_modality(params.output_modalities) if params.output_modalities is not None else self.modality
        tokens = params.max_output_tokens
        return replace(
            self,
            instructions=_or(params.instructions, self.instructions),
            modality=modality,
            voice=_or(output.voice, self.voice),
            output_format=output.format.type if output.format else self.output_format,
            tools=_or(params.tools, self.tools),
            tool_choice=_or(params.tool_choice, self.tool_choice),
            max_output_tokens=self.max_output_tokens if tokens is None else None if tokens == "inf" else tokens,
        )

    @property
    def chat_tools(self) -> list[Mapping[str, Any]]:
        """The tools as a chat model gets them."""
        return [
            {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}
            for tool in self.tools
        ]

    @property
    def chat_tool_choice(self) -> str | Mapping[str, Any]:
        """The choice among them as a chat model gets it."""
        choice = self.tool_choice
        return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, ToolChoice) else choice

    @property
    def facts(self) -> dict[str, Any]:
        """What events show of the settings."""
        form: dict[str, Any] = {"type": self.output_format}
        if self.output_format == "audio/pcm":
            form["rate"] = 24000
        return {
            "output_modalities": [self.modality],
            "audio": {"output": {"format": form, "voice": self.voice}},
            "max_output_tokens": self.max_output_tokens or "inf",
        }


def one_modality(modalities: Sequence[Modality]) -> Modality:
    """The modality of responses. Sound always comes with its text, so "audio" includes "text"."""
    return "audio" if "audio" in modalities else "text"


def _or(value: Value | None, otherwise: Value) -> Value:
    return otherwise if value is None else value
