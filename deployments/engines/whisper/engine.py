"""Whisper on CTranslate2: int8 on a CPU, float16 on CUDA.

A step transcribes windows of up to 30 s. All windows share the encoder's batches, and windows of all languages and tasks
those of the decoder. The model never writes timestamp tokens: with them it stops early (word error rate 4.1 % instead of
0.4 % on ten minutes of speech with pauses). Times come from the cross-attention, when they are asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from deployments.audio.pauses import pauses_of
from deployments.audio.voice_activity import has_speech
from deployments.engines.options import Bounds, EngineOptions, checked
from deployments.engines.protocols import (
    EngineSpec,
    RecognitionOptions,
    RecognitionTraits,
    Segment,
    Transcript,
    Window,
    Word,
)
from deployments.engines.recognition import SAMPLE_RATE, CheckedRecognition
from deployments.engines.whisper.common import NO_SPEECH_PROBABILITY
from deployments.engines.whisper.ctranslate2_model import (
    BATCHINGS,
    MEL_FRAMES,
    CTranslate2Whisper,
    States,
    padded_frames,
)
from deployments.engines.whisper.decoding import Decoded, Decoder
from deployments.engines.whisper.repetition import of_kept, repeats_a_phrase, without_repeats
from deployments.engines.whisper.word_times import words_of
from deployments.errors import fail
from deployments.text.languages import NAMES

WINDOW_SECONDS = 30.0
MEL_FRAME = SAMPLE_RATE // 100
LEAST_BYTES_PER_SECOND = 9.0
"""UTF-8 bytes of text in a second of a window. Usual are 14 in English, and more in other scripts. With 6, a window whose
first 40 words were left out stood as it was, and half an hour by two voices had 4.8 % wrong words; with 9 or 11 it has 3.6 %,
and no other of its 51 windows is transcribed twice."""
LEAST_HALF = 3 * SAMPLE_RATE
MORE_TEXT = 1.2
"""The text of two halves is taken if it is this much longer: otherwise the speech is slow, and the whole is better."""


@dataclass(frozen=True, kw_only=True)
class WhisperOptions(EngineOptions):
    """Options of a Whisper model."""

    compute_type: Annotated[str | None, "CTranslate2's name of the precision; int8 on a CPU and float16 on CUDA"] = None
    beam_size: Annotated[int, Bounds(least=1, most=20), "texts that the search keeps at once; 1 is greedy"] = 5


class WhisperEngine(CheckedRecognition):
    """Any Whisper model in CTranslate2 format."""

    def __init__(self, spec: EngineSpec) -> None:
        if spec.device not in BATCHINGS:
            raise fail("unsupported", f"Whisper on CTranslate2 does not run on {spec.device!r}.", "Use cpu or cuda.")
        options = checked(WhisperOptions, spec.options, spec.model)
        batching = BATCHINGS[spec.device](spec.threads)
        if options.compute_type is not None:
            batching = replace(batching, compute_type=options.compute_type)
        self._model = CTranslate2Whisper(Path(spec.folder), spec.device, batching)
        self._decoder = Decoder(self._model, options.beam_size)

    @property
    def traits(self) -> RecognitionTraits:
        """16 kHz windows of up to 30 s."""
        batching, many = self._model.batching, self._model.multilingual
        return RecognitionTraits(
            SAMPLE_RATE,
            tuple(NAMES) if many else ("en",),
            translates=many,
            max_window_seconds=WINDOW_SECONDS,
            word_times=True,
            prompts=True,
            token_probabilities=True,
            batch_windows=batching.workers * batching.decoder_windows,
        )

    def warm_up(self) -> None:
        """Runs the whole network on a second of silence, which `transcribe` would skip."""
        options = RecognitionOptions(word_times=True)
        self.recognize_all([Window(np.zeros(SAMPLE_RATE, np.float32), options)])

    def recognize_all(self, windows: Sequence[Window]) -> list[Transcript]:
        """The transcripts of all windows. One with little text is transcribed again in two halves."""
        transcripts = self._recognize(windows)
        halves = {at: pair for at, window in enumerate(windows) if (pair := halves_of(window, transcripts[at]))}
        again = self.recognize_all([half for pair in halves.values() for half in pair]) if halves else []
        for (at, (one, _)), first, second in zip(halves.items(), again[::2], again[1::2], strict=True):
            joined = joined_at(len(one.samples) / SAMPLE_RATE, first, second)
            if len(joined.text) > MORE_TEXT * len(transcripts[at].text):
                transcripts[at] = joined
        return transcripts

    def _recognize(self, windows: Sequence[Window]) -> list[Transcript]:
        """Encodes all windows, and decodes them in batches of similar length."""
        states = self._model.encode([window.samples for window in windows])
        return self._model.for_each_batch(
            [len(window.samples) for window in windows],
            lambda batch: self._decode([windows[at] for at in batch], [states[at] for at in batch]),
        )

    def _decode(self, windows: Sequence[Window], states: Sequence[States]) -> list[Transcript]:
        seconds = [len(window.samples) / SAMPLE_RATE for window in windows]
        decoded = self._decoder.decode(states, [window.options for window in windows], seconds)
        aligned = self._align(windows, states, decoded)
        return [
            self._transcript(window, text, aligned.get(at))
            for at, (window, text) in enumerate(zip(windows, decoded, strict=True))
        ]

    def _align(self, windows: Sequence[Window], states: Sequence[States], texts: Sequence[Decoded]) -> dict[int, Any]:
        """Alignments by the window's position, for windows that need them: one batch for each language and task."""
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for at, (window, text) in enumerate(zip(windows, texts, strict=True)):
            options = window.options
            asked = options.word_times or options.token_probabilities
            if text.tokens and (asked or repeats_a_phrase(text.text)):
                tokenizer = self._decoder.tokenizer(text.language, options.translate)
                groups[tuple(tokenizer.sot_sequence)].append(at)
        aligned: dict[int, Any] = {}
        for start, group in groups.items():
            frames = [max(len(windows[at].samples) // MEL_FRAME, 2) for at in group]
            found = self._model.align([states[at] for at in group], start, [texts[at].tokens for at in group], frames)
            aligned.update(zip(group, found, strict=True))
        return aligned

    def _transcript(self, window: Window, heard: Decoded, alignment: Any | None) -> Transcript:
        nothing = Transcript((), heard.language, heard.language_probability)
        if not heard.text.strip() or says_nothing(window, heard):
            return nothing
        seconds = len(window.samples) / SAMPLE_RATE
        text, tokens, words = heard.text, heard.tokens, list[Word]()
        probabilities: Sequence[float] = () if alignment is None else alignment.text_token_probs
        if alignment is not None:
            tokenizer = self._decoder.tokenizer(heard.language, window.options.translate)
            pauses = pauses_of(window.samples)
            written = words_of(alignment, tokens, tokenizer, pauses, seconds)
            words = without_repeats(written, pauses)
            if words:
                text = "".join(word.text for word in words)
                tokens = tuple(token for word in words for token in word.tokens)
                probabilities = of_kept(words, written, probabilities)
        segment = Segment(
            text=text,
            start=words[0].start if words else 0.0,
            end=words[-1].end if words else seconds,
            average_log_probability=heard.average_log_probability,
            no_speech_probability=heard.no_speech_probability,
            tokens=tokens,
            words=tuple(words) if window.options.word_times else (),
            language=heard.language,
        )
        found = replace(nothing, segments=(segment,))
        if alignment is None or not window.options.token_probabilities:
            return found
        return replace(found, tokens=self._decoder.tokens(tokens, probabilities))


def halves_of(window: Window, transcript: Transcript) -> tuple[Window, Window] | None:
    """Two windows that meet in a pause, if the text is too short for the speech.

    Whisper stops before a phrase that it has just written: of eight sentences that differ in a number it writes the first.
    """
    count = len(window.samples)
    text = transcript.text.encode()
    if (
        window.options.effort != "full"
        or not text
        or count < 2 * LEAST_HALF
        or len(text) >= LEAST_BYTES_PER_SECOND * count / SAMPLE_RATE
    ):
        return None
    cuts = [round(sum(pause) / 2 * SAMPLE_RATE) for pause in pauses_of(window.samples)]
    cuts = [cut for cut in cuts if LEAST_HALF <= cut <= count - LEAST_HALF]
    if not cuts:
        return None
    cut = min(cuts, key=lambda cut: abs(cut - count / 2))
    return Window(window.samples[:cut], window.options), Window(window.samples[cut:], window.options)


def joined_at(seconds: float, first: Transcript, second: Transcript) -> Transcript:
    """The transcript of two halves, of which the second begins at `seconds`. Its language is that of the first with text."""
    later = tuple(segment.moved(seconds) for segment in second.segments)
    return replace(
        first if first.segments else second, segments=first.segments + later, tokens=first.tokens + second.tokens
    )


def says_nothing(window: Window, heard: Decoded) -> bool:
    """Whether a text is not believed: the model rates it as noise, or doubts that there is speech and the voice activity
    network, which costs a thirtieth of a step, hears none. With a shorter context the model doubts less: it wrote a text for
    brown noise. Windows that are heard again are known to contain speech."""
    doubts = heard.no_speech_probability > NO_SPEECH_PROBABILITY
    is_short = padded_frames(len(window.samples)) < MEL_FRAMES and window.options.effort != "least"
    return heard.is_noise or ((doubts or is_short) and not has_speech(window.samples))


def load(spec: EngineSpec) -> WhisperEngine:
    """Loads the CTranslate2 model in `spec.folder` and runs it once, so that the first request is not slower."""
    engine = WhisperEngine(spec)
    engine.warm_up()
    return engine
