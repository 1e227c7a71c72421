"""The Kokoro model: the tokens of many rows to their samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from deployments.engines.kokoro.ragged import RaggedRows, groups
from deployments.engines.kokoro.text import Albert, KokoroTextEncoder, ProsodyPredictor
from deployments.engines.kokoro.vocoder import IstftGenerator, KokoroDecoder, Noise
from deployments.errors import fail

FRAMES_PER_SECOND = 40


@dataclass(frozen=True)
class KokoroInput:
    """One row's input: token ids without the end tokens, a voice's style (2 * style_dim,), and a speed."""

    tokens: Sequence[int]
    style: Tensor
    speed: float


@dataclass(frozen=True)
class KokoroSound:
    """One row's output: float32 `samples` (n,) at 24 kHz, and how many of the `FRAMES_PER_SECOND` each token lasts, int64
    (tokens,), with the end tokens."""

    samples: Tensor
    frames: Tensor


class KokoroModel(nn.Module):
    """Built from the `config.json` of the weights."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        channels, style, vocabulary = config["hidden_dim"], config["style_dim"], config["n_token"]
        albert, vocoder = config["plbert"], config["istftnet"]
        self.vocabulary: Mapping[str, int] = config["vocab"]
        self.most_tokens: int = albert["max_position_embeddings"] - 2
        self.bert = Albert(
            vocabulary,
            albert.get("embedding_size", 128),
            albert["hidden_size"],
            albert["num_attention_heads"],
            albert["intermediate_size"],
            albert["max_position_embeddings"],
            albert["num_hidden_layers"],
        )
        self.bert_encoder = nn.Linear(albert["hidden_size"], channels)
        self.predictor = ProsodyPredictor(style, channels, config["n_layer"], config["max_dur"])
        self.text_encoder = KokoroTextEncoder(
            vocabulary, channels, config["text_encoder_kernel_size"], config["n_layer"]
        )
        generator = IstftGenerator(
            style,
            vocoder["upsample_initial_channel"],
            vocoder["upsample_rates"],
            vocoder["upsample_kernel_sizes"],
            vocoder["resblock_kernel_sizes"],
            vocoder["resblock_dilation_sizes"],
            vocoder["gen_istft_n_fft"],
            vocoder["gen_istft_hop_size"],
        )
        self.decoder = KokoroDecoder(channels, style, config["dim_in"], generator, vocoder["upsample_initial_channel"])
        self._samples_per_frame = 2 * generator.samples_per_value

    @torch.inference_mode()
    def forward(self, lines: Sequence[KokoroInput], noise: Noise, most_padding: float = 1.0) -> list[KokoroSound]:
        """The sound of each line.

        Up to the durations all lines are one padded batch. The vocoder then runs on groups in which at most the share
        `most_padding` is padding.
        """
        device = self.bert_encoder.weight.device
        rows = RaggedRows.of(torch.tensor([len(line.tokens) + 2 for line in lines], device=device))
        padded = [[0, *line.tokens, 0] + [0] * (rows.width - len(line.tokens) - 2) for line in lines]
        tokens = torch.tensor(padded, device=device)
        timbre, manner = torch.stack([line.style for line in lines]).to(device).chunk(2, dim=1)
        speed = torch.tensor([line.speed for line in lines], device=device)
        encoded = self.predictor.text_encoder(self.bert_encoder(self.bert(tokens, rows)), manner, rows)
        durations = self.predictor.durations(encoded, speed, rows)
        heard = self.text_encoder(tokens, rows)
        lengths = durations.sum(dim=1)
        sounds: dict[int, Tensor] = {}
        for group in groups(lengths.tolist(), most_padding):
            of = torch.tensor(group, device=device)
            frames = RaggedRows.of(lengths[of])
            spoken = _phonemes_of_frames(durations[of], frames)
            pitch, loudness = self.predictor.curves(_repeat_for_frames(encoded[of], spoken, frames), manner[of], frames)
            text = _repeat_for_frames(heard[of], spoken, frames)
            drawn = partial(_of_group, noise, group)
            samples = self.decoder(text, pitch, loudness, timbre[of], drawn, frames)
            ends = (frames.lengths * self._samples_per_frame).tolist()
            sounds |= {row: sound[:end] for row, sound, end in zip(group, samples, ends, strict=True)}
        return [KokoroSound(sounds[row], durations[row, : len(line.tokens) + 2]) for row, line in enumerate(lines)]


def _of_group(noise: Noise, group: Sequence[int], position: int, samples: int) -> Tensor:
    return noise(group[position], samples)


def _phonemes_of_frames(durations: Tensor, frames: RaggedRows) -> Tensor:
    """The phoneme of each frame, (rows, frames)."""
    positions = torch.arange(frames.width, device=durations.device).expand(len(durations), -1).contiguous()
    ends = durations.cumsum(dim=1)
    return torch.searchsorted(ends, positions, right=True).clamp(max=durations.shape[1] - 1)


def _repeat_for_frames(x: Tensor, spoken: Tensor, frames: RaggedRows) -> Tensor:
    """(rows, phonemes, channels) to (rows, frames, channels), zero beyond each row's end."""
    taken = x.gather(1, spoken.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
    return taken if frames.mask is None else taken.mul_(frames.mask)


def load_model(folder: Path) -> KokoroModel:
    """The model in `folder`: `config.json` and one safetensors file. Raises `MotetError` if they are missing."""
    weights = sorted(folder.glob("*.safetensors"))
    if len(weights) != 1 or not (folder / "config.json").is_file():
        raise fail("unavailable", f"{folder} contains no Kokoro model.", "Check the model's source.")
    with torch.device("meta"):  # the weights come from the file: none are drawn first
        model = KokoroModel(json.loads((folder / "config.json").read_text()))
    model.load_state_dict(folded(load_file(weights[0])), assign=True)
    return model.eval()


def folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Converts a state dict of the package to `KokoroModel`'s names: weight normalisation folded, channels last.

    ALBERT's pooler and the identity affine of AdaIN have no effect and are left out.
    """
    plain = {name: tensor for name, tensor in state.items() if not name.endswith((".weight_g", ".weight_v"))}
    for name in state:
        if name.endswith(".weight_v"):
            base = name.removesuffix(".weight_v")
            plain[f"{base}.weight"] = torch._weight_norm(state[name], state[f"{base}.weight_g"], 0)
    return {_renamed(name): _channels_last(name, tensor) for name, tensor in plain.items() if not _without_effect(name)}


def _renamed(name: str) -> str:
    """The two directions of an LSTM are two modules here: `lstm.weight_ih_l0_reverse` becomes
    `lstm.backward.weight_ih_l0`."""
    module, _, parameter = name.rpartition(".")
    if "_l0" not in parameter:
        return name
    direction = "backward" if parameter.endswith("_reverse") else "onward"
    return f"{module}.{direction}.{parameter.removesuffix('_reverse')}"


def _channels_last(name: str, tensor: Tensor) -> Tensor:
    """Convolutions (out, in, kernel) get a dimension of height 1; the alphas (1, channels, 1) become channels last."""
    if tensor.ndim != 3:
        return tensor
    if name.endswith(".weight"):
        return tensor.unsqueeze(2).contiguous(memory_format=torch.channels_last)
    return tensor.transpose(1, 2).contiguous()


def _without_effect(name: str) -> bool:
    parts = name.split(".")
    return "pooler" in parts or parts[-2] == "norm"
