"""IndexTTS-2.5: a voice-cloning language model with emotions, many streams as one batch.

The networks that process a whole piece of text or a whole clip are those of the package `indextts25-inference`. Its licence
is the model's own, so the package is an extra that nothing else needs.
"""
