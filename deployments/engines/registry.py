"""The engines by name, one line each. A module is imported when its engine is first loaded, so an engine whose library is not
installed costs nothing until then."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from deployments.engines.protocols import EngineSpec
from deployments.errors import fail

Task = Literal["speech", "transcription", "separation"]


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """An engine: its task, the module of its `load(spec)`, and what to install if its library is missing.

    An engine `without_weights` needs no source. One that `clones` makes voices from clips.
    """

    task: Task
    module: str
    remedy: str
    without_weights: bool = False
    clones: bool = False


def _extra(name: str) -> str:
    return f"pip install --constraint constraints.txt 'motet[{name}]'"


ENGINES: Mapping[str, EngineEntry] = {
    "hibari": EngineEntry("speech", "deployments.engines.hibari.engine", "pip install hibari-tts==0.2.1"),
    "kokoro": EngineEntry("speech", "deployments.engines.kokoro.engine", _extra("kokoro")),
    "sopro": EngineEntry("speech", "deployments.engines.sopro.engine", _extra("torch"), clones=True),
    "indextts": EngineEntry(
        "speech", "deployments.engines.indextts.engine", f"{_extra('indextts')} (NOTICE has its licence)", clones=True
    ),
    "vibevoice": EngineEntry("speech", "deployments.engines.vibevoice.engine", _extra("torch"), clones=True),
    "vibevoice_realtime": EngineEntry("speech", "deployments.engines.vibevoice_realtime.engine", _extra("torch")),
    "qwen3_tts": EngineEntry("speech", "deployments.engines.qwen3_tts.engine", _extra("torch")),
    "pocket_tts": EngineEntry("speech", "deployments.engines.pocket_tts.engine", _extra("transformers"), clones=True),
    "whisper": EngineEntry("transcription", "deployments.engines.whisper.engine", "pip install faster-whisper"),
    "hf_recognition": EngineEntry(
        "transcription", "deployments.engines.hf_recognition.loading", _extra("transformers")
    ),
    "mlx_recognition": EngineEntry("transcription", "deployments.engines.mlx.recognition", _extra("mlx")),
    "mlx_speech": EngineEntry("speech", "deployments.engines.mlx.speech", _extra("mlx")),
    "mlx_separation": EngineEntry("separation", "deployments.engines.mlx.separation", _extra("mlx")),
    "deepfilternet": EngineEntry(
        "separation", "deployments.engines.deepfilternet.engine", "pip install onnxruntime onnx"
    ),
    "htdemucs": EngineEntry("separation", "deployments.engines.htdemucs.engine", _extra("stems")),
    "roformer": EngineEntry("separation", "deployments.engines.roformer.engine", _extra("stems")),
    "nsnet2": EngineEntry("separation", "deployments.engines.nsnet2.engine", "pip install onnxruntime"),
    "simulated": EngineEntry("speech", "deployments.engines.simulated.engine", "", without_weights=True),
    "identity": EngineEntry("separation", "deployments.engines.identity.engine", "", without_weights=True),
}


def find(name: str) -> EngineEntry:
    """The entry of an engine. Raises `MotetError` (not_found) with the nearest valid name."""
    if name not in ENGINES:
        near = get_close_matches(name, ENGINES, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known engines: {', '.join(sorted(ENGINES))}."
        raise fail("not_found", f"There is no engine {name!r}.", hint, param="engine")
    return ENGINES[name]


def load(name: str, spec: EngineSpec) -> Any:
    """Loads an engine; call it on the thread that will run the engine.

    Raises `MotetError` if the engine is unknown or its library is not installed.
    """
    entry = find(name)
    try:
        module = importlib.import_module(entry.module)
    except ImportError as error:
        raise fail(
            "unavailable", f"Engine {name!r} needs a library that is not installed: {error}.", f"Run: {entry.remedy}"
        ) from error
    return module.load(spec)
