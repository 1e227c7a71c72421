"""The description of the API as the service answers it. A document is made for the first request, beside the event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import HTTPConnection

from serve_app.gateway.description.schemas import Schema


class ApiDocument:
    """One document as JSON. `make` takes about a second."""

    def __init__(self, make: Callable[[], Schema]) -> None:
        self._make = make
        self._lock = asyncio.Lock()
        self._data: bytes | None = None

    async def data(self) -> bytes:
        """The bytes of the document."""
        async with self._lock:
            if self._data is None:
                self._data = await asyncio.to_thread(self._written)
            return self._data

    def _written(self) -> bytes:
        return json.dumps(self._make(), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


@dataclass(frozen=True, slots=True)
class ApiDocuments:
    """The documents of an application."""

    openapi: ApiDocument
    asyncapi: ApiDocument


def documents_of(connection: HTTPConnection) -> ApiDocuments:
    """The documents of the application that a request came to."""
    documents: ApiDocuments = connection.app.state.documents
    return documents
