"""What every unit test leaves behind: nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _ordinary_numbers() -> Iterator[None]:
    """Engines flush the smallest floats to zero on their thread, which in a test is everybody's."""
    yield
    if torch := sys.modules.get("torch"):
        torch.set_flush_denormal(False)
