"""JSON from elsewhere as values that can be written again.

JSON may escape half of a character (`"\\ud83d"`): clients that send a text in parts cut emoji so. Python takes such a half
into a string, which then has no encoding in UTF-8.
"""

from __future__ import annotations

import json
from typing import Any


def from_json_text(text: str) -> Any:
    """The value of some JSON. U+FFFD takes the place of a half character. Raises `ValueError` for what is not JSON, and
    `RecursionError` for deep nesting."""
    value = json.loads(text)
    if r"\ud" in text or r"\uD" in text:
        written = json.dumps(value, ensure_ascii=False)
        value = json.loads(written.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    return value
