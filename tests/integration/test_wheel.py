"""The wheel: `pip install motet` works far from the source tree, and everything that the code reads is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import wave
import zipfile
from pathlib import Path

import pytest

from serve_app.cli.command_group import COMMANDS

ROOT = Path(__file__).parents[2]
PACKAGES = ("serve_app", "deployments", "cluster")
BESIDE = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
BUILD = "import sys, setuptools.build_meta; print(setuptools.build_meta.build_wheel(sys.argv[1]))"
NOT_IN_WHEELS = shutil.ignore_patterns("__pycache__", "*.pyc", ".*_cache")


def files_of(folder: Path) -> set[str]:
    """The files of the packages in a folder, by their paths from there."""
    return {
        str(file.relative_to(folder))
        for package in PACKAGES
        for file in (folder / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built as pip builds it, of a copy of the source, so that the build leaves nothing in the tree."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=NOT_IN_WHEELS)
    for name in BESIDE:
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=source, check=True, capture_output=True, timeout=120)
    (built,) = out.glob("motet-*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed, without the packages that it needs: those of the tests are used."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile"]
    subprocess.run([*install, "--target", str(folder), str(wheel)], check=True, capture_output=True, timeout=120)
    return folder


def motet(site: Path, folder: Path, *arguments: str) -> str:
    """What the installed command prints, in a folder without a source tree."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MOTET_", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, str(site / "bin" / "motet"), *arguments],
        cwd=folder,
        env={**clean, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        there = {name for name in opened.namelist() if name.split("/")[0] in PACKAGES}
    assert there == files_of(ROOT)


def test_the_wheel_names_its_licence_and_its_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        (folder,) = {name.split("/")[0] for name in opened.namelist()} - set(PACKAGES)
        facts = opened.read(f"{folder}/METADATA").decode()
        commands = opened.read(f"{folder}/entry_points.txt").decode()
    assert "License-Expression: Apache-2.0" in facts
    assert "License-File: NOTICE" in facts
    assert "motet = serve_app.cli.main:main" in commands


def test_the_installed_command_is_that_of_the_wheel(site: Path, tmp_path: Path) -> None:
    where = "import serve_app, deployments, cluster; print(*(p.__path__[0] for p in (serve_app, deployments, cluster)))"
    done = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.split() == [str(site / package) for package in PACKAGES]
    (facts,) = site.glob("motet-*.dist-info")
    assert motet(site, tmp_path, "--version").strip() == facts.name.removesuffix(".dist-info").replace("-", " ")


def test_the_installed_command_has_its_settings_its_description_and_its_scenarios(site: Path, tmp_path: Path) -> None:
    assert "tracing" in motet(site, tmp_path, "config")
    assert '"/v1/audio/speech"' in motet(site, tmp_path, "api")
    assert "voice-agents" in motet(site, tmp_path, "plan")
    listed = motet(site, tmp_path, "--help")
    assert all(command in listed for command in COMMANDS)


def test_the_installed_command_speaks_with_the_embedded_voice(site: Path, tmp_path: Path) -> None:
    motet(site, tmp_path, "say", "Hello from a wheel.", "-o", "hello.wav")
    with wave.open(str(tmp_path / "hello.wav")) as spoken:
        assert spoken.getframerate() == 24_000
        assert spoken.getnframes() > 12_000
