"""What the classes of transformers make of a whole stream by themselves, for the families that stream."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch

from deployments.engines.hf_recognition.moonshine import TOKENS_PER_SECOND
from deployments.engines.protocols import Samples

RATE = 16_000
Reference = Callable[[Any, Any, Samples, int], str]
"""Takes a model, its processor, the sound with the silence that follows it, and the tokens of delay."""


def by_nemotron(model: Any, processor: Any, sound: Samples, delay: int) -> str:
    """The streaming `generate`, as transformers' documentation feeds it."""
    extractor = processor.feature_extractor
    processor.set_num_lookahead_tokens(delay)
    conditions = {"language": "en"} if hasattr(processor, "prompt_dictionary") else {}

    def inputs(audio: Samples, *, first: bool) -> Any:
        return processor(
            audio, sampling_rate=RATE, is_streaming=True, is_first_audio_chunk=first, return_tensors="pt", **conditions
        )

    first = inputs(sound[: processor.num_samples_first_audio_chunk], first=True)

    def chunks() -> Iterator[torch.Tensor]:
        frames = processor.num_mel_frames_first_audio_chunk
        yield first["input_features"][:, :frames]
        while True:
            start = frames * extractor.hop_length - extractor.n_fft // 2
            audio = np.pad(sound, (512, 0))[512 + start : 512 + start + processor.num_samples_per_audio_chunk]
            if len(audio) < processor.num_samples_per_audio_chunk - 2 * extractor.hop_length:
                return
            audio = np.pad(audio, (0, processor.num_samples_per_audio_chunk - len(audio)))
            yield inputs(audio, first=False)["input_features"]
            frames += processor.num_mel_frames_per_audio_chunk

    prompts = {"prompt_ids": first["prompt_ids"]} if conditions else {}
    made = model.generate(input_features=chunks(), num_lookahead_tokens=delay, **prompts)
    return str(processor.decode(made.sequences[0], skip_special_tokens=True))


def by_voxtral(model: Any, processor: Any, sound: Samples, delay: int) -> str:
    """`generate` of the whole recording, with the silence and the prompt that mistral-common makes."""
    left = processor.left_pad_tokens
    padded = np.pad(sound, (left * 1280, 0))
    features = processor.feature_extractor(padded, sampling_rate=RATE, return_tensors="pt")["input_features"]
    start, padding = processor.tokenizer.convert_tokens_to_ids(["<s>", "[STREAMING_PAD]"])
    ids = torch.tensor([[start, *[padding] * (left + delay)]])
    made = model.generate(input_ids=ids, input_features=features, num_delay_tokens=delay, do_sample=False)
    return str(processor.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


def by_moonshine(model: Any, processor: Any, sound: Samples, delay: int) -> str:
    """Whole words on which two hearings in a row agree are final. The whole sound is encoded at once, and each hearing sees the frames of its own time."""
    samples = torch.from_numpy(sound)[None]
    frames = model.get_encoder()(samples, attention_mask=torch.ones_like(samples, dtype=torch.int32))
    committed, before = [model.generation_config.decoder_start_token_id], list[int]()
    last = int((len(sound) - 80) // 320 + 1 - 6)  # two layers of the tiny model see three frames ahead
    for count in range(24, last + 1, 24):
        output = type(frames)(
            last_hidden_state=frames.last_hidden_state[:, :count].clone(),
            attention_mask=frames.attention_mask[:, :count],
        )
        limit = min(60, int(count * 0.02 * TOKENS_PER_SECOND)) - len(committed) + 1
        made = model.generate(
            encoder_outputs=output, attention_mask=output.attention_mask, decoder_input_ids=torch.tensor([committed]),
            max_new_tokens=max(1, limit), do_sample=False,
        )  # fmt: skip
        added = made[0, len(committed) :].tolist()
        added = added[: added.index(2)] if 2 in added else added
        agreed = 0
        while agreed < min(len(before), len(added)) and before[agreed] == added[agreed]:
            agreed += 1
        words = processor.tokenizer.convert_ids_to_tokens(added)
        while agreed and (agreed == len(words) or not words[agreed].startswith("▁")):
            agreed -= 1
        committed += added[:agreed]
        before = added[agreed:]
    return str(processor.tokenizer.decode([*committed, *before], skip_special_tokens=True))


REFERENCES: Mapping[str, Reference] = {
    "moonshine_streaming": by_moonshine,
    "nemotron3_5_asr": by_nemotron,
    "nemotron_asr_streaming": by_nemotron,
    "voxtral_realtime": by_voxtral,
}
"""By the model type of a checkpoint."""
