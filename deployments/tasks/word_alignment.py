"""Word times of a model that does not know them: a recogniser hears a piece, and its words are laid on those of the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from deployments.engines.protocols import RecognitionEngine, Samples, SpokenWord, Transcript, Window
from deployments.tasks.piece_windows import transcripts_of, windows_of_piece
from deployments.text.word_mapping import WordMapping, words_in


@dataclass(frozen=True, slots=True)
class Aligner:
    """Finds words with a recogniser in this process. `language` is the voice's BCP 47 tag."""

    engine: RecognitionEngine
    language: str

    def words(self, written: str, samples: Samples, sample_rate: int) -> tuple[SpokenWord, ...]:
        """The words of a piece in seconds of its sound, mono samples (n,). Raises what the engine returns."""
        traits = self.engine.traits
        windows = windows_of_piece(samples, sample_rate, traits, self.language, word_times=True)
        transcripts = transcripts_of(self.engine, windows)
        return aligned_words(written, windows, transcripts, traits.sample_rate)


def aligned_words(
    written: str, windows: Sequence[Window], transcripts: Sequence[Transcript], sample_rate: int
) -> tuple[SpokenWord, ...]:
    """The words of a piece in seconds of its sound, from the transcripts of its windows at `sample_rate` Hz. Empty if the
    recogniser heard no word."""
    heard, passed_s = list[SpokenWord](), 0.0
    for window, transcript in zip(windows, transcripts, strict=True):
        words = (word for segment in transcript.segments for word in segment.words)
        heard += (SpokenWord(word.text.strip(), word.start + passed_s, word.end + passed_s) for word in words)
        passed_s += len(window.samples) / sample_rate
    if not heard:
        return ()
    texts = words_in(written)
    times = WordMapping([word.text for word in heard], texts).add([(word.start, word.end) for word in heard])
    return tuple(SpokenWord(text, start, end) for text, (start, end) in zip(texts, times, strict=True))
