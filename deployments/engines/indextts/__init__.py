"""IndexTTS-2.5: a voice-cloning language-model voice with emotions, many streams as one batch.

What treats a piece of text or a clip as a whole is the package `indextts25-inference`. Its licence is the model's own, so it
is an extra that nothing else needs.
"""
