"""Models whose engine needs files of other repositories: fetched, checked, noted, configured, loaded and removed with them."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from cluster.bulk.job import BulkJob, BulkTranscriptionOrder
from cluster.bulk.settings import BulkSettings
from cluster.hardware import CpuClass
from cluster.models import Model
from deployments.catalogue import entries
from deployments.catalogue.adding import bytes_here, ensure_room, fetch_and_note
from deployments.catalogue.choice import choose
from deployments.catalogue.installed import InstalledModels, RegistrySettings
from deployments.engines import weight_sources
from deployments.engines.protocols import SpeechRequest
from deployments.errors import MotetError
from deployments.hub import cache
from deployments.hub.download import SPARE_BYTES
from deployments.replica.base import load_engine
from deployments.settings import WindowSettings
from serve_app import config_edit, config_file
from serve_app.cli import addition_process, local
from serve_app.cli.doctor_models import model_findings
from serve_app.config import AppConfig
from serve_app.gateway.deployment import directory_of
from serve_app.replica_settings import replica_settings
from tests.unit.hub_server import COMMIT, Hub, Mishap, Repository
from tests.unit.test_cli_models import CONFIG, hub, motet
from tests.unit.test_hub_download import Interrupts, held_elsewhere
from tests.unit.test_keys import code
from tests.unit.test_model_additions import Lifeline
from tests.unit.test_model_loading import ROOT, LoadingBench

__all__ = ["hub"]
OWN, WORDS, ENCODER = "org/voice", "org/words", "org/encoder"
"""The repository of the model, and those with the files that come beside its own."""
FILES: Mapping[str, Mapping[str, bytes]] = {
    OWN: {"model.bin": b"weights" * 1000, "config.json": b"{}"},
    WORDS: {"tokenizer.json": b'{"words": 1}', "model.safetensors": b"not wanted"},
    ENCODER: {"model.safetensors": b"encoder" * 60_000, "config.json": b'{"inner": 1}'},
}
WANTED = {OWN: ("model.bin", "config.json"), WORDS: ("tokenizer.json",), ENCODER: ("model.safetensors", "config.json")}
FOLDERS = {WORDS: "", ENCODER: "encoder"}
IN_FOLDER = {
    "model.bin": FILES[OWN]["model.bin"],
    "config.json": FILES[OWN]["config.json"],
    "tokenizer.json": FILES[WORDS]["tokenizer.json"],
    "encoder/model.safetensors": FILES[ENCODER]["model.safetensors"],
    "encoder/config.json": FILES[ENCODER]["config.json"],
}
"""What the engine finds."""
SIZE = sum(map(len, IN_FOLDER.values()))


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def pins(repository: str, paths: Sequence[str]) -> dict[str, Any]:
    files = {path: FILES[repository][path] for path in paths}
    return {path: {"size": len(data), "sha256": sha256(data), "sources": ["a"]} for path, data in files.items()}


def entry(repository: str = OWN, beside: Sequence[str] = (WORDS, ENCODER), **changed: Any) -> dict[str, Any]:
    """An entry of a catalogue, with files of other repositories."""

    def part(name: str) -> dict[str, Any]:
        return {"repository": name, "revision": COMMIT, "licence": "MIT", "files": pins(name, WANTED[name])}

    others = [{**part(name), "folder": FOLDERS[name]} for name in beside]
    plain = {"about": "A.", "engine": "whisper", "parameters": "1K", "hardware": {"cpu": {}}, "tested": "In a test."}
    return {**plain, **part(repository), "beside": others, **changed}


def write(folder: Path, models: Mapping[str, Any]) -> RegistrySettings:
    """A catalogue, and a configuration that names it."""
    (folder / "catalogue.yaml").write_text(yaml.safe_dump({"manifests": {"a": "A manifest."}, "models": dict(models)}))
    places = {"folder": str(folder / "notes"), "catalogue": str(folder / "catalogue.yaml")}
    (folder / "serve_config.yaml").write_text(CONFIG % places)
    entries.load.cache_clear()
    return RegistrySettings(**places)


@pytest.fixture
def registry(hub: Hub, tmp_path: Path) -> RegistrySettings:
    """A hub with three repositories, and a catalogue with a model that needs them all and one that needs two."""
    for name, files in FILES.items():
        hub.repositories[name] = Repository(dict(files), licence=f"licence-of-{name.partition('/')[2]}")
    return write(tmp_path, {"voice": entry(), "second": entry(ENCODER, beside=(WORDS,))})


def configured(tmp_path: Path, name: str = "voice") -> Model:
    return config_file.read_app(tmp_path / "serve_config.yaml").models[name]


def folder_of(model: Model) -> Path:
    return weight_sources.folder_of(weight_sources.parse(str(model.source)), model.sha256, model.beside)


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def rows() -> list[str]:
    """The lines of `motet models`."""
    return [" ".join(line.split()) for line in motet("models").stdout.splitlines()]


def here(tmp_path: Path) -> list[str]:
    """What lies in the cache."""
    return sorted(path.name for path in (tmp_path / "hub").iterdir())


def test_a_model_comes_with_the_files_beside_its_own(hub: Hub, registry: RegistrySettings, tmp_path: Path) -> None:
    done = motet("models", "add", "voice", "--no-try")
    assert done.exit_code == 0 and "5 files" in done.stderr
    for name in ("words", "encoder"):
        assert f"beside it: org/{name}@{COMMIT}, licence: licence-of-{name}" in done.stderr
    model, note = configured(tmp_path), InstalledModels(registry).find("voice")
    assert note is not None and note.size == SIZE == entries.load(Path(str(registry.catalogue))).models["voice"].size
    assert [(each.source, each.folder) for each in model.beside] == [
        (f"hf:{WORDS}@{COMMIT}", ""),
        (f"hf:{ENCODER}@{COMMIT}", "encoder"),
    ]
    hub.asked.clear()
    assert content(folder_of(model)) == IN_FOLDER and hub.asked == []
    assert sorted(path.name for path in cache.snapshot(WORDS, COMMIT).iterdir()) == ["tokenizer.json"]
    assert "transcription voice cpu weights here" in rows()
    (cache.snapshot(WORDS, COMMIT) / "tokenizer.json").unlink()
    assert not note.is_here and "transcription voice cpu not downloaded yet" in rows()


def test_a_start_downloads_what_is_missing(hub: Hub, registry: RegistrySettings, tmp_path: Path) -> None:
    motet("models", "add", "voice", "--no-try")
    model = configured(tmp_path)
    shutil.rmtree(cache.repository(ENCODER))
    hub.asked.clear()
    assert content(folder_of(model)) == IN_FOLDER
    assert {asked.path for asked in hub.asked} == {"model.safetensors", "config.json"}
    shutil.rmtree(tmp_path / "hub")
    assert content(folder_of(model)) == IN_FOLDER


def test_a_changed_file_beside_is_refused_at_the_start(registry: RegistrySettings, tmp_path: Path) -> None:
    motet("models", "add", "voice", "--no-try")
    (cache.snapshot(WORDS, COMMIT) / "tokenizer.json").write_bytes(b"{}")
    with pytest.raises(MotetError, match="tokenizer.json has another SHA-256"):
        folder_of(configured(tmp_path))


def test_an_interruption_in_a_file_beside_is_continued(hub: Hub, registry: RegistrySettings) -> None:
    store, choice = InstalledModels(registry), choose("voice", registry.model_catalogue, ["cpu"])
    own = len(FILES[OWN]["model.bin"]) + len(FILES[OWN]["config.json"])
    with pytest.raises(KeyboardInterrupt):
        fetch_and_note(choice, store, Interrupts(own + 100_000))
    assert store.all() == {} and not any(cache.snapshot(name, COMMIT).exists() for name in FILES)
    found = registry.model_catalogue.models["voice"]
    assert own + 100_000 <= bytes_here(found) < SIZE
    small = len(FILES[WORDS]["tokenizer.json"]) + len(FILES[ENCODER]["config.json"])
    there = bytes_here(found) - own - small
    hub.asked.clear()
    progress = Interrupts(SIZE + 1)
    fetch_and_note(choice, store, progress)
    assert [(asked.path, asked.range) for asked in hub.asked] == [("model.safetensors", f"bytes={there}-")]
    assert progress.seen[-1] == (SIZE, SIZE) and bytes_here(found) == SIZE


def test_all_repositories_are_locked_until_the_note_is_written(
    registry: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    for name in ("save", "remove"):
        real = getattr(InstalledModels, name)

        def noted(store: InstalledModels, what: Any, real: Any = real) -> None:
            held.extend(map(held_elsewhere, FILES))
            real(store, what)

        monkeypatch.setattr(InstalledModels, name, noted)
    motet("models", "add", "voice", "--no-try")
    motet("models", "remove", "voice")
    assert held == [True] * 6


@pytest.mark.parametrize("wrong", [(WORDS, "tokenizer.json"), (ENCODER, "model.safetensors")])
def test_a_wrong_file_beside_is_refused_and_nothing_is_left(
    hub: Hub, registry: RegistrySettings, tmp_path: Path, wrong: tuple[str, str]
) -> None:
    repository, path = wrong
    before = (tmp_path / "serve_config.yaml").read_text()
    hub.repositories[repository].stated[path] = FILES[repository][path]
    hub.repositories[repository].files[path] = FILES[repository][path][::-1]
    with pytest.raises(MotetError, match=f"{path} of {repository}.*does not have the SHA-256"):
        motet("models", "add", "voice", "--no-try")
    assert here(tmp_path) == [] and not (tmp_path / "notes").exists()
    lifeline = Lifeline(registry, "voice")
    with pytest.raises(MotetError, match="does not have the SHA-256"):
        addition_process.add(lifeline.order, lifeline.report)
    lifeline.close()
    assert here(tmp_path) == [] and InstalledModels(registry).all() == {}
    assert (tmp_path / "serve_config.yaml").read_text() == before


def test_a_mirror_with_another_file_beside_is_refused_before_the_download(hub: Hub, registry: RegistrySettings) -> None:
    hub.repositories[ENCODER].files["model.safetensors"] = b"another" * 60_000
    with pytest.raises(MotetError, match="states another SHA-256") as refused:
        motet("models", "add", "voice", "--no-try")
    assert refused.value.failure.code == "checksum_mismatch" and hub.asked == []


def test_an_unknown_commit_beside_is_pinned_when_the_model_is_added(registry: RegistrySettings, tmp_path: Path) -> None:
    loose = {"repository": WORDS, "licence": "MIT", "files": {"tokenizer.json": {}}}
    settings = write(tmp_path, {"voice": {**entry(), "beside": [loose]}})
    assert settings.model_catalogue.models["voice"].size is None
    motet("models", "add", "voice", "--no-try")
    (beside,) = configured(tmp_path).beside
    assert (beside.source, beside.sha256) == (
        f"hf:{WORDS}@{COMMIT}",
        {"tokenizer.json": sha256(FILES[WORDS]["tokenizer.json"])},
    )


def test_room_is_counted_for_all_repositories(
    hub: Hub, registry: RegistrySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = len(FILES[OWN]["model.bin"]) + len(FILES[OWN]["config.json"])
    room = shutil.disk_usage(tmp_path)._replace(free=SPARE_BYTES + own)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room)
    with pytest.raises(MotetError, match="HF_HUB_CACHE"):
        motet("models", "add", "voice", "--no-try")
    assert hub.asked == [] and here(tmp_path) == []
    with pytest.raises(MotetError) as refused:
        ensure_room(registry.model_catalogue.models["voice"])
    assert refused.value.failure.code == "disk_full"
    hub.asked.clear()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room._replace(free=SPARE_BYTES + SIZE))
    ensure_room(registry.model_catalogue.models["voice"])
    assert motet("models", "add", "voice", "--no-try").exit_code == 0


# --- Removal


def test_a_removal_keeps_what_another_model_needs(registry: RegistrySettings, tmp_path: Path) -> None:
    for name in ("voice", "second"):
        motet("models", "add", name, "--no-try")
    second = configured(tmp_path, "second")
    expected = content(folder_of(second))
    motet("models", "remove", "voice")
    assert here(tmp_path) == ["models--org--encoder", "models--org--words"]
    assert content(folder_of(second)) == expected
    motet("models", "remove", "second")
    assert here(tmp_path) == []


def test_the_other_way_round_a_removal_keeps_the_files_beside_another_model(
    registry: RegistrySettings, tmp_path: Path
) -> None:
    for name in ("voice", "second"):
        motet("models", "add", name, "--no-try")
    assert "another model has them" in motet("models", "remove", "second").stderr
    assert content(folder_of(configured(tmp_path))) == IN_FOLDER
    motet("models", "remove", "voice")
    assert here(tmp_path) == []


def test_a_file_beside_a_model_that_is_configured_by_hand_stays(registry: RegistrySettings, tmp_path: Path) -> None:
    motet("models", "add", "voice", "--no-try")
    mine = configured(tmp_path).model_dump(mode="json", include={"engine", "source", "sha256", "beside"})
    config_edit.add_model(tmp_path / "serve_config.yaml", "mine", {**mine, "source": f"hf:org/mine@{COMMIT}"})
    motet("models", "remove", "voice")
    assert here(tmp_path) == ["models--org--encoder", "models--org--words"]


def test_a_removal_leaves_what_other_programs_have_of_a_repository_beside(
    registry: RegistrySettings, tmp_path: Path
) -> None:
    motet("models", "add", "voice", "--no-try")
    other = cache.snapshot(WORDS, COMMIT) / "model.safetensors"
    other.write_bytes(b"another program's")
    motet("models", "remove", "voice")
    assert here(tmp_path) == ["models--org--words"] and content(other.parent) == {other.name: b"another program's"}


def test_a_view_whose_files_beside_are_gone_goes_with_them(registry: RegistrySettings, tmp_path: Path) -> None:
    alone = entry(beside=())
    write(tmp_path, {"voice": entry(), "alone": alone})
    for name in ("voice", "alone"):
        motet("models", "add", name, "--no-try")
    folder = folder_of(configured(tmp_path))
    motet("models", "remove", "voice")
    assert not folder.exists() and here(tmp_path) == ["models--org--voice"]
    assert (folder_of(configured(tmp_path, "alone")) / "model.bin").is_file()


# --- A running service


async def test_a_service_lists_loads_and_removes_a_model_with_files_beside(
    registry: RegistrySettings, tmp_path: Path
) -> None:
    motet("models", "add", "voice", "--no-try", "--no-config")
    bench = LoadingBench(registry=registry)

    async def listed() -> Any:
        data = (await bench.client.get("/v1/registry", headers=ROOT)).json()["data"]
        return next(each for each in data if each["id"] == "voice")

    assert ((await listed())["size_bytes"], (await listed())["installed"]) == (SIZE, True)
    answer = await bench.client.post("/v1/models", json={"id": "one", "catalogue": "voice"}, headers=ROOT)
    assert answer.status_code == 202, answer.text
    assert content(folder_of(bench.list.models["one"].model)) == IN_FOLDER
    model = bench.list.models["one"].model.model_dump(mode="json", include={"engine", "source", "sha256", "beside"})
    model["beside"][0]["sha256"]["vocab.json"] = "0" * 64
    answer = await bench.client.post("/v1/models", json={"id": "two", **model}, headers=ROOT)
    assert code(answer) == (404, "weights_missing"), "a request downloads nothing"
    model["beside"][0]["sha256"] = {"../../../secret.json": "0" * 64}
    answer = await bench.client.post("/v1/models", json={"id": "two", **model}, headers=ROOT)
    assert answer.status_code == 400 and "not a path in a folder" in answer.text
    assert code(await bench.client.delete("/v1/registry/voice", headers=ROOT)) == (409, "model_in_use")
    bench.list.models.clear()
    bench.note()
    assert (await bench.client.delete("/v1/registry/voice", headers=ROOT)).json()["freed_bytes"] == SIZE
    assert here(tmp_path) == [] and not (await listed())["installed"]


async def test_a_service_removes_what_was_fetched_of_a_cancelled_model(
    hub: Hub, registry: RegistrySettings, tmp_path: Path
) -> None:
    hub.mishaps.append(Mishap("tokenizer.json", status=404))
    with pytest.raises(MotetError, match="answers 404"):
        fetch_and_note(choose("voice", registry.model_catalogue, ["cpu"]), InstalledModels(registry), lambda *_: None)
    freed = (await LoadingBench(registry=registry).client.delete("/v1/registry/voice", headers=ROOT)).json()
    assert freed["freed_bytes"] == len(FILES[OWN]["model.bin"]) + len(FILES[OWN]["config.json"])
    assert here(tmp_path) == []


# --- The configuration


def test_what_a_configuration_refuses() -> None:
    beside = {"source": f"hf:{WORDS}@{COMMIT}", "sha256": {"tokenizer.json": "a" * 64}}
    plain = {"engine": "whisper", "source": f"hf:{OWN}@{COMMIT}", "sha256": {"model.bin": "a" * 64}}
    own = {"hardware": {"kind": "cuda"}, "source": f"hf:org/other@{COMMIT}", "sha256": {}}
    for changed, says in (
        ({"source": "path:/models/voice"}, "beside is for a source hf:..."),
        ({"sha256": {"tokenizer.json": "a" * 64}}, "two files would have the place 'tokenizer.json'"),
        ({"beside": [beside, beside]}, "two files would have the place 'tokenizer.json'"),
        ({"beside": [{**beside, "source": "wheel:hibari-tts"}]}, "write hf:<org>/<name>@<commit>"),
        ({"beside": [{**beside, "source": f"hf:{WORDS}@main"}]}, "does not name a commit"),
        ({"beside": [{**beside, "sha256": {}}]}, "at least 1 item"),
        ({"beside": [{**beside, "sha256": {"model.pt": "a" * 64}}]}, "engines read no files such as 'model.pt'"),
        ({"beside": [{**beside, "folder": "../up"}]}, "is not a path in a folder"),
        ({"placements": [{"hardware": {"kind": "cpu"}}, own]}, "needs a beside of its own, or an empty one"),
    ):
        with pytest.raises(ValidationError, match=says.replace("(", r"\(")):
            Model.model_validate({**plain, "beside": [beside], **changed})
    placed = {**plain, "beside": [beside], "placements": [{"hardware": {"kind": "cpu"}}, {**own, "beside": []}]}
    model = Model.model_validate(placed)
    assert [len(model.on(placement).beside) for placement in model.placements] == [1, 0]


def test_files_beside_decide_what_a_model_makes() -> None:
    """Stored results of the same model with another tokenizer are not used again."""
    plain = Model.model_validate(
        {"engine": "whisper", "source": f"hf:{OWN}@{COMMIT}", "sha256": {"model.bin": "a" * 64}}
    )
    beside = weight_sources.BesideFiles(source=f"hf:{WORDS}@{COMMIT}", sha256={"tokenizer.json": "a" * 64})
    models = {"plain": plain, "more": plain.model_copy(update={"beside": (beside,)})}
    directory = directory_of(AppConfig(models=models), {})
    assert directory.models["plain"].weights != directory.models["more"].weights
    order = BulkTranscriptionOrder(language=None, prompt=None, word_times=False, windows=WindowSettings())
    jobs = [
        BulkJob(
            model=replica_settings("ear", model, model.placements[0]),
            order=order,
            bulk=BulkSettings(),
            way="engines",
            version="",
        )
        for model in models.values()
    ]
    assert jobs[0].identity != jobs[1].identity and '"beside"' not in jobs[0].identity


def test_doctor_says_how_to_fetch_all_repositories(hub: Hub) -> None:
    beside = weight_sources.BesideFiles(source=f"hf:{WORDS}@{COMMIT}", sha256={"tokenizer.json": "a" * 64})
    source, pinned = f"hf:{OWN}@{COMMIT}", {"model.bin": "a" * 64}
    model = Model(engine="whisper", source=source, sha256=pinned, beside=(beside,))
    cache.snapshot(OWN, COMMIT).mkdir(parents=True)
    (cache.snapshot(OWN, COMMIT) / "model.bin").write_bytes(b"here")
    (finding,) = model_findings("ear", model, {"cpu"})
    assert finding.state == "absent" and finding.remedy is not None
    assert all(f"hf download {name} --revision {COMMIT}" in finding.remedy for name in (OWN, WORDS))


# --- An engine


def test_vibevoice_realtime_speaks_with_a_tokenizer_and_voices_of_other_repositories(hub: Hub, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    from tests.unit.vibevoice_realtime_models import VOICES, write_tiny

    made = content(write_tiny(tmp_path / "made"))
    voices = tuple(f"voices/{name}.safetensors" for name in VOICES)
    parts = {OWN: ("model.safetensors", "config.json"), WORDS: ("tokenizer.json",), ENCODER: voices}
    for name, paths in parts.items():
        hub.repositories[name] = Repository({path: made[path] for path in paths})
    own, *beside = [
        {"repository": name, "revision": COMMIT, "licence": "MIT", "files": {path: {} for path in paths}}
        for name, paths in parts.items()
    ]
    facts = {
        "about": "A.",
        "engine": "vibevoice_realtime",
        "parameters": "1K",
        "hardware": {"cpu": {}},
        "tested": "Yes.",
    }
    write(tmp_path, {"voice": {**facts, **own, "beside": beside}})
    assert motet("models", "add", "voice", "--no-try").exit_code == 0
    model = configured(tmp_path)
    settings = replica_settings("voice", model, model.placements[0])
    for engine in (load_engine(settings), local.load_engine("voice", model, CpuClass())):
        assert {voice.id for voice in engine.traits.voices} == set(VOICES)
        (chunk,) = engine.step([engine.open(SpeechRequest(("Hello.",), next(iter(VOICES))))])
        assert len(chunk.samples) > 0


def test_a_removal_that_was_interrupted_can_be_repeated(
    registry: RegistrySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert motet("models", "add", "voice", "--no-try").exit_code == 0
    remove = cache.remove

    def interrupted(name: str, *rest: Any) -> int:
        if name == WORDS:
            raise PermissionError("not yours")
        return remove(name, *rest)

    with monkeypatch.context() as broken, pytest.raises(PermissionError):
        broken.setattr(cache, "remove", interrupted)
        motet("models", "remove", "voice")
    assert InstalledModels(registry).find("voice") is not None
    done = motet("models", "remove", "voice")
    assert done.exit_code == 0 and InstalledModels(registry).find("voice") is None
    assert not cache.snapshot(OWN, COMMIT).exists() and not cache.snapshot(WORDS, COMMIT).exists()


def test_another_model_of_the_same_name_is_refused_before_the_download(hub: Hub, registry: RegistrySettings) -> None:
    assert motet("models", "add", "voice", "--no-try", "--no-config").exit_code == 0
    hub.asked.clear()
    with pytest.raises(MotetError, match=f"Another model was added as 'voice': {OWN}"):
        motet("models", "add", "second", "--as", "voice", "--no-try", "--no-config")
    assert not any("resolve" in each for each in map(str, hub.asked))


def test_what_was_collected_for_another_pin_is_fetched_again(registry: RegistrySettings) -> None:
    whole = cache.unfinished(OWN, COMMIT) / "model.bin"
    whole.parent.mkdir(parents=True)
    whole.write_bytes(bytes(len(FILES[OWN]["model.bin"])))
    assert motet("models", "add", "voice", "--no-try").exit_code == 0
    assert (cache.snapshot(OWN, COMMIT) / "model.bin").read_bytes() == FILES[OWN]["model.bin"]


def test_a_note_with_an_engine_of_another_version_is_a_damaged_one(registry: RegistrySettings) -> None:
    assert motet("models", "add", "voice", "--no-try", "--no-config").exit_code == 0
    note = Path(registry.folder) / "voice.json"
    note.write_text(note.read_text().replace('"whisper"', '"of-tomorrow"'))
    assert list(InstalledModels(registry).damaged()) == ["voice"]
    assert motet("models").exit_code == 0
