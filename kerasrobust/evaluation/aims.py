"""The classes that targeted attacks aim at."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kerasrobust.engine.batches import Batch
from kerasrobust.engine.result import AttackResult

# How a target is chosen; "all" is every wrong class in turn.
AIMS = ("random", "next", "least_likely", "all")


def check_aims(targets: Any) -> str | None:
    """One of `AIMS`, or None.

    Raises:
        ValueError: If it is neither.
    """
    if targets is not None and targets not in AIMS:
        raise ValueError(f"`targets` must be one of {list(AIMS)}. Received: targets={targets!r}")
    return targets


def choose(
    targets: str | None, y: np.ndarray, classes: int, seed: int, unlikely: np.ndarray | None = None
) -> np.ndarray:
    """A wrong class for each sample, int64 `[n]`.

    Args:
        targets: `"next"`, the class after the true one; `"least_likely"`, see `least_likely`;
            anything else: drawn evenly.
        y: True labels, int64 `[n]`.
        classes: Number of classes.
        seed: Of the draw.
        unlikely: The least likely classes, int64 `[n]`.
    """
    if targets == "least_likely":
        assert unlikely is not None
        return unlikely
    if targets == "next":
        return (y + 1) % classes
    return (y + np.random.default_rng(seed).integers(1, classes, len(y))) % classes


def least_likely(scores: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The wrong class with the lowest score, int64 `[n]`.

    After Kurakin et al., "Adversarial examples in the physical world", 2016, arXiv:1607.02533,
    section 2.3; where the least likely class is the true one, the next to it.

    Args:
        scores: `[n, classes]`.
        y: True labels, int64 `[n]`.
    """
    wrong = np.array(scores, np.float64)
    wrong[np.arange(len(y)), y] = np.inf
    return wrong.argmin(axis=1).astype(np.int64)


def every(y: np.ndarray, classes: int) -> Iterator[tuple[int, np.ndarray]]:
    """Every wrong class once: the step from the true class, 1 and up, and the targets `[n]`."""
    for shift in range(1, classes):
        yield shift, (y + shift) % classes


def worst(
    batch: Batch,
    y: np.ndarray,
    classes: int,
    run: Callable[[Batch], AttackResult],
    norm: float,
    whole: bool,
    skipped: Callable[[int], Any] = lambda samples: None,
) -> AttackResult:
    """The worst outcome per sample over attacks towards every wrong class.

    That is the target that was reached by the shortest way; where none was, a point that has
    another wrong label. One result is in memory, whatever the number of classes; costs are sums.

    Args:
        batch: The samples.
        y: Their true labels, int64 `[n]`.
        classes: Number of classes.
        run: Attacks a batch towards its `y`.
        norm: Norm in which ways are compared.
        whole: Whether a sample that reached its target is attacked further, for a shorter way.
        skipped: Told of samples that need not be attacked, for each target.
    """
    found: AttackResult | None = None
    for _, targets in every(y, classes):
        rows = np.arange(len(y))
        if found is not None and not whole:
            rows = np.flatnonzero(~found.success)
        skipped(len(y) - len(rows))
        if not len(rows):
            continue
        part = run(dataclasses.replace(batch, y=targets).part(rows))
        found = part if found is None else _merged(found, part, rows, y, norm)
    assert found is not None
    return found


def _changed(result: AttackResult, y: np.ndarray) -> np.ndarray:
    """bool `[n]`: the model was seen to give another label than the true one."""
    accepted = True if result.accepted is None else result.accepted
    return (result.labels != y) & accepted


def _merged(
    found: AttackResult, part: AttackResult, rows: np.ndarray, y: np.ndarray, norm: float
) -> AttackResult:
    """What was found so far, with what is worse in a further run on some rows."""

    def rank(result: AttackResult, y: np.ndarray) -> np.ndarray:
        return np.where(result.success, 2, _changed(result, y))

    before = found.take(rows)
    ranks = rank(part, y[rows]), rank(before, y[rows])
    nearer = part.distance(norm) < before.distance(norm)
    better = np.flatnonzero((ranks[0] > ranks[1]) | ((ranks[0] == ranks[1]) & nearer))
    merged = found.overlaid(part.take(better), rows[better])
    sums = {
        key: getattr(found, key).copy()
        for key in ("queries", "gradients", "zero_gradients", "initially_adversarial", "gave_up")
    }
    for key in ("queries", "gradients", "zero_gradients"):
        sums[key][rows] += getattr(part, key)
    sums["initially_adversarial"][rows] |= part.initially_adversarial
    sums["gave_up"][rows] &= part.gave_up
    costs = {
        key: getattr(found, key) + getattr(part, key)
        for key in ("executed_queries", "executed_gradients", "seconds")
    }
    return dataclasses.replace(merged, **sums, **costs)
