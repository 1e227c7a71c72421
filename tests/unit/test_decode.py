"""Decoding of untrusted files: valid audio is read, everything else is refused with a clear message."""

from __future__ import annotations

import io
import re
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from deployments.audio.decode import LOUDEST, AudioDecoder, decode_all, decode_stream
from deployments.audio.sound_decoder import AudioInfo
from deployments.errors import Failure, MotetError, fail

Float = NDArray[np.float32]

LIMIT = 60.0


class Pipe:
    """Bytes in order and nothing else, a few at a time."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 1000))


def tones(rate: int, channels: int, seconds: float = 1.5) -> Float:
    """A different sine in each channel."""
    time = np.arange(int(rate * seconds)) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * 300 * (n + 1) * time) for n in range(channels)]).astype(np.float32)


def by_soundfile(sound: Float, rate: int, container: str, subtype: str) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, sound.T, rate, format=container, subtype=subtype)
    return file.getvalue()


def by_ffmpeg(sound: Float, rate: int, container: str, codec: str) -> bytes:
    layout = "mono" if sound.shape[0] == 1 else "stereo"
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.codec_context.layout = layout
        frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return file.getvalue()


SOUNDFILE = {
    "wav16": ("WAV", "PCM_16"),
    "wav24": ("WAV", "PCM_24"),
    "wav32": ("WAV", "PCM_32"),
    "wav8": ("WAV", "PCM_U8"),
    "wavfloat": ("WAV", "FLOAT"),
    "wavdouble": ("WAV", "DOUBLE"),
    "wavulaw": ("WAV", "ULAW"),
    "wavex": ("WAVEX", "PCM_16"),
    "rf64": ("RF64", "PCM_16"),
    "flac16": ("FLAC", "PCM_16"),
    "flac24": ("FLAC", "PCM_24"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
FFMPEG = {
    "oggflac": ("ogg", "flac"),
    "adts": ("adts", "aac"),
    "m4a": ("ipod", "aac"),
    "mp4": ("mp4", "aac"),
    "webm": ("webm", "libopus"),
    "id3mp3": ("mp3", "libmp3lame"),
}
KINDS = (*SOUNDFILE, *FFMPEG)


def make(kind: str, rate: int = 24000, channels: int = 1, seconds: float = 1.5) -> bytes:
    sound = tones(rate, channels, seconds)
    if kind in SOUNDFILE:
        return by_soundfile(sound, rate, *SOUNDFILE[kind])
    return by_ffmpeg(sound, rate, *FFMPEG[kind])


def wav(
    rate: int = 16000, channels: int = 1, data: bytes = b"\1\0" * 1600, size: int | None = None, code: int = 1
) -> bytes:
    """A WAV with any lie in its header."""
    bits = 32 if code == 3 else 16
    frame = channels * bits // 8 % 2**16
    size = len(data) if size is None else size
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, code, channels, rate, rate * frame % 2**32, frame, bits)
    return (
        struct.pack("<4sI4s", b"RIFF", (36 + size) % 2**32, b"WAVE") + form + struct.pack("<4sI", b"data", size) + data
    )


def refusal(data: bytes, max_seconds: float = LIMIT) -> Failure:
    with pytest.raises(MotetError) as caught:
        decode_all(data, 16000, True, max_seconds)
    failure = caught.value.failure
    assert failure.param == "file"
    assert failure.remedy
    return failure


def loudest_tone(samples: Float, rate: int) -> float:
    return float(np.abs(np.fft.rfft(samples * np.hanning(samples.size))).argmax()) * rate / samples.size


@pytest.mark.parametrize("rate", [24_000, 44_100])
@pytest.mark.parametrize("kind", ["mp3", "id3mp3"])
@pytest.mark.parametrize("seconds", [0.3, 1.0, 2.0, 3.1])
def test_an_mp3_ends_where_its_sound_does(kind: str, rate: int, seconds: float) -> None:
    data = make(kind, rate, seconds=seconds)
    for source in (data, Pipe(data)):
        out = np.concatenate(list(decode_stream(source, mono=True, max_seconds=LIMIT)), axis=1)
        assert out.shape[1] == round(seconds * rate)


def test_joined_mp3s_lose_nothing() -> None:
    once, twice = make("id3mp3", seconds=1.0), make("id3mp3", seconds=1.0) * 2
    lengths = [
        sum(block.shape[1] for block in decode_stream(Pipe(data), mono=True, max_seconds=LIMIT))
        for data in (once, twice)
    ]
    assert lengths[1] >= 2 * lengths[0]


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("rate", "target"), [(16000, 16000), (48000, 16000), (24000, 48000)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_its_sound(kind: str, rate: int, target: int, channels: int) -> None:
    data = make(kind, rate, channels)
    for source in (data, Pipe(data)):
        out = np.concatenate(list(decode_stream(source, sample_rate=target, mono=False, max_seconds=LIMIT)), axis=1)
        assert out.dtype == np.float32
        assert out.shape[0] == channels
        assert abs(out.shape[1] / target - 1.5) < 0.15
        for row, samples in enumerate(out):
            assert abs(loudest_tone(samples, target) - 300 * (row + 1)) < 3
            assert abs(float(samples[4000:-4000].std()) * 2**0.5 - 0.4) < 0.03


@pytest.mark.parametrize(
    ("kind", "error"),
    [("wav16", 2e-5), ("flac16", 2e-5), ("wav24", 1e-6), ("flac24", 1e-6), ("wavfloat", 0), ("wav8", 0.01)],
)
def test_lossless_formats_are_exact(kind: str, error: float) -> None:
    out = decode_all(make(kind, 44100, 2), None, False, LIMIT)
    np.testing.assert_allclose(out, tones(44100, 2), atol=error * 2, rtol=0)


@pytest.mark.parametrize(
    ("kind", "info"),
    [
        ("wav24", AudioInfo(44100, 2, "pcm_s24le")),
        ("flac16", AudioInfo(44100, 2, "flac")),
        ("mp3", AudioInfo(44100, 2, "mp3")),
        ("vorbis", AudioInfo(44100, 2, "vorbis")),
        ("m4a", AudioInfo(44100, 2, "aac")),
    ],
)
def test_an_opened_file_says_what_it_holds(kind: str, info: AudioInfo) -> None:
    decoder = AudioDecoder(make(kind, 44100, 2), sample_rate=16000, mono=True, max_seconds=LIMIT)
    assert decoder.info == info
    decoder.close()
    decoder.close()


def test_mono_is_the_mean_of_the_channels() -> None:
    out = decode_all(make("wavfloat", 24000, 2), None, True, LIMIT)
    np.testing.assert_allclose(out, tones(24000, 2).mean(axis=0, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("kind", ["wav16", "flac16", "mp3", "opus"])
@pytest.mark.parametrize("block_seconds", [0.1, 1.0])
def test_blocks_are_as_long_as_asked_and_make_up_the_whole(kind: str, block_seconds: float) -> None:
    data = make(kind, seconds=2.3)
    blocks = list(decode_stream(data, sample_rate=16000, mono=True, max_seconds=LIMIT, block_seconds=block_seconds))
    assert {block.shape for block in blocks[:-1]} == {(1, int(block_seconds * 16000))}
    assert 0 < blocks[-1].shape[1] <= block_seconds * 16000
    np.testing.assert_allclose(np.concatenate(blocks, axis=1), decode_all(data, 16000, True, LIMIT), atol=1e-5)


def test_sound_comes_before_the_file_has_been_read() -> None:
    class Watched(Pipe):
        taken = 0

        def read(self, size: int = -1) -> bytes:
            data = super().read(size)
            self.taken += len(data)
            return data

    data = make("wav16", seconds=20)
    source = Watched(data)
    next(decode_stream(source, sample_rate=16000, mono=True, max_seconds=LIMIT))
    assert source.taken < len(data) / 4


def test_a_seekable_file_is_read_from_its_start_and_stays_open() -> None:
    file = io.BytesIO(make("wav16"))
    file.seek(1234)
    assert sum(b.shape[1] for b in decode_stream(file, sample_rate=None, mono=True, max_seconds=LIMIT)) == 36000
    assert not file.closed


@pytest.mark.parametrize("kind", ["wav16", "mp3", "m4a"])
def test_closing_half_way_ends_the_sound(kind: str) -> None:
    decoder = AudioDecoder(make(kind, seconds=5), sample_rate=16000, mono=True, max_seconds=LIMIT)
    blocks = iter(decoder)
    next(blocks)
    decoder.close()
    assert sum(block.shape[1] for block in blocks) < 2 * 16000


@pytest.mark.parametrize(
    ("head", "looks"),
    [
        (b"\xff\xd8\xff\xe0\x00\x10JFIF" + bytes(99), "a JPEG picture"),
        (b"\x89PNG\r\n\x1a\n" + bytes(99), "a PNG picture"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"PK\x03\x04" + bytes(99), "a ZIP archive"),
        (b"RIFF\x10\0\0\0WEBPVP8 ", "a WebP picture"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC picture"),
        (b"MThd\0\0\0\6", "a MIDI file"),
        (b"FORM\0\0\0\0AIFF", "an AIFF recording"),
        (b"just some words", "text"),
        ("grüße, schöne Welt".encode(), "text"),
        (b"<!doctype html>", "an HTML or XML page"),
        (b'{"error": 1}', "JSON"),
    ],
)
def test_other_files_are_named(head: bytes, looks: str) -> None:
    failure = refusal(head)
    assert (failure.kind, failure.code) == ("invalid", "unsupported_audio")
    assert f"looks like {looks}" in failure.cause
    assert "WAV, FLAC, MP3, OGG" in failure.remedy


@pytest.mark.parametrize(
    "data",
    [bytes(range(128, 256)), bytes(1000), b"\xff\xfe\x00\x00", b"\xff\xff\xff\xff", b"\x00asm\x80", b"RIFF", b"MAT4"],
)
def test_unknown_files_are_refused(data: bytes) -> None:
    assert refusal(data).code == "unsupported_audio"


def test_formats_beside_the_allow_list_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a writer of SD2 leaves a file for the resource fork
    sound = tones(24000, 1)
    adpcm = refusal(by_soundfile(sound, 24000, "WAV", "IMA_ADPCM"))
    assert adpcm.code == "unsupported_audio"
    assert "adpcm_ima_wav" in adpcm.cause
    assert refusal(by_ffmpeg(sound, 24000, "mp2", "mp2")).code == "unsupported_audio"
    for container in ("AIFF", "CAF", "AU", "W64", "MAT4", "MAT5", "PAF", "SD2", "VOC", "XI", "HTK", "NIST", "IRCAM"):
        subtype = "DPCM_16" if container == "XI" else "PCM_16"
        assert refusal(by_soundfile(sound, 44100, container, subtype)).code == "unsupported_audio", container


@pytest.mark.parametrize("data", [b"", wav(data=b""), wav(data=b"", size=0xFFFFFFF0), make("flac16", seconds=0)])
def test_nothing_to_hear_is_said_so(data: bytes) -> None:
    assert (refusal(data).kind, refusal(data).code) == ("invalid", "empty_audio")


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("m4a", "mp4")])
def test_a_file_cut_short_gives_what_is_there(kind: str) -> None:
    data = make(kind, seconds=8)
    for source in (data[: len(data) * 3 // 4], Pipe(data[: len(data) * 3 // 4])):
        blocks = list(decode_stream(source, sample_rate=16000, mono=True, max_seconds=LIMIT))
        assert 1.0 < sum(block.shape[1] for block in blocks) / 16000 < 8.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_in_its_header_is_damaged(kind: str) -> None:
    assert refusal(make(kind)[:30]).code == "corrupt_audio"


@pytest.mark.parametrize("source", [bytes, Pipe], ids=["file", "pipe"])
def test_less_than_50_ms_is_refused_unless_the_file_states_it(source: type[Pipe] | type[bytes]) -> None:
    def seconds(data: bytes) -> float:
        blocks = decode_stream(source(data), sample_rate=16000, mono=True, max_seconds=LIMIT)
        return sum(int(block.shape[1]) for block in blocks) / 16000

    for kind in ("wav16", "flac16"):
        assert seconds(make(kind, seconds=0.04)) == pytest.approx(0.04, abs=0.001)
    with pytest.raises(MotetError) as caught:
        seconds(make("wav16", seconds=2.0)[:100])
    failure = caught.value.failure
    assert (failure.kind, failure.code, failure.param) == ("invalid", "audio_too_short", "file")
    assert failure.cause == "The file has 1 ms of sound, and states 2 s."
    with pytest.raises(MotetError, match="The file has 1 ms of sound, less than 50 ms."):
        seconds(wav(data=b"\1\0" * 20, size=0xFFFFFFFF))
    assert seconds(make("wav16", seconds=2.0)[: 44 + 2 * 24 * 60]) == pytest.approx(0.06, abs=0.001)


def test_damage_in_the_middle_costs_only_itself() -> None:
    data = bytearray(make("mp3", seconds=4))
    data[len(data) // 2 : len(data) // 2 + 300] = bytes(300)
    assert decode_all(bytes(data), 16000, True, LIMIT).shape[1] > 3.5 * 16000


@pytest.mark.parametrize("rate", [1, 3999, 192001])
def test_rates_beyond_reason_are_refused(rate: int) -> None:
    failure = refusal(wav(rate=rate))
    assert failure.code == "unsupported_audio"
    assert str(rate) in failure.cause


@pytest.mark.parametrize("rate", [0, 4_000_000_000])
def test_impossible_rates_are_damage(rate: int) -> None:
    assert refusal(wav(rate=rate)).kind == "invalid"


def test_channels_beyond_reason_are_refused() -> None:
    assert "9 channels" in refusal(wav(channels=9, data=bytes(18 * 100))).cause
    assert refusal(wav(channels=1024, data=bytes(2048 * 100))).kind == "invalid"
    assert decode_all(wav(channels=8, data=bytes(16 * 100)), None, False, LIMIT).shape == (8, 100)


@pytest.mark.parametrize("size", [0, 0xFFFFFFF0, 0xFFFFFFFF, 0x7FFFFFFE, 10_000])
def test_sizes_in_headers_are_not_believed(size: int) -> None:
    for source in (wav(size=size), Pipe(wav(size=size))):
        blocks = list(decode_stream(source, sample_rate=None, mono=True, max_seconds=LIMIT))
        assert sum(block.shape[1] for block in blocks) == 1600


def test_numbers_that_are_no_sound_are_tamed() -> None:
    samples = np.array([np.nan, np.inf, -np.inf, 1e38, 0.5, 1.25], "<f4")
    out = decode_all(wav(data=samples.tobytes(), code=3), None, True, LIMIT)
    assert out[0].tolist() == [0.0, LOUDEST, -LOUDEST, LOUDEST, 0.5, 1.25]


def test_joined_recordings_may_change_rate_and_channels() -> None:
    data = make("mp3", 24000, 1) + make("mp3", 48000, 2)
    out = decode_all(data, 16000, False, LIMIT)
    assert out.shape[0] == 1
    assert abs(out.shape[1] / 16000 - 3.0) < 0.3
    assert abs(loudest_tone(out[0, :20000], 16000) - 300) < 3
    assert {round(loudest_tone(out[0, -20000:], 16000), -2)} <= {300, 600}


@pytest.mark.parametrize("kind", ["wav16", "flac16", "mp3"])
def test_the_limit_counts_what_comes_out(kind: str) -> None:
    failure = refusal(make(kind, seconds=3), max_seconds=2)
    assert (failure.kind, failure.code) == ("too_large", "audio_too_long")
    assert "2 seconds" in failure.cause
    assert decode_all(make("wav16", seconds=2), 16000, True, 2.0).shape == (1, 32000)


def test_sound_before_the_limit_is_given() -> None:
    recording = Pipe(make("flac16", seconds=5))  # of a pipe nobody knows whether it is as long as it says
    blocks = decode_stream(recording, sample_rate=16000, mono=True, max_seconds=2.5, block_seconds=0.5)
    given: list[Float] = []
    with pytest.raises(MotetError):
        given.extend(blocks)
    assert 1.5 <= sum(block.shape[1] for block in given) / 16000 <= 2.5


@pytest.mark.parametrize("kind", ["wav16", "mp3", "m4a"])
@pytest.mark.parametrize("after", [0, 500, 2000])
def test_an_error_of_the_file_is_raised_unchanged(kind: str, after: int) -> None:
    class Broken(Pipe):
        given = 0

        def read(self, size: int = -1) -> bytes:
            self.given += 100
            if self.given > after:
                raise fail("too_large", "The upload is over the limit.", code="upload_too_large")
            return self._file.read(min(size, 100))

    with pytest.raises(MotetError) as caught:
        list(decode_stream(Broken(make(kind)), sample_rate=16000, mono=True, max_seconds=LIMIT))
    assert caught.value.failure.code == "upload_too_large"
    # Nothing of it may be left for the next file.
    assert decode_all(make(kind), 16000, True, LIMIT).size


def test_an_endless_m4a_is_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deployments.audio.file_source.MOST_SPOOLED_BYTES", 100_000)

    class Endless(Pipe):
        taken = 0

        def read(self, size: int = -1) -> bytes:
            self.taken += size
            return super().read(size) or bytes(size)

    source = Endless(make("m4a"))
    with pytest.raises(MotetError) as caught:
        next(decode_stream(source, sample_rate=16000, mono=True, max_seconds=LIMIT))
    assert caught.value.failure.code == "audio_too_large"
    assert source.taken < 10_000_000


CRC = [0] * 256
for _byte in range(256):
    _value = _byte << 24
    for _ in range(8):
        _value = (_value << 1) ^ (0x04C11DB7 if _value & 0x80000000 else 0)
    CRC[_byte] = _value & 0xFFFFFFFF


def repaired(data: bytearray) -> bytes:
    """Right checksums for the pages of an OGG file, or damage would never get as far as the codec."""
    starts = [found.start() for found in re.finditer(b"OggS", data)]
    for at, end in pairwise([*starts, len(data)]):
        if end - at < 27:
            continue
        data[at + 22 : at + 26] = bytes(4)
        value = 0
        for byte in data[at:end]:
            value = (value << 8) & 0xFFFFFFFF ^ CRC[value >> 24 ^ byte]
        data[at + 22 : at + 26] = value.to_bytes(4, "little")
    return bytes(data)


def mutations(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies with bytes changed, dropped, doubled or cut off: half of them mostly in the header, half mostly behind."""
    random = np.random.default_rng(seed)
    for turn in range(count):
        copy = bytearray(data)
        for _ in range(int(random.integers(1, 8))):
            at = int(len(copy) * random.random() ** (2.0 if turn % 2 else 0.2))
            match random.integers(4):
                case 0:
                    copy[at : at + 1] = random.bytes(1)
                case 1:
                    copy[at : at + 4] = [b"\xff\xff\xff\xff", bytes(4), b"\x7f\xff\xff\xff", b"\0\0\0\x80"][at % 4]
                case 2:
                    del copy[at : at + int(random.integers(1, 9))]
                case _:
                    copy[at:at] = copy[at : at + int(random.integers(1, 99))]
        yield repaired(copy[: max(1, int(len(copy) * min(1.0, random.random() * 2)))])


@pytest.mark.parametrize("other", [make("vorbis", rate=16000), make("vorbis", channels=2), make("opus")])
@pytest.mark.parametrize("source", [bytes, Pipe])
def test_the_rest_of_a_joined_ogg_file_is_not_lost_silently(other: bytes, source: Any) -> None:
    one = make("vorbis")
    assert decode_all(one + one, None, True, LIMIT).shape[1] / 24_000 == pytest.approx(3.0, abs=0.05)
    with pytest.raises(MotetError, match="changes its rate, channels or codec in the middle") as caught:
        list(decode_stream(source(one + other), mono=True, max_seconds=LIMIT))
    assert caught.value.failure.code == "unsupported_audio"


@pytest.mark.parametrize(
    "kind", ["wav16", "wavfloat", "flac16", "vorbis", "opus", "mp3", "adts", "m4a", "webm", "oggflac"]
)
def test_mutated_files_give_sound_or_an_error_in_words(kind: str) -> None:
    heard = 0
    for data in mutations(make(kind, seconds=0.5), 300, seed=len(kind)):
        try:
            out = decode_all(data, 16000, True, 5.0)
        except MotetError as error:
            assert error.failure.kind in ("invalid", "too_large")
            continue
        assert 0 < out.shape[1] <= 5.0 * 16000
        assert np.isfinite(out).all()
        heard += 1
    assert heard > 0


BOMB = """
import resource, sys
import numpy as np
from deployments.audio.decode import decode_all, decode_stream
from deployments.audio.encode import open_encoder
from deployments.errors import MotetError

encoder = open_encoder("flac", 8000)
second = np.zeros(8000, np.float32)
bomb = b"".join(encoder.encode(second) for _ in range(3000)) + encoder.finish()
decode_all(bomb[:2000], 48000, True, 60)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
heard = 0
try:
    for block in decode_stream(bomb, sample_rate=48000, mono=True, max_seconds=600):
        heard += block.shape[1]
except MotetError as error:
    print(error.failure.code, len(bomb), heard, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_bomb_stops_at_the_limit_in_constant_memory() -> None:
    """3000 s of silence in a small file: 576 MB of samples at 48 kHz, of which 600 s are decoded one by one."""
    child = subprocess.run([sys.executable, "-c", BOMB], capture_output=True, text=True, check=False, timeout=60)
    assert child.returncode == 0, child.stderr
    code, size, heard, grown_kilobytes = child.stdout.split()
    assert code == "audio_too_long"
    assert int(size) < 1_000_000
    assert 595 * 48000 < int(heard) <= 600 * 48000
    assert int(grown_kilobytes) < 20_000


def test_nothing_is_printed_about_bad_files(capfd: pytest.CaptureFixture[str]) -> None:
    for data in mutations(make("mp3", seconds=0.5), 30, seed=5):
        with suppress(MotetError):
            decode_all(data, 16000, True, LIMIT)
    printed = capfd.readouterr()
    assert (printed.out, printed.err) == ("", "")
