"""A bulk job without a cluster: rendering, the store, resuming, retries, and what is written."""

from __future__ import annotations

import base64
import errno
import fcntl
import hashlib
import io
import itertools
import json
import os
import unicodedata
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import soundfile

from cluster.bulk.inputs import read_rows
from cluster.bulk.job import BulkJob, seed_of
from cluster.bulk.output import refuse_inputs_in_output
from cluster.bulk.plan import Batch, WorkItem, item_of
from cluster.bulk.rendering import renderer_of
from cluster.bulk.results import RESULT, Outcome, RowResult, Timing, table_of
from cluster.bulk.row import RecordingSource, Row, read_recording
from cluster.bulk.run import JobProgress, JobSummary, run_job
from cluster.bulk.service_rendering import ServiceClient, render_on_service
from cluster.bulk.settings import BulkSettings, Layout
from cluster.bulk.sound import SoundBytes
from cluster.bulk.store import FOLDER, JobStore, part_bytes
from cluster.bulk.transcripts import TranscriptForm, transcript_file
from cluster.bulk.workers import RenderedBatch, TableWorker, Worker, check_columns, rendered_batch
from cluster.hardware import CpuClass, CudaClass, HardwareClass, MlxClass
from cluster.models import Model
from deployments.audio import g711
from deployments.audio.encode import encoded_rate, open_encoder
from deployments.audio.formats import FORMATS, AudioFormat
from deployments.audio.loudness import loudness_of
from deployments.audio.pcm import to_float
from deployments.audio.resample import resampled_length
from deployments.engines import registry
from deployments.engines.protocols import (
    AudioChunk,
    EngineSpec,
    FinishReason,
    RecognitionTraits,
    Segment,
    SpeechRequest,
    SpeechTraits,
    Transcript,
    Window,
    Word,
)
from deployments.engines.registry import Task
from deployments.errors import Failure, MotetError
from deployments.settings import PieceSettings, StepSettings, SubtitleSettings
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.speech import no_sound, no_words
from deployments.tasks.transcription import TranscriptWindow
from deployments.text.segmentation import cut_into_pieces
from serve_app.bulk import BulkOptions, job_of, places_for
from serve_app.cli.bulk_progress import ProgressLog, ProgressText, bulk_progress
from serve_app.config import AppConfig
from serve_app.gateway.errors import error_response
from serve_app.gateway.sse import event
from serve_app.gateway.transcript_formats import TranscriptContents, verbose
from tests.unit.fakes import TRAITS, ToneEngine

TEXTS = [f"{'word ' * (number % 7 + 1)}{number}." for number in range(20)]


def app_of(engine: str = "simulated", width: int = 3, **bulk: Any) -> AppConfig:
    steps = StepSettings(max_batch_size=width)
    options = {"step_ms": 0, "chunk_ms": 160} if engine == "simulated" else {}
    model = Model(engine=engine, steps=steps, options=options)
    return AppConfig(models={engine: model}, bulk=BulkSettings.model_validate({"batch_rows": 4} | bulk))


def speech_job(**wishes: Any) -> BulkJob:
    return job_of(app_of(), "speech", None, BulkOptions(**wishes), None)[0]


def engine_of(job: BulkJob) -> Any:
    return registry.load(job.model.engine, EngineSpec("x", "", "cpu", 1, job.model.options))


def rows_of(texts: Sequence[str] = TEXTS) -> list[Row]:
    return [Row(f"row-{number}", text) for number, text in enumerate(texts)]


class Here:
    """Makes batches in this process; the driver is killed after `dies_after` of them, and a worker by what is `deadly`."""

    def __init__(self, job: BulkJob, dies_after: int | None = None, deadly: str = "") -> None:
        self._job = job
        self._dies_after = dies_after
        self._deadly = deadly
        self.made: list[str] = []

    def __call__(self, batches: Sequence[Batch]) -> Iterator[RenderedBatch]:
        renderer = renderer_of(self._job, engine_of(self._job))
        for batch in reversed(batches):  # any order is allowed
            if len(self.made) == self._dies_after:
                raise Killed
            if self._deadly and any(self._deadly in item.text for item in batch.items):
                continue
            self.made.append(batch.name)
            outcomes = renderer.render(batch.items, [None] * len(batch.items))
            yield rendered_batch(batch.name, batch.items, outcomes, self._job.model.model)


class Killed(BaseException):
    """Nothing is cleaned up after it."""


def run(
    job: BulkJob, folder: Path, execute: Any, rows: Sequence[Row] | None = None, layout: Layout = "parquet"
) -> JobSummary:
    return run_job(rows_of() if rows is None else rows, job, folder, layout, execute, lambda progress: None)


def contents(folder: Path) -> Mapping[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and FOLDER not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def manifest_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def output_of(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


# --- Speech


def test_a_row_sounds_as_it_does_alone_in_any_batch() -> None:
    job = speech_job(speed=5.0)  # beyond the engine's own 4, so that the sound is stretched too
    engine = engine_of(job)
    items = [item_of(row, job) for row in rows_of()]
    outcomes = renderer_of(job, engine).render(items, [None] * len(items))
    for item, outcome in zip(items, outcomes, strict=True):
        assert not isinstance(outcome, Failure)
        pieces = cut_into_pieces(item.text, AppConfig().speech.pieces)
        alone = np.concatenate(
            [c.samples for c in speak_here(SpeechRequest(pieces, "tone", 5.0, seed_of(item.key)), engine)]
        )
        heard, rate = soundfile.read(io.BytesIO(outcome[0].audio or b""), dtype="float32")
        assert rate == 24_000
        assert outcome[0].seconds == len(alone) / rate
        assert np.abs(heard - alone).max() <= 1 / 32768


def test_timings_cover_the_sound_piece_by_piece() -> None:
    job = speech_job()
    text = "This is the first sentence of a few. This is the second one. And a third."
    item = item_of(Row("a", text), job)
    (outcome,) = renderer_of(job, engine_of(job)).render([item], [None])
    assert not isinstance(outcome, Failure)
    timings = outcome[0].timings
    assert [timing.text for timing in timings] == list(cut_into_pieces(text, AppConfig().speech.pieces))
    assert timings[0].start == 0
    assert timings[-1].end == outcome[0].seconds
    assert all(one.end == other.start for one, other in itertools.pairwise(timings))


@pytest.mark.parametrize("timed", [True, False])
def test_rows_have_the_times_of_words_if_the_job_wants_them(timed: bool) -> None:
    job = speech_job()
    job = job.model_copy(update={"order": job.order.model_copy(update={"word_times": timed})})
    text = "This is the first sentence of a few. This is the second one."
    (outcome,) = renderer_of(job, engine_of(job)).render([item_of(Row("a", text), job)], [None])
    assert not isinstance(outcome, Failure)
    words = outcome[0].words
    assert (words is not None) is timed
    if words is not None:
        assert [word.text for word in words] == text.split()
        edges = [edge for word in words for edge in (word.start, word.end)]
        assert edges == sorted(edges) and edges[-1] <= outcome[0].seconds


@pytest.mark.parametrize("wishes", [{"form": "mulaw"}, {"sample_rate": 16_000}, {"form": "flac", "sample_rate": 8000}])
def test_a_row_at_another_rate_and_loudness_has_the_same_times(wishes: dict[str, Any]) -> None:
    text = "This is the first sentence of a few. This is the second one. And a third."
    results = []
    for each in ({}, {**wishes, "loudness_lufs": -30.0}):
        job = speech_job(**each)
        (outcome,) = renderer_of(job, engine_of(job)).render([item_of(Row("a", text), job)], [None])
        assert not isinstance(outcome, Failure)
        results.append(outcome[0])
    plain, levelled = results
    rate = wishes.get("sample_rate", 8000)
    assert (levelled.seconds, levelled.timings) == (plain.seconds, plain.timings)
    assert (plain.sample_rate, levelled.sample_rate) == (24_000, rate)
    data = bytes(levelled.audio or b"")
    samples = to_float(g711.decode(data, "mu")) if "sample_rate" not in wishes else soundfile.read(io.BytesIO(data))[0]
    assert len(samples) == resampled_length(round(plain.seconds * 24_000), 24_000, rate)
    assert loudness_of(np.asarray(samples, np.float32), rate) == pytest.approx(-30.0, abs=1.0)


def test_no_more_utterances_are_open_than_the_engine_takes() -> None:
    job = speech_job()
    engine = Watched(engine_of(job))
    items = [item_of(row, job) for row in rows_of()]
    renderer_of(job, engine).render(items, [None] * len(items))
    assert engine.largest == 3
    assert engine.open_now == 0


def test_a_row_that_fails_is_an_error_in_its_place_and_frees_its_slot() -> None:
    job = speech_job()
    engine = Watched(engine_of(job))
    texts = ["One.", "poison", "...", "Two."]
    items = [item_of(row, job) for row in rows_of(texts)] + [item_of(Row("v", "Three.", "nobody"), job)]
    outcomes = renderer_of(job, engine).render(items, [None] * len(items))
    assert [getattr(outcome, "kind", "made") for outcome in outcomes] == [
        "made",
        "engine",
        "invalid",
        "made",
        "not_found",
    ]
    assert engine.open_now == 0


def test_only_what_another_try_may_mend_is_tried_again() -> None:
    job = job_of(app_of(retries=2), "speech", None, BulkOptions(), None)[0]
    engine = Watched(engine_of(job), failures=2)
    items = [item_of(row, job) for row in rows_of(["One.", "..."])]
    outcomes = renderer_of(job, engine).render(items, [None, None])
    assert not isinstance(outcomes[0], Failure)
    assert isinstance(outcomes[1], Failure)
    assert engine.opened == 3  # twice in vain; the text without words never came so far


def test_an_order_that_no_row_can_be_made_with_is_refused_at_once() -> None:
    job = speech_job(voice="nobody")
    with pytest.raises(MotetError, match="nobody"):
        renderer_of(job, engine_of(job))


class Mute(ToneEngine):
    """Makes no sound, and ends as it is told to."""

    def __init__(self, reason: FinishReason) -> None:
        super().__init__()
        self._reason = reason

    def step(self, utterances: Any) -> list[AudioChunk | Exception]:
        chunks: Any = super().step(utterances)
        return [replace(chunk, samples=chunk.samples[:0], finish_reason=self._reason) for chunk in chunks]


@pytest.mark.parametrize("reason", ["stop", "length"])
def test_a_row_of_which_the_model_makes_no_sound_is_the_error_that_a_service_answers(reason: FinishReason) -> None:
    job = speech_job()
    outcomes = renderer_of(job, Mute(reason)).render(
        [item_of(row, job) for row in rows_of(["你好", "..."])], [None] * 2
    )
    assert outcomes == [no_sound(reason).failure, no_words().failure]


class Watched:
    """An engine that counts what is open, and fails in its first steps if asked to."""

    def __init__(self, engine: Any, failures: int = 0) -> None:
        self._engine = engine
        self._failures = failures
        self.open_now = self.largest = self.opened = 0
        self.traits = engine.traits

    def open(self, request: SpeechRequest) -> Any:
        self.open_now += 1
        self.opened += 1
        self.largest = max(self.largest, self.open_now)
        return self._engine.open(request)

    def step(self, utterances: Sequence[Any]) -> list[AudioChunk | Exception]:
        if self._failures:
            self._failures -= 1
            return [RuntimeError("a bad day") for _ in utterances]
        results: list[AudioChunk | Exception] = self._engine.step(utterances)
        return results

    def close(self, utterance: Any) -> None:
        self.open_now -= 1
        self._engine.close(utterance)


# --- Recordings


HEARS_ALL = AppConfig.model_validate({"windows": {"voice_activity": {"enabled": False}}})
"""For recordings of noise, in which nobody speaks."""


class Ear:
    """Hears how long a window is; a window of 2 s is too much for it."""

    traits = RecognitionTraits(16_000, ("en",), False, 30.0)

    def transcribe(self, windows: Sequence[Window]) -> list[Transcript | Exception]:
        return [self._one(window) for window in windows]

    def _one(self, window: Window) -> Transcript | Exception:
        seconds = len(window.samples) / 16_000
        if seconds == 2.0:
            return RuntimeError("two seconds")
        word = Word(f" {seconds:g}", 0.0, seconds, 1.0)
        segment = Segment(word.text, word.start, word.end, 0.0, 0.0, words=(word,))
        return Transcript((segment,), "en")


def wav(seconds: float, channels: int = 1, rate: int = 16_000) -> bytes:
    file = io.BytesIO()
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    soundfile.write(file, samples, rate, format="WAV")
    return file.getvalue()


def recording_items(job: BulkJob, sounds: Sequence[bytes]) -> list[WorkItem]:
    found = [RecordingSource("x", None, f"{number:064x}", len(sound)) for number, sound in enumerate(sounds)]
    return [item_of(Row(str(number), recording=one), job) for number, one in enumerate(found)]


def recording_row(folder: Path) -> Row:
    """A second of sound in a file."""
    sound = wav(1)
    (folder / "a.wav").write_bytes(sound)
    where = RecordingSource(str(folder / "a.wav"), None, hashlib.sha256(sound).hexdigest(), len(sound))
    return Row("a", recording=where)


@pytest.mark.parametrize("word_times", [False, True])
def test_windows_of_many_recordings_come_back_to_their_own(word_times: bool) -> None:
    job = job_of(HEARS_ALL, "transcription", None, BulkOptions(word_times=word_times), None)[0]
    sounds = [wav(1), wav(45), b"no sound", wav(2), wav(3)]
    outcomes = renderer_of(job, Ear()).render(recording_items(job, sounds), sounds)
    kinds = [outcome.kind if isinstance(outcome, Failure) else outcome[0].seconds for outcome in outcomes]
    assert kinds == [1.0, 45.0, "invalid", "engine", 3.0]
    long = outcomes[1]
    assert not isinstance(long, Failure)
    assert long[0].text is not None
    assert len(long[0].text.split()) == len(long[0].timings) == 2
    assert long[0].timings[-1].end == 45.0


def test_stems_of_identity_are_the_recording() -> None:
    app = app_of("identity")
    job = job_of(app, "separation", None, BulkOptions(chunk_seconds=1.0, overlap_seconds=0.3), None)[0]
    engine = engine_of(job)
    sounds = [wav(3.7, 2), b"no sound"]
    outcomes = renderer_of(job, engine).render(recording_items(job, sounds), sounds)
    assert isinstance(outcomes[1], Failure)
    assert not isinstance(outcomes[0], Failure)
    assert [result.stem for result in outcomes[0]] == list(engine.traits.stems)
    before, _ = soundfile.read(io.BytesIO(sounds[0]), dtype="int16")
    after, rate = soundfile.read(io.BytesIO(outcomes[0][0].audio or b""), dtype="int16")
    assert rate == 16_000
    assert np.abs(after.astype(int) - before).max() <= 1


# --- The job


@pytest.mark.parametrize("layout", ["parquet", "folder"])
def test_killed_after_any_batch_and_run_again_it_ends_with_the_same_bytes(tmp_path: Path, layout: Layout) -> None:
    job = speech_job()
    calm = Here(job)
    run(job, tmp_path / "calm", calm, layout=layout)
    whole = contents(tmp_path / "calm")
    assert len(calm.made) == 5
    for killed_after in range(len(calm.made)):
        folder = tmp_path / f"killed-{killed_after}"
        first, second = Here(job, dies_after=killed_after), Here(job)
        with pytest.raises(Killed):
            run(job, folder, first, layout=layout)
        summary = run(job, folder, second, layout=layout)
        assert not set(first.made) & set(second.made)
        assert summary.rows == len(TEXTS)
        assert contents(folder) == whole


@pytest.mark.parametrize("layout", ["parquet", "folder"])
def test_killed_while_the_output_is_written_it_ends_with_the_same_bytes(
    tmp_path: Path, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = speech_job()
    run(job, tmp_path / "calm", Here(job), layout=layout)

    def killed(self: JobStore, names: set[str]) -> None:
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(JobStore, "forget", killed)
        with pytest.raises(Killed):
            run(job, tmp_path / "rough", Here(job), layout=layout)
    again = Here(job)
    run(job, tmp_path / "rough", again, layout=layout)
    assert again.made == []
    assert contents(tmp_path / "rough") == contents(tmp_path / "calm")
    assert JobStore(tmp_path / "rough").done() == set()


def test_every_row_is_there_once_in_the_order_of_the_input(tmp_path: Path) -> None:
    job = speech_job()
    rows = [*rows_of(), Row("again", TEXTS[3]), Row("bad", fault="Nothing to read."), Row("poisoned", "poison")]
    execute = Here(job)
    summary = run(job, tmp_path, execute, rows)
    found = output_of(tmp_path)
    assert [facts["id"] for facts in found] == [row.id for row in rows]
    assert found[20]["audio"] == found[3]["audio"] != found[4]["audio"]
    assert [facts["error_kind"] for facts in found[-2:]] == ["invalid", "engine"]
    assert (summary.rows, summary.failed) == (23, 2)
    assert all(facts["model"] == "simulated" for facts in found)
    for facts in found[:21]:
        samples, rate = soundfile.read(io.BytesIO(facts["audio"]))
        assert len(samples) / rate == facts["seconds"]


def test_a_folder_has_a_file_for_each_row_and_a_manifest(tmp_path: Path) -> None:
    job = speech_job(form="flac")
    rows = [Row("a/b", "One."), Row("a_b", "Two."), Row("..", "Three."), Row("bad", fault="Nothing.")]
    run(job, tmp_path, Here(job), rows, layout="folder")
    facts = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [line["id"] for line in facts] == ["a/b", "a_b", "..", "bad"]
    files = [line["file"] for line in facts if "file" in line]
    assert len(set(files)) == 3
    for name in files:
        assert (tmp_path / name).resolve().parent == (tmp_path / "audio").resolve()
        assert soundfile.info(tmp_path / name).format == "FLAC"
    assert "error" in facts[-1]


@pytest.mark.parametrize("layout", ["parquet", "folder"])
def test_rows_keep_their_other_columns_and_what_failed_keeps_its_text(tmp_path: Path, layout: Layout) -> None:
    job = speech_job()
    others: list[dict[str, Any]] = [{"scene": "bar", "take": 1}, {"take": "two"}, {}, {"scene": "street"}]
    texts = ["One.", "poison", "...", "One."]
    rows = [Row(f"{n}", text, others=given) for n, (text, given) in enumerate(zip(texts, others, strict=True))]
    rows.append(Row("bad", "Unread.", "amy", fault="Nothing.", others={"take": 5}))
    summary = run(job, tmp_path, Here(job), rows, layout)
    found = output_of(tmp_path) or manifest_of(tmp_path)
    assert [facts.get("scene") for facts in found] == ["bar", None, None, "street", None]
    one = "1" if layout == "parquet" else 1  # a column of a table has one type
    assert [facts.get("take") for facts in found] == [one, "two", None, None, "5" if layout == "parquet" else 5]
    assert [facts["text"] for facts in found] == [*texts, "Unread."]
    failed = [json.loads(line) for line in (tmp_path / "failed.jsonl").read_text().splitlines()]
    assert [(facts["id"], facts["text"], facts.get("take")) for facts in failed] == [
        ("1", "poison", "two"),
        ("2", "...", None),
        ("bad", "Unread.", 5),
    ]
    assert [failure.id for failure in summary.failures] == ["1", "2", "bad"]
    assert summary.failures[2].error == "Nothing."
    assert run(job, tmp_path, Here(job), rows, layout).failures == summary.failures
    again = list(read_rows([tmp_path / "failed.jsonl"], "speech", "line"))
    assert [(row.id, row.text) for row in again] == [("1", "poison"), ("2", "..."), ("bad", "Unread.")]


@pytest.mark.parametrize("layout", ["parquet", "folder"])
def test_recordings_that_failed_are_the_input_of_the_next_job(tmp_path: Path, layout: Layout) -> None:
    job = job_of(HEARS_ALL, "transcription", None, BulkOptions(), None)[0]
    (tmp_path / "noise.wav").write_bytes(b"no sound")
    table = tmp_path / "talks.jsonl"
    table.write_text('{"id": "a", "path": "noise.wav"}\n{"id": "b", "file": "gone.wav"}\n')

    def execute(batches: Sequence[Batch]) -> Iterator[RenderedBatch]:
        for batch in batches:
            outcomes = renderer_of(job, Ear()).render(batch.items, [b"no sound"])
            yield rendered_batch(batch.name, batch.items, outcomes, job.model.model)

    rows = list(read_rows([table], "transcription", "line"))
    assert run(job, tmp_path / "out", execute, rows, layout).failed == 2
    again = list(read_rows([tmp_path / "out" / "failed.jsonl"], "transcription", "line"))
    assert [(row.id, row.file) for row in again] == [(row.id, row.file) for row in rows]
    assert again[0].recording == rows[0].recording is not None
    assert again[1].fault == f"{tmp_path / 'gone.wav'} cannot be read: No such file or directory."


def test_a_job_without_failures_writes_no_list_of_them(tmp_path: Path) -> None:
    run(speech_job(), tmp_path, Here(speech_job()), rows_of(["One."]))
    assert not (tmp_path / "failed.jsonl").exists()


TRANSCRIPTS: dict[TranscriptForm, str] = {
    "txt": "3\n",
    "srt": "1\n00:00:00,000 --> 00:00:03,000\n3\n\n",
    "vtt": "WEBVTT\n\n00:00:00.000 --> 00:00:03.000\n3\n\n",
    "json": '{"text": "3", "language": "en", "seconds": 3.0, "timings": [{"start": 0.0, "end": 3.0, "text": "3"}]}\n',
}


@pytest.mark.parametrize("form", TRANSCRIPTS)
def test_a_folder_of_transcripts(tmp_path: Path, form: TranscriptForm) -> None:
    job = job_of(HEARS_ALL, "transcription", None, BulkOptions(written=form), None)[0]
    sounds = [wav(3), b"no sound"]

    def execute(batches: Sequence[Batch]) -> Iterator[RenderedBatch]:
        for batch in batches:
            outcomes = renderer_of(job, Ear()).render(batch.items, sounds)
            yield rendered_batch(batch.name, batch.items, outcomes, job.model.model)

    recordings = [RecordingSource("x", None, f"{number:064x}", 10 - number) for number in range(2)]
    rows = [Row(f"talk {number}", recording=one) for number, one in enumerate(recordings)]
    run(job, tmp_path, execute, rows, "folder")
    good, bad = manifest_of(tmp_path)
    assert (tmp_path / good["file"]).read_text() == TRANSCRIPTS[form]
    assert good["file"] == f"transcripts/talk_0.{form}"
    assert "file" not in bad


def test_words_without_spaces_between_them_stay_attached() -> None:
    words = [{"text": text, "start": n / 2, "end": (n + 1) / 2} for n, text in enumerate(("你", "好", "ok"))]
    facts = {"text": "你好 ok", "timings": words, "seconds": 1.5}
    assert "你好 ok" in transcript_file(facts, "srt", SubtitleSettings()).decode()


def test_another_format_of_transcripts_is_another_job_with_the_same_rows(tmp_path: Path) -> None:
    jobs = [job_of(HEARS_ALL, "transcription", None, BulkOptions(written=form), None)[0] for form in ("srt", "vtt")]
    assert jobs[0].identity == jobs[1].identity
    assert jobs[0].written != jobs[1].written


@pytest.mark.parametrize("layout", ["parquet", "folder"])
def test_stems_of_one_job_are_the_recordings_of_another(tmp_path: Path, layout: Layout) -> None:
    job = job_of(app_of("identity"), "separation", None, BulkOptions(), None)[0]
    stems = [RowResult(1.0, stem=name, audio=wav(1), format="wav") for name in ("speech", "rest")]

    def separated(batches: Sequence[Batch]) -> Iterator[RenderedBatch]:
        yield from (rendered_batch(batch.name, batch.items, [stems], job.model.model) for batch in batches)

    run(job, tmp_path / "apart", separated, [recording_row(tmp_path)], layout)
    written = tmp_path / "apart" / ("part-00000.parquet" if layout == "parquet" else "manifest.jsonl")
    rows = list(read_rows([written], "transcription", "line"))
    assert [row.id for row in rows] == ["a.speech", "a.rest"]
    assert [read_recording(row.recording) for row in rows if row.recording] == [stem.audio for stem in stems]


def test_output_is_cut_into_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cluster.bulk.output.ROW_GROUP_BYTES", 50_000)
    job = job_of(app_of(shard_bytes=200_000), "speech", None, BulkOptions(), None)[0]
    summary = run(job, tmp_path, Here(job))
    assert len(summary.files) > 3
    assert [facts["id"] for facts in output_of(tmp_path)] == [row.id for row in rows_of()]


def test_a_finished_job_is_not_done_again_unless_a_file_is_gone(tmp_path: Path) -> None:
    job = speech_job()
    first = run(job, tmp_path, Here(job))
    again = Here(job)
    second = run(job, tmp_path, again)
    assert again.made == []
    assert (second.rows, second.files, second.made_seconds) == (first.rows, first.files, 0.0)
    whole = contents(tmp_path)
    (tmp_path / "part-00000.parquet").unlink()
    run(job, tmp_path, again)
    assert again.made
    assert contents(tmp_path) == whole


@pytest.mark.parametrize("change", ["input", "settings", "layout", "way", "version"])
def test_another_job_is_refused_in_the_same_folder(tmp_path: Path, change: str) -> None:
    job = speech_job()
    run(job, tmp_path, Here(job))
    others = {"way": {"way": "service"}, "version": {"version": "0.0.1"}}
    other = speech_job(seed=1) if change == "settings" else job.model_copy(update=others.get(change, {}))
    with pytest.raises(MotetError, match="another job"):
        run(
            other,
            tmp_path,
            Here(other),
            rows_of(TEXTS[:3] if change == "input" else TEXTS),
            "folder" if change == "layout" else "parquet",
        )


@pytest.mark.parametrize("change", ["size", "time", "name"])
def test_a_job_whose_weights_changed_is_another_job(tmp_path: Path, change: str) -> None:
    job = speech_job()
    here = Here(job)
    weights = tmp_path / "weights" / "deep" / "model.safetensors"
    job = job.model_copy(update={"model": job.model.model_copy(update={"source": f"path:{tmp_path / 'weights'}"})})
    run(job, tmp_path / "out", here)  # the folder is not on this machine
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"before")
    run(job, tmp_path / "spoken", here)
    run(job, tmp_path / "spoken", here)
    if change == "size":
        weights.write_bytes(b"after")
    elif change == "time":
        os.utime(weights, (1, 1))
    else:
        weights.rename(weights.with_name("other.safetensors"))
    with pytest.raises(MotetError, match="another job: its input, settings, weights"):
        run(job, tmp_path / "spoken", here)


def test_a_row_has_the_same_seed_whoever_makes_it() -> None:
    here, there = (job_of(app_of(), "speech", None, BulkOptions(), None, way)[0] for way in ("engines", "service"))
    assert (here.way, there.way) == ("engines", "service")
    assert item_of(rows_of()[0], here) == item_of(rows_of()[0], there)


@pytest.mark.parametrize(
    ("layout", "file"), [("folder", "manifest.jsonl"), ("folder", "audio/a.wav"), ("parquet", "part-00000.parquet")]
)
def test_files_of_somebody_else_are_not_overwritten(tmp_path: Path, layout: Layout, file: str) -> None:
    job = speech_job()
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    with pytest.raises(MotetError, match="exists already"):
        run(job, tmp_path, Here(job), layout=layout)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / file]
    assert (tmp_path / file).read_text() == "mine"
    run(job, tmp_path, Here(job), layout="parquet" if layout == "folder" else "folder")  # which writes elsewhere


@pytest.mark.parametrize(
    ("layout", "task", "name", "refused"),
    [
        ("folder", "speech", "manifest.jsonl", True),
        ("folder", "speech", "lines.jsonl", False),
        ("folder", "separation", "audio/a.wav", True),
        ("folder", "separation", "", True),
        ("folder", "transcription", "audio/a.wav", False),
        ("parquet", "speech", "part-00000.parquet", True),
        ("parquet", "speech", "manifest.jsonl", False),
        ("parquet", "speech", f"{FOLDER}/job.json", True),
        ("parquet", "separation", "", False),
    ],
)
def test_an_input_where_output_is_written_is_refused(
    tmp_path: Path, layout: Layout, task: Task, name: str, refused: bool
) -> None:
    with pytest.raises(MotetError, match="is where output") if refused else nullcontext():
        refuse_inputs_in_output([tmp_path / name], tmp_path / "x" / "..", layout, task)


def test_ids_of_many_bytes_have_files_of_their_own(tmp_path: Path) -> None:
    job = speech_job()
    rows = [Row("漢" * 100, "One."), Row("漢" * 101, "Two."), Row("a\u0301", "Three."), Row("\u00e1", "Four.")]
    run(job, tmp_path, Here(job), rows, layout="folder")
    names = [path.name for path in (tmp_path / "audio").iterdir()]
    assert len({unicodedata.normalize("NFC", name) for name in names}) == len(rows)
    assert all(len(name.encode()) < 200 for name in names)


def test_two_jobs_at_once_in_one_folder_are_refused(tmp_path: Path) -> None:
    job = speech_job()
    with JobStore(tmp_path).locked(), pytest.raises(MotetError, match="Another job"):
        run(job, tmp_path, Here(job))


def test_a_folder_that_cannot_be_locked_is_not_another_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(MotetError, match="cannot be locked: No locks available") as caught, JobStore(tmp_path).locked():
        pass
    assert caught.value.failure.kind == "invalid"


def test_halves_that_a_killed_job_left_are_swept(tmp_path: Path) -> None:
    ours = [".part-00000.parquet.0123abcd.half", ".manifest.jsonl.0123abcd.half", "audio/.漢.wav.0123abcd.half"]
    others = [".mine.half", "audio/mine.half", ".other.txt.0123abcd.half"]
    with JobStore(tmp_path).locked():
        JobStore(tmp_path).write_record({})
        (tmp_path / "audio").mkdir()
        for name in (f"{FOLDER}/parts/.x.0.half", *ours, *others):
            (tmp_path / name).write_text("half")
    with JobStore(tmp_path).locked():
        assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.half")) == sorted(others)


def test_a_row_that_kills_its_worker_is_an_error_and_its_neighbours_live(tmp_path: Path) -> None:
    job = speech_job()
    rows = [*rows_of(), Row("deadly", "This is deadly.")]
    summary = run(job, tmp_path, Here(job, deadly="deadly"), rows)
    found = {facts["id"]: facts for facts in output_of(tmp_path)}
    assert len(found) == len(rows)
    assert summary.failed == 1
    assert found["deadly"]["error_kind"] == "unavailable"
    assert all(facts["audio"] for name, facts in found.items() if name != "deadly")


def test_progress_counts_what_earlier_runs_did(tmp_path: Path) -> None:
    job = speech_job()
    with pytest.raises(Killed):
        run(job, tmp_path, Here(job, dies_after=2))
    told: list[JobProgress] = []
    run_job(rows_of(), job, tmp_path, "parquet", Here(job), told.append)
    assert 0 < told[0].rows < told[0].of_rows == told[-1].rows == len(TEXTS)
    assert told[0].new_size == 0
    assert told[-1].new_size == told[-1].of_size - told[0].size


def test_progress_counts_equal_rows_and_those_that_could_not_be_read(tmp_path: Path) -> None:
    job = speech_job()
    rows = [Row(f"{number}", text) for number, text in enumerate(["One.", "One.", "poison", "poison", "Two."])]
    told: list[JobProgress] = []
    run_job([*rows, Row("bad", fault="Nothing.")], job, tmp_path, "parquet", Here(job), told.append)
    assert [(now.rows, now.failed) for now in told] == [(1, 1), (6, 3)]
    assert told[-1].of_rows == 6


def test_after_deaths_each_batch_is_kept_as_soon_as_its_items_are_there(tmp_path: Path) -> None:
    job = speech_job()
    here, singles = Here(job), itertools.count()

    def execute(batches: Sequence[Batch]) -> Iterator[RenderedBatch]:
        if any(len(batch.items) > 1 for batch in batches):
            return  # every worker died
        for made in here(batches):
            if next(singles) == 6:
                raise Killed
            yield made

    with pytest.raises(Killed):
        run(job, tmp_path, execute)
    assert len(JobStore(tmp_path).done()) == 1


def test_the_table_keeps_every_kind_of_outcome() -> None:
    failure = Failure("engine", "It broke.", "Mend it.")
    outcomes: list[tuple[str, Outcome]] = [("a", failure), ("b", [])]
    part = part_bytes(table_of(outcomes, "m"))
    table = pa.ipc.open_file(part).read_all()
    assert table.to_pylist()[0]["error"] == "It broke. Mend it."
    assert table.num_rows == 1


# --- Telling


def progress(items: int, new: int, seconds: float) -> JobProgress:
    return JobProgress(items, 100, items * 10, 1000, new, seconds, 0)


def test_pace_counts_from_the_first_batch() -> None:
    times = iter([10.0, 10.0, 14.0])
    pace = ProgressText(lambda: next(times))
    assert pace(progress(50, 0, 0.0)) == ""
    assert pace(progress(60, 100, 30.0)) == ""
    assert pace(progress(80, 300, 90.0)) == "15.0 x real time, 0:00:04 left"


def test_pace_tells_no_speed_of_less_than_a_second() -> None:
    times = iter([10.0, 10.0, 10.002, 11.0])
    pace = ProgressText(lambda: next(times))
    assert pace(progress(60, 100, 30.0)) == ""
    assert pace(replace(progress(80, 300, 90.0), failed=2)) == "2 failed"
    assert pace(progress(80, 300, 90.0)) == "60.0 x real time, 0:00:01 left"


def test_a_log_gets_a_line_now_and_then_and_one_at_the_end() -> None:
    now = [0.0]
    lines: list[str] = []
    log = ProgressLog(lines.append, lambda: now[0])
    for at, items in enumerate(range(1, 101)):
        now[0] = at * 1.0
        log(progress(items, items * 10, items * 2.0))
    assert len(lines) == 4
    assert lines[-1].startswith("motet: 100 of 100 rows, 2.0 x real time, 0:00:00 left")


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "120")
    with bulk_progress() as tell:
        tell(progress(50, 0, 0.0))
        tell(progress(75, 250, 90.0))
    shown = capsys.readouterr().err
    assert "Rendering" in shown
    assert "75/100" in shown


# --- Through a live service


def spoken_events(sound: bytes, *, broken: bool) -> bytes:
    """Half a second in two pieces, whose first was cut short; one that is `broken` ends with an error instead."""
    half = len(sound) // 2
    pieces = [{"index": 0, "text": "One", "start_seconds": 0.0}, {"index": 1, "text": "two.", "start_seconds": 0.2}]
    deltas = [
        {"type": "speech.audio.delta", "audio": base64.b64encode(part).decode(), "pieces": [piece]}
        for part, piece in zip((sound[:half], sound[half:]), pieces, strict=True)
    ]
    done: dict[str, Any] = {"type": "speech.audio.done", "usage": {"audio_seconds": 0.5}, "finish_reason": "length"}
    error = {"type": "error", "error": {"message": "The engine broke."}}
    return b"".join(event(data) for data in [*deltas, error if broken else done])


def refusal(failure: Failure) -> httpx.Response:
    """As the service words it."""
    answer = error_response(failure)
    return httpx.Response(answer.status_code, content=bytes(answer.body), headers=dict(answer.headers))


class LiveService:
    """Answers as the service does: busy at first, and broken for some texts."""

    def __init__(
        self, busy: int = 0, broken: int = 0, retry_after: str = "3", trouble: httpx.Response | None = None
    ) -> None:
        self._busy, self._broken = busy, broken
        self.trouble = trouble or refusal(Failure("engine", "The model failed.", code="engine_failure"))
        self._retry_after = retry_after
        self.asked: list[httpx.Request] = []
        self.slept: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return self.look(request)
        self.asked.append(request)
        if self._busy:
            self._busy -= 1
            return httpx.Response(429, headers={"Retry-After": self._retry_after}, json={"error": {"message": "busy"}})
        if self._broken:
            self._broken -= 1
            return self.trouble
        return self._answer(request)

    def look(self, request: httpx.Request) -> httpx.Response:
        """The first thing that is asked."""
        return httpx.Response(200, json={"id": request.url.path.removeprefix("/v1/models/")})

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/audio/transcriptions":
            facts = {
                "duration": 1.0,
                "text": "hi",
                "language": "en",
                "segments": [{"start": 0, "end": 1, "text": " hi"}],
            }
            return httpx.Response(200, json=facts)
        if b"bad" in request.content:
            return refusal(Failure("invalid", "Not this text."))
        assert json.loads(request.content)["stream_format"] == "sse"
        return httpx.Response(200, content=spoken_events(wav(0.5), broken=b"breaks" in request.content))

    def service(self) -> ServiceClient:
        """Its clock stands still but for the pauses."""
        return ServiceClient(
            "http://motet", "key", self.slept.append, lambda: sum(self.slept), httpx.MockTransport(self)
        )


def served(
    live: LiveService, rows: Sequence[Row], folder: Path, task: Task = "speech", wishes: BulkOptions | None = None
) -> list[dict[str, Any]]:
    app = (
        AppConfig(bulk=BulkSettings(served_in_flight=1, retries=2))
        if task != "speech"
        else app_of(served_in_flight=1, retries=2)
    )
    job = job_of(app, task, None, wishes or BulkOptions(), None)[0]
    run(job, folder, lambda batches: render_on_service(batches, job, live.service()), rows)
    return output_of(folder)


def test_a_busy_service_is_waited_for_and_a_broken_one_tried_again(tmp_path: Path) -> None:
    live = LiveService(busy=2, broken=1)
    found = served(live, rows_of(["One."]), tmp_path)
    assert live.slept == [3.0, 3.0, 0.5]
    assert found[0]["seconds"] == 0.5
    assert found[0]["audio"] == wav(0.5)
    assert found[0]["finish_reason"] == "length"
    assert [(t["start"], t["end"], t["text"]) for t in found[0]["timings"]] == [(0.0, 0.2, "One"), (0.2, 0.5, "two.")]
    body = json.loads(live.asked[-1].content)
    assert body["seed"] == seed_of(found[0]["key"])
    assert live.asked[-1].headers["Authorization"] == "Bearer key"


@pytest.mark.parametrize(
    ("said", "pause_s"), [("90", 90.0), ("0", 0.5), ("Wed, 21 Oct 2026 07:28:00 GMT", 0.5), ("nan", 0.5), ("inf", 0.5)]
)
def test_a_busy_service_is_asked_again_when_it_says(said: str, pause_s: float, tmp_path: Path) -> None:
    live = LiveService(busy=1, retry_after=said)
    assert served(live, rows_of(["One."]), tmp_path)[0]["error_kind"] is None
    assert live.slept == [pause_s]


@pytest.mark.parametrize(("busy", "retry_after"), [(10**6, "60"), (1, "601")], ids=["stays busy", "says so at once"])
def test_a_service_that_stays_busy_ends_the_job_which_goes_on_later(
    busy: int, retry_after: str, tmp_path: Path
) -> None:
    rows = rows_of(["One.", "Two, and more of it."])
    live = LiveService(busy=busy, retry_after=retry_after)
    with pytest.raises(MotetError, match="Run the command again later") as caught:
        served(live, rows, tmp_path)
    assert caught.value.failure.kind == "overloaded"
    assert sum(live.slept) <= BulkSettings().served_patience_s
    assert len({request.content for request in live.asked}) == 1  # the other row is not asked for
    assert [facts["error_kind"] for facts in served(LiveService(), rows, tmp_path)] == [None, None]


def test_what_a_service_refuses_is_an_error_of_its_row(tmp_path: Path) -> None:
    found = served(LiveService(), rows_of(["One.", "a bad text"]), tmp_path)
    assert [facts["error_kind"] for facts in found] == [None, "invalid"]
    assert "Not this text." in found[1]["error"]


def test_a_model_that_fails_on_a_row_again_and_again_is_an_error_of_the_row(tmp_path: Path) -> None:
    live = LiveService(broken=100)
    found = served(live, rows_of(["One."]), tmp_path)
    assert (found[0]["error_kind"], len(live.asked)) == ("engine", 3)
    assert live.slept == [0.5, 1.0]  # none after the last try
    assert "The model failed." in found[0]["error"]


HTML = httpx.Response(200, html="<p>Welcome to the router</p>")
SAYS_NOTHING = {
    "no key": (refusal(Failure("unauthorized", "This service needs a key.", code="invalid_api_key")), "MOTET_API_KEY"),
    "forbidden": (httpx.Response(403, text="go away"), "MOTET_API_KEY"),
    "no route": (refusal(Failure("not_found", "POST /x: Not Found.")), "address"),
    "no such page": (httpx.Response(404, text="nothing here"), "address"),
    "no model": (refusal(Failure("not_found", "There is no model.", code="model_not_found")), "There is no model"),
    "starting": (httpx.Response(503, text="starting"), "was unreachable for 600 s.*starting"),
    "no replica": (refusal(Failure("unavailable", "No replica answers.")), "No replica answers"),
    "bad gateway": (httpx.Response(502, html="<p>Bad Gateway</p>"), "was unreachable for 600 s"),
    "a proxy's own": (httpx.Response(500, text="Internal Server Error"), "was unreachable for 600 s"),
    "moved": (httpx.Response(308, headers={"Location": "https://motet"}), "address"),
    "a page": (HTML, "text/html"),
    "other JSON": (httpx.Response(200, json=[1]), "not a Motet service"),
    "other events": (httpx.Response(200, content=event({"choices": []})), "not a Motet service"),
}


@pytest.mark.parametrize(("answer", "says"), SAYS_NOTHING.values(), ids=SAYS_NOTHING)
@pytest.mark.parametrize("task", ["speech", "transcription"])
def test_what_says_nothing_of_a_row_ends_the_job_which_goes_on_later(
    task: Task, answer: httpx.Response, says: str, tmp_path: Path
) -> None:
    rows = [recording_row(tmp_path)] if task == "transcription" else rows_of(["One.", "Two, and more of it."])
    with pytest.raises(MotetError, match=says):
        served(LiveService(broken=10**6, trouble=answer), rows, tmp_path / "out", task)
    found = served(LiveService(), rows, tmp_path / "out", task)
    assert not [facts for facts in found if facts["error_kind"]]


@pytest.mark.parametrize("answer", [SAYS_NOTHING[name][0] for name in ("no key", "no route", "starting", "a page")])
def test_a_service_that_does_not_know_us_is_not_asked_for_any_row(answer: httpx.Response, tmp_path: Path) -> None:
    live = LiveService()
    live.look = lambda request: answer  # type: ignore[method-assign]
    with pytest.raises(MotetError):
        served(live, rows_of(["One."]), tmp_path)
    assert not live.asked and not live.slept


def test_a_service_that_goes_away_ends_the_job_and_loses_no_row(tmp_path: Path) -> None:
    rows = rows_of(["One.", "Two, and more of it.", "Three."])

    class Stopped(LiveService):
        def _answer(self, request: httpx.Request) -> httpx.Response:
            if len(self.asked) > 1:
                raise httpx.ConnectError("Connection refused")
            return super()._answer(request)

    live = Stopped()
    with pytest.raises(MotetError, match=r"was unreachable for 600 s.*Connection refused.*later to resume") as caught:
        served(live, rows, tmp_path)
    assert caught.value.failure.kind == "unavailable"
    assert 500 < sum(live.slept) <= BulkSettings().served_patience_s
    assert [facts["error_kind"] for facts in served(LiveService(), rows, tmp_path)] == [None] * 3


def test_a_connection_that_breaks_is_the_fault_of_the_row_only_where_the_service_is_still_there(tmp_path: Path) -> None:
    class Dropping(LiveService):
        def _answer(self, request: httpx.Request) -> httpx.Response:
            raise httpx.RemoteProtocolError("Server disconnected")

    found = served(Dropping(), rows_of(["One."]), tmp_path / "a")
    assert (found[0]["error_kind"], "Server disconnected" in found[0]["error"]) == ("unavailable", True)

    class Dead(Dropping):
        def look(self, request: httpx.Request) -> httpx.Response:
            if self.asked:
                raise httpx.ConnectError("refused")
            return super().look(request)

    with pytest.raises(MotetError, match="does not answer"):
        served(Dead(), rows_of(["One."]), tmp_path / "b")


@pytest.mark.parametrize("url", ["http://motet/v1", "http://motet/v1/", "http://motet/", "http://motet"])
def test_the_address_that_clients_of_openai_take_is_as_good(url: str) -> None:
    assert ServiceClient(url, None).url == "http://motet"
    assert ServiceClient(url.replace("motet", "motet/under"), None).url == "http://motet/under"


def test_what_is_no_address_is_refused() -> None:
    job = speech_job()
    with pytest.raises(MotetError, match="is not a URL"):
        list(render_on_service([], job, ServiceClient("http://motet:port", None)))


def test_a_voice_that_is_not_there_is_an_error_of_the_rows_that_name_it_and_ends_a_job_that_does(
    tmp_path: Path,
) -> None:
    nobody = refusal(Failure("not_found", "There is no voice 'nobody'.", param="voice", code="voice_not_found"))
    rows = [Row("a", "One.", voice="nobody")]
    found = served(LiveService(broken=10, trouble=nobody), rows, tmp_path / "a")
    assert found[0]["error_kind"] == "not_found"
    with pytest.raises(MotetError, match="no voice 'nobody'"):
        served(LiveService(broken=10, trouble=nobody), rows_of(["One."]), tmp_path / "b")


def test_speech_that_breaks_off_is_tried_again_and_then_an_error(tmp_path: Path) -> None:
    live = LiveService()
    found = served(live, rows_of(["It breaks."]), tmp_path)
    assert (found[0]["error_kind"], len(live.asked)) == ("engine", 3)
    assert "The engine broke." in found[0]["error"]


def test_transcripts_of_a_service(tmp_path: Path) -> None:
    found = served(LiveService(), [recording_row(tmp_path)], tmp_path / "out", "transcription")
    assert (found[0]["text"], found[0]["seconds"], found[0]["timings"][0]["text"]) == ("hi", 1.0, "hi")


@pytest.mark.parametrize("word_times", [False, True])
def test_a_transcript_of_a_service_is_that_of_a_local_job(word_times: bool, tmp_path: Path) -> None:
    sound = wav(1.00044)
    word = Word(" hi", 0.1 + 0.2, 0.7 + 0.1 * 3, 1.0)
    transcript = Transcript((Segment(" hi", word.start, word.end, 0.0, 0.0, words=(word,)),), "en")

    class Dusty(Ear):
        def transcribe(self, windows: Sequence[Window]) -> list[Transcript | Exception]:
            return [transcript for _ in windows]

    class Verbose(LiveService):
        def _answer(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(
                200, json=verbose([TranscriptWindow(transcript, 1.00044)], TranscriptContents(words=True))
            )

    wishes = BulkOptions(word_times=word_times)
    job = job_of(HEARS_ALL, "transcription", None, wishes, None)[0]
    (local,) = renderer_of(job, Dusty()).render(recording_items(job, [sound]), [sound])
    assert not isinstance(local, Failure)
    (far,) = served(Verbose(), [recording_row(tmp_path)], tmp_path / "out", "transcription", wishes)
    assert local[0].timings == (Timing(0.3, 1.0, "hi"),)
    assert far["timings"] == [asdict(timing) for timing in local[0].timings]
    assert (far["seconds"], far["language"], far["text"]) == (1.0, "en", local[0].text)
    assert (local[0].seconds, local[0].language) == (1.0, "en")


def test_a_service_that_is_not_there_stops_the_job(tmp_path: Path) -> None:
    def gone(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    job = speech_job()
    service = ServiceClient("http://motet", None, transport=httpx.MockTransport(gone))
    with pytest.raises(MotetError, match="refused"):
        run(job, tmp_path, lambda batches: render_on_service(batches, job, service))


class Streaming(LiveService):
    """Makes the sound that a local job makes, and streams it as the service does: its length is not known before its end."""

    rate = 24_000

    def sound(self, channels: int = 1) -> Any:
        return np.random.default_rng(0).uniform(-0.5, 0.5, (channels, 30_001)).astype(np.float32)

    def streamed(self, form: AudioFormat, channels: int = 1) -> bytes:
        encoder, sound = open_encoder(form, self.rate, channels), self.sound(channels)
        return encoder.encode(sound[:, :1234]) + encoder.encode(sound[:, 1234:]) + encoder.finish()

    def whole(self, form: AudioFormat, channels: int = 1) -> bytes:
        local = SoundBytes(form, self.rate, channels)
        local.write(self.sound(channels))
        return bytes(local.finish())

    def _answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path == "/v1/audio/separations":
            return self._separated(request.content)
        body = json.loads(request.content)
        assert body["pacing"] == "fast"
        audio = base64.b64encode(self.streamed(body["response_format"])).decode()
        piece = {"index": 0, "text": "One.", "start_seconds": 0.0}
        done = {"type": "speech.audio.done", "usage": {"audio_seconds": 1.25}, "finish_reason": "stop"}
        events = event({"type": "speech.audio.delta", "audio": audio, "pieces": [piece]}) + event(done)
        rate = encoded_rate(body["response_format"], self.rate, body.get("sample_rate"))
        return httpx.Response(200, content=events, headers={"x-motet-voice": "heart", "x-sample-rate": str(rate)})

    def _separated(self, content: bytes) -> httpx.Response:
        form: AudioFormat = next(form for form in FORMATS if f"\r\n\r\n{form}\r\n".encode() in content)
        sound = self.streamed(form, 2)
        if b'name="stems"' in content:
            return httpx.Response(200, content=sound, headers={"content-type": "audio/x", "x-motet-stems": "speech"})
        file = io.BytesIO()
        with ZipFile(file, "w") as archive:
            archive.writestr(f"speech.{form}", sound)
            archive.writestr(f"rest.{form}", sound)
        return httpx.Response(200, content=file.getvalue(), headers={"content-type": "application/zip"})


@pytest.mark.parametrize("form", FORMATS)
def test_speech_of_a_service_is_told_as_that_of_a_local_job(form: AudioFormat, tmp_path: Path) -> None:
    live = Streaming()
    (facts,) = served(live, rows_of(["One."]), tmp_path, wishes=BulkOptions(form=form))
    assert facts["audio"] == live.whole(form)
    assert facts["sha256"] == hashlib.sha256(facts["audio"]).hexdigest()
    rate = encoded_rate(form, live.rate)
    assert (facts["voice"], facts["sample_rate"], facts["text"], facts["format"]) == ("heart", rate, "One.", form)
    assert facts["seconds"] == pytest.approx(30_001 / live.rate, abs=0.0 if form in ("wav", "flac", "pcm") else 0.001)


def test_a_service_is_asked_for_the_rate_and_the_loudness(tmp_path: Path) -> None:
    bodies: list[dict[str, Any]] = []

    class Noting(Streaming):
        def _answer(self, request: httpx.Request) -> httpx.Response:
            bodies.append(json.loads(request.content))
            return super()._answer(request)

    plain, phone = BulkOptions(), BulkOptions(form="wav_alaw", sample_rate=16_000, loudness_lufs=-20.0)
    for number, wishes in enumerate((plain, phone)):
        served(Noting(), rows_of(["One."]), tmp_path / str(number), wishes=wishes)
    asked = [(body.get("sample_rate"), body.get("loudness_lufs")) for body in bodies]
    assert asked == [(None, None), (16_000, -20.0)]


@pytest.mark.parametrize("stems", [(), ("speech",), ("speech", "speech")])
@pytest.mark.parametrize("form", ["wav", "flac", "pcm", "mp3", "opus", "mulaw", "wav_alaw"])
def test_stems_of_a_service_are_told_as_those_of_a_local_job(
    form: AudioFormat, stems: tuple[str, ...], tmp_path: Path
) -> None:
    live = Streaming()
    wishes = BulkOptions(form=form, stems=stems)
    found = served(live, [recording_row(tmp_path)], tmp_path / "out", "separation", wishes)
    assert [facts["stem"] for facts in found] == (["speech"] if stems else ["speech", "rest"])
    for facts in found:
        assert (facts["audio"], facts["format"]) == (live.whole(form, 2), form)
        # What a lossy codec got is not told; it is about as long, and opus hides the rate.
        assert facts["sample_rate"] == (None if form == "opus" else encoded_rate(form, live.rate))
        off = {"mp3": 0.1, "opus": 0.1, "wav": 0.0, "flac": 0.0, "pcm": 0.0}.get(form, 0.5 / 8000)
        assert facts["seconds"] == pytest.approx(30_001 / live.rate, abs=off)


def test_a_separation_with_a_gap_is_asked_for_again_and_names_the_gap_if_it_stays(tmp_path: Path) -> None:
    """The service lists gaps beside the stems; they are no stem, and nobody would know of the silence."""

    class Gaps(Streaming):
        left = 1

        def _separated(self, content: bytes) -> httpx.Response:
            answer = super()._separated(content)
            if not self.left:
                return answer
            self.left -= 1
            file = io.BytesIO(answer.content)
            with ZipFile(file, "a") as archive:
                archive.writestr("gaps.json", json.dumps([{"start": 7.0, "end": 17.0}]))
            return httpx.Response(200, content=file.getvalue(), headers=answer.headers)

    live = Gaps()
    found = served(live, [recording_row(tmp_path)], tmp_path / "out", "separation")
    assert [(facts["stem"], facts["error"]) for facts in found] == [("speech", None), ("rest", None)]
    live.left = 100
    (failed,) = served(live, [recording_row(tmp_path)], tmp_path / "again", "separation")
    assert (failed["error_kind"], "7 to 17 s" in failed["error"]) == ("engine", True)


def test_a_stem_with_the_name_of_a_path_is_a_file_beside_the_others(tmp_path: Path) -> None:
    class Paths(Streaming):
        def _separated(self, content: bytes) -> httpx.Response:
            file = io.BytesIO()
            with ZipFile(file, "w") as archive:
                archive.writestr("../../lead/back.wav", self.streamed("wav", 2))
            return httpx.Response(200, content=file.getvalue(), headers={"content-type": "application/zip"})

    app = AppConfig(bulk=BulkSettings(served_in_flight=1))
    job = job_of(app, "separation", None, BulkOptions(), None)[0]
    recording = recording_row(tmp_path)
    out = tmp_path / "out"
    summary = run_job([recording], job, out, "folder", lambda b: render_on_service(b, job, Paths().service()), _quiet)
    assert [Path(name).parent.name for name in summary.files] == ["", "audio"]
    assert len(list((out / "audio").iterdir())) == 1


def _quiet(progress: object) -> None:
    """Nobody looks."""


def test_a_streamed_wav_that_a_service_made_has_its_true_length(tmp_path: Path) -> None:
    (facts,) = served(Streaming(), rows_of(["One."]), tmp_path)
    with wave.open(io.BytesIO(facts["audio"])) as file:
        assert file.getnframes() == 30_001


# --- A table of somebody's own


def test_a_table_keeps_its_columns_and_its_order() -> None:
    worker = TableWorker(speech_job())
    texts = ["short", None, "a much longer text than the first", "poison"]
    made = worker(pa.table({"page": [4, 3, 2, 1], "text": texts})).to_pylist()
    assert [row["page"] for row in made] == [4, 3, 2, 1]
    assert [row["error_kind"] for row in made] == [None, "invalid", None, "engine"]
    assert [row["text"] for row in made] == texts


def test_a_row_that_failed_keeps_the_text_and_the_voice_that_it_came_with() -> None:
    table = pa.table({"text": ["spoken", " ", "poison", "short"], "voice": ["nobody", "mine", None, None]})
    made = TableWorker(speech_job())(table)
    assert made.schema.field("text").type == made.schema.field("voice").type == pa.string()
    assert made.column("text").to_pylist() == ["spoken", " ", "poison", "short"]
    assert made.column("voice").to_pylist()[:3] == ["nobody", "mine", None]
    assert [row["error_kind"] for row in made.to_pylist()] == ["not_found", "invalid", "engine", None]


def test_a_text_that_is_none_is_kept_as_it_reads() -> None:
    made = TableWorker(speech_job())(pa.table({"text": [7], "page": [1]})).to_pylist()
    assert (made[0]["text"], made[0]["error_kind"]) == ("7", "invalid")


@pytest.mark.parametrize(
    ("task", "given", "clashing"),
    [
        ("speech", ["text", "voice", "key", "language"], "key, language"),
        ("transcription", ["audio", "path", "text"], "text"),
        ("separation", ["audio", "id", "stem"], "stem"),
    ],
)
def test_columns_named_like_a_results_are_refused(task: Task, given: list[str], clashing: str) -> None:
    with pytest.raises(MotetError, match=f"result columns: {clashing}\\. Rename") as caught:
        check_columns(given, task)
    assert caught.value.failure.kind == "invalid"
    check_columns([name for name in given if name not in clashing.split(", ")], task)


def test_a_table_with_such_a_column_is_not_rendered() -> None:
    with pytest.raises(MotetError, match=r"rename_columns\({'key': 'my_key'}\)"):
        TableWorker(speech_job())(pa.table({"text": ["short"], "key": ["mine"]}))


@pytest.mark.parametrize(("task", "needed"), [("speech", "`text`"), ("transcription", "`path` or `file` or `audio`")])
def test_a_table_without_the_column_that_is_needed_is_refused(task: Task, needed: str) -> None:
    with pytest.raises(MotetError, match=f"The table has no column {needed}. Its columns: 'line', 'id'"):
        check_columns(["line", "id"], task)
    check_columns([], task)


def test_a_table_of_recordings_has_a_row_for_each_stem(tmp_path: Path) -> None:
    job = job_of(app_of("identity"), "separation", None, BulkOptions(), None)[0]
    (tmp_path / "a.wav").write_bytes(wav(1))
    table = pa.table({"name": ["x", "y", "z"], "path": [str(tmp_path / "a.wav"), "/gone.wav", None]})
    made = TableWorker(job)(table).to_pylist()
    assert [(row["name"], row["stem"], bool(row["audio"])) for row in made] == [
        ("x", "audio", True),
        ("y", None, False),
        ("z", None, False),
    ]
    assert "/gone.wav" in made[1]["error"]
    inside = pa.table({"name": ["x"], "audio": pa.array([wav(1)], pa.binary())})
    assert TableWorker(job)(inside).to_pylist()[0]["sha256"] == made[0]["sha256"]


def test_a_worker_whose_model_does_not_load_says_so_for_every_batch() -> None:
    job = job_of(app_of(), "speech", None, BulkOptions(voice="nobody"), None)[0]
    sent = pa.table({"name": ["b"], "items": ["[]"], "recordings": [[]], "faults": [[]]})
    assert "nobody" in Worker(job)(sent).to_pylist()[0]["refused"]


@pytest.mark.parametrize(
    ("hardware", "there", "places"),
    [
        (CpuClass(threads=2), {"CPU": 5.0}, 2),
        (CpuClass(threads=4), {"CPU": 2.0}, 1),
        (CudaClass(gpus=0.5), {"CPU": 8.0, "GPU": 1.0}, 2),
        (CudaClass(), {"CPU": 1.0, "GPU": 4.0}, 1),
        (MlxClass(share=0.25), {"CPU": 8.0, "mlx": 1.0}, 4),
    ],
)
def test_as_many_workers_as_fill_the_cluster(
    hardware: HardwareClass, there: dict[str, float], places: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.cluster_resources", lambda: there)
    assert places_for(hardware) == places


class Duet(ToneEngine):
    """Takes two speakers, and one stream at a time."""

    max_streams = 1

    @property
    def traits(self) -> SpeechTraits:
        return replace(TRAITS, most_speakers=2)


def test_every_piece_of_a_script_says_whose_it_is_and_no_more_are_begun_than_there_are_places() -> None:
    engine = Duet()
    said: list[str] = []
    step = engine.step

    def spied(utterances: Any) -> Any:
        said.extend(utterance.request.pieces[utterance.position] for utterance in utterances)
        return step(utterances)

    engine.step = spied  # type: ignore[method-assign]
    job = speech_job()
    pieces = PieceSettings(first_piece_characters=20, piece_characters=20)
    job = job.model_copy(update={"order": job.order.model_copy(update={"pieces": pieces, "voice": "ada,bo"})})
    text = "Speaker 1: One thing is said. Speaker 2: Another is said. And a third thing. And a fourth one."
    outcomes = renderer_of(job, engine).render([item_of(Row(str(n), text), job) for n in range(2)], [None] * 2)
    assert not [outcome for outcome in outcomes if isinstance(outcome, Failure)]
    assert said[-1].startswith("Speaker 2: ")
    assert set(engine.batches) == {1}


def test_a_row_whose_script_has_a_speaker_without_a_voice_fails_alone_and_says_what_to_do() -> None:
    job, engine = speech_job(), Duet()
    rows = [Row("1", "Speaker 1: One thing is said."), Row("2", "Speaker 1: One. Speaker 2: Another.")]
    good, bad = renderer_of(job, engine).render([item_of(row, job) for row in rows], [None] * 2)
    assert not isinstance(good, Failure)
    assert isinstance(bad, Failure) and (bad.kind, bad.param) == ("invalid", "voice")
    assert "Speaker 2" in bad.message and "ada,ben" in bad.message


class Stopped(ToneEngine):
    """Does not end a piece that says "again"."""

    def step(self, utterances: Any) -> list[AudioChunk | Exception]:
        chunks: Any = super().step(utterances)
        reasons: Mapping[bool, FinishReason] = {True: "repetition", False: "stop"}
        return [replace(chunk, finish_reason=reasons["again" in chunk.text]) for chunk in chunks]


@pytest.mark.parametrize("layout", ["parquet", "folder"])
def test_a_row_in_which_the_model_was_stopped_says_so_and_is_counted(layout: Layout, tmp_path: Path) -> None:
    job = speech_job()

    def execute(batches: Sequence[Batch]) -> Iterator[RenderedBatch]:
        for batch in batches:
            outcomes = renderer_of(job, Stopped()).render(batch.items, [None] * len(batch.items))
            yield rendered_batch(batch.name, batch.items, outcomes, job.model.model)

    rows = rows_of(["This ends.", "And again and again it says this. Then it ends.", "..."])
    summary = run(job, tmp_path, execute, rows, layout)
    lines = tmp_path / "manifest.jsonl"
    found = output_of(tmp_path) or [json.loads(line) for line in lines.read_text().splitlines()]
    assert [facts.get("finish_reason") for facts in found] == ["stop", "repetition", None]
    assert (summary.rows, summary.failed, summary.stopped) == (3, 1, 1)
    assert run(job, tmp_path, execute, rows, layout).stopped == 1


def test_a_job_of_a_version_that_wrote_other_columns_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = speech_job()
    run(job, tmp_path, Here(job))
    monkeypatch.setattr("cluster.bulk.run.RESULT", pa.schema([field for field in RESULT if field.name != "voice"]))
    with pytest.raises(MotetError, match="version of Motet"):
        run(job, tmp_path, Here(job))
