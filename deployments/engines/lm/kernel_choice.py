"""Chooses the kernel of each layer of a model when it is loaded on a CPU.

The option `precision` says what is permitted, and the option `kernels` how to choose among that: what is fastest here by
measuring, the precision's usual kernel, or kernels that are named for layers of a shape. One shape is measured once, and what
was chosen is kept (`kernel_store.py`).
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
    """Raises ValueError with the nearest valid name."""
    if isinstance(value, str) and value not in ("measured", "default"):
        raise ValueError(f"{value!r} is not a way to choose{_nearest(value, ['measured', 'default'])}")
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
"""`measured`, `default`, or kernels by the shape of layers, such as `{"1024x4096": "int8-packed"}`; the rest is measured."""


@dataclass(frozen=True, kw_only=True)
class KernelOptions(EngineOptions):
    """`engine_options` of a model whose kernels are chosen."""

    # Checked below, where a wrong name brings the nearest valid one.
    kernels: Annotated[
        str | Mapping[str, Any],
        "On a CPU: measured (the fastest that the precision permits), default, or some by the shape of layers.",
    ] = "measured"
    kernel_seconds: Annotated[
        float, Bounds(least=0, most=60), "Of measuring them at the first start; layers after that have the default."
    ] = 3.0

    def __post_init__(self) -> None:
        try:
            _check(self.kernels)
        except ValueError as error:
            raise ValueError(f"kernels: {error}") from error


Measure = Callable[[LinearSpec, Sequence[Kernel], Clock, float], KernelTimes]


@dataclass(slots=True)
class KernelChoice:
    """The chooser of one model: it gives the kernel of each layer as the layer is made."""

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
        """Layers of the same spec have the same kernel."""
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
        """A layer for which no time is left gets its usual kernel and keeps it, so that a restart makes the same choice."""
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
        """Raises `MotetError` (invalid) for kernels that no layer of the model could be given."""
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
        """One line: the kernel of each shape, with the milliseconds that it takes and those of the usual kernel."""
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
    """The layers of a model that is loaded inside have the kernels that its options ask for. Gives the choice, or
    None where there is none.

    Raises `MotetError` (invalid) for named kernels that the model's layers cannot have.
    """
    if spec.device != "cpu" and not isinstance(options.kernels, str):
        raise _refused(f"Kernels are chosen on a CPU only, and this model runs on {spec.device}")
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
