"""The catalogue: every entry can be configured, says where its digests come from, and is verified only if manifests agree."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from cluster.models import Model
from deployments.catalogue import entries
from deployments.catalogue.entries import CatalogueEntry, CatalogueFile, CatalogueFiles, ModelCatalogue
from deployments.catalogue.installed import InstalledModel, InstalledModels, RegistrySettings, Trial
from deployments.catalogue.recognise import ENGINE_OF_TYPE
from deployments.engines import registry
from deployments.errors import MotetError
from deployments.hub.files import is_safe, is_weight

CATALOGUE = entries.load()
DIGEST = "a" * 64


@pytest.mark.parametrize("name", CATALOGUE.models)
def test_an_entry_is_a_model_that_a_configuration_accepts(name: str) -> None:
    entry = CATALOGUE.models[name]
    beside = [{"source": _source(part), "folder": part.folder, "sha256": _digests(part.files)} for part in entry.beside]
    for kind, options in entry.hardware.items():
        Model.model_validate(
            {
                "engine": entry.engine,
                "source": _source(entry),
                "sha256": {path: digest for path, digest in _digests(entry.files).items() if is_weight(path)},
                "beside": beside,
                "options": options,
                "placements": [{"hardware": {"kind": kind}}],
            }
        )
    assert all(is_safe(path) for part in entry.parts for path in part.files), "engines read no other files"
    assert entry.tested and entry.licence and entry.about.endswith(".")


def _source(part: CatalogueFiles) -> str:
    return f"hf:{part.repository}@{part.revision or '0' * 40}"


def _digests(files: Mapping[str, CatalogueFile]) -> dict[str, str]:
    return {path: file.sha256 or DIGEST for path, file in files.items()}


@pytest.mark.parametrize(
    "name", [name for name, entry in CATALOGUE.models.items() if not entry.engine.startswith("mlx")]
)
def test_the_options_of_an_entry_are_those_of_its_engine(name: str) -> None:
    entry = CATALOGUE.models[name]
    given = {option for options in entry.hardware.values() for option in options}
    module = importlib.import_module(registry.find(entry.engine).module)
    text = Path(str(module.__file__)).read_text()
    assert all(re.search(rf"\b{option}\b", text) for option in given)


def test_an_entry_is_verified_only_if_two_manifests_agree_on_each_weight_file() -> None:
    one, two = {"sha256": DIGEST, "sources": ["a"]}, {"sha256": DIGEST, "sources": ["a", "b"]}
    assert _entry({"model.bin": two, "config.json": {}}).verified
    assert not _entry({"model.bin": one}).verified
    assert not _entry({"model.bin": {}}).verified
    assert not _entry({"model.bin": {"sha256": DIGEST, "sources": ["a", "a"]}}).verified
    assert not _entry({"model.bin": two, "more.safetensors": one}).verified
    assert not _entry({"config.json": two}).verified, "it has no weights"
    assert not _entry({"model.bin": two}, also=("*.safetensors",)).verified
    assert not _entry({"model.bin": two}, revision=None).verified
    assert CatalogueFile(sha256=DIGEST, sources=("a", "b")).verified


def test_the_weights_beside_an_entry_count_for_its_verification_and_all_files_for_its_size() -> None:
    agreed, one = ({"size": 5, "sha256": DIGEST, "sources": sources} for sources in (["a", "b"], ["a"]))

    def entry(files: Mapping[str, Any], **changed: Any) -> CatalogueEntry:
        beside = {"repository": "c/d", "revision": "1" * 40, "licence": "MIT", "folder": "inner", "files": files}
        return _entry({"model.bin": agreed}, beside=[{**beside, **changed}])

    assert entry({"model.bin": agreed}).verified and entry({"model.bin": agreed}).size == 10
    assert entry({"words.json": {"size": 1}}).verified, "it has no weights"
    assert not entry({"model.bin": one}).verified
    assert not entry({"model.bin": agreed}, revision=None).verified
    assert not entry({"model.bin": agreed}, also=["*.safetensors"]).verified
    assert entry({"words.json": {}}).size is None


def test_two_files_of_an_entry_have_two_places() -> None:
    beside = {"repository": "c/d", "licence": "MIT", "files": {"config.json": {}}}
    assert _entry({"config.json": {}}, beside=[{**beside, "folder": "inner"}]).beside[0].folder == "inner"
    with pytest.raises(ValidationError, match="two files would have the place config.json"):
        _entry({"config.json": {}}, beside=[beside])
    for folder in ("../up", "/etc", "a/../../b"):
        with pytest.raises(ValidationError, match="is not a path in a folder"):
            _entry({"config.json": {}}, beside=[{**beside, "folder": folder}])


def _entry(files: Mapping[str, Any], **changed: Any) -> CatalogueEntry:
    plain = {"about": "A.", "engine": "whisper", "repository": "a/b", "revision": "0" * 40, "licence": "MIT"}
    return CatalogueEntry.model_validate(
        {**plain, "parameters": "1M", "hardware": {"cpu": {}}, "files": files, "tested": "No.", **changed}
    )


@pytest.mark.parametrize(
    "files",
    [{"model.bin": {"sha256": DIGEST}}, {"model.bin": {"sources": ["a"]}}, {"model.bin": {"sha256": "A" * 64}}, {}],
)
def test_a_digest_without_a_source_is_refused(files: Mapping[str, Any]) -> None:
    with pytest.raises(ValidationError):
        _entry(files)


def test_a_source_must_be_a_manifest(tmp_path: Path) -> None:
    files = {"model.bin": {"sha256": DIGEST, "sources": ["unlisted"]}}
    beside = {"repository": "c/d", "licence": "MIT", "files": files}
    for number, entry in enumerate((_entry(files), _entry({"config.json": {}}, beside=[beside]))):
        file = tmp_path / f"{number}.yaml"
        file.write_text(yaml.safe_dump({"models": {"ear": entry.model_dump(mode="json")}}))
        with pytest.raises(MotetError, match="manifests has no 'unlisted'"):
            entries.load(file)


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(MotetError, match="Did you mean whisper-medium"):
        CATALOGUE.find("whisper-medum")
    with pytest.raises(MotetError, match="cannot be read"):
        entries.load(tmp_path / "absent.yaml")
    assert ModelCatalogue(models={}).models == {}


def test_every_engine_that_is_recognized_exists() -> None:
    assert set(ENGINE_OF_TYPE.values()) <= set(registry.ENGINES)


def test_types_of_the_recognition_models_are_the_engines_own() -> None:
    pytest.importorskip("transformers")
    from deployments.engines.hf_recognition.families import FAMILIES

    assert {kind for kind, engine in ENGINE_OF_TYPE.items() if engine == "hf_recognition"} == set(FAMILIES)


def test_notes_are_read_as_they_were_written(tmp_path: Path) -> None:
    store = InstalledModels(RegistrySettings(folder=str(tmp_path / "notes")))
    trial = Trial(date="2026-11-29", machine="a machine", load_seconds=1, audio_seconds=6, wall_seconds=2)
    model = InstalledModel(
        name="ear",
        entry=None,
        engine="whisper",
        hardware="cpu",
        repository="a/b",
        revision="0" * 40,
        files={},
        weights=(),
        trial=trial,
    )
    assert store.find("ear") is None and store.all() == {}
    store.save(model)
    assert store.find("ear") == model and store.all() == {"ear": model} and trial.times_real_time == 3
    store.remove("ear")
    store.remove("ear")
    assert store.find("ear") is None
