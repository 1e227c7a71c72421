"""Rows in SSML, and lexicons of bulk jobs."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import soundfile

from cluster.bulk.inputs import read_rows
from cluster.bulk.plan import item_of
from cluster.bulk.rendering import renderer_of
from cluster.bulk.results import RowResult
from cluster.bulk.row import Row
from deployments.errors import Failure
from tests.unit.test_bulk_jobs import engine_of, speech_job

DOCUMENT = "<speak>One <sub alias='duck'>D</sub>.<break time='500ms'/>Two.</speak>"


def rendered(row: Row) -> RowResult:
    job = speech_job()
    (outcome,) = renderer_of(job, engine_of(job)).render([item_of(row, job)], [None])
    assert not isinstance(outcome, Failure), outcome
    return outcome[0]


def test_a_row_in_ssml_is_spoken_with_its_pauses() -> None:
    row = rendered(Row("a", DOCUMENT, input_type="ssml"))
    assert [timing.text for timing in row.timings] == ["One D.", "Two."]
    heard, rate = soundfile.read(io.BytesIO(row.audio or b""), dtype="float32")
    end = round(row.timings[0].end * rate)
    assert not np.any(heard[end - rate // 2 : end])
    assert row.text == DOCUMENT


def test_ssml_is_another_row_than_the_same_text() -> None:
    job = speech_job()
    keys = {item_of(Row("a", "<speak>A</speak>", input_type=kind), job).key for kind in ("text", "ssml")}
    assert len(keys) == 2


def test_a_row_with_a_document_that_cannot_be_read_fails_alone() -> None:
    job = speech_job()
    items = [item_of(Row("a", "<speak><audio/></speak>", input_type="ssml"), job), item_of(Row("b", "Fine."), job)]
    bad, good = renderer_of(job, engine_of(job)).render(items, [None, None])
    assert isinstance(bad, Failure) and "<audio>" in bad.cause
    assert not isinstance(good, Failure)


@pytest.mark.parametrize(("kind", "fault"), [("ssml", ""), ("", ""), ("html", "'html'. Write text or ssml.")])
def test_the_column_says_what_a_row_is_written_in(kind: str, fault: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(f"text,input_type\n<speak>A</speak>,{kind}\n")
    (row,) = read_rows([file], "speech", "line")
    assert row.fault.endswith(fault) and bool(row.fault) == bool(fault)
    assert fault or row.input_type == (kind or "text")
