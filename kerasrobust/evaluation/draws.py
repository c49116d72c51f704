"""Several draws of the same samples: AREB's mean of ten measurements on 100 of them each."""

from __future__ import annotations

from typing import Any

import numpy as np

from kerasrobust.checks import check_int


def draw(x: Any, y: Any, draws: int, samples: int, seed: int) -> list[np.ndarray]:
    """Rows of each draw, sorted; a draw is without replacement, two may have rows in common.

    More draws are the same ones and further ones.

    Args:
        x: All samples to draw from, an array `[n, ...]`.
        y: Their labels, `[n]` or one-hot.
        draws: How many, 2 or more.
        samples: Size of each.
        seed: Of the draws.

    Raises:
        ValueError, TypeError: If there are no arrays to draw from, or too few samples.
    """
    check_int("draws", draws, 2)
    check_int("samples", samples, 1)
    check_int("seed", seed, 0)
    if not hasattr(x, "__array__") or y is None:
        raise TypeError(
            "`x` and `y` must be arrays to draw from. "
            f"Received: x={type(x).__name__}, y={type(y).__name__}"
        )
    total = len(np.asarray(x))
    if samples > total:
        raise ValueError(
            f"`samples` must be at most the {total} there are to draw from. Received: {samples=}"
        )
    if len(np.asarray(y)) != total:
        raise ValueError(
            f"There must be a label for each sample. Received: {total} and {len(y)} of them"
        )
    return [
        np.sort(np.random.default_rng((seed, number)).permutation(total)[:samples])
        for number in range(draws)
    ]
