"""VibeVoice: long conversations of several speakers, by a language model with a diffusion head; many streams as one batch."""

from deployments.engines.vibevoice.engine import load

__all__ = ["load"]
