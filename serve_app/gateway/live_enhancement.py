"""One stream that a replica enhances while it is recorded, and continues at another replica if that one is lost."""

from __future__ import annotations

import numpy as np

from deployments.engines.protocols import LiveBlocks, Samples
from deployments.replica.enhancement_streams import Checkpoint, EnhancedAnswer
from serve_app.gateway.enhancement_load import EnhancementLoad
from serve_app.gateway.request_context import current_key
from serve_app.gateway.routing.directory import ModelDirectory
from serve_app.gateway.routing.pinned_stream import PinnedStream


class LiveEnhancement:
    """A stream of one model. The sound after the latest checkpoint is kept, so that another replica gives the same
    samples."""

    def __init__(
        self, directory: ModelDirectory, model: str, blocks: LiveBlocks, channels: int, load: EnhancementLoad
    ) -> None:
        self._model = model
        self._rate = blocks.sample_rate
        self._load = load
        self._checkpoint: Checkpoint | None = None
        self._kept = np.zeros((channels, 0), np.float32)
        """The sound after the checkpoint."""
        self._sent = 0
        """What the replica has of the stream, in samples."""
        self._stream = PinnedStream(directory, model, "enhance", self._begin_again)

    async def enhance(self, samples: Samples) -> Samples:
        """The next float32 (channels, n), enhanced; n is a multiple of the model's block. Raises `MotetError`."""
        current_key().ensure_audio()
        current_key().take_audio(samples.shape[1] / self._rate)
        self._kept = np.concatenate([self._kept, samples], axis=1)
        enhanced = await self._stream.attempt(self._answer)
        return enhanced[:, -samples.shape[1] :]  # another replica repeats what came before

    async def close(self) -> None:
        """Frees the stream at its replica, if there is one."""
        await self._stream.close()

    @property
    def _start(self) -> int:
        """Where the sound begins that is kept."""
        return self._checkpoint.position if self._checkpoint else 0

    async def _answer(self) -> Samples:
        """Sends what the replica does not have yet."""
        samples = self._kept[:, self._sent - self._start :]
        resume = None if self._stream.is_open else self._checkpoint
        answer: EnhancedAnswer = await self._stream.ask(self._sent, samples, resume)
        self._load.note(self._model, answer.share_s, samples.shape[1] / self._rate)
        self._sent += samples.shape[1]
        if checkpoint := answer.sound.checkpoint:
            self._kept = self._kept[:, checkpoint.position - self._start :]
            self._checkpoint = checkpoint
        return answer.sound.samples

    def _begin_again(self) -> None:
        """A replica gets the sound after the checkpoint."""
        self._sent = self._start
