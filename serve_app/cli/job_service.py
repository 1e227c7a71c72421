"""The jobs of a running service over HTTP."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

from deployments.errors import MotetError, fail
from serve_app.cli.options import STDIO

ANSWER_S = 60.0
"""How long the service may be silent. While a job runs, it sends a sign of life every 15 s."""
AGAIN_AFTER_S = 2.0
AWAY_S = 300.0
"""How long the service may be away while a job is waited for."""
PAGE = 100


class JobService:
    """The service at `url`. Every method raises `MotetError` if it does not answer, or refuses."""

    def __init__(self, url: str, key: str | None, transport: httpx.BaseTransport | None = None) -> None:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        base = url.rstrip("/").removesuffix("/v1")
        self._http = httpx.Client(base_url=base, headers=headers, timeout=ANSWER_S, transport=transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def listed(self) -> Iterator[str]:
        """A line for each of the client's jobs, the newest first."""
        after = ""
        while True:
            page = self._json("GET", f"/v1/jobs?limit={PAGE}{after}")
            yield from map(_line, page["data"])
            if not page["has_more"]:
                return
            after = f"&after={page['last_id']}"

    def shown(self, id: str) -> str:
        """A job as JSON."""
        return json.dumps(self._json("GET", _path(id)), indent=2, ensure_ascii=False)

    def waited(self, id: str, tell: Callable[[str], None]) -> bool:
        """Waits until a job ends, also if the service is restarted meanwhile; whether it is completed."""
        last, away = "", 0
        while True:
            try:
                for each in self._events(id, last):
                    last, away = each.get("id", last), 0
                    if (job := json.loads(each["data"]).get("job")) is None:
                        break  # the answer took as long as a request may
                    tell(_line(job))
                    if job["finished_at"] is not None:
                        return bool(job["status"] == "completed")
            except MotetError as error:
                away += 1
                if error.failure.kind != "unavailable" or not last or away * AGAIN_AFTER_S > AWAY_S:
                    raise
            time.sleep(AGAIN_AFTER_S)

    def cancel(self, id: str) -> None:
        """Cancels a job and deletes it."""
        self._json("DELETE", _path(id))

    def write_result(self, id: str, out: Path) -> None:
        """Writes a job's result to a file, or to standard output."""
        with self._streamed("GET", f"{_path(id)}/result") as answer:
            file = sys.stdout.buffer if out == STDIO else out.open("wb")
            try:
                for block in answer.iter_bytes():
                    file.write(block)
            finally:
                file.flush() if out == STDIO else file.close()

    def _events(self, id: str, last: str) -> Iterator[Mapping[str, str]]:
        headers = {"last-event-id": last} if last else {}
        with self._streamed("GET", f"{_path(id)}/events", headers) as answer:
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value
                elif not line and "data" in fields:
                    yield fields
                    fields = {}

    def _json(self, method: str, path: str) -> Any:
        with self._streamed(method, path) as answer:
            return json.loads(answer.read())

    @contextmanager
    def _streamed(self, method: str, path: str, headers: Mapping[str, str] | None = None) -> Iterator[httpx.Response]:
        try:
            with self._http.stream(method, path, headers=headers) as answer:
                if not answer.is_success:
                    raise _refused(answer.status_code, answer.read())
                yield answer
        except httpx.HTTPError as error:
            cause = f"The service at {self._http.base_url} does not answer."
            raise fail("unavailable", cause, "Start it, or correct --service.", detail=str(error)) from error


def _path(id: str) -> str:
    return f"/v1/jobs/{quote(id, safe='')}"


def _line(job: Mapping[str, Any]) -> str:
    made = datetime.fromtimestamp(job["created_at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    done, of = job["seconds_done"], job["seconds_expected"]
    progress = f"{done:.0f} s of about {of:.0f} s" if of else ""
    error = (job["error"] or {}).get("message") or ""
    return "  ".join((job["id"], f"{job['status']:<9}", made, job["endpoint"], progress or error)).rstrip()


def _refused(status: int, body: bytes) -> MotetError:
    try:
        cause = str(json.loads(body)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        cause = f"The service answered with the status {status}."
    return fail("unavailable" if status in (502, 503, 504) else "invalid", cause)
