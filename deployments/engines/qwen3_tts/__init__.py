"""Qwen3-TTS: a language model over codes of speech, a predictor of each frame's other codes, and a streaming codec."""
