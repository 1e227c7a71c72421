"""The API's reference at /docs, in a real browser: it shows every operation, sends a request, and asks nobody else."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from .browser import Browsers, Studio, context, tab_of
from .conftest import Service

SHOWN = "document.querySelectorAll('.opblock').length"


@pytest.fixture(scope="module")
def reference(browsers: Browsers, service: Service) -> Iterator[Studio]:
    """A tab on the page, once the description is shown."""
    with context(browsers.get()) as profile:
        studio = tab_of(service, profile)
        studio.page.goto(f"{service.url}/docs")
        studio.state("ready", "true")
        studio.until(f"{SHOWN} > 0")
        yield studio


def test_the_page_shows_every_operation(reference: Studio, http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert reference.value(SHOWN) == sum(map(len, paths.values()))
    assert "Speaks a text" in reference.value("document.body.innerText")


def test_a_request_can_be_sent_from_the_page(reference: Studio) -> None:
    reference.page.click('.opblock-summary-path[data-path="/livez"]')
    reference.page.click(".try-out__btn")
    reference.page.click(".execute")
    expect(reference.page.locator(".live-responses-table").first).to_contain_text("alive", timeout=30_000)


def test_the_page_asks_nobody_else_and_has_nothing_to_complain_about(reference: Studio) -> None:
    reference.check_quiet()
