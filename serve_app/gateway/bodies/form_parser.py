"""Multipart forms, parsed block by block with python-multipart, with limits on everything that a client chooses.

Calls block, in the parser and on the disk. Run large ones on an input thread (`input_thread.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from deployments.errors import MotetError, fail
from serve_app.gateway.bodies.storage import Spool

MAX_FILES = 2
MAX_LONG_TEXTS = 4
MAX_FIELDS = 128
MAX_FIELD_BYTES = 64 * 1024
MAX_NAME_CHARACTERS = 64
"""Characters of a field's name. The rest is cut off: no known field has so long a name."""
MAX_FILE_NAME_CHARACTERS = 255
"""Characters of a file's name. The rest is cut off."""


class FormParser:
    """Parses a form's bytes. `fields` are those that have ended and `files` those that have begun, in order of arrival;
    `begun` has the names of all parts that have begun.

    `feed` and `end` raise `MotetError`: invalid if the data is not a form or exceeds a limit, storage_full if the disk is
    full. Close the parser after use, which removes the files.
    """

    def __init__(self, content_type: str, long_texts: Collection[str] = ()) -> None:
        """`long_texts` are fields that are kept as files, such as recordings in data URLs."""
        self._long_texts = long_texts
        self._most_files = MAX_FILES + (MAX_LONG_TEXTS if long_texts else 0)
        self.fields: list[tuple[str, str]] = []
        self.files: list[tuple[str, Spool]] = []
        self.begun: list[str] = []
        self._header_name, self._header_value, self._disposition = bytearray(), bytearray(), b""
        self._name = ""
        self._file: Spool | None = None
        self._data = bytearray()
        _, parameters = parse_options_header(content_type)
        callbacks: Any = {
            "on_part_begin": self._begin_part,
            "on_header_field": lambda data, start, end: self._header_name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._header_value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_headers_finished": self._end_headers,
            "on_part_data": self._take,
            "on_part_end": self._end_part,
        }
        if b"boundary" not in parameters:
            raise _unreadable("Its content type has no boundary.")
        with _parsing():
            self._parser = MultipartParser(parameters[b"boundary"], callbacks)

    @property
    def on_disk(self) -> bool:
        """Whether a file is on disk, so that closing takes time."""
        return any(file.on_disk for _, file in self.files)

    def feed(self, data: bytes) -> None:
        """Parses the next bytes of the form."""
        with _parsing():
            self._parser.write(data)
        self._write_data()

    def end(self) -> None:
        """Parses the end of the form."""
        with _parsing():
            self._parser.finalize()

    def close(self) -> None:
        """Removes the files; safe to call twice."""
        for _, file in self.files:
            file.close()

    def _begin_part(self) -> None:
        self._disposition, self._file = b"", None
        self._data.clear()

    def _end_header(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = bytes(self._header_value)
        self._header_name.clear()
        self._header_value.clear()

    def _end_headers(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _unreadable("A part has no name.")
        self._name = _text(options[b"name"])[:MAX_NAME_CHARACTERS]
        if b"filename" in options or self._name.partition("[")[0] in self._long_texts:
            if len(self.files) == self._most_files:
                raise _unreadable(f"It has more than {self._most_files} files.")
            self._file = Spool(_text(options.get(b"filename", b""))[:MAX_FILE_NAME_CHARACTERS])
            self.files.append((self._name, self._file))
        elif len(self.begun) - len(self.files) == MAX_FIELDS:
            raise _unreadable(f"It has more than {MAX_FIELDS} fields.")
        self.begun.append(self._name)

    def _take(self, data: bytes, start: int, end: int) -> None:
        """Takes some of a part's data: only a few bytes at a time if they resemble a boundary."""
        self._data += memoryview(data)[start:end]
        if self._file is None and len(self._data) > MAX_FIELD_BYTES:
            raise _unreadable(f"A field has more than {MAX_FIELD_BYTES:,} bytes.")

    def _write_data(self) -> None:
        if self._file is not None and self._data:
            self._file.append(self._data)
            self._data.clear()

    def _end_part(self) -> None:
        if self._file is None:
            self.fields.append((self._name, _text(self._data)))
        else:
            self._write_data()
            self._file.ended = True
        self._begin_part()


@contextmanager
def _parsing() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise _unreadable("It is not a valid multipart form.") from error


def _text(data: bytes | bytearray) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _unreadable(cause: str) -> MotetError:
    return fail("invalid", f"The form cannot be read: {cause}", "Send a multipart form.", code="form_invalid")
