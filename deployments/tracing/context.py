"""The place of a span in its trace, as the W3C's recommendation Trace Context writes it in the header `traceparent`."""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADER = "traceparent"
_VALUE = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


@dataclass(frozen=True, slots=True)
class TraceContext:
    """A span that others continue: the ids in lower-case hexadecimal, and whether its trace is recorded."""

    trace_id: str
    span_id: str
    sampled: bool = True

    @property
    def traceparent(self) -> str:
        """The value of the header."""
        return f"00-{self.trace_id}-{self.span_id}-{int(self.sampled):02x}"


def parsed(value: str) -> TraceContext | None:
    """What a header says; None if it is not valid, which the recommendation treats as no header."""
    found = _VALUE.fullmatch(value.strip())
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & 1))
