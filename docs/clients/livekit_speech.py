"""Speech of LiveKit Agents in each of its formats: a text, and WAV files of what an agent would play.

python livekit_speech.py "Hello there." folder [mp3 opus aac flac wav pcm]
"""

import asyncio
import sys
from pathlib import Path

from livekit.plugins import openai

FORMATS = ("mp3", "opus", "aac", "flac", "wav", "pcm")


async def main(text: str, folder: str, *formats: str) -> None:
    for form in formats or FORMATS:
        voice = openai.TTS(response_format=form)
        async with voice.synthesize(text) as spoken:
            frame = await spoken.collect()
        Path(folder, f"{form}.wav").write_bytes(frame.to_wav_bytes())
        await voice.aclose()
        print(f"{form}: {frame.duration:.2f} s at {frame.sample_rate} Hz")


asyncio.run(main(*sys.argv[1:]))
