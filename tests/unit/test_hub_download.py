"""Hub models are fetched with resume and checked before they have a name, from a server that speaks the hub's protocol."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deployments.engines import weight_sources
from deployments.errors import MotetError
from deployments.hub import cache
from deployments.hub.download import SPARE_BYTES, Download, fetch
from deployments.hub.files import HubFile
from deployments.hub.listing import listing
from deployments.hub.transfer import ATTEMPTS, HubTransfer
from tests.unit.hub_server import COMMIT, Hub, Mishap, Repository

NAME = "org/ear"
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB
FILES = {"model.bin": WEIGHTS, "config.json": b'{"model_type": "ear"}', "tokenizer.json": b"{}", "notes.md": b"no"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub with one model, and an empty cache."""
    with Hub().running() as running:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
        running.repositories[NAME] = Repository(dict(FILES))
        yield running


def wanted(*paths: str) -> Download:
    """Files of the model, as the hub lists them."""
    found = listing(NAME)
    files = [file for path in paths or ("model.bin", "config.json") if (file := found.file(path))]
    return Download(NAME, found.commit, files)


def fetched(task: Download) -> Path:
    return fetch(task, pause=lambda seconds: None)


def left(tmp_path: Path) -> list[str]:
    """Everything that lies in the cache."""
    return sorted(str(path.relative_to(tmp_path / "hub")) for path in (tmp_path / "hub").rglob("*"))


def test_a_listing_has_the_commit_and_a_digest_of_each_file(hub: Hub) -> None:
    found = listing(NAME)
    assert (found.commit, found.licence) == (COMMIT, "mit")
    weights, config = found.file("model.bin"), found.file("config.json")
    assert weights is not None and weights.sha256 == hashlib.sha256(WEIGHTS).hexdigest() and weights.git_sha1 is None
    assert config is not None and config.sha256 is None and config.git_sha1 is not None


def test_a_snapshot_appears_as_a_whole_and_is_used_again(hub: Hub, tmp_path: Path) -> None:
    folder = fetched(wanted())
    assert folder == cache.snapshot(NAME, COMMIT)
    assert (folder / "model.bin").read_bytes() == WEIGHTS
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.bin"]
    asked = len(hub.asked)
    assert fetched(wanted()) == folder and len(hub.asked) == asked
    assert not any(cache.UNFINISHED in path for path in left(tmp_path))


def test_another_client_of_the_hub_finds_the_snapshot(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import snapshot_download

    folder = fetched(wanted())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert Path(snapshot_download(NAME, revision=COMMIT)) == folder


def test_a_transfer_that_is_cut_goes_on_where_it_ended(hub: Hub) -> None:
    hub.mishaps.extend(
        [Mishap("model.bin", cut_after=1000), Mishap("model.bin", cut_after=0), Mishap("model.bin", 5000)]
    )
    assert (fetched(wanted("model.bin")) / "model.bin").read_bytes() == WEIGHTS
    assert [asked.range for asked in hub.asked] == ["", "bytes=1000-", "bytes=1000-", "bytes=6000-"]


def test_temporary_errors_are_waited_for_longer_each_time(hub: Hub) -> None:
    hub.mishaps.extend([Mishap("model.bin", status=503), Mishap("model.bin", status=429)])
    pauses: list[float] = []
    fetch(wanted("model.bin"), pause=pauses.append)
    assert pauses == [2.0, 4.0]


def test_a_hub_that_stays_away_is_an_error_and_what_is_there_is_kept(hub: Hub) -> None:
    hub.mishaps.extend([Mishap("model.bin", cut_after=1000), *[Mishap("model.bin", status=503)] * ATTEMPTS])
    with pytest.raises(MotetError, match="could not be downloaded"):
        fetched(wanted("model.bin"))
    hub.asked.clear()
    fetched(wanted("model.bin"))
    assert [asked.range for asked in hub.asked] == ["bytes=1000-"]


def test_a_server_without_ranges_sends_the_file_anew(hub: Hub) -> None:
    hub.mishaps.extend([Mishap("model.bin", cut_after=1000), Mishap("model.bin", ignores_range=True)])
    assert (fetched(wanted("model.bin")) / "model.bin").read_bytes() == WEIGHTS


def test_a_range_that_is_refused_begins_anew(hub: Hub) -> None:
    hub.mishaps.extend([Mishap("model.bin", cut_after=1000), Mishap("model.bin", no_range=True)])
    assert (fetched(wanted("model.bin")) / "model.bin").read_bytes() == WEIGHTS
    assert [asked.range for asked in hub.asked] == ["", "bytes=1000-", ""]


def test_a_file_that_is_shorter_than_stated_is_begun_anew_once(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[NAME].stated["model.bin"] = WEIGHTS
    hub.repositories[NAME].files["model.bin"] = WEIGHTS[:1000]
    with pytest.raises(MotetError, match="fewer than the 1,048,576 bytes.*check HF_ENDPOINT"):
        fetched(wanted("model.bin"))
    assert [asked.range for asked in hub.asked] == ["", "bytes=1000-"] * 2
    assert left(tmp_path) == []


def test_a_server_without_ranges_that_always_cuts_is_given_up(hub: Hub) -> None:
    hub.mishaps.extend(
        Mishap("model.bin", cut_after=1000 * (1 + number % 2), ignores_range=True) for number in range(50)
    )
    with pytest.raises(MotetError, match="could not be downloaded"):
        fetched(wanted("model.bin"))


class Interrupts:
    """A progress that raises Ctrl-C when so many bytes are there."""

    def __init__(self, at: int) -> None:
        self.at = at
        self.seen: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.seen.append((done, total))
        if done >= self.at:
            raise KeyboardInterrupt


def test_two_interruptions_and_a_third_attempt(hub: Hub, tmp_path: Path) -> None:
    there = 0
    for at in (300_000, 700_000):
        progress = Interrupts(at)
        with pytest.raises(KeyboardInterrupt):
            fetch(wanted(), progress)
        assert hub.asked[-1].range == (f"bytes={there}-" if there else "")
        assert not cache.snapshot(NAME, COMMIT).exists()
        there = (cache.unfinished(NAME, COMMIT) / f"model.bin{cache.PART}").stat().st_size
        assert at <= there < len(WEIGHTS)
    progress = Interrupts(len(WEIGHTS) * 2)
    folder = fetch(wanted(), progress)
    assert (folder / "model.bin").read_bytes() == WEIGHTS
    assert hub.asked[-2].range == f"bytes={there}-"
    whole = sum(len(FILES[name]) for name in ("model.bin", "config.json"))
    assert progress.seen[-1] == (whole, whole)


@pytest.mark.parametrize("path", ["model.bin", "config.json"])
def test_a_wrong_digest_is_refused_and_nothing_is_left(hub: Hub, tmp_path: Path, path: str) -> None:
    right = hub.repositories[NAME].files[path]
    hub.repositories[NAME].stated[path] = right
    hub.repositories[NAME].files[path] = bytes(reversed(right))
    with pytest.raises(MotetError, match=f"{path} of org/ear.*does not have the") as refused:
        fetched(wanted())
    assert refused.value.failure.code == "checksum_mismatch"
    assert left(tmp_path) == []


def test_more_bytes_than_stated_are_refused_and_nothing_is_left(hub: Hub, tmp_path: Path) -> None:
    hub.repositories[NAME].stated["model.bin"] = WEIGHTS[:100]
    with pytest.raises(MotetError, match="more than the 100 bytes"):
        fetched(wanted("model.bin"))
    assert left(tmp_path) == []


def test_a_pin_that_the_hub_contradicts_is_refused_before_anything_is_fetched(hub: Hub, tmp_path: Path) -> None:
    source = weight_sources.parse(f"hf:{NAME}@{COMMIT}")
    with pytest.raises(MotetError, match="another SHA-256"):
        weight_sources.folder_of(source, {"model.bin": "0" * 64})
    assert hub.asked == [] and left(tmp_path) == []


def test_a_start_downloads_the_pinned_weights_and_the_small_files(hub: Hub) -> None:
    hub.repositories[NAME].files["consolidated.safetensors"] = b"a second copy"
    pins = {"model.bin": hashlib.sha256(WEIGHTS).hexdigest()}
    folder = weight_sources.folder_of(weight_sources.parse(f"hf:{NAME}@{COMMIT}"), pins)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.bin", "tokenizer.json"]


def test_a_model_without_pins_gets_the_lines_to_add_without_a_download(hub: Hub) -> None:
    with pytest.raises(MotetError, match=f"model.bin: {hashlib.sha256(WEIGHTS).hexdigest()}"):
        weight_sources.folder_of(weight_sources.parse(f"hf:{NAME}@{COMMIT}"), {})
    assert hub.asked == []


def test_a_full_disk_is_found_before_the_download(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    room = shutil.disk_usage(tmp_path)._replace(free=1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room)
    with pytest.raises(MotetError, match="HF_HUB_CACHE") as full:
        fetched(wanted())
    assert full.value.failure.kind == "storage_full" and hub.asked == [] and left(tmp_path) == []


def test_a_disk_that_fills_meanwhile(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(HubTransfer, "bring", full)
    with pytest.raises(MotetError, match="Free some room") as refused:
        fetched(wanted())
    assert refused.value.failure.code == "disk_full"


def test_a_gated_model_says_what_to_do(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub.repositories[NAME].gated = True
    task = wanted()
    with pytest.raises(MotetError, match=f"Accept its conditions at {hub.url}/{NAME}.*HF_TOKEN"):
        fetched(task)
    assert left(tmp_path) == []
    hub.tokens.add("hf_right")
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert (fetched(task) / "model.bin").is_file()


def test_the_token_goes_to_the_hub_and_not_to_the_host_of_its_contents(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetched(wanted("model.bin"))
    assert hub.listed[-1] == "Bearer hf_secret"
    assert [asked.token for asked in hub.asked] == [""]


def test_an_absent_model_or_revision(hub: Hub) -> None:
    with pytest.raises(MotetError, match="has no model 'org/nobody'"):
        listing("org/nobody")
    with pytest.raises(MotetError, match="no such revision"):
        listing(NAME, "1" * 40)


@pytest.mark.parametrize(
    "commit", ["../../../elsewhere", "/etc", "main", COMMIT + "\n", COMMIT.upper(), COMMIT[:-1], ""]
)
def test_what_a_mirror_answers_as_a_commit_is_checked(hub: Hub, commit: str) -> None:
    hub.repositories[NAME].commit = commit
    with pytest.raises(MotetError, match="as the commit of org/ear, which is not one"):
        listing(NAME)


@pytest.mark.parametrize("path", ["../model.bin", "/etc/model.bin", "a/../../model.bin", "..\\\\model.bin"])
def test_a_path_that_leads_out_of_the_folder_is_refused(hub: Hub, path: str) -> None:
    hub.repositories[NAME].files[path] = b"trouble"
    with pytest.raises(MotetError, match="outside of the model's folder"):
        listing(NAME)


def test_a_file_that_another_program_changed_is_refused(hub: Hub) -> None:
    folder = fetched(wanted())
    (folder / "model.bin").write_bytes(b"something else")
    with pytest.raises(MotetError, match="not the file that is expected"):
        fetched(wanted())


def test_files_are_added_to_a_snapshot_of_another_program(hub: Hub) -> None:
    folder = cache.snapshot(NAME, COMMIT)
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(FILES["config.json"])
    assert sorted(path.name for path in fetched(wanted()).iterdir()) == ["config.json", "model.bin"]
    assert [asked.path for asked in hub.asked] == ["model.bin"]


def test_a_file_of_unknown_digest_matches_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert not HubFile("a", 3).matches(tmp_path / "a")


def test_a_snapshot_is_removed_with_its_contents(hub: Hub, tmp_path: Path) -> None:
    fetched(wanted())
    assert cache.remove(NAME, COMMIT) == len(WEIGHTS) + len(FILES["config.json"])
    assert left(tmp_path) == []


def test_contents_that_another_commit_uses_stay(hub: Hub, tmp_path: Path) -> None:
    blobs = cache.repository(NAME) / "blobs"
    blobs.mkdir(parents=True)
    (blobs / "shared").write_bytes(b"shared")
    (blobs / "own").write_bytes(b"own")
    for commit, names in ((COMMIT, ("shared", "own")), ("b" * 40, ("shared",))):
        folder = cache.snapshot(NAME, commit)
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).symlink_to(f"../../blobs/{name}")
    assert cache.remove(NAME, COMMIT) == len(b"own")
    assert sorted(path.name for path in blobs.iterdir()) == ["shared"]


def begun(path: str, data: bytes, commit: str = COMMIT) -> Path:
    """The beginning of a file, as the interrupted download of another model leaves it."""
    part = cache.unfinished(NAME, commit) / f"{path}{cache.PART}"
    part.parent.mkdir(parents=True, exist_ok=True)
    part.write_bytes(data)
    return part


@pytest.mark.parametrize("there", [False, True])
def test_a_download_publishes_its_own_files_only(hub: Hub, there: bool) -> None:
    part = begun("large/model.bin", b"begun")
    if there:
        cache.snapshot(NAME, COMMIT).mkdir(parents=True)
    folder = fetched(wanted())
    assert sorted(path.name for path in folder.rglob("*")) == ["config.json", "model.bin"]
    assert part.read_bytes() == b"begun"


def test_a_wrong_digest_removes_no_other_download(hub: Hub, tmp_path: Path) -> None:
    part = begun("large/model.bin", b"begun")
    hub.repositories[NAME].stated["model.bin"] = WEIGHTS
    hub.repositories[NAME].files["model.bin"] = bytes(reversed(WEIGHTS))
    with pytest.raises(MotetError, match="does not have the SHA-256"):
        fetched(wanted())
    assert [path for path in (tmp_path / "hub").rglob("*") if path.is_file()] == [part]


def test_room_is_counted_without_other_downloads(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun("large/model.bin", WEIGHTS)
    room = shutil.disk_usage(tmp_path)._replace(free=SPARE_BYTES + 1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: room)
    with pytest.raises(MotetError, match="HF_HUB_CACHE"):
        fetched(wanted())


@pytest.mark.parametrize("commit", [COMMIT, "b" * 40])
def test_a_removal_keeps_downloads_that_are_not_finished(hub: Hub, commit: str) -> None:
    fetched(wanted())
    part = begun("large/model.bin", b"begun", commit)
    with cache.locked(NAME):
        cache.remove(NAME, COMMIT)
    assert part.read_bytes() == b"begun" and not cache.snapshot(NAME, COMMIT).exists()


def test_files_of_a_snapshot_are_removed_with_the_views_of_them(hub: Hub) -> None:
    hub.repositories[NAME].files["second.bin"] = b"second"
    folder = fetched(wanted("model.bin", "second.bin", "config.json"))
    first, second = (cache.view(NAME, COMMIT, [path]) for path in ("model.bin", "second.bin"))
    assert cache.remove(NAME, COMMIT, ["second.bin"]) == len(b"second")
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.bin"]
    assert (first / "model.bin").read_bytes() == WEIGHTS and not second.exists()


def held_elsewhere(name: str) -> bool:
    """Whether a lock is held, asked by another open file, as another process would."""
    folder = os.open(cache.repository(name), os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(folder)
    return False


def test_one_process_at_a_time_downloads_a_repository(hub: Hub) -> None:
    held: list[bool] = []
    fetch(wanted(), lambda done, total: held.append(held_elsewhere(NAME)))
    assert held and all(held) and not held_elsewhere(NAME)


def test_a_lock_of_a_folder_that_was_removed_meanwhile_is_taken_again(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, waits = fcntl.flock, 0

    def flock(file: int, how: int) -> None:
        nonlocal waits
        waits += 1
        if waits == 1:
            cache.repository(NAME).rmdir()  # the process before removed the model
        real(file, how)

    monkeypatch.setattr(fcntl, "flock", flock)
    with cache.locked(NAME):
        monkeypatch.undo()
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache.root()))
        assert waits == 2
