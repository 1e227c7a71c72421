"""The measured throughput of a bulk job does not depend on when the measurement begins and ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cluster.bulk.workers import RenderedBatch
from serve_app.bench.bulk_throughput import steady


class Workers:
    """Two workers that bring 10 s of sound each second, the second one some time after the first; and their clock."""

    def __init__(self, behind: float) -> None:
        self.now, self._behind = 0.0, behind

    def __call__(self) -> float:
        return self.now

    def made(self) -> Iterator[RenderedBatch]:
        second = 0
        while True:
            second += 1
            for now in (second, second + self._behind):
                self.now = now
                yield RenderedBatch("batch", b"", 0, 10.0, 1)


@pytest.mark.parametrize("behind", [0.0, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("seconds", [3.8, 4.0, 4.45, 10.0])
def test_lumps_do_not_move_the_pace(behind: float, seconds: float) -> None:
    workers = Workers(behind)
    done = steady(workers.made(), 2, seconds, workers)
    assert done.sound / done.seconds == pytest.approx(20.0, rel=1e-9)


def test_a_job_that_is_over_too_soon_is_no_measurement() -> None:
    workers = Workers(0.5)
    few = (made for made, _ in zip(workers.made(), range(5), strict=False))
    with pytest.raises(RuntimeError, match="over"):
        steady(few, 2, 10.0, workers)
