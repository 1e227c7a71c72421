"""The commands of the quick start and of the tutorials that two cores can run, in order, in an empty folder each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from deployments.text.word_error_rate import word_error_rate
from tests.documentation import DOCS, Example, examples_of
from tests.e2e.conftest import Service
from tests.e2e.examples import run_examples


def run(page: str, service: Service, folder: Path, until: str = "") -> str:
    """Runs the examples of a page, up to the heading `until`; returns all that was printed."""
    file = DOCS / page
    last_line = file.read_text().partition(f"\n## {until}\n")[0].count("\n") if until else 10**6
    blocks = [each for each in examples_of(file) if each.language in ("sh", "python") and each.line < last_line]
    return run_examples([(each.language, each.text) for each in blocks if not starts_a_service(each)], service, folder)


def starts_a_service(example: Example) -> bool:
    """The running service of the tests stands for it."""
    return example.text.startswith("make serve")


def test_the_quick_start(service: Service, tmp_path: Path) -> None:
    printed = run("index.md", service, tmp_path)
    heard = re.findall(r"Hello from[^\"\n]*", printed)
    assert len(heard) == 2
    assert all(word_error_rate("Hello from Motet.", text) <= 1 / 3 for text in heard)


def test_a_voice_agent(service: Service, tmp_path: Path) -> None:
    printed = run("tutorials/voice-agent.md", service, tmp_path, until="A chat model")
    question = "What is the weather like in Lisbon?"
    (heard,) = re.findall(r"^you: (.*)$", printed, re.MULTILINE)
    assert word_error_rate(question, heard) <= 1 / 3
    assert re.search(r"^agent: .*weather", printed, re.MULTILINE | re.IGNORECASE)
    assert "weather" in printed.strip().splitlines()[-1].lower()  # what the transcription of the answer says
    assert (tmp_path / "answer.wav").stat().st_size > 20_000


@pytest.mark.long
def test_an_audiobook(service: Service, tmp_path: Path) -> None:
    run("tutorials/audiobook.md", service, tmp_path, until="Check it")
    rows = [json.loads(line) for line in (tmp_path / "book" / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    for row in rows:
        assert (tmp_path / "book" / row["file"]).read_bytes()[:4] == b"OggS"
    assert (tmp_path / "names.wav").stat().st_size > 20_000


def test_meeting_notes(service: Service, tmp_path: Path) -> None:
    run("tutorials/meeting-notes.md", service, tmp_path)
    notes = (tmp_path / "meeting.md").read_text()
    assert re.search(r"^\*\*.+\*\* \(0:00\) .*morning", notes, re.MULTILINE | re.IGNORECASE)
    assert (tmp_path / "meeting.vtt").read_text().startswith("WEBVTT")
    again = json.loads((tmp_path / "meeting-again.json").read_text())
    assert again["segments"] == json.loads((tmp_path / "meeting.json").read_text())["segments"]


@pytest.mark.parametrize("page", sorted((DOCS / "tutorials").glob("*.md")), ids=lambda page: page.stem)
def test_a_tutorial_says_what_was_run(page: Path) -> None:
    text = " ".join(page.read_text().split())
    assert "A test runs every command" in text or "**State.**" in text
