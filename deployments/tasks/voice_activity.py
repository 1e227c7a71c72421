"""When somebody speaks in a recording, and who: reads it as it comes, without recognition."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass

from deployments.audio.channels import read_channels
from deployments.audio.decode import AudioDecoder
from deployments.audio.file_source import ByteSource
from deployments.audio.sound_decoder import BLOCK_SECONDS, AudioInfo, OpenDecoder, decoded_bytes
from deployments.audio.stream_tail import StreamTail
from deployments.audio.voice_activity import NETWORK_RATE, SpeechPart, VoiceActivity
from deployments.engines.protocols import Samples
from deployments.settings import VoiceActivitySettings, WindowSettings
from deployments.tasks.diarization import SpeakerTask, SpeakerTracker, SpeakerTurn


@dataclass(frozen=True, slots=True)
class SpeechSection:
    """Speech without a long pause, with its padding, from `start_s` to `end_s` seconds of the recording."""

    start_s: float
    end_s: float


@dataclass(frozen=True, slots=True)
class SpeechTicket:
    """The next sections of speech that are over. The recording has been read up to second `until_s`.

    The last ticket's `until_s` is the recording's length, and it has the `turns` if speakers were asked for.
    """

    index: int
    sections: tuple[SpeechSection, ...]
    until_s: float
    turns: tuple[SpeakerTurn, ...] = ()


@dataclass(frozen=True, slots=True)
class VoiceActivityTask:
    """Finds speech, and its `speakers`. `size_bytes` is the recording's, where it is known. `voice_activity` replaces that of
    the settings."""

    size_bytes: int | None = None
    speakers: SpeakerTask | None = None
    voice_activity: VoiceActivitySettings | None = None

    def cut(
        self, file: ByteSource, settings: WindowSettings, open_decoder: OpenDecoder = AudioDecoder
    ) -> Generator[tuple[SpeechTicket, None]]:
        """Decodes as it is asked; no engine is needed. Raises what the decoder and `SpeakerTracker` raise."""
        decoder = open_decoder(file, mono=False, max_seconds=settings.max_audio_s, size_bytes=self.size_bytes)
        with closing(decoder):
            tracker = SpeakerTracker(self.speakers, open_decoder=open_decoder) if self.speakers else None
            reader = _SpeechReader(self, settings, tracker)
            for rows in read_channels(decoder, NETWORK_RATE, "mix"):
                yield from reader.push(rows[0])
            yield reader.finish(), None

    def held_bytes(self, info: AudioInfo, settings: WindowSettings) -> int:
        """The bytes of a block. With speakers, those of the speech between two reports, too."""
        block = decoded_bytes(BLOCK_SECONDS, info.sample_rate, info.channels)
        return block + decoded_bytes(settings.report_s if self.speakers else 0.0, NETWORK_RATE, 1)


class _SpeechReader:
    """Collects the sections of a stream at `NETWORK_RATE`."""

    def __init__(self, task: VoiceActivityTask, settings: WindowSettings, tracker: SpeakerTracker | None) -> None:
        self._activity = VoiceActivity(NETWORK_RATE, task.voice_activity or settings.voice_activity)
        self._tracker = tracker
        self._report_samples = settings.report_s * NETWORK_RATE
        self._sound = StreamTail()
        self._start: int | None = None
        self._sections: list[SpeechSection] = []
        self._samples = self._reported = self._index = 0

    def push(self, samples: Samples) -> Iterator[tuple[SpeechTicket, None]]:
        """Takes the next (n,) samples. Returns a ticket every `report_s`."""
        self._samples += len(samples)
        if self._tracker:
            self._sound.push(samples)
        self._take(self._activity.push(samples))
        self._sound.drop(self._activity.settled)
        if self._samples - self._reported >= self._report_samples:
            yield self._ticket(()), None

    def finish(self) -> SpeechTicket:
        """The last ticket."""
        self._take(self._activity.finish())
        return self._ticket(self._tracker.turns() if self._tracker else ())

    def _take(self, parts: Iterable[SpeechPart]) -> None:
        for part in parts:
            self._start = part.start if self._start is None else self._start
            if self._tracker and part.speech_end > part.speech_start:
                speech = self._sound.between(part.speech_start, part.speech_end)
                self._tracker.push(speech, part.speech_start / NETWORK_RATE)
            if part.ends:
                self._sections.append(SpeechSection(self._start / NETWORK_RATE, part.end / NETWORK_RATE))
                self._start = None

    def _ticket(self, turns: tuple[SpeakerTurn, ...]) -> SpeechTicket:
        ticket = SpeechTicket(self._index, tuple(self._sections), self._samples / NETWORK_RATE, turns)
        self._sections.clear()
        self._reported, self._index = self._samples, self._index + 1
        return ticket


def speech_here(file: ByteSource, task: VoiceActivityTask, settings: WindowSettings) -> Iterator[SpeechTicket]:
    """The tickets of a recording, read in this process."""
    with closing(task.cut(file, settings)) as tickets:
        for ticket, _ in tickets:
            yield ticket
