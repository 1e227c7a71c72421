"""Quantizes mlx-audio's models to 4 or 8 bits, with mlx-audio's `convert`.

It quantizes every linear layer and embedding whose rows are whole groups (affine, with a scale and a bias for each group of
weights). Convolutions, norms and positions are not quantized.
"""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

from deployments.engines.registry import Task
from deployments.errors import fail
from deployments.weights import convert_whisper

TASKS: dict[str, Task] = {"stt": "transcription", "tts": "speech", "sts": "separation"}
"""mlx-audio's name for a task, and ours."""


def original(folder: Path, work: Path) -> Path:
    """The weights in mlx-audio's format. A Whisper in CTranslate2's format is converted first."""
    if convert_whisper.is_ctranslate2(folder):
        return convert_whisper.convert(folder)
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise fail("invalid", f"{folder} has no config.json with safetensors.", "Check --source.", param="source")
    return folder


def task_of(folder: Path) -> Task:
    """The task of the model in an `original` folder. Raises `MotetError` for a model that mlx-audio does not know."""
    return TASKS[_kind(folder)]


def quantize(folder: Path, out: Path, bits: int, group_size: int) -> None:
    """Writes the quantized model of an `original` folder into `out`."""
    from mlx_audio.convert import convert

    with contextlib.redirect_stdout(io.StringIO()):  # the library talks
        convert(
            str(folder),
            str(out),
            quantize=True,
            q_bits=bits,
            q_group_size=group_size,
            model_domain=_kind(folder),  # it would guess by the names of the folders above
        )


def _kind(folder: Path) -> str:
    from mlx_audio.registry import classify_model

    config = json.loads((folder / "config.json").read_text())
    kind: str | None = classify_model(str(config.get("model_type", "")))
    if kind is None or kind not in TASKS:
        cause = f"mlx-audio knows no model of the type {config.get('model_type')!r}."
        raise fail(
            "unsupported", cause, "Its model types: python -c 'import mlx_audio.registry as r; print(r.kinds())'"
        )
    return kind
