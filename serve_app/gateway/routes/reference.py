"""The description of the API: `/openapi.json`, `/asyncapi.json`, and at `/docs` a page that shows the first one.

The page is Swagger UI, whose files a package brings. It loads nothing from other hosts.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, Response

from deployments.errors import fail, quoted
from serve_app.gateway.description.documents import documents_of

router = APIRouter()

PAGE = Path(__file__).parents[2] / "page" / "reference.html"
PACKAGE = "fastapi_offline"
"""The package with the files. It is not imported."""
FILES: Mapping[str, str] = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """The OpenAPI document."""
    return Response(await documents_of(request).openapi.data(), media_type="application/json")


@router.get("/asyncapi.json", include_in_schema=False)
async def asyncapi(request: Request) -> Response:
    """The AsyncAPI document, of the WebSockets."""
    return Response(await documents_of(request).asyncapi.data(), media_type="application/json")


@router.get("/docs", include_in_schema=False)
async def page() -> Response:
    """The page."""
    return FileResponse(PAGE, media_type="text/html")


@router.get("/docs/{name}", include_in_schema=False)
async def file_of_page(name: str) -> Response:
    """A file of Swagger UI."""
    if name not in FILES:
        raise fail("not_found", f"The page has no file {quoted(name)}.", "Open /docs.", code="path_not_found")
    return FileResponse(_folder() / name, media_type=FILES[name], headers={"cache-control": "max-age=86400"})


@cache
def _folder() -> Path:
    spec = find_spec(PACKAGE)
    assert spec is not None and spec.origin is not None, "a dependency of Motet"
    return Path(spec.origin).parent / "static"
