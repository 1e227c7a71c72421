"""POST and DELETE /v1/registry/{name}, over stand-ins for the process that adds a model, and what that process does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from cluster.models import Model
from deployments.catalogue import entries
from deployments.catalogue.additions import INTERRUPTED, Addition, AdditionOrder, Additions
from deployments.catalogue.installed import InstalledModels, RegistrySettings
from deployments.errors import MotetError
from deployments.hub import cache
from serve_app.cli import addition_process
from serve_app.cli.addition_process import AdditionReport
from serve_app.gateway.model_additions import MOST_AT_ONCE, ModelAdditions, start_process
from tests.unit.hub_server import COMMIT, Hub, Mishap
from tests.unit.test_api import JSON
from tests.unit.test_cli_models import FILES, NAME, REPOSITORY, hub
from tests.unit.test_keys import audited, code
from tests.unit.test_model_loading import ROOT, USER, LoadingBench
from tests.unit.test_registry import COMMIT as NOTED
from tests.unit.test_registry import added

__all__ = ["audited", "hub"]
CLONER = "sopro-v2-turbo"


@dataclass
class HeldProcess:
    """A process that adds a model until the test says that it ended."""

    order: AdditionOrder
    lock: int
    status: int | None = None

    def poll(self) -> int | None:
        return self.status

    def end(self, status: int = 0) -> None:
        if self.status is None:
            self.status = status
            os.close(self.lock)


class AddingBench(LoadingBench):
    """A service with an admin key whose processes are held. One that is asked to end does so when somebody waits for it."""

    def __init__(self, folder: Path, **registry: Any) -> None:
        self.registry = RegistrySettings(folder=str(folder / "notes"), **registry)
        self.additions = Additions(self.registry)
        self.started: list[HeldProcess] = []
        self.waits = 0
        super().__init__(registry=self.registry, additions=partial(ModelAdditions, start=self.start, pause=self.wait))

    def start(self, order: AdditionOrder) -> HeldProcess:
        self.started.append(HeldProcess(order, os.dup(order.lock)))
        return self.started[-1]

    def wait(self, seconds: float) -> None:
        self.waits += 1
        for process in self.started:
            if self.additions.is_cancelled(process.order.name):
                process.end(1)

    async def add(self, name: str = CLONER, headers: Any = ROOT, **fields: Any) -> httpx.Response:
        return await self.client.post(f"/v1/registry/{name}", json=fields, headers=headers)

    async def remove(self, name: str = CLONER) -> httpx.Response:
        return await self.client.delete(f"/v1/registry/{name}", headers=ROOT)

    async def listed(self, name: str = CLONER, headers: Any = ROOT) -> Any:
        answer = await self.client.get("/v1/registry", headers=headers)
        return next(each for each in answer.json()["data"] if each["id"] == name)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddingBench]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    bench = AddingBench(tmp_path)
    yield bench
    for process in bench.started:
        process.end()


async def test_a_model_is_added_by_one_process(bench: AddingBench, audited: Any) -> None:
    answer = await bench.add(hardware="cpu")
    assert answer.status_code == 202, answer.text
    model = answer.json()
    assert (model["id"], model["clones"], model["installed"]) == (CLONER, True, False)
    assert (model["addition"]["state"], model["addition"]["received_bytes"]) == ("fetching", 0)
    assert (await bench.add()).json()["addition"]["state"] == "fetching"
    (process,) = bench.started
    assert (process.order.name, process.order.hardware, process.order.try_it) == (CLONER, "cpu", False)
    bench.additions.write(CLONER, Addition(received_bytes=5, total_bytes=9))
    for headers in (ROOT, USER):
        assert (await bench.listed(headers=headers))["addition"]["received_bytes"] == 5
    bench.additions.clear(CLONER)
    process.end()
    assert (await bench.listed())["addition"] is None
    acts = [(line["key"], line["model"]) for line in audited() if line["act"] == "registry_add"]
    assert acts == [("root", CLONER)] * 2


async def test_the_catalogue_says_which_models_clone(bench: AddingBench) -> None:
    data = (await bench.client.get("/v1/registry", headers=USER)).json()["data"]
    assert {each["id"] for each in data if each["clones"]} == {CLONER, "vibevoice-1.5b"}


async def test_a_process_that_died_has_failed_and_is_started_again(bench: AddingBench) -> None:
    await bench.add()
    bench.started[0].end(-9)
    assert (await bench.listed())["addition"] == {
        "state": "failed",
        "received_bytes": 0,
        "total_bytes": None,
        "cause": INTERRUPTED,
    }
    assert (await bench.add(CLONER, ROOT, **{"try": True})).json()["addition"]["state"] == "fetching"
    assert [process.order.try_it for process in bench.started] == [False, True]


async def test_the_cause_is_for_the_operator(bench: AddingBench) -> None:
    await bench.add()
    bench.additions.write(CLONER, Addition(state="failed", cause="The disk of /srv/models is full."))
    bench.started[0].end()
    assert (await bench.listed())["addition"]["cause"] == "The disk of /srv/models is full."
    assert (await bench.listed(headers=USER))["addition"]["cause"] is None


async def test_an_addition_is_cancelled_and_what_was_fetched_stays_until_it_is_removed(
    bench: AddingBench, audited: Any
) -> None:
    await bench.add()
    entry = entries.load().models[CLONER]
    part = cache.unfinished(entry.repository, str(entry.revision)) / "config.json.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(b"abc")
    answer = await bench.remove()
    removal = {"id": CLONER, "object": "registry.model", "deleted": True, "freed_bytes": 0}
    assert (answer.status_code, answer.json()) == (200, removal)
    assert bench.started[0].status == 1 and bench.waits == 1 and part.exists()
    assert (await bench.listed())["addition"] is None
    await bench.add()
    assert (await bench.listed())["addition"]["received_bytes"] == 3
    await bench.remove()
    assert (await bench.remove()).json()["freed_bytes"] == 3 and not part.exists()
    assert code(await bench.remove()) == (404, "model_not_added")
    assert [line["freed_bytes"] for line in audited() if line["act"] == "registry_remove"] == [0, 0, 3]


async def test_a_process_that_does_not_end_is_said(bench: AddingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.add()
    monkeypatch.setattr(HeldProcess, "end", lambda self, status=0: None)
    assert code(await bench.remove()) == (503, "cancel_slow")
    monkeypatch.undo()


async def test_a_model_that_is_here_is_not_fetched_and_can_be_removed(bench: AddingBench) -> None:
    store = InstalledModels(bench.registry)
    store.save(added(CLONER, entry=CLONER))
    folder = cache.snapshot("org/ear", NOTED)
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"abc")
    answer = await bench.add()
    assert (answer.status_code, answer.json()["installed"], bench.started) == (202, True, [])
    source = f"hf:org/ear@{NOTED}"
    await bench.load(id="other", engine="whisper", source=source, sha256={"model.bin": "a" * 64})
    assert code(await bench.remove()) == (409, "model_in_use")
    bench.list.models.clear()
    bench.note()
    bench.list.models[CLONER] = (await bench.list.load(CLONER, Model(engine="simulated"))).become("failed", 1.0)
    bench.note()
    assert code(await bench.remove()) == (409, "model_in_use")
    bench.list.models.clear()
    bench.note()
    with cache.locked("org/ear"):
        assert code(await bench.remove()) == (409, "repository_busy")
    store.save(added("second", repository="org/ear"))
    assert (await bench.remove()).json()["freed_bytes"] == 0 and folder.exists()
    store.save(added(CLONER, entry=CLONER))
    store.remove("second")
    assert (await bench.remove()).json()["freed_bytes"] == 3
    assert not folder.exists() and store.find(CLONER) is None
    assert not (await bench.listed())["installed"]


async def test_what_is_refused(bench: AddingBench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert code(await bench.add(headers=USER)) == (403, "admin_key_needed")
    assert code(await bench.client.delete(f"/v1/registry/{CLONER}", headers=USER)) == (403, "admin_key_needed")
    assert code(await bench.client.get("/v1/models", headers=ROOT)) == (403, "admin_key_only")
    for name in ("no-such", "hf:org/name", "path:/etc", "..%2F..%2Fetc", "https://host/x", f"{CLONER}/"):
        assert code(await bench.add(name)) == (404, "not_in_catalogue"), name
        assert code(await bench.remove(name)) == (404, "not_in_catalogue"), name
    answer = await bench.add(hardware="mlx")
    assert answer.status_code == 400 and "cpu and cuda" in answer.text
    for fields in ({"hardware": "tpu"}, {"try": "perhaps"}, {"source": "hf:org/name"}):
        assert (await bench.add(**fields)).status_code == 400
    place, typed = f"/v1/registry/{CLONER}", {**ROOT, "content-type": "text/plain"}
    assert (await bench.client.post(place, content="{}", headers=typed)).status_code == 415
    assert (await bench.client.post(place, content="[", headers={**ROOT, **JSON})).status_code == 400
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    answer = await bench.add("whisper-medium")
    assert code(answer) == (507, "disk_full") and "1.5 GB" in answer.text
    assert bench.started == [] and bench.additions.all() == {}


async def test_a_service_may_refuse_to_add_models(tmp_path: Path) -> None:
    bench = AddingBench(tmp_path, fetch=False)
    assert code(await bench.add()) == (403, "registry_fetch_off")
    assert code(await bench.remove()) == (403, "registry_fetch_off")
    assert bench.started == []


async def test_a_few_models_are_added_at_once(bench: AddingBench) -> None:
    names = list(entries.load().models)
    for name in names[:MOST_AT_ONCE]:
        assert (await bench.add(name)).status_code == 202
    assert code(await bench.add(names[MOST_AT_ONCE])) == (429, "additions_busy")
    await bench.remove(names[0])
    assert (await bench.add(names[MOST_AT_ONCE])).status_code == 202


async def test_two_gateways_start_one_process(bench: AddingBench, tmp_path: Path) -> None:
    other = AddingBench(tmp_path)
    await bench.add()
    assert (await other.add()).json()["addition"]["state"] == "fetching"
    assert len(bench.started) == 1 and other.started == []
    other.started = bench.started  # the process of the one is cancelled through the other
    assert (await other.remove()).status_code == 200 and bench.started[0].status == 1
    assert (await bench.listed())["addition"] is None


async def test_a_folder_that_cannot_be_written_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("not a folder")
    answer = await AddingBench(tmp_path).add()
    assert answer.status_code == 503 and str(tmp_path) not in answer.text


async def test_a_mistake_in_the_catalogue_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("models: 1\n")
    answer = await AddingBench(tmp_path, catalogue=str(tmp_path / "own.yaml")).add()
    assert answer.status_code == 503 and str(tmp_path) not in answer.text


# --- The process


class Lifeline:
    """A process's report over a pipe, and whether it ended."""

    def __init__(self, registry: RegistrySettings, name: str = NAME) -> None:
        self.additions, self.ends = Additions(registry), 0
        lock = self.additions.lock(name)
        assert lock is not None
        self.order = AdditionOrder(name=name, registry=registry, lock=lock)
        self.additions.write(name, Addition())
        self.there, self.gateway = os.pipe()
        self.report = AdditionReport(self.order, self.additions, self.there, self.end)

    def end(self) -> None:
        self.ends += 1

    def look(self) -> Addition | None:
        self.report.look(0.0)
        return self.additions.find(self.order.name)

    def close(self) -> None:
        for each in (self.there, self.gateway, self.order.lock):
            os.close(each)


@pytest.fixture
def lifeline(tmp_path: Path) -> Iterator[Lifeline]:
    catalogue = tmp_path / "catalogue.yaml"
    found = Lifeline(
        RegistrySettings(folder=str(tmp_path / "notes"), catalogue=str(catalogue) if catalogue.exists() else None)
    )
    yield found
    found.close()


def test_the_process_reports_how_far_it_is(lifeline: Lifeline) -> None:
    lifeline.report.received(3, 9)
    assert lifeline.additions.find(NAME) == Addition()
    assert lifeline.look() == Addition(received_bytes=3, total_bytes=9)
    lifeline.report.tries()
    assert lifeline.look() == Addition(state="trying", received_bytes=3, total_bytes=9)
    lifeline.report.received(4, 9)
    lifeline.report.finish("It broke.")
    assert lifeline.look() == Addition(state="failed", received_bytes=4, total_bytes=9, cause="It broke.")
    lifeline.report.finish()
    assert lifeline.look() is None and lifeline.ends == 0


def test_the_process_ends_with_the_gateway(lifeline: Lifeline) -> None:
    lifeline.look()
    assert lifeline.ends == 0
    os.close(lifeline.gateway)
    lifeline.look()
    assert lifeline.ends == 1
    lifeline.gateway = os.dup(lifeline.there)


def test_the_process_ends_when_it_is_cancelled(lifeline: Lifeline) -> None:
    lifeline.additions.cancel(NAME)
    lifeline.look()
    assert lifeline.ends == 1


def test_the_process_fetches_checks_and_notes(hub: Hub, lifeline: Lifeline) -> None:
    addition_process.add(lifeline.order, lifeline.report)
    note = InstalledModels(lifeline.order.registry).find(NAME)
    assert note is not None and note.is_here and note.entry == NAME and note.trial is None
    total = sum(map(len, FILES.values()))
    assert lifeline.look() == Addition(received_bytes=total, total_bytes=total)


def test_a_model_that_does_not_work_has_failed_and_stays(hub: Hub, lifeline: Lifeline) -> None:
    with pytest.raises(MotetError, match="does not work"):
        addition_process.add(lifeline.order.model_copy(update={"try_it": True}), lifeline.report)
    trying = lifeline.look()
    assert trying is not None and trying.state == "trying"
    assert InstalledModels(lifeline.order.registry).find(NAME) is not None


def test_a_wrong_digest_leaves_nothing(hub: Hub, lifeline: Lifeline, tmp_path: Path) -> None:
    hub.repositories[REPOSITORY].stated["model.bin"] = FILES["model.bin"]
    hub.repositories[REPOSITORY].files["model.bin"] = FILES["model.bin"][::-1]
    with pytest.raises(MotetError, match="does not have the SHA-256"):
        addition_process.add(lifeline.order, lifeline.report)
    assert list((tmp_path / "hub").iterdir()) == [] and not cache.snapshot(REPOSITORY, COMMIT).exists()
    assert InstalledModels(lifeline.order.registry).all() == {}


def test_a_state_of_another_version_is_no_obstacle(tmp_path: Path) -> None:
    additions = Additions(RegistrySettings(folder=str(tmp_path)))
    lock = additions.lock(NAME)
    assert lock is not None
    additions.write(NAME, Addition())
    (tmp_path / "additions" / f"{NAME}.state").write_text("later: 1")
    assert additions.find(NAME) == Addition(state="failed", cause=INTERRUPTED)
    assert additions.find("../x") is None
    os.close(lock)


@pytest.fixture
def process_order(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AdditionOrder:
    """What the gateway gives to a real process, which uses the hub of the test."""
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    registry = RegistrySettings(folder=str(tmp_path / "notes"), catalogue=str(tmp_path / "catalogue.yaml"))
    additions = Additions(registry)
    lock = additions.lock(NAME)
    assert lock is not None
    additions.write(NAME, Addition())
    return AdditionOrder(name=NAME, registry=registry, lock=lock)


def test_a_real_process_holds_the_lock_until_the_model_is_here(process_order: AdditionOrder) -> None:
    additions = Additions(process_order.registry)
    process = start_process(process_order)
    os.close(process_order.lock)
    assert additions.find(NAME) == Addition()  # nobody else holds the lock
    assert process.wait(60) == 0
    assert additions.all() == {} and additions.lock(NAME) is not None
    note = InstalledModels(process_order.registry).find(NAME)
    assert note is not None and note.is_here


def test_a_real_process_ends_with_the_gateway_in_the_middle_of_a_file(hub: Hub, process_order: AdditionOrder) -> None:
    stop = Mishap("model.bin", stops_after=1000)
    hub.mishaps.append(stop)
    process = start_process(process_order)
    os.close(process_order.lock)
    assert stop.stopped.wait(60) and process.stdin is not None
    process.stdin.close()
    assert process.wait(60) == 1
    found = Additions(process_order.registry).find(NAME)
    assert found is not None and (found.state, found.cause) == ("failed", INTERRUPTED)
