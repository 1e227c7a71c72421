"""A machine with a card has torch, numpy, safetensors and pytest. The tests on a card and the benchmarks of voices need
nothing else: here every other package is hidden."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HIDE = """
import sys
from importlib.metadata import packages_distributions, requires
import re

def needed(name, seen):
    name = re.split(r"[^\\w.-]", name)[0].lower().replace("_", "-")
    if name in seen:
        return
    seen.add(name)
    try:
        wanted = requires(name) or []
    except Exception:
        return
    for requirement in wanted:
        if "extra ==" not in requirement:
            needed(requirement, seen)

allowed = set()
for name in ("torch", "numpy", "safetensors", "pytest"):
    needed(name, allowed)
hidden = {
    module for module, distributions in packages_distributions().items()
    if not any(name.lower().replace("_", "-") in allowed for name in distributions)
} - {"deployments", "serve_app", "cluster", "tests"}

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in hidden:
            raise ModuleNotFoundError(f"No module named {name!r} (hidden)", name=name)

    @staticmethod
    def check():
        assert {"ray", "pydantic", "rich", "typer", "faster_whisper", "av", "soxr", "tokenizers"} <= hidden, hidden

Hide.check()
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.partition(".")[0] in hidden else found(name, package)
sys.meta_path.insert(0, Hide())
"""


def bare(code: str) -> str:
    """What the code prints in a process of its own where only the four packages, and theirs, can be imported."""
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", HIDE + code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_tests_on_a_card_are_collected() -> None:
    said = bare(
        "import pytest\nraise SystemExit(pytest.main(['-c', 'tests/gpu/pytest.ini', 'tests/gpu', '--collect-only']))"
    )
    assert "test_a_card_says_what_a_cpu_says[vibevoice]" in said
    assert "test_the_table[sopro]" in said


def test_the_benchmarks_are_found_without_the_command_line() -> None:
    said = bare(
        "import runpy, sys\nsys.argv = ['bench', '--help']\nrunpy.run_module('serve_app.bench', run_name='__main__')"
    )
    assert "--device {cpu,cuda}" in said


@pytest.mark.long
def test_small_models_of_all_voices_speak() -> None:
    said = bare(
        "import tempfile, pathlib, torch, numpy as np\n"
        "torch.set_num_threads(1)\n"
        "from tests.gpu import small_models\n"
        "from tests.gpu.speaking import speak_together\n"
        "for make in (small_models.sopro, small_models.vibevoice, small_models.vibevoice_realtime):\n"
        "    with tempfile.TemporaryDirectory() as folder:\n"
        "        contest = make(pathlib.Path(folder), 'cpu')\n"
        "        requests = [contest.request(0), contest.request(1)]\n"
        "        sounds = speak_together(contest.engine, requests)\n"
        "        alone = speak_together(contest.engine, requests[:1])[0]\n"
        "        np.testing.assert_allclose(sounds[0], alone, rtol=0, atol=1e-2)\n"
        "        assert all(np.abs(sound).max() > 0.01 and len(sound) > 8000 for sound in sounds)\n"
        "        print(make.__name__, 'spoke')\n"
    )
    assert said.split("\n")[:3] == ["sopro spoke", "vibevoice spoke", "vibevoice_realtime spoke"]
