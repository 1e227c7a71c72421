"""`motet api`: the description of the API."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def api(
    websockets: Annotated[
        bool, typer.Option("--websockets", help="Print the AsyncAPI document, of the WebSockets.")
    ] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print both as docs/api.md.")] = False,
) -> None:
    """Print the description of the API as OpenAPI, which a running service answers at /openapi.json.

    Example: [bold]motet api > openapi.json[/bold]

    Example: [bold]motet api --websockets > asyncapi.json[/bold]
    """
    from serve_app.cli.api_reference import documents, markdown
    from serve_app.gateway.api import ROUTES

    if as_markdown:
        print(markdown(ROUTES), end="")
    else:
        print(json.dumps(documents(ROUTES)[websockets], indent=2, ensure_ascii=False))
