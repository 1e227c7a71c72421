"""Loads a checkpoint as an engine."""

from __future__ import annotations

from pathlib import Path

from deployments.engines.hf_recognition.adapter import HfRecognitionOptions
from deployments.engines.hf_recognition.engine import BATCH_WINDOWS, HfRecognition
from deployments.engines.hf_recognition.families import load_adapter
from deployments.engines.hf_recognition.streaming_engine import HfStreamingRecognition
from deployments.engines.hf_recognition.streaming_family import StreamingFamily
from deployments.engines.lm.engine import options_on_this_thread
from deployments.engines.protocols import EngineSpec
from deployments.errors import fail


def load(spec: EngineSpec) -> HfRecognition:
    """Loads the checkpoint in `spec.folder` and runs it once, so that the first request is not slower.

    The engine of a family that streams implements `StreamingRecognition` too. Raises `MotetError`: unsupported for another
    device, or a delay of a family that has none.
    """
    if spec.device not in BATCH_WINDOWS:
        raise fail("unsupported", f"hf_recognition does not run on {spec.device!r}.", "Use cpu or cuda.")
    options = options_on_this_thread(spec, HfRecognitionOptions)
    adapter = load_adapter(Path(spec.folder), spec.device, options)
    if options.delay_ms is not None and not adapter.delays:
        cause = f"Model {spec.model!r} has delay_ms {options.delay_ms}, and its family has no delay to choose."
        raise fail("unsupported", cause, "Remove the option.", param="delay_ms")
    engine = (
        HfStreamingRecognition(adapter, options)
        if isinstance(adapter, StreamingFamily)
        else HfRecognition(adapter, options)
    )
    engine.warm_up()
    return engine
