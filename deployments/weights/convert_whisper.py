"""Converts Whisper weights from CTranslate2's format to that of Hugging Face, which torch and MLX read.

CTranslate2 writes one `model.bin`, for which its library has no reader, and keeps the rows of the query, key and value
projections in one matrix. Nothing is transposed. The file is little endian: u32 version; text name; u32 revision; u32 count;
then for each variable: text name, u8 rank, u32 for each dimension, u8 type, u32 bytes, data; then the aliases. A text is a
u16 length that includes a trailing NUL. (Source: `model_spec.py` of CTranslate2 4.)
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from deployments.errors import fail
from deployments.weights import cache

LAYOUT = 1
"""Version of the written folder; increase it when the output changes."""
FILE_VERSION = 6
TYPES: Mapping[int, str] = {0: "<f4", 1: "<i1", 2: "<i2", 3: "<i4", 4: "<f2"}
FLOATS = (0, 4)
TIMES = 1501
"""Timestamp tokens from 0.00 s to 30.00 s in steps of 0.02 s."""

Array = NDArray[Any]

# In order: earlier patterns must match before the endings of later ones.
RENAMES = (
    (r"/layer_(\d+)/", r".layers.\1."),
    (r"^(encoder|decoder)[./]", r"model.\1."),
    (r"self_attention/layer_norm/", "self_attn_layer_norm."),
    (r"attention/layer_norm/", "encoder_attn_layer_norm."),
    (r"ffn/layer_norm/", "final_layer_norm."),
    (r"ffn/linear_0/", "fc1."),
    (r"ffn/linear_1/", "fc2."),
    (r"self_attention/linear_1/", "self_attn.out_proj."),
    (r"attention/linear_2/", "encoder_attn.out_proj."),
    (r"position_encodings/encodings$", "embed_positions.weight"),
    (r"embeddings(_0)?/weight$", "embed_tokens.weight"),
    (r"gamma$", "weight"),
    (r"beta$", "bias"),
    (r"/", "."),
)
# The projections in the rows of one CTranslate2 matrix, in order.
STACKS = (
    ("self_attention/linear_0/", "self_attn.", ("q_proj", "k_proj", "v_proj")),
    ("attention/linear_0/", "encoder_attn.", ("q_proj",)),
    ("attention/linear_1/", "encoder_attn.", ("k_proj", "v_proj")),
)


def convert(folder: Path) -> Path:
    """The Hugging Face folder for the CTranslate2 Whisper in `folder`, converted now or earlier.

    Needs `model.bin` (float16 or float32), `config.json` and `tokenizer.json`. Raises `MotetError`.
    """
    inputs = [folder / name for name in ("model.bin", "config.json", "tokenizer.json")]
    if missing := [path.name for path in inputs if not path.is_file()]:
        raise fail(
            "unavailable",
            f"{folder} is no CTranslate2 Whisper: it lacks {', '.join(missing)}.",
            "Check the model's source.",
            param="source",
        )
    return cache.converted("whisper", cache.key_of(LAYOUT, inputs), lambda target: _convert(folder, target))


def is_ctranslate2(folder: Path) -> bool:
    """Whether the folder's weights are in CTranslate2's format."""
    return (folder / "model.bin").is_file()


def _convert(folder: Path, target: Path) -> None:
    variables = dict(read_variables(folder / "model.bin"))
    tensors = dict(renamed(variables))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokens = add_times(tokenizer)
    known = json.loads((folder / "config.json").read_text())
    config = model_config(variables, tensors, tokens)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    for name, content in {
        "config.json": config,
        "generation_config.json": generation_config(config, known, tokens),
        "preprocessor_config.json": preprocessor_config(config),
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": tokenizer_config(tokenizer),
    }.items():
        (target / name).write_text(json.dumps(content, ensure_ascii=False))


def read_variables(path: Path) -> Iterator[tuple[str, Array]]:
    """Every variable of a `model.bin` by name. Raises `MotetError` for another version, and for quantized weights."""
    data = memoryview(path.read_bytes())
    position = 0

    def number(form: str) -> int:
        nonlocal position
        (value,) = struct.unpack_from("<" + form, data, position)
        position += struct.calcsize(form)
        return int(value)

    def text() -> str:
        nonlocal position
        length = number("H")
        position += length
        return bytes(data[position - length : position - 1]).decode()

    version, name, _ = number("I"), text(), number("I")
    if version != FILE_VERSION or name != "WhisperSpec":
        raise _unreadable(path, f"it is a {name} of version {version}, not a WhisperSpec of version {FILE_VERSION}")
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        kind, size = number("B"), number("I")
        yield name, _array(path, name, kind, data[position : position + size], shape)
        position += size


def _array(path: Path, name: str, kind: int, data: memoryview, shape: list[int]) -> Array:
    if kind not in TYPES or (kind not in FLOATS and len(shape) > 1 and "heads" not in name):
        raise _unreadable(path, f"{name} is quantised or of an unknown type ({kind})")
    return np.frombuffer(data, TYPES[kind]).reshape(shape)


def _unreadable(path: Path, why: str) -> Exception:
    return fail("unsupported", f"{path} cannot be converted: {why}.", "Use a float16 or float32 CTranslate2 Whisper.")


def renamed(variables: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
    """The weights with Hugging Face's names. Keys have no bias there (CTranslate2's is zero)."""
    for name, array in variables.items():
        if array.ndim == 0 or array.dtype.kind != "f":
            continue  # a setting of the network
        yield from _unstacked(name, array) or [(_renamed(name), array)]


def _renamed(name: str) -> str:
    for pattern, replacement in RENAMES:
        name = re.sub(pattern, replacement, name)
    return name


def _unstacked(name: str, array: Array) -> list[tuple[str, Array]]:
    for part, prefix, projections in STACKS:
        before, found, kind = name.partition(f"/{part}")
        if found:
            rows = np.split(array, len(projections))
            named = zip(projections, rows, strict=True)
            layer = _renamed(before + "/")
            return [
                (f"{layer}{prefix}{projection}.{kind}", np.ascontiguousarray(part_rows))
                for projection, part_rows in named
                if (projection, kind) != ("k_proj", "bias")
            ]
    return []


def add_times(tokenizer: dict[str, Any]) -> dict[str, int]:
    """Appends the timestamp tokens, which CTranslate2's folder leaves out; returns every added token's id.

    They are not special tokens: a decoder that skips special tokens must keep timestamps.
    """
    added = tokenizer["added_tokens"]
    numbers = {token["content"]: int(token["id"]) for token in added}
    first = numbers["<|notimestamps|>"] + 1
    for step in range(TIMES):
        content = f"<|{step * 0.02:.2f}|>"
        if content not in numbers:
            numbers[content] = first + step
            flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
            added.append({"id": first + step, "content": content, **flags})
    return numbers


def model_config(
    variables: Mapping[str, Array], tensors: Mapping[str, Array], tokens: Mapping[str, int]
) -> dict[str, Any]:
    """`config.json` as `transformers` writes it, from the shapes."""
    vocabulary, width = tensors["model.decoder.embed_tokens.weight"].shape
    layers = {
        side: 1
        + max(int(match[1]) for name in tensors if (match := re.match(rf"model\.{side}\.layers\.(\d+)\.", name)))
        for side in ("encoder", "decoder")
    }
    start, end = tokens["<|startoftranscript|>"], tokens["<|endoftext|>"]
    return {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "dtype": str(tensors["model.encoder.conv1.weight"].dtype),
        "vocab_size": vocabulary,
        "d_model": width,
        "num_mel_bins": tensors["model.encoder.conv1.weight"].shape[1],
        "max_source_positions": tensors["model.encoder.embed_positions.weight"].shape[0],
        "max_target_positions": tensors["model.decoder.embed_positions.weight"].shape[0],
        "encoder_layers": layers["encoder"],
        "decoder_layers": layers["decoder"],
        "encoder_attention_heads": int(variables["encoder/num_heads"]),
        "decoder_attention_heads": int(variables["decoder/num_heads"]),
        "encoder_ffn_dim": tensors["model.encoder.layers.0.fc1.weight"].shape[0],
        "decoder_ffn_dim": tensors["model.decoder.layers.0.fc1.weight"].shape[0],
        "activation_function": "gelu",
        "tie_word_embeddings": True,
        "decoder_start_token_id": start,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }


def generation_config(config: Mapping[str, Any], known: Mapping[str, Any], tokens: Mapping[str, int]) -> dict[str, Any]:
    """`generation_config.json`; `known` is CTranslate2's own `config.json`."""
    common = {
        "decoder_start_token_id": config["decoder_start_token_id"],
        "bos_token_id": config["bos_token_id"],
        "eos_token_id": config["eos_token_id"],
        "pad_token_id": config["pad_token_id"],
        "no_timestamps_token_id": tokens["<|notimestamps|>"],
        "prev_sot_token_id": tokens["<|startofprev|>"],
        "max_length": config["max_target_positions"],
        "max_initial_timestamp_index": 50,  # a second: openai/whisper, decoding.py
        "return_timestamps": False,
        "alignment_heads": known["alignment_heads"],
        "suppress_tokens": known["suppress_ids"],
        "begin_suppress_tokens": known["suppress_ids_begin"],
        "is_multilingual": is_multilingual(config),
    }
    if not is_multilingual(config):
        return common
    first, last = tokens["<|startoftranscript|>"], tokens["<|translate|>"]
    languages = {name: number for name, number in tokens.items() if first < number < last}
    tasks = {task: tokens[f"<|{task}|>"] for task in ("transcribe", "translate")}
    return {**common, "task": "transcribe", "task_to_id": tasks, "lang_to_id": languages}


def is_multilingual(config: Mapping[str, Any]) -> bool:
    """OpenAI's rule: the English models have one token less than the smallest multilingual model."""
    return int(config["vocab_size"]) >= 51865


def preprocessor_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """`preprocessor_config.json`: the log-mel spectrogram, the same for every Whisper except for the number of bands."""
    return {
        "feature_extractor_type": "WhisperFeatureExtractor",
        "processor_class": "WhisperProcessor",
        "feature_size": config["num_mel_bins"],
        "sampling_rate": 16_000,
        "hop_length": 160,
        "n_fft": 400,
        "chunk_length": 30,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": False,
    }


def tokenizer_config(tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """`tokenizer_config.json`. An unlisted special token would be taken for a timestamp."""
    special = [token["content"] for token in tokenizer["added_tokens"] if token["special"]]
    return {
        "tokenizer_class": "WhisperTokenizer",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "additional_special_tokens": special,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 1024,
    }
