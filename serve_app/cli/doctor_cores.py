"""The number of threads of `threads: auto` on this machine, and their memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import psutil

from cluster.models import Model, Placement, reserved_cpus
from deployments.engines.protocols import SpeechRequest
from deployments.replica.cores import here, threads_of
from deployments.replica.malloc_trim import keep_freed_memory
from deployments.tasks.in_process_speech import speak_here
from serve_app.cli import local
from serve_app.config import AppConfig

MB = 1_000_000
WORD = "water "


@dataclass(frozen=True, slots=True)
class AutoThreads:
    """A placement with `auto` threads, their number here, and the limits it comes from. `thread_bytes` is the memory of each
    thread while it speaks the longest piece; None if it was not measured."""

    placement: str
    threads: int
    offer: str
    thread_bytes: int | None

    def __str__(self) -> str:
        words = f"{self.placement}: threads: auto is {self.threads} here ({self.offer})"
        if self.thread_bytes is None:
            return words
        each = self.thread_bytes / MB
        return f"{words}, {each:.0f} MB for each while it speaks the longest piece, {each * self.threads:.0f} MB in all"


def auto_threads(app: AppConfig) -> Iterator[AutoThreads]:
    """Each placement with `auto` threads. One that cannot be loaded here is listed without its memory."""
    for name, model in app.models.items():
        for placement in model.placements:
            if placement.hardware.threads == "auto":
                yield _found(name, model, placement, app)


def _found(name: str, model: Model, placement: Placement, app: AppConfig) -> AutoThreads:
    kind, offer = placement.hardware.kind, here()
    threads = threads_of("auto", lambda: offer, reserved_cpus(name, kind, app.models))
    try:
        held = _thread_bytes(name, model.on(placement), placement, app.speech.pieces.piece_characters)
    except Exception:
        held = None  # doctor_models reports why the model does not work
    return AutoThreads(f"{name}@{kind}", threads, str(offer), held)


def _thread_bytes(name: str, model: Model, placement: Placement, characters: int) -> int | None:
    """The memory of the longest piece beyond that of a short one. Freed memory is kept, so it is still resident."""
    allocator = keep_freed_memory()
    if allocator is None or model.task != "speech":
        return None
    engine = local.load_engine(name, model, placement.hardware)
    rss: list[int] = []
    for text in ("Ready.", (WORD * characters)[:characters]):
        allocator.give_back()
        list(speak_here(SpeechRequest((text,), engine.traits.default_voice), engine))
        rss.append(psutil.Process().memory_info().rss)
    return max(0, rss[1] - rss[0])
