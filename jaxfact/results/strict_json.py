"""JSON by the standard: without NaN and Infinity, which other programs refuse."""

import json
import math
from typing import Any


def finite_or_none(value: Any) -> Any:
    """Return numbers, also those in mappings and sequences, with None for what is infinite or not a number."""
    if isinstance(value, dict):
        return {name: finite_or_none(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def dumps(value: Any, *, escaped: bool = False) -> str:
    """Return indented JSON, letters of all alphabets as they are or escaped, null for anything but a finite number."""
    return json.dumps(finite_or_none(value), indent=2, ensure_ascii=escaped, allow_nan=False)
