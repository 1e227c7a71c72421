"""Settings of bulk jobs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from deployments.settings import Count, Positive, StrictModel

Layout = Literal["folder", "parquet"]
"""How a job is written: a file for each row and a manifest, or tables with the sound inside."""


class BulkSettings(StrictModel):
    """How a bulk job is cut into batches, repeated and written."""

    batch_rows: Count = 32
    """The most rows of a batch, which one worker gets at once."""
    first_batch_rows: Count = 4
    """The most rows of the first batches, so that a job that is stopped soon keeps something. They grow to `batch_rows`, and
    their text and bytes in proportion."""
    batch_characters: Count = 3000
    """The most text of a batch. Its first row may be longer."""
    batch_bytes: Count = 16 * 1024 * 1024
    """The most bytes of recordings of a batch. Its first row may be longer."""
    sort_rows: Count = 1024
    """Rows are sorted by length within groups of this many."""
    nice: Annotated[int, Field(ge=0, le=19)] = 19
    """Niceness of the workers."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a row is repeated after its engine failed, and a batch after its worker died."""
    shard_bytes: Count = 256 * 1024 * 1024
    """An output file is closed at this size."""
    object_store_bytes: Count = 1024 * 1024 * 1024
    """Ray's object store of a job that runs on this machine alone."""
    served_in_flight: Count = 4
    """Requests to a live service at the same time (`--service`)."""
    served_timeout_s: Positive = 600.0
    """How long such a request may take."""
    served_patience_s: Positive = 600.0
    """How long a request is repeated while the service is busy or unreachable. After that the job ends; it can be resumed."""
