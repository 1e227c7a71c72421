"""Random requests that are almost valid: every answer is quick, has the documented shape, and is not a server error.

The normal suite sends a few hundred; `MOTET_ODD_REQUESTS=50000 pytest tests/unit/test_odd_requests.py` sends as many.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.unit.fakes import SilentGraph
from tests.unit.odd_inputs import ODD
from tests.unit.test_api import JSON, Bench, Splitter
from tests.unit.test_growth import FORM_FIELDS, SPEECH_FIELDS
from tests.unit.test_recording_routes import Analyses

EXAMPLES = int(os.environ.get("MOTET_ODD_REQUESTS", "400"))
"""Half of them JSON, half forms."""
LONGEST_S = 1.0
"""Processor time of one request."""

pytestmark = [
    pytest.mark.timeout(120 + EXAMPLES),
    pytest.mark.filterwarnings("ignore:Generating overly large repr"),  # some examples are long
]

sent = settings(
    max_examples=EXAMPLES // 2,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
    database=None,
)


@cache
def service() -> tuple[Bench, asyncio.Runner]:
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"odd-voices-{os.getpid()}"
    graph = SilentGraph("speech", "noise")
    bench = Bench(separator=Splitter(), graph=graph, analyses=Analyses(), voices={"folder": str(folder)})
    return bench, asyncio.Runner()


@pytest.fixture(scope="module", autouse=True)
def _closed() -> Iterator[None]:
    yield
    service()[1].close()


def check(path: str, content: bytes, headers: Mapping[str, str | bytes]) -> None:
    bench, runner = service()
    gc.disable()  # hypothesis keeps what it drew: a collection may fall into any request, and is not the request's work
    begin = time.process_time()
    answer = runner.run(bench.client.post(path, content=content, headers=cast("Any", dict(headers))))
    took = time.process_time() - begin
    gc.enable()
    assert answer.status_code < 500, answer.text
    assert took < LONGEST_S
    if answer.status_code >= 400:
        check_error(answer)


def check_error(answer: httpx.Response) -> None:
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert 10 < len(error["message"]) < 2_000
    assert "Traceback" not in error["message"]


# --- JSON


odd_text = st.one_of(
    st.text(max_size=40),
    st.builds(lambda unit, times: unit * times, st.sampled_from(list(ODD.values())), st.sampled_from([1, 3, 40, 400])),
    st.sampled_from(
        ["tone", "tts-1", "ada", "pcm", "mp3", "wav", "sse", "audio", "Hello.", "", "1", "0.5", "nan", "1e999"]
    ),
)
odd_value = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([2**63, -1, 10**400, 0]),
        st.floats(),
        odd_text,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(odd_text, inner, max_size=5)),
    max_leaves=12,
)
keys = st.one_of(st.sampled_from([*SPEECH_FIELDS, "input", "id"]), odd_text)
good_fields = st.fixed_dictionaries(
    {"model": st.just("tone"), "input": odd_text},
    optional={
        "voice": st.sampled_from(["ada", "bo", "alloy", None, {"id": "bo"}]),
        "response_format": st.sampled_from(["pcm", "wav", "mp3", "flac", "opus", "aac"]),
        "stream_format": st.sampled_from(["audio", "sse"]),
        "speed": st.floats(0.25, 4),
        "seed": st.integers(0, 2**63 - 1),
        "pacing": st.just("fast"),
    },
)
fields = st.one_of(
    st.dictionaries(keys, odd_value, max_size=6),
    st.builds(lambda good, odd: {**good, **odd}, good_fields, st.dictionaries(keys, odd_value, max_size=1)),
    odd_value,
)


def written(value: Any, ascii_only: bool) -> bytes:
    return json.dumps(value, ensure_ascii=ascii_only).encode(errors="surrogatepass")


def damaged(data: bytes, cuts: list[tuple[int, int, bytes]]) -> bytes:
    """With some stretches replaced."""
    for start, length, other in cuts:
        at = start % (len(data) + 1)
        data = data[:at] + other + data[at + length :]
    return data


damages = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 30), st.binary(max_size=20)), max_size=3)
many = st.sampled_from(
    [
        *(b"{" + b",".join(b'"k%d":1' % key for key in range(count)) + b"}" for count in (10, 100, 1_000, 60_000)),
        *(
            b'{"input":' + unit * times
            for unit in (b"[", b"[],", b'{"a":', b"1", b'"\\"",')
            for times in (3, 100, 50_000)
        ),
    ]
)
json_bodies = st.one_of(
    st.builds(written, fields, st.booleans()),
    st.builds(damaged, st.builds(written, fields, st.booleans()), damages),
    many,
    st.binary(max_size=200),
)


@sent
@given(json_bodies)
def test_json_bodies(body: bytes) -> None:
    check("/v1/audio/speech", body, JSON)


# --- Forms


RECORDING = ("file", "audio_sample", "reference", "other")
names = st.one_of(st.sampled_from(sorted({name for own in FORM_FIELDS.values() for name in own})), odd_text)
values = st.one_of(
    odd_text,
    st.sampled_from(
        ["ear", "echo", "json", "srt", "rttm", "speech", "speech,noise", "0", "1", "true", "en-US", "word"]
    ),
    st.sampled_from(["logprobs", "auto", '{"type":"server_vad"}', "data:audio/wav;base64,UklGRg==", "separate"]),
)
text_part = st.tuples(names, st.none(), values.map(lambda text: text.encode(errors="replace")))
file_part = st.tuples(st.sampled_from(RECORDING), odd_text, st.binary(max_size=300))
right_parts = st.sampled_from(
    [
        [("model", None, b"ear"), ("file", "a.wav", b"RIFF")],
        [("model", None, b"echo"), ("file", "a.wav", b"RIFF")],
        [("name", None, b"Ada"), ("consent", None, b"I agree to this."), ("audio_sample", "a.wav", b"RIFF")],
    ]
)
parts = st.builds(
    lambda right, odd, times: [*right, *odd * times],
    st.one_of(right_parts, st.just([])),
    st.lists(st.one_of(text_part, file_part), max_size=5),
    st.sampled_from([1, 1, 1, 20]),
)


def form(parts: list[tuple[str, str | None, bytes]]) -> bytes:
    data = b""
    for name, filename, content in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename is not None else "")
        data += b"--b\r\ncontent-disposition: " + disposition.encode(errors="replace") + b"\r\n\r\n" + content + b"\r\n"
    return data + b"--b--\r\n"


form_bodies = st.one_of(
    parts.map(form), st.builds(damaged, parts.map(form), damages), st.binary(max_size=200), st.just(b"--b\r\n" * 20_000)
)
borders = st.sampled_from(["b", "b", "b", "b", '"b"', "", "x" * 300, "ä", "b; charset=utf-7"])


@sent
@given(st.sampled_from(sorted(FORM_FIELDS)), form_bodies, borders)
def test_forms(path: str, body: bytes, border: str) -> None:
    content_type = f"multipart/form-data; boundary={border}".encode()
    check(path, body, {"content-type": content_type})
