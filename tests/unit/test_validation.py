"""Messages for values that pydantic refuses: every error of a file, the first few of a request."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.errors import MAX_QUOTE, clipped, quoted
from deployments.settings import StrictModel
from deployments.validation import LONGEST_KEY, in_words, nearest
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
    answer = await Bench().client.post("/v1/audio/speech", json=body, headers=JSON)
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
