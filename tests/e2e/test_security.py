"""Which routes are open, and to which clients."""

from __future__ import annotations

import json
from http.client import HTTPConnection

import grpc
import httpx
import openai
import psutil
import pytest
from openai import OpenAI

from serve_app.edge.middleware import FIRST_BYTES

from .conftest import KEYS, Service, answers
from .test_doors import code_of


def test_rays_token_authentication_is_on_everywhere(service: Service) -> None:
    others = [process for process in service.processes() if process.pid != service.process.pid]
    rays = answers(others, psutil.Process.environ)
    assert len(rays) >= 10
    assert {environment.get("RAY_AUTH_MODE") for environment in rays} == {"token"}
    tokens = {environment.get("RAY_AUTH_TOKEN") for environment in rays}
    assert len(tokens) == 1
    assert len(tokens.pop() or "") >= 32


def test_ray_answers_only_its_own_token(service: Service) -> None:
    token = service.replica("gateway").environ()["RAY_AUTH_TOKEN"]
    with grpc.insecure_channel(service.cluster_address()) as channel:
        nodes = channel.unary_unary("/ray.rpc.NodeInfoGcsService/GetAllNodeInfo")
        assert code_of(nodes, token) is grpc.StatusCode.OK
        for wrong in (None, "", "0" * len(token), token[:-1]):
            assert code_of(nodes, wrong) is grpc.StatusCode.UNAUTHENTICATED


def test_keys_are_asked_for_before_the_rest_of_the_body_is_read(keyed_service: Service) -> None:
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Bearer {KEYS[0]}x"}):
        connection = HTTPConnection(keyed_service.host, keyed_service.port, timeout=10)
        connection.putrequest("POST", "/v1/audio/separations")
        for name, value in {**headers, "content-length": "1000000", "content-type": "audio/wav"}.items():
            connection.putheader(name, value)
        connection.endheaders(bytes(FIRST_BYTES))  # and no more of the body
        answer = connection.getresponse()
        assert answer.status == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        error = json.load(answer)["error"]
        assert (error["type"], error["code"]) == ("authentication_error", "invalid_api_key")
        assert "Authorization: Bearer" in error["message"]
        connection.close()


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/identity", "/v1/nope", "/%76%31/models", "/v1"])
def test_no_way_of_writing_v1_passes_without_a_key(path: str, keyed_service: Service) -> None:
    assert httpx.get(f"{keyed_service.url}{path}", timeout=20).status_code == 401


def test_openais_client_is_told_that_its_key_is_wrong(keyed_service: Service) -> None:
    with (
        OpenAI(base_url=f"{keyed_service.url}/v1", api_key="wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError, match="needs a key"),
    ):
        client.models.list()


@pytest.mark.parametrize("key", KEYS)
def test_every_known_key_passes(key: str, keyed_service: Service) -> None:
    with OpenAI(base_url=f"{keyed_service.url}/v1", api_key=key, max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["identity"]


def test_the_page_and_liveness_need_no_key(keyed_service: Service) -> None:
    with httpx.Client(base_url=keyed_service.url, timeout=20) as anyone:
        assert anyone.get("/livez").json() == {"status": "alive"}
        assert "Motet</title>" in anyone.get("/").text
        assert "import" in anyone.get("/page/app.js").text


def test_no_key_is_written_down(keyed_service: Service) -> None:
    assert KEYS[0] not in keyed_service.said
    environments = answers(keyed_service.processes(), psutil.Process.environ)
    assert not any(KEYS[0] in value for environment in environments for value in environment.values())
