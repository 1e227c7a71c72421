"""Which engine loads a hub repository: by the names of its files and the type in its `config.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deployments.errors import fail
from deployments.hub.files import HubFile, HubListing, is_safe, is_weight, safe_weights

ENGINE_OF_TYPE: Mapping[str, str] = {
    "qwen3_tts": "qwen3_tts",
    "vibevoice": "vibevoice",
    "vibevoice_streaming": "vibevoice_realtime",
    "sopro": "sopro",
    "pocket_tts": "pocket_tts",
    "mel_band_roformer": "roformer",
    "bs_roformer": "roformer",
    **dict.fromkeys(
        (
            "canary",
            "moonshine",
            "moonshine_streaming",
            "nemotron3_5_asr",
            "nemotron_asr_streaming",
            "parakeet_ctc",
            "parakeet_rnnt",
            "parakeet_tdt",
            "qwen3_asr",
            "voxtral",
            "voxtral_realtime",
        ),
        "hf_recognition",
    ),
}
"""The engine by `model_type`."""
MLX_ENGINE_OF_TASK: Mapping[str, str] = {
    "text-to-speech": "mlx_speech",
    "automatic-speech-recognition": "mlx_recognition",
    "audio-to-audio": "mlx_separation",
}
"""The engine of a repository for MLX, by the task that its page states."""
CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SECOND_COPY = "consolidated.safetensors"
"""The weights once more, in the layout of another program."""


def engine_of(found: HubListing, config: Mapping[str, Any]) -> str:
    """The engine that loads a repository with this parsed `config.json`, which may be empty. Raises `MotetError`
    (unsupported) if none is known."""
    if found.library == "mlx" or found.name.startswith("mlx-community/"):
        engine = MLX_ENGINE_OF_TASK.get(found.task)
    elif found.file("model.bin") and found.file("tokenizer.json"):
        engine = "whisper"
    elif any(file.path.startswith("voices/") for file in safe_weights(found)) and "istftnet" in config:
        engine = "kokoro"
    else:
        engine = ENGINE_OF_TYPE.get(str(config.get("model_type")))
    if engine is None:
        kind = config.get("model_type") or found.task or "without a type"
        cause = f"Motet does not know which of its engines loads {found.name} ({kind})."
        raise fail("unsupported", cause, "Name it with --engine; README.md lists the engines.", code="unknown_engine")
    return engine


def files_of(found: HubListing, index: Mapping[str, Any] | None) -> tuple[HubFile, ...]:
    """The files of a repository that its engine needs: what engines read, without a second copy of the weights.

    `index` is the parsed `model.safetensors.index.json`, if there is one; of several sets of weights it names the one that is
    used. Raises `MotetError` (unsupported) if there are no weights that engines read.
    """
    weights = safe_weights(found)
    if index is not None:
        named = set(index["weight_map"].values())
        weights = [file for file in weights if file.path in named or "/" in file.path]
    elif any(file.path == "model.safetensors" for file in weights):
        weights = [file for file in weights if file.path != SECOND_COPY]
    if not weights:
        cause = f"{found.name} has no weights that Motet reads."
        raise fail("unsupported", cause, "It reads safetensors, ONNX and CTranslate2 files, never a pickle.")
    small = [file for file in found.files if is_safe(file.path) and not is_weight(file.path)]
    return (*small, *weights)


def read_json(file: Path) -> Mapping[str, Any]:
    """A JSON file of a repository. Raises `MotetError` (invalid) if it is not an object."""
    try:
        content = json.loads(file.read_text())
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise fail("invalid", f"{file.name} of the repository is not valid JSON: {error}", "Choose another.") from error
    if not isinstance(content, dict):
        raise fail("invalid", f"{file.name} of the repository is not a JSON object.", "Choose another repository.")
    return content
