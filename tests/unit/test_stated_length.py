"""A recording whose stated length is over the limit is refused before decoding; a false statement has no effect."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
import soundfile
from av.audio.frame import AudioFrame

from deployments.audio import decode
from deployments.audio.decode import AudioDecoder, decode_all, decode_stream
from deployments.audio.sample_encoder import wav_header
from deployments.audio.stated_length import MOST_SECONDS_PER_BYTE, estimated_seconds, flac_seconds, xing_seconds
from deployments.errors import MotetError
from tests.unit.test_decode import FFMPEG, SOUNDFILE, Float, Pipe, by_ffmpeg, make

RATE = 16_000
KINDS = sorted({*SOUNDFILE, *FFMPEG})
WITHOUT_A_LENGTH = {"adts"}


@pytest.fixture
def decoded_seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds of every frame that is decoded."""
    seconds: list[float] = []
    real = decode._samples

    def counted(frame: AudioFrame) -> Float:
        seconds.append(frame.samples / frame.sample_rate)
        return real(frame)

    monkeypatch.setattr(decode, "_samples", counted)
    return seconds


def refusal(recording: bytes | Pipe, max_seconds: float, size_bytes: int | None = None) -> str | None:
    """The code with which a recording is refused."""
    try:
        decoder = AudioDecoder(recording, mono=True, max_seconds=max_seconds, size_bytes=size_bytes)
        for _ in decoder:
            pass
    except MotetError as error:
        assert error.failure.kind == "too_large"
        return error.failure.code
    return None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in WITHOUT_A_LENGTH])
def test_a_length_that_is_stated_is_refused_before_anything_is_decoded(kind: str, decoded_seconds: list[float]) -> None:
    assert refusal(make(kind, seconds=8), 4.0) == "audio_too_long"
    assert decoded_seconds == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_too_long_is_heard_to_its_end(kind: str) -> None:
    sound = decode_all(make(kind, seconds=4), RATE, True, 4.5)
    assert sound.shape[1] / RATE == pytest.approx(4, abs=0.2)


def test_an_upload_that_streams_is_refused_when_its_size_is_known(decoded_seconds: list[float]) -> None:
    recording = make("flac16", seconds=8)
    assert refusal(Pipe(recording), 4.0, len(recording)) == "audio_too_long"
    assert decoded_seconds == []
    assert refusal(Pipe(recording), 4.0) == "audio_too_long"
    assert sum(decoded_seconds) == pytest.approx(4, abs=1.5)


def flac_that_states(samples: int, seconds: float = 3.0) -> bytes:
    """A FLAC of `seconds` whose STREAMINFO states other samples."""
    file = io.BytesIO()
    noise = np.random.default_rng(0).standard_normal(int(seconds * RATE)).astype(np.float32) * 0.1
    soundfile.write(file, noise, RATE, format="FLAC")
    data = bytearray(file.getvalue())
    fields = int.from_bytes(data[18:26], "big")
    data[18:26] = (fields >> 36 << 36 | samples).to_bytes(8, "big")
    return bytes(data)


def wav_that_states(size: int, seconds: float = 3.0) -> bytes:
    """A 16-bit mono WAV of `seconds` whose data chunk states another size."""
    samples = bytes(2 * int(seconds * RATE))
    form = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    riff = min(size + 36, 2**32 - 1)
    return b"RIFF" + struct.pack("<I", riff) + b"WAVEfmt " + struct.pack("<I", 16) + form + b"data" + struct.pack(
        "<I", size
    ) + samples  # fmt: skip


@pytest.mark.parametrize(
    "recording",
    [flac_that_states(0), flac_that_states(2**36 - 1)]
    + [wav_that_states(size) for size in (0xFFFFFFFF, 0x7FFFFFFF, 0xFFFFFFF0, 0x7FFFF000, 2 * RATE * 100)],
    ids=[
        "flac of a live stream",
        "flac with all bits set",
        "wav of a live stream",
        "2 GiB",
        "aligned",
        "2 GiB less",
        "cut",
    ],
)
def test_a_header_that_states_what_the_file_cannot_hold_is_not_believed(recording: bytes) -> None:
    """Four hours are the limit, as in the default configuration; five seconds for a WAV that was cut off."""
    assert decode_all(recording, RATE, True, 5.0).shape[1] == pytest.approx(3 * RATE, abs=RATE // 10)


@pytest.mark.parametrize("recording", [flac_that_states(RATE), wav_that_states(2 * RATE)], ids=["flac", "wav"])
def test_a_header_that_states_too_little_lets_nobody_pass_the_limit(recording: bytes) -> None:
    given = 0.0
    with pytest.raises(MotetError) as caught:
        for block in decode_stream(recording, sample_rate=RATE, mono=True, max_seconds=0.5, block_seconds=0.1):
            given += block.shape[1] / RATE
    assert caught.value.failure.code == "audio_too_long"
    assert given <= 0.5


def test_the_densest_silence_could_be_as_long_as_it_says() -> None:
    """Seven hours in a megabyte are no lie."""
    file = io.BytesIO()
    with soundfile.SoundFile(file, "w", RATE, 1, format="FLAC", subtype="PCM_16") as flac:
        for _ in range(20):
            flac.write(np.zeros(RATE * 60, np.float32))
    recording = file.getvalue()
    assert len(recording) * MOST_SECONDS_PER_BYTE > 20 * 60
    assert refusal(recording, 600.0) == "audio_too_long"


@pytest.mark.parametrize(
    "data", [b"", b"fLaC", b"fLaC" + bytes(22), b"\xff" * 26], ids=["none", "cut", "zeros", "ones"]
)
def test_damaged_headers_state_nothing_or_a_number(data: bytes) -> None:
    for found in (flac_seconds(data), xing_seconds(data)):
        assert found is None or found > 0


@pytest.mark.parametrize("tag_bytes", [0, 5000])
def test_the_length_of_an_mp3_stands_behind_its_tag(tag_bytes: int) -> None:
    size = bytes((tag_bytes >> shift) & 0x7F for shift in (21, 14, 7, 0))
    tag = b"ID3\x04\x00\x00" + size + bytes(tag_bytes) if tag_bytes else b""
    recording = tag + make("mp3", seconds=8)
    assert refusal(recording, 4.0) == "audio_too_long"
    assert refusal(recording, 9.0) is None


@pytest.mark.parametrize("channels", [1, 2])
def test_the_length_of_a_wav_is_estimated_from_its_header(channels: int) -> None:
    head = wav_header(44_100, channels)
    assert estimated_seconds(head, 44_100 * 2 * channels * 60) == pytest.approx(60)


def test_a_header_cannot_make_a_recording_longer_or_shorter_than_sound_is() -> None:
    lies = [wav_header(44_100, 1)[:28] + stated.to_bytes(4, "little") for stated in (0, 1, 2**32 - 1)]
    assert [estimated_seconds(head, 400_000) for head in lies] == [100, 100, 1]


@pytest.mark.parametrize(("container", "codec"), [("flac", "flac"), ("mp3", "libmp3lame")])
def test_the_length_of_a_flac_or_an_mp3_is_as_it_states(container: str, codec: str) -> None:
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 44_100 * 20)).astype(np.float32)
    recording = by_ffmpeg(noise, 44_100, container, codec)
    start = recording.index(b"\xff\xfb") if container == "mp3" else 0
    assert estimated_seconds(recording[start : start + 64], len(recording)) == pytest.approx(20, rel=0.01)


def test_a_compressed_recording_that_states_too_much_is_estimated_within_reason() -> None:
    head = b"fLaC" + bytes(14) + ((16_000 << 44) | (2**36 - 1)).to_bytes(8, "big")
    assert estimated_seconds(head, 16_000) == 20.0


def test_other_recordings_are_estimated_as_compressed_ones() -> None:
    assert estimated_seconds(b"fLaC", 16_000 * 60) == 60
