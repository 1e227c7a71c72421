"""Imports Ray Serve without pandas.

Ray Serve imports pandas where it is installed, for a JSON encoder that Motet does not use. pandas imports pyarrow. The two
take 60 MB and most of a second in every process. Ray imports this module first in each process that it starts
(`profiles.ONE_MACHINE`). A later import of pandas works as usual.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast


@contextmanager
def _without(module: str) -> Iterator[None]:
    """While it is open, the import of a module that was not imported before fails as if it were not installed."""
    if module in sys.modules:
        yield
        return
    cast(dict[str, Any], sys.modules)[module] = None
    try:
        yield
    finally:
        del sys.modules[module]


with _without("pandas"):
    from ray.serve.schema import ServeDeploySchema

__all__ = ["ServeDeploySchema"]
