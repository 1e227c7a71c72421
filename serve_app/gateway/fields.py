"""What the fields of all requests have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import StringConstraints

from deployments.settings import StrictModel

ModelName = Annotated[str, StringConstraints(max_length=256)]
"""The name or alias of a model in a request."""


class RequestFields(StrictModel):
    """The fields of a request. `validated` says what happens to unknown ones."""

    foreign: ClassVar[Mapping[str, str]] = {}
    """Names that other servers use for fields of this schema."""
