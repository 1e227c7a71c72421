"""All formats, each as one continuous stream."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess
import sys
import threading
import wave
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from deployments.audio import g711
from deployments.audio.encode import Encoder, encoded_rate, header_of, open_encoder
from deployments.audio.formats import FORMATS, AudioFormat
from deployments.audio.resample import resample, resampled_length
from deployments.audio.sample_encoder import wav_header
from deployments.errors import MotetError

Float = NDArray[np.float32]

EXACT: tuple[AudioFormat, ...] = ("wav", "flac", "pcm")
RATES = (16000, 24000, 44100, 48000)
# Samples that a codec may add at its own rate: its delay, and the rest of a last frame.
PADDING = dict.fromkeys(FORMATS, 0) | {"mp3": 3 * 1152, "aac": 3 * 1024, "opus": 1}
LAWS: dict[AudioFormat, g711.Law] = {"mulaw": "mu", "wav_mulaw": "mu", "alaw": "a", "wav_alaw": "a"}


def tones(rate: int, channels: int, seconds: float = 0.9) -> Float:
    """A different sine in each channel."""
    time = np.arange(int(rate * seconds)) / rate
    return np.stack([0.4 * np.sin(2 * np.pi * 300 * (n + 1) * time) for n in range(channels)]).astype(np.float32)


def encode(format: AudioFormat, rate: int, sound: Float, sizes: tuple[int, ...]) -> bytes:
    """Encodes in pieces of `sizes`, over and over."""
    encoder = open_encoder(format, rate, sound.shape[0])
    out, start, turn = [], 0, 0
    while start < sound.shape[1]:
        size = sizes[turn % len(sizes)]
        out.append(encoder.encode(sound[:, start : start + size]))
        start, turn = start + size, turn + 1
    return b"".join([*out, encoder.finish()])


def read(format: AudioFormat, data: bytes, channels: int) -> tuple[NDArray[np.float64], int]:
    """The (channels, n) samples of `data`, and their rate (0 for pcm), without our own decoder of files."""
    if format == "pcm":
        return np.frombuffer(data, "<i2").reshape(-1, channels).T / 32768.0, 0
    if FORMATS[format].wav:
        return g711.decode(data, LAWS[format]).reshape(-1, channels).T / 32768.0, g711.RATE
    with av.open(io.BytesIO(data), "r") as container:
        frames = list(container.decode(audio=0))
        resampler = av.AudioResampler("fltp")
        rows = [piece.to_ndarray() for frame in frames for piece in resampler.resample(frame)]
        return np.concatenate(rows, axis=1).astype(np.float64), frames[0].sample_rate


def loudest_tone(samples: NDArray[np.float64], rate: int) -> float:
    return float(np.abs(np.fft.rfft(samples * np.hanning(samples.size))).argmax()) * rate / samples.size


def int16(sound: Float) -> NDArray[np.int16]:
    whole: NDArray[np.int16] = np.rint(sound * 32768.0).astype(np.int16)
    return whole


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("format", FORMATS)
def test_a_stream_is_one_file_of_the_same_sound(format: AudioFormat, rate: int, channels: int) -> None:
    sound = tones(rate, channels)
    out, out_rate = read(format, encode(format, rate, sound, (0, 1, 7, 480, 4801, 60)), channels)
    out_rate = out_rate or rate
    assert out.shape[0] == channels
    assert -1 <= out.shape[1] - sound.shape[1] * out_rate / rate <= PADDING[format]
    for row, samples in enumerate(out):
        # LAME lowers the level by half a decibel.
        assert abs(loudest_tone(samples, out_rate) - 300 * (row + 1)) < 4
        margin = out_rate // 6
        assert abs(float(samples[margin:-margin].std()) * 2**0.5 - 0.4) < 0.03
    if format in EXACT:
        np.testing.assert_array_equal(np.rint(out * 32768).astype(np.int64), int16(sound))


@pytest.mark.parametrize("format", FORMATS)
def test_pieces_give_the_same_bytes_as_the_whole(format: AudioFormat) -> None:
    sound = tones(24000, 1, seconds=2.5)
    assert encode(format, 24000, sound, (1, 333, 9000)) == encode(format, 24000, sound, (100_000,))


@pytest.mark.parametrize("format", FORMATS)
def test_sound_leaves_early(format: AudioFormat) -> None:
    encoder = open_encoder(format, 24000)
    # Nothing but silence: a header alone is not sound, so the second call must bring more.
    assert encoder.encode(np.zeros(7200, np.float32))
    later = [encoder.encode(np.zeros(2400, np.float32)) for _ in range(10)]
    longest_wait = max(len(run) for run in "".join("x" if piece else "." for piece in later).split("x"))
    assert longest_wait <= 1


@pytest.mark.parametrize(("format", "limit"), [("mp3", 0.1), ("aac", 0.15), ("opus", 0.2), ("flac", 0.15)])
def test_first_frame_needs_little_sound(format: AudioFormat, limit: float) -> None:
    encoder = open_encoder(format, 24000)
    header = len(encoder.encode(np.zeros(0, np.float32)))
    noise = np.random.default_rng(3).uniform(-0.3, 0.3, 24000).astype(np.float32)
    pushed = 0
    while len(encoder.encode(noise[pushed : pushed + 240])) == 0:
        pushed += 240
    assert header < 200
    assert (pushed + 240) / 24000 <= limit


@pytest.mark.parametrize(("format", "rate", "written"), [("opus", 44100, 48000), ("mp3", 96000, 48000)])
def test_a_rate_the_codec_does_not_know_is_resampled(format: AudioFormat, rate: int, written: int) -> None:
    out, out_rate = read(format, encode(format, rate, tones(rate, 1), (5000,)), 1)
    assert out_rate == written
    assert abs(loudest_tone(out[0], out_rate) - 300) < 4


def test_loud_samples_clip_and_bad_ones_are_silent() -> None:
    sound = np.array([2.0, -2.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 0.4 / 32768, 0.6 / 32768], np.float32)
    out = np.frombuffer(open_encoder("pcm", 24000).encode(sound), "<i2")
    assert out.tolist() == [32767, -32768, 32767, -32768, 0, 32767, -32768, 0, 1]


@pytest.mark.parametrize("format", ["mp3", "opus", "aac"])
def test_coded_sound_clips_too(format: AudioFormat) -> None:
    out, _ = read(format, encode(format, 48000, tones(48000, 1) * 10, (5000,)), 1)
    assert 0.9 < float(np.abs(out).max()) < 1.6


@pytest.mark.parametrize("format", ["mp3", "opus", "aac", "flac"])
def test_a_bad_sample_does_not_spoil_what_follows(format: AudioFormat) -> None:
    sound = tones(44100, 1, seconds=1.0)
    sound[0, 100:110] = np.nan
    out, rate = read(format, encode(format, 44100, sound, (5000,)), 1)
    assert abs(float(out[0, 8000:-8000].std()) * 2**0.5 - 0.4) < 0.03
    assert abs(loudest_tone(out[0], rate) - 300) < 4


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("cut", [0.1, 0.5, 0.83, 1.0])
def test_a_streamed_wav_reads_up_to_where_it_was_cut(tmp_path: Path, cut: float, channels: int) -> None:
    sound = tones(24000, channels)
    data = encode("wav", 24000, sound, (1000,))
    # Four bytes make a stereo sample; a cut may fall anywhere.
    data = data[: 44 + int((len(data) - 44) * cut) // 4 * 4]
    expected = int16(sound)[:, : (len(data) - 44) // 2 // channels].T
    with wave.open(io.BytesIO(data)) as reader:
        assert (reader.getframerate(), reader.getnchannels(), reader.getsampwidth()) == (24000, channels, 2)
        frames = reader.readframes(reader.getnframes())
    np.testing.assert_array_equal(np.frombuffer(frames, "<i2").reshape(-1, channels), expected)
    path = tmp_path / "cut.wav"
    path.write_bytes(data)
    samples, rate = soundfile.read(path, dtype="int16", always_2d=True)
    assert rate == 24000
    np.testing.assert_array_equal(samples, expected)


def test_a_wav_cut_inside_a_sample_still_reads() -> None:
    data = encode("wav", 24000, tones(24000, 1), (1000,))[:1001]
    samples, _ = soundfile.read(io.BytesIO(data))
    assert len(samples) == (1001 - 44) // 2
    with wave.open(io.BytesIO(data)) as reader:
        assert len(reader.readframes(reader.getnframes())) == 1001 - 44


def test_a_wav_of_known_length_says_so() -> None:
    encoder = open_encoder("wav", 24000, 2, total_samples=1000)
    data = encoder.encode(np.zeros((2, 1000), np.float32)) + encoder.finish()
    assert int.from_bytes(data[4:8], "little") == len(data) - 8
    with wave.open(io.BytesIO(data)) as reader:
        assert reader.getnframes() == 1000


def test_a_streamed_wav_promises_a_size_that_fits_31_bits() -> None:
    for channels in (1, 2):
        header = wav_header(24000, channels)
        riff, size = int.from_bytes(header[4:8], "little"), int.from_bytes(header[40:44], "little")
        assert 2**31 - 64 < size < riff < 2**31
        assert size % (2 * channels) == 0
        assert wav_header(24000, channels, 2**40) == header


def test_a_wav_of_four_hours_states_its_length() -> None:
    """Readers stop at the length that is stated: the last hour of over 2 GiB of stereo would be lost."""
    samples = 4 * 3600 * 48_000
    header = wav_header(48_000, 2, samples)
    assert struct.unpack("<4sI", header[:8]) == (b"RIFF", 36 + 4 * samples)
    assert struct.unpack("<4sI", header[36:]) == (b"data", 4 * samples)


def test_one_row_fills_both_channels() -> None:
    encoder = open_encoder("pcm", 24000, 2)
    assert np.frombuffer(encoder.encode(np.array([0.25, 0.5], np.float32)), "<i2").tolist() == [8192] * 2 + [16384] * 2


@pytest.mark.parametrize("format", FORMATS)
def test_endings(format: AudioFormat) -> None:
    encoder = open_encoder(format, 24000)
    assert encoder.encode(tones(24000, 1)[0]) + encoder.finish()
    assert encoder.finish() == b""
    encoder.close()
    encoder.close()
    with pytest.raises(ValueError, match="has ended"):
        encoder.encode(np.zeros(10, np.float32))
    dropped = open_encoder(format, 24000)
    dropped.encode(tones(24000, 1)[0])
    dropped.close()
    dropped.close()


@pytest.mark.parametrize("format", ["wav", "flac"])
def test_a_stream_without_samples_is_a_valid_file(format: AudioFormat) -> None:
    data = open_encoder(format, 24000).finish()
    with av.open(io.BytesIO(data), "r") as container:
        assert container.streams.audio[0].rate == 24000
        assert list(container.decode(audio=0)) == []


@pytest.mark.parametrize("format", FORMATS)
def test_ending_without_a_sample_is_no_error(format: AudioFormat) -> None:
    assert open_encoder(format, 22050, 2).finish() is not None


@pytest.mark.parametrize("total", [0, 21600])
def test_a_flac_of_known_length_says_so(total: int) -> None:
    encoder = open_encoder("flac", 24000, 2, total_samples=total)
    sound = tones(24000, 2)[:, :total]
    data = encoder.encode(sound) + encoder.finish()
    assert int.from_bytes(data[18:26], "big") % 2**36 == total
    if total:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="int16")
        assert rate == 24000
        np.testing.assert_array_equal(samples, int16(sound).T)


def test_wrong_shapes_and_channel_counts_are_refused() -> None:
    for format in FORMATS:
        with pytest.raises(ValueError, match=r"Expected \(n,\) or \(1, n\)"):
            open_encoder(format, 24000).encode(np.zeros((2, 10), np.float32))
        with pytest.raises(MotetError) as caught:
            open_encoder(format, 24000, 6)
        assert caught.value.failure.kind == "unsupported"


def test_media_types_are_the_ones_browsers_know() -> None:
    assert {name: info.media_type for name, info in FORMATS.items()} == {
        "mp3": "audio/mpeg",
        "opus": "audio/ogg",
        "aac": "audio/aac",
        "flac": "audio/flac",
        "wav": "audio/wav",
        "pcm": "audio/pcm",
        "mulaw": "audio/pcmu",
        "alaw": "audio/pcma",
        "wav_mulaw": "audio/wav",
        "wav_alaw": "audio/wav",
    }


TEN_MINUTES = """
import sys
import numpy as np
from deployments.audio.encode import open_encoder
second = (0.3 * np.sin(np.arange(8000) * 0.2)).astype(np.float32)
encoder = open_encoder(sys.argv[1], 8000)
size = len(encoder.encode(np.tile(second, 300)))
size += sum(len(encoder.encode(second)) for _ in range(300))
print(size + len(encoder.finish()))
"""


@pytest.mark.parametrize("format", FORMATS)
def test_ten_minutes_do_not_crash(format: AudioFormat) -> None:
    """In a child process, as a codec that crashes takes the process along."""
    child = subprocess.run(
        [sys.executable, "-c", TEN_MINUTES, format], capture_output=True, text=True, check=False, timeout=60
    )
    assert child.returncode == 0, child.stderr
    assert child.stderr == ""
    assert int(child.stdout) > 100_000


@pytest.mark.parametrize("audio_format", ["mp3", "opus", "flac", "aac"])
def test_closing_while_another_thread_encodes_is_safe(audio_format: AudioFormat) -> None:
    """A client that leaves closes the encoder under a running call; a freed muxer would take the process with it."""
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, 24_000 * 5).astype(np.float32)
    for _ in range(20):
        encoder = open_encoder(audio_format, 24_000)
        begun = threading.Event()

        def encode(encoder: Encoder = encoder, begun: threading.Event = begun) -> None:
            begun.set()
            with contextlib.suppress(ValueError):
                encoder.encode(sound)

        thread = threading.Thread(target=encode)
        thread.start()
        begun.wait()
        encoder.close()
        thread.join()
        encoder.close()


@pytest.mark.parametrize("rate", [8000, 22050, 24000])
@pytest.mark.parametrize("format", FORMATS)
def test_an_encoder_knows_how_much_of_the_sound_has_left_and_another_goes_on_from_there(
    format: AudioFormat, rate: int
) -> None:
    """Together they are one file, with nothing missing where they meet; a codec fills in its own beginning and end."""
    sound = tones(rate, 1, 3.0)
    encoder, out, start = open_encoder(format, rate), [], 0
    for size in (7200, 31, 4000, 3000):
        before = encoder.reached
        out.append(encoder.encode(sound[:, start : start + size]))
        start += size
        assert before <= encoder.reached <= start
    left = encoder.reached
    assert start - left < 0.5 * rate
    rest = open_encoder(format, rate, continues=True)
    out += [rest.encode(sound[:, left:]), rest.finish()]
    assert rest.reached == sound.shape[1] - left
    samples, own_rate = read(format, b"".join(out), 1)
    seconds = samples.shape[1] / (own_rate or rate)
    padding = 2 * PADDING[format] / (own_rate or rate)
    assert sound.shape[1] / rate - 1e-3 <= seconds <= sound.shape[1] / rate + padding + 1e-3
    if format in EXACT:
        np.testing.assert_allclose(samples, sound, rtol=0, atol=2**-15)


TELEPHONE: tuple[AudioFormat, ...] = ("mulaw", "alaw", "wav_mulaw", "wav_alaw")


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(("rate", "wanted"), [(24000, 8000), (22050, 16000), (8000, 48000), (24000, 11025)])
def test_sound_is_resampled_once_to_the_wanted_rate(form: AudioFormat, rate: int, wanted: int) -> None:
    """The same samples as those of one resampler go to the codec, whatever parts the sound comes in."""
    sound = tones(rate, 1, 1.3)
    out_rate = encoded_rate(form, rate, wanted)
    data = []
    for sizes in (7, 1000, 100_000):
        encoder = open_encoder(form, rate, sample_rate=wanted)
        parts = [encoder.encode(sound[:, at : at + sizes]) for at in range(0, sound.shape[1], sizes)]
        data.append(b"".join([*parts, encoder.finish()]))
        assert encoder.sample_rate == out_rate
        assert encoder.reached == sound.shape[1]
        assert encoder.written == resampled_length(sound.shape[1], rate, out_rate)
    assert data[0] == data[1] == data[2]
    direct = open_encoder(form, out_rate, sample_rate=out_rate)
    assert direct.encode(resample(sound, rate, out_rate)) + direct.finish() == data[0]


@pytest.mark.parametrize(
    ("form", "wanted", "rate"), [("opus", 44100, 48000), ("mp3", 10000, 11025), ("aac", 8000, 8000)]
)
def test_a_wanted_rate_that_a_codec_does_not_have_is_the_next_higher_one(
    form: AudioFormat, wanted: int, rate: int
) -> None:
    assert encoded_rate(form, 24000, wanted) == rate


def test_telephone_formats_have_8_khz_unless_another_rate_is_wanted() -> None:
    assert {encoded_rate(form, 24000) for form in TELEPHONE} == {8000}
    assert {encoded_rate(form, 24000, 16000) for form in TELEPHONE} == {16000}
    assert {encoded_rate(form, 24000) for form in ("wav", "pcm", "flac")} == {24000}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("form", ["wav_mulaw", "wav_alaw"])
def test_other_readers_know_g711_in_a_wav(form: AudioFormat, channels: int, known: bool) -> None:
    sound = tones(24000, channels, 0.5)
    encoder = open_encoder(form, 24000, channels, total_samples=4000 if known else None)
    data = encoder.encode(sound) + encoder.finish()
    with av.open(io.BytesIO(data), "r") as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.rate) == (f"pcm_{form.removeprefix('wav_')}", 8000)
    samples, rate = soundfile.read(io.BytesIO(data), dtype="int16", always_2d=True)
    raw = open_encoder(FORMATS_OF_WAVS[form], 24000, channels)
    codes = raw.encode(sound) + raw.finish()
    assert rate == 8000
    np.testing.assert_array_equal(samples.reshape(-1), g711.decode(codes, LAWS[form]))
    assert data.endswith(codes)
    assert len(data) - len(codes) == 58
    if known:
        assert int.from_bytes(data[4:8], "little") == len(data) - 8
        assert int.from_bytes(data[46:50], "little") == 4000, "the fact chunk"


FORMATS_OF_WAVS = {info.wav: form for form, info in FORMATS.items() if info.wav}


@pytest.mark.parametrize("form", ["wav", "wav_mulaw", "wav_alaw", "flac"])
def test_the_header_of_a_resampled_file_can_be_written_when_its_length_is_known(form: AudioFormat) -> None:
    sound = tones(22050, 1, 0.777)
    encoder = open_encoder(form, 22050, sample_rate=16000)
    data = encoder.encode(sound) + encoder.finish()
    header = header_of(form, encoder.sample_rate, 1, encoder.written)
    told = open_encoder(form, 22050, sample_rate=16000, total_samples=encoder.written)
    assert header + data[len(header) :] == told.encode(sound) + told.finish()
    samples, rate = soundfile.read(io.BytesIO(header + data[len(header) :]))
    assert (len(samples), rate) == (round(len(sound[0]) * 16000 / 22050), 16000)


@pytest.mark.parametrize("form", ["pcm", "mulaw", "flac"])
@pytest.mark.parametrize(("rate", "wanted"), [(24000, 8000), (8000, 48000)])
def test_a_resampling_encoder_knows_how_much_of_the_sound_has_left(form: AudioFormat, rate: int, wanted: int) -> None:
    """`reached` counts the samples that it was given. What it holds back is short."""
    sound = tones(rate, 1, 2.0)
    encoder, start, size = open_encoder(form, rate, sample_rate=wanted), 0, rate // 5
    data = b""
    for start in range(0, sound.shape[1], size):
        data += encoder.encode(sound[:, start : start + size])
        assert encoder.reached <= start + size
        assert start + size - encoder.reached < 0.25 * rate + 4608 * rate / wanted
        if form != "flac":
            assert encoder.reached == encoder.written * rate // wanted
    encoder.finish()
    assert encoder.reached == sound.shape[1]
