"""The jobs of a running service over HTTP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import httpx

from deployments.errors import MotetError
from serve_app.cli.service_api import ServiceApi

AGAIN_AFTER_S = 2.0
AWAY_S = 300.0
"""How long the service may be away while a job is waited for."""
PAGE = 100
EVENTS = "text/event-stream"


class JobService:
    """The service at `url`. Every method raises `MotetError` if it does not answer, or refuses."""

    def __init__(self, url: str, transport: httpx.BaseTransport | None = None) -> None:
        self._api = ServiceApi(url, transport)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()

    def listed(self) -> Iterator[str]:
        """A line for each of the client's jobs, the newest first."""
        after = ""
        while True:
            page = self._api.ask("GET", f"/v1/jobs?limit={PAGE}{after}")
            with self._api.understood():
                lines, more = [_line(job) for job in page["data"]], bool(page["has_more"])
                after = f"&after={page['last_id']}" if more else ""
            yield from lines
            if not more:
                return

    def shown(self, id: str) -> str:
        """A job as JSON."""
        return json.dumps(self._api.ask("GET", _path(id)), indent=2, ensure_ascii=False)

    def waited(self, id: str, tell: Callable[[str], None]) -> bool:
        """Waits until a job ends, also if the service is restarted meanwhile; whether it is completed."""
        last, away = "", 0
        while True:
            try:
                for each in self._events(id, last):
                    last, away = each.get("id", last), 0
                    with self._api.understood():
                        job = json.loads(each["data"]).get("job")
                        if job is None:
                            break  # the answer took as long as a request may
                        line, ended, completed = (
                            _line(job),
                            job["finished_at"] is not None,
                            job["status"] == "completed",
                        )
                    tell(line)
                    if ended:
                        return bool(completed)
            except MotetError as error:
                away += 1
                if error.failure.kind != "unavailable" or not last or away * AGAIN_AFTER_S > AWAY_S:
                    raise
            time.sleep(AGAIN_AFTER_S)

    def cancel(self, id: str) -> None:
        """Cancels a job and deletes it."""
        self._api.ask("DELETE", _path(id))

    def write_result(self, id: str, out: Path) -> None:
        """Writes a job's result to a file, which appears once it is complete, or to standard output."""
        from serve_app.cli.local import output  # which imports the codecs

        with self._api.streamed("GET", f"{_path(id)}/result") as answer, output(out) as to:
            for block in answer.iter_bytes():
                to.file.write(block)

    def _events(self, id: str, last: str) -> Iterator[Mapping[str, str]]:
        headers = {"last-event-id": last} if last else {}
        with self._api.streamed("GET", f"{_path(id)}/events", headers) as answer:
            with self._api.understood():
                if not answer.headers["content-type"].startswith(EVENTS):
                    raise ValueError(f"These are no {EVENTS}.")
            fields: dict[str, str] = {}
            for line in answer.iter_lines():
                name, _, value = line.partition(": ")
                if name:
                    fields[name] = value
                elif not line and "data" in fields:
                    yield fields
                    fields = {}


def _path(id: str) -> str:
    return f"/v1/jobs/{quote(id, safe='')}"


def _line(job: Mapping[str, Any]) -> str:
    made = datetime.fromtimestamp(job["created_at"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    done, of = job["seconds_done"], job["seconds_expected"]
    progress = f"{done:.0f} s of about {of:.0f} s" if of else ""
    error = (job["error"] or {}).get("message") or ""
    return "  ".join((job["id"], f"{job['status']:<9}", made, job["endpoint"], progress or error)).rstrip()
