"""Speech recognition in a pipeline of Pipecat: a WAV file, one request a turn or as a live stream.

python pipecat_transcription.py recording.wav [realtime]
"""

import asyncio
import os
import sys
import wave

from pipecat.frames.frames import (
    EndFrame,
    ErrorFrame,
    Frame,
    InputAudioRawFrame,
    TranscriptionFrame,
    VADUserStartedSpeakingFrame,
    VADUserStoppedSpeakingFrame,
)
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.stt import OpenAIRealtimeSTTService, OpenAISTTService
from pipecat.workers.runner import WorkerRunner

FRAME_S = 0.05
PATIENCE_S = 60.0


class Printer(FrameProcessor):
    """Prints each transcript, and ends the waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.came = asyncio.Event()

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TranscriptionFrame):
            print(frame.text)
            self.came.set()
        await self.push_frame(frame, direction)


def service(realtime: bool) -> OpenAISTTService | OpenAIRealtimeSTTService:
    key = os.environ.get("OPENAI_API_KEY", "none")
    if not realtime:
        return OpenAISTTService(api_key=key, base_url=os.environ["OPENAI_BASE_URL"], include_prob_metrics=True)
    url = os.environ["OPENAI_BASE_URL"].replace("http", "ws", 1) + "/realtime"
    return OpenAIRealtimeSTTService(api_key=key, base_url=url)


async def main(path: str, realtime: bool) -> None:
    with wave.open(path) as recording:
        rate = recording.getframerate()
        samples = recording.readframes(recording.getnframes())
    printer = Printer()
    worker = PipelineWorker(
        Pipeline([service(realtime), printer]), params=PipelineParams(audio_in_sample_rate=rate), enable_rtvi=False
    )
    started, errors = asyncio.Event(), []

    @worker.event_handler("on_pipeline_started")
    async def on_started(*_: object) -> None:
        started.set()

    @worker.event_handler("on_pipeline_error")
    async def on_error(_: object, frame: ErrorFrame) -> None:
        errors.append(frame.error)
        printer.came.set()

    async def speak() -> None:
        await started.wait()
        await worker.queue_frame(VADUserStartedSpeakingFrame())  # a pipeline of an agent has a detector of voices
        size = 2 * int(FRAME_S * rate)
        for start in range(0, len(samples), size):
            await worker.queue_frame(InputAudioRawFrame(samples[start : start + size], rate, 1))
            await asyncio.sleep(FRAME_S)
        await worker.queue_frame(VADUserStoppedSpeakingFrame())
        await asyncio.wait_for(printer.came.wait(), PATIENCE_S)
        await worker.queue_frame(EndFrame())

    runner = WorkerRunner()
    await runner.add_workers(worker)
    await asyncio.gather(runner.run(), speak())
    if errors:
        raise RuntimeError(errors[0])


asyncio.run(main(sys.argv[1], "realtime" in sys.argv))
