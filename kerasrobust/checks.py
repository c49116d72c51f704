"""Checks of arguments that several rooms share; each returns the value in its plain type."""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def check_int(name: str, value: Any, low: int) -> int:
    """An integer of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < low:
        raise ValueError(f"`{name}` must be an integer >= {low}. Received: {name}={value!r}")
    return int(value)


def check_float(name: str, value: Any, low: float = 0.0, *, above: bool = False) -> float:
    """A finite number of at least (or, with `above`, more than) `low`."""
    good = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value < low or (above and value == low):
        sign = ">" if above else ">="
        raise ValueError(f"`{name}` must be a number {sign} {low:g}. Received: {name}={value!r}")
    return float(value)


def check_bounds(clip_values: Any) -> tuple[float, float]:
    """The smallest and the largest valid pixel."""
    try:
        low, high = (float(value) for value in clip_values)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            "`clip_values` must be two finite numbers, the smallest and the largest valid pixel. "
            f"Received: clip_values={clip_values!r}"
        )
    return low, high
