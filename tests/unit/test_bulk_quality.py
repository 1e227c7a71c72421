"""Rows of a bulk job say how their pieces were checked, and what was heard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster.bulk.plan import WorkItem
from cluster.bulk.results import RowResult, table_of
from cluster.bulk.speech_rendering import SpeechRenderer
from serve_app.bulk import BulkOptions, job_of
from serve_app.config import AppConfig
from tests.unit.speech_sounds import NoisyEngine, SpokenUtterance
from tests.unit.test_piece_checks import BAD, TEXTS, Ear, spoiled


class Rows(NoisyEngine):
    """Any number of calls at a time; the seed of a row is not 0, so the first time that a text is made is counted."""

    def open(self, request: Any) -> SpokenUtterance:
        self.opened = 0
        return super().open(request)

    def sound(self, piece: str, seed: int) -> Any:
        return self.spoiled.pop(piece, None) if piece in self.spoiled else super().sound(piece, seed)


def rows(*texts: str, hearing: Any = None, bad: dict[str, Any] | None = None) -> Sequence[RowResult]:
    job, _ = job_of(AppConfig(), "speech", None, BulkOptions(), None)
    items = [WorkItem(job.key(text), len(text), text) for text in texts]
    renderer = SpeechRenderer(Rows(spoiled=dict(bad or {})), job.order, 4, hearing)  # type: ignore[arg-type]
    outcomes = renderer.render(items, [None] * len(items))
    return [outcome[0] for outcome in outcomes if isinstance(outcome, Sequence)]


def test_a_row_says_what_was_made_again() -> None:
    good, mended = rows(" ".join(TEXTS[:3]), " ".join(TEXTS), bad={BAD: spoiled("silent")})
    assert good.quality == {"pieces": 3, "made_again": 0, "faulty": 0, "faults": [], "heard": None}
    assert mended.quality is not None and (mended.quality["made_again"], mended.quality["faulty"]) == (1, 0)
    (_, found) = table_of([("a", [good]), ("b", [mended])], "noise").column("quality").to_pylist()
    assert found == {
        "pieces": 5, "made_again": 1, "faulty": 0, "faults": [], "word_error_rate": None, "heard": None,
    }  # fmt: skip


def test_a_verified_row_says_what_was_heard() -> None:
    (row,) = rows(TEXTS[0], hearing=Ear(["Something else was heard by somebody.", TEXTS[0]]))
    assert row.quality is not None
    assert (row.quality["heard"], row.quality["word_error_rate"], row.quality["made_again"]) == (TEXTS[0], 0.0, 1)


def test_a_job_with_verification_has_other_keys_and_loads_the_recogniser_once_per_worker() -> None:
    plain, verified = (job_of(AppConfig(), "speech", None, BulkOptions(verify=v), None)[0] for v in (False, True))
    assert plain.key("text") != verified.key("text")
    assert verified.order.task == "speech" and verified.order.verifier is not None
    assert verified.order.verifier.model == "whisper-base"
