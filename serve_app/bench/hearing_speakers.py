"""Who speaks when: the diarization error rate on mixtures of two and three voices, whose turns are known.

The voices are hibari's, the same converted to a lower and a higher one by resampling, and Kokoro's five. They take turns of
one to three sentences, at different levels, with pauses of different lengths, some with noise.
"""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soxr
from hibari import Hibari

from deployments.engines.protocols import Samples
from deployments.errors import MotetError
from deployments.settings import WindowSettings
from deployments.tasks.diarization import SpeakerTask, SpeakerTurn, joined
from deployments.tasks.voice_activity import VoiceActivityTask, speech_here
from serve_app.bench.diarization_error import DiarizationError, diarization_error
from serve_app.bench.frame import Figure, Sheet, at_most
from serve_app.bench.hearing_noise import NOISE_RATE, pink
from serve_app.bench.hearing_voices import RATE, Voice, kokoro_voices
from serve_app.bench.local_engines import wav_of

TEXT = Path(__file__).with_name("alice.txt")
SENTENCE_CHARACTERS = (30, 110)
PITCHES = {"lower": 0.8, "higher": 1.25}
"""Pitch, formants and pace of the converted voices, in parts of hibari's."""
CAST = ("hibari", "jf_gongitsune", "lower", "jf_alpha", "jm_kumo", "jf_nezumi", "higher", "jf_tebukuro")
"""The voices in an order in which the two that are hardly different, gongitsune and nezumi, never meet: a mixture has two or
three that follow each other."""
SENTENCES = 6
"""Sentences by each voice."""
PAUSES_S = (0.25, 0.6)
TURN_PAUSES_S = (0.05, 0.3, 0.8, 1.5)
SPEECH_LEVEL = 0.05
LEVEL_DB = 4.0
"""How much louder or quieter than `SPEECH_LEVEL` a voice may be, in dB."""
NOISE_DB: tuple[float | None, ...] = (None, -25.0, -15.0)
"""The level of the noise beside `SPEECH_LEVEL`, by the mixture's number."""
FRAME_SAMPLES = NOISE_RATE // 50
QUIET = 0.05
"""Frames below this share of a sentence's loudest one are silent."""
TURN_GAP_S = 0.3
"""A longer silence in a sentence is not its speaker's."""

UNKNOWN, GIVEN = "diarization error, {} mixtures", "diarization error, {} mixtures, number of speakers given"
COUNTED = "mixtures with the right number of speakers"
SPEED = "speed of diarization"


@dataclass(frozen=True, slots=True)
class VoiceMixture:
    """A recording of several voices: mono float32 `samples` (n,) at 16 kHz, and who speaks when."""

    samples: Samples
    turns: tuple[SpeakerTurn, ...]

    @property
    def voices(self) -> int:
        """The number of voices."""
        return len({turn.speaker for turn in self.turns})


def figures(mixtures: int) -> list[Figure]:
    """What is measured."""
    return [
        Figure(UNKNOWN.format(mixtures), "%", at_most(15)),
        Figure(GIVEN.format(mixtures), "%"),
        Figure(COUNTED, "%"),
        Figure(SPEED, "x real time"),
    ]


def measure_speakers(sheet: Sheet, mixtures: int, *, kokoro: bool) -> None:
    """Fills the figures in; without `kokoro`, only hibari and its conversions speak."""
    with sheet.measuring("speakers"):
        made = make_mixtures(mixtures, speaking(kokoro=kokoro))
        sheet.put(UNKNOWN.format(mixtures), *_measured(sheet, made))
        errors = [diarization_error(each.turns, find_turns(each, each.voices)) for each in made]
        sheet.put(GIVEN.format(mixtures), _rate(errors) * 100, _listed(errors))


def _measured(sheet: Sheet, made: Sequence[VoiceMixture]) -> tuple[float, str]:
    started = time.perf_counter()
    found = [find_turns(each) for each in made]
    taken = time.perf_counter() - started
    errors = [diarization_error(each.turns, turns) for each, turns in zip(made, found, strict=True)]
    counts = [len({turn.speaker for turn in turns}) for turns in found]
    right = sum(count == each.voices for each, count in zip(made, counts, strict=True))
    seconds = sum(len(each.samples) for each in made) / NOISE_RATE
    names = sorted({turn.speaker for each in made for turn in each.turns})
    sheet.put(COUNTED, 100 * right / len(made), f"{right} of {len(made)}")
    sheet.put(SPEED, seconds / taken, f"voice activity, embeddings and clustering of {seconds:.0f} s")
    return _rate(errors) * 100, f"{_listed(errors)}; {', '.join(names)}"


def _rate(errors: Sequence[DiarizationError]) -> float:
    """The error rate of all mixtures together."""
    columns = zip(*((each.speech_s, each.missed_s, each.false_s, each.confused_s) for each in errors), strict=True)
    return DiarizationError(*map(sum, columns)).rate


def _listed(errors: Sequence[DiarizationError]) -> str:
    return "each " + " ".join(f"{each.rate * 100:.1f}" for each in errors)


def find_turns(mixture: VoiceMixture, speakers: int | None = None) -> tuple[SpeakerTurn, ...]:
    """The turns that the service would find."""
    task = VoiceActivityTask(speakers=SpeakerTask(speakers=speakers))
    *_, last = speech_here(io.BytesIO(wav_of(mixture.samples, NOISE_RATE)), task, WindowSettings())
    return last.turns


# The mixtures


def speaking(*, kokoro: bool) -> dict[str, list[Samples]]:
    """Sentences by every voice that is installed, in the order of `CAST`: mono float32 at 16 kHz, without silence at their
    ends."""
    hibari = Hibari(threads=1)
    voices: dict[str, Voice] = {}
    if kokoro:
        with suppress(MotetError, ImportError):
            voices = kokoro_voices()
    lines = _lines()
    said: dict[str, list[Samples]] = {}
    for at, name in enumerate(CAST):
        texts = [lines[(at * SENTENCES + number) % len(lines)] for number in range(SENTENCES)]
        if name in voices:
            said[name] = [_trimmed(voices[name](text, number).samples, 1.0) for number, text in enumerate(texts)]
        elif name in ("hibari", *PITCHES):
            said[name] = [_trimmed(np.asarray(hibari(text), np.float32), PITCHES.get(name, 1.0)) for text in texts]
    return said


def _lines() -> list[str]:
    shortest, longest = SENTENCE_CHARACTERS
    return [line for line in Hibari.split_sentences(TEXT.read_text()) if shortest <= len(line) <= longest]


def _trimmed(samples: Samples, pitch: float) -> Samples:
    """At 16 kHz and `SPEECH_LEVEL`, without silence at the ends, and with another pitch."""
    scaled = soxr.resample(samples, RATE * pitch, NOISE_RATE).astype(np.float32)
    spans = _sounding(scaled)
    sound: Samples = scaled[spans[0][0] : spans[-1][1]]
    return sound * np.float32(SPEECH_LEVEL / np.sqrt(np.mean(np.square(sound))))


def _sounding(samples: Samples) -> list[tuple[int, int]]:
    """The parts of a sentence between its silences, in samples."""
    frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    loudness = np.sqrt(np.mean(np.square(frames), axis=1))
    loud = np.flatnonzero(loudness > QUIET * loudness.max())
    borders = np.flatnonzero(np.diff(loud) * FRAME_SAMPLES > TURN_GAP_S * NOISE_RATE)
    parts = np.split(loud, borders + 1)
    return [(int(part[0]) * FRAME_SAMPLES, (int(part[-1]) + 1) * FRAME_SAMPLES) for part in parts if len(part)]


def make_mixtures(count: int, said: dict[str, list[Samples]]) -> list[VoiceMixture]:
    """Mixtures of two and three voices in turn, each time the same."""
    names = list(said)
    mixtures = []
    for number in range(count):
        voices = [names[(3 * number + at) % len(names)] for at in range(2 + number % 2)]
        mixtures.append(_mixture(voices, said, NOISE_DB[number % len(NOISE_DB)], np.random.default_rng(number)))
    return mixtures


def _mixture(
    voices: Sequence[str], said: dict[str, list[Samples]], noise_db: float | None, random: np.random.Generator
) -> VoiceMixture:
    gains = {name: 10 ** (random.uniform(-LEVEL_DB, LEVEL_DB) / 20) for name in voices}
    parts, turns, passed = list[Samples](), list[SpeakerTurn](), 0
    for name in _order(voices, random):
        sentences = random.integers(1, 4)
        for number in range(sentences):
            pause = random.choice(TURN_PAUSES_S) if number == 0 else random.uniform(*PAUSES_S)
            sound = said[name][random.integers(len(said[name]))] * np.float32(gains[name])
            passed += int(pause * NOISE_RATE)
            turns += [
                SpeakerTurn((passed + first) / NOISE_RATE, (passed + last) / NOISE_RATE, name)
                for first, last in _sounding(sound)
            ]
            parts += [np.zeros(int(pause * NOISE_RATE), np.float32), sound]
            passed += len(sound)
    samples = np.concatenate(parts)
    level = 1e-4 if noise_db is None else SPEECH_LEVEL * 10 ** (noise_db / 20)
    noise = pink(len(samples), random).astype(np.float32) * np.float32(level)
    return VoiceMixture(samples + noise, joined(turns))


def _order(voices: Sequence[str], random: np.random.Generator) -> list[str]:
    """Who takes each turn: all once, and then anyone but the last speaker."""
    order = list(voices)
    for _ in range(random.integers(3, 8)):
        order.append(str(random.choice([name for name in voices if name != order[-1]])))
    return order
