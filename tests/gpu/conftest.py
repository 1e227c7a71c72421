"""Fixtures for tests on a card. They import torch, numpy, safetensors and pytest, and otherwise only Motet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips every test without a CUDA device."""
    without = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
    for item in items:
        item.add_marker(pytest.mark.gpu)
        item.add_marker(without)


@pytest.fixture(autouse=True)
def _whole_float32() -> Iterator[None]:
    """A card's convolutions may round to TF32, about three digits; a comparison with a CPU needs all of float32."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    torch.set_flush_denormal(True)
    yield
    torch.backends.cudnn.allow_tf32 = before
