"""Writes `golden/qwen3_tts_package.npz`: codes and audio of the package `qwen-tts-hf` on the tiny weights, with greedy codes.

Run it after a change of the tiny weights, in an environment with transformers 5.15.1 (the package fails with 5.24) and the package
without its dependencies:
`pip install --no-deps qwen-tts-hf==0.1.1.post1`, then `python -m tests.unit.qwen3_tts_reference`. Its libraries for other codecs
and for reading clips are not needed, so they may be absent.
"""

from __future__ import annotations

import sys
import tempfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import torch
import transformers

from tests.unit import qwen3_tts_models as tiny
from tests.unit.speech_engine_properties import GOLDEN

UNUSED = (
    "einops",
    "librosa",
    "librosa.filters",
    "onnxruntime",
    "sox",
    "soundfile",
    "torchaudio",
    "torchaudio.compliance",
    "torchaudio.compliance.kaldi",
)
TEXTS = ("Yes.", "It is a quarter past nine.", "One, two, three.")
REQUESTS = (("anna", "auto", ""), ("anna", "english", ""), ("ben", "chinese", ""), ("anna", "english", "Happily!"))
"""Speaker, language and instructions of each text; the first text is spoken twice."""
FRAMES = 20


def cases() -> list[tuple[str, str, str, str]]:
    """Text, speaker, language and instructions."""
    return [(TEXTS[number % len(TEXTS)], *request) for number, request in enumerate(REQUESTS)]


def main() -> None:
    transformers.AutoModel  # noqa: B018 (it looks for the same libraries when it is first used)
    for name in UNUSED:
        sys.modules[name] = MagicMock(__spec__=ModuleSpec(name, None))
    arrays: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = tiny.write_tiny(Path(folder) / "tiny")
        for number, case in enumerate(cases()):
            codes, samples = spoken(place, *case)
            arrays |= {f"codes_{number}": codes, f"samples_{number}": samples}
    np.savez_compressed(GOLDEN / "qwen3_tts_package.npz", **arrays)


@torch.no_grad()
def spoken(folder: Path, text: str, speaker: str, language: str, instructions: str) -> tuple[Any, Any]:
    """The codes (frames, groups) and the audio of a text that the package generates."""
    from deployments.engines.qwen3_tts.prompt import read_tokenizer

    tokenizer = read_tokenizer(folder)

    def ids(*parts: str | int) -> torch.Tensor:
        tokens: list[int] = []
        for part in parts:
            tokens += [part] if isinstance(part, int) else tokenizer.encode(part, add_special_tokens=False).ids
        return torch.tensor([tokens])

    begin, end = tiny.TURN_BEGIN, tiny.TURN_END
    turn = ids(begin, "assistant\n", text, end, "\n", begin, "assistant\n")
    manner = ids(begin, f"user\n{instructions}", end, "\n") if instructions else None
    codes, _ = _model().generate(
        [turn], [manner], languages=[language], speakers=[speaker], non_streaming_mode=True, max_new_tokens=FRAMES + 1,
        do_sample=False, subtalker_dosample=False,
    )  # fmt: skip
    sound = _codec()(codes[0].T[None])[0, 0]
    return codes[0].numpy(), sound.numpy()


def _model() -> Any:
    from qwen_tts.core.models import Qwen3TTSConfig, Qwen3TTSForConditionalGeneration

    model = Qwen3TTSForConditionalGeneration(Qwen3TTSConfig(**tiny.MODEL)).eval()
    model.load_state_dict(tiny.model_weights(7))
    return model


def _codec() -> Any:
    from qwen_tts.core.tokenizer_12hz.configuration_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2DecoderConfig
    from qwen_tts.core.tokenizer_12hz.modeling_qwen3_tts_tokenizer_v2 import Qwen3TTSTokenizerV2Decoder

    codec = Qwen3TTSTokenizerV2Decoder(Qwen3TTSTokenizerV2DecoderConfig(**tiny.DECODER)).eval()
    codec.load_state_dict({name.removeprefix("decoder."): value for name, value in tiny.codec_weights(7).items()})
    return codec


if __name__ == "__main__":
    main()
