"""The hardware classes a replica can run on, as a tagged union: the class is configuration, never a guess.

Each class has the resources that its replicas request from Ray, and environment variables for their libraries. CUDA replicas
request a label beside `num_gpus`, because Ray 2.60 advertises a Mac's GPU as `GPU: 1`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from deployments.replica.cores import Threads
from deployments.replica.cpu_scheduling import CpuScheduling
from deployments.settings import Count, Fraction, NonNegative, Positive, StrictModel

LABEL = "motet.hardware"
MLX = "mlx"
PRIMITIVES_KEPT = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128"}
"""What oneDNN prepares for a shape of rows it keeps, by itself for 1024 of them. Ragged batches bring ever new shapes, and a
replica would grow by hundreds of megabytes for those that never come again."""
GOMP_SPIN_COUNT = "3000"
"""How often a waiting OpenMP thread that has a core of its own looks for work before it sleeps: for a tenth of a millisecond.
To wake one takes longer, on virtual machines, than most of a model's operations, thousands of which make a step."""
Kind = Literal["cpu", "cuda", "mlx"]


class HardwareClass(StrictModel):
    """What all classes have in common."""

    scheduling: CpuScheduling = CpuScheduling()

    if TYPE_CHECKING:  # each class defines its own, with its own default
        cpus: float
        threads: Threads

    @property
    def device(self) -> str:
        """The engine's word for the device."""
        raise NotImplementedError

    @property
    def fixed_threads(self) -> int:
        """Threads of a process that may have neighbours of its kind: one where the number is `auto`."""
        return 1 if self.threads == "auto" else self.threads

    def environment(self) -> dict[str, str]:
        """Environment variables of a replica. Waiting OpenMP threads sleep at once, because a spinning one takes a core
        from its neighbours; only where Ray reserves a CPU for each thread, they look a little longer."""
        threads = self.fixed_threads
        looks = GOMP_SPIN_COUNT if threads > 1 and self.cpus >= threads else "0"
        waiting = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": looks}
        return {"OMP_NUM_THREADS": str(threads), **waiting, **PRIMITIVES_KEPT}

    def actor_options(self) -> dict[str, Any]:
        """Ray's `ray_actor_options` for a replica."""
        return {"num_cpus": self.cpus, "runtime_env": {"env_vars": self.environment()}}


class CpuClass(HardwareClass):
    """A replica on any machine."""

    kind: Literal["cpu"] = "cpu"
    """The hardware class."""
    cpus: NonNegative = 0.5
    """CPUs that Ray reserves for a replica. The default lets a small machine hold all default models."""
    threads: Count | Literal["auto"] = 1
    """Threads of the model. auto: one for each core that no other model reserves. A replica with several threads is
    fastest with as many `cpus`: then no other replica uses its cores."""

    @property
    def device(self) -> str:
        """Always "cpu"."""
        return "cpu"


class CudaClass(HardwareClass):
    """A replica on a machine with NVIDIA GPUs whose Ray node carries the label `motet.hardware=cuda`."""

    kind: Literal["cuda"] = "cuda"
    """The hardware class."""
    cpus: NonNegative = 1.0
    """CPUs that Ray reserves for a replica."""
    threads: Count = 1
    """Threads of the model on the CPU."""
    gpus: Positive = 1.0
    """GPUs, or a share of one, for a replica."""

    @property
    def device(self) -> str:
        """Always "cuda"."""
        return "cuda"

    def actor_options(self) -> dict[str, Any]:
        """A share of a GPU, on a node with the label."""
        return {**super().actor_options(), "num_gpus": self.gpus, "label_selector": {LABEL: "cuda"}}


class MlxClass(HardwareClass):
    """A replica on an Apple machine, or Linux with MLX's CPU backend, whose Ray node offers the resource `mlx`."""

    kind: Literal["mlx"] = "mlx"
    """The hardware class."""
    cpus: NonNegative = 1.0
    """CPUs that Ray reserves for a replica."""
    threads: Count = 1
    """Threads of the model on the CPU."""
    share: Fraction = 1.0
    """The share of the machine's accelerator for a replica."""

    @property
    def device(self) -> str:
        """Always "mlx"."""
        return "mlx"

    def actor_options(self) -> dict[str, Any]:
        """A share of the machine's `mlx` resource."""
        return {**super().actor_options(), "resources": {MLX: self.share}}


Hardware = Annotated[CpuClass | CudaClass | MlxClass, Field(discriminator="kind")]


def node_offer(kinds: Iterable[Kind]) -> dict[str, Any]:
    """What a Ray node must carry for replicas of these classes to land on it: Ray's `labels` and `resources`."""
    wanted = set(kinds)
    labels = {LABEL: "cuda"} if "cuda" in wanted else {}
    return {"labels": labels, "resources": {MLX: 1.0} if "mlx" in wanted else {}}
