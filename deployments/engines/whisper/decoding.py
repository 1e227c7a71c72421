"""From encoder states to text: prompts, beam search, and OpenAI's guards with their fall-back."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from faster_whisper.tokenizer import Tokenizer
from faster_whisper.transcribe import get_suppressed_tokens

from deployments.engines.protocols import Effort, RecognitionOptions, Token
from deployments.engines.whisper.common import (
    COMPRESSION_RATIO,
    LOG_PROBABILITY,
    LONGEST_TEXT,
    is_noise,
)
from deployments.engines.whisper.ctranslate2_model import CTranslate2Whisper, States
from deployments.engines.whisper.tokens import tokens_of
from deployments.text.compression_ratio import compression_ratio

# OpenAI's values: openai/whisper, transcribe.py.
FALL_BACK_TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0)
CONTEXT_TOKENS = 2 * LONGEST_TEXT
"""Length of the decoder's context. Half of it is for the text, and half for prompt and keywords."""
BOUNDED_FALL_BACK = (0.4,)
"""The same for live streams, which cannot wait for more."""
LEAST_BEAM = 2
"""Beams for a window that is heard again. Measured with Whisper tiny.en on clips of 5 s: 1, 2 and 5 beams give 4.2, 3.0 and
3.0 % wrong words; 2 take as long as 1, and 5 half as long again."""
ENGLISH_TOKENS_PER_S, TOKENS_PER_S, MORE_TOKENS = 6, 15, 8
"""The most tokens of a window of a live stream: for each second of its sound, and beside that. English speech has 4 tokens a
second, other scripts up to 15. A text that repeats itself ends there, and so do one in twenty of those whose sound ends in
the middle of a sentence: they begin anew until they may not go on. Without this and with all temperatures, a window of 4.4 s
took 7 s, and four streams were 18 s behind; with 15 instead of 6, the longest of 110 hearings took a third longer."""
STATE_NOISE = 0.5
"""Standard deviation of the noise at temperature 1, as a share of that of the encoder's states."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The text of one window. `complete` tells whether it ended before the longest possible text."""

    tokens: tuple[int, ...]
    text: str
    language: str
    language_probability: float
    average_log_probability: float
    no_speech_probability: float
    complete: bool

    @property
    def is_noise(self) -> bool:
        """Whether the model rates the window as having no speech."""
        return is_noise(self.no_speech_probability, self.average_log_probability, self.complete)

    @property
    def is_doubtful(self) -> bool:
        """Whether the text repeats itself or is improbable, so that another attempt may be better."""
        looping = not self.complete or compression_ratio(self.text) > COMPRESSION_RATIO
        return not self.is_noise and (looping or self.average_log_probability < LOG_PROBABILITY)


class Decoder:
    """Decodes batches of windows. Holds no state of them; several threads may call it."""

    def __init__(self, model: CTranslate2Whisper, beam_size: int) -> None:
        self._model = model
        self._beam_size = beam_size
        self.tokenizer = cache(self._tokenizer)
        self._suppressed = list(get_suppressed_tokens(self.tokenizer("en", False), [-1]))

    def decode(
        self, states: Sequence[States], options: Sequence[RecognitionOptions], seconds: Sequence[float]
    ) -> list[Decoded]:
        """The text of each window with `seconds` of sound. Windows of all languages and tasks are one batch, if their prompts
        are equally long."""
        languages = self._languages(states, options)
        found = self._attempt(states, options, seconds, languages, [each.temperature for each in options])
        temperatures = [fall_back(each) for each in options]
        doubtful = [at for at, text in enumerate(found) if text.is_doubtful]
        for number in range(len(FALL_BACK_TEMPERATURES)):
            doubtful = [at for at in doubtful if number < len(temperatures[at])]
            if not doubtful:
                break
            attempts = self._attempt(
                [states[at] for at in doubtful],
                [options[at] for at in doubtful],
                [seconds[at] for at in doubtful],
                [languages[at] for at in doubtful],
                [temperatures[at][number] for at in doubtful],
            )
            believed = set[int]()
            for at, attempt in zip(doubtful, attempts, strict=True):
                # Speech that repeats itself is doubtful, too: then attempts agree.
                if not attempt.is_doubtful or attempt.text == found[at].text:
                    believed.add(at)
                found[at] = better(found[at], attempt)
            doubtful = [at for at in doubtful if at not in believed]
        return found

    def _languages(self, states: Sequence[States], options: Sequence[RecognitionOptions]) -> list[tuple[str, float]]:
        if not self._model.multilingual:
            return [("en", 1.0)] * len(states)
        unknown = [at for at, each in enumerate(options) if each.language is None]
        found = self._model.languages([states[at] for at in unknown]) if unknown else []
        detected = dict(zip(unknown, found, strict=True))
        return [detected.get(at) or (each.language or "en", 1.0) for at, each in enumerate(options)]

    def _attempt(
        self,
        states: Sequence[States],
        options: Sequence[RecognitionOptions],
        seconds: Sequence[float],
        languages: Sequence[tuple[str, float]],
        temperatures: Sequence[float],
    ) -> list[Decoded]:
        """One beam search for each window. CTranslate2 takes prompts of one length and one size of beam in a call."""
        prompts = [self.prompt(each, language) for each, (language, _) in zip(options, languages, strict=True)]
        groups: dict[tuple[int, Effort], list[int]] = defaultdict(list)
        for at, prompt in enumerate(prompts):
            groups[len(prompt), options[at].effort].append(at)
        decoded: dict[int, Decoded] = {}
        for (length, effort), group in groups.items():
            limit = min(LONGEST_TEXT, CONTEXT_TOKENS - length)
            if effort != "full":
                limit = min(limit, max(most_tokens(seconds[at], languages[at][0]) for at in group))
            results = self._model.generate(
                [with_noise(states[at], temperatures[at]) for at in group],
                [prompts[at] for at in group],
                beam_size=min(LEAST_BEAM, self._beam_size) if effort == "least" else self._beam_size,
                max_length=max(2 * limit, limit + length),  # CTranslate2 takes half of it, or what a prompt leaves
                suppress_tokens=self._suppressed,
            )
            for at, result in zip(group, results, strict=True):
                decoded[at] = self._decoded(result, languages[at], limit)
        return [decoded[at] for at in range(len(states))]

    def _decoded(self, result: Any, language: tuple[str, float], limit: int) -> Decoded:
        tokens = tuple(result.sequences_ids[0])
        return Decoded(
            tokens=tokens,
            text=self.tokenizer(language[0], False).decode(list(tokens)),
            language=language[0],
            language_probability=language[1],
            # CTranslate2 divides the sum by the tokens without the end, OpenAI with it; the thresholds are OpenAI's.
            average_log_probability=result.scores[0] * len(tokens) / (len(tokens) + 1),
            no_speech_probability=result.no_speech_prob,
            complete=len(tokens) < limit,
        )

    def prompt(self, options: RecognitionOptions, language: str) -> list[int]:
        """The tokens before the text: keywords and the end of the prompt, at most half the context, and the task."""
        tokenizer = self.tokenizer(language, options.translate)
        most = CONTEXT_TOKENS - LONGEST_TEXT - 1
        keywords = tokenizer.encode(" " + ", ".join(options.keywords))[: most // 2] if options.keywords else []
        context = tokenizer.encode(" " + options.prompt.strip()) if options.prompt and options.prompt.strip() else []
        before = keywords + context[-(most - len(keywords)) :]
        start = [*tokenizer.sot_sequence, tokenizer.no_timestamps]
        return [tokenizer.sot_prev, *before, *start] if before else start

    def tokens(self, tokens: Sequence[int], probabilities: Sequence[float]) -> tuple[Token, ...]:
        """The tokens of a text with their probabilities, without the special ones."""
        names = [self._model.tokenizer.id_to_token(token) or "" for token in tokens]
        return tokens_of(names, probabilities)

    def _tokenizer(self, language: str, translate: bool) -> Tokenizer:
        task = "translate" if translate else "transcribe"
        return Tokenizer(self._model.tokenizer, self._model.multilingual, task=task, language=language)


def most_tokens(seconds: float, language: str) -> int:
    """The most tokens of a window with `seconds` of a live stream."""
    return MORE_TOKENS + int((ENGLISH_TOKENS_PER_S if language == "en" else TOKENS_PER_S) * seconds)


def fall_back(options: RecognitionOptions) -> tuple[float, ...]:
    """The temperatures of further attempts at a doubtful text. As with OpenAI's service, a temperature that the client states
    is the only one."""
    if options.temperature or options.effort == "least":
        return ()
    return FALL_BACK_TEMPERATURES if options.effort == "full" else BOUNDED_FALL_BACK


def better(before: Decoded, now: Decoded) -> Decoded:
    """The later attempt if the guards accept it; else that which ended, and then the more probable."""
    if not now.is_doubtful:
        return now
    return max(before, now, key=lambda each: (each.complete, each.average_log_probability))


def with_noise(states: States, temperature: float) -> States:
    """The states with noise in proportion to the temperature, always the same for the same states.

    CTranslate2's sampling cannot be repeated: its generator belongs to a thread, and is seeded once. Noise before a beam
    search gives other texts, too, and the same window gives the same text in every batch.
    """
    if temperature == 0:
        return states
    noise = np.random.default_rng(0).standard_normal(states.shape, np.float32)
    noisy: States = (states + STATE_NOISE * temperature * states.std() * noise).astype(states.dtype)
    return noisy
