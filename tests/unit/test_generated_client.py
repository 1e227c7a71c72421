"""A client that is generated from /openapi.json speaks, and sends a file. No network: it talks to the application itself."""

from __future__ import annotations

import importlib
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from serve_app.cli.api_reference import documents
from serve_app.gateway.api import ROUTES
from tests.unit.test_api import Bench, Splitter

PROGRAM = Path(__file__).parents[2] / ".venv-clients" / "bin" / "openapi-python-client"
PACKAGE = "motet_client"
QUIET = json.dumps({"package_name_override": PACKAGE, "post_hooks": []})


@pytest.fixture(scope="module", autouse=True)
def _client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The client, generated and importable."""
    if not PROGRAM.exists():
        pytest.skip("make test installs openapi-python-client in an environment of its own")
    folder = tmp_path_factory.mktemp("client")
    description, settings = folder / "openapi.json", folder / "settings.json"
    description.write_text(json.dumps(documents(ROUTES)[0]))
    settings.write_text(QUIET)
    command = [str(PROGRAM), "generate", "--path", str(description), "--config", str(settings)]
    made = subprocess.run(
        [*command, "--output-path", str(folder / "made")], capture_output=True, text=True, check=True, cwd=folder
    )
    assert "Warning" not in made.stdout + made.stderr, made.stdout + made.stderr
    sys.path.insert(0, str(folder / "made"))
    yield
    sys.path.remove(str(folder / "made"))
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def part(name: str) -> ModuleType:
    """A module of the client."""
    return importlib.import_module(f"{PACKAGE}.{name}")


def client_of(bench: Bench) -> Any:
    """The client, whose requests go to the application."""
    return part("client").Client(base_url="http://motet", httpx_args={"transport": httpx.ASGITransport(bench.api)})


async def test_it_speaks() -> None:
    create_speech = part("api.speech.create_speech")
    body = part("models").SpeechBody(model="tone", input_="Hello there.", response_format="wav")
    answer = await create_speech.asyncio_detailed(client=client_of(Bench()), body=body)
    assert answer.status_code == 200
    assert answer.content.startswith(b"RIFF")


async def test_it_sends_a_file() -> None:
    create_transcription = part("api.transcription.create_transcription")
    file = part("types").File(payload=io.BytesIO(b"RIFF and more"), file_name="speech.wav")
    body = part("models").TranscriptionForm(file=file, model="ear")
    answer = await create_transcription.asyncio_detailed(client=client_of(Bench()), body=body)
    assert answer.status_code == 200
    assert answer.parsed.text == "hello hello hello"


async def test_it_lists_models_and_reads_errors() -> None:
    client = client_of(Bench(separator=Splitter()))
    listed = await part("api.models.list_models").asyncio(client=client)
    assert [model.id for model in listed.data][:2] == ["tone", "ear"]
    missing = await part("api.models.get_model").asyncio(client=client, name="nobody")
    assert missing.error.code == "model_not_found"
