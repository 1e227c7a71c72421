"""The interface between the engine and a family of models, and what several families share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from tokenizers.decoders import DecodeStream

from deployments.engines.options import Bounds, EngineOptions
from deployments.engines.protocols import RecognitionOptions, Samples

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


def text_tokens(tokenizer: Any, emitted: Iterable[EmittedToken], skipped: Iterable[int] = ()) -> tuple[TextToken, ...]:
    """The emitted tokens with their texts, without special tokens and those in `skipped`.

    Tokens that are parts of one character become one. Parts at the end that make no whole character are left out.
    """
    stream = DecodeStream(skip_special_tokens=True)
    skip = {*tokenizer.all_special_ids, *skipped}
    made: list[TextToken] = []
    parts: list[EmittedToken] = []
    for token in emitted:
        if token.id in skip:
            continue
        parts.append(token)
        text = stream.step(tokenizer.backend_tokenizer, token.id)
        if text is not None:
            ids = tuple(part.id for part in parts)
            made.append(
                TextToken(ids, text, sum(part.log_probability for part in parts), parts[0].start, parts[-1].end)
            )
            parts = []
    return tuple(made)
