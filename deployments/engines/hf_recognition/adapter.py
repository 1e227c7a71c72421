"""The interface between the engine and a family of models, and what several families share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from tokenizers.decoders import DecodeStream

from deployments.engines.options import Bounds, EngineOptions
from deployments.engines.protocols import RecognitionOptions, Samples

PREVIEW_TOKENS = 16
"""Tokens before a text that may decide how it begins, for example with a space."""
DTypeName = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class HfRecognitionOptions(EngineOptions):
    """`options` of a model of this engine."""

    dtype: Annotated[DTypeName, "The type of weights; auto is float32 on a CPU and bfloat16 on CUDA."] = "auto"
    languages: Annotated[
        tuple[str, ...], "Two-letter codes of the languages of a checkpoint whose files do not name them."
    ] = ()
    batch_windows: Annotated[
        int | None, Bounds(least=1, most=256), "Windows in one step; by default 4 on a CPU and 16 on CUDA."
    ] = None
    most_tokens: Annotated[int, Bounds(least=1, most=4096), "Tokens of the text of one window, at most."] = 448
    delay_ms: Annotated[
        int | None,
        Bounds(least=80, most=2400),
        "How far the text of a stream is behind its sound, of the delays that the model knows; by default the checkpoint's.",
    ] = None


@dataclass(frozen=True, slots=True)
class TextToken:
    """One or several tokens of a model that make whole characters, with the sum of the natural logarithms of their
    probabilities. `start` and `end` are seconds from the start of the window; None if the family does not know them."""

    ids: tuple[int, ...]
    text: str
    log_probability: float
    start: float | None = None
    end: float | None = None


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """What a model makes of a window. `language` is a two-letter code; None if the model does not name it."""

    text: str
    tokens: tuple[TextToken, ...]
    language: str | None = None


class FamilyAdapter(ABC):
    """Calls the models of one family. It keeps no state between calls."""

    word_times: ClassVar[bool] = False
    prompts: ClassVar[bool] = False
    translates: ClassVar[bool] = False
    delays: ClassVar[bool] = False
    """Whether the option `delay_ms` has an effect."""
    samples_tokens: ClassVar[bool] = False
    """Whether the family draws its tokens at a temperature above 0. Others ignore the temperature."""

    def __init__(self, model: Any, processor: Any, options: HfRecognitionOptions) -> None:
        self.model, self.processor, self.options = model, processor, options
        self.tokenizer = processor.tokenizer

    @property
    def sample_rate(self) -> int:
        """Of the model's feature extractor, in Hz."""
        return int(self.processor.feature_extractor.sampling_rate)

    @property
    def languages(self) -> tuple[str, ...]:
        """Two-letter codes; empty if neither the checkpoint nor its configuration names them."""
        return self.options.languages

    @abstractmethod
    def recognize(self, windows: Sequence[Samples], options: RecognitionOptions) -> list[Hypothesis]:
        """One hypothesis for each mono window (n,), computed as one batch."""

    def on_device(self, inputs: Any) -> dict[str, Any]:
        """The tensors of a processor on the model's device, floating-point ones in its dtype."""
        return dict(inputs.to(self.model.device, dtype=self.model.dtype))


@dataclass(frozen=True, slots=True)
class EmittedToken:
    """A token as a model emits it; the times as in `TextToken`."""

    id: int
    log_probability: float
    start: float | None = None
    end: float | None = None


class TokenTexts:
    """Makes texts of tokens as a model emits them, without special tokens and those in `skipped`."""

    def __init__(self, tokenizer: Any, skipped: Iterable[int] = ()) -> None:
        self._tokenizer, self._stream = tokenizer, DecodeStream(skip_special_tokens=True)
        self._skip = {*tokenizer.all_special_ids, *skipped}
        self._parts: list[EmittedToken] = []
        self._recent: deque[int] = deque(maxlen=PREVIEW_TOKENS)

    def add(self, token: EmittedToken) -> TextToken | None:
        """The text that the token completes. Tokens that are parts of one character become one; before the last of them the
        result is None."""
        if token.id in self._skip:
            return None
        self._parts.append(token)
        self._recent.append(token.id)
        text = self._stream.step(self._tokenizer.backend_tokenizer, token.id)
        if text is None:
            return None
        parts, self._parts = self._parts, []
        ids = tuple(part.id for part in parts)
        return TextToken(ids, text, sum(part.log_probability for part in parts), parts[0].start, parts[-1].end)

    def preview(self, tokens: Iterable[EmittedToken]) -> str:
        """The text that `tokens` would add."""
        added = [token.id for token in tokens if token.id not in self._skip]
        backend, before = self._tokenizer.backend_tokenizer, list(self._recent)
        text: str = backend.decode([*before, *added], skip_special_tokens=True)
        return text[len(backend.decode(before, skip_special_tokens=True).rstrip("\ufffd")) :].rstrip("\ufffd")


def text_tokens(tokenizer: Any, emitted: Iterable[EmittedToken], skipped: Iterable[int] = ()) -> tuple[TextToken, ...]:
    """The emitted tokens with their texts. Parts at the end that make no whole character are left out."""
    texts = TokenTexts(tokenizer, skipped)
    return tuple(made for token in emitted if (made := texts.add(token)) is not None)
