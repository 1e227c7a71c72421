"""The fields of transcriptions and translations: what is honoured, what is refused and why, and what is ignored and named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openai.types.audio import TranslationCreateParams
from openai.types.audio.transcription_create_params import TranscriptionCreateParamsNonStreaming

from deployments.engines.protocols import RecognitionTraits
from deployments.settings import SubtitleSettings, VoiceActivitySettings
from serve_app.gateway.errors import validated
from serve_app.gateway.middleware.ignored_fields import HEADER
from serve_app.gateway.transcription_fields import (
    LONG,
    MOST_KEYWORDS,
    REPEATED,
    RecognitionFields,
    TranscriptionFields,
    TranslationFields,
)
from tests.unit.test_api import Bench, Ear

ABLE = RecognitionTraits(
    16_000, ("en", "de"), True, 30.0, word_times=True, prompts=True, token_probabilities=True
)  # fmt: skip
PLAIN = RecognitionTraits(16_000, ("en",), False, 30.0)


async def asked(
    path: str = "transcriptions", traits: RecognitionTraits = ABLE, /, **fields: Any
) -> tuple[httpx.Response, Ear]:
    ear = Ear(traits)
    data = {"model": "ear", **{name: value for name, value in fields.items() if value is not None}}
    answer = await Bench(ear=ear).client.post(f"/v1/audio/{path}", data=data, files={"file": b"RIFF"})
    return answer, ear


def fields(**values: Any) -> TranscriptionFields:
    return validated(TranscriptionFields, {"model": "ear", **values}, strict=True)


@pytest.mark.parametrize(
    ("params", "schema", "some"),
    [
        (TranscriptionCreateParamsNonStreaming, TranscriptionFields, {"stream", "include", "chunking_strategy"}),
        (TranslationCreateParams, TranslationFields, {"prompt", "response_format"}),
    ],
)
def test_every_field_of_openais_client_is_known(params: Any, schema: type[RecognitionFields], some: set[str]) -> None:
    documented = set(params.__annotations__)
    assert some <= documented
    assert documented - {"file", LONG} <= set(schema.model_fields)


def test_lists_are_known_as_lists() -> None:
    lists = {name for name, field in TranscriptionFields.model_fields.items() if "tuple" in str(field.annotation)}
    assert lists | {"hotwords"} == set(REPEATED)


async def test_options_reach_the_engine() -> None:
    answer, ear = await asked(
        language="English", prompt="Names.", temperature="0.2", **{"keywords[]": ["Motet", "Ada Byron"]}
    )
    assert answer.status_code == 200
    (options,) = ear.asked
    assert (options.language, options.prompt, options.temperature) == ("en", "Names.", 0.2)
    assert (options.keywords, options.translate, options.word_times) == (("Motet", "Ada Byron"), False, False)


@pytest.mark.parametrize(("form", "timed"), [("json", False), ("text", False), ("srt", True), ("verbose_json", True)])
async def test_times_of_words_are_asked_for_only_where_the_answer_has_times(form: str, timed: bool) -> None:
    _, ear = await asked(response_format=form)
    assert ear.asked[0].word_times is timed
    _, ear = await asked("transcriptions", replace(ABLE, word_times=False), response_format=form)
    assert ear.asked[0].word_times is False


@pytest.mark.parametrize("name", ["keywords", "keywords[]", "hotwords", "hotwords[]"])
async def test_keywords_may_be_one_text(name: str) -> None:
    _, ear = await asked(**{name: "Motet, Ada Byron ,,Okoye"})
    assert ear.asked[0].keywords == ("Motet", "Ada Byron", "Okoye")


@pytest.mark.parametrize(
    ("values", "language", "ignored"),
    [
        ({"language": "en-US"}, "en", None),
        ({"lang_code": "eng"}, "en", None),
        ({"language": "auto"}, None, None),
        ({"languages[]": ["german"]}, "de", None),
        ({"languages[]": ["de", "en"]}, None, "languages"),
        ({"languages[]": ["de", "en"], "language": "en"}, "en", None),
    ],
)
async def test_languages(values: dict[str, Any], language: str | None, ignored: str | None) -> None:
    answer, ear = await asked(**values)
    assert answer.status_code == 200
    assert ear.asked[0].language == language
    assert answer.headers.get(HEADER) == ignored


@pytest.mark.parametrize(
    ("values", "param", "says"),
    [
        ({"language": "germna"}, "language", "Did you mean 'german' (de)?"),
        ({"languages[]": ["en", "klingonish"]}, "languages", "is not a language that this service knows"),
        ({"language": "french"}, "language", "does not transcribe french (fr). Its languages: en, de."),
        ({"timestamp_granularities[]": "word"}, "timestamp_granularities", "needs response_format=verbose_json"),
        ({"timestamp_granularities[]": "word", "response_format": "srt"}, "timestamp_granularities", "verbose_json"),
        ({"timestamp_granularities[]": "line"}, "timestamp_granularities", "'word' or 'segment'"),
        ({"include[]": "logprobs", "response_format": "text"}, "include", "needs response_format=json"),
        ({"include[]": "words"}, "include", "'logprobs'"),
        ({"chunking_strategy": "never"}, "chunking_strategy", "'auto'"),
        ({"chunking_strategy": "{"}, "chunking_strategy", "not valid JSON"),
        ({"chunking_strategy": '{"type":"server_vad","threshold":2}'}, "chunking_strategy", "threshold"),
        ({"chunking_strategy": '{"type":"server_vad","treshold":0.2}'}, "chunking_strategy", "mean 'threshold'?"),
        ({"chunking_strategy": '{"type":"semantic_vad"}'}, "chunking_strategy", "'server_vad'"),
        ({"temperature": "1.5"}, "temperature", "less than or equal to 1"),
        ({"response_format": "docx"}, "response_format", "'verbose_json'"),
        ({"channels": "separate", "diarize": "true"}, "channels", "each channel is a speaker"),
        ({"channels": "separate", "speakers": "2"}, "channels", "each channel is a speaker"),
        ({"num_speakers": "0"}, "speakers", "greater than or equal to 1"),
        ({"max_line_characters": "100000"}, "max_line_characters", "less than or equal to 200"),
        ({"keywords[]": ["w" * 101]}, "keywords", "at most 100 characters"),
        ({"keywords": "w," * (MOST_KEYWORDS + 1)}, "keywords", "at most 100 items"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_with_a_reason(values: Any, param: str, says: str) -> None:
    answer, ear = await asked(**values)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert says in error["message"]
    assert not ear.asked


@pytest.mark.parametrize(
    ("values", "param"),
    [
        ({"include[]": "logprobs"}, "include"),
        ({"response_format": "verbose_json", "timestamp_granularities[]": "word"}, "timestamp_granularities"),
        ({"language": "de"}, "language"),
    ],
)
async def test_what_a_model_cannot_do_is_refused_before_the_recording_is_read(values: Any, param: str) -> None:
    answer, ear = await asked("transcriptions", PLAIN, **values)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert not ear.asked


async def test_hints_that_a_model_does_not_follow_are_named() -> None:
    answer, _ = await asked("transcriptions", PLAIN, prompt="Names.", hotwords="Motet")
    assert (answer.status_code, answer.headers[HEADER]) == (200, "prompt, keywords")


@pytest.mark.parametrize("granularities", [["word"], ["segment"], ["word", "segment"], []])
@pytest.mark.parametrize("name", ["timestamp_granularities", "timestamp_granularities[]"])
async def test_only_the_times_that_were_asked_for_are_given(name: str, granularities: list[str]) -> None:
    answer, _ = await asked(response_format="verbose_json", **{name: granularities})
    found = answer.json()
    assert ("words" in found, "segments" in found) == ("word" in granularities, granularities != ["word"])


async def test_word_timestamps_of_other_servers_add_words() -> None:
    found = (await asked(response_format="verbose_json", word_timestamps="true"))[0].json()
    assert "words" in found and "segments" in found
    assert (await asked(word_timestamps="true"))[0].status_code == 200


async def test_log_probabilities_are_asked_for() -> None:
    answer, ear = await asked(**{"include[]": "logprobs"})
    assert ear.asked[0].token_probabilities
    assert "logprobs" in answer.json()


async def test_a_translation_is_asked_for() -> None:
    answer, ear = await asked("translations", response_format="srt", prompt="Names.")
    assert answer.status_code == 200
    assert (ear.asked[0].translate, ear.asked[0].prompt, ear.asked[0].language) == (True, "Names.", None)


@pytest.mark.parametrize(
    ("values", "status", "says"),
    [
        ({"response_format": "diarized_json"}, 400, "response_format"),
        ({"language": "en", "keywords": "Motet"}, 200, "language, keywords"),
    ],
)
async def test_a_translation_has_fewer_fields(values: Any, status: int, says: str) -> None:
    answer, _ = await asked("translations", **values)
    assert answer.status_code == status
    assert says in (answer.headers[HEADER] if status == 200 else answer.json()["error"]["message"])


async def test_a_model_that_cannot_translate_says_so() -> None:
    answer, ear = await asked("translations", PLAIN)
    assert answer.status_code == 400
    assert "cannot translate" in answer.json()["error"]["message"]
    assert not ear.asked


@pytest.mark.parametrize(
    "strategy",
    [
        {"type": "server_vad", "threshold": "0.7", "prefix_padding_ms": "100", "silence_duration_ms": "800"},
        json.dumps({"type": "server_vad", "threshold": 0.7, "prefix_padding_ms": 100, "silence_duration_ms": 800}),
    ],
)
def test_voice_activity_of_a_request(strategy: Any) -> None:
    usual = VoiceActivitySettings()
    found = fields(chunking_strategy=strategy).voice_activity(usual)
    assert found == VoiceActivitySettings(threshold=0.7, pad_ms=100, min_silence_ms=800)
    assert fields(chunking_strategy={"type": "server_vad"}).voice_activity(usual) == usual
    assert fields(chunking_strategy="auto").voice_activity(usual) == usual
    assert fields(vad_filter="true").voice_activity(usual).enabled
    assert not fields(vad_filter="false").voice_activity(usual).enabled


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"response_format": "diarized_json"}, True),
        ({"response_format": "rttm"}, True),
        ({"response_format": "srt", "diarize": True}, True),
        ({"response_format": "verbose_json", "model": "gpt-4o-transcribe-diarize"}, True),
        ({"response_format": "vtt", "known_speaker_names": ["Ada"]}, True),
        ({"response_format": "json", "model": "gpt-4o-transcribe-diarize"}, False),
        ({"response_format": "text", "diarize": True}, False),
        ({"response_format": "srt"}, False),
        ({"response_format": "diarized_json", "channels": "separate"}, False),
    ],
)
def test_speakers_are_looked_for_only_where_the_answer_names_them(values: Any, found: bool) -> None:
    assert fields(**values).diarizes is found


def test_limits_of_subtitles() -> None:
    found = fields(max_line_width="30", max_lines=1, max_characters_per_second="12.5").contents(SubtitleSettings())
    assert found.subtitles == SubtitleSettings(line_characters=30, lines=1, characters_per_second=12.5)
    own = SubtitleSettings(lines=3)
    assert fields().contents(own).subtitles == own
