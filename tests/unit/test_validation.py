"""Messages for values that pydantic refuses: every error of a file, the first few of a request."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
from pydantic import ValidationError, model_validator

from deployments.errors import MAX_QUOTE, MotetError, clipped, quoted
from deployments.settings import StrictModel
from deployments.validation import LONGEST_KEY, in_words, misspelt, nearest
from serve_app.gateway.errors import validated
from serve_app.gateway.fields import RequestFields
from serve_app.gateway.middleware.ignored_fields import HEADER, MAX_NAMED, header_value
from serve_app.gateway.request_context import MAX_IGNORED, REQUEST, RequestRecord
from serve_app.gateway.routes.separations import SeparationFields
from serve_app.gateway.routes.speech import SpeechBody
from serve_app.gateway.transcription_fields import TranscriptionFields
from tests.unit.growth import check_growth
from tests.unit.test_api import JSON, Bench


class Inner(StrictModel):
    sizes: tuple[int, ...]


class Outer(StrictModel):
    name: str
    inner: Inner


def mistakes(fields: dict[str, Any], most: int | None = None) -> list[str]:
    with pytest.raises(ValidationError) as told:
        Outer.model_validate(fields)
    return in_words(told.value, Outer, most)


def test_each_mistake_has_its_place_and_the_nearest_name() -> None:
    told = mistakes({"nam": "a", "inner": {"sizes": [1, "x"], "sizs": 1}})
    assert told[0] == "name: Field required"
    assert told[1].startswith("inner.sizes.1: Input should be a valid integer")
    assert told[2:] == [
        "inner.sizs: unknown key; did you mean 'sizes'?",
        "nam: unknown key; did you mean 'name'?",
    ]


@pytest.mark.parametrize(
    ("count", "most", "lines"), [(3, None, 5), (3, 5, 5), (4, 5, 6), (400, 5, 6), (400, None, 402)]
)
def test_the_rest_is_counted(count: int, most: int | None, lines: int) -> None:
    told = mistakes({f"k{number}": 1 for number in range(count)}, most)
    assert len(told) == lines
    assert not told[-1].startswith("and") or told[-1] == f"and {count + 2 - 5} more"


def test_a_long_key_is_no_misspelling_and_is_told_shortly() -> None:
    key = "name" * 100
    (_, _, told) = mistakes({key: 1})
    assert told.startswith(f"{key[:MAX_QUOTE]}…: unknown key; valid keys: inner, name")
    assert len(told) < 150
    assert "did you mean" in nearest("nam" + "e" * (LONGEST_KEY - 63), Outer)


def test_what_a_client_wrote_is_repeated_in_part_and_on_one_line() -> None:
    assert clipped("a" * MAX_QUOTE) == "a" * MAX_QUOTE
    assert len(clipped("a" * 10_000)) == MAX_QUOTE + 1
    assert quoted("a\nb") == r"'a\nb'"
    assert len(quoted("\x00" * 10_000)) < 5 * MAX_QUOTE


@pytest.mark.parametrize("field", ["model", "voice", "response_format", "x" * 5_000])
async def test_no_answer_repeats_all_that_was_sent(field: str) -> None:
    body = {"model": "tone", "input": "Hello.", field: "y" * 50_000}
    answer = await Bench(strict=True).client.post("/v1/audio/speech", json=body, headers=JSON)
    assert answer.status_code in (400, 404)
    assert len(answer.content) < 1_000
    assert len(answer.json()["error"]["param"]) <= MAX_QUOTE + 1


@pytest.mark.parametrize("path", ["/v1/models/" + "m" * 5_000, "/v1/" + "p" * 5_000, "/v1/audio/voices/" + "v" * 5_000])
async def test_no_answer_repeats_a_long_path(path: str) -> None:
    answer = await Bench().client.get(path)
    assert (answer.status_code, len(answer.content) < 1_000) == (404, True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/v1/audio/speech", 405),
        ("GET", "/v1/audio/speech/", 404),
        ("GET", "/nowhere", 404),
        ("POST", "/page/app.js", 405),
    ],
)
async def test_every_refusal_has_the_known_form(method: str, path: str, status: int) -> None:
    answer = await Bench().client.request(method, path)
    assert answer.status_code == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


# --- Unknown fields of requests


SPEECH = {"model": "tone", "input": "Hello.", "response_format": "pcm"}
FOREIGN = (
    *("lang_code", "stream", "normalization_options", "return_download_link", "volume_multiplier", "download_format"),
    *("user", "n", "text", "ref_audio", "exaggeration", "speaker_wav", "top_p", "max_new_tokens"),
)
"""What Kokoro-FastAPI, speaches, vLLM-Omni, Chatterbox and others call things."""


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("voyce", "voice"), ("Voice", "voice"), ("responseFormat", "response_format"), ("stream-format", "stream_format"),
        ("modle", "model"), ("inputs", "input"), ("sped", "speed"), ("instruction", "instructions"),
        *((key, None) for key in FOREIGN), ("x" * 5_000, None), ("voice" * 20, None), ("", None),
    ],
)  # fmt: skip
def test_only_a_misspelling_is_taken_for_a_field(key: str, meant: str | None) -> None:
    assert misspelt(key, SpeechBody.model_fields) == meant


@pytest.mark.parametrize("schema", [TranscriptionFields, SeparationFields])
@pytest.mark.parametrize("key", ["beam_size", "patience", "initial_prompt", "vad_parameters", "encode", "batch_size"])
def test_what_other_recognizers_take_is_no_misspelling(key: str, schema: Any) -> None:
    assert misspelt(key, schema.model_fields) is None


async def test_a_misspelt_field_is_refused_with_the_one_that_was_meant() -> None:
    answer = await Bench().client.post("/v1/audio/speech", json={**SPEECH, "voyce": "bo"}, headers=JSON)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, "voyce", "extra_forbidden")
    assert error["message"] == "voyce: unknown field; did you mean 'voice'? Send 'voice', or leave 'voyce' out."


@pytest.mark.parametrize("stream_format", ["audio", "sse"])
async def test_any_other_unknown_field_is_ignored_and_named(stream_format: str) -> None:
    unknown = {"volume_multiplier": 2, "lang_code": "a", "instructions": "Sing."}
    body = {**SPEECH, **unknown, "stream_format": stream_format}
    answer = await Bench().client.post("/v1/audio/speech", json=body, headers=JSON)
    assert answer.status_code == 200
    assert answer.headers[HEADER] == "volume_multiplier, lang_code, instructions"
    assert HEADER not in (await Bench().client.post("/v1/audio/speech", json=SPEECH, headers=JSON)).headers


async def test_the_voice_id_of_another_server_is_no_misspelling() -> None:
    answer = await Bench().client.post("/v1/audio/speech", json={**SPEECH, "voice_id": "x"}, headers=JSON)
    assert (answer.status_code, answer.headers[HEADER]) == (200, "voice_id")


def test_a_message_does_not_name_the_exception_of_a_validator() -> None:
    class Pair(RequestFields):
        least: int = 0
        most: int = 0

        @model_validator(mode="after")
        def _in_order(self) -> Pair:
            if self.least > self.most:
                raise ValueError("least is over most")
            return self

    with pytest.raises(MotetError, match="cannot be read: least is over most"):
        validated(Pair, {"least": 1}, strict=False)


async def test_a_refused_request_names_what_was_ignored_too() -> None:
    body = {**SPEECH, "volume_multiplier": 2, "speed": 100}
    answer = await Bench().client.post("/v1/audio/speech", json=body, headers=JSON)
    assert (answer.status_code, answer.headers[HEADER]) == (400, "volume_multiplier")


async def test_unknown_fields_and_files_of_a_form_are_named() -> None:
    fields = {"model": "ear", "beam_size": "3", "user": "me"}
    answer = await Bench().client.post("/v1/audio/transcriptions", data=fields, files={"file": b"RIFF", "cover": b"P"})
    assert (answer.status_code, answer.headers[HEADER]) == (200, "cover, beam_size, user")


@pytest.mark.parametrize("key", ["user", "voyce"])
async def test_a_strict_service_refuses_every_unknown_field(key: str) -> None:
    bench = Bench(strict=True)
    answer = await bench.client.post("/v1/audio/speech", json={**SPEECH, key: 1}, headers=JSON)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, key)
    form = await bench.client.post("/v1/audio/transcriptions", data={"model": "ear", key: "1"}, files={"file": b"RIFF"})
    assert (form.status_code, form.json()["error"]["param"]) == (400, key)


def test_the_header_is_short_and_has_no_character_that_could_end_it() -> None:
    value = header_value(["a\r\nset-cookie: b", "ä, ö", "include[]", "\ud800", *(f"k{n}" for n in range(30))])
    assert value.startswith("a%0D%0Aset-cookie%3A%20b, %C3%A4%2C%20%C3%B6, include[], ")
    assert value.endswith(f"and {34 - MAX_NAMED} more")
    assert value.isascii() and value.isprintable()


def test_a_request_keeps_a_few_of_its_ignored_fields_shortened() -> None:
    record = RequestRecord()
    for _ in range(3):
        record.ignore(["k" * 5_000, *(f"k{n}" for n in range(1_000))])
    assert len(record.ignored) == MAX_IGNORED
    assert len(header_value(record.ignored)) < 1_000


def test_any_number_of_unknown_fields_is_ignored_in_time() -> None:
    def ignoring(count: int) -> Any:
        fields = {**SPEECH, **{f"voicd{n}": 1 for n in range(20)}, **{f"key{n}": 1 for n in range(count)}}
        junk = {f"{'q' * 60}{n}": 1 for n in range(20)}
        return lambda: validated(SpeechBody, {**junk, **fields}, strict=False)

    REQUEST.set(RequestRecord())
    assert ignoring(100)().model == "tone"
    check_growth(ignoring, 15_000)


def test_a_field_under_the_name_of_another_server() -> None:
    class Fields(RequestFields):
        foreign: ClassVar[dict[str, str]] = {"lang_code": "language"}
        language: str | None = None

    REQUEST.set(record := RequestRecord())
    assert validated(Fields, {"lang_code": "en"}, strict=False).language == "en"
    assert record.ignored == []
    assert validated(Fields, {"lang_code": "en", "language": "de"}, strict=False).language == "de"
    assert record.ignored == ["lang_code"]
    assert validated(Fields, {"lang_code": "en"}, strict=True).language == "en"
    with pytest.raises(MotetError):
        validated(Fields, {"lang_code": "en", "language": "de"}, strict=True)
