"""Streams of an engine, stepped together as in a replica."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from deployments.engines.protocols import AudioChunk, Samples, SpeechEngine, SpeechRequest


def speak_together(engine: SpeechEngine[Any], requests: Sequence[SpeechRequest]) -> list[Samples]:
    """The audio of each request, (n,) float32. Every step takes all unfinished streams."""
    utterances = [engine.open(request) for request in requests]
    sounds: list[list[Samples]] = [[] for _ in requests]
    while live := [number for number, utterance in enumerate(utterances) if not utterance.finished]:
        for number, chunk in zip(live, engine.step([utterances[number] for number in live]), strict=True):
            if not isinstance(chunk, AudioChunk):
                raise chunk
            sounds[number].append(chunk.samples)
    for utterance in utterances:
        engine.close(utterance)
    return [np.concatenate(sound) for sound in sounds]
