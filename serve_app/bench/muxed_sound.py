"""Sound in containers that the service's own encoders do not write."""

from __future__ import annotations

import io

import av
import numpy as np

from deployments.engines.protocols import Samples


def muxed(container: str, codec: str, samples: Samples, rate: int) -> bytes:
    """A file with mono samples (n,) at `rate` Hz. `container` and `codec` are FFmpeg's names."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        encode_into(output, mono_track(output, codec, rate), samples)
    return file.getvalue()


def mono_track(output: av.container.OutputContainer, codec: str, rate: int) -> av.AudioStream:
    """A new track of a file."""
    stream = output.add_stream(codec, rate=rate)
    assert isinstance(stream, av.AudioStream)
    stream.layout = "mono"
    return stream


def encode_into(output: av.container.OutputContainer, track: av.AudioStream, samples: Samples) -> None:
    """Writes mono samples (n,) to a track, and ends it."""
    frame = av.AudioFrame.from_ndarray(samples[np.newaxis], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = track.rate, 0
    for packet in [*track.encode(frame), *track.encode(None)]:
        output.mux(packet)
