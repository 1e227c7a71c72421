"""DeepFilterNet3 on streams: hops of samples in, enhanced hops out, 40 ms later; the state of a stream is a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from deployments.engines.deepfilternet.spectra import (
    BAND_WIDTHS,
    BINS,
    FILTERED_BINS,
    HOP,
    Floats,
    RunningMeans,
    Spectra,
    features,
    halves,
    initial_means,
    spectra,
)
from deployments.engines.protocols import Samples

LOOKAHEAD = 2
"""Frames after the one that is enhanced, which the network sees and the filters use."""

TAPS = 5
"""Frames that a filter sums: as many before the enhanced one as after it, and itself."""

DELAY_HOPS = LOOKAHEAD + 1
"""Hops by which the output is behind: a frame needs the look-ahead, and a hop needs both frames that it lies in."""


@dataclass(frozen=True, slots=True)
class StreamState:
    """The state of a stream of some channels; every field has them first, but `h_`, which has layers first.

    `hop` is the last hop of input, `tail` the second half of the last enhanced frame. `spectra`, `feat_erb`, `feat_spec` and
    `c0` are frames that are needed again, and the `h_` are the recurrent layers' states.
    """

    hop: Samples
    tail: Samples
    spectra: Spectra
    band_db: Floats
    magnitude: Floats
    feat_erb: Floats
    feat_spec: Floats
    c0: Floats
    h_enc: Floats
    h_erb: Floats
    h_df: Floats


def initial_state(channels: int) -> StreamState:
    """The state before the first hop: silence, and the recurrent layers at zero."""
    means = initial_means(channels)
    zeros = _zeros
    return StreamState(
        hop=zeros(channels, HOP),
        tail=zeros(channels, HOP),
        spectra=zeros(channels, TAPS - 1, BINS).astype(np.complex64),
        band_db=means.band_db,
        magnitude=means.magnitude,
        feat_erb=zeros(channels, 1, 2, len(BAND_WIDTHS)),
        feat_spec=zeros(channels, 2, 2, FILTERED_BINS),
        c0=zeros(channels, 64, 4, FILTERED_BINS),
        h_enc=zeros(1, channels, 256),
        h_erb=zeros(2, channels, 256),
        h_df=zeros(2, channels, 256),
    )


def together(states: Sequence[StreamState]) -> StreamState:
    """One state with the channels of all."""
    parts = {
        name: np.concatenate([getattr(state, name) for state in states], axis=_channel_axis(name)) for name in _NAMES
    }
    return StreamState(**parts)


def apart(state: StreamState, channels: Sequence[int]) -> list[StreamState]:
    """Splits a state that `together` joined. `channels` are the numbers of channels of its parts, in order."""
    ends = np.cumsum(channels)[:-1]
    parts = {name: np.split(getattr(state, name), ends, axis=_channel_axis(name)) for name in _NAMES}
    return [
        StreamState(**{name: arrays[index].copy() for name, arrays in parts.items()}) for index in range(len(channels))
    ]


def advance(session: Any, samples: Samples, state: StreamState) -> tuple[Samples, StreamState]:
    """The enhanced samples for (channels, n) float32 at 48 kHz, n a multiple of HOP, and the next state.

    The output has the input's length, and is `DELAY_HOPS` behind it: the first `DELAY_HOPS` hops of a stream precede it.
    """
    new = spectra(np.concatenate((state.hop, samples), axis=1))
    bands, low, means = features(new, RunningMeans(state.band_db, state.magnitude))
    feat_erb = np.concatenate((state.feat_erb, bands), axis=2)
    feat_spec = np.concatenate((state.feat_spec, low), axis=2)
    given = {"feat_erb": feat_erb, "feat_spec": feat_spec, "c0_before": state.c0}
    hidden = {"h_enc": state.h_enc, "h_erb": state.h_erb, "h_df": state.h_df}
    gains, filters, c0, h_enc, h_erb, h_df = session.run(_OUTPUTS, given | hidden)
    frames = np.concatenate((state.spectra, new), axis=1)
    first, second = halves(_enhanced(frames, gains[:, 0], filters))
    blocks = first + np.concatenate((state.tail[:, np.newaxis], second[:, :-1]), axis=1)
    state = StreamState(
        hop=samples[:, -HOP:],
        tail=second[:, -1],
        spectra=frames[:, 1 - TAPS :],
        band_db=means.band_db,
        magnitude=means.magnitude,
        feat_erb=feat_erb[:, :, -2:],
        feat_spec=feat_spec[:, :, -2:],
        c0=c0,
        h_enc=h_enc,
        h_erb=h_erb,
        h_df=h_df,
    )
    return blocks.reshape(samples.shape), state


_OUTPUTS = ("m", "coefs", "c0_before_next", "h_enc_next", "h_erb_next", "h_df_next")
_NAMES = tuple(field.name for field in fields(StreamState))


def _channel_axis(name: str) -> int:
    return int(name.startswith("h_"))


def _zeros(*shape: int) -> Floats:
    return np.zeros(shape, np.float32)


def _enhanced(frames: Spectra, gains: Floats, filters: Floats) -> Spectra:
    """The enhanced spectra of s frames, from the s + TAPS - 1 around them, gains (channels, s, BANDS) and filters
    (channels, s, FILTERED_BINS, 2 TAPS), of which real and imaginary parts alternate."""
    count = gains.shape[1]
    result = frames[:, LOOKAHEAD : LOOKAHEAD + count] * np.repeat(gains, BAND_WIDTHS, axis=-1)
    taps = np.ascontiguousarray(filters).view(np.complex64)
    low = frames[..., :FILTERED_BINS]
    result[..., :FILTERED_BINS] = sum(taps[..., tap] * low[:, tap : tap + count] for tap in range(TAPS))
    return result
