"""Speech recognition with models of the transformers library, on a CPU and on CUDA.

Supported are the families of `families.py`. A step transcribes its windows as one batch for each set of equal options.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from deployments.engines.hf_recognition.adapter import FamilyAdapter, HfRecognitionOptions, Hypothesis
from deployments.engines.hf_recognition.words import words_of
from deployments.engines.protocols import (
    RecognitionOptions,
    RecognitionTraits,
    Samples,
    Segment,
    Token,
    Transcript,
    Window,
)
from deployments.engines.recognition import WindowedRecognition

BATCH_WINDOWS: Mapping[str, int] = {"cpu": 4, "cuda": 16}
"""By device. A CPU takes about as long for each window of a batch as for one alone, and a step of 16 would take long."""
WINDOW_SECONDS = 30.0
SHORTEST_S = 0.2
"""Shorter windows are padded with silence: convolutions need at least a kernel of frames."""
UNKNOWN_LANGUAGE = "und"


class HfRecognition(WindowedRecognition):
    """One checkpoint of any of the families."""

    def __init__(self, adapter: FamilyAdapter, options: HfRecognitionOptions) -> None:
        self._adapter, self._options = adapter, options
        self._batch_windows = options.batch_windows or BATCH_WINDOWS[adapter.model.device.type]

    @property
    def traits(self) -> RecognitionTraits:
        """Those of the family."""
        adapter = self._adapter
        return RecognitionTraits(
            adapter.sample_rate,
            adapter.languages,
            adapter.translates,
            WINDOW_SECONDS,
            word_times=adapter.word_times,
            prompts=adapter.prompts,
            token_probabilities=True,
            batch_windows=self._batch_windows,
        )

    def recognize(self, windows: Sequence[Window], options: RecognitionOptions) -> Sequence[Transcript]:
        """One transcript for each window, of one segment at most.

        Random numbers are drawn for a whole batch, so windows with a temperature run one at a time: a window's text does not
        depend on its neighbours.
        """
        samples = [_long_enough(window.samples, self.traits.sample_rate) for window in windows]
        alone = options.temperature > 0 and self._adapter.samples_tokens
        batches = [[one] for one in samples] if alone else [samples]
        with torch.inference_mode():
            made = [hypothesis for batch in batches for hypothesis in self._adapter.recognize(batch, options)]
        rate = self.traits.sample_rate
        return [
            self.transcript(one, len(window.samples) / rate, options) for window, one in zip(windows, made, strict=True)
        ]

    def warm_up(self) -> None:
        """Runs the whole network on a second of silence, which `transcribe` would skip."""
        language = next(iter(self.traits.languages), None)
        options = RecognitionOptions(language=language)
        self.recognize([Window(np.zeros(self.traits.sample_rate, np.float32), options)], options)

    def transcript(self, made: Hypothesis, length_s: float, options: RecognitionOptions) -> Transcript:
        """The hypothesis for `length_s` seconds of sound as a transcript of one segment at most."""
        language = self.language(made, options)
        if not made.text.strip():
            return Transcript((), language)
        segment = _segment(made, length_s, words=options.word_times)
        tokens = (Token(token.text, token.log_probability, token.text.encode()) for token in made.tokens)
        return Transcript((segment,), language, tokens=tuple(tokens) if options.token_probabilities else ())

    def language(self, made: Hypothesis, options: RecognitionOptions) -> str:
        """That of the request, else that which the model names, else the only one of the configuration."""
        own = self._options.languages
        return options.language or made.language or (own[0] if len(own) == 1 else UNKNOWN_LANGUAGE)


def _long_enough(samples: Samples, rate: int) -> Samples:
    missing = round(SHORTEST_S * rate) - len(samples)
    return np.pad(samples, (0, missing)) if missing > 0 else samples


def _segment(made: Hypothesis, length_s: float, *, words: bool) -> Segment:
    """The hypothesis as one segment, from its first to its last word if the family knows their times."""
    timed = bool(made.tokens) and made.tokens[0].start is not None
    spoken = words_of(made.tokens, length_s) if timed else ()
    ids = tuple(part for token in made.tokens for part in token.ids)
    return Segment(
        text=made.text,
        start=spoken[0].start if spoken else 0.0,
        end=spoken[-1].end if spoken else length_s,
        average_log_probability=sum(token.log_probability for token in made.tokens) / max(1, len(ids)),
        no_speech_probability=0.0,  # none of the families estimates it
        tokens=ids,
        words=spoken if words else (),
    )
