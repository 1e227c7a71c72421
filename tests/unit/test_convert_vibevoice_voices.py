"""The published voices of VibeVoice-Realtime become safetensors, and nothing in them is run."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from deployments.engines.vibevoice_realtime.config import config_of
from deployments.engines.vibevoice_realtime.voices import PromptVoices, voice_of
from deployments.errors import MotetError
from deployments.weights.convert_vibevoice_voices import convert, converted, main
from tests.unit.vibevoice_realtime_models import CONFIG

transformers = pytest.importorskip("transformers")
LAYERS = {"lm": 2, "tts_lm": 3, "neg_lm": 2, "neg_tts_lm": 3}
POSITIONS = {"lm": 5, "tts_lm": 8, "neg_lm": 1, "neg_tts_lm": 1}


class Output:
    """Is pickled as an output of transformers 4.51: made of its fields, which come again as items and attributes."""

    def __init__(self, last_hidden_state: torch.Tensor, past_key_values: Any) -> None:
        self.last_hidden_state, self.past_key_values = last_hidden_state, past_key_values

    def __reduce__(self) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPast

        items = vars(self)
        attributes = {**items, "hidden_states": None, "attentions": None}
        return BaseModelOutputWithPast, (*items.values(), None, None), attributes, None, iter(items.items())


def published(seed: int = 0) -> dict[str, Any]:
    """The content of a published file: outputs with a cache as transformers 4.51 had it, whose tensors are views of others."""
    from transformers.cache_utils import DynamicCache

    random = torch.Generator().manual_seed(seed)
    outputs = {}
    for name, layers in LAYERS.items():
        count, cache = POSITIONS[name], DynamicCache.__new__(DynamicCache)
        keys, values = (
            [torch.randn(1, count, 2, 16, generator=random).to(torch.bfloat16).transpose(1, 2) for _ in range(layers)]
            for _ in range(2)
        )
        vars(cache).update(_seen_tokens=count, key_cache=keys, value_cache=values)
        hidden = torch.randn(1, count, 64, generator=random).to(torch.bfloat16)
        outputs[name] = Output(hidden, cache)
    return outputs


def write(file: Path, content: object) -> Path:
    torch.save(content, file)
    return file


def test_the_engine_reads_what_is_written(tmp_path: Path) -> None:
    outputs = published()
    write(tmp_path / "en-Ada_woman.pt", outputs)
    write(tmp_path / "ben.pt", published(1))
    assert [file.name for file in convert(tmp_path, tmp_path / "voices")] == [
        "ben.safetensors",
        "en-Ada_woman.safetensors",
    ]
    voices = PromptVoices(tmp_path, config_of(CONFIG), most=2, device="cpu")
    voice = voices.get("en-Ada_woman")
    assert (len(voice.lower), len(voice.upper), len(voice.free)) == (5, 8, 1)
    upper = outputs["tts_lm"].past_key_values
    for layer in range(3):
        assert torch.equal(voice.upper.keys[layer], upper.key_cache[layer][0])
        assert torch.equal(voice.upper.values[layer], upper.value_cache[layer][0])
    assert torch.equal(voice.hidden, outputs["neg_tts_lm"].last_hidden_state[0, -1].float())


def test_mlx_audio_reads_it_too(tmp_path: Path) -> None:
    pytest.importorskip("mlx_audio")
    from mlx_audio.tts.models.vibevoice.config import ModelConfig
    from mlx_audio.tts.models.vibevoice.vibevoice import Model

    write(tmp_path / "ada.pt", published())
    convert(tmp_path, tmp_path / "voices")
    model = Model(ModelConfig.from_dict({**CONFIG, "model_path": str(tmp_path)}))
    model.load_voice("ada")
    assert model._voice_tts_cache[2][0].shape == (1, 8, 2, 16)


class Poison:
    """A pickle that makes a folder when it is read."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)

    def __reduce__(self) -> Any:
        return os.mkdir, (self._folder,)


@pytest.mark.parametrize("where", ["whole", "part"])
def test_a_file_with_code_is_refused_and_not_run(where: str, tmp_path: Path) -> None:
    poison: object = Poison(tmp_path / "made")
    file = write(tmp_path / "bad.pt", poison if where == "whole" else published() | {"lm": poison})
    with pytest.raises(MotetError, match=r"bad\.pt is not a voice of VibeVoice-Realtime"):
        converted(file)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [{}, {"lm": torch.zeros(1)}, torch.zeros(3)])
def test_another_file_of_tensors_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(MotetError, match="is not a voice"):
        converted(write(tmp_path / "other.pt", content))


def test_the_command_says_what_it_wrote_and_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), str(tmp_path / "voices")]) == 1
    assert "contains no .pt file" in capsys.readouterr().err
    write(tmp_path / "ada.pt", published())
    assert main([str(tmp_path), str(tmp_path / "voices")]) == 0
    written = tmp_path / "voices" / "ada.safetensors"
    assert capsys.readouterr().out == f"{written}\n"
    assert len(voice_of(load_file(written), config_of(CONFIG)).upper) == 8
