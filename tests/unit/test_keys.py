"""API keys with names: what each may do, its quotas, its end, and how it is replaced without a restart."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from typer.testing import CliRunner

from deployments.errors import MotetError
from serve_app.cli import command_group
from serve_app.config import AppConfig
from serve_app.edge.settings import KeySettings, SecuritySettings
from serve_app.gateway.api_keys import SIGNER_HEADER
from serve_app.gateway.audit import MARK
from serve_app.gateway.key_quotas import QuotaBucket
from serve_app.gateway.key_ring import KeyRing
from serve_app.gateway.middleware.keys import OwnerRights
from serve_app.gateway.request_context import current_key
from tests.unit.test_api import Bench


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def key(text: str, **settings: Any) -> dict[str, Any]:
    return {"sha256": [digest(text)], **settings}


def bench(**keys: dict[str, Any]) -> Bench:
    return Bench(security=SecuritySettings.model_validate({"keys": keys}))


def sends(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


async def asked(service: Bench, text: str, path: str = "/v1/models/tone") -> httpx.Response:
    return await service.client.get(path, headers=sends(text))


async def spoken(service: Bench, text: str, model: str = "tone") -> httpx.Response:
    body = {"model": model, "input": "Hello there.", "response_format": "pcm"}
    return await service.client.post("/v1/audio/speech", json=body, headers=sends(text))


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.fixture
def audited(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Gives the lines of the audit log so far."""
    monkeypatch.setattr(logging.getLogger("ray.serve"), "propagate", True)
    caplog.set_level(logging.WARNING)

    def lines() -> list[dict[str, Any]]:
        texts = (record.getMessage() for record in caplog.records)
        return [json.loads(text.removeprefix(MARK)) for text in texts if text.startswith(MARK)]

    return lines


async def test_a_named_key_opens_the_service_and_another_does_not(audited: Any) -> None:
    service = bench(alice=key("secret-of-alice"))
    assert (await asked(service, "secret-of-alice")).status_code == 200
    for wrong in ("secret-of-alicf", "", digest("secret-of-alice")):
        refused = await asked(service, wrong)
        assert code(refused) == (401, "invalid_api_key")
        assert refused.headers["www-authenticate"] == "Bearer"
    refusals = [line for line in audited() if line["act"] == "key_refused"]
    assert [line["reason"] for line in refusals] == ["invalid_api_key"] * 3
    assert refusals[0]["route"] == "GET /v1/models/tone"


async def test_no_line_of_the_log_has_a_key_or_its_digest(caplog: pytest.LogCaptureFixture, audited: Any) -> None:
    service = bench(alice=key("secret-of-alice", expires=date(2020, 1, 1)))
    await asked(service, "secret-of-alice")
    await asked(service, "secret-of-bob")
    assert len(audited()) >= 2
    for text in ("secret-of", digest("secret-of-alice"), digest("secret-of-bob")):
        assert text not in caplog.text


async def test_an_expired_key_says_so(audited: Any) -> None:
    service = bench(alice=key("a", expires=date(2020, 1, 1)), bob=key("b", expires=date(9999, 1, 1)))
    assert code(await asked(service, "a")) == (401, "expired_api_key")
    assert audited()[-1]["key"] == "alice"
    assert (await asked(service, "b")).status_code == 200


async def test_a_key_uses_its_models_only_and_sees_no_others(audited: Any) -> None:
    service = bench(alice=key("a", models=["tone"]), bob=key("b", models=["ear"]), all=key("c"))
    assert (await spoken(service, "a")).status_code == (await spoken(service, "c")).status_code == 200
    for model in ("tone", "tts-1"):
        refused = await spoken(service, "b", model)
        assert code(refused) == (403, "model_not_allowed")
        assert "Use one of: ear." in refused.json()["error"]["message"]
    assert audited()[-1] == {**audited()[-1], "act": "key_refused", "key": "bob", "model": "tone"}
    listed = (await asked(service, "a", "/v1/models")).json()["data"]
    assert {model["id"] for model in listed} == {"tone", "tts-1"}
    assert code(await asked(service, "b", "/v1/models/tone")) == (404, "model_not_found")


async def test_a_quota_of_requests_is_429_with_the_time_to_wait() -> None:
    service = bench(alice=key("a", requests_per_minute=2), bob=key("b"))
    assert [(await asked(service, "a")).status_code for _ in range(2)] == [200, 200]
    refused = await asked(service, "a")
    assert code(refused) == (429, "request_quota")
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert (await asked(service, "b")).status_code == 200


async def test_a_quota_of_audio_is_charged_with_what_was_made() -> None:
    service = bench(alice=key("a", seconds_of_audio_per_minute=0.01))
    first = await spoken(service, "a")
    assert first.status_code == 200
    alice = service.service.keys.find(digest("a"))
    assert alice is not None and alice.audio.left is not None
    seconds = len(first.content) / 2 / int(first.headers["x-sample-rate"])
    assert alice.audio.left == pytest.approx(0.01 - seconds, abs=0.01)
    refused = await spoken(service, "a")
    assert code(refused) == (429, "audio_quota")
    assert int(refused.headers["retry-after"]) > 60
    assert (await asked(service, "a")).status_code == 200  # it needs no audio


async def test_admin_keys_are_apart(audited: Any) -> None:
    service = bench(root=key("r", admin=True), alice=key("a", requests_per_minute=60))
    assert code(await asked(service, "r")) == (403, "admin_key_only")
    assert code(await asked(service, "a", "/v1/admin/keys")) == (403, "admin_key_needed")
    assert code(await asked(service, "x", "/v1/admin/keys")) == (401, "invalid_api_key")
    answer = await asked(service, "r", "/v1/admin/keys")
    assert [each["name"] for each in answer.json()["data"]] == ["root", "alice"]
    assert answer.json()["data"][1]["left"]["requests"] == pytest.approx(60, abs=1)
    assert digest("a") not in answer.text
    assert audited()[-1]["act"] == "keys_listed" and audited()[-1]["key"] == "root"


async def test_a_service_without_keys_administers_for_nobody() -> None:
    assert code(await Bench().client.get("/v1/admin/keys")) == (403, "admin_key_needed")


@pytest.mark.parametrize(
    ("settings", "headers", "client", "allowed"),
    [
        pytest.param({}, {}, "127.0.0.1", True, id="the service's machine"),
        pytest.param({}, {}, "192.0.2.7", False, id="another machine"),
        pytest.param({}, {"x-motet-client": "192.0.2.7"}, "127.0.0.1", False, id="another machine, through HAProxy"),
        pytest.param({}, {"x-forwarded-for": "192.0.2.7"}, "127.0.0.1", False, id="another machine, through a proxy"),
        pytest.param({}, {"host": "speech.example.com"}, "127.0.0.1", False, id="a proxy without such headers"),
        pytest.param({}, {"origin": "http://localhost"}, "127.0.0.1", True, id="the service's own page"),
        pytest.param(
            {}, {"origin": "https://app.example"}, "127.0.0.1", False, id="another page that may use the service"
        ),
        pytest.param({"local_models": False}, {}, "127.0.0.1", False, id="switched off"),
        pytest.param({"api_key_sha256": [digest("a")]}, sends("a"), "127.0.0.1", False, id="a service with keys"),
    ],
)
async def test_without_keys_only_the_services_own_machine_changes_models(
    settings: dict[str, Any], headers: dict[str, str], client: str, allowed: bool
) -> None:
    pages = {"allowed_hosts": ["speech.example.com"], "allowed_origins": ["https://app.example"]}
    service = Bench(security={**pages, **settings})
    transport = httpx.ASGITransport(service.api, client=(client, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as caller:
        answers = [await caller.get("/v1/admin/models"), await caller.delete("/v1/models/unknown")]
        answers.append(await caller.delete("/v1/registry/unknown"))
        assert code(await caller.get("/v1/admin/keys")) == (403, "admin_key_needed")
    refused = [answer.status_code == 403 and code(answer)[1] == "admin_key_needed" for answer in answers]
    assert refused == [not allowed] * 3, [answer.text for answer in answers]


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def written(path: Path, **keys: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(keys))


def put(path: Path, content: str | None) -> None:
    """A file of this content, or none."""
    if content is None:
        path.unlink()
    else:
        path.write_text(content)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.yaml"
    written(path, alice=key("old", requests_per_minute=10))
    return path


async def test_a_key_is_replaced_without_a_restart_and_keeps_its_owner_and_quota(file: Path, audited: Any) -> None:
    clock = Clock()
    ring = KeyRing(SecuritySettings(keys_file=str(file)), clock)
    old = ring.find(digest("old"))
    assert old is not None
    old.count_request()
    written(file, alice=key("new", requests_per_minute=10), bob=key("b"))
    await ring.refresh()
    assert ring.find(digest("new")) is None  # it has just looked
    clock.now_s += 2.0
    await ring.refresh()
    new = ring.find(digest("new"))
    assert ring.find(digest("old")) is None
    assert new is not None and new.owner == old.owner == ring.owner(digest("new"))
    assert new.requests.left == pytest.approx(9 + 2 * 10 / 60)
    assert audited()[-1] == {"act": "keys_changed", "added": ["bob"], "changed": ["alice"]}


@pytest.mark.parametrize(
    "content", ["alice: [", "alice: {sha256: [xyz]}", "alice: {sha256: []}", "- a", "a: {sha: b}", None]
)
async def test_a_file_that_is_wrong_changes_nothing(content: str | None, file: Path, audited: Any) -> None:
    clock = Clock()
    ring = KeyRing(SecuritySettings(keys_file=str(file)), clock)
    put(file, content)
    clock.now_s += 2.0
    await ring.refresh()
    assert ring.find(digest("old")) is not None
    assert audited()[-1]["act"] == "keys_file_refused"
    assert "xyz" not in json.dumps(audited()[-1])
    with pytest.raises(MotetError, match="keys file"):
        KeyRing(SecuritySettings(keys_file=str(file)))


async def test_a_second_entry_of_a_name_does_not_revoke_the_first(file: Path, audited: Any) -> None:
    clock = Clock()
    ring = KeyRing(SecuritySettings(keys_file=str(file)), clock)
    put(file, yaml.safe_dump({"alice": key("old")}) + yaml.safe_dump({"alice": key("new")}))
    clock.now_s += 2.0
    await ring.refresh()
    assert ring.find(digest("old")) is not None
    assert ring.find(digest("new")) is None
    assert "add the new digest to the list `sha256`" in audited()[-1]["cause"]
    assert digest("new") not in json.dumps(audited()[-1])
    with pytest.raises(MotetError, match="line 4 has the name of an earlier entry"):
        KeyRing(SecuritySettings(keys_file=str(file)))


async def test_a_file_without_keys_lets_nobody_in(file: Path) -> None:
    put(file, "")
    service = Bench(security=SecuritySettings(keys_file=str(file)))
    assert code(await service.client.get("/v1/models")) == (401, "invalid_api_key")


async def test_two_digests_of_one_key_are_one_client() -> None:
    ring = KeyRing(SecuritySettings(keys={"alice": KeySettings(sha256=(digest("old"), digest("new")))}))
    assert ring.find(digest("old")) is ring.find(digest("new"))
    assert len(list(ring.named())) == 1


def test_secrets_end_with_their_key() -> None:
    keys = {
        "ended": KeySettings(sha256=(digest("e"),), expires=date(2020, 1, 1)),
        "root": KeySettings(sha256=(digest("r"),), admin=True),
        "alice": KeySettings(sha256=(digest("a"),)),
    }
    assert KeyRing(SecuritySettings(keys=keys)).signers == (digest("a"),)


def test_two_keys_do_not_have_one_digest() -> None:
    with pytest.raises(ValueError, match="alice and bob have the same sha256"):
        SecuritySettings.model_validate({"keys": {"alice": key("a"), "bob": key("a")}})


def test_a_model_of_a_key_exists() -> None:
    AppConfig.model_validate({"security": {"keys": {"alice": key("a", models=["hibari"])}}})
    with pytest.raises(ValueError, match="there is no model 'tts-1'; write names"):
        AppConfig.model_validate({"security": {"keys": {"alice": key("a", models=["tts-1"])}}})


def test_a_quota_refills_and_what_was_taken_too_much_is_paid_back() -> None:
    clock = Clock()
    quota = QuotaBucket(60.0, clock)
    assert quota.wait_s() == quota.wait_s(60.0) == 0.0
    quota.take(90.0)
    assert quota.left == -30.0
    assert quota.wait_s() == pytest.approx(30.0)
    clock.now_s += 31.0
    assert quota.wait_s() == 0.0
    assert quota.wait_s(2.0) == pytest.approx(1.0)
    clock.now_s += 1000.0
    assert quota.left == 60.0
    unlimited = QuotaBucket(None, clock)
    unlimited.take(1e9)
    assert unlimited.wait_s(1e9) == 0.0 and unlimited.left is None


def made(*arguments: str) -> tuple[str, Any]:
    """The key that the command shows, and the lines that it prints."""
    result = CliRunner().invoke(command_group.app, ["keys", "new", *arguments])
    assert result.exit_code == 0, result.output
    shown = re.search(r"motet_[\w-]{43}", result.stderr)
    assert shown is not None
    assert shown[0] not in result.stdout
    return shown[0], yaml.safe_load(result.stdout)


def test_the_command_shows_a_key_once_and_prints_what_makes_it_known(file: Path) -> None:
    text, lines = made(
        "carol", "--models", "hibari, whisper-base", "--requests-per-minute", "60", "--expires", "2030-01-31"
    )
    file.write_text(yaml.safe_dump(lines))
    carol = KeyRing(SecuritySettings(keys_file=str(file))).find(digest(text))
    assert carol is not None and carol.name == "carol" and carol.settings is not None
    assert carol.settings.models == ("hibari", "whisper-base")
    assert (carol.settings.requests_per_minute, carol.settings.expires) == (60, date(2030, 1, 31))
    assert made("carol")[0] != text
    assert made("root", "--admin")[1]["root"]["admin"] is True


@pytest.mark.parametrize("arguments", [["Bad Name"], ["a", "--requests-per-minute", "0"], ["a", "--expires", "soon"]])
def test_the_command_refuses_what_the_configuration_would(arguments: list[str]) -> None:
    assert CliRunner().invoke(command_group.app, ["keys", "new", *arguments]).exit_code == 2


async def test_a_job_may_do_what_the_key_that_made_it_may() -> None:
    ring = KeyRing(SecuritySettings.model_validate({"keys": {"alice": key("a", models=["tone"]), "bob": key("b")}}))

    async def uses_ear(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(status_code=200 if current_key().may_use("ear") else 403)(scope, receive, send)

    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(OwnerRights(uses_ear, ring)), base_url="http://motet"
    ) as client:
        for owner, status in ((ring.owner(digest("a")), 403), (ring.owner(digest("b")), 200), ("somebody", 401)):
            assert (await client.get("/", headers={SIGNER_HEADER: owner})).status_code == status


@pytest.mark.parametrize("limit", [6.0, 60.0, 600.0])
def test_a_quota_whose_limit_changes_is_not_refilled(limit: float) -> None:
    clock = Clock()
    quota = QuotaBucket(60.0, clock)
    quota.take(45.0)
    quota.change(limit)
    assert quota.left == pytest.approx(0.25 * limit)
    quota.change(None)
    assert quota.left is None
    quota.change(60.0)
    assert quota.left == 60.0
