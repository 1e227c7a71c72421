"""A running service, as commands use it over HTTP."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import httpx

from deployments.errors import Failure, Kind, MotetError, fail

ANSWER_S = 60.0
KINDS: dict[int, Kind] = {
    400: "invalid",
    401: "unauthorized",
    403: "unauthorized",
    404: "not_found",
    409: "conflict",
    413: "too_large",
    429: "overloaded",
}
"""The kind of failure of a status; any other one is `unavailable`."""
KEY_VARIABLE = "MOTET_API_KEY"


class ServiceApi:
    """The service at `url`, such as http://127.0.0.1:8000, with the key of `MOTET_API_KEY`."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        key = os.environ.get(KEY_VARIABLE)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = url.rstrip("/").removesuffix("/v1").rstrip("/")
        if not _is_address(self._url):
            raise fail("invalid", f"{url!r} is not a URL.", "Give one such as http://127.0.0.1:8000.")
        self._http = httpx.Client(base_url=self._url, headers=headers, timeout=ANSWER_S, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Closes its connections."""
        self._http.close()

    def ask(self, method: str, path: str, *, also: tuple[int, ...] = (), **content: Any) -> dict[str, Any]:
        """The JSON object of an answer. Raises `MotetError` if the service does not answer, or refuses with a status that is
        not one of `also`."""
        with self._answering():
            answer = self._http.request(method, path, **content)
        if not answer.is_success and answer.status_code not in also:
            raise refusal(answer)
        with self.understood():
            return dict(answer.json())

    @contextmanager
    def streamed(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        """An answer whose body is read while it comes. Raises `MotetError` if the service does not answer, or refuses."""
        with self._answering(), self._http.stream(method, path, headers=headers) as answer:
            if not answer.is_success:
                answer.read()
                raise refusal(answer)
            yield answer

    @contextmanager
    def understood(self) -> Iterator[None]:
        """Reads an answer in it: what does not have the shape of Motet's raises `MotetError` (unavailable)."""
        try:
            yield
        except (ValueError, TypeError, LookupError, AttributeError) as error:
            cause = f"What answers at {self._url} is not a Motet service."
            raise fail("unavailable", cause, "Correct --service.") from error

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            cause = f"The service at {self._url} does not answer: {error}"
            raise fail("unavailable", cause, "Start it with motet serve, or correct --service.") from error


def _is_address(url: str) -> bool:
    try:
        found = httpx.URL(url)
    except httpx.InvalidURL:
        return False
    return found.scheme in ("http", "https") and bool(found.host)


def refusal(answer: httpx.Response) -> MotetError:
    """The error of an answer: in the service's words, if it is one of Motet."""
    kind = KINDS.get(answer.status_code, "unavailable")
    remedy = f"Set {KEY_VARIABLE} to a key of the service." if answer.status_code == 401 else ""
    try:
        error = answer.json()["error"]
        return MotetError(Failure(kind, str(error["message"]), remedy, error.get("param"), error.get("code")))
    except (ValueError, LookupError, TypeError, AttributeError):
        cause = f"The service answered {answer.status_code} {answer.reason_phrase}."
        return MotetError(Failure(kind, cause, remedy or "Correct --service."))
