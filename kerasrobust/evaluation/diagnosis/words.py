"""How findings are put into words."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

Description = dict[str, Any]


def kr_eval(*options: str) -> str:
    """A command line; the dots stand for the model and the data of the run."""
    return " ".join(["kr-eval ...", *options])


def attack_again(description: Description, *keys: str) -> str:
    """The command line of an attack; see `spec`."""
    return kr_eval(f'--attacks "{spec(description, *keys)}"')


def spec(description: Description, *keys: str) -> str:
    """An attack as it is written on the command line, what is not at issue left out.

    Args:
        description: `{"name": ..., "config": {...}}`.
        *keys: The hyperparameters that are told, where they are single numbers; by default the
            lengths, the norm and the number of steps.
    """
    config, parts = description["config"], []
    for key in keys or ("eps", "norm", "eps_step", "max_iter"):
        value = config.get(key)
        if value is None or np.ndim(value) or (key == "norm" and value in ("inf", math.inf)):
            continue
        parts.append(f"{key}={value:.4g}" if isinstance(value, float) else f"{key}={value}")
    return ":".join([description["name"], *([",".join(parts)] if parts else [])])


def without_gradient(norm: float, eps: np.ndarray | None) -> str:
    """The command line of an attack that needs no gradient, in the same budget if it can.

    Args:
        norm: The norm.
        eps: The budget, a number or one per sample; None for none.
    """
    if eps is not None and not eps.ndim and norm in (2.0, math.inf):
        return attack_again({"name": "square", "config": {"eps": float(eps), "norm": norm}})
    return kr_eval(f"--attacks hsja:norm={'inf' if norm == math.inf else 2}")


def percent(share: float) -> str:
    """A share as `"12.5 %"`."""
    return f"{100 * share:.3g} %"


def samples(count: int) -> str:
    """`"1 sample"`, `"2,000 samples"`."""
    return f"{count:,} sample" + ("" if count == 1 else "s")


def listed(names: Iterable[str]) -> str:
    """`"a"`, `"a and b"`, `"a, b and c"`."""
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last
