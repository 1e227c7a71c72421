"""Types of request fields that several routes share."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

ModelName = Annotated[str, StringConstraints(max_length=256)]
"""The name or alias of a model in a request."""
