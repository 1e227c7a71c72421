"""MLX as every engine here uses it: with a fast matrix product on Linux, and one edge between NumPy and its arrays.

Import `mx` from here, so that what must come before the first `import mlx` does. An engine's arrays belong to the thread
that made them: everything runs on the engine's one thread.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TextIO

import numpy as np
from numpy.typing import NDArray

from deployments.engines.protocols import EngineSpec, Samples
from deployments.errors import fail

FAST_BLAS = ("libopenblas.so.0", "libopenblas.so")
"""Debian and Ubuntu: `apt-get install libopenblas0-pthread`."""


def load_fast_blas() -> str | None:
    """The system's OpenBLAS, put where MLX finds it; None on a Mac, which has Accelerate, and where there is none.

    MLX's wheel for Linux brings the reference BLAS, which multiplies float32 matrices about eight times slower. A library
    loaded globally comes before the wheel's own, as it would with LD_PRELOAD, but needs nothing of the environment.
    """
    if sys.platform != "linux":
        return None
    for name in FAST_BLAS:
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return name
    return None


BLAS = load_fast_blas()

mx: Any = importlib.import_module("mlx.core")

DTYPES: Mapping[str, Any] = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


@dataclass(slots=True)
class ArrayBridge:
    """Every array that crosses between NumPy and MLX, counted: sound goes in once and comes out once."""

    entered: int = 0
    left: int = 0

    def enter(self, samples: Samples) -> Any:
        """NumPy to MLX, float32 of the same shape."""
        self.entered += 1
        return mx.array(np.ascontiguousarray(samples, np.float32))

    def leave(self, array: Any) -> Samples:
        """MLX to NumPy, float32 of the same shape. What the array stands for is computed now."""
        self.left += 1
        out: NDArray[np.float32] = np.array(array.astype(mx.float32), np.float32)
        return out


def loading() -> contextlib.redirect_stdout[TextIO]:
    """A context for mlx-audio's loaders, which talk: standard output is for sound."""
    return contextlib.redirect_stdout(sys.stderr)


def on_cpu() -> Any:
    """A context in which what comes before and after a model runs: MLX's CPU stream, beside the model's own device."""
    return mx.stream(mx.cpu)


def check_device(spec: EngineSpec) -> None:
    """Raises `MotetError` when the engine was placed on another hardware class."""
    if spec.device != "mlx":
        raise fail("unsupported", f"An MLX engine does not run on {spec.device!r}.", "Give it a placement of kind mlx.")


def dtype_of(spec: EngineSpec) -> Any:
    """The type a model computes in: the option `dtype`, else float16 on a GPU and float32 on a CPU.

    MLX's CPU backend multiplies half-precision matrices without any BLAS.
    """
    default = "float16" if mx.default_device() == mx.Device(mx.gpu) else "float32"
    name = str(spec.options.get("dtype", default))
    if name not in DTYPES:
        raise fail("invalid", f"There is no dtype {name!r}.", f"Choose one of {', '.join(DTYPES)}.", param="options")
    return DTYPES[name]
