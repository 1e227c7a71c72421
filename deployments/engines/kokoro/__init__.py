"""Kokoro-82M in torch: the pieces of many streams in one padded batch.

The modules are Motet's own, with the parameter names of the `kokoro` package (https://github.com/hexgrad/kokoro), which is
StyleTTS 2 (https://arxiv.org/abs/2306.07691) with an iSTFTNet vocoder. The differences: rows of different lengths are masked
in every norm, recurrence and convolution; weight normalisation is folded; the noise of each row has its own seed.
"""
