"""Bulk jobs through a live service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from deployments.text.word_error_rate import word_error_rate
from tests.e2e.conftest import ROOT, Service

LINES = ("The train leaves at nine.", "Please bring your own cup.", "...")


def bulk(folder: Path, *arguments: str, status: int = 0) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "serve_app.cli.main", "bulk", *arguments, "--layout", "folder"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == status, done.stderr
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()]


def test_speech_and_its_transcripts_through_the_service(service: Service, tmp_path: Path) -> None:
    (tmp_path / "lines.txt").write_text("\n".join(LINES))
    spoken, heard = tmp_path / "spoken", tmp_path / "heard"
    through = ("--service", service.url)
    rows = bulk(spoken, str(tmp_path / "lines.txt"), "-o", str(spoken), *through, status=3)
    assert [row.get("error_kind") for row in rows] == [None, None, "invalid"]
    assert all(1 < row["seconds"] < 4 for row in rows[:2])
    rows = bulk(heard, str(spoken / "audio"), "-o", str(heard), "--task", "transcription", *through)
    assert all(word_error_rate(line, row["text"]) <= 0.34 for line, row in zip(LINES[:2], rows, strict=True))
    assert all(row["timings"] for row in rows)
