"""Whisper weights in 8 bits for CTranslate2, by CTranslate2's own converter, which reads Hugging Face's layout."""

from __future__ import annotations

from pathlib import Path

from deployments.engines.registry import Task
from deployments.weights import convert_whisper

COPIED = ("tokenizer.json", "preprocessor_config.json")


def original(folder: Path, work: Path) -> Path:
    """The weights as the `whisper` engine loads them: made in `work` where they are Hugging Face's."""
    if convert_whisper.is_ctranslate2(folder):
        return folder
    _convert(folder, work, None)
    return work


def task_of(folder: Path) -> Task:
    """CTranslate2 is used for Whisper only."""
    return "transcription"


def quantize(folder: Path, out: Path, bits: int, group_size: int) -> None:
    """Writes the quantised model of an `original` folder into `out`. Rows are its groups: `group_size` is not used."""
    source = convert_whisper.convert(folder) if convert_whisper.is_ctranslate2(folder) else folder
    _convert(source, out, "int8")


def _convert(folder: Path, out: Path, quantization: str | None) -> None:
    from ctranslate2.converters import TransformersConverter

    converter = TransformersConverter(str(folder), copy_files=[n for n in COPIED if (folder / n).is_file()])
    converter.convert(str(out), quantization=quantization, force=True)
