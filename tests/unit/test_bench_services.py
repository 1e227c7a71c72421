"""The configurations of the benchmarks' services are valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from serve_app.bench import serve_service as serve
from serve_app.config import AppConfig


def test_the_service_with_many_listeners() -> None:
    config = AppConfig.model_validate(serve.config())
    assert {serve.GATE, serve.NO_GATE, serve.ONE, serve.PATIENT, "hibari"} == set(config.models)
    assert config.models["hibari"].max_wait_s == serve.MAX_WAIT_S
    assert config.models[serve.PATIENT].max_wait_s is None
    assert not config.models[serve.NO_GATE].steps.gate


def test_the_service_with_a_batch_session(tmp_path: Path) -> None:
    pytest.importorskip("mlx_audio")
    from tests.load import mlx

    config = AppConfig.model_validate({"models": {"tiny": mlx.tiny_model(tmp_path)}})
    assert config.models["tiny"].steps.max_batch_size == mlx.STREAMS
