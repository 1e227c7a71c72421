"""IndexTTS: the shared properties in float32 and int8, and the same speech as the model's own package."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deployments.engines import registry
from deployments.engines.indextts import emotions
from deployments.engines.indextts.acoustic import (
    VOCODED,
    AcousticInput,
    AcousticNetworks,
    PieceSynthesis,
    frames_of,
    reach_of,
)
from deployments.engines.indextts.config import VOCODER
from deployments.engines.lm.runaway import RunawayLimits
from deployments.engines.lm.sampler import choose
from deployments.engines.protocols import EngineSpec, Samples, SpeechRequest, VoiceReference
from deployments.errors import MotetError
from tests.load import indextts_package
from tests.unit.cloning_engine_properties import PIECES, CloningEngineProperties, clip
from tests.unit.forced_path import ForcedPath
from tests.unit.indextts_models import RATE, write_tiny
from tests.unit.speech_engine_properties import (
    Int8Properties,
    good,
    joined,
    speak,
    write_golden,
)

if TYPE_CHECKING:
    from deployments.engines.indextts.engine import IndexEngine


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("indextts25")
    return write_tiny(tmp_path_factory.mktemp("indextts") / "tiny")


def loaded(folder: Path, **options: object) -> IndexEngine:
    spec = EngineSpec("indextts", str(folder), "cpu", 1, {"solver_steps": 2, "kernels": "default"} | options)
    engine: IndexEngine = registry.load("indextts", spec)
    return engine


@pytest.fixture(scope="module")
def float32(folder: Path) -> IndexEngine:
    return loaded(folder)


@pytest.fixture(scope="module")
def int8(folder: Path) -> IndexEngine:
    return loaded(folder, precision="int8")


class Followed:
    """How IndexTTS is held to a path: every code, which its random number tells from all others."""

    @contextmanager
    def following(self, engine: Any, path: ForcedPath) -> Iterator[None]:
        def followed(logits: Tensor, draws: Tensor, sampling: Any) -> Tensor:
            return path.follow(draws, choose(logits, draws, sampling), logits)

        with pytest.MonkeyPatch.context() as context:
            context.setattr("deployments.engines.indextts.engine.choose", followed)
            yield


class TestFloat32(Followed, CloningEngineProperties):
    golden_name = "indextts"
    tolerance, golden_tolerance, score_tolerance = 1e-5, 4e-4, 1e-4

    @pytest.fixture
    def engine(self, float32: IndexEngine) -> IndexEngine:
        return float32

    @pytest.fixture
    def small(self, folder: Path) -> IndexEngine:
        return loaded(folder, slots=2, voices_kept=1)


class TestInt8(Followed, Int8Properties):
    golden_name = "indextts_int8"
    error, score_error = 1e-4, 0.065  # what makes sound is float32 in both; of scores 0.044 were measured

    @pytest.fixture
    def engine(self, int8: IndexEngine) -> IndexEngine:
        return int8

    @pytest.fixture
    def exact(self, float32: IndexEngine) -> IndexEngine:
        return float32


def spoken_rows(engine: IndexEngine) -> list[AcousticInput]:
    """Lengths that differ by one frame and by many, and clips that do."""
    random = np.random.default_rng(0)
    rows = []
    for voice, length in (("ada", 11), ("ben", 12), ("ben", 30), ("ada", 3)):
        known, _ = engine.voice_of(SpeechRequest(("Yes.",), voice))
        noise = torch.tensor(random.standard_normal((80, frames_of(length, 1.0)), dtype=np.float32))
        codes = torch.tensor(random.integers(0, 64, length))
        rows.append(AcousticInput(codes, known.condition, known.mel, known.style, noise))
    return rows


def sounds_of(sound: AcousticNetworks, rows: Sequence[AcousticInput], most_frames: int) -> list[Samples]:
    """Step by step, as the engine does it."""
    syntheses = sound.begin(rows)
    heard: list[list[Samples]] = [[] for _ in rows]
    while any(not synthesis.finished for synthesis in syntheses):
        for parts, part in zip(heard, sound.advance(syntheses, most_frames), strict=True):
            parts.append(part)
    return [np.concatenate(parts) for parts in heard]


@pytest.mark.parametrize("most_frames", [1, 300, 100_000])
def test_rows_of_different_lengths_sound_as_they_do_alone(float32: IndexEngine, most_frames: int) -> None:
    """Every network's batch, whether a row is a part of a step, a step, or all rows are one."""
    sound, rows = float32.networks.sound, spoken_rows(float32)
    with torch.no_grad():
        together = sounds_of(sound, rows, most_frames)
        for row, heard in zip(rows, together, strict=True):
            assert len(heard) == row.noise.shape[-1] * 256
            (alone,) = sounds_of(sound, [row], 100_000)
            np.testing.assert_allclose(heard, alone, rtol=0, atol=1e-5)


def test_a_row_that_comes_later_is_at_its_own_time(float32: IndexEngine) -> None:
    sound, rows = float32.networks.sound, spoken_rows(float32)[:2]
    with torch.no_grad():
        first, second = sound.begin(rows)
        sound.advance([first], 1)
        assert (first.solved, second.solved) == (1, 0)
        sound.advance([first, second], 2 * max(len(row.condition) for row in (first, second)))
        assert (first.solved, second.solved) == (2, 1)
        sound.advance([first, second], 100_000)
        for row, synthesis in zip(rows, (first, second), strict=True):
            (alone,) = sound.begin([row])
            sound.advance([alone], 100_000)
            torch.testing.assert_close(synthesis.mel, alone.mel, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("most_frames", "together"), [(100_000, 4), (800, 3), (300, 2), (1, 1)])
def test_a_step_takes_no_more_frames_through_the_networks_than_it_may(
    float32: IndexEngine, monkeypatch: pytest.MonkeyPatch, most_frames: int, together: int
) -> None:
    """Padding and clips count; one row of one solver's step is always made, and a stretch of the vocoder's."""
    sound, passed = float32.networks.sound, {"solved": list[tuple[int, int]](), "vocoded": list[tuple[int, int]]()}
    euler, sounds = sound._take_euler_steps, sound._sounds

    def counting_steps(rows: Sequence[PieceSynthesis], steps: int) -> None:
        passed["solved"].append((len(rows), steps * len(rows) * max(len(row.condition) for row in rows)))
        euler(rows, steps)

    def counting_frames(mels: Sequence[Tensor]) -> list[Samples]:
        if mels:
            passed["vocoded"].append((len(mels), len(mels) * max(mel.shape[-1] for mel in mels)))
        return sounds(mels)

    monkeypatch.setattr(sound, "_take_euler_steps", counting_steps)
    monkeypatch.setattr(sound, "_sounds", counting_frames)
    syntheses, rows = sound.begin(spoken_rows(float32)), list[int]()
    longest = max(len(row.condition) for row in syntheses)
    while any(not row.finished for row in syntheses):
        sound.advance(syntheses, most_frames)
        rows += [count for count, _ in passed["solved"]]
        assert sum(frames for _, frames in passed["solved"]) <= max(most_frames, longest)
        assert sum(frames for _, frames in passed["vocoded"]) <= max(most_frames // VOCODED, 3 * sound._reach)
        passed["solved"].clear()
        passed["vocoded"].clear()
    assert max(rows) == together


def test_a_vocoder_of_the_published_shape_hears_no_further_than_its_reach() -> None:
    pytest.importorskip("indextts25")
    from indextts25.s2mel.modules.bigvgan.bigvgan import BigVGAN
    from indextts25.s2mel.modules.bigvgan.env import AttrDict

    reach = reach_of(VOCODER)
    torch.manual_seed(0)
    network = BigVGAN(AttrDict({**VOCODER, "upsample_initial_channel": 64})).double()
    for weight in (parameter for parameter in network.parameters() if parameter.ndim == 3):
        torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
    mel = torch.randn(1, 80, 3 * reach, dtype=torch.float64)
    changed = torch.cat([mel[..., : 2 * reach], torch.randn(1, 80, reach, dtype=torch.float64)], dim=-1)
    with torch.no_grad():
        heard = (network(mel) - network(changed))[0, 0].abs()
    assert heard[: reach * 256].max() == 0
    assert heard[: int(1.5 * reach) * 256].max() > 0


def test_those_who_draw_codes_do_not_wait_for_all_the_sound_of_others(folder: Path) -> None:
    engine = loaded(folder, step_frames=512, solver_steps=20)
    utterances = [engine.open(SpeechRequest((PIECES[3],), "ben", seed=4)) for _ in range(3)]
    while not any(utterance.piece and utterance.piece.ended for utterance in utterances):
        engine.step(utterances)
    newcomer = engine.open(SpeechRequest((PIECES[2],), "ada", seed=1))
    assert good(engine.step([*utterances, newcomer])[3]).tokens > 0
    assert not any(utterance.finished for utterance in utterances)
    for utterance in (*utterances, newcomer):
        engine.close(utterance)


def test_a_step_without_an_end_is_pending_and_an_end_brings_text_and_tokens(float32: IndexEngine) -> None:
    utterance = float32.open(SpeechRequest((PIECES[3], "Yes."), "ben", seed=4))
    chunks = []
    while not utterance.finished:
        chunks.append(good(float32.step([utterance])[0]))
    heard = [chunk for chunk in chunks if not chunk.pending]
    assert chunks[0].pending
    assert list(dict.fromkeys(chunk.text for chunk in heard)) == [PIECES[3], "Yes."]
    tokens = sum(chunk.tokens for chunk in chunks if chunk.index == 0)
    assert len(joined([chunk for chunk in heard if chunk.index == 0])) == int(2 * tokens * 1.72) * 256


def test_pieces_after_the_first_begin_with_a_pause(folder: Path) -> None:
    silent, plain = (loaded(folder, pause_ms=pause) for pause in (100, 0))
    paused, said = (speak(engine, SpeechRequest(("Yes.", "No."), "ben")) for engine in (silent, plain))
    np.testing.assert_array_equal(paused[0].samples, said[0].samples)
    np.testing.assert_array_equal(paused[1].samples, np.concatenate([np.zeros(2205, np.float32), said[1].samples]))


def test_speed_is_the_models_own(float32: IndexEngine) -> None:
    slow, usual = (joined(speak(float32, SpeechRequest(("Yes.",), "ben", speed=speed))) for speed in (0.5, 1.0))
    assert len(slow) == pytest.approx(2 * len(usual), abs=256)


def test_what_does_not_end_is_stopped_and_says_so(folder: Path) -> None:
    limits = RunawayLimits(most_seconds_besides=0.2, most_seconds_per_character=0.01)
    chunks = speak(loaded(folder, runaway=asdict(limits)), SpeechRequest((PIECES[3],), "ben", seed=4))
    assert [chunk.finish_reason for chunk in chunks] == ["length"]


def test_instructions_name_emotions(float32: IndexEngine) -> None:
    usual, sad, sadder, neither, ignored = (
        joined(speak(float32, SpeechRequest(("Yes.",), "ben", instructions=words)))
        for words in ("", "sad 0.4", "Speak in a sad tone: sad 0.7", "not sad", "like a pirate")
    )
    assert float32.traits.follows("A SAD tone") and not float32.traits.follows("Speak warmly, unhappily.")
    assert not np.array_equal(usual, sad) and not np.array_equal(sad, sadder)
    np.testing.assert_array_equal(usual, neither)
    np.testing.assert_array_equal(usual, ignored)


def test_the_emotion_of_the_options_is_for_requests_that_name_none(folder: Path, float32: IndexEngine) -> None:
    def said(engine: IndexEngine, words: str) -> Samples:
        return joined(speak(engine, SpeechRequest(("Yes.",), "ben", instructions=words)))

    engine = loaded(folder, emotion="sad 0.4")
    for words in ("", "Speak warmly, please."):
        np.testing.assert_array_equal(said(engine, words), said(float32, "sad 0.4"))
    np.testing.assert_array_equal(said(engine, "not sad"), said(float32, ""))
    np.testing.assert_array_equal(said(engine, "calm"), said(float32, "calm"))
    with pytest.raises(MotetError, match="emotion: .*one of happy, angry"):
        loaded(folder, emotion="cheerful")


@pytest.mark.parametrize(
    ("words", "strengths"),
    [
        ("Happy", {"happy": 0.6}),
        ("sad: 0.4, calm=.2", {"sad": 0.4, "calm": 0.2}),
        ("sad 0,3 calm 20 %", {"sad": 0.3, "calm": 0.2}),
        ("happy, calm", {"happy": 0.4, "calm": 0.4}),
        ("sad 3, calm 1", {"sad": 0.4, "calm": 0.4}),
        ("sad 0.9 angry 0.3", {"sad": 0.6, "angry": 0.2}),
        (f"angry {'9' * 400}", {"angry": 0.8}),
        ("sad -0.4, calm 0.2", {"calm": 0.2}),
        ("sad -0.4", {}),
        ("sad 0.2, then sad 0.5", {"sad": 0.5}),
        ("not angry", {}),
        ("Don't sound too angry or sad. Sound calm 0.3!", {"calm": 0.3}),
        ("Never afraid, without being sad, isn’t angry; calm", {"calm": 0.6}),
        ("not sad but happy, neither calm nor surprised", {"happy": 0.6}),
        ("not angry 0.4 and calm 0.2", {"calm": 0.2}),
        ("", None),
        ("Speak warmly, please, not unhappily.", None),
    ],
)
def test_emotions_are_read_from_words(words: str, strengths: dict[str, float] | None) -> None:
    read = emotions.parse(words)
    assert (read is None) == (strengths is None)
    if read is not None and strengths is not None:
        assert read == pytest.approx([strengths.get(name, 0.0) for name in emotions.NAMES])


def test_steps_cost_as_much_as_the_piece_is_long(float32: IndexEngine) -> None:
    """Those as long as each other share a batch."""
    request = SpeechRequest(("Yes.", "Where to?"), "ben")
    assert float32.first_cost(request) == 4.0
    utterance = float32.open(request)
    assert float32.cost(utterance) == 4.0
    utterance.position = 1
    assert float32.cost(utterance) == 9.0


def test_a_clip_that_is_too_short_is_refused(float32: IndexEngine) -> None:
    with pytest.raises(MotetError, match="5 to 15 s"):
        float32.open(SpeechRequest(("Yes.",), "short", reference=VoiceReference("short", clip(0.4), RATE)))


def test_a_folder_that_hears_nothing_speaks_with_the_voices_that_were_heard(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.stem not in ("speaker", "semantic"):
            (tmp_path / file.name).symlink_to(file)
    engine = loaded(tmp_path)
    assert not engine.traits.clones
    assert {voice.id.partition(".")[0] for voice in engine.traits.voices} == {"ben"}
    assert len(joined(speak(engine, SpeechRequest(("Yes.",), "ben")))) > 1000
    with pytest.raises(MotetError, match="has no networks"):
        engine.open(SpeechRequest(("Yes.",), "x", reference=VoiceReference("x", clip(2.0), RATE)))


def test_a_missing_file_is_named(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        if file.stem != "vocoder":
            (tmp_path / file.name).symlink_to(file)
    with pytest.raises(MotetError, match=r"vocoder\.safetensors"):
        loaded(tmp_path)


def test_languages_are_written_each_in_its_way(float32: IndexEngine) -> None:
    reader = float32._reader
    assert reader.written("He said: “Go”; now!", "en") == "he said, 'go', now!"
    assert reader.written("¿Qué? Sí.", "es") == "¿QUÉ? SÍ."
    english, spanish = (reader.encode("Si.", language)[0] for language in ("en", "es"))
    assert english != spanish
    # What looks like the model's own marks is text.
    assert len(reader.encode("<|en|>", "en")) > 2
    with pytest.raises(MotetError, match="tokens"):
        reader.encode("a" * 200, "en")


def test_numbers_are_written_out_where_a_normaliser_is_installed(
    float32: IndexEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Normalizer:
        def __init__(self, *, input_case: str, lang: str) -> None:
            self.lang = lang

        def normalize(self, text: str, *, verbose: bool) -> str:
            return text.replace("14:30", f"half past two ({self.lang})")

    reader = float32._reader
    monkeypatch.setattr(reader._marks, "load", lambda: False)
    monkeypatch.setitem(reader.__dict__, "_nemo_class", Normalizer)
    assert reader.written("At 14:30.", "en") == "at half past two 'en'."


@pytest.fixture(scope="module")
def package(folder: Path) -> Any:
    package = indextts_package.package_of(folder)
    # The package hears a clip's emotion from another resampling of it.
    package._emotion_conditioning = lambda path, key, verbose=False: package._spk_cache[key][0]
    return package


class TestLikeThePackage:
    """The package's whole engine on the same weights, clip and noise, taking the likeliest code and one beam."""

    @pytest.mark.parametrize(("text", "speed"), [(PIECES[1], 1.0), ("One, two; three: four!", 0.8)])
    def test_speech(self, folder: Path, package: Any, monkeypatch: pytest.MonkeyPatch, text: str, speed: float) -> None:
        ours = joined(speak(loaded(folder, temperature=0.0), SpeechRequest((text,), "ada", speed=speed)))
        theirs = self.spoken(package, folder, monkeypatch, text, len(ours), duration_factor=1 / speed)
        # Theirs has passed through sixteen bits.
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5)

    def test_an_emotion(self, folder: Path, package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        request = SpeechRequest((PIECES[1],), "ada", instructions="sad 0.5")
        ours = joined(speak(loaded(folder, temperature=0.0), request))
        theirs = self.spoken(package, folder, monkeypatch, PIECES[1], len(ours), emo_vector=[0, 0, 0.5, 0, 0, 0, 0, 0])
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=5e-5)

    @staticmethod
    def spoken(
        package: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, samples: int, **more: Any
    ) -> Samples:
        noise = np.random.default_rng([0, 0, 1]).standard_normal((80, samples // 256), dtype=np.float32)

        def drawn(shape: Sequence[int], **_: Any) -> Tensor:
            return torch.cat([torch.zeros(*shape[:-1], shape[-1] - noise.shape[1]), torch.tensor(noise)[None]], dim=-1)

        with monkeypatch.context() as context, torch.no_grad():
            context.setattr(torch, "randn", drawn)
            clip_file = str(folder / "voices" / "ada.wav")
            _, sound = package.infer(
                clip_file, text, None, "en", num_beams=1, do_sample=False, diffusion_steps=2, **more
            )
        samples_heard: Samples = (sound[:, 0] / 32767).astype(np.float32)
        return samples_heard


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        tiny = write_tiny(Path(place) / "tiny")
        write_golden(loaded(tiny), TestFloat32())
        write_golden(loaded(tiny, precision="int8"), TestInt8())
