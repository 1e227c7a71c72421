"""One file from the hub, written beside its final name: a transfer that was cut goes on where it ended.

The hub's own client (huggingface_hub 2.4) removes what it has of a file when a download is interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import httpx

from deployments.errors import MotetError, fail
from deployments.hub.files import HubFile
from deployments.hub.listing import gated, unreachable

ATTEMPTS = 6
"""Connections in a row that bring no byte, before the transfer ends with an error."""
LONGEST_PAUSE_S = 30.0
TIMEOUT = httpx.Timeout(30.0, read=60.0)
TEMPORARY = (408, 425, 429, 500, 502, 503, 504)
"""Statuses after which the same request may succeed."""


class _PastTheEndError(Exception):
    """The server has no byte at the place where the transfer would go on."""


Progress = Callable[[int], None]
"""Called with the number of bytes of the file that are on the disk."""
Pause = Callable[[float], None]


class HubTransfer:
    """Brings files of one repository at one commit. `pause` waits for some seconds between two attempts."""

    def __init__(self, name: str, commit: str, pause: Pause = time.sleep) -> None:
        from huggingface_hub import get_token

        self._name = name
        self._commit = commit
        self._pause = pause
        token = get_token()
        headers = {"User-Agent": "motet", "Accept-Encoding": "identity"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        # A redirect to another host loses the token: httpx sends it to the hub only.
        self._client = httpx.Client(headers=headers, follow_redirects=True, timeout=TIMEOUT)

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def bring(self, file: HubFile, part: Path, progress: Progress) -> None:
        """Completes `part`, which may have the beginning of the file, to the file's size. Its content is not checked.

        Raises `MotetError`: unavailable if the hub does not answer, invalid if it has more or fewer bytes than the file;
        `OSError` if the disk takes no more.
        """
        failures, most, anew = 0, 0, False
        while (there := _size(part)) != file.size or not part.exists():
            if there > file.size:
                part.unlink()
                continue
            try:
                self._continue(file, part, progress)
            except _PastTheEndError as error:
                if anew:
                    raise _too_short(file) from error
                anew, most = True, 0
                part.unlink(missing_ok=True)
            except httpx.HTTPError as error:
                failures = 0 if _size(part) > max(most, there) else failures + 1
                most = max(most, _size(part))  # a server without ranges may come back to less
                if failures >= ATTEMPTS:
                    raise unreachable(self._name, error) from error
                self._pause(min(2.0**failures, LONGEST_PAUSE_S))

    def _continue(self, file: HubFile, part: Path, progress: Progress) -> None:
        from huggingface_hub import hf_hub_url

        url, there = hf_hub_url(self._name, file.path, revision=self._commit), _size(part)
        with self._client.stream("GET", url, headers={"Range": f"bytes={there}-"} if there else {}) as answer:
            if answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise _PastTheEndError
            self._refuse(answer, file)
            with _appended(part, resumes=answer.status_code == httpx.codes.PARTIAL_CONTENT) as out:
                for block in answer.iter_raw():  # as it arrives: what came before a cut is kept
                    if out.tell() + len(block) > file.size:
                        raise _too_long(file)
                    out.write(block)
                    progress(out.tell())
        if _size(part) < file.size:
            raise httpx.RemoteProtocolError("the connection ended before the file")

    def _refuse(self, answer: httpx.Response, file: HubFile) -> None:
        if answer.headers.get("X-Error-Code") == "GatedRepo":
            raise gated(self._name)
        if answer.status_code in TEMPORARY:
            raise httpx.RemoteProtocolError(f"the hub answers {answer.status_code}")
        if answer.is_error:
            cause = f"The hub answers {answer.status_code} for {file.path} of {self._name}@{self._commit}."
            raise fail("unavailable", cause, "Check the revision on its page; a private model needs HF_TOKEN.")


@contextmanager
def _appended(part: Path, *, resumes: bool) -> Iterator[BinaryIO]:
    """The part, to write at its end, or anew if the server sends the file from its beginning."""
    part.parent.mkdir(parents=True, exist_ok=True)
    with part.open("ab" if resumes else "wb") as out:
        yield out


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _too_long(file: HubFile) -> MotetError:
    cause = f"The hub sends more than the {file.size:,} bytes that {file.path} has."
    return fail("invalid", cause, "Do not use this mirror; check HF_ENDPOINT.", code="checksum_mismatch")


def _too_short(file: HubFile) -> MotetError:
    cause = f"The hub has fewer than the {file.size:,} bytes that it states for {file.path}, also from its beginning."
    return fail("invalid", cause, "Do not use this mirror; check HF_ENDPOINT.", code="checksum_mismatch")
