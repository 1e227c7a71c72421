"""Sopro v2: a streaming voice-cloning model (English, Portuguese, French, German), many streams as one batch."""

from deployments.engines.sopro.engine import load

__all__ = ["load"]
