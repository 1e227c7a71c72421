"""A gateway that ends takes no new requests and finishes those that it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class Drain:
    """Whether a gateway replica drains, and how many requests and WebSockets are open."""

    def __init__(self) -> None:
        self.begun = False
        """Whether new requests are refused."""
        self._open = 0

    def begin(self) -> int:
        """Refuses new requests from now on. Returns the number of open ones. Safe to call again."""
        self.begun = True
        return self._open

    @contextmanager
    def one(self) -> Iterator[None]:
        """Counts a request as open for as long as the context."""
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
