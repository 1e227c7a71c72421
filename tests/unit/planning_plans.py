"""Small plans for tests."""

from __future__ import annotations

from typing import Any

from serve_app.planning.settings import PlanSettings


def plan(**changes: Any) -> PlanSettings:
    """Ten minutes of one class with one replica, with some keys replaced. `placement` and `engine` change its placement, `steps`
    its model, and `speech` its traffic."""
    engine = {"step_ms": {1: 100}, "chunk_seconds_of_audio": 0.5, **changes.pop("engine", {})}
    placement = {"machines": "cpu", "engine": engine, "load_s": 1.0, **changes.pop("placement", {})}
    speech = {"model": "voice", "streams_at_once": 1.0, **changes.pop("speech", {})}
    model = {"placements": [placement], "steps": changes.pop("steps", {}), **changes.pop("model", {})}
    document = {
        "duration_s": 600.0,
        "interval_s": 60.0,
        "traffic": {"speech": [speech]},
        "models": {"voice": model},
        "machines": {"cpu": {}},
        "gateways": {"request_ms": 0.0, "chunk_ms": 0.0, "refusal_ms": 0.0, "hop_ms": 0.0},
    }
    return PlanSettings.model_validate({**document, **changes})
