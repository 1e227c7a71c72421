"""Chooses the kernel of each linear layer when a model is loaded on a CPU.

The option `precision` says which kernels are permitted. The option `kernels` says how to choose among them: the fastest by
measurement, the precision's default, or kernels named by layer shape. Each shape is measured once, and the choice is stored
(`kernel_store.py`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args

from deployments.engines.lm.kernel_store import ChosenKernel, KernelStore, this_processor
from deployments.engines.lm.kernel_timing import Clock, KernelTimes, clock_here, fastest, measure
from deployments.engines.lm.linear import Kernel, LinearSpec, choosing_kernels, permitted_kernels
from deployments.engines.options import Bounds, EngineOptions
from deployments.engines.protocols import EngineSpec
from deployments.errors import MotetError, fail

logger = logging.getLogger("ray.serve")

SECONDS_A_SHAPE = 0.2
_SHAPE = re.compile(r"^[1-9][0-9]*x[1-9][0-9]*$")


def _check(value: object) -> None:
    if isinstance(value, str) and value not in ("measured", "default"):
        raise ValueError(f"{value!r} is not a way to choose kernels{_nearest(value, ['measured', 'default'])}")
    for shape, kernel in value.items() if isinstance(value, Mapping) else ():
        if not (isinstance(shape, str) and _SHAPE.match(shape)):
            raise ValueError(f"{shape!r} is not the shape of a layer: write inputs x outputs, such as '1024x4096'")
        if kernel not in get_args(Kernel):
            raise ValueError(f"{kernel!r} is not a kernel{_nearest(str(kernel), get_args(Kernel))}")


def _nearest(name: str, valid: Sequence[str]) -> str:
    near = get_close_matches(name, valid, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; valid: {', '.join(valid)}"


Pins = Mapping[str, Kernel]
KernelSetting = str | Pins
"""`measured`, `default`, or kernels by layer shape, such as `{"1024x4096": "int8-packed"}`; other shapes are measured."""


@dataclass(frozen=True, kw_only=True)
class KernelOptions(EngineOptions):
    """`engine_options` of a model whose kernels are chosen."""

    # `_check` validates it, because its error gives the nearest valid name.
    kernels: Annotated[
        str | Mapping[str, Any],
        "On a CPU: measured (the fastest that the precision permits), default, or kernels by layer shape.",
    ] = "measured"
    kernel_seconds: Annotated[
        float,
        Bounds(least=0, most=60),
        "Seconds for measuring at the first start; the layers after that get the default.",
    ] = 3.0

    def __post_init__(self) -> None:
        try:
            _check(self.kernels)
        except ValueError as error:
            raise ValueError(f"kernels: {error}") from error


Measure = Callable[[LinearSpec, Sequence[Kernel], Clock, float], KernelTimes]


@dataclass(slots=True)
class KernelChoice:
    """The chooser of one model, called with the spec of each layer as the layer is built."""

    options: KernelOptions
    store: KernelStore
    measure: Measure = measure
    clock: Clock = field(default_factory=clock_here)
    seconds_spent: float = 0.0
    chosen: dict[LinearSpec, ChosenKernel] = field(default_factory=dict)
    measured: int = 0
    trouble: str = ""

    @property
    def _pins(self) -> Pins:
        return {} if isinstance(self.options.kernels, str) else self.options.kernels

    def __call__(self, spec: LinearSpec) -> Kernel:
        """The kernel for a layer. Layers with equal specs have equal kernels."""
        if spec not in self.chosen:
            self.chosen[spec] = self._decide(spec)
        return self.chosen[spec].kernel

    def _decide(self, spec: LinearSpec) -> ChosenKernel:
        permitted = permitted_kernels(spec.precision)
        pinned = self._pins.get(spec.shape)
        if pinned in permitted:
            return ChosenKernel(pinned, {})
        if len(permitted) == 1:
            return ChosenKernel(spec.usual, {})
        with self.store.locked():
            kept = self.store.read().get(_key(spec))
            if kept is not None and kept.kernel in permitted:
                return kept
            made = self._measured(spec, permitted)
            self.trouble = self.store.add(_key(spec), made) or self.trouble
            return made

    def _measured(self, spec: LinearSpec, kernels: Sequence[Kernel]) -> ChosenKernel:
        """Once the time is used up, layers get their usual kernel. That choice is stored as well, so that a restart makes the
        same one."""
        left = self.options.kernel_seconds - self.seconds_spent
        if left <= 0:
            return ChosenKernel(spec.usual, {})
        started = self.clock()
        times = self.measure(spec, kernels, self.clock, min(SECONDS_A_SHAPE, left))
        self.seconds_spent += self.clock() - started
        self.measured += 1
        rounded: dict[str, dict[str, float]] = {
            kernel: {str(count): round(ms, 4) for count, ms in of.items()} for kernel, of in times.milliseconds.items()
        }
        return ChosenKernel(fastest(spec, times), rounded)

    def check_pins(self) -> None:
        """Raises `MotetError` (invalid) for a named kernel that no layer of the model can have."""
        shapes = sorted({spec.shape for spec in self.chosen})
        for shape, kernel in self._pins.items():
            specs = [spec for spec in self.chosen if spec.shape == shape]
            if not specs:
                raise _refused(f"The model has no layer of shape {shape}{_nearest(shape, shapes)}")
            permitted = list(dict.fromkeys(name for spec in specs for name in permitted_kernels(spec.precision)))
            if kernel not in permitted:
                cause = f"Layers of shape {shape} cannot have {kernel} with this precision on this processor"
                raise _refused(f"{cause}; permitted: {', '.join(permitted)}")

    def summary(self) -> str:
        """One line: the kernel of each shape with its milliseconds, and those of the usual kernel."""
        layers = ", ".join(_in_words(spec, chosen) for spec, chosen in sorted(self.chosen.items(), key=_order))
        measured = f"{self.measured} of {len(self.chosen)} measured in {self.seconds_spent:.1f} s"
        return f"{measured}, kept in {self.store.file}: {layers}."


def _order(entry: tuple[LinearSpec, ChosenKernel]) -> tuple[int, int, str]:
    spec = entry[0]
    return spec.inputs, spec.outputs, _key(spec)


def _key(spec: LinearSpec) -> str:
    rows = ",".join(f"{count}:{weight:g}" for count, weight in spec.rows)
    return f"{spec.shape} {spec.precision} {spec.usual} {rows}"


def _in_words(spec: LinearSpec, chosen: ChosenKernel) -> str:
    times = chosen.milliseconds.get(chosen.kernel, {})
    text = f"{spec.shape} {chosen.kernel}"
    if not times:
        return text
    text += " " + "/".join(f"{ms:.3g}" for ms in times.values()) + f" ms at {'/'.join(times)} rows"
    usual = chosen.milliseconds.get(spec.usual, {})
    return (
        text
        if chosen.kernel == spec.usual
        else f"{text} ({spec.usual} {'/'.join(f'{ms:.3g}' for ms in usual.values())})"
    )


def _refused(cause: str) -> MotetError:
    return fail("invalid", f"{cause}.", "Correct the option kernels, or set it to measured.", param="options")


@contextmanager
def choosing_for(spec: EngineSpec, options: KernelOptions) -> Iterator[KernelChoice | None]:
    """Layers that are built inside have the kernels that the model's options ask for. Yields the chooser, or None if nothing
    is chosen.

    Raises `MotetError` (invalid) for named kernels that the model's layers cannot have.
    """
    if spec.device != "cpu" and not isinstance(options.kernels, str):
        raise _refused(f"Kernels can be named for a CPU only; this model runs on {spec.device}")
    if spec.device != "cpu" or options.kernels == "default":
        yield None
        return
    choice = KernelChoice(options, KernelStore(Path(spec.folder), this_processor()))
    with choosing_kernels(choice):
        yield choice
    choice.check_pins()
    if choice.trouble:
        logger.warning("The kernels of %s are measured again at the next start: %s", spec.model, choice.trouble)
    logger.info("Kernels of %s: %s", spec.model, choice.summary())
