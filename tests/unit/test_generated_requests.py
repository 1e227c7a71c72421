"""Requests that schemathesis makes of /openapi.json: none is a server error, and every answer is as the description says.

The normal suite sends a few of each operation; `MOTET_GENERATED_REQUESTS=1000 pytest tests/unit/test_generated_requests.py`
sends as many of each.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.core.result import Ok

from serve_app.gateway.api import ROUTES
from serve_app.gateway.description.openapi import openapi_document
from tests.unit.api_conformance import DIFFERENCES
from tests.unit.fakes import SilentGraph
from tests.unit.test_api import Bench, Splitter
from tests.unit.test_recording_routes import Analyses

EXAMPLES = int(os.environ.get("MOTET_GENERATED_REQUESTS", "8"))
"""Of each operation."""
ENDLESS = {"get_job_events"}
"""Operations whose answer ends with a job."""

pytestmark = pytest.mark.timeout(300 + EXAMPLES)

SCHEMA = schemathesis.openapi.from_dict(openapi_document(ROUTES, keyed=False))
FOUND = [found.ok() for found in SCHEMA.get_all_operations() if isinstance(found, Ok)]
OPERATIONS = {operation.definition.raw["operationId"]: operation for operation in FOUND}

sent = settings(max_examples=EXAMPLES, phases=(Phase.generate,), suppress_health_check=list(HealthCheck), database=None)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, asyncio.Runner]]:
    """The service over stand-ins, and the loop in which it runs."""
    folder = str(tmp_path_factory.mktemp("service"))
    graph = SilentGraph("speech", "noise")
    voices, jobs = {"folder": f"{folder}/voices"}, {"folder": f"{folder}/jobs"}
    bench = Bench(separator=Splitter(), graph=graph, analyses=Analyses(), voices=voices, jobs=jobs)
    with asyncio.Runner() as runner:
        yield bench, runner


def request_of(case: Any) -> dict[str, Any]:
    """A case as httpx's arguments."""
    arguments = case.as_transport_kwargs(base_url="http://motet")
    prepared = requests.Request(**arguments).prepare()
    content = prepared.body.encode() if isinstance(prepared.body, str) else prepared.body
    headers = {name: str(value).encode("latin-1", "replace") for name, value in prepared.headers.items() if value}
    return {"method": prepared.method, "url": prepared.url, "content": content, "headers": headers}


@pytest.mark.parametrize("name", sorted(OPERATIONS.keys() - ENDLESS))
def test_answers_are_as_described(name: str, service: tuple[Bench, asyncio.Runner]) -> None:
    bench, runner = service

    @sent
    @given(OPERATIONS[name].as_strategy())
    def send(case: Any) -> None:
        answer = runner.run(bench.client.request(**request_of(case)))
        assert answer.status_code < 500 or name == "get_readiness", answer.text  # the stand-ins are not ready
        assert DIFFERENCES == []

    send()


def test_every_operation_is_known() -> None:
    assert OPERATIONS.keys() > ENDLESS
    assert len(OPERATIONS) > 20
