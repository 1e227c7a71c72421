"""Speech recognition of LiveKit Agents: a WAV file, whole or as a live stream.

python livekit_transcription.py recording.wav [realtime]
"""

import asyncio
import sys
import wave

import aiohttp
from livekit import rtc
from livekit.agents import stt
from livekit.plugins import openai

FRAME_S = 0.05
SILENCE_S = 1.5
"""Sent after the recording, so that the service hears that the speaker stopped."""


def frames_of(path: str, silence_s: float = 0.0) -> list[rtc.AudioFrame]:
    with wave.open(path) as recording:
        rate = recording.getframerate()
        samples = recording.readframes(recording.getnframes()) + bytes(2 * int(silence_s * rate))
    size = 2 * int(FRAME_S * rate)
    parts = [samples[start : start + size] for start in range(0, len(samples), size)]
    return [rtc.AudioFrame(part, rate, 1, len(part) // 2) for part in parts]


async def stream(path: str) -> None:
    live = openai.STT(use_realtime=True, language="en")
    turns = 0  # whose text has not come yet

    async def read(heard: stt.RecognizeStream) -> None:
        nonlocal turns
        async for event in heard:
            if event.type == stt.SpeechEventType.START_OF_SPEECH:
                turns += 1
            elif event.type == stt.SpeechEventType.FINAL_TRANSCRIPT:
                print(event.alternatives[0].text)
            elif event.type == stt.SpeechEventType.RECOGNITION_USAGE:  # ends each turn, also one without words
                turns -= 1

    async with aiohttp.ClientSession() as session:
        live._session = session  # an agent's worker brings its own
        async with live.stream() as heard:
            reading = asyncio.create_task(read(heard))
            for frame in frames_of(path, SILENCE_S):
                heard.push_frame(frame)
                await asyncio.sleep(FRAME_S)
            while turns and not reading.done():
                await asyncio.sleep(FRAME_S)
            if reading.done():
                reading.result()  # raises what the service refused
            reading.cancel()
        await live.aclose()


async def whole(path: str) -> None:
    recognizer = openai.STT(model="gpt-transcribe", language=["en"], keywords=["fox"])
    event = await recognizer.recognize(frames_of(path))
    print(event.alternatives[0].text)


asyncio.run(stream(sys.argv[1]) if "realtime" in sys.argv else whole(sys.argv[1]))
