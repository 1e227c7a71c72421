"""The hardware classes of this machine."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import shutil
import subprocess
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path

import psutil

from cluster.hardware import LABEL
from serve_app.cli import local
from serve_app.cli.doctor_libraries import install_extra
from serve_app.cli.findings import Finding

GIB = 2**30

PROBE_TIMEOUT_S = 10.0

CPU_FLAGS = ("amx_tile", "amx_int8", "amx_bf16", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "avx2", "asimd")

MLX_RESOURCE = '{"mlx": 1}'


def hardware() -> Iterator[Finding]:
    """The hardware classes of this machine."""
    yield _cpu()
    yield _cuda()
    yield _mlx()


def _cpu() -> Finding:
    memory = psutil.virtual_memory()
    flags = _cpu_flags()
    detail = (
        f"{local.usable_cores()} of {psutil.cpu_count()} cores, {platform.machine()}"
        f" ({', '.join(flag for flag in CPU_FLAGS if flag in flags) or 'no vector units known'}),"
        f" {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB of memory free"
    )
    return Finding("hardware", "cpu", "ok", detail)


def _cpu_flags() -> set[str]:
    """What Linux says of the processor; other systems do not say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    return {flag for line in lines if line.startswith(("flags", "Features")) for flag in line.split()}


def _cuda() -> Finding:
    program = shutil.which("nvidia-smi")
    detail = _output(
        [program, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"] if program else []
    )
    if not detail and not find_library("cuda"):
        return Finding(
            "hardware", "cuda", "absent", "no NVIDIA driver", "Install the NVIDIA driver, if there is a GPU."
        )
    found = detail or "libcuda is here, nvidia-smi is not"
    return Finding("hardware", "cuda", "ok", f"{found}; a worker offers it with: ray start --labels {LABEL}=cuda")


def _mlx() -> Finding:
    apple = (platform.system(), platform.machine()) == ("Darwin", "arm64")
    library = importlib.util.find_spec("mlx") is not None
    if library:
        kind = "Apple silicon" if apple else f"MLX's CPU backend, {_blas()}"
        remedy = f"a worker offers it with: ray start --resources '{MLX_RESOURCE}'"
        return Finding("hardware", "mlx", "ok", f"{kind}; {remedy}")
    detail = "Apple silicon, without the library" if apple else "not Apple silicon, and MLX is not installed"
    return Finding("hardware", "mlx", "absent", detail, install_extra("mlx"))


def _blas() -> str:
    """What multiplies MLX's matrices on Linux. Its engines load OpenBLAS by themselves where it is installed."""
    if find_library("openblas"):
        return "with the system's OpenBLAS"
    return "with the slow BLAS of its wheel: OpenBLAS is several times as fast (apt-get install libopenblas0-pthread)"


def _output(command: list[str]) -> str:
    if not command:
        return ""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(done.stdout.split("\n")).strip("; ")
