"""`threads: auto` is the number of CPUs that the process may use, whatever sets the limit."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from deployments.replica.cores import CpuOffer, here, threads_of
from serve_app.config import AppConfig
from serve_app.replica_settings import replica_settings

QUOTA_V2 = "/sys/fs/cgroup/cpu.max"


class Machine:
    """A machine with cores that the process may run on, or whose system does not say, and some files."""

    def __init__(self, cores: int | None, files: Mapping[str, str]) -> None:
        self._cores, self._files = cores, files

    def affinity(self) -> tuple[int, ...]:
        if self._cores is None:
            raise OSError("this platform does not say")
        return tuple(range(self._cores))

    def read(self, path: str) -> str:
        if path not in self._files:
            raise FileNotFoundError(path)
        return self._files[path]


@pytest.mark.parametrize(
    ("cores", "quota", "node", "reserved", "threads"),
    [
        pytest.param(8, "max 100000", None, 0.0, 8, id="every core"),
        pytest.param(8, "250000 100000", None, 0.0, 2, id="whole CPUs of the container"),
        pytest.param(8, "max 100000", 4.0, 0.0, 4, id="CPUs of the Ray node"),
        pytest.param(8, "max 100000", 6.0, 4.0, 2, id="CPUs that others reserve"),
        pytest.param(1, "50000 100000", 0.0, 4.0, 1, id="never none"),
    ],
)
def test_auto_is_the_least_of_all_limits(
    cores: int, quota: str, node: float | None, reserved: float, threads: int
) -> None:
    machine: object = Machine(cores, {QUOTA_V2: quota})
    assert threads_of("auto", lambda: here(node, machine), reserved) == threads  # type: ignore[arg-type]


def test_a_number_is_that_number_and_nothing_is_asked() -> None:
    def nobody() -> CpuOffer:
        raise AssertionError

    assert threads_of(3, nobody, 16.0) == 3


def test_a_platform_that_does_not_say_offers_its_cores() -> None:
    machine: object = Machine(None, {})
    assert here(system=machine).cores >= 1  # type: ignore[arg-type]


def test_the_limits_are_told() -> None:
    assert str(CpuOffer(8)) == "8 cores"
    assert str(CpuOffer(8, 2.5, 4.0)) == "8 cores, 2.5 CPUs of the container, 4 CPUs of the Ray node"


def test_the_default_voice_leaves_others_the_cores_that_they_reserve() -> None:
    shares = AppConfig().models
    wide = {"engine": "identity", "placements": [{"hardware": {"kind": "cpu", "cpus": 2, "threads": 2}, "replicas": 3}]}
    elsewhere = {"engine": "identity", "placements": [{"hardware": {"kind": "mlx", "cpus": 4}}]}
    own = {name: model.model_dump(mode="json") for name, model in shares.items()}
    beside = AppConfig.model_validate({"models": own | {"wide": wide, "elsewhere": elsewhere}}).models
    for models, reserved in ((shares, 0.0), (beside, 6.0)):
        hibari = models["hibari"]
        settings = replica_settings("hibari", hibari, hibari.placements[0], models)
        assert (settings.threads, settings.reserved_cpus) == ("auto", reserved)
