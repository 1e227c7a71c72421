"""POST /v1/models, DELETE /v1/models/{id} and GET /v1/admin/models, over a stand-in for the loader."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.models import Model
from deployments.catalogue.installed import InstalledModels, RegistrySettings
from deployments.errors import fail
from deployments.hub import cache
from serve_app.edge.settings import SecuritySettings
from serve_app.gateway.request_context import REQUEST, RequestRecord
from serve_app.loading.records import GatewayAnswer, LoadState, ModelLoad
from tests.unit.test_api import Bench
from tests.unit.test_draining import Held
from tests.unit.test_idempotency import settle
from tests.unit.test_keys import audited, code, digest
from tests.unit.test_registry import COMMIT, NAME, added

__all__ = ["audited"]
ROOT, USER = {"authorization": "Bearer root"}, {"authorization": "Bearer user"}
BIRD = {"id": "bird", "engine": "simulated", "aliases": ["lark"]}


class ListedLoader:
    """A loader whose models become ready when the test says so."""

    def __init__(self) -> None:
        self.models: dict[str, ModelLoad] = {}

    def loaded(self) -> Sequence[ModelLoad]:
        return list(self.models.values())

    async def load(self, name: str, model: Model) -> ModelLoad:
        self.models[name] = ModelLoad(id=name, model=model, since=5.0)
        return self.models[name]

    async def unload(self, name: str) -> ModelLoad:
        if name not in self.models:
            raise fail("not_found", f"No model {name!r} was loaded.", code="model_not_found")
        return self.become(name, "unloading")

    def become(self, name: str, state: LoadState, cause: str = "") -> ModelLoad:
        self.models[name] = self.models[name].become(state, 6.0, cause)
        return self.models[name]


class AwayReplica:
    """A replica that does not say what it can do."""

    async def traits(self) -> None:
        raise fail("unavailable", "It does not answer.")


class LoadingBench(Bench):
    """A service with an admin key and a usual one."""

    def __init__(self, **settings: Any) -> None:
        keys = {"root": {"sha256": [digest("root")], "admin": True}, "user": {"sha256": [digest("user")]}}
        self.list = ListedLoader()
        security = SecuritySettings.model_validate({"keys": keys})
        super().__init__(**{"loader": self.list, "separator": AwayReplica(), "security": security, **settings})

    async def load(self, headers: Mapping[str, str] = ROOT, **fields: Any) -> httpx.Response:
        return await self.client.post("/v1/models", json={**BIRD, **fields}, headers=headers)

    async def load_bird(self) -> None:
        """Loads the model, and hears that it is ready."""
        await self.load()
        self.list.become("bird", "ready")
        self.note()

    async def use(self, name: str, open_request: RequestRecord) -> None:
        """A request begins to use a model."""

        async def uses() -> None:
            REQUEST.set(open_request)
            self.service.directory.resolve(name, "speech")

        await asyncio.create_task(uses())

    async def unload(self, name: str, headers: Mapping[str, str] = ROOT) -> httpx.Response:
        return await self.client.delete(f"/v1/models/{name}", headers=headers)

    def note(self) -> GatewayAnswer:
        """The loader tells the gateway."""
        return self.service.loaded.note(self.list.loaded())

    async def say(self, model: str, **headers: str) -> httpx.Response:
        body = {"model": model, "input": "Hello there.", "response_format": "pcm"}
        return await self.client.post("/v1/audio/speech", json=body, headers={**USER, **headers})

    async def states(self) -> dict[str, str | None]:
        data = (await self.client.get("/v1/models", headers=USER)).json()["data"]
        return {each["id"]: each["motet"].get("state") for each in data if each["id"] in ("tone", "bird", "lark")}


async def test_a_model_is_loaded_used_and_unloaded(audited: Any) -> None:
    bench = LoadingBench()
    answer = await bench.load()
    assert answer.status_code == 202 and answer.json()["state"] == "loading"
    assert answer.json()["settings"] == {"engine": "simulated", "aliases": ["lark"]}
    assert await bench.states() == {"tone": None, "bird": "loading"}
    for name in ("bird", "lark"):
        assert code(await bench.say(name)) == (503, "model_loading")
    bench.list.become("bird", "ready")
    assert bench.note() == GatewayAnswer(open={"bird": 0})
    assert await bench.states() == {"tone": None, "bird": "ready", "lark": "ready"}
    assert [(await bench.say(name)).status_code for name in ("bird", "lark")] == [200, 200]
    status = (await bench.client.get("/v1/status", headers=USER)).json()
    assert "bird@cpu" in {placement["name"] for placement in status["placements"]}
    gone = await bench.unload("bird")
    assert (gone.status_code, gone.json()) == (202, {"id": "bird", "object": "model", "deleted": True})
    assert [code(await bench.say(name)) for name in ("bird", "lark")] == [(404, "model_not_found")] * 2
    assert await bench.states() == {"tone": None, "bird": "unloading"}
    bench.list.models.clear()
    bench.note()
    assert "bird@cpu" not in bench.admission.snapshot()
    assert await bench.states() == {"tone": None}
    assert set(bench.service.directory.models) == {"tone", "ear", "echo"}
    acts = [(line["act"], line["key"], line["model"]) for line in audited() if line["act"].startswith("model_")]
    assert acts == [("model_load", "root", "bird"), ("model_unload", "root", "bird")]


async def test_a_model_that_is_in_use_stays_until_its_requests_have_ended() -> None:
    bench = LoadingBench()
    await bench.load_bird()
    directory, open_request = bench.service.directory, RequestRecord()
    await bench.use("lark", open_request)
    assert bench.note().open == {"bird": 1}
    await bench.unload("bird")
    assert bench.note().open == {"bird": 1}
    bench.list.models.clear()  # the loader did not wait any longer
    bench.note()
    assert "bird" in directory.models and "bird" not in directory.offered
    await bench.load()  # again, while that request is open
    bench.list.become("bird", "ready")
    bench.note()
    assert "bird" in directory.offered
    await bench.use("lark", open_request)
    await bench.unload("bird")
    bench.list.models.clear()
    bench.service.ended(open_request, "/v1/audio/speech", 200)
    bench.note()
    assert "bird" not in directory.models


async def test_a_model_that_failed_says_why_to_the_operator_only() -> None:
    bench = LoadingBench()
    await bench.load()
    bench.list.become("bird", "failed", "The wheel 'bird' is not installed. Run: pip install bird")
    bench.note()
    assert code(await bench.say("bird")) == (404, "model_not_found")
    listed = (await bench.client.get("/v1/admin/models", headers=ROOT)).json()["data"]
    assert [(each["id"], each["state"], each["cause"]) for each in listed] == [
        ("bird", "failed", "The wheel 'bird' is not installed. Run: pip install bird")
    ]
    shown = await bench.client.get("/v1/models/bird", headers=USER)
    assert shown.json()["motet"] == {"task": "speech", "state": "failed"} and "pip" not in shown.text


async def test_only_an_admin_key_loads_and_unloads(audited: Any) -> None:
    bench = LoadingBench()
    assert code(await bench.load(USER)) == (403, "admin_key_needed")
    assert code(await bench.unload("tone", USER)) == (403, "admin_key_needed")
    assert code(await bench.load({})) == (401, "invalid_api_key")
    assert code(await bench.client.get("/v1/models", headers=ROOT)) == (403, "admin_key_only")
    assert {line["reason"] for line in audited() if line["act"] == "key_refused"} == {
        "admin_key_needed",
        "invalid_api_key",
        "admin_key_only",
    }
    without_keys = LoadingBench(security=SecuritySettings())
    assert code(await without_keys.load({})) == (403, "admin_key_needed")
    assert bench.list.models == without_keys.list.models == {}


@pytest.mark.parametrize(
    ("fields", "status", "says"),
    [
        ({"engine": "birdsong"}, 400, "birdsong"),
        ({"enginee": "simulated"}, 400, "did you mean 'engine'"),
        ({"steps": {"max_batch": 1}}, 400, "did you mean 'max_batch_size'"),
        ({"id": "../x"}, 400, "id"),
        ({"engine": "hibari"}, 400, "needs a source"),
        ({"engine": "hibari", "source": "path:/etc"}, 400, "for the configuration"),
        ({"placements": [{"engine": "hibari", "source": "path:/etc"}]}, 400, "for the configuration"),
        ({"engine": "whisper", "source": f"hf:a/b@{COMMIT}", "sha256": {"../b": "0" * 64}}, 400, "sha256"),
        ({"engine": "whisper", "source": f"hf:a/b@{COMMIT}"}, 400, "needs the SHA-256"),
        (
            {"engine": "whisper", "source": f"hf:a/b@{COMMIT}", "sha256": {"b": "0" * 64}},
            404,
            "motet models add hf:a/b",
        ),
        ({"engine": "identity"}, 400, "docs/models.md"),
        ({"id": "tone"}, 409, "already"),
        ({"id": "tts-1"}, 409, "already"),
        ({"aliases": ["tone"]}, 409, "alias"),
        ({"catalogue": "no-such-model"}, 404, "catalogue"),
        ({"catalogue": NAME}, 404, f"motet models add {NAME}"),
    ],
)
async def test_what_cannot_be_loaded_says_why(
    fields: dict[str, Any], status: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    bench = LoadingBench(registry=RegistrySettings(folder=str(tmp_path / "notes")))
    answer = await bench.load(**fields)
    assert answer.status_code == status, answer.text
    assert says in answer.json()["error"]["message"]
    assert bench.list.models == {}


async def test_a_body_that_is_not_an_object_is_refused() -> None:
    bench = LoadingBench()
    for body in (b"[]", b"{", b'"bird"'):
        headers = {**ROOT, "content-type": "application/json"}
        assert (await bench.client.post("/v1/models", content=body, headers=headers)).status_code == 400
    assert (await bench.client.post("/v1/models", content=b"{}", headers=ROOT)).status_code == 415


async def test_a_fetched_model_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    settings = RegistrySettings(folder=str(tmp_path / "notes"))
    InstalledModels(settings).save(added("my-ear", entry=NAME))
    folder = cache.snapshot("org/ear", COMMIT)
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"abc")
    bench = LoadingBench(registry=settings)
    for id, catalogue in (("one", NAME), ("two", "my-ear")):
        body = {"id": id, "catalogue": catalogue, "idle_unload_s": 60}
        answer = await bench.client.post("/v1/models", json=body, headers=ROOT)
        assert answer.status_code == 202, answer.text
        model = bench.list.models[id].model
        assert (model.engine, model.source, model.idle_unload_s) == ("whisper", f"hf:org/ear@{COMMIT}", 60)
        assert model.sha256 == {"model.bin": "a" * 64}


async def test_models_of_the_configuration_stay() -> None:
    bench = LoadingBench()
    assert code(await bench.unload("tone")) == (409, "model_configured")
    assert code(await bench.unload("tts-1")) == (409, "model_configured")
    assert code(await bench.unload("nobody")) == (404, "model_not_found")


async def test_a_gateway_that_starts_knows_what_was_loaded() -> None:
    bench = LoadingBench()
    bench.list.models = {
        name: ModelLoad(id=name, model=Model(engine="simulated"), state=state, since=1.0)
        for name, state in (("bird", "ready"), ("owl", "unloading"), ("tone", "ready"))
    }
    bench.service.loaded.start()
    assert (await bench.say("bird")).status_code == 200
    assert code(await bench.say("owl")) == (404, "model_not_found")
    assert bench.note().taken == ("tone",)  # the configuration has it by now


async def test_another_model_of_the_same_name_takes_its_place_in_a_gateway_that_heard_of_no_unloading() -> None:
    bench = LoadingBench()
    await bench.load_bird()
    assert bench.service.directory.aliases["lark"] == "bird"
    bench.list.models["bird"] = ModelLoad(id="bird", model=Model(engine="simulated"), state="ready", since=9.0)
    bench.note()
    assert "bird" in bench.service.directory.offered and "lark" not in bench.service.directory.aliases


async def test_an_answer_that_is_older_than_the_loaders_word_changes_nothing() -> None:
    bench = LoadingBench()
    load = bench.list.load

    async def told_first(name: str, model: Model) -> ModelLoad:
        began = await load(name, model)
        bench.list.become(name, "ready")
        bench.note()
        return began

    bench.list.load = told_first  # type: ignore[method-assign]
    assert (await bench.load()).json()["state"] == "ready"
    assert "bird" in bench.service.directory.offered


async def test_another_model_of_the_same_name_is_measured_anew() -> None:
    bench = LoadingBench()
    await bench.load_bird()
    directory, open_request = bench.service.directory, RequestRecord()
    await bench.use("bird", open_request)
    bench.admission.admit(["bird@cpu"], None, 5.0)
    assert "bird@cpu" in bench.admission.snapshot()
    bench.list.models["bird"] = ModelLoad(id="bird", model=Model(engine="identity"), state="ready", since=9.0)
    bench.note()
    assert "bird" in directory.offered and "bird@cpu" not in bench.admission.snapshot()


async def test_a_request_with_a_key_uses_its_model_until_its_answer_is_made() -> None:
    """It goes on when its client has left."""
    held = Held()
    bench = LoadingBench(synthesizer=held)
    await bench.load_bird()
    client = asyncio.create_task(bench.say("bird", **{"idempotency-key": "one"}))
    await held.asked.wait()
    assert bench.note().open == {"bird": 1}
    client.cancel()
    await asyncio.wait({client})
    await bench.unload("bird")
    assert bench.note().open == {"bird": 1}
    held.may_speak.set()
    again = await bench.say("bird", **{"idempotency-key": "one"})
    assert again.status_code == 200 and again.headers["idempotent-replayed"] == "true"
    await settle()
    assert bench.note().open == {"bird": 0}
    bench.list.models.clear()
    bench.note()
    assert "bird" not in bench.service.directory.models


@pytest.mark.parametrize("damaged", ["{", "[]", '{"entry": "tone"}', "\udc80"])
async def test_a_damaged_note_of_another_model_fails_no_load(
    damaged: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    settings = RegistrySettings(folder=str(tmp_path / "notes"))
    InstalledModels(settings).save(added("my-ear", entry=NAME))
    (tmp_path / "notes" / "another.json").write_bytes(damaged.encode(errors="surrogateescape"))
    bench = LoadingBench(registry=settings)
    for catalogue in (NAME, "my-ear"):  # its note was read, and its weights are not here
        answer = await bench.client.post("/v1/models", json={"id": "one", "catalogue": catalogue}, headers=ROOT)
        assert code(answer) == (404, "weights_missing")


async def test_a_damaged_note_names_no_file_to_clients(tmp_path: Path) -> None:
    settings = RegistrySettings(folder=str(tmp_path / "notes"))
    InstalledModels(settings).save(added("my-ear", entry=NAME))
    (tmp_path / "notes" / "my-ear.json").write_text(f'{{"entry": "{NAME}"}}')
    own = RegistrySettings(catalogue=str(tmp_path / "no.yaml"), folder=str(tmp_path / "notes"))
    for registry, catalogue in ((settings, "my-ear"), (settings, NAME), (own, "other")):
        bench = LoadingBench(registry=registry)
        answer = await bench.client.post("/v1/models", json={"id": "one", "catalogue": catalogue}, headers=ROOT)
        assert answer.status_code == 503 and "cannot be read" in answer.json()["error"]["message"]
        assert str(tmp_path) not in answer.text and ".json" not in answer.text
