"""Cuts the rows of a job into batches, deterministically. A batch is the unit of work, of retrying and of resuming."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice, repeat

from cluster.bulk.job import BulkJob
from cluster.bulk.row import RecordingSource, Row
from cluster.bulk.settings import BulkSettings
from deployments.settings import InputType

NAME_CHARACTERS = 32
BATCHES_OF_A_SIZE = 2
"""The first batches have this many of each size, then twice as many rows."""


@dataclass(frozen=True, slots=True)
class WorkItem:
    """The work for all rows with this `key`, which is done once. `size` is in characters, or in bytes of the recording."""

    key: str
    size: int
    text: str = ""
    voice: str | None = None
    input_type: InputType = "text"
    recording: RecordingSource | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The items that one worker gets at once."""

    items: tuple[WorkItem, ...]

    @property
    def name(self) -> str:
        """The name of its part file: a digest of its keys."""
        keys = "\n".join(item.key for item in self.items)
        return hashlib.sha256(keys.encode()).hexdigest()[:NAME_CHARACTERS]

    @property
    def size(self) -> int:
        """Characters or bytes of all items."""
        return sum(item.size for item in self.items)

    def singles(self) -> list[Batch]:
        """The same items, one in each batch."""
        return [Batch((item,)) for item in self.items]


def given_of(items: Iterable[WorkItem]) -> dict[str, dict[str, str | None]]:
    """The text and the voice of items by their keys: a result that failed has none of its own."""
    return {item.key: {"text": item.text, "voice": item.voice} for item in items if item.text}


def item_of(row: Row, job: BulkJob) -> WorkItem:
    """The work item of a row without a fault."""
    if row.recording is not None:
        return WorkItem(job.key(row.recording.digest), row.recording.size, recording=row.recording)
    key = job.key(row.text, row.voice, row.input_type)
    return WorkItem(key, len(row.text), row.text, row.voice, row.input_type)


def cut_into_batches(items: Iterable[WorkItem], settings: BulkSettings) -> Iterator[Batch]:
    """Cuts items into batches of similar size; the first ones are smaller. The items of each `sort_rows` are sorted, longest
    first. Every key occurs once."""
    once = {item.key: item for item in items}
    waiting, shares = iter(once.values()), _shares(settings)
    while group := list(islice(waiting, settings.sort_rows)):
        group.sort(key=lambda item: (-item.size, item.key))
        yield from _cut(group, settings, shares)


def _shares(settings: BulkSettings) -> Iterator[float]:
    """How full each batch may be, in order. The first results come soon, so that a job that is stopped early keeps them."""
    rows = settings.first_batch_rows
    while rows < settings.batch_rows:
        yield from repeat(rows / settings.batch_rows, BATCHES_OF_A_SIZE)
        rows *= 2
    yield from repeat(1.0)


def _cut(items: Sequence[WorkItem], settings: BulkSettings, shares: Iterator[float]) -> Iterator[Batch]:
    held: list[WorkItem] = []
    share = next(shares)
    for item in items:
        room = share * (settings.batch_characters if item.recording is None else settings.batch_bytes)
        if held and (len(held) >= share * settings.batch_rows or sum(h.size for h in held) + item.size > room):
            yield Batch(tuple(held))
            held, share = [], next(shares)
        held.append(item)
    if held:
        yield Batch(tuple(held))


def to_json(items: Sequence[WorkItem]) -> str:
    """Serialises items for a worker."""
    return json.dumps([asdict(item) for item in items])


def from_json(text: str) -> list[WorkItem]:
    """Reads what `to_json` wrote."""
    found = []
    for facts in json.loads(text):
        where = facts.pop("recording")
        found.append(WorkItem(**facts, recording=None if where is None else RecordingSource(**where)))
    return found
