"""`motet transcribe`: text from speech."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from deployments.tasks.transcription import TranscriptWindow, task_for, transcribe_here
from serve_app.cli.options import STDIO, Config, Language, ModelName, Recording, config_path, language_code
from serve_app.cli.terminal import note, opened
from serve_app.gateway.transcript_formats import (
    SPEAKER_FORMATS,
    TIMED_FORMATS,
    TranscriptContents,
    TranscriptFormat,
    rendered,
)


def transcribe(
    file: Recording,
    form: Annotated[TranscriptFormat, typer.Option("--format", "-f", help="What is written.")] = "text",
    out: Annotated[
        Path, typer.Option("--output", "-o", show_default="standard output", help="Where the transcript goes.")
    ] = STDIO,
    language: Language = None,
    prompt: Annotated[str | None, typer.Option(help="Names and spellings that occur, to guide the model.")] = None,
    model: ModelName = None,
    words: Annotated[bool, typer.Option("--words", help="The time of each word; with --format verbose_json.")] = False,
    config: Config = None,
) -> None:
    """Write down what is said in a recording. Text appears as it is recognized.

    Example: [bold]motet transcribe talk.mp3 --format srt -o talk.srt[/bold]

    Example: [bold]motet say "Hello." -o - | motet transcribe -[/bold]
    """
    if words and form != "verbose_json":
        raise typer.BadParameter(f"does not apply to {form}. Add --format verbose_json.", param_hint="--words")
    with opened(file) as source:
        recording = source.read()
    started = time.perf_counter()
    from deployments.engines.protocols import RecognitionOptions
    from deployments.tasks.diarization import SpeakerTask
    from serve_app import config_file
    from serve_app.cli import local

    settings = config_file.read_app(config_path(config))
    options = RecognitionOptions(language_code(language), prompt or None, word_times=words or form in TIMED_FORMATS)
    loaded = local.load_model(settings, model, "transcription")
    speakers = SpeakerTask() if form in SPEAKER_FORMATS else None
    task = replace(task_for(loaded.engine.traits, options), speakers=speakers)
    windows = transcribe_here(io.BytesIO(recording), task, loaded.engine, settings.windows)
    contents = TranscriptContents(form, words=words, subtitles=settings.subtitles)
    with local.output(out) as to:
        items = _as_it_comes(windows, to.file) if form == "text" else _at_once(windows, contents, to.file)
    wall = time.perf_counter() - started
    seconds = items[-1].until_seconds if items else 0.0
    pace = seconds / max(wall - loaded.load_seconds, 1e-9)
    where = "" if out == STDIO else f"{out}: "
    note(
        f"{where}{seconds:.2f} s of audio in {wall:.2f} s: {loaded.name} loaded in {loaded.load_seconds:.2f} s on "
        f"{loaded.hardware}, then {pace:.1f} times real time."
    )


def _as_it_comes(windows: Iterator[TranscriptWindow], file: BinaryIO) -> list[TranscriptWindow]:
    items: list[TranscriptWindow] = []
    separator = ""
    for item in windows:
        items.append(item)
        if text := item.text:
            file.write(f"{separator}{text}".encode())
            file.flush()
            separator = " "
    file.write(b"\n")
    return items


def _at_once(
    windows: Iterator[TranscriptWindow], contents: TranscriptContents, file: BinaryIO
) -> list[TranscriptWindow]:
    """Writes the same bytes as the body of a response of the service."""
    items = list(windows)
    body = bytes(rendered(items, contents).body)
    file.write(body if body.endswith(b"\n") else body + b"\n")
    return items
