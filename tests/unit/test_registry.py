"""GET /v1/registry, and models that leave while they are idle."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from cluster.models import Model
from deployments.catalogue import entries
from deployments.catalogue.installed import InstalledModel, InstalledModels, PinnedFile, RegistrySettings, Trial
from deployments.hub import cache
from tests.unit.test_api import Bench

NAME = "whisper-small"
COMMIT = "0" * 40


def added(name: str, **changed: object) -> InstalledModel:
    """A model that was added, with one file of three bytes."""
    return InstalledModel(
        name=name,
        entry=None,
        engine="whisper",
        hardware="cpu",
        repository="org/ear",
        revision=COMMIT,
        licence="mit",
        files={"model.bin": PinnedFile(size=3, sha256="a" * 64)},
        weights=("model.bin",),
    ).model_copy(update=changed)


async def test_the_registry_says_what_could_be_added_and_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    settings = RegistrySettings(folder=str(tmp_path / "notes"))
    store = InstalledModels(settings)
    trial = Trial(date="2026-11-29", machine="a machine", load_seconds=1, audio_seconds=6, wall_seconds=2)
    store.save(added(NAME, entry=NAME, trial=trial))
    store.save(added("tone", repository="org/other"))
    folder = cache.snapshot("org/ear", COMMIT)
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"abc")
    answer = await Bench(registry=settings).client.get("/v1/registry")
    models = {model["id"]: model for model in answer.json()["data"]}
    assert answer.status_code == 200 and set(models) == {*entries.load().models, "tone"}
    small = models[NAME]
    assert (small["installed"], small["served"], small["verified"], small["size_bytes"]) == (True, False, True, 3)
    assert small["trial"]["times_real_time"] == 3 and small["revision"] == COMMIT
    assert (models["tone"]["installed"], models["tone"]["served"], models["tone"]["trial"]) == (False, True, None)
    other = models["whisper-medium"]
    assert (other["installed"], other["size_bytes"], other["trial"]) == (False, 1530571735, None)


async def test_a_service_may_have_a_catalogue_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("models: {}\n")
    settings = RegistrySettings(catalogue=str(tmp_path / "own.yaml"), folder=str(tmp_path / "notes"))
    assert (await Bench(registry=settings).client.get("/v1/registry")).json() == {"object": "list", "data": []}


async def test_a_damaged_note_is_logged_once_and_hides_no_other_model(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = RegistrySettings(folder=str(tmp_path))
    InstalledModels(settings).save(added("tone", repository="org/other"))
    (tmp_path / "bad.json").write_text("{}")
    client = Bench(registry=settings).client
    answers = [await client.get("/v1/registry") for _ in range(2)]
    for answer in answers:
        assert answer.status_code == 200 and str(tmp_path) not in answer.text
        assert {model["id"] for model in answer.json()["data"]} == {*entries.load().models, "tone"}
    assert [record.getMessage().split(" of ")[0] for record in caplog.records if "bad.json" in record.getMessage()] == [
        f"The note {tmp_path / 'bad.json'}"
    ]


# --- Idle models


def test_a_model_that_leaves_while_it_is_idle_is_autoscaled_from_zero() -> None:
    model = Model(engine="identity", idle_unload_s=90)
    (placement,) = model.placements
    assert placement.autoscaling is not None and placement.replicas is None
    assert (placement.least_replicas, placement.autoscaling.max_replicas, placement.autoscaling.zero_after_s) == (
        0,
        1,
        90,
    )
    assert Model.model_validate(model.model_dump(mode="json")) == model


def test_each_placement_keeps_its_number_of_replicas_and_its_autoscaling() -> None:
    model = Model.model_validate(
        {
            "engine": "identity",
            "idle_unload_s": 60,
            "placements": [
                {"replicas": 3},
                {"hardware": {"kind": "cuda"}, "autoscaling": {"max_replicas": 5, "cost": 2}},
            ],
        }
    )
    cpu, cuda = (placement.autoscaling for placement in model.placements)
    assert cpu is not None and cuda is not None
    assert (cpu.max_replicas, cuda.max_replicas, cuda.cost) == (3, 5, 2)
    assert {cpu.zero_after_s, cuda.zero_after_s} == {60}


def test_a_model_does_not_both_stay_and_leave() -> None:
    with pytest.raises(ValidationError, match="idle_unload_s needs min_replicas: 0"):
        Model.model_validate(
            {"engine": "identity", "idle_unload_s": 60, "placements": [{"autoscaling": {"min_replicas": 1}}]}
        )
    assert Model(engine="identity").placements[0].autoscaling is None
