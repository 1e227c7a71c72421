"""The bytes of uploads, results and finished parts: files under one folder, on disk or in any store of fsspec.

A file is complete or not there at all. Calls block; run them on a thread.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from deployments.errors import fail
from serve_app.gateway.bodies.storage import storing
from serve_app.gateway.jobs.records import Blob

logger = logging.getLogger("ray.serve")

INCOMING = "incoming"
PARTS = "parts"
"""Where finished parts are, in a folder for each job."""
STALE_S = 24 * 3600.0
"""A half-written file of this age is of a process that ended."""


class BlobStore:
    """Files by path. The folder is for what is being written; without a `url` also for what is complete."""

    def __init__(self, folder: Path, url: str | None) -> None:
        self._incoming = folder / INCOMING
        self._files, self._root = _opened(url or str(folder / "files"))

    def writer(self) -> BlobWriter:
        """Writes a new file, which is in the store once it is put there."""
        self._incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        return BlobWriter(self._incoming / secrets.token_hex(16))

    def put(self, written: BlobWriter, path: str) -> None:
        """Moves a written file into the store. Raises `MotetError` (storage_full)."""
        target = f"{self._root}/{path}"
        with storing("jobs"):
            if isinstance(self._files, LocalFileSystem):
                folder = Path(target).parent
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                written.path.replace(target)
                _sync_folder(folder)
            else:
                self._files.put_file(str(written.path), target)
                written.discard()

    def open(self, path: str) -> IO[bytes]:
        """A file of the store, for reading. Raises FileNotFoundError."""
        file: IO[bytes] = self._files.open(f"{self._root}/{path}", "rb")
        return file

    def read(self, path: str) -> bytes:
        """All of a file. Raises FileNotFoundError."""
        data: bytes = self._files.cat_file(f"{self._root}/{path}")
        return data

    def sizes(self, folder: str) -> Mapping[str, int]:
        """The bytes of each file of a folder, by path; none if there is no such folder."""
        root = f"{self._root}/{folder}"
        self._files.invalidate_cache(root)  # of a store that remembers what was there
        try:
            found = self._files.ls(root, detail=True)
        except FileNotFoundError:
            return {}
        return {f"{folder}/{each['name'].rpartition('/')[2]}": int(each["size"]) for each in found}

    def remove(self, paths: Sequence[str]) -> list[str]:
        """Removes files, as far as they are there, and the folders of parts that are empty then. Returns the paths of those
        that cannot be removed now, which are logged."""
        kept = [path for path in paths if not self._is_removed(path)]
        if isinstance(self._files, LocalFileSystem):
            for folder in {Path(path).parent for path in paths if path.startswith(f"{PARTS}/")}:
                with suppress(OSError):  # it has other files
                    Path(self._root, folder).rmdir()
        return kept

    def _is_removed(self, path: str) -> bool:
        try:
            self._files.rm_file(f"{self._root}/{path}")
        except FileNotFoundError:
            return True
        except Exception as error:  # each protocol has errors of its own
            logger.warning("The file %s of the store cannot be removed: %s", path, error)
            return False
        return True

    def sweep(self) -> None:
        """Removes what processes that ended left half-written."""
        for file in self._incoming.glob("*"):
            with suppress(FileNotFoundError):
                if time.time() - file.stat().st_mtime > STALE_S:
                    file.unlink()


class BlobWriter:
    """A file that is being written on the local disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._digest = hashlib.sha256()
        self._file: IO[bytes] = path.open("xb")

    def write(self, data: bytes | bytearray) -> None:
        """Adds bytes. Raises `MotetError` (storage_full)."""
        with storing("jobs"):
            self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> Blob:
        """Ends it; the blob has a path of its own, so that equal contents never share a file that one of them removes.
        Raises `MotetError` (storage_full)."""
        with storing("jobs"):
            self._file.flush()
            os.fsync(self._file.fileno())  # the queue, which names it, survives the loss of power
            self._file.close()
        digest = self._digest.hexdigest()
        return Blob(digest, f"{digest[:2]}/{digest}.{secrets.token_hex(4)}", self.size)

    def discard(self) -> None:
        """Removes it. Safe to call twice, and after it was moved into the store."""
        with suppress(OSError):  # closing flushes, which fails again on a full disk
            self._file.close()
        self.path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Makes sure that the names of its files are on the disk."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _opened(url: str) -> tuple[Any, str]:
    try:
        files, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        remedy = "Install the package of its protocol, or correct jobs.store."
        raise fail("unavailable", f"The store of jobs cannot be opened: {error}.", remedy) from error
    return files, root.rstrip("/")
