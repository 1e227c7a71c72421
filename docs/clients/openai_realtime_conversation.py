"""A spoken conversation with the package `openai`: one question as a WAV file, and the answer as another one.

python openai_realtime_conversation.py question.wav answer.wav
"""

import asyncio
import base64
import sys
import wave

from openai import AsyncOpenAI

RATE = 24_000


async def main(question: str, answer: str) -> None:
    with wave.open(question) as recording:
        rate = recording.getframerate()
        samples = recording.readframes(recording.getnframes())
    async with AsyncOpenAI().realtime.connect(model="gpt-realtime") as connection:
        audio_in = {
            "format": {"type": "audio/pcm", "rate": rate},
            "transcription": {"model": "gpt-4o-mini-transcribe", "language": "en"},
            "turn_detection": None,
        }
        audio_out = {"format": {"type": "audio/pcm", "rate": RATE}, "voice": "alloy"}
        await connection.session.update(
            session={
                "type": "realtime",
                "output_modalities": ["audio"],
                "audio": {"input": audio_in, "output": audio_out},
            }
        )
        for start in range(0, len(samples), rate):  # half a second each
            await connection.input_audio_buffer.append(audio=base64.b64encode(samples[start : start + rate]).decode())
        await connection.input_audio_buffer.commit()
        await connection.response.create()
        sound = b""
        async for event in connection:
            if event.type == "conversation.item.input_audio_transcription.completed":
                print("you:", event.transcript)
            elif event.type == "response.output_audio.delta":
                sound += base64.b64decode(event.delta)
            elif event.type == "response.output_audio_transcript.done":
                print("answer:", event.transcript)
            elif event.type == "error":
                raise RuntimeError(event.error.message)
            elif event.type == "response.done":
                assert event.response.status == "completed", event.response.status_details
                break
    with wave.open(answer, "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes(sound)


asyncio.run(main(*sys.argv[1:]))
