"""Quantizes Whisper to 8 bits for CTranslate2, with CTranslate2's converter, which reads Hugging Face's format."""

from __future__ import annotations

from pathlib import Path

from deployments.engines.registry import Task
from deployments.weights import convert_whisper

COPIED = ("tokenizer.json", "preprocessor_config.json")


def original(folder: Path, work: Path) -> Path:
    """The weights in CTranslate2's format, converted into `work` if they are Hugging Face's."""
    if convert_whisper.is_ctranslate2(folder):
        return folder
    _convert(folder, work, None)
    return work


def task_of(folder: Path) -> Task:
    """Always transcription: CTranslate2 runs only Whisper here."""
    return "transcription"


def quantize(folder: Path, out: Path, bits: int, group_size: int) -> None:
    """Writes the quantized model of an `original` folder into `out`. Each row is a group, so `group_size` is ignored."""
    source = convert_whisper.convert(folder) if convert_whisper.is_ctranslate2(folder) else folder
    _convert(source, out, "int8")


def _convert(folder: Path, out: Path, quantization: str | None) -> None:
    from ctranslate2.converters import TransformersConverter

    converter = TransformersConverter(str(folder), copy_files=[n for n in COPIED if (folder / n).is_file()])
    converter.convert(str(out), quantization=quantization, force=True)
