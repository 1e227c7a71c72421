"""Memory that the processor and the graphics share: what MLX takes of it, and when that is too much.

On a Mac weights, caches and everybody else's programs live in one memory, and the system kills who takes too much of it. So
new work is refused while MLX holds more than its share, after its cache of freed buffers has been given back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import psutil

from deployments.engines.mlx.runtime import ArrayBridge, check_device, mx
from deployments.engines.protocols import EngineSpec, Memory
from deployments.errors import fail

SHARE = 0.8
"""Of the physical memory that MLX may hold, unless the option `memory_share` says otherwise."""
GIB = 2**30


def measured() -> Memory:
    """What MLX holds now: `active` is in use, `cached` is kept for reuse, `peak` is the most that was in use."""
    return Memory(mx.get_active_memory(), mx.get_cache_memory(), mx.get_peak_memory())


@dataclass(slots=True)
class UnifiedMemory:
    """Keeps MLX under `limit_bytes`. `measure` and `clear_cache` are MLX's own, unless a test brings others."""

    limit_bytes: int
    measure: Callable[[], Memory] = measured
    clear_cache: Callable[[], None] = mx.clear_cache

    @classmethod
    def of(cls, spec: EngineSpec) -> UnifiedMemory:
        """With the share that the engine's options allow. Raises `MotetError` for one that is no share."""
        share = float(str(spec.options.get("memory_share", SHARE)))
        if not 0 < share <= 1:
            raise fail(
                "invalid", f"memory_share is {share}.", "It is a share: more than 0, at most 1.", param="options"
            )
        return cls(int(share * psutil.virtual_memory().total))

    def memory_refusal(self) -> Exception | None:
        """Why no new work can be taken now, or None. Gives the cache back before it says no."""
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
            "Try again in a moment. If it stays so: a quantised model, a smaller batch, or a larger memory_share.",
            code="memory_full",
        )


class MlxEngine:
    """Base of the engines on MLX: refuses another device, counts what crosses to NumPy, and knows when it is full."""

    def __init__(self, spec: EngineSpec) -> None:
        check_device(spec)
        self.edge = ArrayBridge()
        self._memory = UnifiedMemory.of(spec)

    def memory_refusal(self) -> Exception | None:
        """Why no new work is taken now, or None."""
        return self._memory.memory_refusal()

    def memory(self) -> Memory:
        """What MLX holds now."""
        return self._memory.measure()
