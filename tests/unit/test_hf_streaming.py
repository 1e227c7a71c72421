"""Families of `hf_recognition` that stream by themselves: the properties of every streaming engine, transformers' own results,
and what only they do.

Run as a module, it writes the golden files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("transformers", reason="the extra `transformers` is not installed")

import torch

from deployments.audio.pcm import to_float
from deployments.engines import registry
from deployments.engines.hf_recognition import moonshine_streaming
from deployments.engines.hf_recognition.adapter import EmittedToken, TokenTexts
from deployments.engines.hf_recognition.engine import HfRecognition
from deployments.engines.hf_recognition.stream_sound import StreamSound
from deployments.engines.hf_recognition.streaming_engine import HfStreamingRecognition
from deployments.engines.protocols import EngineSpec, RecognitionOptions, Samples, Window
from deployments.engines.streaming import PartialTranscript, StreamingRecognition
from deployments.errors import MotetError
from deployments.replica.live_streams import LiveStream, LiveStreams
from tests.unit.hf_recognition_models import WRITERS
from tests.unit.recognition_engine_properties import GOLDEN, SENTENCES, good, spoken
from tests.unit.streaming_engine_properties import Streaming, StreamingEngineProperties, Talk, hear
from tests.unit.streaming_references import RATE, REFERENCES

pytestmark = pytest.mark.filterwarnings("ignore:Using the model-agnostic default `max_length`")

DELAYS: Mapping[str, Mapping[str, int]] = {
    "moonshine_streaming": {},
    "nemotron3_5_asr": {"delay_ms": 160},
    "nemotron_asr_streaming": {"delay_ms": 560},
    "voxtral_realtime": {"delay_ms": 240},
}
"""Options of the models in most tests."""
DELAY_TOKENS = {"moonshine_streaming": 0, "nemotron3_5_asr": 1, "nemotron_asr_streaming": 6, "voxtral_realtime": 3}
FAMILIES = sorted(REFERENCES)
every_family = pytest.mark.parametrize("family", FAMILIES)


@cache
def folder(family: str) -> Path:
    return WRITERS[family](Path(mkdtemp(prefix=family)))


def loaded(family: str, **options: object) -> HfStreamingRecognition:
    spec = EngineSpec(family, str(folder(family)), "cpu", 1, {"most_tokens": 60} | options)
    engine = registry.load("hf_recognition", spec)
    assert isinstance(engine, HfStreamingRecognition)
    return engine


@cache
def engine_of(family: str) -> HfStreamingRecognition:
    return loaded(family, **DELAYS[family])


@cache
def sound(number: int) -> Samples:
    return spoken(SENTENCES[number], RATE)


def reference(family: str, engine: HfStreamingRecognition, samples: Samples, delay: int) -> str:
    adapter = engine._family
    padded = np.pad(samples, (0, adapter.padded(len(samples)) - len(samples)))
    return REFERENCES[family](adapter.model, adapter.processor, padded, delay)


class OneFamily(StreamingEngineProperties):
    """The shared properties, except those of a model that was trained."""

    family: str

    @pytest.fixture
    def engine(self) -> HfStreamingRecognition:
        return engine_of(self.family)

    def offline(self, engine: Streaming, samples: Samples) -> str:
        assert isinstance(engine, HfStreamingRecognition)
        return reference(self.family, engine, samples, DELAY_TOKENS[self.family])

    @pytest.mark.skip(reason="random weights write a text of silence")
    def test_silence_says_nothing(self, engine: Streaming) -> None: ...


PROPERTIES = {family: type(f"Test_{family}", (OneFamily,), {"family": family}) for family in FAMILIES}
globals().update({cls.__name__: cls for cls in PROPERTIES.values()})


@pytest.mark.parametrize("number", range(3))
@every_family
def test_the_text_is_that_of_transformers(family: str, number: int) -> None:
    talk = Talk(engine_of(family), sound(number))
    hear(engine_of(family), talk)
    expected = reference(family, engine_of(family), sound(number), DELAY_TOKENS[family])
    assert talk.texts[-1].committed == expected.strip() != ""


@pytest.mark.parametrize("family", ["nemotron_asr_streaming", "nemotron3_5_asr"])
def test_all_delays_of_a_transducer_give_the_text_of_transformers(family: str) -> None:
    for frames, delay_ms in ((0, 80), (1, 160), (6, 560), (13, 1120)):
        engine = loaded(family, delay_ms=delay_ms)
        talk = Talk(engine, np.concatenate([sound(number) for number in range(3)]))
        hear(engine, talk)
        assert talk.texts[-1].committed == reference(family, engine, talk.samples, frames).strip()


def cut(samples: Samples, sizes: Sequence[int]) -> Iterator[Samples]:
    """The samples in parts of these sizes, again and again."""
    at = number = 0
    while at < len(samples):
        size = sizes[number % len(sizes)]
        yield samples[at : at + size]
        at, number = at + size, number + 1


@every_family
@settings(max_examples=6, deadline=None)
@given(sizes=st.lists(st.integers(1, 16_000), min_size=1, max_size=8), steps=st.integers(1, 5))
def test_the_text_does_not_depend_on_how_the_sound_was_divided(family: str, sizes: list[int], steps: int) -> None:
    engine = engine_of(family)
    sizes = [*sizes, 4_000]  # not all parts are tiny
    stream = engine.open(RecognitionOptions(language="en"))
    texts: list[PartialTranscript] = []
    for number, part in enumerate(cut(sound(2), sizes)):
        engine.push(stream, part)
        if number % steps == 0:
            texts += heard(engine, stream)
    engine.finish(stream, len(sound(2)))
    texts += heard(engine, stream)
    assert texts[-1].committed == whole(family)
    assert all(later.committed.startswith(before.committed) for before, later in pairwise(texts))


def heard(engine: HfStreamingRecognition, *streams: Any) -> list[PartialTranscript]:
    results = engine.step(streams)
    for result in results:
        if isinstance(result, Exception):
            raise result
    return [result for result in results if isinstance(result, PartialTranscript)]


@cache
def whole(family: str) -> str:
    """The text of the last sentence, pushed at once."""
    engine = engine_of(family)
    stream = engine.open(RecognitionOptions(language="en"))
    engine.push(stream, sound(2))
    engine.finish(stream, len(sound(2)))
    return heard(engine, stream)[0].committed


@every_family
def test_streams_at_different_positions_share_a_batch(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(family)
    long = np.concatenate([sound(0), sound(1), sound(2)])
    alone = [Talk(engine, samples) for samples in (long, sound(1), sound(2))]
    for talk in alone:
        hear(engine, talk)
    sizes: list[int] = []
    advance = engine._family.advance

    def counted(states: Any, sounds: Any) -> Any:
        sizes.append(len(states))
        return advance(states, sounds)

    monkeypatch.setattr(engine._family, "advance", counted)
    first, second, third = (Talk(engine, talk.samples) for talk in alone)
    for _ in range(14):  # 5.6 s: the windows of all caches are full
        first.feed()
        first.said += engine.step([first.stream])
    for _ in range(3):
        for talk in (first, second):
            talk.feed()
        results = engine.step([first.stream, second.stream])
        first.said.append(results[0])
        second.said.append(results[1])
    hear(engine, first, second, third)
    assert max(sizes) == 3
    for one, other in zip((first, second, third), alone, strict=True):
        assert one.texts[-1].committed == other.texts[-1].committed


@every_family
def test_the_state_of_a_stream_is_bounded_and_its_own(family: str) -> None:
    """Of two streams in one batch, none keeps the other's tensors or the sound that was used up."""
    engine = engine_of(family)
    long, short = engine.open(RecognitionOptions(language="en")), engine.open(RecognitionOptions(language="en"))
    seen: list[int] = []
    for _ in range(20):
        for stream in (long, short):
            engine.push(stream, sound(0)[:RATE])
        heard(engine, long, short)
        seen.append(sum(tensor.numel() for tensor in tensors(long.state)))
        assert all(tensor.untyped_storage().size() <= 2 * 4 * tensor.numel() for tensor in tensors(long.state))
        assert long.sound._tail.held <= 5 * RATE
    if family != "moonshine_streaming":  # its decoder hears the whole segment
        assert seen[-1] == seen[-2]
    engine.close(short)
    assert short.state is None
    assert isinstance(engine.step([short])[0], MotetError)
    assert heard(engine, long)[0].heard_samples > 18 * RATE


def tensors(value: object) -> Iterator[torch.Tensor]:
    """All tensors in a state."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(list(value.values()))
    elif isinstance(value, tuple | list):
        for each in value:
            yield from tensors(each)
    elif hasattr(value, "__slots__"):
        yield from tensors([getattr(value, name) for name in value.__slots__])


@every_family
@pytest.mark.parametrize("broken", [np.full(RATE, np.inf, np.float32), np.zeros((2, RATE), np.float32)])
def test_invalid_sound_fails_its_stream_and_no_other(family: str, broken: Samples) -> None:
    engine = engine_of(family)
    bad, fine = engine.open(RecognitionOptions(language="en")), engine.open(RecognitionOptions(language="en"))
    engine.push(bad, broken)
    engine.push(fine, sound(2))
    engine.finish(fine, len(sound(2)))
    results = engine.step([bad, fine])
    assert isinstance(results[0], MotetError)
    assert isinstance(engine.step([bad])[0], MotetError)
    assert isinstance(results[1], PartialTranscript) and results[1].committed == whole(family)


@every_family
def test_a_chunk_that_fails_in_the_network_fails_alone(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(family)
    streams = [engine.open(RecognitionOptions(language="en")) for _ in range(3)]
    for stream in streams:
        engine.push(stream, sound(2))
        engine.finish(stream, len(sound(2)))
    advance = engine._family.advance

    def fails(states: Any, sounds: Any) -> Any:
        results = advance(states, sounds)
        if streams[1].sound in sounds:
            raise RuntimeError("out of memory")
        return results

    monkeypatch.setattr(engine._family, "advance", fails)
    first, failed, last = engine.step(streams)
    assert isinstance(failed, RuntimeError)
    for result in (first, last):
        assert isinstance(result, PartialTranscript) and result.committed == whole(family)


@every_family
def test_the_same_engine_transcribes_windows(family: str) -> None:
    window = Window(sound(0), RecognitionOptions(language="en"))
    assert isinstance(engine_of(family), StreamingRecognition)
    assert good(engine_of(family).transcribe([window])[0]).text


@every_family
def test_a_replica_hears_a_stream_natively(family: str) -> None:
    """Through the calls that a replica takes, in 16-bit samples."""
    engine = engine_of(family)
    live = LiveStreams(engine, Thread())
    pcm = np.round(sound(2) * 32_767).astype("<i2")
    options = RecognitionOptions(language="en")
    for at in range(0, len(pcm), 4_800):
        live.step([live.hearing("turn", options, at, pcm[at : at + 4_800].tobytes(), None)])
    (last,) = live.step([live.hearing("turn", options, len(pcm), b"", len(pcm))])
    talk = Talk(engine, to_float(pcm))
    hear(engine, talk)
    assert isinstance(last, PartialTranscript)
    assert last.last and last.committed == talk.texts[-1].committed != ""


class Thread:
    """Runs a call at once."""

    def submit(self, function: Callable[[LiveStream], object], stream: LiveStream, /) -> None:
        function(stream)


def test_an_engine_that_does_not_stream_does_not_say_so(tmp_path: Path) -> None:
    spec = EngineSpec("ctc", str(WRITERS["parakeet_ctc"](tmp_path)), "cpu", 1, {})
    engine = registry.load("hf_recognition", spec)
    assert isinstance(engine, HfRecognition) and not isinstance(engine, StreamingRecognition)
    with pytest.raises(MotetError, match="delay_ms"):
        registry.load("hf_recognition", EngineSpec("ctc", str(tmp_path), "cpu", 1, {"delay_ms": 80}))


@pytest.mark.parametrize("family", ["nemotron_asr_streaming", "voxtral_realtime"])
def test_a_delay_that_the_model_does_not_know_is_refused(family: str) -> None:
    with pytest.raises(MotetError, match="no delay of 100 ms"):
        loaded(family, delay_ms=100)


@pytest.mark.parametrize(("family", "delay_ms"), [("nemotron_asr_streaming", 560), ("voxtral_realtime", 240)])
def test_the_text_follows_the_sound_by_the_delay(family: str, delay_ms: int) -> None:
    engine = loaded(family, delay_ms=delay_ms)
    stream = engine.open(RecognitionOptions(language="en"))
    for part in cut(sound(0), [320]):
        engine.push(stream, part)
        (partial,) = heard(engine, stream)
        behind_ms = (stream.sound.length - partial.heard_samples) / RATE * 1000
        assert behind_ms < delay_ms + 120


@every_family
def test_settled_text_is_committed_and_grows(family: str) -> None:
    """A long pause and the end of a stream settle what was said before."""
    talk = Talk(engine_of(family), np.concatenate([sound(2), np.zeros(2 * RATE, np.float32), sound(1)]))
    hear(engine_of(family), talk)
    settled = [(text.settled_samples, text.committed[: text.settled_characters]) for text in talk.texts]
    assert settled == sorted(settled)
    for text, (samples, begins) in zip(talk.texts, settled, strict=True):
        assert samples <= text.heard_samples
        assert text.committed.startswith(begins)
    assert settled[-1] == (len(talk.samples), talk.texts[-1].committed)


def test_words_of_a_transducer_have_times_from_the_start_of_the_stream() -> None:
    engine = engine_of("nemotron_asr_streaming")
    options = RecognitionOptions(language="en", word_times=True, token_probabilities=True)
    talk = Talk(engine, np.concatenate([sound(0), sound(1)]), options)
    hear(engine, talk)
    transcript = talk.texts[-1].transcript
    assert transcript is not None
    (segment,) = transcript.segments
    times = [time for word in segment.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert len(sound(0)) / RATE < times[-1] <= len(talk.samples) / RATE
    assert "".join(token.text for token in transcript.tokens).strip() == transcript.text


def test_nemotron_names_the_language_that_it_detects(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of("nemotron3_5_asr")
    stream = engine.open(RecognitionOptions())
    (tag,) = engine._family.language_tags
    advance = engine._family.advance

    def tagged(states: Any, sounds: Any) -> Any:
        return [type(r)(r.state, [EmittedToken(tag, 0.0)], r.tentative) for r in advance(states, sounds)]

    engine.push(stream, sound(0))
    assert heard(engine, stream)[0].language == "und"
    monkeypatch.setattr(engine._family, "advance", tagged)
    engine.finish(stream, len(sound(0)))
    (last,) = heard(engine, stream)
    assert last.transcript is not None
    assert (last.language, last.transcript.language) == ("de", "de")
    assert "<de-DE>" not in last.committed


def test_voxtral_starts_anew_where_it_ends_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of("voxtral_realtime")
    stream, family = engine.open(RecognitionOptions()), engine._family
    engine.push(stream, sound(0)[: 2 * RATE])
    before = heard(engine, stream)[0]
    monkeypatch.setattr(family, "_ends", {stream.state.token, *range(300)})
    engine.push(stream, sound(0)[2 * RATE : 2 * RATE + 1280])
    (after,) = heard(engine, stream)
    assert (after.committed, stream.state.position) == (before.committed, 0)
    assert after.heard_samples >= before.heard_samples
    monkeypatch.undo()
    engine.push(stream, sound(0)[2 * RATE + 1280 :])
    engine.finish(stream, len(sound(0)))
    assert len(heard(engine, stream)[0].committed) > len(before.committed)


def test_a_long_stream_of_moonshine_is_divided_into_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moonshine_streaming, "SEGMENT_FRAMES", 96)
    engine = loaded("moonshine_streaming")
    talk = Talk(engine, np.concatenate([sound(0), sound(1), sound(2)]))
    frames: list[int] = []
    while not talk.over:
        talk.feed()
        talk.said += engine.step([talk.stream])
        frames.append(0 if talk.stream.state.encoded is None else len(talk.stream.state.encoded))
    assert max(frames) <= 96 and frames.count(0) > 2
    texts = [text.committed for text in talk.texts]
    assert all(later.startswith(before) for before, later in pairwise(texts))


class TestSound:
    def test_silence_is_around_the_stream(self) -> None:
        sound = StreamSound()
        sound.push(np.ones(4, np.float32))
        assert sound.between(-2, 6).tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
        sound.end(3, 8)
        assert (sound.length, sound.between(1, 8).tolist()) == (8, [1, 1, 0, 0, 0, 0, 0])

    @given(st.lists(st.integers(0, 7), max_size=6), st.integers(0, 30), st.integers(0, 30), st.integers(0, 20))
    def test_positions_stay_when_samples_are_dropped(self, sizes: list[int], drop: int, start: int, count: int) -> None:
        stream, everything = StreamSound(), np.arange(1, sum(sizes) + 1, dtype=np.float32)
        for part in np.split(everything, np.cumsum(sizes)[:-1]) if sizes else []:
            stream.push(part)
        stream.drop(drop)
        start = max(start, drop)
        wanted = np.zeros(count, np.float32)
        kept = everything[start : start + count]
        wanted[: len(kept)] = kept
        assert stream.between(start, start + count).tolist() == wanted.tolist()


def test_a_preview_continues_the_text() -> None:
    tokenizer = engine_of("nemotron_asr_streaming")._family.tokenizer
    texts = TokenTexts(tokenizer)
    the, river = (tokenizer.convert_tokens_to_ids(text) for text in ("▁the", "▁ri"))
    assert texts.preview([EmittedToken(the, 0.0)]) == "the"
    first = texts.add(EmittedToken(the, 0.0))
    assert first is not None and first.text == "the"
    assert texts.preview([EmittedToken(river, 0.0)]) == " ri"


def described(family: str) -> list[list[object]]:
    """What each step gives for a tone that rises and swells, as plain data."""
    times = np.arange(4 * RATE) / RATE
    tone = 0.1 * np.sin(2 * np.pi * (200 + 300 * times) * times) * np.sin(2 * np.pi * 1.5 * times)
    talk = Talk(engine_of(family), tone.astype(np.float32))
    hear(engine_of(family), talk)
    return [[text.heard_samples, text.committed, text.tentative] for text in talk.texts]


def golden(family: str) -> Path:
    return GOLDEN / f"hf_streaming_{family}.json"


@pytest.mark.numeric
@every_family
def test_golden(family: str) -> None:
    """Rewrite with `python -m tests.unit.test_hf_streaming` after a change that is meant to change the text."""
    assert described(family) == json.loads(golden(family).read_text())


if __name__ == "__main__":
    for name in FAMILIES:
        golden(name).write_text(json.dumps(described(name), indent=1, ensure_ascii=False) + "\n")
