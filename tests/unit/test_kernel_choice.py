"""The choice of kernels: permitted ones, the fastest, the stored, and the pinned. Clocks and kernels are fakes."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from deployments.engines.graphs import CompiledBackend
from deployments.engines.lm import kernel_choice, kernel_store
from deployments.engines.lm import linear as linear_layers
from deployments.engines.lm.feed_forward import FeedForward
from deployments.engines.lm.kernel_choice import KernelChoice, KernelOptions, KernelSetting, choosing_for
from deployments.engines.lm.kernel_store import MOST_FILES, ChosenKernel, KernelStore, Processor, this_processor
from deployments.engines.lm.kernel_timing import KernelTimes, fastest, kernel_times, measure
from deployments.engines.lm.linear import (
    KERNELS,
    PACKS,
    AnyPrecision,
    BFloat16Linear,
    FloatLinear,
    Int8Linear,
    Kernel,
    LinearSpec,
    choosing_kernels,
    linear,
    permitted_kernels,
    precision_of,
)
from deployments.engines.options import checked
from deployments.engines.protocols import EngineSpec
from deployments.errors import MotetError

PROCESSOR = Processor("a processor", "flags", "", "2.13", 1)
ALL = tuple(KERNELS)


@pytest.fixture(autouse=True)
def every_int8_kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The permitted kernels are those of a processor with VNNI, except in tests that compare real products."""
    if request.node.get_closest_marker("numeric") is None:
        monkeypatch.setattr(linear_layers, "SUMS_BYTES_EXACTLY", True)


def spec(
    precision: AnyPrecision = "int8", usual: Kernel = "int8", rows: Sequence[tuple[int, float]] = ((1, 1.0), (8, 1.0))
) -> LinearSpec:
    """Of a layer of 64 inputs and 32 outputs."""
    return LinearSpec(64, 32, precision, usual, tuple(rows))


def times(exact: Sequence[Kernel] = ALL, **milliseconds: tuple[float, ...]) -> KernelTimes:
    """By kernel, with `_` for `-`, at 1 and 8 rows."""
    of: Any = {name.replace("_", "-"): dict(zip((1, 8), values, strict=True)) for name, values in milliseconds.items()}
    return KernelTimes(of, frozenset(exact))


class FakeKernels:
    """Kernels that take a stated time each, and a disturbance now and then."""

    def __init__(self, milliseconds: Mapping[Kernel, float], disturbances: Sequence[float] = (0.0,)) -> None:
        self.now, self._disturbances = 0.0, itertools.cycle(disturbances)
        self.products = {kernel: self._product(ms) for kernel, ms in milliseconds.items()}
        self.calls = 0

    def clock(self) -> float:
        return self.now

    def _product(self, ms: float) -> Callable[[torch.Tensor], torch.Tensor]:
        def product(rows: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.now += (ms * len(rows) + next(self._disturbances)) / 1000
            return rows

        return product


ROWS = {1: torch.zeros(1, 4), 8: torch.zeros(8, 4)}


def test_the_least_time_counts_so_that_a_busy_machine_changes_nothing() -> None:
    fakes = FakeKernels({"float32": 1.2, "int8": 1.0}, disturbances=(0.0, 1.0, 0.5, 0.0, 0.2))
    found = kernel_times(fakes.products, ROWS, fakes.clock, 5.0)
    assert found.milliseconds["float32"] == pytest.approx({1: 1.2, 8: 9.6})
    assert found.milliseconds["int8"] == pytest.approx({1: 1.0, 8: 8.0})


def test_measuring_ends_when_its_time_is_over() -> None:
    fakes = FakeKernels({"float32": 1000.0, "int8": 1000.0})
    kernel_times(fakes.products, ROWS, fakes.clock, 0.1)
    assert fakes.calls == 2 * 2 * 3  # once to warm up, and two rounds


def test_a_kernel_that_is_far_slower_takes_part_in_the_first_rounds_only() -> None:
    fakes = FakeKernels({"float32": 2.0, "int8": 1.0})
    kernel_times({"float32": fakes.products["float32"]}, ROWS, fakes.clock, 5.0)
    alone, fakes.calls = fakes.calls, 0
    kernel_times(fakes.products, ROWS, fakes.clock, 5.0)
    assert fakes.calls == alone + 2 * 3


def test_a_kernel_whose_rows_depend_on_their_number_is_not_exact() -> None:
    def depends(rows: torch.Tensor) -> torch.Tensor:
        return rows + len(rows)

    found = kernel_times({"float32": depends, "int8": lambda rows: rows}, ROWS, FakeKernels({}).clock, 0.1)
    assert found.exact == {"int8"}


def test_the_fastest_is_taken_at_all_numbers_of_rows_together() -> None:
    measured = times(int8=(2.0, 2.0), bfloat16=(1.0, 2.2))
    assert fastest(spec(rows=[(1, 1.0), (8, 1.0)]), measured) == "bfloat16"
    assert fastest(spec(rows=[(1, 0.01), (8, 1.0)]), measured) == "int8"


def test_the_usual_kernel_stays_unless_another_is_clearly_faster() -> None:
    assert fastest(spec(), times(int8=(1.07, 1.07), bfloat16=(1.0, 1.0))) == "int8"
    assert fastest(spec(), times(int8=(1.09, 1.09), bfloat16=(1.0, 1.0))) == "bfloat16"


def test_where_the_usual_kernel_is_exact_a_faster_one_that_is_not_is_passed_over() -> None:
    measured: dict[str, tuple[float, ...]] = {"int8": (9.0, 9.0), "bfloat16": (5.0, 5.0), "float32": (1.0, 1.0)}
    assert fastest(spec(), times(("int8", "bfloat16"), **measured)) == "bfloat16"
    assert fastest(spec(), times((), **measured)) == "float32"


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_nothing_less_precise_than_the_precision_is_permitted(precision: AnyPrecision) -> None:
    kinds = {precision_of(kernel) for kernel in permitted_kernels(precision)}
    expected = {"float32": {"float32"}, "bfloat16": {"float32", "bfloat16"}}
    assert kinds == expected.get(precision, {"float32", "bfloat16", "int8"})


def test_a_processor_that_does_not_pack_has_no_packed_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_layers, "PACKS", False)
    assert permitted_kernels("int8") == ["float32", "bfloat16", "int8"]


class Measuring:
    """A fake measurement that counts how often it is asked; every one takes a second."""

    def __init__(self, best: Kernel = "float32") -> None:
        self.best, self.asked, self.now = best, 0, 0.0

    def __call__(self, spec: LinearSpec, kernels: Sequence[Kernel], clock: Any, seconds: float) -> KernelTimes:
        self.asked, self.now = self.asked + 1, self.now + 1
        counts = [count for count, _ in spec.rows]
        return KernelTimes(
            {kernel: dict.fromkeys(counts, 1.0 if kernel == self.best else 2.0) for kernel in kernels}, frozenset(ALL)
        )

    def choice(self, folder: Path, pins: Mapping[str, Kernel] | None = None) -> KernelChoice:
        return KernelChoice(
            KernelOptions(kernels=pins or "measured"),
            KernelStore(folder, PROCESSOR),
            measure=self,
            clock=lambda: self.now,
        )


def test_a_shape_is_measured_once_and_a_restart_chooses_the_same(tmp_path: Path) -> None:
    first = Measuring("bfloat16")
    choice = first.choice(tmp_path)
    assert [choice(spec()), choice(spec())] == ["bfloat16", "bfloat16"]
    assert first.asked == 1
    again = Measuring("float32")
    assert again.choice(tmp_path)(spec()) == "bfloat16"
    assert again.asked == 0


def test_the_choice_is_another_processors_own(tmp_path: Path) -> None:
    Measuring("bfloat16").choice(tmp_path)(spec())
    other = Processor("another", "flags", "", "2.13", 1)
    assert KernelStore(tmp_path, other).read() == {}


def test_threads_and_limits_of_instructions_make_another_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    before = this_processor()
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert this_processor().digest != before.digest
    assert before.name and before.flags


def test_what_there_is_no_time_to_measure_keeps_its_usual_kernel_also_at_the_next_start(tmp_path: Path) -> None:
    measuring = Measuring("float32")
    choice = measuring.choice(tmp_path)
    specs = [spec(rows=[(count, 1.0)]) for count in range(1, 6)]
    assert [choice(one) for one in specs] == ["float32"] * 3 + ["int8"] * 2
    assert measuring.asked == 3
    assert Measuring("float32").choice(tmp_path)(specs[4]) == "int8"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"kernels": 3}', '{"kernels": {"a": {}}}', '{"kernels": {"a": {"kernel": "int3"}}}', "\0"]
)
def test_a_damaged_file_counts_as_none_and_is_replaced(text: str, tmp_path: Path) -> None:
    store = KernelStore(tmp_path, PROCESSOR)
    store.file.write_text(text)
    assert store.read() == {}
    assert Measuring("bfloat16").choice(tmp_path)(spec()) == "bfloat16"
    assert len(store.read()) == 1


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    store = KernelStore(tmp_path, PROCESSOR)
    store.file.write_text(" " * (kernel_store.MOST_BYTES + 1))
    assert store.read() == {}


def test_a_kept_kernel_that_the_precision_does_not_permit_is_not_taken(tmp_path: Path) -> None:
    asked = spec("float32", "float32")
    store = KernelStore(tmp_path, PROCESSOR)
    store.add(kernel_choice._key(asked), ChosenKernel("int8", {}))
    assert Measuring("float32").choice(tmp_path)(asked) == "float32"


def test_choices_are_in_the_cache_where_the_weights_folder_is_read_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    store = KernelStore(tmp_path / "weights", PROCESSOR)
    assert store.file.is_relative_to(tmp_path / "cache")
    assert Measuring("bfloat16").choice(tmp_path / "weights")(spec()) == "bfloat16"
    assert len(store.read()) == 1
    assert KernelStore(tmp_path / "others", PROCESSOR).file != store.file


def test_nothing_can_be_written_and_the_model_loads_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(kernel_store, "_replace", refuse)
    choice = Measuring("bfloat16").choice(tmp_path)
    assert choice(spec()) == "bfloat16"
    assert "No space left" in choice.trouble


def test_the_files_of_a_folder_are_bounded(tmp_path: Path) -> None:
    for number in range(MOST_FILES + 5):
        processor = Processor(f"processor {number}", "", "", "", 1)
        store = KernelStore(tmp_path, processor)
        assert not store.add("key", ChosenKernel("int8", {}))
        os.utime(store.file, (number, number))
    kept = sorted(json.loads(file.read_text())["name"] for file in tmp_path.glob("*.json"))
    assert len(kept) == MOST_FILES
    assert f"processor {MOST_FILES + 4}" in kept and "processor 0" not in kept


def test_a_second_replica_waits_for_the_first_and_takes_its_choice(tmp_path: Path) -> None:
    """While one holds the lock, the other sleeps; after its longest wait it goes on without."""
    now, naps = [0.0], [0]

    def sleep(seconds: float) -> None:
        naps[0] += 1
        now[0] += seconds

    first = KernelStore(tmp_path, PROCESSOR)
    second = KernelStore(tmp_path, PROCESSOR, clock=lambda: now[0], sleep=sleep)
    with first.locked(), second.locked():
        assert now[0] == pytest.approx(kernel_store.LONGEST_WAIT_SECONDS, abs=0.1)
    naps[0] = 0
    with second.locked():
        assert naps[0] == 0


def test_settings_are_checked_with_the_nearest_name() -> None:
    def kernels(setting: object) -> object:
        return checked(KernelOptions, {"kernels": setting}, "tiny").kernels

    assert kernels("measured") == "measured"
    assert kernels({"64x32": "int8-packed"}) == {"64x32": "int8-packed"}
    for setting, message in (
        ("mesured", "did you mean 'measured'"),
        ({"64x32": "int8-paked"}, "did you mean 'int8-packed'"),
        ({"wide": "int8"}, "such as '1024x4096'"),
    ):
        with pytest.raises(MotetError, match=f"kernels: .*{message}"):
            kernels(setting)


def test_a_pinned_kernel_is_taken_without_measuring(tmp_path: Path) -> None:
    measuring = Measuring("float32")
    choice = measuring.choice(tmp_path, {"64x32": "bfloat16"})
    assert choice(spec()) == "bfloat16"
    assert measuring.asked == 0
    choice.check_pins()


def test_a_pin_that_no_layer_can_have_is_refused_with_the_nearest(tmp_path: Path) -> None:
    choice = Measuring().choice(tmp_path, {"64x33": "int8"})
    choice(spec())
    with pytest.raises(MotetError, match="did you mean '64x32'"):
        choice.check_pins()
    choice = Measuring().choice(tmp_path, {"64x32": "int8"})
    choice(spec("float32", "float32"))
    with pytest.raises(MotetError, match="cannot have int8 .* permitted: float32"):
        choice.check_pins()


def load(folder: Path, setting: KernelSetting, device: str = "cpu") -> torch.nn.Module:
    with choosing_for(EngineSpec("model", str(folder), device, 1), KernelOptions(kernels=setting)):
        return linear(torch.randn(32, 64), None, "int8")


def test_a_loaded_layer_has_the_chosen_kernel_and_the_choice_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: pytest.LogCaptureFixture
) -> None:
    logged.set_level("INFO", logger="ray.serve")
    assert isinstance(load(tmp_path, {"64x32": "bfloat16"}), BFloat16Linear)
    assert "Kernels of model: 0 of 1 measured" in logged.text and "64x32 bfloat16" in logged.text
    assert isinstance(load(tmp_path, "default"), Int8Linear)
    made = load(tmp_path, "measured")
    assert type(made) in (FloatLinear, BFloat16Linear, Int8Linear)
    assert type(load(tmp_path, "measured")) is type(made)
    assert "1 of 1 measured" in logged.text


def test_kernels_are_not_named_for_another_device(tmp_path: Path) -> None:
    assert isinstance(load(tmp_path, "measured", "cuda"), Int8Linear)
    with pytest.raises(MotetError, match="for a CPU only"):
        load(tmp_path, {"64x32": "bfloat16"}, "cuda")


def test_outside_of_a_model_that_loads_layers_have_their_usual_kernel() -> None:
    with choosing_kernels(lambda spec: "bfloat16"):
        assert isinstance(linear(torch.randn(4, 8), None, "int8"), BFloat16Linear)
    assert isinstance(linear(torch.randn(4, 8), None, "int8"), Int8Linear)


@pytest.mark.numeric
@pytest.mark.parametrize("kernel", permitted_kernels("int8"))
@pytest.mark.parametrize("with_bias", [True, False])
def test_a_packed_kernel_gives_what_its_kind_gives(kernel: Kernel, with_bias: bool) -> None:
    random = torch.Generator().manual_seed(0)
    weight, x = torch.randn(36, 100, generator=random) / 10, torch.randn(9, 100, generator=random)
    bias = torch.randn(36, generator=random) if with_bias else None
    expected = KERNELS[precision_of(kernel)](weight, bias)(x)
    made = KERNELS[kernel](weight, bias)(x)
    tolerance = {"float32": 1e-5, "bfloat16": 0.02, "int8": 0.0}[precision_of(kernel)]
    torch.testing.assert_close(made, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("kernel", sorted({"float32-packed", "bfloat16-packed"} & {*permitted_kernels("int8")}))
def test_a_compiled_step_multiplies_with_the_same_kernel(kernel: Kernel) -> None:
    layer, x = KERNELS[kernel](torch.randn(32, 64), torch.randn(32)), torch.randn(3, 64)
    replay = CompiledBackend().capture(lambda buffers, _: layer(buffers["x"]), {"x": x}, 0)
    assert torch.equal(replay(), layer(x))


@pytest.mark.numeric
@pytest.mark.parametrize("first", permitted_kernels("int8"))
@pytest.mark.parametrize("second", permitted_kernels("int8"))
def test_two_layers_of_a_feed_forward_may_have_different_kernels(first: Kernel, second: Kernel) -> None:
    up, down, x = torch.randn(32, 16) / 4, torch.randn(16, 32) / 6, torch.randn(5, 16)
    expected = FeedForward(FloatLinear(up), FloatLinear(down))(x)
    made = FeedForward(KERNELS[first](up, None), KERNELS[second](down, None))(x)
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, expected, rtol=0, atol=0.05)


def test_real_kernels_are_measured_and_torch_draws_as_before() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    asked = LinearSpec(64, 32, "int8", "int8-packed" if PACKS else "int8", ((1, 1.0), (8, 1.0)))
    found = measure(asked, permitted_kernels("int8"), FakeKernels({}).clock, 0.01)
    assert set(found.milliseconds) == set(permitted_kernels("int8"))
    assert asked.usual in found.exact
    assert torch.equal(torch.rand(1), expected)
