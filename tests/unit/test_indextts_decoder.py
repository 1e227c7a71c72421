"""IndexTTS's language model: a batch equals single steps and the model's own package.

The package's licence makes it an extra. The language model needs nothing of it, so where it is not installed, the codes are
those that it said once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from deployments.engines.indextts.config import IndexDecoderConfig
from deployments.engines.indextts.decoder import IndexDecoder
from deployments.engines.lm.checkpoint import shape_of
from deployments.engines.lm.linear import Precision
from deployments.engines.lm.sampler import penalized
from tests.load import indextts_package
from tests.unit.forced_path import ForcedPath
from tests.unit.indextts_models import TINY
from tests.unit.speech_engine_properties import GOLDEN
from tests.unit.test_indextts import TestInt8 as _Int8

CODES = GOLDEN / "indextts_codes.npz"
SHAPE = indextts_package.merged(indextts_package.FULL, TINY)
CONFIG = shape_of(IndexDecoderConfig, SHAPE["gpt"])
MOST = 60
SAME: Mapping[Precision, float] = {"float32": 1e-4, "int8": 2 * _Int8.score_error}
"""How far logits may be from those of another batch, as a share of their spread."""
PRECISIONS: tuple[Precision, ...] = ("float32", "int8")


def weights() -> dict[str, Tensor]:
    return indextts_package.random_decoder(CONFIG, seed=7)


def prompts() -> list[Tensor]:
    random = torch.Generator().manual_seed(11)
    return [torch.randn(length, CONFIG.model_dim, generator=random) for length in (9, 25, 14)]


def ours(given: Sequence[Tensor], precision: Precision = "float32", path: ForcedPath | None = None) -> list[list[int]]:
    """The likeliest codes of prompts that are read together, each until its end; on a path, those that stand there."""
    path = path or ForcedPath()
    decoder = IndexDecoder(weights(), CONFIG, precision)
    cache = decoder.new_cache(4, 200)
    slots = [cache.join() for _ in given]
    said = torch.stack([decoder.initially_repeated() for _ in given])
    texts: list[list[int]] = [[] for _ in given]
    with torch.no_grad():
        logits = decoder.prefill([decoder.with_begin_code(prompt) for prompt in given], slots, cache)
        for number in range(1, MOST + 1):
            places = [prompt.numpy().tobytes() + bytes([number]) for prompt in given]
            chosen = path.follow(places, penalized(logits, said, 10.0).argmax(-1), logits)
            said[torch.arange(len(given)), chosen] = True
            for text, code in zip(texts, chosen.tolist(), strict=True):
                text.append(code)
            positions = torch.tensor([slot.position for slot in slots])
            logits = decoder.logits(chosen, torch.full((len(given),), number), positions, cache)
            for slot in slots:
                slot.position += 1
    return [ended(text) for text in texts]


def theirs() -> list[list[int]]:
    """The package's own generation, one prompt after another."""
    model = indextts_package.package_decoder(SHAPE, weights())
    given = prompts()
    return [ended(indextts_package.generate(model, prompt, MOST, num_beams=1, do_sample=False)) for prompt in given]


def ended(text: list[int]) -> list[int]:
    stop = CONFIG.stop_mel_token
    return text[: text.index(stop)] if stop in text else text


def kept() -> list[list[int]]:
    file = np.load(CODES)
    return [file[f"codes{n}"].tolist() for n in range(3)]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_together_says_what_each_says_alone(precision: Precision) -> None:
    path = ForcedPath()
    together = ours(prompts(), precision, path)
    assert together == [ours([prompt], precision, path)[0] for prompt in prompts()]
    assert path.followed == len(path.decisions) > 3 * MOST // 2
    assert path.deviation <= SAME[precision]
    assert len({tuple(text) for text in together}) == 3


def test_says_what_the_package_said() -> None:
    assert ours(prompts()) == kept()


def test_the_package_still_says_it() -> None:
    pytest.importorskip("indextts25")
    assert theirs() == kept()


def test_int8_logits_stay_within_their_bound() -> None:
    """At most 5 % of the logits' own spread (root mean square), over prompts and a step."""
    logits = []
    for precision in PRECISIONS:
        decoder = IndexDecoder(weights(), CONFIG, precision)
        cache = decoder.new_cache(3, 60)
        slots = [cache.join() for _ in range(3)]
        with torch.no_grad():
            first = decoder.prefill([decoder.with_begin_code(prompt) for prompt in prompts()], slots, cache)
            positions = torch.tensor([slot.position for slot in slots])
            second = decoder.logits(torch.tensor([7, 8, 9]), torch.ones(3, dtype=torch.int64), positions, cache)
        logits.append(torch.cat([first, second])[:, : CONFIG.start_mel_token])
    exact, quantized = logits
    assert (quantized - exact).square().mean().sqrt() < 0.05 * exact.std()


def test_a_penalty_makes_what_was_said_less_likely() -> None:
    logits, said = torch.tensor([[2.0, -2.0, 1.0]]), torch.tensor([[True, True, False]])
    assert penalized(logits, said, 4.0).tolist() == [[0.5, -8.0, 1.0]]
    assert penalized(logits, said, 1.0) is logits


if __name__ == "__main__":
    first, second, third = theirs()
    np.savez_compressed(CODES, codes0=first, codes1=second, codes2=third)
