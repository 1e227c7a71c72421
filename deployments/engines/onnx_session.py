"""Opens ONNX graphs with ONNX Runtime, for the engines that run on it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from deployments.engines.protocols import EngineSpec
from deployments.errors import MotetError, fail

PROVIDERS: Mapping[str, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def open_session(spec: EngineSpec, name: str) -> Any:
    """A session for the graph `name` in `spec.folder`, on device "cpu" or "cuda".

    Raises `MotetError`: unsupported for another device, unavailable when ONNX Runtime cannot use the device on this machine,
    not_found when the folder lacks the graph.
    """
    if spec.device not in PROVIDERS:
        cause = f"{spec.model} does not run on {spec.device!r}."
        raise fail("unsupported", cause, f"Use one of {', '.join(PROVIDERS)}.")
    path = Path(spec.folder) / name
    if not path.is_file():
        raise fail("not_found", f"{path} is missing.", "Point the model's source at a folder that has it.")
    provider = PROVIDERS[spec.device]
    if provider not in onnxruntime.get_available_providers():
        raise _unusable(spec.device)
    session = onnxruntime.InferenceSession(str(path), session_options(spec.threads), providers=[provider])
    # ONNX Runtime replaces a provider whose libraries do not load with the CPU, without an error.
    if provider not in session.get_providers():
        raise _unusable(spec.device)
    return session


def session_options(threads: int) -> Any:
    """ONNX Runtime options for `threads` threads that sleep while they wait, so that they take no time from other
    processes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _unusable(device: str) -> MotetError:
    remedy = "Install the onnxruntime package for this device, or place the model on another."
    return fail("unavailable", f"ONNX Runtime cannot use {device!r} on this machine.", remedy)
