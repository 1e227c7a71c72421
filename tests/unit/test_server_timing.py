"""The header `Server-Timing` of answers with a first result."""

from __future__ import annotations

import re

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from serve_app.gateway.middleware.request_log import RequestLog
from serve_app.gateway.middleware.server_timing import ServerTiming
from serve_app.gateway.request_context import current_request


async def answer(request: Request) -> Response:
    if request.path_params["what"] != "nothing":
        current_request().note_first_result()
    own = {"server-timing": "own;dur=1"} if request.path_params["what"] == "own" else None
    return PlainTextResponse("Text.", headers=own)


@pytest.mark.parametrize(
    ("what", "header"),
    [("text", r"first_result;dur=[\d.]+, total;dur=[\d.]+"), ("own", "own;dur=1"), ("nothing", "")],
)
def test_an_answer_says_when_its_first_result_was_there(what: str, header: str) -> None:
    app = RequestLog(ServerTiming(Starlette(routes=[Route("/{what}", answer)])), lambda record, route, status: None)
    given = TestClient(app).get(f"/{what}").headers.get("server-timing", "")
    assert re.fullmatch(header, given)
