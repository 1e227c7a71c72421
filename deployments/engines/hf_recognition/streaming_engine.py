"""The engine for families that stream by themselves: it transcribes windows too, and hears streams natively."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from deployments.engines.hf_recognition.adapter import HfRecognitionOptions, Hypothesis
from deployments.engines.hf_recognition.engine import HfRecognition
from deployments.engines.hf_recognition.streaming_family import HfStream, StreamingFamily, hear
from deployments.engines.protocols import RecognitionOptions, Samples
from deployments.engines.recognition import check_options
from deployments.engines.streaming import PartialTranscript
from deployments.errors import fail


class HfStreamingRecognition(HfRecognition):
    """One checkpoint of a family that streams. Implements `RecognitionEngine` and `StreamingRecognition`."""

    def __init__(self, family: StreamingFamily[Any], options: HfRecognitionOptions) -> None:
        super().__init__(family, options)
        self._family = family

    def open(self, options: RecognitionOptions) -> HfStream[Any]:
        """A new stream. Raises `MotetError` (unsupported) for a language or a translation that the model cannot do."""
        check_options(options, self.traits)
        with torch.inference_mode():
            return HfStream(self._family, options)

    def push(self, stream: HfStream[Any], samples: Samples) -> None:
        """Adds mono (n,) samples. Raises nothing: invalid samples fail the stream's next step."""
        if stream.closed or stream.spoken is not None or stream.failure is not None:
            return
        if samples.ndim != 1:
            stream.failure = fail("invalid", f"The sound has shape {samples.shape}.", "Send mono samples.")
        elif not np.isfinite(samples).all():
            cause = "The sound has samples that are not finite numbers."
            stream.failure = fail("invalid", cause, "Send finite samples.")
        else:
            stream.sound.push(samples.astype(np.float32))

    def finish(self, stream: HfStream[Any], samples: int) -> None:
        """The speech ended after the first `samples`. Silence follows, as long as the model's delay."""
        if stream.spoken is None:
            stream.end(samples)

    def cost(self, stream: HfStream[Any]) -> float:
        """Seconds of sound that the next step works on; 0 if it has no whole chunk."""
        if not stream.is_ready:
            return 0.0
        return max(0, stream.sound.length - stream.heard) / self.traits.sample_rate

    def step(self, streams: Sequence[HfStream[Any]]) -> list[PartialTranscript | Exception]:
        """Hears all whole chunks that were pushed; the chunks of several streams are one batch."""
        with torch.inference_mode():
            hear(self._family, streams)
            return [self._result(stream) for stream in streams]

    def close(self, stream: HfStream[Any]) -> None:
        """Frees the sound and the model's state of the stream."""
        stream.closed = True
        stream.sound.clear()
        stream.state = None

    def warm_up(self) -> None:
        """Runs the network on a second of silence, as a window and as a stream."""
        super().warm_up()
        stream = self.open(RecognitionOptions(language=next(iter(self.traits.languages), None)))
        self.push(stream, np.zeros(self.traits.sample_rate, np.float32))
        self.finish(stream, self.traits.sample_rate)
        for result in self.step([stream]):
            if isinstance(result, Exception):
                raise result

    def _result(self, stream: HfStream[Any]) -> PartialTranscript | Exception:
        if stream.failure is not None:
            return stream.failure
        if stream.closed:
            return fail("invalid", "The stream is closed.", "Open a new one.")
        if stream.spoken is not None:
            return self._last(stream, stream.spoken)
        language = self.language(Hypothesis("", (), stream.language), stream.options)
        samples, characters = stream.settled
        return PartialTranscript(
            stream.committed,
            stream.preview,
            language,
            min(stream.heard, stream.sound.length),
            settled_samples=samples,
            settled_characters=characters,
        )

    def _last(self, stream: HfStream[Any], samples: int) -> PartialTranscript:
        made = stream.hypothesis()
        transcript = self.transcript(made, samples / self.traits.sample_rate, stream.options)
        return PartialTranscript(
            made.text,
            "",
            transcript.language,
            samples,
            last=True,
            transcript=transcript,
            settled_samples=samples,
            settled_characters=len(made.text),
        )
