"""What every unit test leaves behind: nothing; and that none of them is timed."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import hypothesis
import pytest

hypothesis.settings.register_profile("untimed", deadline=None)  # the machine may be busy
hypothesis.settings.load_profile("untimed")


@pytest.fixture(autouse=True)
def _torch_settings() -> Iterator[None]:
    """Everything that torch's numbers and speed depend on in a test, and that a test or an engine may have changed.

    One thread: networks this small only wait for each other on several, the longer the busier the machine is, and sums of
    several are others. Products of float32 are not made of smaller numbers, which AMX could. Engines flush the smallest
    floats to zero on their thread, which in a test is everybody's.
    """
    if (torch := sys.modules.get("torch")) is None:
        yield
    else:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        torch.set_float32_matmul_precision("highest")
        yield
        torch.set_num_threads(before)
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)


@pytest.fixture(autouse=True)
def _described_answers() -> Iterator[None]:
    """Every answer of the service is as its description says: see `api_conformance.py`."""
    if (conformance := sys.modules.get("tests.unit.api_conformance")) is None:
        yield
    else:
        conformance.DIFFERENCES.clear()
        yield
        assert conformance.DIFFERENCES == []


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What the service's logger is told, which Ray Serve may have cut off from the rest."""
    logger = logging.getLogger("ray.serve")
    level = logger.level
    logger.addHandler(caplog.handler)
    logger.setLevel(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)
    logger.setLevel(level)
