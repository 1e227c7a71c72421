"""Speaks the words of a recording with another voice in this process, without a cluster, for the command line."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import ExitStack, aclosing, closing
from dataclasses import dataclass
from itertools import chain
from typing import BinaryIO

from deployments.engines.protocols import AudioChunk, RecognitionOptions, Samples, SpeechRequest
from deployments.engines.recognition import check_options
from deployments.errors import quoted
from deployments.settings import SeparationSettings
from deployments.tasks.engine_calls import DoneCall, in_order, next_here, run_here
from deployments.tasks.in_process_speech import InProcessClient
from deployments.tasks.phrase_fitting import PhraseFitter
from deployments.tasks.phrases import Phrase, PhraseCutter
from deployments.tasks.piece_checks import PieceChecks
from deployments.tasks.piece_preparation import PieceMaker
from deployments.tasks.revoicing import (
    RevoicedPart,
    RevoicingSummary,
    VoiceTrack,
    ensure_leaves_background,
    no_speech,
    revoice,
    sound_of_phrase,
)
from deployments.tasks.separation import Merged, SeparationTask, separate_here
from deployments.tasks.speech import speak
from deployments.tasks.transcription import TranscriptWindow, task_for, transcribe_here
from deployments.tasks.voice_language import ensure_speaks
from deployments.text.sources import WholeText
from serve_app.cli.local import LoadedModel, Progress, SoundWriter, load_model, recording_size, sound_file
from serve_app.cli.local_speech import SoundChoices, chosen_voice
from serve_app.config import AppConfig


@dataclass(frozen=True, slots=True)
class RevoicingChoices:
    """Who speaks the words of a recording, and how. Each model that is not named is the first of the configuration for its
    task; `max_speed` is the configuration's where it is None."""

    voice: str | None = None
    model: str | None = None
    transcription_model: str | None = None
    separation_model: str | None = None
    language: str | None = None
    translate: bool = False
    keep_background: bool = False
    max_speed: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class RevoicingReport:
    """What was written, and how long it took. Wall time counts from the start of the command."""

    output: str
    model: str
    voice: str
    hardware: str
    sample_rate: int
    audio_seconds: float
    recording_seconds: float
    phrases: int
    unspoken_phrases: int
    max_speed: float
    max_drift_seconds: float
    load_seconds: float
    wall_seconds: float
    times_real_time: float
    """Seconds of audio made per second of work after the models were loaded."""


class LocalRevoicing:
    """The models of one command, and the recording that they work on."""

    def __init__(self, app: AppConfig, choices: RevoicingChoices, loudness_lufs: float | None) -> None:
        self._app = app
        self._choices = choices
        self._loudness_lufs = loudness_lufs
        self.ear = load_model(app, choices.transcription_model, "transcription")
        options = RecognitionOptions(
            choices.language, translate=choices.translate, word_times=self.ear.engine.traits.word_times
        )
        check_options(options, self.ear.engine.traits, f"The model {quoted(self.ear.name)}")
        self._hearing = task_for(self.ear.engine.traits, options)
        self.speaker = load_model(app, choices.model, "speech")
        self._traits = self.speaker.engine.traits
        self.voice, self._reference = chosen_voice(choices.voice, self.speaker, app)
        ensure_speaks(self.speaker.name, self._traits, self.voice, "en" if choices.translate else choices.language)
        self.separator = self._loaded_separator() if choices.keep_background else None
        self.cutter = PhraseCutter(app.revoicing)
        self._maker = PieceMaker(self._traits, self.voice, (app.speech.known_words,), app.speech.normalize)
        self._client = PieceChecks(app.speech.quality, self._traits).around(InProcessClient(self.speaker.engine))

    @property
    def load_seconds(self) -> float:
        """How long all models took to load."""
        return sum(each.load_seconds for each in (self.ear, self.speaker, self.separator) if each)

    def parts(self, recording: BinaryIO, again: BinaryIO | None) -> Generator[RevoicedPart]:
        """The new sound, in order. `again` is the same recording, for its background. Raises `MotetError`."""
        app, traits = self._app, self._traits
        windows = transcribe_here(recording, self._hearing, self.ear.engine, app.windows)
        phrases = self._phrases(windows)
        first = next(phrases, None)
        if first is None:
            raise no_speech()
        language = "en" if self._choices.translate else first.language
        ensure_speaks(self.speaker.name, traits, self.voice, language)
        following = chain([first], phrases)
        track = VoiceTrack(
            PhraseFitter(self._choices.max_speed or app.revoicing.max_speed, app.revoicing.min_gap_s),
            traits.sample_rate,
            lambda: self.cutter.recording_s,
        )
        calls = in_order(lambda: next_here(following), DoneCall[Phrase], 1)
        merged = _separated(again, self.separator, app.separation) if again and self.separator else None
        return run_here(revoice(calls, self._sound, track, merged))

    def _phrases(self, windows: Iterator[TranscriptWindow]) -> Iterator[Phrase]:
        for window in windows:
            yield from self.cutter.push(window)
        yield from self.cutter.finish()

    async def _sound(self, call: DoneCall[Phrase]) -> Samples:
        return await sound_of_phrase(self._spoken((await call).text), self._traits.sample_rate)

    async def _spoken(self, text: str) -> AsyncGenerator[AudioChunk]:
        request = SpeechRequest((), self.voice, seed=self._choices.seed, reference=self._reference)
        pieces = WholeText(self._maker.of_text(text, self._app.speech.pieces).pieces)
        chunks = speak(request, self._traits, self._client, text=pieces, loudness_lufs=self._loudness_lufs)
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk

    def _loaded_separator(self) -> LoadedModel:
        loaded = load_model(self._app, self._choices.separation_model, "separation")
        ensure_leaves_background(loaded.name, loaded.engine.traits)
        return loaded


async def _separated(
    recording: BinaryIO, separator: LoadedModel, settings: SeparationSettings
) -> AsyncGenerator[Merged]:
    task = SeparationTask.for_model(separator.engine.traits, settings)
    for merged in separate_here(recording, task, separator.engine, settings.max_audio_s):
        yield merged


def revoice_recording(
    recording: BinaryIO,
    again: BinaryIO | None,
    app: AppConfig,
    choices: RevoicingChoices,
    sound: SoundChoices,
    progress: Progress,
    started: float,
) -> RevoicingReport:
    """Writes a recording in another voice, phrase by phrase. `again` is the same recording, opened once more, if its
    background stays. `started` is when the command did, by `time.perf_counter`. Raises `MotetError`."""
    local = LocalRevoicing(app, choices, sound.loudness(app))
    working, size, done = time.perf_counter(), recording_size(recording), RevoicingSummary()
    writer: SoundWriter | None = None
    rate = 0
    with ExitStack() as opened, closing(local.parts(recording, again)) as parts:
        for part in parts:
            if writer is None:
                rate = part.sample_rate
                file = sound_file(sound.path, sound.form, rate, len(part.samples), sound.sample_rate)
                writer = opened.enter_context(file)
            writer.write(part.samples)
            done.note(part)
            if size:
                progress(recording.tell(), size)
    return RevoicingReport(
        output=str(sound.path),
        model=local.speaker.name,
        voice=local.voice,
        hardware=local.speaker.hardware,
        sample_rate=sound.sample_rate or rate,
        audio_seconds=done.seconds,
        recording_seconds=local.cutter.recording_s,
        phrases=done.phrases,
        unspoken_phrases=done.unspoken_phrases,
        max_speed=round(done.max_speed, 3),
        max_drift_seconds=round(done.max_drift_s, 3),
        load_seconds=local.load_seconds,
        wall_seconds=time.perf_counter() - started,
        times_real_time=done.seconds / (time.perf_counter() - working),
    )
