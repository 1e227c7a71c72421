"""The code of docs/adding-an-engine.md: its engine registers, keeps the shared properties, and speaks through `motet say`."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from deployments.engines import registry
from deployments.engines.protocols import SpeechRequest
from deployments.engines.registry import EngineEntry
from serve_app.cli import command_group
from tests.unit.speech_engine_properties import write_golden

PAGE = Path(__file__).parents[2] / "docs" / "adding-an-engine.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
ENGINE, LINE, TEST = (code for language, code in BLOCKS if language == "python")
(CONFIG,) = (code for language, code in BLOCKS if language == "yaml")
(COMMANDS,) = (code for language, code in BLOCKS if language == "sh")
MODULE = "deployments.engines.morse.engine"


def _run(name: str, code: str) -> ModuleType:
    """The code of the page as a module; a traceback shows its lines."""
    module = sys.modules[name] = ModuleType(name)
    exec(compile(code, f"{PAGE.name} ({name})", "exec"), vars(module))
    return module


_run(MODULE, ENGINE)
PAGE_TEST = _run("tests.unit.test_morse", TEST)
TestMorse, engine = PAGE_TEST.TestMorse, PAGE_TEST.engine


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    entries: dict[str, EngineEntry] = eval("{" + LINE + "}", {"EngineEntry": EngineEntry})
    with pytest.MonkeyPatch.context() as patch:
        for name, entry in entries.items():
            patch.setitem(registry.ENGINES, name, entry)
        yield


def test_it_speaks_through_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "morse.yaml").write_text(CONFIG)
    say, text, *options = shlex.split(COMMANDS.splitlines()[0])[1:]
    result = CliRunner().invoke(command_group.app, [say, text, *options])
    assert result.exit_code == 0, result.output
    samples, rate = soundfile.read(tmp_path / "sos.wav")
    assert rate == 8_000
    spoken = sys.modules[MODULE].sound(text, SpeechRequest((text,), "key"), 0)
    assert np.abs(samples - spoken).max() <= 1 / 32768


if __name__ == "__main__":
    write_golden(PAGE_TEST.MorseEngine(), TestMorse())
