"""The work for any field of a request is bounded, or grows at most linearly with the input."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from deployments.errors import MotetError
from deployments.settings import PieceSettings
from deployments.tasks.piece_preparation import PieceMaker
from deployments.text.english import readable
from deployments.text.lexicon import Lexicon
from deployments.text.normalization.rules import ReadingRules
from deployments.text.phonemes import without_pronunciations
from deployments.text.segmentation import Cutter, cut_into_pieces
from deployments.text.speakers import turns
from deployments.validation import in_words
from serve_app.config import AppConfig
from serve_app.gateway.bodies.form_parser import FormParser
from serve_app.gateway.bodies.json_bodies import MAX_VALUES, check_structure, values_in
from serve_app.gateway.bodies.json_messages import fields_of, message_of
from serve_app.gateway.routes.speech_sessions import INPUTS
from tests.unit.fakes import TRAITS, SilentGraph
from tests.unit.growth import check_growth
from tests.unit.odd_inputs import ODD
from tests.unit.test_api import JSON, Bench, Splitter

PIECES = PieceSettings()
odd = pytest.mark.parametrize("unit", ODD.values(), ids=ODD.keys())


def repeated(unit: str, characters: int) -> str:
    return unit * (characters // len(unit))


# --- Text


@odd
def test_a_text_is_cut(unit: str) -> None:
    check_growth(lambda n: partial(cut_into_pieces, repeated(unit, n), PIECES), 5_000)


SHORT_PIECES = PieceSettings(first_piece_characters=40, piece_characters=80)
"""Each letter costs more until the text is longer than a piece or two, and after that the same: short pieces end that soon."""


@odd
def test_a_text_is_cut_as_it_is_written_letter_by_letter(unit: str) -> None:
    def written(text: str) -> None:
        cutter = Cutter(SHORT_PIECES)
        for letter in text:
            cutter.write(letter)
            list(cutter.settled())

    check_growth(lambda n: partial(written, repeated(unit, n)), 400)


@odd
def test_a_text_is_cut_where_it_pauses(unit: str) -> None:
    def paused(text: str) -> None:
        cutter = Cutter(PIECES)
        for start in range(0, len(text), 10):
            cutter.write(text[start : start + 10])
            cutter.flush_words()
            list(cutter.settled())

    check_growth(lambda n: partial(paused, repeated(unit, n)), 1_500)


@odd
def test_a_script_is_read(unit: str) -> None:
    check_growth(lambda n: partial(turns, repeated(unit, n)), 20_000)


MARKUP = (
    "<break/>a ",
    "<p>a</p>",
    "<sub alias='b c'>a. </sub>",
    "<prosody rate='slow'>a</prosody>",
    "&amp;",
    "<!-- a -->",
)


@pytest.mark.parametrize("unit", [*(unit.replace("&", "&amp;").replace("<", "&lt;") for unit in ODD.values()), *MARKUP])
def test_a_document_is_read_and_cut(unit: str) -> None:
    lexicon = Lexicon({"a": "b", "a a": "/b/", "aa": "c"})
    maker = PieceMaker(replace(TRAITS, phonemes=True), "ada", (lexicon,), ReadingRules())

    def read(document: str) -> None:
        with suppress(MotetError):  # no words, or too many breaks
            maker.of_ssml(document, PIECES, {})

    check_growth(lambda n: partial(read, f"<speak>{repeated(unit, n)}</speak>"), 4_000)


@pytest.mark.parametrize("unit", [*ODD.values(), "[a](/a/)", "[a](/", "[[", "[a]("])
def test_pronunciations_are_found(unit: str) -> None:
    check_growth(lambda n: partial(without_pronunciations, repeated(unit, n)), 10_000)


@odd
def test_english_is_made_readable(unit: str) -> None:
    check_growth(lambda n: partial(readable, repeated(unit, n)), 10_000)


@cache
def phonemize() -> Callable[[str], Any]:
    from hibari import Hibari

    voice = Hibari(threads=1)
    voice.phonemize("Zorbly quimth.")  # loads what reads unknown words
    return lambda text: voice.phonemize(readable(text))


@odd
def test_hibari_reads_a_piece(unit: str) -> None:
    """It has no bound of its own: 250 characters such as `1-1-1-` took it three seconds, in which nobody else was served."""
    read = phonemize()
    check_growth(lambda n: partial(read, repeated(unit, n)), 90)


# --- Messages


def message_with(field: str, text: str) -> str:
    return json.dumps({"type": "session.config", "model": "tone", field: text})


@pytest.mark.parametrize(
    "field", ["type", "model", "voice", "response_format", "speed", "instructions", "seed", "pacing"]
)
@odd
def test_a_field_of_a_session(field: str, unit: str) -> None:
    check_growth(lambda n: refused(message_with(field, repeated(unit, n))), 8_000)


@odd
def test_a_key_of_a_session(unit: str) -> None:
    check_growth(lambda n: refused(message_with(repeated(unit, n), "x")), 8_000)


@odd
def test_a_text_of_a_session(unit: str) -> None:
    def text(n: int) -> str:
        return json.dumps({"type": "input.text", "text": repeated(unit, n)})

    check_growth(lambda n: refused(text(n)), 8_000)


@pytest.mark.parametrize("unit", ["[", "[],", '{"a":', '"k":1,', "1,", "1", '"",', "\\", '"\\"",', "{", '"', " "])
def test_a_message_of_anything(unit: str) -> None:
    check_growth(lambda n: refused('{"type":"input.text","text":' + repeated(unit, n)), 8_000)


def refused(message: str) -> Callable[[], None]:
    def parse() -> None:
        try:
            message_of(fields_of(message, 1024 * 1024), INPUTS, strict=False)
        except MotetError as error:
            assert len(str(error)) < 1500

    return parse


# --- JSON bodies


DEEP = {
    "keys": ('"k%d":1,', 60_000),
    "lists": ("[],", 300_000),
    "nested lists": ("[" * 150 + "]" * 150 + ",", 3_000),
    "objects": ("{},", 300_000),
    "numbers": ("1,", 500_000),
    "strings": ('"",', 300_000),
    "quotes in strings": ('"\\"",', 200_000),
    "one quote": ('"', 1),
}


@pytest.mark.parametrize(("unit", "times"), DEEP.values(), ids=DEEP.keys())
def test_a_body_of_many_values_is_refused_before_it_is_parsed(unit: str, times: int) -> None:
    """A megabyte of nested lists takes a parser 1.4 s."""
    inside = "".join(unit % n for n in range(times)) if "%" in unit else unit * times
    body = f'{{"x":[{inside}1]}}'.encode()
    if times == 1:
        check_structure(body)
    else:
        with pytest.raises(MotetError, match="more than 256"):
            check_structure(body)


@pytest.mark.parametrize(
    ("body", "least"),
    [
        ('{"a": 1, "b": [1, 2, {"c": "d"}]}', 8),
        ('{"input": "one, two, [three], {four}: \\"five, six\\" \\\\"}', 3),
        ("[]", 1),
        ("", 0),
    ],
)
def test_values_are_counted_outside_of_strings(body: str, least: int) -> None:
    assert least <= values_in(body.encode()) <= 2 * least + 1


def test_the_longest_text_is_no_reason_to_refuse_a_body() -> None:
    check_structure(json.dumps({"model": "m", "input": '"[{,:\\' * 60_000}).encode())


def test_every_mistake_of_a_file_is_told_in_time() -> None:
    def mistaken(count: int) -> Callable[[], list[str]]:
        try:
            AppConfig.model_validate({f"k{n}": 1 for n in range(count)})
        except ValueError as error:
            fault: Any = error
        return lambda: in_words(fault, AppConfig)

    assert len(mistaken(100)()) == 100
    check_growth(mistaken, 400)


# --- Forms


def form(name: str, value: str, times: int = 1, header: str = "") -> bytes:
    part = f'--b\r\ncontent-disposition: form-data; name="{name}"\r\n{header}\r\n{value}\r\n'
    return (part * times + "--b--\r\n").encode(errors="replace")


def parsing(data: bytes) -> Callable[[], None]:
    def parse() -> None:
        parser = FormParser("multipart/form-data; boundary=b")
        try:
            for start in range(0, len(data), 4096):
                parser.feed(data[start : start + 4096])
            parser.end()
        except MotetError as error:
            assert len(str(error)) < 500
        finally:
            parser.close()

    return parse


def built(build: Callable[[str], bytes], unit: str, characters: int) -> Callable[[], None]:
    return parsing(build(repeated(unit, characters)))


@odd
def test_a_form(unit: str) -> None:
    for build in (
        lambda text: form("a", text),
        lambda text: form(text, "a"),
        lambda text: form('a"; filename="f', text),
        lambda text: form("a", "a", header=f"{text}: a\r\n"),
        lambda text: form("a", "a", header=f"a: {text}\r\n"),
        lambda text: text.encode(errors="replace"),
    ):
        check_growth(partial(built, build, unit), 12_000)


def test_a_form_of_many_parts() -> None:
    check_growth(lambda n: parsing(form("a", "a", n)), 1_000)


@pytest.mark.parametrize("border", ["\r\n--b", "\r\n--bx", "\r\n--", "\r"])
def test_a_file_full_of_what_looks_like_borders(border: str) -> None:
    check_growth(lambda n: parsing(form('a"; filename="f', border * n)), 4_000)


# --- Whole requests


SPEECH_FIELDS = (
    *("model", "voice", "response_format", "speed", "instructions", "seed", "pacing", "stream_format", "unknown"),
)
FORM_FIELDS = {
    "/v1/audio/transcriptions": (
        *("model", "language", "prompt", "response_format", "temperature", "stream", "timestamp_granularities[]", "x"),
        *("keywords[]", "languages", "include[]", "chunking_strategy", "chunking_strategy[type]", "speakers"),
        *("known_speaker_names[]", "known_speaker_references[]"),
    ),
    "/v1/audio/translations": ("model", "language", "prompt"),
    "/v1/audio/diarizations": ("known_speaker_names", "known_speaker_references", "num_speakers", "response_format"),
    "/v1/audio/speech/timestamps": ("threshold", "speech_pad_ms", "max_speech_duration_s", "x"),
    "/v1/audio/embeddings": ("encoding_format", "x"),
    "/v1/audio/separations": (
        *("model", "description", "chunk_seconds", "overlap_seconds", "response_format", "stream_format", "stems", "x"),
    ),
    "/v1/audio/enhancements": ("model", "response_format", "stream_format", "x"),
    "/v1/audio/revoice": (
        *("model", "voice", "transcription_model", "separation_model", "language", "translate", "background"),
        *(
            "speaker_voices",
            "speaker_voices[A]",
            "max_speed",
            "instructions",
            "seed",
            "loudness_lufs",
            "sample_rate",
            "response_format",
            "stream_format",
            "x",
        ),
    ),
    "/v1/audio/voices": ("name", "consent", "text", "type", "x"),
}
GOOD = {
    "/v1/audio/separations": {"model": "echo"},
    "/v1/audio/revoice": {"model": "tone"},
    "/v1/audio/voices": {"name": "a", "consent": "I agree to this."},
}
HEADERS = ("host", "origin", "authorization", "last-event-id", "content-type", "accept", "x-request-id")


def requests_with(text: str) -> Iterator[dict[str, Any]]:
    """A request for each place in which a client may write something."""
    speech = "/v1/audio/speech"
    good = {"model": "tone", "input": "Hello.", "response_format": "pcm"}
    for field in SPEECH_FIELDS:
        yield {"method": "POST", "url": speech, "content": as_json({**good, field: text}), "headers": JSON}
    yield {"method": "POST", "url": speech, "content": as_json({**good, text: 1}), "headers": JSON}
    yield {"method": "POST", "url": speech, "content": as_json({**good, "voice": {text: text}}), "headers": JSON}
    yield {"method": "POST", "url": speech, "content": text.encode(errors="replace"), "headers": JSON}
    for path, fields in FORM_FIELDS.items():
        for field in fields:
            data = {"model": "ear", **GOOD.get(path, {}), field: text.encode(errors="replace")}
            files = {"audio_sample" if path.endswith("voices") else "file": b"RIFF"}
            yield {"method": "POST", "url": path, "data": data, "files": files}
    for header in HEADERS:
        value = text.encode(errors="replace").translate(None, b"\r\n\0")[:60_000]
        yield {"method": "POST", "url": speech, "json": good, "headers": {header: value}}
    query = {"model": text.encode(errors="replace").decode()[:5_000]}
    yield {"method": "GET", "url": "/v1/audio/voices", "params": query}
    yield {"method": "GET", "url": "/v1/audio/voices/" + safe(text)}
    yield {"method": "DELETE", "url": "/v1/audio/voices/" + safe(text)}
    yield {"method": "GET", "url": "/v1/models/" + safe(text)}
    yield {"method": "GET", "url": "/v1/" + safe(text)}


def as_json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


def safe(text: str) -> str:
    return "".join(c if c.isalnum() and c.isascii() else "." for c in text)[:60_000]


@odd
def test_every_field_of_every_route(unit: str, tmp_path: Path) -> None:
    bench = Bench(separator=Splitter(), graph=SilentGraph("speech", "noise"), voices={"folder": str(tmp_path)})
    with asyncio.Runner() as runner:
        for small, large in zip(
            requests_with(repeated(unit, 8_000)), requests_with(repeated(unit, 32_000)), strict=True
        ):
            pair = {8_000: small, 32_000: large}
            check_growth(partial(asking, bench, runner, pair), 8_000)


def asking(bench: Bench, runner: asyncio.Runner, requests: dict[int, Any], size: int) -> Callable[[], None]:
    return lambda: runner.run(answered(bench, requests[size]))


async def answered(bench: Bench, request: dict[str, Any]) -> None:
    answer: httpx.Response = await bench.client.request(**request)
    assert answer.status_code < 500, (request["url"], answer.text[:300])
    if answer.status_code >= 400:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert len(answer.text) < 2_000


def test_the_bound_is_far_above_what_a_request_has() -> None:
    assert len(SPEECH_FIELDS) * 8 < MAX_VALUES
