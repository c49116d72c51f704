"""Distance of adversarial points to the training set."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from kerasrobust.checks import VALUES_PER_PASS, fitting
from kerasrobust.engine.classifier import Classifier
from kerasrobust.metrics.base import Metric, Outcome, Points

# Training samples that are compared at once: fewer of large ones, as `fitting` says.
_BLOCK = 4096


def nearest_distance(x, reference) -> np.ndarray:
    """L2 distance of each sample to the nearest of a reference set.

    The nearest is found by `|a - b|^2 = |a|^2 - 2 a b + |b|^2`, block by block, and its distance
    then taken as it is, so that nothing cancels.

    Args:
        x: Samples, shape `(n, ...)`.
        reference: Samples of the same shape, `(m, ...)`, an array or a memory-mapped one.

    Returns:
        Float64 of shape `(n,)`, in the unit of the samples.

    Raises:
        ValueError: If the shapes differ or there is no reference.

    Example:

    >>> nearest_distance([[0.0, 0.0]], [[3.0, 4.0], [6.0, 8.0]]).tolist()
    [5.0]
    """
    x = np.asarray(x)
    if len(reference) == 0 or np.shape(reference)[1:] != x.shape[1:]:
        raise ValueError(
            "Expected training samples of the shape of the samples. Received: reference of shape "
            f"{np.shape(reference)}, x of shape {x.shape}"
        )
    flat = x.reshape(len(x), -1).astype(np.float64)
    best, nearest = np.full(len(x), np.inf), np.zeros(len(x), np.int64)
    rows = fitting(_BLOCK, x.shape[1:], VALUES_PER_PASS)
    for start in range(0, len(reference), rows):
        block = np.asarray(reference[start : start + rows], np.float64)
        block = block.reshape(len(block), -1)
        square = (block**2).sum(axis=1) - 2.0 * flat @ block.T
        place = square.argmin(axis=1)
        least = square[np.arange(len(x)), place]
        closer = least < best
        best[closer], nearest[closer] = least[closer], start + place[closer]
    found = np.asarray(reference[nearest], np.float64).reshape(len(x), -1)
    return np.linalg.norm(flat - found, axis=1)


class TrainingDistance(Metric):
    """Mean L2 distance to the nearest training sample, of clean samples and of successes.

    BRELU-GDA looks at it to see whether adversarial points lie off the data: read an attack's
    figure beside the one of the clean samples.

    Args:
        reference: The training samples `(m, ...)` in the unit of the samples, or the path of an
            `.npy` file of them, which is mapped and not read whole.

    Raises:
        TypeError: If it is neither.
    """

    key = "training_distance"
    header = "training dist."
    narrow = "train.d."
    rows = ("clean", "attack")
    stored = True
    legend = (
        "Training dist.: mean L2 distance of the clean samples, or of the successes, to the "
        "nearest training sample."
    )

    def __init__(self, reference: Any = None):
        if isinstance(reference, str):
            self.reference = np.load(reference, mmap_mode="r", allow_pickle=False)
        elif reference is None or isinstance(reference, np.ndarray):
            self.reference = reference
        else:
            raise TypeError(
                "`reference` must be an array of training samples or the path of an .npy file. "
                f"Received: reference={type(reference).__name__}"
            )

    def get_config(self) -> dict[str, Any]:
        """A hash stands for the samples."""
        if self.reference is None:
            return {"reference": None}
        total = hashlib.sha256(f"{self.reference.shape} {self.reference.dtype}".encode())
        rows = fitting(_BLOCK, self.reference.shape[1:], VALUES_PER_PASS)
        for start in range(0, len(self.reference), rows):
            total.update(np.ascontiguousarray(self.reference[start : start + rows]).tobytes())
        return {"reference": total.hexdigest()}

    def check(self, classifier: Classifier) -> None:
        if self.reference is None:
            raise ValueError(
                "The metric 'training_distance' needs the training samples: give "
                "TrainingDistance(x_train), or 'training_distance:reference=x_train.npy'. "
                "Received: reference=None"
            )

    def measure(self, points: Points) -> np.ndarray | None:
        if self.reference is None:
            return None
        return nearest_distance(points.x_adv, self.reference)

    def compute(self, outcome: Outcome) -> float | None:
        distance = outcome.result.columns.get(self.key)
        if distance is None:
            return None
        distance = distance[outcome.found] if outcome.row == "attack" else distance
        return float(distance.mean()) if len(distance) else None
