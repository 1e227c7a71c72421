"""The numeric tests on every instruction set that this processor can emulate.

oneDNN, torch's own kernels and MKL each choose by the processor what they add in which order, and how they round. Each level
is a process of its own, because they choose once. Two run at a time, on a thread each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = (
    "lm",
    "feed_forward",
    "vibevoice",
    "vibevoice_realtime",
    "sopro",
    "indextts",
    "kokoro",
    "pocket_tts",
    "hf_recognition",
)
CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class Level:
    """What to set, and the names in `/proc/cpuinfo` of what the processor must have for it."""

    variable: str
    value: str
    needs: tuple[str, ...] = ()

    def lacks(self, flags: set[str]) -> list[str]:
        """What a processor with these flags does not have."""
        return [need for need in self.needs if need not in flags]


AVX512 = ("avx512f", "avx512bw", "avx512vl", "avx512dq")
LEVELS = (
    Level("ONEDNN_MAX_CPU_ISA", "AVX2", ("avx2",)),
    Level("ONEDNN_MAX_CPU_ISA", "AVX512_CORE", AVX512),
    Level("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_VNNI", (*AVX512, "avx512_vnni")),
    Level("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16", (*AVX512, "avx512_vnni", "avx512_bf16")),
    Level("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_AMX", (*AVX512, "amx_tile", "amx_int8", "amx_bf16")),
    Level("ATEN_CPU_CAPABILITY", "default"),
    Level("ATEN_CPU_CAPABILITY", "avx2", ("avx2",)),
    Level("ATEN_CPU_CAPABILITY", "avx512", AVX512),
    Level("MKL_CBWR", "AVX2", ("avx2",)),
)


def flags_of(cpuinfo: str) -> set[str]:
    """The instruction sets that Linux names there; none on another system."""
    return {flag for line in cpuinfo.splitlines() if line.startswith("flags") for flag in line.split(":")[1].split()}


FLAGS = flags_of(CPUINFO.read_text()) if CPUINFO.exists() else set[str]()
HERE = tuple(level for level in LEVELS if not level.lacks(FLAGS))


def run(level: Level, folder: Path) -> subprocess.CompletedProcess[str]:
    """The numeric tests at this level. What Inductor compiles for one level it takes for any, so each has its own folder."""
    environment: Mapping[str, str] = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "PYTHONPATH": str(ROOT),
        "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
        level.variable: level.value,
    }
    # Inductor follows torch's own level alone, and takes ten seconds for a step.
    compiled = [] if level.variable == "ATEN_CPU_CAPABILITY" else ["-k", "not compiled"]
    files = [f"tests/unit/test_{module}.py" for module in MODULES]
    options = [
        "-m",
        "numeric",
        "-p",
        "no:cacheprovider",
        "--tb=short",
        "--show-capture=no",
        f"--basetemp={folder}/tests",
    ]
    command = [sys.executable, "-m", "pytest", *options, *compiled, *files]
    return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, check=False)


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[dict[Level, Future[subprocess.CompletedProcess[str]]]]:
    """Every level that the processor has, begun."""
    pytest.importorskip("torch")
    with ThreadPoolExecutor(2) as pool:
        yield {level: pool.submit(run, level, tmp_path_factory.mktemp(level.value.lower())) for level in HERE}
        pool.shutdown(cancel_futures=True)


@pytest.mark.timeout(600)  # the first waits for its own process alone; on two idle cores all take about two minutes
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: f"{level.variable}={level.value}")
def test_the_numbers_hold(level: Level, running: dict[Level, Future[subprocess.CompletedProcess[str]]]) -> None:
    if lacking := level.lacks(FLAGS):
        pytest.skip(f"This processor does not have {', '.join(lacking)}.")
    done = running[level].result()
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout


def test_a_level_that_the_processor_does_not_have_is_known() -> None:
    flags = flags_of("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512bw avx512vl avx512dq avx512_vnni\n")
    assert {level.value for level in LEVELS if level.lacks(flags)} == {"AVX512_CORE_BF16", "AVX512_CORE_AMX"}
    assert flags_of("Features : neon") == set()
