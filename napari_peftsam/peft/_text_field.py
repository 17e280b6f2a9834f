"""Values that are chosen by a text, as fields of pydantic models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from pydantic import BeforeValidator

__all__ = ["read_from_text"]


def read_from_text(parse: Callable[[str], object]) -> BeforeValidator:
    """Read a field's value from its text, or from a list of what the text has between commas."""

    def read(value: Any) -> Any:
        if isinstance(value, Sequence) and not isinstance(value, str):
            value = ",".join(map(str, value))
        return parse(value) if isinstance(value, str) else value

    return BeforeValidator(read)
