"""Speech recognition with LiteLLM: a recording in any format, and its text.

python litellm_transcription.py recording.wav
"""

import sys
from pathlib import Path

import litellm

for model, options in (
    ("openai/whisper-1", {"response_format": "verbose_json"}),
    ("openai/gpt-4o-mini-transcribe", {}),
):
    with Path(sys.argv[1]).open("rb") as recording:
        answer = litellm.transcription(model=model, file=recording, language="en", **options)
    print(answer.text)
