"""What the cluster benchmark counts; the cluster itself is its own test."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_TYPE
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.hardware import Kind
from serve_app.bench.cluster import CLASSES, MODEL, Asked, Load, too_early
from serve_app.bench.load import Ask, Heard
from serve_app.bench.local_cluster import LocalCluster
from serve_app.bench.running_service import RunningProgram

ASK = Ask(MODEL, "", 0)


def heard(status: int = 200, placement: str = "", error: str = "") -> Heard:
    return Heard(ASK, status, error, pcm=bytearray(b"0"), placement=placement)


def test_a_request_is_answered_by_either_try_and_a_broken_stream_is_no_answer() -> None:
    assert Asked(0.0, heard()).answered
    assert Asked(0.0, heard(error="EOFError"), heard()).answered
    assert not Asked(0.0, heard(503), heard(503)).answered
    assert not Asked(0.0, heard(error="EOFError")).answered


def test_who_answered_is_counted_by_class_and_time() -> None:
    load = Load(RunningProgram("", 0, 0.0), "")
    load.asked = [
        Asked(1.0, heard(placement="tone@cpu")),
        Asked(2.0, heard(placement="tone@mlx")),
        Asked(3.0, heard(503, "tone@mlx")),
    ]
    assert load.placements() == {"cpu": 1, "mlx": 1}
    assert load.placements(2.0) == {"mlx": 1}


@pytest.mark.parametrize(
    ("left", "count"), [(tuple(reversed(CLASSES)), 0), (("cpu", "cuda", "mlx"), 1), (CLASSES, 2), ((), 0)]
)
def test_classes_that_leave_before_a_dearer_one_are_counted(left: tuple[Kind, ...], count: int) -> None:
    assert too_early(left) == count


def test_rays_autoscaler_takes_the_fleet(tmp_path: Path) -> None:
    fleet = LocalCluster(tmp_path)._fleet({"cpu": 1, "mlx": 2})
    validate_config(prepare_config(fleet))
    assert fleet["head_node_type"] == FAKE_HEAD_NODE_TYPE in fleet["available_node_types"]
