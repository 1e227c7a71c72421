"""MLX for the engines: a fast matrix product on Linux, and the conversion between NumPy and MLX arrays.

Import `mx` from here, because OpenBLAS must be loaded before the first `import mlx`. MLX arrays belong to the thread that
made them, so everything runs on the engine's one thread.
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
    """Loads the system's OpenBLAS where MLX finds it, and returns its name; None on a Mac, which has Accelerate, or if it is
    not installed.

    MLX's wheel for Linux contains the reference BLAS, which multiplies float32 matrices about eight times slower. A globally
    loaded library takes precedence over it, as with LD_PRELOAD, but without an environment variable.
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
    """Converts arrays between NumPy and MLX and counts them: audio goes in once and comes out once."""

    entered: int = 0
    left: int = 0

    def to_mlx(self, samples: Samples) -> Any:
        """NumPy to MLX, float32 of the same shape."""
        self.entered += 1
        return mx.array(np.ascontiguousarray(samples, np.float32))

    def to_numpy(self, array: Any) -> Samples:
        """MLX to NumPy, float32 of the same shape. Evaluates the array."""
        self.left += 1
        out: NDArray[np.float32] = np.array(array.astype(mx.float32), np.float32)
        return out


def loading() -> contextlib.redirect_stdout[TextIO]:
    """A context for mlx-audio's loaders, which print: standard output is for audio."""
    return contextlib.redirect_stdout(sys.stderr)


def on_cpu() -> Any:
    """A context for pre- and post-processing on MLX's CPU stream, in parallel to the model's device."""
    return mx.stream(mx.cpu)


def check_device(spec: EngineSpec) -> None:
    """Raises `MotetError` (unsupported) if the engine was placed on another hardware class."""
    if spec.device != "mlx":
        raise fail(
            "unsupported", f"An MLX engine does not run on {spec.device!r}.", "Place the model on hardware kind mlx."
        )


def dtype_of(spec: EngineSpec) -> Any:
    """The dtype of a model: the option `dtype`, else float16 on a GPU and float32 on a CPU.

    MLX's CPU backend multiplies half-precision matrices without a BLAS.
    """
    default = "float16" if mx.default_device() == mx.Device(mx.gpu) else "float32"
    name = str(spec.options.get("dtype", default))
    if name not in DTYPES:
        raise fail("invalid", f"dtype {name!r} is unknown.", f"Choose one of {', '.join(DTYPES)}.", param="options")
    return DTYPES[name]
