"""A model of the catalogue is added to a running service over HTTP, loaded, used and removed; the hub is a server of the test."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml

from deployments.engines import weight_sources
from serve_app.cli.processes import command_line
from tests.unit.hub_server import COMMIT, Hub, Mishap, Repository

from .conftest import ROOT, Service, wait_for

KEYS = {"root": {"admin": True}, "user": {}}
TONE = {"engine": "simulated", "placements": [{"hardware": {"kind": "cpu", "cpus": 0}}]}
ENDINGS = (".onnx", ".json", ".npz")
SOON_S, READY_S = 60.0, 120.0
PROCESS = "serve_app.cli.addition_process"


@dataclass
class Adding:
    """A service, its hub, and the folder of both."""

    service: Service
    hub: Hub
    folder: Path
    files: dict[str, bytes]

    @property
    def large(self) -> str:
        """The path of the largest file."""
        return max(self.files, key=lambda path: len(self.files[path]))

    def ask(self, method: str, path: str, key: str = "root", **content: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"}
        return httpx.request(method, f"{self.service.url}{path}", headers=headers, timeout=120, **content)

    def model(self, name: str, key: str = "root") -> dict[str, Any]:
        """Its entry of the registry."""
        listed = self.ask("GET", "/v1/registry", key).json()["data"]
        return next(dict(each) for each in listed if each["id"] == name)

    def addition(self, name: str) -> dict[str, Any]:
        """How far its addition is; empty if it is not being added."""
        return dict(self.model(name)["addition"] or {})

    def snapshots(self, repository: str) -> list[str]:
        """The files of a repository on this disk, finished or not."""
        folder = self.folder / "hub" / f"models--{repository.replace('/', '--')}"
        return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())

    def processes(self) -> list[psutil.Process]:
        """The processes that add a model."""
        return [process for process in self.service.processes() if PROCESS in command_line(process)]

    def motet(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "serve_app.cli.main", *arguments, "--service", self.service.url],
            env={**os.environ, "MOTET_API_KEY": "root", "PYTHONPATH": str(ROOT)},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=READY_S,
            check=False,
        )


def pinned(repository: str, files: dict[str, bytes]) -> dict[str, Any]:
    """Files of a repository, with their digests."""
    pins = {
        path: {"size": len(data), "sha256": sha256(data), "sources": ["one", "two"]} for path, data in files.items()
    }
    return {"repository": repository, "revision": COMMIT, "licence": "MIT", "files": pins}


def entry(repository: str, files: dict[str, bytes], beside: dict[str, bytes] | None = None) -> dict[str, Any]:
    """An entry of the catalogue with these files, and others of a second repository."""
    known = {
        "about": "For a test.",
        "engine": "hibari",
        "parameters": "1K",
        "tested": "In a test.",
        "hardware": {"cpu": {}},
    }
    return {**known, **pinned(repository, files), "beside": [pinned("org/words", beside)] if beside else []}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(scope="module")
def adding(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adding]:
    """A service whose catalogue has a voice of two repositories, and one with a file that the hub's copy does not match."""
    folder = tmp_path_factory.mktemp("adding")
    wheel = weight_sources.folder_of(weight_sources.parse("wheel:hibari-tts"), {})
    files = {path.name: path.read_bytes() for path in wheel.iterdir() if path.suffix in ENDINGS}
    large = max(files, key=lambda path: len(files[path]))
    damaged = {**files, large: files[large][:-1] + b"?"}
    own = {path: data for path, data in files.items() if path.endswith(".onnx")}
    beside = {path: data for path, data in files.items() if path not in own}
    models = {"bird": entry("org/bird", own, beside), "damaged": entry("org/damaged", files)}
    catalogue = {"manifests": {"one": "A manifest.", "two": "Another one."}, "models": models}
    (folder / "catalogue.yaml").write_text(yaml.safe_dump(catalogue))
    keys = {name: {"sha256": [sha256(name.encode())], **more} for name, more in KEYS.items()}
    registry = {"folder": str(folder / "notes"), "catalogue": str(folder / "catalogue.yaml")}
    arguments = {"defaults": False, "models": {"tone": TONE}, "security": {"keys": keys}, "registry": registry}
    application = {"name": "motet", "import_path": "serve_app.app:build", "args": arguments}
    config = folder / "serve_config.yaml"
    config.write_text(yaml.safe_dump({"http_options": {"port": 8000}, "applications": [application]}))
    with Hub().running() as hub:
        hub.repositories["org/bird"], hub.repositories["org/words"] = Repository(own), Repository(beside)
        hub.repositories["org/damaged"] = Repository(damaged, stated=files)
        service = Service.start(config, folder, HF_ENDPOINT=hub.url, HF_HUB_CACHE=str(folder / "hub"))
        yield Adding(service, hub, folder, files)
        assert service.alive, service.said
        service.stop(signal.SIGTERM)


def begun(adding: Adding) -> int:
    """Begins to add the voice, up to a quarter more of its largest file. Then the hub stops. Returns the bytes that are here."""
    stop = Mishap(adding.large, stops_after=len(adding.files[adding.large]) // 4)
    adding.hub.mishaps.append(stop)
    answer = adding.ask("POST", "/v1/registry/bird", json={})
    assert (answer.status_code, answer.json()["addition"]["state"]) == (202, "fetching"), answer.text
    assert stop.stopped.wait(SOON_S)
    total = sum(map(len, adding.files.values()))
    enough = stop.stops_after or 0

    def received() -> int:
        state = adding.addition("bird")
        assert (state["state"], state["total_bytes"], state["cause"]) == ("fetching", total, None)
        return int(state["received_bytes"]) if state["received_bytes"] > enough * 0.9 else 0

    return wait_for(received, SOON_S, "the bytes that the hub sent")


def test_an_addition_is_cancelled(adding: Adding) -> None:
    begun(adding)
    assert len(adding.processes()) == 1
    assert adding.ask("POST", "/v1/registry/bird", json={}).status_code == 202
    assert len(adding.processes()) == 1
    answer = adding.ask("DELETE", "/v1/registry/bird")
    assert (answer.status_code, answer.json()["freed_bytes"]) == (200, 0)
    assert adding.processes() == [] and adding.model("bird")["addition"] is None
    assert any(path.endswith(f"{adding.large}.part") for path in adding.snapshots("org/bird"))


def test_an_addition_ends_with_its_gateway(adding: Adding) -> None:
    begun(adding)
    (process,) = adding.processes()
    gateway = adding.service.replica("gateway")
    gateway.kill()
    wait_for(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, SOON_S, "the process's end")
    wait_for(lambda: adding.ask("GET", "/readyz").status_code == 200, READY_S, "a new gateway")
    state = wait_for(lambda: adding.addition("bird"), SOON_S, "the state")
    assert state["state"] == "failed" and "Send it again" in state["cause"]
    assert (adding.model("bird", "user")["addition"] or {})["cause"] is None


def test_it_continues_and_the_model_is_loaded_used_and_removed(adding: Adding) -> None:
    adding.hub.asked.clear()
    done = adding.motet("models", "add", "bird")
    assert done.returncode == 0, done.stderr
    assert "is on the service's machine" in done.stderr
    (asked,) = [each for each in adding.hub.asked if each.path == adding.large]
    assert int(asked.range.removeprefix("bytes=").rstrip("-")) > 0
    model = adding.model("bird")
    assert (model["installed"], model["addition"], model["served"]) == (True, None, False)
    loaded = adding.motet("models", "load", "bird")
    assert loaded.returncode == 0, loaded.stderr
    spoken = {"model": "bird", "input": "Hello.", "response_format": "pcm"}
    speech = adding.ask("POST", "/v1/audio/speech", "user", json=spoken)
    assert speech.status_code == 200 and len(speech.content) > 1000
    assert adding.model("bird")["served"]
    refused = adding.ask("DELETE", "/v1/registry/bird")
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "model_in_use")
    assert adding.ask("DELETE", "/v1/models/bird").status_code == 202
    wait_for(lambda: not adding.ask("GET", "/v1/admin/models").json()["data"], READY_S, "the end of the model")
    removed = adding.ask("DELETE", "/v1/registry/bird")
    assert removed.json()["freed_bytes"] == sum(map(len, adding.files.values()))
    assert adding.snapshots("org/bird") == adding.snapshots("org/words") == [] and not adding.model("bird")["installed"]


def test_a_wrong_digest_leaves_nothing(adding: Adding) -> None:
    assert adding.ask("POST", "/v1/registry/damaged", json={}).status_code == 202
    wait_for(lambda: adding.addition("damaged").get("state") == "failed", SOON_S, "the failure")
    assert "does not have the SHA-256" in adding.addition("damaged")["cause"]
    assert adding.snapshots("org/damaged") == [] and not adding.model("damaged")["installed"]
    answer = adding.ask("POST", "/v1/models", json={"id": "damaged", "catalogue": "damaged"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "weights_missing")
    assert adding.ask("DELETE", "/v1/registry/damaged").status_code == 200
    assert adding.addition("damaged") == {}
