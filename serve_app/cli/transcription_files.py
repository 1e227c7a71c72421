"""Which recordings a command is given, and where their transcripts go."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from deployments.audio.formats import SOUND_SUFFIXES
from deployments.errors import MotetError, fail
from serve_app.gateway.transcript_formats import TranscriptFormat

WrittenFormat = Literal["txt", "text", "json", "srt", "vtt", "verbose_json", "diarized_json", "rttm"]
"""`txt` is another name of `text`."""
SUFFIXES: Mapping[TranscriptFormat, str] = {
    "text": ".txt",
    "json": ".json",
    "srt": ".srt",
    "vtt": ".vtt",
    "verbose_json": ".verbose.json",
    "diarized_json": ".diarized.json",
    "rttm": ".rttm",
}
SOURCES = ".motet-transcripts.jsonl"
"""The file in an output folder that says from which recording each transcript was made."""


def written_format(form: WrittenFormat | None, output: Path) -> TranscriptFormat:
    """The format that was named, else that of the file's suffix, else text. Raises `MotetError` (invalid) for a suffix that
    no format has."""
    if form is not None:
        return "text" if form == "txt" else form
    name = output.name.lower()
    if not output.suffix or (output.exists() and not output.is_file()):  # standard output, a pipe or a device
        return "text"
    ending = [found for found, suffix in SUFFIXES.items() if name.endswith(suffix)]
    if not ending:
        known = ", ".join(SUFFIXES.values())
        raise fail("invalid", f"{output.name!r} has none of the suffixes {known}.", "Add --format.")
    return max(ending, key=lambda found: len(SUFFIXES[found]))


@dataclass(frozen=True, slots=True)
class RecordingFile:
    """A recording, and its transcript's path in the output folder."""

    path: Path
    output: Path

    @property
    def size(self) -> int:
        """Bytes; 0 if the file is gone."""
        return self.path.stat().st_size if self.path.is_file() else 0


@dataclass(frozen=True, slots=True)
class TranscriptSources:
    """The recordings that transcripts were made from, by the transcripts' names in their folder. A recording is known by its
    size and the time of its last change, so that it may be moved.

    Each transcript adds a line to the file `SOURCES`, so that several commands may write to one folder.
    """

    folder: Path
    made_from: Mapping[str, Mapping[str, Any]]

    @classmethod
    def read(cls, folder: Path) -> TranscriptSources:
        """What the folder says. A damaged line, as after a full disk, says nothing."""
        made_from = dict[str, Mapping[str, Any]]()
        file = folder / SOURCES
        for line in file.read_text("utf-8", "replace").splitlines() if file.is_file() else ():
            with suppress(ValueError, TypeError, KeyError):
                source = json.loads(line)
                made_from[source["output"]] = source
        return cls(folder, made_from)

    def other_than(self, recording: RecordingFile) -> str | None:
        """The recording that the transcript was made from, if it is another one; None also if nothing is known."""
        known = self.made_from.get(_name_in(self.folder, recording))
        same = known is None or all(known.get(name) == value for name, value in _identity(recording).items())
        return None if known is None or same else str(known.get("recording"))

    @staticmethod
    def note(folder: Path, recording: RecordingFile) -> None:
        """The transcript of the recording was written."""
        about = {"output": _name_in(folder, recording), "recording": str(recording.path), **_identity(recording)}
        with (folder / SOURCES).open("a", encoding="utf-8") as file:
            file.write(json.dumps(about) + "\n")


def _name_in(folder: Path, recording: RecordingFile) -> str:
    return recording.output.relative_to(folder).as_posix()


def _identity(recording: RecordingFile) -> dict[str, int]:
    facts = recording.path.stat() if recording.path.is_file() else None
    return {"size": facts.st_size, "changed_ns": facts.st_mtime_ns} if facts else {}


def made_from_another(recording: RecordingFile, other: str) -> MotetError:
    """The failure of a recording in whose place there is the transcript of `other`, or of itself before it changed."""
    is_what = (
        "was made before this recording changed"
        if other == str(recording.path)
        else f"is the transcript of another recording, {other}"
    )
    remedy = "Add --overwrite to replace it, or name another folder."
    return fail("invalid", f"{recording.output} {is_what}.", remedy)


def recordings_in(paths: Sequence[Path], folder: Path | None, form: TranscriptFormat) -> list[RecordingFile]:
    """The recordings of files and folders in order, each once.

    A transcript has the name of its recording, and below the output folder the recording's place below its own. Where two
    recordings differ in their suffix only, the suffix stays: `a.wav.srt`. Raises `MotetError` (invalid) for a folder without
    recordings, and for two recordings of one name. Without a folder nothing is written, and names do not matter.
    """
    found = dict[Path, tuple[Path, Path]]()
    for path in paths:
        for file, name in _files_in(path):
            found.setdefault(file.resolve(), (file, name))
    stems = Counter(name.with_suffix("") for _, name in found.values())
    recordings, taken = list[RecordingFile](), dict[Path, Path]()
    for file, name in found.values():
        whole = stems[name.with_suffix("")] > 1
        output = (folder or Path()) / (
            name.with_name(name.name + SUFFIXES[form]) if whole else name.with_suffix(SUFFIXES[form])
        )
        if folder and (other := taken.setdefault(output, file)) != file:
            cause = f"{other} and {file} would both be written to {output}."
            raise fail("invalid", cause, "Name the folder that they are in, or write them to different folders.")
        recordings.append(RecordingFile(file, output))
    return recordings


def _files_in(path: Path) -> list[tuple[Path, Path]]:
    """The recordings, each with its place below the folder."""
    if not path.is_dir():
        return [(path, Path(path.name))]
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SOUND_SUFFIXES and file.is_file())
    if not files:
        known = ", ".join(sorted(SOUND_SUFFIXES))
        raise fail("invalid", f"The folder {path} holds no recordings.", f"Name a file, or a folder with {known}.")
    return [(file, file.relative_to(path)) for file in files]


class LazyFile:
    """A file that is opened when it is first read, and so of many only one is open.

    `progress` is called with the bytes read.
    """

    def __init__(self, path: Path, progress: Callable[[int], None]) -> None:
        self._path = path
        self._progress = progress
        self._file: BinaryIO | None = None

    @property
    def file(self) -> BinaryIO:
        """The open file. Raises `OSError` if it cannot be opened."""
        if self._file is None:
            self._file = self._path.open("rb")
        return self._file

    def read(self, size: int, /) -> bytes:
        """See `ByteSource`."""
        data = self.file.read(size)
        self._progress(self.tell() if self.seekable() else 0)
        return data

    def seekable(self) -> bool:
        """Whether `seek` works."""
        return self.file.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        """As of files."""
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        """As of files."""
        return self.file.tell()

    def close(self) -> None:
        """Closes the file, if it was opened."""
        if self._file is not None:
            self._file.close()
