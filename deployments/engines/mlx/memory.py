"""The limit of MLX's memory on machines where CPU and GPU share one memory.

On a Mac, weights, caches and all other programs share one memory, and the system kills a process that takes too much. So an
engine refuses new work while MLX holds more than its share, after it has returned MLX's cache of freed buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil

from deployments.engines.limits import Memory
from deployments.engines.mlx.runtime import ArrayBridge, check_device, mx
from deployments.engines.protocols import EngineSpec
from deployments.errors import fail

SHARE = 0.8
"""The share of the physical memory that MLX may hold, unless the option `memory_share` sets another."""
GIB = 2**30


def measured() -> Memory:
    """The memory that MLX holds now."""
    return Memory(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())


@dataclass(slots=True)
class UnifiedMemory:
    """Keeps MLX under `limit_bytes`. Tests replace `measure` and `clear_cache`."""

    limit_bytes: int
    measure: Callable[[], Memory] = measured
    clear_cache: Callable[[], None] = mx.clear_cache

    @classmethod
    def of(cls, spec: EngineSpec) -> UnifiedMemory:
        """With the share from the engine's options. Raises `MotetError` (invalid) for a share outside (0, 1]."""
        share = float(str(spec.options.get("memory_share", SHARE)))
        if not 0 < share <= 1:
            raise fail("invalid", f"memory_share is {share}.", "Set a share above 0 and at most 1.", param="options")
        return cls(int(share * psutil.virtual_memory().total))

    def memory_refusal(self) -> Exception | None:
        """The error for new work, or None. Clears MLX's cache before it refuses."""
        now = self.measure()
        if now.active_bytes + now.cached_bytes <= self.limit_bytes:
            return None
        self.clear_cache()
        now = self.measure()
        if now.active_bytes <= self.limit_bytes:
            return None
        return fail(
            "overloaded",
            f"The model's memory is full: {now.active_bytes / GIB:.1f} of {self.limit_bytes / GIB:.1f} GiB.",
            "Try again in a moment. If it stays full, use a quantised model, a smaller batch, or a larger memory_share.",
            code="memory_full",
        )


class MlxEngine:
    """Base of the MLX engines: checks the device, counts arrays that cross to NumPy, and implements `LimitsMemory`."""

    def __init__(self, spec: EngineSpec) -> None:
        check_device(spec)
        self.edge = ArrayBridge()
        self._memory = UnifiedMemory.of(spec)

    def memory_refusal(self) -> Exception | None:
        """The error for new work, or None."""
        return self._memory.memory_refusal()

    def memory(self) -> Memory:
        """The memory that MLX holds now."""
        return self._memory.measure()
