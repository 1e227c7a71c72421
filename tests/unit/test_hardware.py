"""Every hardware class requests the right resources from Ray, and nothing that could place it on a wrong machine."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from cluster.hardware import (
    GOMP_SPIN_COUNT,
    LABEL,
    PRIMITIVES_KEPT,
    CpuClass,
    CudaClass,
    Hardware,
    MlxClass,
    node_offer,
)
from cluster.models import Placement
from deployments.replica.cpu_scheduling import CpuScheduling


@pytest.mark.parametrize(
    ("threads", "cpus", "looks"),
    [
        pytest.param(2, 2.0, GOMP_SPIN_COUNT, id="a core for each"),
        pytest.param(2, 1.0, "0", id="shared cores"),
        pytest.param(1, 1.0, "0", id="nobody to wait for"),
    ],
)
def test_waiting_threads_sleep_and_look_longer_on_cores_of_their_own(threads: int, cpus: float, looks: str) -> None:
    options = CpuClass(threads=threads, cpus=cpus).actor_options()
    assert options["num_cpus"] == cpus
    waiting = {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": looks}
    assert options["runtime_env"]["env_vars"] == waiting | PRIMITIVES_KEPT
    assert "num_gpus" not in options


def test_libraries_that_are_not_told_otherwise_use_one_thread_where_the_number_is_auto() -> None:
    environment = CpuClass(threads="auto").environment()
    assert (environment["OMP_NUM_THREADS"], environment["GOMP_SPINCOUNT"]) == ("1", "0")


def test_cuda_is_pinned_by_label_and_not_by_gpus_alone() -> None:
    options = CudaClass(gpus=0.5).actor_options()
    assert options["num_gpus"] == 0.5
    assert options["label_selector"] == {LABEL: "cuda"}


def test_mlx_asks_for_its_own_resource_and_no_gpu() -> None:
    options = MlxClass().actor_options()
    assert options["resources"] == {"mlx": 1.0}
    assert "num_gpus" not in options


def test_a_node_offers_what_replicas_of_its_classes_ask_for() -> None:
    offer = node_offer(["cpu", "cuda", "mlx"])
    assert CudaClass().actor_options()["label_selector"].items() <= offer["labels"].items()
    assert MlxClass().actor_options()["resources"].items() <= offer["resources"].items()
    assert node_offer(["cpu"]) == {"labels": {}, "resources": {}}


def test_the_kind_chooses_the_class() -> None:
    adapter: TypeAdapter[Hardware] = TypeAdapter(Hardware)
    chosen = adapter.validate_python(
        {"kind": "cuda", "cpus": 1, "threads": 1, "gpus": 1, "scheduling": CpuScheduling().model_dump()}
    )
    assert isinstance(chosen, CudaClass)
    with pytest.raises(ValidationError, match="tpu"):
        adapter.validate_python({"kind": "tpu"})


def test_each_class_names_its_device() -> None:
    assert [h.device for h in (CpuClass(), CudaClass(), MlxClass())] == ["cpu", "cuda", "mlx"]
    assert Placement().hardware.kind == "cpu"
