"""Models of transformers as recognition engines: the shared properties, and what each class's own `generate` makes.

Run as a module, it writes the golden files of all families.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

import torch
import transformers
from safetensors.torch import load_file, save_file

from deployments.engines import registry
from deployments.engines.hf_recognition import qwen3_asr
from deployments.engines.hf_recognition.adapter import EmittedToken, HfRecognitionOptions, TextToken, text_tokens
from deployments.engines.hf_recognition.engine import HfRecognition
from deployments.engines.hf_recognition.families import FAMILIES, load_adapter
from deployments.engines.hf_recognition.transducer import LanguageTransducer
from deployments.engines.hf_recognition.voxtral import Voxtral, VoxtralProcessor
from deployments.engines.hf_recognition.words import words_of
from deployments.engines.protocols import EngineSpec, RecognitionEngine, RecognitionOptions, Samples, Transcript, Window
from deployments.errors import MotetError
from tests.unit.hf_recognition_models import VOXTRAL_MARKS, WRITERS, bytes_tokenizer
from tests.unit.recognition_engine_properties import (
    SENTENCES,
    AnyRecognitionProperties,
    good,
    recorded,
    write_golden,
)

MOST_TOKENS = 24
RATE = 16_000
TIMED = ("nemotron3_5_asr", "nemotron_asr_streaming", "parakeet_ctc", "parakeet_rnnt", "parakeet_tdt")
DECODERS = tuple(sorted(set(WRITERS) - set(TIMED)))

Folders = Callable[[str], Path]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Writes the tiny checkpoint of a family when it is first asked for."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = WRITERS[family](tmp_path_factory.mktemp(family))
        return made[family]

    return folder


def loaded(folder: Path, **options: object) -> HfRecognition:
    spec = EngineSpec(folder.name, str(folder), "cpu", 1, {"most_tokens": MOST_TOKENS} | options)
    engine = registry.load("hf_recognition", spec)
    assert isinstance(engine, HfRecognition)
    return engine


def windows(options: RecognitionOptions) -> list[Window]:
    return [Window(recorded(number), options) for number in range(len(SENTENCES))]


@pytest.mark.numeric
class OneFamily(AnyRecognitionProperties):
    """The shared properties for the family `golden_name`."""

    @pytest.fixture
    def engine(self, folders: Folders) -> HfRecognition:
        return loaded(folders(self.golden_name.removeprefix("hf_")))

    def window(self, engine: RecognitionEngine, number: int, *, word_times: bool = False) -> Window:
        return Window(recorded(number), RecognitionOptions(language="en", word_times=word_times))


GOLDEN_STREAMS = ("moonshine_streaming", "voxtral_realtime")
"""The golden files of these families are those of `test_hf_streaming`."""
PROPERTIES: Mapping[str, type[OneFamily]] = {
    family: type(
        f"Test_{family}",
        (OneFamily,),
        {"golden_name": f"hf_{family}"} | ({"test_golden": None} if family in GOLDEN_STREAMS else {}),
    )
    for family in WRITERS
}
globals().update({cls.__name__: cls for cls in PROPERTIES.values()})


def test_the_number_of_windows_in_a_step_is_an_option(folders: Folders) -> None:
    assert loaded(folders("parakeet_ctc")).traits.batch_windows == 4
    assert loaded(folders("parakeet_ctc"), batch_windows=32).traits.batch_windows == 32
    with pytest.raises(MotetError, match="batch_windows"):
        loaded(folders("parakeet_ctc"), batch_windows=0)


def test_every_family_has_a_tiny_checkpoint() -> None:
    assert set(WRITERS) == set(FAMILIES)


# What each class makes of one recording by itself, called as its documentation calls it.


def by_transducer(model: Any, processor: Any, samples: Samples) -> tuple[str, list[tuple[float, float]]]:
    made = model.generate(**processor([samples], sampling_rate=RATE, return_tensors="pt"))
    texts, tokens = processor.decode(made.sequences, durations=made.durations, skip_special_tokens=True)
    return texts[0], [(token["start"], token["end"]) for token in tokens[0]]


def by_ctc(model: Any, processor: Any, samples: Samples) -> str:
    made = model.generate(**processor([samples], sampling_rate=RATE, return_tensors="pt"))
    return str(processor.batch_decode(made, skip_special_tokens=True)[0])


def by_canary(model: Any, processor: Any, samples: Samples) -> str:
    inputs = processor.apply_transcription_request(audio=samples, source_language="en")
    made = model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
    return str(processor.decode(made[0], skip_special_tokens=True))


def by_moonshine(model: Any, processor: Any, samples: Samples) -> str:
    inputs = processor(samples, sampling_rate=RATE, return_tensors="pt")
    most = int(inputs["input_values"].shape[-1] * 6.5 / RATE)
    made = model.generate(**inputs, max_new_tokens=min(most, MOST_TOKENS), do_sample=False)
    return str(processor.decode(made[0], skip_special_tokens=True))


def by_qwen(model: Any, processor: Any, samples: Samples) -> str:
    inputs = processor.apply_transcription_request(audio=samples, language="en")
    made = model.generate(**inputs, max_new_tokens=MOST_TOKENS, do_sample=False)
    new = made[:, inputs["input_ids"].shape[1] :]
    return str(processor.decode(new, return_format="transcription_only")[0])


def by_voxtral(model: Any, processor: Any, samples: Samples) -> str:
    """The prompt that mistral-common 1.13 writes, `<s>[INST][BEGIN_AUDIO][AUDIO]...[/INST]lang:en[TRANSCRIBE]`."""
    mark = VOXTRAL_MARKS.index
    letters = [len(VOXTRAL_MARKS) + byte for byte in b"lang:en"]
    ids = [mark("<s>"), mark("[INST]"), mark("[BEGIN_AUDIO]"), *[mark("[AUDIO]")] * 375]
    prompt = torch.tensor([[*ids, mark("[/INST]"), *letters, mark("[TRANSCRIBE]")]])
    features = processor.feature_extractor(
        samples, sampling_rate=RATE, padding=True, pad_to_multiple_of=30 * RATE, truncation=False, return_tensors="pt"
    )["input_features"]
    made = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), input_features=features,
        max_new_tokens=MOST_TOKENS, do_sample=False,
    )  # fmt: skip
    return str(processor.tokenizer.decode(made[0, prompt.shape[1] :], skip_special_tokens=True))


def by_moonshine_streaming(model: Any, processor: Any, samples: Samples) -> str:
    inputs = processor(samples, sampling_rate=RATE, return_tensors="pt")
    most = int(len(samples) * 6.5 / RATE)
    made = model.generate(**inputs, max_new_tokens=min(most, MOST_TOKENS), do_sample=False)
    return str(processor.tokenizer.decode(made[0], skip_special_tokens=True))


OWN_WAY: Mapping[str, Callable[[Any, Any, Samples], str]] = {
    "canary": by_canary,
    "moonshine": by_moonshine,
    "moonshine_streaming": by_moonshine_streaming,
    "parakeet_ctc": by_ctc,
    "qwen3_asr": by_qwen,
    "voxtral": by_voxtral,
}


def own_class(folder: Path, family: str) -> tuple[Any, Any]:
    """The model and the processor, loaded without the engine."""
    model = getattr(transformers, FAMILIES[family].model.split(":")[1]).from_pretrained(folder)
    processor = FAMILIES[family].processor.split(":")[1]
    if family == "voxtral":
        return model, VoxtralProcessor.from_pretrained(folder)
    return model, getattr(transformers, processor).from_pretrained(folder)


@pytest.mark.parametrize("family", sorted(OWN_WAY))
def test_texts_are_those_of_the_class_s_own_generate(folders: Folders, family: str) -> None:
    engine, (model, processor) = loaded(folders(family)), own_class(folders(family), family)
    texts = [good(result).text for result in engine.transcribe(windows(RecognitionOptions(language="en")))]
    assert texts == [OWN_WAY[family](model, processor, recorded(number)).strip() for number in range(len(SENTENCES))]
    assert len(set(texts)) == len(SENTENCES)


@pytest.mark.parametrize("family", ["nemotron3_5_asr", "nemotron_asr_streaming", "parakeet_rnnt", "parakeet_tdt"])
@pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`")
def test_texts_and_times_are_those_of_the_transducer_s_own_generate(folders: Folders, family: str) -> None:
    """A token of punctuation has no duration there; the words of this engine leave it out of a word's duration."""
    adapter = load_adapter(folders(family), "cpu", HfRecognitionOptions())
    model, processor = own_class(folders(family), family)
    made = adapter.recognize([recorded(number) for number in range(len(SENTENCES))], RecognitionOptions())
    for number, hypothesis in enumerate(made):
        text, times = by_transducer(model, processor, recorded(number))
        assert hypothesis.text == text == "".join(token.text for token in hypothesis.tokens)
        own = [(t.start, t.end) for t in hypothesis.tokens if t.text.strip().isalnum()]
        expected = [t for t, token in zip(times, hypothesis.tokens, strict=True) if token.text.strip().isalnum()]
        assert [time for pair in own for time in pair] == pytest.approx([time for pair in expected for time in pair])


@pytest.mark.parametrize("family", TIMED)
def test_words_have_times_within_the_window_and_in_order(folders: Folders, family: str) -> None:
    engine = loaded(folders(family))
    assert engine.traits.word_times
    for window in windows(RecognitionOptions(word_times=True)):
        transcript = good(engine.transcribe([window])[0])
        (segment,) = transcript.segments
        assert "".join(word.text for word in segment.words).strip() == segment.text.strip()
        times = [time for word in segment.words for time in (word.start, word.end)]
        assert times == sorted(times)
        assert 0.0 <= times[0] <= times[-1] <= len(window.samples) / RATE
        assert (segment.start, segment.end) == (times[0], times[-1])
        assert all(0.0 < word.probability <= 1.0 for word in segment.words)


@pytest.mark.parametrize("family", DECODERS)
def test_families_without_times_say_so_and_give_no_words(folders: Folders, family: str) -> None:
    engine = loaded(folders(family))
    assert not engine.traits.word_times
    window = windows(RecognitionOptions(language="en", word_times=True))[0]
    (segment,) = good(engine.transcribe([window])[0]).segments
    assert segment.words == ()
    assert (segment.start, segment.end) == (0.0, len(window.samples) / RATE)


@pytest.mark.parametrize("family", sorted(WRITERS))
def test_tokens_have_probabilities_if_asked(folders: Folders, family: str) -> None:
    engine = loaded(folders(family))
    options = RecognitionOptions(language="en", token_probabilities=True)
    transcript = good(engine.transcribe(windows(options))[1])
    assert engine.traits.token_probabilities
    assert "".join(token.text for token in transcript.tokens).strip() == transcript.text
    assert all(token.log_probability <= 0 and token.bytes == token.text.encode() for token in transcript.tokens)
    assert good(engine.transcribe(windows(RecognitionOptions(language="en")))[1]).tokens == ()


def test_log_probabilities_are_those_of_the_model_s_scores(folders: Folders) -> None:
    engine, (model, processor) = loaded(folders("qwen3_asr")), own_class(folders("qwen3_asr"), "qwen3_asr")
    options = RecognitionOptions(language="en", token_probabilities=True)
    transcript = good(engine.transcribe(windows(options))[0])
    inputs = processor.apply_transcription_request(audio=recorded(0), language="en")
    made = model.generate(
        **inputs, max_new_tokens=24, do_sample=False, output_scores=True, return_dict_in_generate=True
    )
    scores = model.compute_transition_scores(made.sequences, made.scores, normalize_logits=True)[0]
    written = ~torch.isin(
        made.sequences[0, inputs["input_ids"].shape[1] :], torch.tensor(processor.tokenizer.all_special_ids)
    )
    own = [token.log_probability for token in transcript.tokens]
    assert own == pytest.approx(scores[written].tolist(), abs=1e-4)


@pytest.mark.parametrize("family", sorted(WRITERS))
@pytest.mark.parametrize("seconds", [0.05, 30.0])
def test_the_shortest_and_the_longest_window_are_transcribed(folders: Folders, family: str, seconds: float) -> None:
    adapter = loaded(folders(family), most_tokens=2)
    options = RecognitionOptions(language="en")
    noise = np.random.default_rng(0).standard_normal(int(seconds * RATE)).astype(np.float32) * 0.1
    (transcript,) = adapter.recognize([Window(noise, options)], options)
    assert all(segment.end <= seconds for segment in transcript.segments)


def test_a_temperature_draws_the_same_words_alone_and_in_a_batch(folders: Folders) -> None:
    engine = loaded(folders("moonshine"))
    drawn = windows(RecognitionOptions(temperature=1.5))
    together = [good(result).text for result in engine.transcribe(drawn)]
    assert together == [good(engine.transcribe([window])[0]).text for window in drawn]
    assert together != [good(result).text for result in engine.transcribe(windows(RecognitionOptions()))]


class TestLanguages:
    def test_canary_translates_into_english(self, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = loaded(folders("canary"))
        asked = _requests(engine, monkeypatch)
        engine.transcribe(windows(RecognitionOptions(language="de", translate=True))[:1])
        engine.transcribe(windows(RecognitionOptions(language="de"))[:1])
        engine.transcribe(windows(RecognitionOptions())[:1])
        told = [(call["source_language"], call["target_language"]) for call in asked]
        assert told == [("de", "en"), ("de", "de"), ("en", "en")]

    @pytest.mark.parametrize("family", sorted(set(WRITERS) - {"canary"}))
    def test_other_families_refuse_to_translate(self, folders: Folders, family: str) -> None:
        options = RecognitionOptions(translate=True)
        (result,) = loaded(folders(family)).transcribe(windows(options)[:1])
        assert isinstance(result, MotetError)
        assert "cannot translate" in str(result)

    def test_qwen_names_the_language_that_it_detects(self, folders: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
        engine = loaded(folders("qwen3_asr"))
        tokenizer = engine._adapter.tokenizer
        said = tokenizer.encode("language German<asr_text>Guten Tag.", add_special_tokens=False)
        monkeypatch.setattr(qwen3_asr, "generated", lambda *_: [[EmittedToken(token, -0.5) for token in said]])
        transcript = good(engine.transcribe(windows(RecognitionOptions(token_probabilities=True))[:1])[0])
        assert (transcript.text, transcript.language) == ("Guten Tag.", "de")
        assert "".join(token.text for token in transcript.tokens) == "Guten Tag."

    def test_nemotron_is_told_the_language_and_loses_its_tag(self, folders: Folders) -> None:
        adapter = load_adapter(folders("nemotron3_5_asr"), "cpu", HfRecognitionOptions())
        assert isinstance(adapter, LanguageTransducer)
        assert {"en", "de", "th"} <= set(adapter.languages)
        told = [adapter.conditions(RecognitionOptions(language=name)) for name in (None, "de", "th")]
        assert told == [{"language": "auto"}, {"language": "de"}, {"language": "th-TH"}]
        the, tag = (adapter.tokenizer.convert_tokens_to_ids(text) for text in ("▁the", "<de-DE>"))
        made = adapter.hypothesis([EmittedToken(the, -0.1, 0.0, 0.08), EmittedToken(tag, -0.1, 0.08, 0.16)])
        assert (made.text, made.language, len(made.tokens)) == ("the", "de", 1)

    def test_a_checkpoint_that_names_no_language_has_that_of_its_configuration(self, folders: Folders) -> None:
        assert _language(loaded(folders("parakeet_tdt"))) == "und"
        english = loaded(folders("parakeet_tdt"), languages=("en",))
        assert (_language(english), english.traits.languages) == ("en", ("en",))
        assert _language(loaded(folders("parakeet_tdt"), languages=("de", "en"))) == "und"


def _language(engine: HfRecognition) -> str:
    return good(engine.transcribe(windows(RecognitionOptions())[:1])[0]).language


def _requests(engine: HfRecognition, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The arguments of every `apply_transcription_request` from now on."""
    processor, asked = engine._adapter.processor, list[dict[str, Any]]()
    own = processor.apply_transcription_request

    def noted(**arguments: Any) -> Any:
        asked.append(arguments)
        return own(**arguments)

    monkeypatch.setattr(processor, "apply_transcription_request", noted)
    return asked


def test_prompt_and_keywords_reach_qwen_without_special_tokens(
    folders: Folders, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = loaded(folders("qwen3_asr"))
    asked = _requests(engine, monkeypatch)
    options = RecognitionOptions(prompt="a <|im_end|> talk", keywords=("Motet", "Ray"))
    assert engine.traits.prompts
    assert isinstance(engine.transcribe(windows(options)[:1])[0], Transcript)
    assert asked[0]["prompt"] == "Motet, Ray, a   talk"


def test_parts_of_a_character_are_one_token() -> None:
    """A vocabulary of bytes divides the letter; the times are from the first part to the last."""
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=bytes_tokenizer("</s>"), eos_token="</s>")
    ids = tokenizer.encode("é!", add_special_tokens=False)
    assert len(ids) == 3
    end = tokenizer.convert_tokens_to_ids("</s>")
    emitted = [EmittedToken(token, -0.25, at * 0.1, at * 0.1 + 0.1) for at, token in enumerate([*ids, end])]
    made = text_tokens(tokenizer, emitted)
    assert [token.text for token in made] == ["é", "!"]
    assert made[0] == TextToken(tuple(ids[:2]), "é", -0.5, 0.0, 0.2)


def test_punctuation_and_the_window_bound_a_word() -> None:
    tokens = [
        TextToken((1,), "Yes", 0.0, 0.1, 0.3),
        TextToken((2,), ".", 0.0, 0.9, 1.0),
        TextToken((3,), " No", 0.0, 1.1, 2.2),
    ]
    words = words_of(tokens, 2.0)
    assert [(word.text, word.start, word.end) for word in words] == [("Yes.", 0.1, 0.3), (" No", 1.1, 2.0)]
    assert words_of([TextToken((2,), ".", 0.0, 0.9, 1.0)], 2.0)[0].text == "."


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", " the", ",", " ", "ri"]), st.floats(0, 3), st.floats(0, 1)),
        min_size=1,
        max_size=20,
    )
)
def test_words_keep_the_text_and_lie_in_order_within_the_window(
    emitted: list[tuple[str, float, float]],
) -> None:
    """For any times that do not go back, as those of a transducer."""
    texts, starts, spans = zip(*emitted, strict=True)
    tokens = [
        TextToken((0,), text, -0.1, start, start + span)
        for text, start, span in zip(texts, sorted(starts), spans, strict=True)
    ]
    words = words_of(tokens, 2.0)
    assert "".join(word.text for word in words) == "".join(texts)
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert 0.0 <= times[0] <= times[-1] <= 2.0


def test_words_of_one_frame_do_not_overlap() -> None:
    """An RNN-T may emit several tokens in a frame."""
    tokens = [TextToken((1,), "a", 0.0, 0.4, 0.48), TextToken((2,), " the", 0.0, 0.4, 0.48)]
    assert [(word.start, word.end) for word in words_of(tokens, 2.0)] == [(0.4, 0.4), (0.4, 0.48)]


class TestRefusals:
    def test_an_unknown_family_is_refused_with_the_known_ones(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "wav2vec2"}))
        with pytest.raises(MotetError, match="wav2vec2") as refused:
            loaded(tmp_path)
        assert all(family in str(refused.value) for family in FAMILIES)

    def test_another_model_of_a_known_type_is_refused(self, tmp_path: Path) -> None:
        """Qwen3's forced aligner."""
        config = {"model_type": "qwen3_asr", "architectures": ["Qwen3ASRForTokenClassification"]}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(MotetError, match="Qwen3ASRForTokenClassification"):
            loaded(tmp_path)

    def test_a_folder_without_a_checkpoint_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MotetError, match=r"no config\.json"):
            loaded(tmp_path)

    def test_weights_that_are_no_safetensors_are_not_read(self, tmp_path: Path, folders: Folders) -> None:
        source = folders("moonshine")
        for file in source.iterdir():
            if file.suffix != ".safetensors":
                (tmp_path / file.name).write_bytes(file.read_bytes())
        (tmp_path / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
        with pytest.raises(MotetError, match="cannot be loaded"):
            loaded(tmp_path)

    def test_incomplete_and_damaged_weights_are_refused(self, tmp_path: Path, folders: Folders) -> None:
        folder = tmp_path / "copy"
        shutil.copytree(folders("moonshine"), folder)
        file = folder / "model.safetensors"
        weights = load_file(file)
        del weights["model.encoder.conv1.weight"]
        save_file(weights, file, {"format": "pt"})
        with pytest.raises(MotetError, match=r"1 weights are missing, such as model\.encoder\.conv1\.weight"):
            loaded(folder)
        file.write_bytes(file.read_bytes()[:1000])
        with pytest.raises(MotetError, match="cannot be loaded"):
            loaded(folder)

    def test_another_device_and_an_unknown_option_are_refused(self, folders: Folders) -> None:
        folder = str(folders("moonshine"))
        with pytest.raises(MotetError, match="does not run on 'mlx'"):
            registry.load("hf_recognition", EngineSpec("x", folder, "mlx", 1))
        with pytest.raises(MotetError, match="did you mean 'dtype'"):
            loaded(Path(folder), dtyp="float16")


@pytest.mark.parametrize("family", sorted(WRITERS))
def test_the_dtype_is_an_option(folders: Folders, family: str) -> None:
    engine = loaded(folders(family), dtype="bfloat16")
    assert engine._adapter.model.dtype == torch.bfloat16
    assert loaded(folders(family))._adapter.model.dtype == torch.float32
    assert good(engine.transcribe(windows(RecognitionOptions(language="en")))[0]).text


def test_a_voxtral_prompt_without_a_language_ends_at_the_instruction(folders: Folders) -> None:
    adapter = load_adapter(folders("voxtral"), "cpu", HfRecognitionOptions())
    assert isinstance(adapter, Voxtral)
    marks = [VOXTRAL_MARKS.index(mark) for mark in ("[/INST]", "[TRANSCRIBE]")]
    assert adapter.prompt(None)[-2:] == marks


if __name__ == "__main__":
    import tempfile

    for name, properties in PROPERTIES.items():
        if name in GOLDEN_STREAMS:
            continue
        with tempfile.TemporaryDirectory() as temporary:
            write_golden(loaded(WRITERS[name](Path(temporary) / name)), properties())
