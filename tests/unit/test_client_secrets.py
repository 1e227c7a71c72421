"""Client secrets: made with an API key, they open live sessions for some time, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import pytest
from openai.types.realtime import ClientSecretCreateResponse

from serve_app.edge.settings import SecuritySettings
from serve_app.gateway.api_keys import SIGNER_HEADER
from serve_app.gateway.client_secrets import NO_DIGEST, SecretGrant, client_secret, granted_by, signer_of
from tests.unit.jumping_clock import run
from tests.unit.live_fakes import FakeParts
from tests.unit.test_api import Bench
from tests.unit.test_speech_sessions import Socket, in_time

PATH = "/v1/realtime/client_secrets"
KEY = {"authorization": "Bearer key"}
DIGEST, OTHER = (hashlib.sha256(key).hexdigest() for key in (b"key", b"other"))
GRANT = SecretGrant(expires_at=1000, session={"type": "realtime"})


def service(*digests: str) -> Bench:
    return Bench(live=FakeParts().parts, security=SecuritySettings(api_key_sha256=digests))


def keyed(secret: str) -> dict[str, str]:
    return {"sec-websocket-protocol": f"realtime, openai-insecure-api-key.{secret}"}


async def made(bench: Bench, **body: Any) -> dict[str, Any]:
    answer = await bench.client.post(PATH, json=body, headers=KEY)
    assert answer.status_code == 200, answer.text
    secret: dict[str, Any] = answer.json()
    assert ClientSecretCreateResponse.model_validate(secret).value == secret["value"]
    return secret


async def opened(bench: Bench, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """The status of the answer to a handshake, 101 for an open WebSocket, and the error or the session."""
    socket = Socket(bench, headers, "/v1/realtime")
    first, second = await socket.received(), await socket.received()
    socket.leave()
    await socket.over()
    if first["type"] == "websocket.accept":
        return 101, json.loads(second["text"])["session"]
    return first["status"], json.loads(second["body"])["error"]


def test_a_secret_is_valid_for_its_key_until_it_expires() -> None:
    secret = client_secret(DIGEST, GRANT)
    assert signer_of(secret, (OTHER, DIGEST), 999.9) == DIGEST
    assert granted_by(secret) == GRANT
    assert signer_of(secret, (OTHER, DIGEST), 1000.0) is None
    assert signer_of(secret, (OTHER,), 0.0) is None


def signed(payload: bytes) -> str:
    """What anyone can make for a service without API keys."""
    encoded = base64.urlsafe_b64encode(payload).rstrip(b"=")
    signature = base64.urlsafe_b64encode(hmac.digest(NO_DIGEST.encode(), encoded, "sha256")).rstrip(b"=")
    return f"ek_{encoded.decode()}.{signature.decode()}"


LATER = client_secret(DIGEST, SecretGrant(expires_at=2000, session={})).partition(".")[0]
FORGED = {
    "other payload": LATER + "." + client_secret(DIGEST, GRANT).partition(".")[2],
    "no signature": LATER,
    "no payload": "ek_." + client_secret(DIGEST, GRANT).partition(".")[2],
    "other letters": "ek_\xe9.\xe9",
    "signed rubbish": signed(b'{"expires_at": "soon", "session": {}}'),
}


@pytest.mark.parametrize("secret", FORGED.values(), ids=FORGED)
def test_a_forged_secret_has_no_signer(secret: str) -> None:
    assert signer_of(signed(GRANT.model_dump_json().encode()), (NO_DIGEST,), 0.0) is not None
    assert signer_of(secret, (DIGEST, NO_DIGEST), 0.0) is None


@in_time
async def test_a_secret_opens_the_session_that_it_was_made_for() -> None:
    bench = service(OTHER, DIGEST)
    secret = await made(
        bench,
        session={"type": "realtime", "model": "gpt-realtime", "instructions": "Be brief."},
        expires_after={"seconds": 60},
    )
    assert secret["expires_at"] - time.time() == pytest.approx(60, abs=5)
    assert secret["session"]["instructions"] == "Be brief."
    for headers in (keyed(secret["value"]), {"authorization": f"Bearer {secret['value']}"}):
        status, session = await opened(bench, headers)
        assert (status, session["instructions"], session["model"]) == (101, "Be brief.", "gpt-realtime")
    assert (await opened(service(OTHER), keyed(secret["value"])))[0] == 401


@in_time
async def test_a_secret_of_a_transcription_opens_one() -> None:
    bench = service(DIGEST)
    hints = {"model": "ear", "language": "en"}
    secret = await made(bench, session={"type": "transcription", "audio": {"input": {"transcription": hints}}})
    assert secret["session"]["object"] == "realtime.transcription_session"
    status, session = await opened(bench, keyed(secret["value"]))
    assert (status, session["type"]) == (101, "transcription")
    assert session["audio"]["input"]["transcription"]["language"] == "en"


@in_time
async def test_without_api_keys_a_secret_brings_its_session() -> None:
    bench = service()
    secret = await made(bench, session={"type": "transcription"})
    assert (await opened(bench, keyed(secret["value"])))[1]["type"] == "transcription"
    status, error = await opened(bench, keyed(secret["value"] + "x"))
    assert (status, error["code"]) == (401, "invalid_api_key")


@in_time
async def test_a_secret_opens_nothing_else() -> None:
    bench = service(DIGEST)
    secret = (await made(bench))["value"]
    for method, path in (("GET", "/v1/models"), ("POST", PATH), ("POST", "/v1/audio/speech")):
        answer = await bench.client.request(method, path, headers={"authorization": f"Bearer {secret}"}, json={})
        assert answer.status_code == 401, path
    signed = {SIGNER_HEADER: DIGEST}
    assert (await bench.client.get("/v1/models", headers=signed)).status_code == 401
    assert (await opened(bench, {**signed, **keyed("ek_none.none")}))[0] == 401


WRONG = {
    "unknown field": (
        {"session": {"type": "realtime", "audio": {"input": {"turn_detection": 5}}}},
        400,
        "session.audio",
    ),
    "conversation model": ({"session": {"type": "realtime", "model": "tone"}}, 404, "model"),
    "too long": ({"session": {"type": "realtime", "instructions": "m" * 6000}}, 413, "session"),
    "too late": ({"expires_after": {"anchor": "created_at", "seconds": 7201}}, 400, "expires_after"),
}


@pytest.mark.parametrize(("body", "status", "param"), WRONG.values(), ids=WRONG)
def test_a_wrong_request_names_its_field(body: dict[str, Any], status: int, param: str) -> None:
    async def test() -> None:
        answer = await service().client.post(PATH, json=body)
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["param"].startswith(param)

    run(test)
