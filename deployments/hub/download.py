"""Hub models on this disk: every file is checked before it gets its name, and the snapshot appears as a whole."""

from __future__ import annotations

import errno
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from deployments.errors import MotetError, fail
from deployments.hub import cache
from deployments.hub.files import HubFile
from deployments.hub.transfer import HubTransfer, Pause

SPARE_BYTES = 64 * 1024**2
"""Room that a download leaves on the disk."""
SMALL_BYTES = 64 * 1024**2
"""The most that the files which describe a model may have together; the index of a large one has about 1 MB."""
Progress = Callable[[int, int], None]
"""Called with how many bytes are there, and how many there will be."""


@dataclass(frozen=True, slots=True)
class Download:
    """Files of a repository at one commit that are wanted on this disk."""

    name: str
    commit: str
    files: Sequence[HubFile]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def paths(self) -> list[str]:
        """Where the files lie in the repository."""
        return [file.path for file in self.files]


def fetch(download: Download, progress: Progress = lambda done, total: None, pause: Pause = time.sleep) -> Path:
    """The snapshot with the files, downloaded as far as they are missing, and checked.

    What was downloaded before an interruption is used. A file with another digest is refused, and everything that was
    downloaded with it is removed. Raises `MotetError`: invalid for a wrong digest, storage_full, unavailable or forbidden.
    """
    with cache.locked(download.name):
        fetch_locked([download], progress, pause)
    return cache.snapshot(download.name, download.commit)


def fetch_locked(
    downloads: Sequence[Download], progress: Progress = lambda done, total: None, pause: Pause = time.sleep
) -> None:
    """As `fetch`, for the files of one model from one or several repositories, whose locks the caller holds: no file gets its
    name before all were checked."""
    missing = [each for each in map(_missing, downloads) if each.files]
    total = sum(each.size for each in downloads)
    with _all_or_nothing(missing), _disk(missing):
        before = total - sum(each.size for each in missing)
        for each in missing:
            _collect(each, _after(before, total, progress), pause)
            before += each.size
    for each in missing:
        cache.publish(each.name, each.commit, each.paths)


@contextmanager
def borrowed(download: Download, pause: Pause = time.sleep) -> Iterator[Path]:
    """A folder with small files, downloaded and checked; nothing of it stays. Raises `MotetError` as `fetch` does, and
    (invalid) for files that are not small."""
    if download.size > SMALL_BYTES:
        cause = f"{download.name} says that {', '.join(download.paths)} have {download.size:,} bytes."
        raise fail("invalid", cause, "That is no model's description. Choose another repository.")
    with TemporaryDirectory() as folder, closing(HubTransfer(download.name, download.commit, pause)) as transfer:
        for file in download.files:
            place = Path(folder, file.path)
            place.parent.mkdir(parents=True, exist_ok=True)
            transfer.bring(file, place, lambda done: None)
            _check(place, file, download)
        yield Path(folder)


def _missing(download: Download) -> Download:
    """Those of its files that the snapshot does not have."""
    folder = cache.snapshot(download.name, download.commit)
    files = [file for file in download.files if not _is_there(folder / file.path, file)]
    return Download(download.name, download.commit, files)


def _after(before: int, total: int, progress: Progress) -> Callable[[int], None]:
    """The progress of one repository as that of all, of which some bytes were there before."""
    return lambda done: progress(before + done, total)


def _is_there(place: Path, file: HubFile) -> bool:
    """Whether the snapshot has the file already, from Motet or from another program. Raises `MotetError` for another file."""
    if not place.is_file():
        return False
    if file.matches(place):
        return True
    cause = f"{place} is not the file that is expected: its size or its digest differs."
    raise fail("invalid", cause, "Find out what changed it, remove it, and try again.", code="checksum_mismatch")


def _collect(wanted: Download, progress: Callable[[int], None], pause: Pause) -> None:
    """Downloads and checks the files into the folder of unfinished ones. `progress` gets how many bytes of them are there."""
    folder = cache.unfinished(wanted.name, wanted.commit)
    before = 0

    def show(done: int) -> None:
        progress(before + done)

    with closing(HubTransfer(wanted.name, wanted.commit, pause)) as transfer:
        for file in wanted.files:
            whole = folder / file.path
            if whole.is_file() and not file.matches(whole):  # of another mirror or pin, or lost with the power
                whole.unlink()
            if not whole.is_file():
                part = whole.with_name(f"{whole.name}{cache.PART}")
                transfer.bring(file, part, show)
                _check(part, file, wanted)
                part.rename(whole)
            show(file.size)
            before += file.size


def _check(part: Path, file: HubFile, wanted: Download) -> None:
    if file.matches(part):
        return
    known = f"SHA-256 {file.sha256}" if file.sha256 else f"git digest {file.git_sha1}"
    raise fail(
        "invalid",
        f"{file.path} of {wanted.name}@{wanted.commit} does not have the {known}. What was downloaded is removed.",
        "Check HF_ENDPOINT: the mirror may hold another file. Try again, and report it if it happens at the hub itself.",
        code="checksum_mismatch",
    )


@contextmanager
def _disk(wanted: Sequence[Download]) -> Iterator[None]:
    """Refuses downloads that do not fit on the disk, before they begin and when the disk fills meanwhile."""
    needed = sum(each.size - cache.collected_bytes(each.name, each.commit, each.paths) for each in wanted)
    free = shutil.disk_usage(cache.root()).free
    if wanted and free < needed + SPARE_BYTES:
        raise _full(needed, free)
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _full(needed, shutil.disk_usage(cache.root()).free) from error


def _full(needed: int, free: int) -> MotetError:
    cause = f"The disk of {cache.root()} has {free / 1e9:.1f} GB free, and the download needs {needed / 1e9:.1f} GB."
    remedy = "Free some room, or set HF_HUB_CACHE to a folder on another disk. What is there already is kept."
    return fail("storage_full", cause, remedy, code="disk_full")


@contextmanager
def _all_or_nothing(downloads: Sequence[Download]) -> Iterator[None]:
    """Removes what was downloaded if a file is not the expected one."""
    try:
        yield
    except MotetError as error:
        if error.failure.code == "checksum_mismatch":
            for each in downloads:
                cache.discard(each.name, each.commit, each.paths)
        raise
