"""Stores the kernels of a model's layers by processor, so that a restart and a second replica make the same choice.

The file is in the folder of the weights if that is writable, else in the user's cache. It is replaced as a whole; a damaged
file is ignored.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

import torch

from deployments.engines.lm.linear import Kernel
from deployments.weights import cache

INSTRUCTIONS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
"""Environment variables that limit which instructions the libraries use."""
MOST_BYTES = 1 << 20
MOST_CHOICES = 256
MOST_FILES = 32
"""Processors whose choices are stored in one folder."""
LONGEST_WAIT_SECONDS = 10.0
PAUSE_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Processor:
    """Everything that decides which kernel is fastest."""

    name: str
    flags: str
    limits: str
    torch: str
    threads: int

    @property
    def digest(self) -> str:
        """16 hexadecimal digits, different for each processor."""
        return hashlib.sha256(json.dumps(asdict(self)).encode()).hexdigest()[:16]


def this_processor() -> Processor:
    """The processor of this machine, as torch uses it on this thread."""
    facts = _cpu_facts(Path("/proc/cpuinfo"))
    limits = " ".join(f"{name}={os.environ[name]}" for name in INSTRUCTIONS if name in os.environ)
    return Processor(
        name=facts.get("model name") or platform.processor() or platform.machine(),
        flags=facts.get("flags") or facts.get("Features") or torch.backends.cpu.get_cpu_capability(),
        limits=limits,
        torch=torch.__version__,
        threads=torch.get_num_threads(),
    )


def _cpu_facts(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    first = file.read_text().partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


@dataclass(frozen=True, slots=True)
class ChosenKernel:
    """A layer's kernel, and the milliseconds by kernel and number of rows behind the choice; empty if it was not measured."""

    kernel: Kernel
    milliseconds: Mapping[str, Mapping[str, float]]


class KernelStore:
    """The stored choices of one model on one processor."""

    def __init__(
        self,
        folder: Path,
        processor: Processor,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`folder` is the folder of the model's weights."""
        self.file = file_for(folder, processor)
        self._processor, self._clock, self._sleep = processor, clock, sleep

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Holds the lock of the folder. A process that waits longer than `LONGEST_WAIT_SECONDS`, or cannot lock, continues
        without it."""
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            folder = os.open(self.file.parent, os.O_RDONLY)
        except OSError:
            yield
            return
        try:
            self._lock(folder)
            yield
        finally:
            os.close(folder)

    def _lock(self, folder: int) -> None:
        started = self._clock()
        while self._clock() - started < LONGEST_WAIT_SECONDS:
            try:
                fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._sleep(PAUSE_SECONDS)
            except OSError:
                return
            else:
                return

    def read(self) -> dict[str, ChosenKernel]:
        """All choices; none if the file is damaged or missing."""
        try:
            if self.file.stat().st_size > MOST_BYTES:
                return {}
            kept = json.loads(self.file.read_text())["kernels"]
            return {key: _chosen(value) for key, value in list(kept.items())[:MOST_CHOICES]}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {}

    def add(self, key: str, chosen: ChosenKernel) -> str:
        """Adds a choice. Returns why that failed, or ""."""
        kernels = {**self.read(), key: chosen}
        if len(kernels) > MOST_CHOICES:
            return f"{self.file} already has {MOST_CHOICES} choices."
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            _forget_oldest(self.file)
            about = asdict(self._processor) | {"kernels": {name: asdict(value) for name, value in kernels.items()}}
            _replace(self.file, json.dumps(about, indent=1))
        except OSError as error:
            return f"{self.file} could not be written ({error})."
        return ""


def file_for(folder: Path, processor: Processor) -> Path:
    """Where the choices of the model in `folder` are stored."""
    if os.access(folder, os.W_OK):
        return folder / f"motet-kernels-{processor.digest}.json"
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
    return cache.root().parent / "kernels" / f"{place}-{processor.digest}.json"


def _chosen(value: Any) -> ChosenKernel:
    kernel, milliseconds = value["kernel"], value["milliseconds"]
    if kernel not in get_args(Kernel):
        raise ValueError(f"{kernel!r} is not a kernel.")
    times = {name: {count: float(ms) for count, ms in of.items()} for name, of in milliseconds.items()}
    return ChosenKernel(kernel, times)


def _forget_oldest(file: Path) -> None:
    pattern = "motet-kernels-*.json" if file.name.startswith("motet-kernels-") else "*.json"
    others = sorted(
        (other for other in file.parent.glob(pattern) if other != file), key=lambda other: other.stat().st_mtime
    )
    for other in others[: max(0, len(others) + 1 - MOST_FILES)]:
        other.unlink(missing_ok=True)


def _replace(file: Path, text: str) -> None:
    unfinished = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        unfinished.write_text(text)
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)
