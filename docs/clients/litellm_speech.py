"""Speech with LiteLLM: a text, and an MP3 file.

python litellm_speech.py "Hello there." speech.mp3
"""

import sys

import litellm

text, path = sys.argv[1:]
litellm.speech(model="openai/gpt-4o-mini-tts", voice="alloy", input=text).stream_to_file(path)
