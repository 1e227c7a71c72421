"""Speech in a pipeline of Pipecat: a text, and a WAV file of what the pipeline would play.

python pipecat_speech.py "Hello there." speech.wav
"""

import asyncio
import os
import sys
import wave

from pipecat.frames.frames import EndFrame, ErrorFrame, Frame, TTSAudioRawFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineWorker
from pipecat.processors.frame_processor import FrameDirection, FrameProcessor
from pipecat.services.openai.tts import OpenAITTSService
from pipecat.workers.runner import WorkerRunner

RATE = 24_000


class Recorder(FrameProcessor):
    """Keeps the sound that passes."""

    def __init__(self) -> None:
        super().__init__()
        self.sound = b""

    async def process_frame(self, frame: Frame, direction: FrameDirection) -> None:
        await super().process_frame(frame, direction)
        if isinstance(frame, TTSAudioRawFrame):
            self.sound += frame.audio
        await self.push_frame(frame, direction)


async def main(text: str, path: str) -> None:
    voice = OpenAITTSService(
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
        base_url=os.environ["OPENAI_BASE_URL"],
        settings=OpenAITTSService.Settings(instructions="Speak calmly.", speed=1.0),
    )
    recorder, errors = Recorder(), []
    worker = PipelineWorker(Pipeline([voice, recorder]), enable_rtvi=False)

    @worker.event_handler("on_pipeline_error")
    async def on_error(_: object, frame: ErrorFrame) -> None:
        errors.append(frame.error)

    await worker.queue_frames([TTSSpeakFrame(text), EndFrame()])
    runner = WorkerRunner()
    await runner.add_workers(worker)
    await runner.run()
    if errors:
        raise RuntimeError(errors[0])
    with wave.open(path, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(recorder.sound)


asyncio.run(main(*sys.argv[1:]))
