"""What Ray's core writes to the error output by itself, past Python's logging."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

LEVEL_WAS_SET = b"Set ray log level from environment variable"
"""Ray says so whatever the level is."""
ERROR_OUTPUT = 2


@contextmanager
def without_log_level_message() -> Iterator[None]:
    """Holds back what this process writes to its error output, and passes it on at the end without that message."""
    sys.stderr.flush()
    kept = os.dup(ERROR_OUTPUT)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), ERROR_OUTPUT)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, ERROR_OUTPUT)
            os.close(kept)
            held.seek(0)
            for line in held:
                if LEVEL_WAS_SET not in line:
                    os.write(ERROR_OUTPUT, line)
