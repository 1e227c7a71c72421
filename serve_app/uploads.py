"""Multipart forms: one recording and some fields, checked against a strict schema."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException

from deployments.errors import MotetError, fail

MAX_FILES = 2
MAX_FIELDS = 32
MAX_FIELD_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class UploadForm:
    """A parsed form: its recording, its other files, and its text fields. Repeated fields are lists."""

    file: UploadFile
    files: dict[str, UploadFile]
    fields: dict[str, Any]

    async def close(self) -> None:
        """Removes what was kept on disk."""
        for file in (self.file, *self.files.values()):
            await file.close()


async def read_form(request: Request, repeated: frozenset[str] = frozenset(), recording: str = "file") -> UploadForm:
    """Reads the form, on disk where it is large; the caller closes it. `recording` is the field of the recording.

    Raises `MotetError`.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise fail(
            "invalid",
            "This needs a multipart form.",
            f"Send the recording as the field {recording!r}.",
            param=recording,
        )
    try:
        form = await request.form(max_files=MAX_FILES, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES)
    except (MultiPartException, HTTPException) as error:
        cause = getattr(error, "message", None) or getattr(error, "detail", "")
        raise fail("invalid", f"The form cannot be read: {cause}", "Send a multipart form.") from error
    try:
        return _sorted_out(form, repeated, recording)
    except MotetError:
        await form.close()
        raise


def _sorted_out(form: FormData, repeated: frozenset[str], recording: str) -> UploadForm:
    files: dict[str, UploadFile] = {}
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        plain = name.removesuffix("[]")
        if isinstance(value, UploadFile):
            files[plain] = value
        elif plain in repeated:
            fields.setdefault(plain, []).append(value)
        else:
            fields[plain] = value
    file = files.pop(recording, None)
    if file is None:
        raise missing_file(recording)
    return UploadForm(file, files, fields)


def missing_file(recording: str = "file") -> MotetError:
    """What to say to a form without a recording."""
    return fail(
        "invalid",
        "The form has no recording.",
        f"Send it as the form field {recording!r}.",
        param=recording,
        code="missing",
    )


async def blocks_of(file: UploadFile, block_bytes: int) -> AsyncIterator[bytes]:
    """The file in blocks."""
    while block := await file.read(block_bytes):
        yield block
