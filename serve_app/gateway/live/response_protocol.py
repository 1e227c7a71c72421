"""The protocol of the responses of a live session, as the session calls them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from serve_app.gateway.live.response_fields import CancelReason, ResponseParams, ResponseSettings


@dataclass(frozen=True, slots=True)
class EndedResponse:
    """When a response ended, and when its sound has been played, in seconds of the event loop's clock."""

    done_at: float
    played_at: float


class Responds(Protocol):
    """The responses of one session, at most one at a time: see `Responses`."""

    @property
    def speaking(self) -> bool:
        """Whether a response is in progress."""

    @property
    def last(self) -> EndedResponse | None:
        """The last response that ended."""

    def create(self, settings: ResponseSettings, params: ResponseParams | None = None, *, silent: bool = False) -> None:
        """Begins a response. `silent`: the user says nothing, and is to be prompted. Raises `MotetError` (invalid) while
        another one is in progress."""

    def cancel(self, response_id: str | None = None, reason: CancelReason = "client_cancelled") -> None:
        """Ends the response in progress. Raises `MotetError` (invalid) if the client cancels and there is none."""

    async def close(self) -> None:
        """Ends everything, without further events."""
