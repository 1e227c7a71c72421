"""How the service starts where there is no cluster, and how it leaves one that stays."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray
from ray import serve

from serve_app import server
from serve_app.config import AppConfig, Mlx, Model, Placement


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What Ray and Ray Serve were told to do, in order."""
    orders: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: orders.append("disconnect"))
    monkeypatch.setattr(serve, "shutdown", lambda: orders.append("end Ray Serve"))
    monkeypatch.setattr(serve, "delete", lambda name: orders.append(f"delete {name}"))
    return orders


@pytest.mark.parametrize(
    ("application", "running", "expected"),
    [
        (None, ["motet"], ["disconnect"]),
        ("motet", ["motet"], ["end Ray Serve", "disconnect"]),
        ("motet", [], ["end Ray Serve", "disconnect"]),
        ("motet", ["motet", "theirs"], ["delete motet", "disconnect"]),
    ],
    ids=["its own Ray", "a cluster", "a cluster, before it came up", "a cluster with others"],
)
def test_what_the_service_takes_with_it(
    application: str | None, running: list[str], expected: list[str], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "status", lambda: SimpleNamespace(applications=dict.fromkeys(running)))
    server._leave(application)
    assert told == expected


def test_without_a_cluster_this_machine_takes_every_class() -> None:
    placements = (Placement(hardware=Mlx()), Placement())
    app = AppConfig(models={"tone": Model(engine="simulated", placements=placements)})
    assert server._own_machine(app)["resources"] == {"mlx": 1.0}
    assert server._own_machine(AppConfig())["resources"] == {}
