"""What bash, zsh and fish complete: commands, options, models and voices."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from serve_app.cli import command_group

MOTET = [sys.executable, "-m", "serve_app.cli.main"]
BASH, ZSH, FISH = "bash", "zsh", "fish"


def asked(shell: str, folder: Path, *words: str) -> dict[str, str]:
    """The variables with which the script of a shell asks for the last of the words."""
    words_of = {
        BASH: {"COMP_WORDS": " ".join(("motet", *words)), "COMP_CWORD": str(len(words))},
        ZSH: {"_TYPER_COMPLETE_ARGS": " ".join(("motet", *words))},
        FISH: {"_TYPER_COMPLETE_ARGS": " ".join(("motet", *words)), "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
    }[shell]
    return {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "_MOTET_COMPLETE": f"complete_{shell}", **words_of}


def completed(shell: str, folder: Path, *words: str) -> str:
    """What the shell gets for the last of the words."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MOTET_CONFIG", raising=False)
        done = CliRunner().invoke(command_group.app, [], env=asked(shell, folder, *words), prog_name="motet")
    assert done.stderr == ""
    return done.stdout


def test_the_program_completes_without_a_word_besides(tmp_path: Path) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MOTET_")}
    environment = {**clean, **asked(BASH, tmp_path, "trans")}
    done = subprocess.run(MOTET, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.stdout.split(), done.stderr) == (["transcribe"], "")


@pytest.mark.parametrize("shell", [BASH, ZSH, FISH])
def test_commands_are_completed(shell: str, tmp_path: Path) -> None:
    found = completed(shell, tmp_path, "trans")
    assert "transcribe" in found
    assert "separate" not in found


def test_options_of_a_command_are_completed(tmp_path: Path) -> None:
    assert {"--voice", "--verify"} <= set(completed(BASH, tmp_path, "say", "--v").split())


@pytest.mark.parametrize("shell", [BASH, ZSH, FISH])
def test_models_are_completed_with_their_aliases(shell: str, tmp_path: Path) -> None:
    found = completed(shell, tmp_path, "transcribe", "--model", "whisper")
    assert "whisper-base" in found and "whisper-1" in found
    assert "hibari" not in found.replace("speech, hibari", "")


def test_models_of_the_named_configuration_are_completed(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "applications: [{name: motet, import_path: 'serve_app.app:build', args: {models: {mirror: {engine: identity}}}}]"
    )
    assert completed(BASH, tmp_path, "separate", "--config", "own.yaml", "--model", "mir").split() == ["mirror"]


def test_voices_are_completed(tmp_path: Path) -> None:
    assert completed(BASH, tmp_path, "say", "Hello.", "--voice", "he").split() == ["heart"]
    assert completed(BASH, tmp_path, "say", "Hello.", "--model", "whisper-base", "--voice", "he").split() == []


def test_a_configuration_with_mistakes_completes_nothing(tmp_path: Path) -> None:
    (tmp_path / "serve_config.yaml").write_text("nonsense: [")
    assert completed(BASH, tmp_path, "say", "Hello.", "--model", "h").split() == []


@pytest.mark.parametrize("shell", [BASH, ZSH, FISH])
def test_each_shell_has_a_script(shell: str, tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "_MOTET_COMPLETE": f"source_{shell}"}
    script = CliRunner().invoke(command_group.app, [], env=environment, prog_name="motet").stdout
    assert "_MOTET_COMPLETE=complete_" + shell in script
