"""IndexTTS-2.5: a voice-cloning language-model voice with emotions, many streams as one batch.

The parts that treat a piece of text or a clip as a whole are those of the package `indextts25-inference`, imported when a
model is loaded; its licence is the model's own, so it is an extra that nothing else needs.
"""

from deployments.engines.indextts.engine import load

__all__ = ["load"]
