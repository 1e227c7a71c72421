"""The README's examples run unchanged, except for the address of the service."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest

from deployments.text.word_error_rate import word_error_rate
from tests.documentation import FENCE
from tests.e2e.conftest import ROOT, Service
from tests.e2e.examples import ADDRESS, run_examples

README = (ROOT / "README.md").read_text()
EXAMPLES = FENCE.findall(README[README.index("## Examples") : README.index("## The API")])


@pytest.fixture(scope="module")
def results(service: Service, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Runs every example, in order, in one empty folder; returns the folder and all that was printed."""
    folder = tmp_path_factory.mktemp("readme")
    assert all(ADDRESS in text or "motet " in text for _, text in EXAMPLES)
    return folder, run_examples(EXAMPLES, service, folder)


def test_there_are_eight(results: tuple[Path, str]) -> None:
    assert len(EXAMPLES) == 8


def test_curl_openai_and_command_line_hear_what_was_said(results: tuple[Path, str]) -> None:
    heard = re.findall(r"Hello from[^\"\n]*", results[1])
    assert len(heard) >= 8
    assert all(word_error_rate("Hello from Motet.", text) <= 1 / 3 for text in heard)


def test_what_was_written_is_there(results: tuple[Path, str]) -> None:
    folder = results[0]
    for name in ("hello.mp3", "hello.wav", "stream.wav", "speech.wav", "stems/speech.wav", "stems/background.wav"):
        assert (folder / name).stat().st_size > 10_000, name
    for name in ("hello.srt", "subtitles/hello.srt"):
        assert "Hello from" in (folder / name).read_text(), name
    with zipfile.ZipFile(folder / "stems.zip") as stems:
        assert sorted(stems.namelist()) == ["background.flac", "speech.flac"]


@pytest.mark.parametrize("target", ["serve", "test", "demo"])
def test_the_commands_exist(target: str) -> None:
    assert f"make {target}" in README
    run = subprocess.run(["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0
    assert {"serve": "motet serve", "test": "pytest", "demo": "serve_app.bench.demo"}[target] in run.stdout
