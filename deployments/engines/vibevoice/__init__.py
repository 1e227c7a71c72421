"""VibeVoice: conversations of several speakers, with a language model and a diffusion head; many streams as one batch."""

from deployments.engines.vibevoice.engine import load

__all__ = ["load"]
