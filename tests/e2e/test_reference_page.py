"""The API's reference at /docs, in a real browser: it shows every operation, sends a request, and asks nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import httpx
import pytest

from .browser import Browser, chromium
from .conftest import Service

SHOWN = "document.querySelectorAll('.opblock').length"


@pytest.fixture(scope="module")
def reference(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser on the page, once the description is shown."""
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        browser.call("Page.navigate", url=f"{service.url}/docs")
        browser.wait_until("document.body?.dataset.ready === 'true'")
        browser.wait_until(f"{SHOWN} > 0")
        yield browser


def test_the_page_shows_every_operation(reference: Browser, http: httpx.Client) -> None:
    paths = http.get("/openapi.json").json()["paths"]
    assert reference.value(SHOWN) == sum(map(len, paths.values()))
    assert "Speaks a text" in reference.value("document.body.innerText")


def test_a_request_can_be_sent_from_the_page(reference: Browser) -> None:
    reference.click('.opblock-summary-path[data-path="/livez"]')
    reference.wait_until("document.querySelector('.try-out__btn') !== null")
    reference.click(".try-out__btn")
    reference.wait_until("document.querySelector('.execute') !== null")
    reference.click(".execute")
    reference.wait_until("document.querySelector('.live-responses-table')?.innerText.includes('alive')")


def test_the_page_asks_nobody_else_and_has_nothing_to_complain_about(reference: Browser, service: Service) -> None:
    assert reference.complaints() == []
    addresses = (urlsplit(url) for url in reference.requested())
    assert {(url.scheme, url.netloc) for url in addresses if url.scheme not in ("data", "blob")} == {
        ("http", f"{service.host}:{service.port}")
    }
