"""The fields of transcriptions and translations: what is honoured, what is refused and why, and what is ignored and named."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import httpx
import httpx2
import pytest
from openai import AsyncOpenAI
from openai.types.audio import (
    TranscriptionDiarized,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranslationCreateParams,
)
from openai.types.audio.transcription_create_params import TranscriptionCreateParamsNonStreaming

from deployments.engines.protocols import RecognitionTraits
from deployments.settings import SubtitleSettings, VoiceActivitySettings
from deployments.tasks.diarization import KnownSpeaker, SpeakerTask
from serve_app.gateway.bodies.data_urls import MAX_BYTES
from serve_app.gateway.errors import validated
from serve_app.gateway.middleware.ignored_fields import HEADER
from serve_app.gateway.request_context import REQUEST, RequestRecord
from serve_app.gateway.speaker_fields import REFERENCES
from serve_app.gateway.transcription_fields import (
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
    data = {"model": "ear", **fields}
    answer = await Bench(ear=ear).client.post(f"/v1/audio/{path}", data=data, files={"file": b"RIFF"})
    return answer, ear


def data_url(data: bytes) -> str:
    return f"data:audio/wav;base64,{base64.b64encode(data).decode()}"


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
    assert documented - {"file", REFERENCES} <= set(schema.model_fields)


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
        ({"language_code": "en"}, "en", None),
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
        ({"diarize": "true"}, "diarize", "diarized_json"),
        ({"diarize": "true", "response_format": "text"}, "diarize", "says who speaks: srt, verbose_json"),
        ({"known_speaker_names[]": "Ada"}, "known_speaker_names", "says who speaks"),
        ({"hotword": "Ada"}, "hotword", "did you mean 'hotwords'?"),
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


@pytest.mark.parametrize("path", ["transcriptions", "translations"])
@pytest.mark.parametrize(
    "name",
    [
        *("temperature_inc", "without_timestamps", "model_id", "speaker_labels", "num_channels", "streaming"),
        "known_speaker_references",
    ],
)
async def test_what_other_servers_take_is_ignored_and_named(path: str, name: str) -> None:
    answer, _ = await asked(path, **{name: "1"})
    assert (answer.status_code, answer.headers[HEADER]) == (200, name)


@pytest.mark.parametrize(
    ("values", "ignored"),
    [
        ({"speakers": "2", "num_speakers": "2", "response_format": "srt"}, "num_speakers"),
        ({"speakers": "2", "max_speakers": "3", "response_format": "text"}, "speakers, max_speakers"),
        ({"word_timestamps": "true"}, "word_timestamps"),
        ({"word_timestamps": "true", "response_format": "verbose_json"}, None),
        ({"channels": "separate", "known_speaker_references[]": "data:"}, "known_speaker_references"),
    ],
)
async def test_what_has_no_effect_is_named(values: Any, ignored: str | None) -> None:
    answer, _ = await asked(**values)
    assert (answer.status_code, answer.headers.get(HEADER)) == (200, ignored)


async def test_openais_diarizing_model_may_be_asked_for_plain_text() -> None:
    REQUEST.set(record := RequestRecord())
    asked_for = fields(model="gpt-4o-transcribe-diarize", known_speaker_names=["Ada"])
    asked_for.check(ABLE)
    assert (asked_for.diarizes, record.ignored) == (False, ["known_speaker_names"])


async def test_a_strict_service_refuses_references_for_a_translation() -> None:
    data = {"model": "ear", "known_speaker_references[]": "data:"}
    bench = Bench(ear=Ear(ABLE), strict=True)
    answer = await bench.client.post("/v1/audio/translations", data=data, files={"file": b"RIFF"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "known_speaker_references")


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


# --- Speakers and objects, as OpenAI's client writes them in a form


async def by_openai(ear: Ear, **fields: Any) -> Any:
    inside = httpx2.AsyncClient(transport=httpx2.ASGITransport(Bench(ear=ear).api))
    async with AsyncOpenAI(base_url="http://motet/v1", api_key="none", http_client=inside) as client:
        return await client.audio.transcriptions.create(model="ear", file=("a.wav", b"RIFF"), **fields)


async def test_openais_client_sends_every_field_so_that_it_is_understood() -> None:
    ear = Ear(ABLE)
    long = bytes(range(256)) * 4000
    found = await by_openai(
        ear,
        language="en",
        keywords=["Motet", "Ada Byron"],
        prompt="Names.",
        temperature=0.5,
        response_format="diarized_json",
        chunking_strategy={"type": "server_vad", "threshold": 0.25, "silence_duration_ms": 700},
        known_speaker_names=["Ada", "B. Okoye"],
        known_speaker_references=[data_url(long), data_url(b"RIFF2")],
    )
    (task,) = ear.tasks
    assert (task.options.keywords, task.options.temperature) == (("Motet", "Ada Byron"), 0.5)
    assert task.voice_activity == VoiceActivitySettings(threshold=0.25, min_silence_ms=700)
    assert task.speakers == SpeakerTask((KnownSpeaker("Ada", long), KnownSpeaker("B. Okoye", b"RIFF2")))
    assert isinstance(found, TranscriptionDiarized)
    assert [segment.text for segment in found.segments] == ["hello"] * 3


async def test_openais_client_reads_the_events() -> None:
    found = [event async for event in await by_openai(Ear(ABLE), stream=True, include=["logprobs"])]
    assert [type(event) for event in found] == [TranscriptionTextDeltaEvent] * 3 + [TranscriptionTextDoneEvent]
    assert found[-1].text == "hello hello hello"
    assert found[-1].usage.total_tokens == 150


@pytest.mark.parametrize("strategy", ["auto", None])
async def test_openais_client_may_leave_the_cutting_to_the_service(strategy: str | None) -> None:
    ear = Ear(ABLE)
    await by_openai(ear, **({"chunking_strategy": strategy} if strategy else {}))
    assert ear.tasks[0].voice_activity == VoiceActivitySettings()
    assert (ear.tasks[0].speakers, ear.tasks[0].channels) == (None, "mix")


@pytest.mark.parametrize(
    ("references", "status", "says"),
    [
        ([], 400, "There are 1 known_speaker_names and 0 known_speaker_references"),
        ([data_url(b"a"), data_url(b"b")], 400, "1 known_speaker_names and 2"),
        (["data:audio/wav,%52"], 400, "not in base64"),
        (["data:audio/wav;base64,====!"], 400, "its base64 is damaged"),
        (["data:audio/wav;base64"], 400, "not in base64"),
        ([data_url(bytes(MAX_BYTES))], 413, "has over 8,388,608 bytes"),
        ([data_url(b"a")] * 6, 400, "more than 6 files"),
    ],
)
async def test_references_that_cannot_be_used_are_refused(references: list[str], status: int, says: str) -> None:
    answer, ear = await asked(
        response_format="rttm", **{"known_speaker_names[]": "Ada", "known_speaker_references[]": references}
    )
    assert answer.status_code == status
    assert says in answer.json()["error"]["message"]
    assert not ear.tasks


async def test_a_reference_may_be_a_file() -> None:
    ear = Ear(ABLE)
    files: Any = [("file", b"RIFF"), ("known_speaker_references[]", ("a.wav", b"RIFF3"))]
    data = {"model": "ear", "response_format": "rttm", "known_speaker_names[]": "Ada"}
    answer = await Bench(ear=ear).client.post("/v1/audio/transcriptions", data=data, files=files)
    assert answer.status_code == 200
    assert ear.tasks[0].speakers == SpeakerTask((KnownSpeaker("Ada", b"RIFF3"),))


async def test_lists_may_be_numbered() -> None:
    fields = {"response_format": "verbose_json", "timestamp_granularities[0]": "word", "keywords[1]": "b"}
    answer, ear = await asked(**fields)
    assert "words" in answer.json()
    assert ear.asked[0].keywords == ("b",)


async def test_channels_and_speakers_reach_the_task() -> None:
    _, ear = await asked(response_format="diarized_json", channels="separate")
    assert (ear.tasks[0].channels, ear.tasks[0].speakers) == ("separate", None)
    _, ear = await asked(response_format="srt", diarize="true", num_speakers="2")
    assert ear.tasks[0].speakers == SpeakerTask(speakers=2)
    answer, _ = await asked(response_format="srt", min_speakers="3", max_speakers="2")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "min_speakers")
