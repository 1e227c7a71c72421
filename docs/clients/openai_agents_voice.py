"""The voice pipeline of the OpenAI Agents SDK: a question as a WAV file, and the answer as another one.

The workflow repeats what it hears. An agent would answer: `SingleAgentVoiceWorkflow(agent)`.

python openai_agents_voice.py question.wav answer.wav [streamed]
"""

import asyncio
import sys
import wave
from collections.abc import AsyncIterator

import numpy as np
from agents.voice import AudioInput, StreamedAudioInput, VoicePipeline, VoicePipelineConfig, VoiceWorkflowBase

RATE = 24_000
CHUNK_S = 0.1


class Repeat(VoiceWorkflowBase):
    """Says what it heard."""

    async def run(self, transcription: str) -> AsyncIterator[str]:
        print(transcription)
        yield transcription


async def send(samples: np.ndarray, streamed: StreamedAudioInput) -> None:
    size = int(CHUNK_S * RATE)
    for start in range(0, len(samples), size):
        await streamed.add_audio(samples[start : start + size])
        await asyncio.sleep(CHUNK_S)
    await streamed.add_audio(None)


async def main(question: str, answer: str, streamed: bool) -> None:
    with wave.open(question) as recording:
        assert recording.getframerate() == RATE
        samples = np.frombuffer(recording.readframes(recording.getnframes()), np.int16)
    pipeline = VoicePipeline(workflow=Repeat(), config=VoicePipelineConfig(tracing_disabled=True))
    if streamed:
        source = StreamedAudioInput()
        result = await pipeline.run(source)
        sending = asyncio.create_task(send(samples, source))
    else:
        result = await pipeline.run(AudioInput(samples))
        sending = asyncio.create_task(asyncio.sleep(0))
    sound = [event.data async for event in result.stream() if event.type == "voice_stream_event_audio"]
    await sending
    with wave.open(answer, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(b"".join(part.tobytes() for part in sound if part is not None))


asyncio.run(main(sys.argv[1], sys.argv[2], "streamed" in sys.argv))
