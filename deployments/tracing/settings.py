"""Where traces are sent."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from deployments.settings import Fraction, StrictModel


class TracingSettings(StrictModel):
    """Traces of requests, from the gateway to the steps of the models, in OpenTelemetry's protocol."""

    endpoint: Annotated[str, Field(pattern=r"^https?://[^/]")] | None = None
    """The address of a collector that takes OTLP over HTTP, such as `http://localhost:4318`; the spans go to `/v1/traces`
    there. `null`: nothing is traced."""
    sampled_share: Fraction = 1.0
    """The share of requests that are traced, of those whose client sent no `traceparent`. A client that sent one decides
    for its own."""
    service_name: Annotated[str, Field(min_length=1)] = "motet"
    """The name of the service in the traces."""
