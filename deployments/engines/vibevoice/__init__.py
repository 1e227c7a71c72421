"""VibeVoice: conversations of several speakers, with a language model and a diffusion head; many streams as one batch."""
