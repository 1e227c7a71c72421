"""A note of an added model that cannot be used: it is told, it hides no other model, and no weights go that it may need."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deployments.catalogue.installed import InstalledModels, RegistrySettings
from deployments.errors import MotetError
from deployments.hub import cache
from tests.unit.hub_server import COMMIT, Hub
from tests.unit.test_cli_models import NAME, REPOSITORY, hub, motet
from tests.unit.test_keys import code
from tests.unit.test_model_additions import CLONER, AddingBench, bench
from tests.unit.test_registry import COMMIT as NOTED
from tests.unit.test_registry import added

__all__ = ["bench", "hub"]


def damaged_note(folder: Path, name: str, **said: Any) -> Path:
    """A note of a version with a field that this one does not know."""
    file = folder / "notes" / f"{name}.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**said, "field": "of a later version"}))
    return file


def test_the_list_shows_damaged_notes_and_all_other_models(hub: Hub, tmp_path: Path) -> None:
    motet("models", "add", NAME, "--no-try", "--no-config")
    file = damaged_note(tmp_path, "heart")
    done = motet("models")
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert f"{NAME} 0.0 MB MIT cpu yes yes" in lines
    assert "damaged note of file what is wrong" in lines
    assert any(line.startswith(f"heart {file} ") and "field: unknown key" in line for line in lines), done.stdout
    facts = [json.loads(line) for line in motet("models", "--json").stdout.splitlines()]
    assert [(fact["model"], fact["file"]) for fact in facts if fact["state"] == "damaged"] == [("heart", str(file))]
    file.unlink()
    assert "damaged" not in motet("models").stdout


@pytest.mark.parametrize(
    ("text", "needs"),
    [
        ("", True),
        ('{"name": "heart", "repository": "org/ot', True),
        ("{}", True),
        ("[]", True),
        ('{"repository": "org/other"}', False),
        ('{"repository": "org/ear"}', True),
        ('{"repository": "org/other", "beside": [{"repository": "org/ear"}]}', True),
    ],
)
def test_which_repositories_a_damaged_note_may_need(tmp_path: Path, text: str, needs: bool) -> None:
    store, model = InstalledModels(RegistrySettings(folder=str(tmp_path))), added("tone")
    store.save(model)
    (tmp_path / "heart.json").write_text(text)
    assert store.damaged()["heart"].may_need("org/ear") is needs and list(store.all()) == ["tone"]
    if needs:
        with pytest.raises(MotetError, match=r"heart\.json is damaged.*Add heart again, or remove that note"):
            store.ensure_decidable(model)
    else:
        store.ensure_decidable(model)


def test_no_weights_are_removed_that_a_damaged_note_may_need(hub: Hub, tmp_path: Path) -> None:
    motet("models", "add", NAME, "--no-try")
    file = damaged_note(tmp_path, "heart", repository=REPOSITORY)
    before = (tmp_path / "serve_config.yaml").read_text()
    with pytest.raises(MotetError, match="its model may need files of"):
        motet("models", "remove", NAME)
    assert (cache.snapshot(REPOSITORY, COMMIT) / "model.bin").is_file()
    assert (tmp_path / "notes" / f"{NAME}.json").is_file()
    assert (tmp_path / "serve_config.yaml").read_text() == before, "nothing was changed"
    assert "kept" in motet("models", "remove", NAME, "--keep-weights").stderr
    motet("models", "add", NAME, "--no-try")
    file.unlink()
    motet("models", "remove", NAME)
    assert list((tmp_path / "hub").iterdir()) == []


def test_a_model_that_is_added_again_has_a_good_note(hub: Hub, tmp_path: Path) -> None:
    damaged_note(tmp_path, NAME)
    with pytest.raises(MotetError, match="cannot be used.*Add the model again, or remove the note"):
        motet("models", "remove", NAME)
    motet("models", "add", NAME, "--no-try", "--no-config")
    store = InstalledModels(RegistrySettings(folder=str(tmp_path / "notes")))
    assert list(store.all()) == [NAME] and store.damaged() == {}


async def test_a_service_removes_nothing_that_a_damaged_note_may_need(bench: AddingBench, tmp_path: Path) -> None:
    store = InstalledModels(bench.registry)
    store.save(added(CLONER, entry=CLONER))
    folder = cache.snapshot("org/ear", NOTED)
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(b"abc")
    damaged_note(tmp_path, "heart", repository="org/ear")
    answer = await bench.remove()
    assert answer.status_code == 503 and str(tmp_path) not in answer.text
    assert store.find(CLONER) is not None and (folder / "model.bin").is_file()
    damaged_note(tmp_path, "heart", repository="org/other")
    assert (await bench.remove()).json()["freed_bytes"] == 3


async def test_a_service_adds_a_model_again_whose_note_is_damaged(bench: AddingBench, tmp_path: Path) -> None:
    damaged_note(tmp_path, CLONER)
    assert (await bench.remove()).status_code == 503
    answer = await bench.add()
    assert answer.status_code == 202 and answer.json()["addition"]["state"] == "fetching" and len(bench.started) == 1
    assert (await bench.remove()).status_code == 200 and bench.started[0].status == 1, "it is cancelled"
    assert code(await bench.remove("no-such")) == (404, "not_in_catalogue")
