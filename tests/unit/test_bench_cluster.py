"""The counts of the cluster benchmark."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import psutil
import pytest
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_TYPE
from ray.autoscaler._private.util import prepare_config, validate_config

from cluster.hardware import Kind
from deployments.errors import MotetError
from serve_app.bench.load import StreamRequest, StreamResult
from serve_app.bench.running_service import RunningProgram
from tests.load import local_cluster
from tests.load.client_load import MODEL, ClientLoad, TriedRequest
from tests.load.cluster import CLASSES, outlived, too_early
from tests.load.local_cluster import LocalCluster

ASK = StreamRequest(MODEL, "", 0)


def heard(status: int = 200, placement: str = "", error: str = "", ended_s: float = 0.0) -> StreamResult:
    return StreamResult(ASK, status, error, pcm=bytearray(b"0"), placement=placement, ended_s=ended_s)


def test_a_request_is_answered_by_either_try_and_a_broken_stream_is_no_answer() -> None:
    assert TriedRequest(0.0, heard()).answered
    assert TriedRequest(0.0, heard(error="EOFError"), heard()).answered
    assert not TriedRequest(0.0, heard(503), heard(503)).answered
    assert not TriedRequest(0.0, heard(error="EOFError")).answered


def test_who_answered_is_counted_by_class_and_time() -> None:
    load = ClientLoad(RunningProgram("", 0, 0.0), "")
    load.asked = [
        TriedRequest(1.0, heard(placement="tone@cpu")),
        TriedRequest(2.0, heard(placement="tone@mlx")),
        TriedRequest(3.0, heard(503, "tone@mlx")),
    ]
    assert load.placements() == {"cpu": 1, "mlx": 1}
    assert load.placements(2.0) == {"mlx": 1}


def test_requests_count_for_the_time_in_which_they_were_over() -> None:
    load = ClientLoad(RunningProgram("", 0, 0.0), "")
    load.asked = [
        TriedRequest(1.0, heard(503), heard(503)),
        TriedRequest(2.0, heard()),
        TriedRequest(3.0, heard(503), heard()),
        TriedRequest(4.0, heard(503), heard(503)),
    ]
    assert load.answered(2.0, 4.0) == (100.0, "2 requests, 1 of them at once")
    assert load.answered(2.5, 9.0)[0] == 50.0
    with pytest.raises(MotetError, match="No request"):
        load.answered(5.0, 9.0)


def test_streams_that_broke_off_are_counted_with_their_causes() -> None:
    streams = [heard(ended_s=9.0), heard(error="EOFError"), heard(503), heard(ended_s=9.0)]
    streams[0].gaps_s = [0.1, 0.4]
    note = "of 4; at most 0.4 s between chunks; 1 times EOFError; 1 times 503"
    assert outlived(streams, back_s=8.0) == (50.0, note)


def test_a_stream_that_was_over_too_early_is_no_result() -> None:
    with pytest.raises(MotetError, match="over before"):
        outlived([heard(ended_s=9.0)], back_s=10.0)


def test_a_way_in_and_its_clients_are_found_by_the_sockets() -> None:
    this = psutil.Process()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert local_cluster._sockets(this, port) == set()
        with socket.create_connection(("127.0.0.1", port)) as client, server.accept()[0]:
            own = client.getsockname()[1]
            assert local_cluster._sockets(this, port) == {own}
            assert local_cluster._sockets(this, own) is None


def test_without_redis_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(os.environ, "PATH", str(tmp_path))
    with pytest.raises(MotetError, match="apt-get install redis-server"), local_cluster.redis_store():
        pass


@pytest.mark.parametrize(
    ("left", "count"), [(tuple(reversed(CLASSES)), 0), (("cpu", "cuda", "mlx"), 1), (CLASSES, 2), ((), 0)]
)
def test_classes_that_leave_before_a_dearer_one_are_counted(left: tuple[Kind, ...], count: int) -> None:
    assert too_early(left) == count


def test_rays_autoscaler_takes_the_fleet(tmp_path: Path) -> None:
    fleet = LocalCluster(tmp_path)._fleet({"cpu": 1, "mlx": 2})
    validate_config(prepare_config(fleet))
    assert fleet["head_node_type"] == FAKE_HEAD_NODE_TYPE in fleet["available_node_types"]
