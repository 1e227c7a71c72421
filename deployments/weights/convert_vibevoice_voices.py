"""Converts the published voices of VibeVoice-Realtime from PyTorch's format to safetensors.

    python -m deployments.weights.convert_vibevoice_voices VibeVoice/demo/voices/streaming_model MODEL/voices

A published file is a pickle of four outputs of transformers' models. Motet reads no pickles elsewhere; here torch reads it
with `weights_only`, which builds tensors, plain containers and the two stand-ins below, and refuses all else. What is kept is
what `deployments/engines/vibevoice_realtime/voices.py` describes; mlx-audio reads the same files.
"""

from __future__ import annotations

import argparse
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import save_file
from torch import Tensor

from deployments.engines.vibevoice_realtime.voices import FREE, LOWER, UPPER
from deployments.errors import MotetError, fail

Tensors: TypeAlias = dict[str, Tensor]


def _model_output(*fields: object) -> OrderedDict[str, Any]:
    """Stands for an output of transformers, an ordered dictionary; its fields come again as items."""
    return OrderedDict()


class _KeyValueCache:
    """Stands for transformers' cache, with keys and values (1, heads, n, head_dim) of each layer."""

    key_cache: list[Tensor]
    value_cache: list[Tensor]


_STAND_INS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
    (_model_output, "transformers.modeling_outputs.BaseModelOutputWithPast"),
    (_KeyValueCache, "transformers.cache_utils.DynamicCache"),
]


def converted(file: Path) -> Tensors:
    """The tensors of a published voice, in the dtype of the file, on the CPU.

    Raises `MotetError` (invalid) for a file that is not one, or that has anything else than tensors.
    """
    try:
        with torch.serialization.safe_globals(_STAND_INS):
            outputs = torch.load(file, map_location="cpu", weights_only=True)
        tensors: Tensors = {}
        for name in (LOWER, UPPER, FREE):
            tensors |= _of_decoder(name, outputs[name])
    except Exception as error:  # a broken file raises whatever it made torch stumble over
        first = str(error).strip().partition("\n")[0]
        cause = f"{file} is not a voice of VibeVoice-Realtime: {type(error).__name__}: {first}"
        raise fail("invalid", cause, "Use the files of microsoft/VibeVoice, demo/voices/streaming_model.") from error
    return tensors


def _of_decoder(name: str, output: OrderedDict[str, Any]) -> Tensors:
    cache: _KeyValueCache = output["past_key_values"]
    tensors = {f"{name}_hidden": output["last_hidden_state"]}
    for kind, layers in (("key", cache.key_cache), ("value", cache.value_cache)):
        tensors |= {f"{name}_{kind}_{number}": layer for number, layer in enumerate(layers)}
    return {key: tensor.contiguous() for key, tensor in tensors.items()}


def convert(source: Path, target: Path) -> list[Path]:
    """Converts every `*.pt` of a folder; gives the new files. Raises `MotetError` (invalid) if there are none."""
    files = sorted(source.glob("*.pt"))
    if not files:
        raise fail("invalid", f"{source} contains no .pt file.", "Give the folder of the published voices.")
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for file in files:
        written.append(target / f"{file.stem}.safetensors")
        save_file(converted(file), written[-1])
    return written


def main(arguments: list[str] | None = None) -> int:
    """Converts the voices of one folder into another, and prints what it writes."""
    parser = argparse.ArgumentParser(description="Converts the published voices of VibeVoice-Realtime to safetensors.")
    parser.add_argument("source", type=Path, help="the folder with the *.pt files")
    parser.add_argument("target", type=Path, help="the folder voices/ of the model")
    given = parser.parse_args(arguments)
    try:
        for file in convert(given.source, given.target):
            sys.stdout.write(f"{file}\n")
    except MotetError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
