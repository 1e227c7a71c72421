"""Somebody with the page alone adds a model that clones from a hub, loads it, and hears their own voice."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, expect

from tests.unit.hub_server import COMMIT, Hub, Repository

from .browser import Studio, context, tab_of
from .conftest import Service

NAME, REPOSITORY = "tiny-sopro", "tests/tiny-sopro"
LONGEST_S = 180_000.0
ENTRY = {
    "about": "A tiny voice of random weights, which clones.",
    "engine": "sopro",
    "repository": REPOSITORY,
    "revision": COMMIT,
    "licence": "MIT",
    "parameters": "0.2M",
    "languages": ["en"],
    "hardware": {"cpu": {"slots": 2}},
    "files": {"config.json": {}, "tokenizer.model": {}},
    "also": ["*.safetensors"],
    "tested": "The tests run it.",
}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with a tiny model that clones."""
    pytest.importorskip("torch")
    pytest.importorskip("sentencepiece")
    from tests.load.sopro_package import write_random_model
    from tests.unit.cloning_engine_properties import PIECES
    from tests.unit.sopro_models import TINY

    folder = tmp_path_factory.mktemp("tiny")
    write_random_model(folder, TINY, PIECES * 4)
    running = Hub()
    running.repositories[REPOSITORY] = Repository({file.name: file.read_bytes() for file in folder.iterdir()})
    with running.running():
        yield running


@pytest.fixture(scope="module")
def service(hub: Hub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without keys, none of whose models clones."""
    folder = tmp_path_factory.mktemp("service")
    catalogue = folder / "catalogue.yaml"
    catalogue.write_text(yaml.safe_dump({"models": {NAME: ENTRY}}))
    settings = {
        "defaults": False,
        "models": {"hibari": {"engine": "hibari", "source": "wheel:hibari-tts"}},
        "registry": {"catalogue": str(catalogue), "folder": str(folder / "notes")},
        "voices": {"folder": str(folder / "voices")},
    }
    application = {"name": "motet", "import_path": "serve_app.app:build", "args": settings}
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump({"http_options": {"port": 8000}, "applications": [application]}))
    running = Service.start(config, folder, HF_ENDPOINT=hub.url, HF_HUB_CACHE=str(folder / "hub"))
    yield running
    assert running.alive, running.said
    running.stop(signal.SIGTERM)


def test_a_stranger_adds_a_model_and_hears_a_cloned_voice(browser: Browser, service: Service, tmp_path: Path) -> None:
    from tests.unit.cloning_engine_properties import clip, write_wav

    recording = tmp_path / "ada.wav"
    write_wav(recording, clip(6.0, seed=1, rate=24_000), 24_000)
    with context(browser) as profile:
        studio = tab_of(service, profile)
        studio.page.goto(service.url)
        expect(studio.page.locator("#speak-button")).to_be_enabled()
        add(studio)
        upload(studio, recording)
        studio.page.fill("#speak-text", "Good morning.")
        studio.page.get_by_label("Try Ada").click()
        studio.state("speak-state", "done")
        assert studio.text("#speak-voice option:checked") == "Ada"
        assert float(studio.value("document.body.dataset.playedSeconds")) > 0
        leave(studio)


def add(studio: Studio) -> None:
    """From the voices to the model, until it is loaded and chosen."""
    page = studio.page
    page.get_by_role("link", name="Add a model that clones").click()
    page.get_by_role("button", name=f"Add {NAME}").click()
    expect(page.locator("#models-news")).to_have_text(f"{NAME} is ready and can be used.", timeout=LONGEST_S)
    page.locator(f"[data-model={NAME}]").get_by_role("link", name="Speak with it").click()
    expect(page.locator("#speak-model")).to_have_value(NAME)


def upload(studio: Studio, recording: Path) -> None:
    """A voice from a file, with consent."""
    page = studio.page
    page.click("#voices-add")
    page.set_input_files("#voice-file", recording)
    page.fill("#voice-name", "Ada")
    page.check("#voice-agreed")
    page.click("#voice-save")
    expect(page.locator("#voices-list li")).to_contain_text("Ada")


def leave(studio: Studio) -> None:
    """The model is unloaded and removed."""
    page = studio.page
    page.goto(f"{studio.url}/#models")
    for action in ("Unload", "Remove"):
        button = page.get_by_role("button", name=f"{action} {NAME}", exact=True)
        button.click()
        button.click()
    expect(page.get_by_role("button", name=f"Add {NAME}")).to_be_enabled()
