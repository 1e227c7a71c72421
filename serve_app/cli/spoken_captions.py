"""Subtitles of what a command speaks, from the times of its words."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from pathlib import Path

from deployments.engines.protocols import AudioChunk, SpeechTraits
from deployments.errors import fail
from deployments.settings import SubtitleSettings
from deployments.tasks.piece_preparation import language_of
from deployments.tasks.spoken_words import FindWords, WordRecorder
from deployments.tasks.word_alignment import Aligner
from deployments.text import subtitles
from deployments.text.sources import PieceSource
from deployments.text.subtitles import TimedWord
from serve_app.cli.local import load_model
from serve_app.config import AppConfig

WRITERS = {".srt": subtitles.srt, ".vtt": subtitles.vtt}
"""What writes a file of captions, by its suffix."""


def captioned(
    chunks: Generator[AudioChunk],
    path: Path | None,
    app: AppConfig,
    traits: SpeechTraits,
    voice: str,
    source: PieceSource,
) -> Generator[AudioChunk]:
    """The chunks of a text. With a `path`, its words are written there after them as subtitles, in the format of the suffix.

    Raises `MotetError` (unsupported) if the model does not know its words, and no transcription model finds them.
    """
    if path is None:
        return chunks
    return _recorded(chunks, path, WordRecorder(_word_finder(app, traits, voice, source)), app.subtitles)


def _recorded(
    chunks: Generator[AudioChunk], path: Path, words: WordRecorder, settings: SubtitleSettings
) -> Generator[AudioChunk]:
    with closing(chunks):
        for chunk in chunks:
            words.add(chunk)
            yield chunk
    timed = [TimedWord(word.text, word.start, word.end) for word in words.words]
    path.write_text(WRITERS[path.suffix.lower()](timed, words.seconds, settings), encoding="utf-8")


def _word_finder(app: AppConfig, traits: SpeechTraits, voice: str, source: PieceSource) -> FindWords | None:
    """What finds the words of a model that does not know them: a transcription model of the configuration."""
    if traits.word_times:
        return None
    recogniser = load_model(app, app.speech.aligning_model, "transcription")
    if not recogniser.engine.traits.word_times:
        cause = f"The model {recogniser.name!r} gives no times of words."
        raise fail("unsupported", cause, "Name one that does as speech.aligning_model, such as whisper.")
    aligner = Aligner(recogniser.engine, language_of(traits, voice))
    return lambda number, samples, rate: aligner.words(source.pieces[number].text, samples, rate)
