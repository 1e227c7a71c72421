"""Live captions with the package `openai`: a WAV file, sent as a microphone would, and the text of each turn.

python openai_realtime_transcription.py recording.wav
"""

import asyncio
import base64
import sys
import wave

from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection

CHUNK_S = 0.1
SILENCE_S = 1.5
"""Sent after the recording, so that the service hears that the speaker stopped."""


async def send(connection: AsyncRealtimeConnection, path: str) -> None:
    with wave.open(path) as recording:
        rate = recording.getframerate()
        samples = recording.readframes(recording.getnframes()) + bytes(2 * int(SILENCE_S * rate))
    size = 2 * int(CHUNK_S * rate)
    for start in range(0, len(samples), size):
        await connection.input_audio_buffer.append(audio=base64.b64encode(samples[start : start + size]).decode())
        await asyncio.sleep(CHUNK_S)
    await connection.input_audio_buffer.commit()  # what is left, if a turn is still open


async def main(path: str) -> None:
    client = AsyncOpenAI()
    async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        with wave.open(path) as recording:
            form = {"type": "audio/pcm", "rate": recording.getframerate()}
        transcription = {"model": "gpt-4o-mini-transcribe", "language": "en"}
        microphone = {"format": form, "transcription": transcription, "turn_detection": {"type": "server_vad"}}
        await connection.session.update(session={"type": "transcription", "audio": {"input": microphone}})
        sending = asyncio.create_task(send(connection, path))
        open_turns = set()
        async for event in connection:
            if event.type == "input_audio_buffer.committed":
                open_turns.add(event.item_id)
            elif event.type == "conversation.item.input_audio_transcription.delta":
                print(event.delta, end="", flush=True, file=sys.stderr)
            elif event.type == "conversation.item.input_audio_transcription.completed":
                print(event.transcript)
                open_turns.discard(event.item_id)
            elif event.type == "error" and event.error.code != "input_audio_buffer_commit_empty":
                raise RuntimeError(event.error.message)
            if sending.done() and not open_turns and event.type != "input_audio_buffer.speech_stopped":
                break


asyncio.run(main(sys.argv[1]))
