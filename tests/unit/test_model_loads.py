"""The states of models that are loaded into a running service, over stand-ins for Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from cluster.models import Model
from deployments.errors import MotetError
from serve_app.loading.lifecycle import LoadLimits, LoadProgress, ModelLoads
from serve_app.loading.records import GatewayAnswer, ModelLoad

MODEL = Model(engine="identity", aliases=("same",))


class Store:
    """A list in memory."""

    def __init__(self) -> None:
        self.kept: dict[str, ModelLoad] = {}

    def all(self) -> Sequence[ModelLoad]:
        return list(self.kept.values())

    def save(self, model: ModelLoad) -> None:
        self.kept[model.id] = ModelLoad.model_validate_json(model.model_dump_json())

    def remove(self, name: str) -> None:
        del self.kept[name]


class Cluster:
    """Applications that start when a test says so, and one gateway."""

    def __init__(self) -> None:
        self.progresses: dict[str, LoadProgress] = {}
        self.deleted: list[str] = []
        self.told: list[tuple[str, str]] = []
        self.answers: Sequence[GatewayAnswer] | None = [GatewayAnswer(open={})]
        self.breaks = False

    def deploy(self, name: str, application: Any) -> None:
        if self.breaks:
            raise RuntimeError("the controller is gone")
        self.progresses[name] = LoadProgress("starting")

    def progress(self, name: str) -> LoadProgress:
        return self.progresses.get(name, LoadProgress("gone"))

    def delete(self, name: str) -> None:
        self.deleted.append(name)

    def tell_gateways(self, models: Sequence[ModelLoad]) -> Sequence[GatewayAnswer] | None:
        self.told = [(model.id, model.state) for model in models]
        return self.answers


class Bench:
    def __init__(self) -> None:
        self.now = 1000.0
        self.beside: Mapping[str, Model] = {}
        self.store, self.cluster = Store(), Cluster()
        self.loads = self.again()

    def again(self) -> ModelLoads:
        """The loader after a restart."""
        self.loads = ModelLoads(self.store, self.cluster, LoadLimits(start_s=30.0, drain_s=60.0), lambda: self.now)
        return self.loads

    def load(self, name: str = "one", model: Model = MODEL) -> ModelLoad:
        return self.loads.load(name, model, self._bind)

    def _bind(self, name: str, model: Model, others: Mapping[str, Model]) -> object:
        self.beside = others
        return object()

    def becomes(self, name: str, state: Any, cause: str = "") -> None:
        self.cluster.progresses[name] = LoadProgress(state, cause)
        self.loads.look()

    def gone(self, name: str) -> None:
        del self.cluster.progresses[name]
        self.loads.look()

    @property
    def states(self) -> dict[str, str]:
        assert {model.id: model for model in self.loads.models} == self.store.kept
        return {model.id: model.state for model in self.loads.models}


def refused(error: pytest.ExceptionInfo[MotetError]) -> tuple[str, str | None]:
    return error.value.failure.kind, error.value.failure.code


def test_a_model_is_loading_until_a_replica_runs() -> None:
    bench = Bench()
    assert bench.load().state == "loading"
    bench.loads.look()
    assert bench.states == {"one": "loading"} == dict(bench.cluster.told)
    bench.becomes("one", "running")
    assert bench.states == {"one": "ready"} == dict(bench.cluster.told)
    assert bench.cluster.deleted == []


@pytest.mark.parametrize(("state", "settled"), [("starting", False), ("running", True), ("failed", True)])
def test_the_loader_looks_seldom_once_all_is_settled(state: str, settled: bool) -> None:
    bench = Bench()
    bench.load()
    bench.becomes("one", state)
    assert bench.loads.settled == settled
    bench.loads.unload("one")
    assert not bench.loads.settled


def test_a_model_that_fails_leaves_nothing_and_may_be_loaded_again() -> None:
    bench = Bench()
    bench.load()
    bench.becomes("one", "failed", "It has no weights.")
    assert bench.states == {"one": "failed"} and bench.cluster.deleted == ["one"]
    assert bench.loads.models[0].cause == "It has no weights."
    with pytest.raises(MotetError) as error:
        bench.load()  # its replicas are still ending
    assert refused(error) == ("conflict", "model_ending")
    bench.gone("one")
    assert bench.load().state == "loading"
    assert bench.states == {"one": "loading"}


def test_a_failed_model_that_is_refused_again_stays_failed() -> None:
    bench = Bench()
    bench.load()
    bench.becomes("one", "failed")
    bench.gone("one")
    bench.load("two", Model(engine="identity", aliases=("other",)))
    with pytest.raises(MotetError):
        bench.load("one", Model(engine="identity", aliases=("other",)))
    assert bench.states == {"one": "failed", "two": "loading"}


def test_gateways_hear_at_once_that_a_model_is_gone() -> None:
    bench = Bench()
    bench.load()
    bench.becomes("one", "running")
    bench.loads.unload("one")
    bench.loads.look()
    bench.gone("one")
    assert bench.states == {} and bench.cluster.told == []


def test_a_model_that_cannot_be_deployed_has_failed() -> None:
    bench = Bench()
    bench.cluster.breaks = True
    assert bench.load().state == "failed"
    assert bench.states == {"one": "failed"} and "the controller is gone" in bench.loads.models[0].cause


def test_a_model_that_takes_too_long_has_failed() -> None:
    bench = Bench()
    bench.load()
    bench.now += 30
    bench.becomes("one", "starting", "one@cpu: no machine has 9 CPUs")
    assert bench.states == {"one": "loading"}
    bench.now += 1
    bench.loads.look()
    assert bench.states == {"one": "failed"}
    assert bench.loads.models[0].cause.endswith("(start_timeout_s). one@cpu: no machine has 9 CPUs")


@pytest.mark.parametrize(
    ("name", "aliases", "param"),
    [("one", (), "id"), ("same", (), "id"), ("two", ("one",), "aliases"), ("two", ("same",), "aliases")],
)
def test_names_and_aliases_are_taken_once(name: str, aliases: tuple[str, ...], param: str) -> None:
    bench = Bench()
    bench.load()
    with pytest.raises(MotetError) as error:
        bench.load(name, Model(engine="identity", aliases=aliases))
    assert refused(error) == ("conflict", "model_exists") and error.value.failure.param == param
    assert list(bench.states) == ["one"]


def test_unloading_waits_for_open_requests_of_all_gateways() -> None:
    bench = Bench()
    bench.load()
    bench.becomes("one", "running")
    bench.cluster.answers = [GatewayAnswer(open={"one": 0}), GatewayAnswer(open={"one": 2})]
    assert bench.loads.unload("one").state == "unloading"
    since = bench.loads.models[0].since
    bench.now += 5
    assert bench.loads.unload("one").since == since  # asked again, it has no more time
    bench.loads.look()
    assert dict(bench.cluster.told) == {"one": "unloading"} and bench.cluster.deleted == []
    bench.cluster.answers = None  # a gateway that does not answer may have open requests
    bench.loads.look()
    assert bench.cluster.deleted == []
    bench.cluster.answers = [GatewayAnswer(open={"one": 0}), GatewayAnswer(open={})]
    bench.loads.look()
    assert bench.cluster.deleted == ["one"] and bench.states == {"one": "unloading"}
    bench.gone("one")
    assert bench.states == {} and bench.cluster.deleted == ["one"]


def test_unloading_does_not_wait_for_ever() -> None:
    bench = Bench()
    bench.load()
    bench.becomes("one", "running")
    bench.cluster.answers = [GatewayAnswer(open={"one": 1})]
    bench.loads.unload("one")
    bench.now += 61
    bench.loads.look()
    assert bench.cluster.deleted == ["one"]


def test_a_model_may_be_unloaded_while_it_loads_or_after_it_failed() -> None:
    for state in ("starting", "failed"):
        bench = Bench()
        bench.load()
        bench.becomes("one", state)
        bench.loads.unload("one")
        bench.loads.look()
        bench.gone("one")
        assert bench.states == {}


def test_what_was_not_loaded_cannot_be_unloaded() -> None:
    with pytest.raises(MotetError) as error:
        Bench().loads.unload("none")
    assert refused(error) == ("not_found", "model_not_found")


def test_a_loader_that_is_started_again_goes_on() -> None:
    bench = Bench()
    for name in ("one", "two", "three"):
        bench.load(name, Model(engine="identity"))
    bench.becomes("one", "running")
    bench.loads.unload("one")
    bench.becomes("two", "running")
    bench.cluster.progresses.pop("three")  # it was not deployed yet
    bench.again().look()
    assert bench.states == {"one": "unloading", "two": "ready", "three": "failed"}
    bench.gone("one")
    assert bench.states == {"two": "ready", "three": "failed"}


def test_a_name_that_the_configuration_has_by_now_is_its() -> None:
    bench = Bench()
    bench.load()
    bench.becomes("one", "running")
    bench.cluster.answers = [GatewayAnswer(open={}, taken=("one",))]
    bench.loads.look()
    assert bench.states == {"one": "unloading"}


def test_a_model_is_made_beside_the_others_that_stay() -> None:
    bench = Bench()
    for name in ("loads", "ready", "leaves", "failed"):
        bench.load(name, Model(engine="identity"))
        assert name not in bench.beside
    bench.becomes("ready", "running")
    bench.becomes("failed", "failed")
    bench.loads.unload("leaves")
    bench.load("one")
    assert set(bench.beside) == {"loads", "ready"} and "failed" in bench.states
