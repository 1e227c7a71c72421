"""IndexTTS's own package for comparison, and folders of seeded random weights for it and for our engine.

The package imports librosa for reading files and mel filters, and OmegaConf for its configuration. Where they are missing,
stand-ins do what it needs of them.
"""

from __future__ import annotations

import base64
import copy
import importlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from deployments.audio.decode import decode_all
from deployments.engines.indextts import package_networks
from deployments.engines.indextts.config import VOCODER, IndexDecoderConfig, as_attributes, read
from deployments.engines.indextts.decoder import FILLER
from deployments.engines.indextts.text import VOCABULARY

Shape = Mapping[str, Any]

FULL: Shape = {
    "gpt": {
        "model_dim": 1280,
        "layers": 24,
        "heads": 20,
        "max_mel_tokens": 1815,
        "max_text_tokens": 600,
        "number_text_tokens": 60509,
        "number_mel_codes": 8194,
        "start_mel_token": 8192,
        "stop_mel_token": 8193,
        "start_text_token": 0,
        "stop_text_token": 1,
        "emo_condition_module": {
            "output_size": 512,
            "linear_units": 1024,
            "attention_heads": 4,
            "num_blocks": 4,
            "input_layer": "conv2d2",
            "perceiver_mult": 2,
        },
    },
    "semantic_codec": {
        "codebook_size": 8192,
        "hidden_size": 1024,
        "codebook_dim": 8,
        "vocos_dim": 384,
        "vocos_intermediate_dim": 2048,
        "vocos_num_layers": 12,
    },
    "s2mel": {
        "preprocess_params": {
            "sr": 22050,
            "spect_params": {
                "n_fft": 1024,
                "win_length": 1024,
                "hop_length": 256,
                "n_mels": 80,
                "fmin": 0,
                "fmax": "None",
            },
        },
        "dit_type": "DiT",
        "style_encoder": {"dim": package_networks.STYLE_SIZE},
        "length_regulator": {
            "channels": 512,
            "in_channels": 1024,
            "content_codebook_size": 2048,
            "sampling_ratios": [1, 1, 1, 1],
        },
        "DiT": {
            "hidden_dim": 512,
            "num_heads": 8,
            "depth": 13,
            "class_dropout_prob": 0.1,
            "in_channels": 80,
            "style_condition": True,
            "final_layer_type": "wavenet",
            "content_dim": 512,
            "content_codebook_size": 1024,
            "content_type": "discrete",
            "is_causal": False,
            "long_skip_connection": True,
            "time_as_token": False,
            "style_as_token": False,
            "uvit_skip_connection": True,
        },
        "wavenet": {
            "hidden_dim": 512,
            "num_layers": 8,
            "kernel_size": 5,
            "dilation_rate": 1,
            "p_dropout": 0.2,
            "style_condition": True,
        },
    },
    "bigvgan": dict(VOCODER),
    "w2v_bert": {"num_hidden_layers": package_networks.HEARD_LAYERS},
    "emo_num": [3, 17, 2, 8, 4, 5, 10, 24],
}
"""The published model's shape."""


def merged(shape: Shape, changes: Shape) -> dict[str, Any]:
    """A shape with some values changed, at any depth."""
    result = dict(copy.deepcopy(shape))
    for name, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(result.get(name), Mapping)
        result[name] = merged(result[name], value) if nested else value
    return result


def random_decoder(config: IndexDecoderConfig, seed: int = 0) -> dict[str, Tensor]:
    """The weights of a language model over codes, without what makes its prompts. They are drawn so that every layer says
    something and no code is always the likeliest."""
    random = torch.Generator().manual_seed(seed)
    dim, codes = config.model_dim, config.number_mel_codes

    def drawn(*shape: int, size: float) -> Tensor:
        return torch.empty(shape).uniform_(-size, size, generator=random)

    weights = {
        "mel_embedding.weight": drawn(codes, dim, size=1.0),
        "mel_pos_embedding.emb.weight": drawn(config.max_mel_tokens + 3, dim, size=0.5),
        "mel_head.weight": drawn(codes, dim, size=4 * dim**-0.5),
        "mel_head.bias": torch.zeros(codes),
    }
    for name in ("gpt.ln_f", "final_norm", *(f"gpt.h.{n}.ln_{k}" for n in range(config.layers) for k in (1, 2))):
        weights |= {f"{name}.weight": torch.ones(dim), f"{name}.bias": torch.zeros(dim)}
    sizes = {
        "attn.c_attn": (dim, 3 * dim),
        "attn.c_proj": (dim, dim),
        "mlp.c_fc": (dim, 4 * dim),
        "mlp.c_proj": (4 * dim, dim),
    }
    for number in range(config.layers):
        for name, (inputs, outputs) in sizes.items():
            weights[f"gpt.h.{number}.{name}.weight"] = drawn(inputs, outputs, size=(3 / inputs) ** 0.5)
            weights[f"gpt.h.{number}.{name}.bias"] = torch.zeros(outputs)
    return weights


def write_random_model(folder: Path, shape: Shape, *, seed: int = 0, hears: bool = True, text: str = "") -> None:
    """Writes a model of the given shape with seeded random weights, and no voices. One that does not hear clips needs voices
    that were heard before. A word of `text` is a token, and a byte of any other."""
    from indextts25.codec.models import EnhancedCodec
    from indextts25.gpt.model_v2 import UnifiedVoice
    from indextts25.s2mel.modules.bigvgan.bigvgan import BigVGAN
    from indextts25.s2mel.modules.bigvgan.env import AttrDict
    from indextts25.s2mel.modules.campplus.DTDNN import CAMPPlus
    from indextts25.s2mel.modules.commons import MyModel
    from transformers import Wav2Vec2BertConfig, Wav2Vec2BertModel

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape))
    (folder / f"{VOCABULARY}.tiktoken").write_bytes(_vocabulary(text))
    torch.manual_seed(seed)
    networks: dict[str, nn.Module] = {
        "codec": EnhancedCodec(**shape["semantic_codec"]),
        "s2mel": MyModel(as_attributes(shape["s2mel"])).models,
        "vocoder": BigVGAN(AttrDict(shape["bigvgan"])),
    }
    if hears:
        networks["speaker"] = CAMPPlus(feat_dim=80, embedding_size=package_networks.STYLE_SIZE)
        networks["semantic"] = Wav2Vec2BertModel(Wav2Vec2BertConfig(**shape["w2v_bert"]))
    for name, network in networks.items():
        _save(folder / f"{name}.safetensors", network.state_dict())
    front = UnifiedVoice(**{**shape["gpt"], "layers": 0})
    _save(folder / "gpt.safetensors", front.state_dict() | random_decoder(read(folder).decoder, seed))
    examples = sum(shape["emo_num"])
    statistics = {
        "mean": torch.randn(1024) * 0.1,
        "var": torch.rand(1024) + 0.5,
        "emotions": torch.randn(examples, shape["gpt"]["model_dim"]),
        "speakers": torch.randn(examples, package_networks.STYLE_SIZE),
    }
    _save(folder / "statistics.safetensors", statistics)


def _save(file: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)


def _vocabulary(text: str) -> bytes:
    """Every byte a token, and the beginnings of words. The first two stand for the marks of begin and end, as in the one that
    is published."""
    order = dict.fromkeys([b"!", b'"', *(bytes([byte]) for byte in range(256))])
    for word in text.lower().split():
        order |= dict.fromkeys(f" {word[:end]}".encode() for end in range(1, len(word) + 1))
    return b"".join(base64.b64encode(token) + f" {rank}\n".encode() for rank, token in enumerate(order))


def package_decoder(shape: Shape, weights: Mapping[str, Tensor]) -> Any:
    """The package's language model with these weights, ready for its `inference_speech`. It takes the tensors themselves."""
    from indextts25.gpt.model_v2 import UnifiedVoice

    with torch.device("meta"):
        model = UnifiedVoice(**shape["gpt"])
    with torch.random.fork_rng():
        front = UnifiedVoice(**{**shape["gpt"], "layers": 0})
    everything = {**front.state_dict(), **weights}
    model.load_state_dict(everything, assign=True)
    # Tensors that are not weights stay on the meta device: a table of positions in the network that hears emotions.
    front.load_state_dict({name: everything[name] for name in front.state_dict()}, assign=True)
    model.emo_conditioning_encoder = front.emo_conditioning_encoder
    model.eval().requires_grad_(requires_grad=False)
    model.post_init_gpt2_config()
    return model


def generate(model: Any, prompt: Tensor, most: int, **options: Any) -> list[int]:
    """At most so many codes of the package's language model after a prompt (n, dim), with its usual penalty for repetitions.

    `options` are transformers' `generate`'s.
    """
    filler = torch.full((1, len(prompt) + 1), FILLER)
    filler[0, -1] = model.start_mel_token
    model.inference_model.store_mel_emb(prompt[None])
    said = model.inference_model.generate(
        filler,
        bos_token_id=model.start_mel_token,
        pad_token_id=model.stop_mel_token,
        eos_token_id=model.stop_mel_token,
        attention_mask=torch.ones_like(filler),
        max_new_tokens=most,
        repetition_penalty=10.0,
        **options,
    )
    codes: list[int] = said[0, filler.shape[1] :].tolist()
    return codes


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Provides the parts of missing libraries that the package imports. After the context, importing the libraries fails
    again."""
    made: dict[str, ModuleType] = {}
    if importlib.util.find_spec("librosa") is None:
        librosa, filters = ModuleType("librosa"), ModuleType("librosa.filters")
        librosa.load, filters.mel = _load, _mel_filters  # type: ignore[attr-defined]
        librosa.filters = filters  # type: ignore[attr-defined]
        made |= {"librosa": librosa, "librosa.filters": filters}
    if importlib.util.find_spec("omegaconf") is None:
        made["omegaconf"] = ModuleType("omegaconf")
        made["omegaconf"].OmegaConf = None  # type: ignore[attr-defined]
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in made:
            del sys.modules[name]


def _load(path: str, sr: int = 22050) -> tuple[Any, int]:
    return decode_all(Path(path).read_bytes(), sr, mono=True, max_seconds=60)[0], sr


def _mel_filters(*, sr: int, n_fft: int, n_mels: int, fmin: float, fmax: float | None) -> Any:
    from transformers.audio_utils import mel_filter_bank

    high = sr / 2 if fmax is None else fmax
    return mel_filter_bank(n_fft // 2 + 1, n_mels, float(fmin), high, sr, norm="slaney", mel_scale="slaney").T


class _SeventeenthLayer(nn.Module):
    """w2v-BERT of any depth, where the package looks for the output of its seventeenth layer."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, **given: Any) -> Any:
        """Its last output, under that number."""
        return SimpleNamespace(hidden_states={package_networks.HEARD_LAYERS: self.network(**given).hidden_states[-1]})


def package_of(folder: Path) -> Any:
    """The package's whole engine with the weights of a folder of ours. Raises ImportError when it is not installed."""
    from safetensors.torch import load_file
    from transformers import SeamlessM4TFeatureExtractor

    with _stand_ins():
        module: Any = importlib.import_module("indextts25.infer_v2_5")
    config = read(folder)
    shape = json.loads((folder / "config.json").read_text())
    tensors = {
        name: package_networks.weights_of(folder, name, "cpu")
        for name in ("gpt", "codec", "s2mel", "vocoder", "speaker", "semantic")
    }
    tables = load_file(folder / "statistics.safetensors")
    engine = module.IndexTTS2.__new__(module.IndexTTS2)
    engine.device, engine.dtype, engine.use_bf16 = "cpu", None, False
    engine.cfg, engine.stop_mel_token = as_attributes(shape), config.decoder.stop_mel_token
    engine._spk_cache, engine._emo_cache, engine._emovec_cache = {}, {}, {}
    engine.gpt = package_decoder(shape, tensors["gpt"])
    engine.semantic_codec = package_networks.codec_of(config, tensors["codec"])
    regulator, estimator = package_networks.mel_networks_of(config, tensors["s2mel"])
    flow = SimpleNamespace(inference=None)
    engine.s2mel = SimpleNamespace(models={"length_regulator": regulator, "cfm": flow})
    flow.inference = _solver_of(estimator)
    engine.bigvgan = package_networks.vocoder_of(config, tensors["vocoder"])
    engine.campplus_model = package_networks.speaker_of(tensors["speaker"])
    engine.semantic_model = _SeventeenthLayer(package_networks.semantic_of(config, tensors["semantic"]))
    engine.extract_features = SeamlessM4TFeatureExtractor()
    engine.semantic_mean, engine.semantic_std = tables["mean"], tables["var"].sqrt()
    engine.emo_num = list(config.emotions)
    engine.emo_matrix, engine.spk_matrix = (tables[name].split(engine.emo_num) for name in ("emotions", "speakers"))
    engine.tokenizer = module.get_encoding(VOCABULARY, model_dir=str(folder))
    engine.text_process = module.TextNormalizer()
    spectrum = module.mel_spectrogram
    settings = config.s2mel["preprocess_params"]["spect_params"]
    engine.mel_fn = lambda wav: spectrum(
        wav,
        n_fft=settings["n_fft"],
        num_mels=settings["n_mels"],
        sampling_rate=config.sample_rate,
        hop_size=settings["hop_length"],
        win_size=settings["win_length"],
        fmin=settings["fmin"],
        fmax=None,
    )
    return engine


def _solver_of(estimator: nn.Module) -> Any:
    """The package's own solver over a network that is loaded already."""
    from indextts25.s2mel.modules.flow_matching import CFM

    solver = CFM.__new__(CFM)
    nn.Module.__init__(solver)
    solver.in_channels, solver.estimator = 80, estimator
    return solver.inference
