"""Other people's clients, unchanged: the examples in docs/clients, each in a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from openai import OpenAI

from tests.e2e.conftest import PANGRAM, ROOT, Float, Service, decoded, encoded, heard_in, word_errors

EXAMPLES = ROOT / "docs" / "clients"
PYTHON = ROOT / ".venv-clients" / "bin" / "python"
NODE = shutil.which("node")
RATE = 24_000
PATIENCE_S = 120
MOST_ERRORS = 0.1

pytestmark = pytest.mark.skipif(not PYTHON.exists(), reason="make test installs the clients")
with_node = pytest.mark.skipif(NODE is None or not (EXAMPLES / "node/node_modules").exists(), reason="needs Node.js")


@pytest.fixture(scope="module")
def recording(pangram: Float, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pangram as a WAV file."""
    path = tmp_path_factory.mktemp("clients") / "pangram.wav"
    path.write_bytes(encoded(pangram, RATE, "WAV"))
    return path


def run(service: Service, example: str, *words: str | Path) -> str:
    """Runs an example, and returns what it printed."""
    program = PYTHON if example.endswith(".py") else NODE
    assert program is not None
    address = {"OPENAI_BASE_URL": f"{service.url}/v1", "OPENAI_API_KEY": "none"}
    local = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}  # LiteLLM would ask the network for prices
    ended = subprocess.run(
        [program, EXAMPLES / example, *words],
        env={**os.environ, **address, **local},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}"
    return ended.stdout


TRANSCRIBERS = {
    "openai realtime": ("openai_realtime_transcription.py",),
    "livekit": ("livekit_transcription.py",),
    "livekit realtime": ("livekit_transcription.py", "realtime"),
    "pipecat": ("pipecat_transcription.py",),
    "pipecat realtime": ("pipecat_transcription.py", "realtime"),
    "litellm": ("litellm_transcription.py",),
    "node": ("node/transcription.mjs",),
    "node realtime": ("node/realtime.mjs",),
}
TWICE = ("litellm_transcription.py", "node/transcription.mjs")
"""Examples that print the text of two requests."""


@pytest.mark.parametrize(
    ("example", "mode"),
    [
        pytest.param(words[0], words[1:], id=name, marks=with_node if name.startswith("node") else ())
        for name, words in TRANSCRIBERS.items()
    ],
)
def test_a_client_hears(example: str, mode: tuple[str, ...], service: Service, recording: Path) -> None:
    printed = run(service, example, recording, *mode)
    wanted = f"{PANGRAM} {PANGRAM}" if example in TWICE else PANGRAM
    assert word_errors(printed, wanted) <= MOST_ERRORS, printed


SPEAKERS = {"pipecat": ("pipecat_speech.py", "wav"), "litellm": ("litellm_speech.py", "mp3")}
NODE_SPEAKERS = {f"node {form}": ("node/speech.mjs", form) for form in ("mp3", "opus", "flac")}


@pytest.mark.parametrize(
    ("example", "form"),
    [
        pytest.param(*words, id=name, marks=with_node if words[0].endswith(".mjs") else ())
        for name, words in {**SPEAKERS, **NODE_SPEAKERS}.items()
    ],
)
def test_a_client_speaks(
    example: str, form: str, service: Service, client: OpenAI, pangram: Float, tmp_path: Path
) -> None:
    path = tmp_path / f"speech.{form}"
    run(service, example, PANGRAM, path)
    check_speech(path, client, pangram)


def test_livekit_speaks_in_every_format(service: Service, client: OpenAI, pangram: Float, tmp_path: Path) -> None:
    run(service, "livekit_speech.py", PANGRAM, tmp_path)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [f"{form}.wav" for form in ("aac", "flac", "mp3", "opus", "pcm", "wav")]
    for path in tmp_path.iterdir():
        check_speech(path, client, pangram)


@pytest.mark.parametrize("mode", [(), ("streamed",)], ids=["whole", "streamed"])
def test_a_voice_pipeline_repeats_what_it_hears(
    mode: tuple[str, ...], service: Service, client: OpenAI, recording: Path, pangram: Float, tmp_path: Path
) -> None:
    answer = tmp_path / "answer.wav"
    printed = run(service, "openai_agents_voice.py", recording, answer, *mode)
    assert word_errors(printed, PANGRAM) <= MOST_ERRORS, printed
    check_speech(answer, client, pangram)


def test_a_conversation_repeats_without_a_chat_model(
    service: Service, client: OpenAI, recording: Path, pangram: Float, tmp_path: Path
) -> None:
    answer = tmp_path / "answer.wav"
    printed = run(service, "openai_realtime_conversation.py", recording, answer)
    said = dict(line.split(": ", 1) for line in printed.splitlines())
    assert word_errors(said["you"], PANGRAM) <= MOST_ERRORS, printed
    assert word_errors(said["answer"], PANGRAM) <= MOST_ERRORS, printed
    check_speech(answer, client, pangram)


def check_speech(path: Path, client: OpenAI, pangram: Float) -> None:
    """Checks that a file is the spoken pangram. Codecs fill the ends with silence, LiveKit drops the last frame of FLAC, and
    what repeats may have heard another punctuation."""
    samples, rate = decoded(path.read_bytes())
    assert samples.shape[1] / rate == pytest.approx(len(pangram) / RATE, abs=1.0)
    assert word_errors(heard_in(client, path.read_bytes(), path.name), PANGRAM) <= MOST_ERRORS
