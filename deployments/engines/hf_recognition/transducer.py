"""Parakeet TDT and RNN-T, and Nemotron's streaming models, which here get whole windows: FastConformer transducers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from transformers import LogitsProcessorList

from deployments.engines.hf_recognition.adapter import (
    EmittedToken,
    FamilyAdapter,
    Hypothesis,
    text_tokens,
)
from deployments.engines.hf_recognition.generation import ChosenLogProbabilities
from deployments.engines.protocols import RecognitionOptions, Samples


class Transducer(FamilyAdapter):
    """Greedy decoding with a time for each token. The models take no language; multilingual ones detect it."""

    word_times = True

    @property
    def frame_s(self) -> float:
        """Seconds of an encoder frame, the unit of a token's times."""
        extractor = self.processor.feature_extractor
        return float(
            extractor.hop_length / extractor.sampling_rate * self.model.config.encoder_config.subsampling_factor
        )

    def recognize(self, windows: Sequence[Samples], options: RecognitionOptions) -> list[Hypothesis]:
        """One batch of the encoder and one of the decoder."""
        inputs = self.on_device(
            self.processor(
                list(windows), sampling_rate=self.sample_rate, **self.conditions(options), return_tensors="pt"
            )
        )
        frames = self.model._get_output_attention_mask(inputs["attention_mask"]).sum(-1)
        recorder = ChosenLogProbabilities(self.model.config.vocab_size)
        made = self.model.generate(
            **inputs,
            logits_processor=LogitsProcessorList([recorder]),
            max_new_tokens=self.model.config.max_symbols_per_step * int(frames.max()),
        )
        rows = zip(
            made.sequences[:, 1:].tolist(),  # the first starts the decoder
            recorder.of(made.sequences).tolist(),
            made.durations[:, 1:].tolist(),
            frames.tolist(),
            strict=True,
        )
        return [self.hypothesis(list(self._emitted(*row))) for row in rows]

    def conditions(self, options: RecognitionOptions) -> Mapping[str, Any]:
        """Further arguments of the processor."""
        return {}

    def hypothesis(self, emitted: Sequence[EmittedToken]) -> Hypothesis:
        """The hypothesis of one window."""
        text = self.processor.decode([token.id for token in emitted], skip_special_tokens=True)
        return Hypothesis(text, text_tokens(self.tokenizer, emitted))

    def _emitted(
        self, tokens: Sequence[int], log_probabilities: Sequence[float], advances: Sequence[int], frames: int
    ) -> Iterator[EmittedToken]:
        """The tokens of a window of `frames` encoder frames, without blanks.

        In a batch, transformers 5.24 goes on emitting for a window that has ended, until the longest has; those tokens begin
        after the last frame.
        """
        at = 0
        for token, log_probability, advance in zip(tokens, log_probabilities, advances, strict=False):
            if at >= frames:
                return
            if token != self.model.config.blank_token_id:
                # An RNN-T's advance does not give a duration: each of its tokens takes one frame.
                span = advance if hasattr(self.model.config, "durations") else 1
                yield EmittedToken(token, log_probability, at * self.frame_s, (at + span) * self.frame_s)
            at += advance


class LanguageTransducer(Transducer):
    """Nemotron 3.5: takes the language, or detects it and ends its text with a tag such as `<en-US>`."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Of the processor's table of prompts."""
        return tuple(
            sorted({name.split("-")[0] for name in self.processor.prompt_dictionary} - {"auto", "enGB", "esES"})
        )

    def conditions(self, options: RecognitionOptions) -> Mapping[str, Any]:
        """The language as the processor names it: some have a region only, such as `th-TH`."""
        names = self.processor.prompt_dictionary
        if options.language is None or options.language in names:
            return {"language": options.language or "auto"}
        return {"language": next(name for name in names if name.startswith(f"{options.language}-"))}

    @cached_property
    def language_tags(self) -> Mapping[int, str]:
        """Two-letter codes by the token that names them."""
        found = ((number, LANGUAGE_TAG.match(name)) for name, number in self.tokenizer.get_vocab().items())
        return {number: tag.group(1) for number, tag in found if tag}

    def hypothesis(self, emitted: Sequence[EmittedToken]) -> Hypothesis:
        """Without the tag."""
        tags = self.language_tags
        made = super().hypothesis([token for token in emitted if token.id not in tags])
        named = [tags[token.id] for token in emitted if token.id in tags]
        return replace(made, language=named[-1] if named else None)


LANGUAGE_TAG = re.compile(r"^▁?<([a-z]{2,3})-[A-Z]{2}>$")
