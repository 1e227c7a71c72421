"""How bulk jobs are cut and carried out. Defaults, as for everything, are in `serve_app/config.py`."""

from __future__ import annotations

from deployments.settings import StrictModel


class BulkSettings(StrictModel):
    """How a job is cut and carried out.

    A batch is what one worker gets at once: at most `batch_rows` rows and, beyond the first, `batch_characters` of text or
    `batch_bytes` of recordings. Rows are sorted by length within stretches of `sort_rows`, in which a recording is found
    near its neighbours. `retries` is how often a row is tried again after its engine failed on it, and a batch after its
    worker died. Output files are closed at `shard_bytes`. `served_in_flight` requests are under way with a live service,
    which may take `served_timeout_s` for each; one that is busy or not there is asked again, for `served_patience_s` at
    most, and then the job ends, to go on later.
    """

    batch_rows: int
    batch_characters: int
    batch_bytes: int
    sort_rows: int
    nice: int
    retries: int
    shard_bytes: int
    object_store_bytes: int
    served_in_flight: int
    served_timeout_s: float
    served_patience_s: float
