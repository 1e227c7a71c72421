"""What a job writes: one table for all three tasks. Columns that a task does not fill are null."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import pyarrow as pa

from cluster.bulk.binary_column import binary_column
from cluster.bulk.spooled_bytes import Data
from deployments.engines.protocols import FinishReason
from deployments.errors import Failure

MILLI_DIGITS = 3
"""Decimal places of seconds in a transcription. Further digits are rounding errors of sums."""

TIMING = pa.struct([("start", pa.float64()), ("end", pa.float64()), ("text", pa.string())])

QUALITY = pa.struct(
    [
        ("pieces", pa.int32()),
        ("made_again", pa.int32()),
        ("faulty", pa.int32()),
        ("faults", pa.list_(pa.string())),
        ("word_error_rate", pa.float64()),
        ("heard", pa.string()),
    ]
)
"""How many pieces of a text were checked, made again, and still have one of `faults`. `heard` and the share of wrong words
are of a job with `--verify`, and null in any other."""

RESULT = pa.schema(
    [
        ("key", pa.string()),
        ("text", pa.string()),
        ("stem", pa.string()),
        ("audio", pa.large_binary()),
        ("format", pa.string()),
        ("sample_rate", pa.int32()),
        ("seconds", pa.float64()),
        ("sha256", pa.string()),
        ("model", pa.string()),
        ("voice", pa.string()),
        ("language", pa.string()),
        ("timings", pa.list_(TIMING)),
        ("words", pa.list_(TIMING)),
        ("finish_reason", pa.string()),
        ("quality", QUALITY),
        ("error_kind", pa.string()),
        ("error", pa.string()),
    ]
)
"""The columns of one result. `seconds` is the sound's duration, `sample_rate` its rate in Hz (null for Opus stems of a live
service, which do not have it). `sha256` is that of `audio`, or of the recording that was transcribed. `text` is what was
spoken or recognized, and `timings` says when, in seconds; `words` says it of each word of speech, if the job times them.
`finish_reason` of speech is "stop", or why the model was stopped in a piece of the text; `quality` says how its pieces were
checked."""

OUTPUT = pa.schema([("id", pa.string()), *RESULT])
"""A result with the id of its row. The stems of one recording are rows with the same id."""


@dataclass(frozen=True, slots=True)
class Timing:
    """What is said from `start` to `end`, in seconds."""

    start: float
    end: float
    text: str


@dataclass(frozen=True, slots=True)
class RowResult:
    """One row of `RESULT`, without its key and model."""

    seconds: float = 0.0
    text: str | None = None
    stem: str | None = None
    audio: Data | None = None
    format: str | None = None
    sample_rate: int | None = None
    sha256: str | None = None
    voice: str | None = None
    language: str | None = None
    timings: tuple[Timing, ...] = ()
    words: tuple[Timing, ...] | None = None
    finish_reason: FinishReason | None = None
    quality: Mapping[str, Any] | None = None


def rounded_timing(start: float, end: float, text: str) -> Timing:
    """When something is said in a recording, to the millisecond as in the service's answers."""
    return Timing(round(start, MILLI_DIGITS), round(end, MILLI_DIGITS), text.strip())


Outcome = Sequence[RowResult] | Failure
"""The results of one item, or why there are none."""


def digest_of(data: Data) -> str:
    """The SHA-256 of the `sha256` column, in hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def table_of(
    outcomes: Sequence[tuple[str, Outcome]], model: str, given: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
) -> pa.Table:
    """Converts keys and outcomes to a `RESULT` table. `given` has the columns of results that failed, by key."""
    rows = [row for key, outcome in outcomes for row in _rows(key, outcome, model, given.get(key, {}))]
    audio = binary_column([row.get("audio") for row in rows])
    table = pa.Table.from_pylist([{**row, "audio": None} for row in rows], schema=RESULT)
    return table.set_column(RESULT.get_field_index("audio"), RESULT.field("audio"), audio)


def _rows(key: str, outcome: Outcome, model: str, given: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if isinstance(outcome, Failure):
        return [{**given, "key": key, "model": model, "error_kind": outcome.kind, "error": outcome.explained}]
    return [_row(key, result, model) for result in outcome]


def _row(key: str, result: RowResult, model: str) -> Mapping[str, Any]:
    facts = {name: getattr(result, name) for name in RowResult.__slots__}
    words = None if result.words is None else list(map(asdict, result.words))
    return facts | {"key": key, "model": model, "timings": list(map(asdict, result.timings)), "words": words}
