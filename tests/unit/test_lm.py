"""Slots, sampling and eight-bit layers, which autoregressive engines share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from deployments.engines.graphs import CompiledBackend
from deployments.engines.lm import linear as linear_layers
from deployments.engines.lm.kv_cache import KvCache, length_mask, write_step
from deployments.engines.lm.linear import AnyPrecision, BFloat16Linear, Int8Linear, linear
from deployments.engines.lm.llama import LlamaShape, LlamaStack
from deployments.engines.lm.sampler import Sampling, choose, forbid, uniforms
from deployments.errors import MotetError


def cache(slots: int = 3, capacity: int = 5) -> KvCache:
    return KvCache(layers=2, slots=slots, heads=2, capacity=capacity, head_dim=4, dtype=torch.float32)


def fill(where: KvCache, row: int, value: float) -> None:
    for tensor in (*where.keys, *where.values):
        tensor[row] = value


def test_a_full_cache_refuses_and_a_free_row_is_taken_again() -> None:
    kept = cache(slots=2)
    first, second = kept.join(), kept.join()
    assert (first.row, second.row, kept.free) == (0, 1, 0)
    with pytest.raises(MotetError) as refusal:
        kept.join()
    assert refusal.value.failure.kind == "overloaded"
    kept.leave(first)
    kept.leave(first)
    assert kept.free == 1
    assert kept.join().row == 0


def test_a_stale_slot_does_not_free_its_successor() -> None:
    kept = cache(slots=1)
    first = kept.join()
    kept.leave(first)
    kept.join()
    kept.leave(first)
    assert kept.free == 0


def test_arranged_rows_stand_first_and_take_their_contents_along() -> None:
    kept = cache()
    slots = [kept.join() for _ in range(3)]
    for slot in slots:
        slot.position = 3
        fill(kept, slot.row, float(slot.row))
    kept.arrange([slots[2], slots[0]])
    assert [slot.row for slot in slots] == [1, 2, 0]
    for original, slot in enumerate(slots):
        assert (kept.keys[1][slot.row, :, :3] == original).all()
        assert (kept.values[0][slot.row, :, :3] == original).all()


def test_a_row_moved_into_an_empty_one_is_found_there() -> None:
    kept = cache()
    first, second = kept.join(), kept.join()
    second.position = 2
    fill(kept, 1, 7.0)
    kept.leave(first)
    kept.arrange([second])
    assert second.row == 0 and kept.free == 2
    assert (kept.keys[0][0, :, :2] == 7).all()
    assert kept.join().row == 1


def test_a_step_writes_each_row_at_its_own_position() -> None:
    kept = cache()
    write_step(kept.keys[0], torch.tensor([1, 4]), torch.ones(2, 2, 4))
    written = kept.keys[0].sum(dim=(1, 3)).nonzero().tolist()
    assert written == [[0, 1], [1, 4]]


def test_a_mask_ends_at_the_rows_position() -> None:
    mask = length_mask(torch.tensor([0, 2]), 4)
    assert mask[:, 0, 0].tolist() == [[True, False, False, False], [True, True, True, False]]


def test_greedy_takes_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 1.0]])
    assert choose(logits, torch.tensor([0.9, 0.9]), Sampling()).tolist() == [1, 0]


def test_draws_follow_the_probabilities() -> None:
    shares = torch.tensor([0.5, 0.3, 0.2])
    draws = torch.linspace(0, 0.9999, 1000)
    chosen = choose(shares.log().expand(1000, 3), draws, Sampling(temperature=1.0))
    assert torch.bincount(chosen, minlength=3).tolist() == pytest.approx([500, 300, 200], abs=2)


@pytest.mark.parametrize(
    ("sampling", "possible"),
    [
        (Sampling(1.0, top_k=2), {3, 1}),
        (Sampling(1.0, top_p=0.5), {3, 1}),
        (Sampling(1.0, top_p=0.39), {3}),
        (Sampling(1.0, top_p=0.01), {3}),
        (Sampling(0.01), {3}),
        (Sampling(1.0), {0, 1, 2, 3}),
    ],
)
def test_only_the_likeliest_are_candidates(sampling: Sampling, possible: set[int]) -> None:
    logits = torch.tensor([0.1, 0.3, 0.2, 0.4]).log().expand(500, 4)
    assert set(choose(logits, torch.linspace(0, 0.9999, 500), sampling).tolist()) == possible


def test_a_row_draws_the_same_in_any_batch() -> None:
    logits = torch.randn(8, 50, generator=torch.Generator().manual_seed(0))
    draws = torch.from_numpy(uniforms(3, 0, 8))
    sampling = Sampling(0.8, 0.9, 25)
    together = choose(logits, draws, sampling)
    alone = [choose(logits[row : row + 1], draws[row : row + 1], sampling) for row in range(8)]
    assert torch.equal(together, torch.cat(alone))


def test_random_numbers_belong_to_a_seed_and_a_place() -> None:
    np.testing.assert_array_equal(uniforms(1, 2, 5), uniforms(1, 2, 9)[:5])
    assert not np.array_equal(uniforms(1, 2, 5), uniforms(1, 3, 5))
    assert not np.array_equal(uniforms(1, 2, 5), uniforms(2, 2, 5))


def test_a_forbidden_token_is_forbidden_in_its_row_only() -> None:
    logits = torch.tensor([[5.0, 1.0], [5.0, 1.0]])
    assert forbid(logits, 0, torch.tensor([False, True])).argmax(-1).tolist() == [1, 0]


@pytest.mark.numeric
def test_products_of_bytes_are_exact_whatever_adds_them_up() -> None:
    """The largest bytes there are, and any: two of the largest overflow the sums of a processor without VNNI."""
    random = torch.Generator().manual_seed(4)
    for inputs, outputs in ((64, 96), (1000, 40)):
        for weight, x in (
            (torch.full((outputs, inputs), 1.0), torch.full((5, inputs), 1.0)),
            (torch.randn(outputs, inputs, generator=random), torch.randn(5, inputs, generator=random)),
        ):
            layer = Int8Linear(weight)
            scale = x.abs().amax(dim=-1, keepdim=True) / 127
            steps = (x / scale).round()
            sums = steps.double() @ (weight / layer.scales[:, None]).round().double().t()
            assert torch.equal(layer(x), sums.float() * layer.scales * scale)


@pytest.mark.numeric
def test_int8_is_near_float_and_a_row_is_the_same_in_any_batch() -> None:
    random = torch.Generator().manual_seed(0)
    weight, bias = torch.randn(96, 64, generator=random), torch.randn(96, generator=random)
    x = torch.randn(9, 64, generator=random) * torch.logspace(-2, 2, 9)[:, None]
    exact, layer = linear(weight, bias, "float32")(x), linear(weight, bias, "int8")
    together = layer(x)
    assert torch.equal(together, torch.cat([layer(row[None]) for row in x]))
    bound = x.abs().amax(1, keepdim=True) * weight.abs().amax(1) * 64 / 127
    assert ((together - exact).abs() <= bound).all()
    error = (together - exact).norm(dim=1) / exact.norm(dim=1)
    assert error.max() < 0.02


@pytest.mark.parametrize("rows", [1, 4, 8, 16])
def test_a_compiled_step_multiplies_bytes_as_the_plain_one_does_to_the_last_bit(rows: int) -> None:
    random = torch.Generator().manual_seed(1)
    layer = linear(torch.randn(32, 64, generator=random), None, "int8")
    steps = torch.randint(-127, 128, (rows, 64), generator=random).float()
    replay = CompiledBackend().capture(lambda buffers, _: layer._packed_product(buffers["x"]), {"x": steps}, 1)  # type: ignore[operator]
    assert torch.equal(replay(), layer._packed_product(steps))  # type: ignore[operator]


@pytest.mark.numeric
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_a_layer_is_near_the_product_of_its_weight(precision: AnyPrecision) -> None:
    random = torch.Generator().manual_seed(2)
    weight, bias = torch.randn(48, 64, generator=random), torch.randn(48, generator=random)
    x = torch.randn(5, 64, generator=random)
    exact, made = x @ weight.t() + bias, linear(weight, bias, precision)(x)
    assert made.dtype == torch.float32
    assert (made - exact).norm() < {"float32": 1e-5, "bfloat16": 1e-2, "int8": 2e-2}[precision] * exact.norm()


@pytest.mark.numeric
@pytest.mark.parametrize("has", [True, False])
def test_bfloat16_is_the_same_sum_with_and_without_instructions_for_it(
    has: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear_layers, "MULTIPLIES_BFLOAT16", has)
    random = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(48, 64, generator=random), torch.randn(48, generator=random)
    layer = BFloat16Linear(weight, bias)
    x = torch.randn(5, 64, generator=random)
    assert layer.weight.dtype == (torch.bfloat16 if has else torch.float32)
    rounded = [tensor.to(torch.bfloat16).double() for tensor in (x, weight, bias)]
    exact = rounded[0] @ rounded[1].t() + rounded[2]
    made = layer(x)
    assert made.dtype == torch.float32
    assert ((made - exact).abs() <= exact.abs() / 250 + 1e-3).all()


def test_int8_takes_silence() -> None:
    layer = Int8Linear(torch.zeros(4, 8))
    assert torch.equal(layer(torch.zeros(2, 8)), torch.zeros(2, 4))


SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("told", "base"),
    [
        ({}, 10_000.0),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5),
        ({"rope_theta": 5e5, "rope_scaling": {"type": "default"}}, 5e5),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, 1e6),
        ({"rope_theta": 5e5, "rope_parameters": {"rope_type": "default"}}, 5e5),
    ],
)
def test_plain_rotary_positions_are_read_from_old_and_new_configs(told: dict[str, Any], base: float) -> None:
    assert LlamaShape.of(SIZES | told).base == base


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling: .*linear"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope_scaling: .*dynamic"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling: .*llama3"),
        ({"rope_scaling": {"type": "yarn"}, "rope_parameters": {"rope_theta": 1e4}}, "rope_scaling: .*yarn"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "rope_parameters: .*yarn"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "rope_parameters: .*full_attention"),
        ({"use_sliding_window": True}, "use_sliding_window"),
    ],
)
def test_a_decoder_that_would_be_read_wrong_is_refused(told: dict[str, Any], says: str) -> None:
    with pytest.raises(MotetError, match=says) as refused:
        LlamaShape.of(SIZES | told)
    assert refused.value.failure.kind == "unsupported" and refused.value.failure.remedy


def small_stack(*, is_normed: bool = True) -> LlamaStack:
    """Two layers of random weights, four heads that share two of keys and values."""
    shape, random = LlamaShape(16, 2, 4, 2, 4, 1e-6, 1e4), torch.Generator().manual_seed(3)
    sizes = {"q_proj": (16, 16), "k_proj": (8, 16), "v_proj": (8, 16), "o_proj": (16, 16)}
    names = {f"self_attn.{name}": size for name, size in sizes.items()}
    names |= {"mlp.gate_proj": (24, 16), "mlp.up_proj": (24, 16), "mlp.down_proj": (16, 24)}
    weights = {
        f"x.layers.{layer}.{name}.weight": torch.randn(size, generator=random) * 0.3
        for layer in range(2)
        for name, size in names.items()
    }
    norms = [f"layers.{layer}.{kind}" for layer in range(2) for kind in ("input_layernorm", "post_attention_layernorm")]
    weights |= {f"x.{name}.weight": torch.rand(16, generator=random) for name in (*norms, *(["norm"] * is_normed))}
    return LlamaStack(weights, "x", shape, "float32", capacity=12, is_normed=is_normed)


@pytest.mark.parametrize("is_normed", [True, False])
def test_a_window_gives_what_its_positions_give_one_after_another(is_normed: bool) -> None:
    """Of rows in any order, windows of different lengths; another row keeps all that it has."""
    stack, random = small_stack(is_normed=is_normed), torch.Generator().manual_seed(4)
    prompts = [torch.randn(count, 16, generator=random) for count in (2, 4, 3)]
    inputs, counts, rows = torch.randn(2, 3, 16, generator=random), (3, 2), (2, 0)
    by_window, by_steps = stack.new_cache(3), stack.new_cache(3)
    for kept in (by_window, by_steps):
        stack.prefill(prompts, [kept.join() for _ in prompts], kept)
    starts = torch.tensor([len(prompts[row]) for row in rows])[:, None]
    ahead = torch.arange(3)
    positions = torch.where(ahead < torch.tensor(counts)[:, None], starts + ahead, by_window.scratch)
    made = stack.window(inputs, torch.tensor(rows), positions, by_window, 8)
    untouched = by_window.keys[0][1, :, :12], by_steps.keys[0][1, :, :12]
    torch.testing.assert_close(*untouched, rtol=0, atol=0)
    for number in range(3):
        x, at = torch.zeros(3, 16), torch.full((3,), by_steps.scratch)
        for column, (row, count) in enumerate(zip(rows, counts, strict=True)):
            if number < count:
                x[row], at[row] = inputs[column, number], int(starts[column]) + number
        expected = stack.step(x, at, by_steps, 8)
        for column, (row, count) in enumerate(zip(rows, counts, strict=True)):
            if number < count:
                torch.testing.assert_close(made[column, number], expected[row], rtol=0, atol=1e-5)


def test_a_window_can_be_compiled() -> None:
    stack, random = small_stack(), torch.Generator().manual_seed(5)
    kept = stack.new_cache(2)

    def step(inputs: Mapping[str, torch.Tensor], length: int) -> torch.Tensor:
        return stack.window(inputs["x"], inputs["rows"], inputs["positions"], kept, length)

    buffers = {
        "x": torch.randn(2, 3, 16, generator=random),
        "rows": torch.tensor([1, 0]),
        "positions": torch.tensor([[0, 1, 2], [0, 12, 12]]),
    }
    with torch.no_grad():
        plain = step(buffers, 8)
        compiled = CompiledBackend().capture(step, buffers, 8)()
    torch.testing.assert_close(compiled[0], plain[0], rtol=0, atol=1e-5)
    torch.testing.assert_close(compiled[1, :1], plain[1, :1], rtol=0, atol=1e-5)
