"""Is the model given what it was trained on? Clean samples, read in other ways."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from scipy.stats import binomtest

from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation.diagnosis.evidence import SIGNIFICANCE, beyond, some
from kerasrobust.evaluation.diagnosis.finding import Finding
from kerasrobust.evaluation.diagnosis.words import kr_eval, samples

# Clean samples that are looked at.
_LOOKED_AT = 128
# By this share of them the model must be right more often before it is worth a word.
_BETTER = 0.05
# The usual ranges of pixels.
_RANGES = ((0.0, 1.0), (-1.0, 1.0), (0.0, 255.0))


@dataclasses.dataclass(frozen=True)
class _Reading:
    """Samples as somebody else would have prepared them."""

    told: str
    x: np.ndarray
    command: str | None = None


def look_for_unit(
    judge: Classifier, x: np.ndarray, y: np.ndarray, batch_size: int
) -> list[Finding]:
    """Looks whether the model is right more often where its inputs are prepared in another way.

    The ranges 0..1, -1..1 and 0..255; standardised by the samples' own mean and deviation; the
    colours inverted; red and blue exchanged, as in OpenCV; rows and columns exchanged, as in
    EMNIST. A model that is given the wrong one of them is often still far above chance. What
    counts is a paired sign test over 128 samples at most, its 5 % divided by the number of
    readings, a gain of five points, and more than the largest class alone would explain (exact
    test). Where the model takes no such inputs, the reading is left out.

    Args:
        judge: The model.
        x: Clean samples `[n, ...]`, inside its bounds.
        y: True labels `[n]`.
        batch_size: Samples per pass.

    Returns:
        At most one finding, on the best of the readings, or on all that are as good.
    """
    rows = some(np.ones(len(x), bool), _LOOKED_AT)
    x, y = x[rows], y[rows]
    own = judge.predict(x, batch_size).argmax(axis=1) == y
    readings = list(_readings(x, judge.clip_values))
    best: list[_Reading] = []
    most = own
    for reading in readings:
        try:
            right = judge.predict(reading.x, batch_size).argmax(axis=1) == y
        except tf.errors.OpError:  # the model checks its inputs
            continue
        if right.sum() > most.sum():
            best, most = [reading], right
        elif best and right.sum() == most.sum():
            best.append(reading)
    if not best:
        return []
    more, less = int((most & ~own).sum()), int((own & ~most).sum())
    chance = binomtest(more, more + less, 0.5, alternative="greater").pvalue
    gain = (more - less) / len(y)
    constant = np.unique(y, return_counts=True)[1].max() / len(y)
    good = beyond(constant, int(most.sum()), len(y))
    if not good or gain < _BETTER or chance >= SIGNIFICANCE / len(readings):
        return []
    told = " or ".join(reading.told for reading in best)
    return [
        Finding(
            "another_unit",
            f"Of {samples(len(y))} the model gets {int(own.sum())} right as they are, and "
            f"{int(most.sum())} {told}: it was probably trained on such inputs. The figures are of "
            "a model that is given others.",
            gain,
            _BETTER,
            best[0].command,
        )
    ]


def _readings(x: np.ndarray, bounds: tuple[float, float]) -> Iterator[_Reading]:
    low, high = bounds
    unit = (x - low) / (high - low)
    for least, most in _RANGES:
        if (least, most) != bounds:
            yield _Reading(
                f"with their pixels in {least:g}..{most:g}",
                least + (most - least) * unit,
                kr_eval(f"--clip-min {least:g}", f"--clip-max {most:g}"),
            )
    axes = tuple(range(x.ndim - 1))
    mean, deviation = x.mean(axis=axes, dtype=np.float64), x.std(axis=axes, dtype=np.float64)
    if x.ndim > 2 and (deviation > 0).all():
        told = [",".join(f"{number:.3g}" for number in part) for part in (mean, deviation)]
        yield _Reading(
            f"less their mean {told[0]} and divided by their deviation {told[1]}",
            ((x - mean) / deviation).astype(np.float32),
            kr_eval(f"--mean {told[0]}", f"--std {told[1]}"),
        )
    if x.ndim > 2:
        yield _Reading("with light and dark exchanged", (low + high) - x)
    if x.ndim == 4 and x.shape[3] == 3:
        yield _Reading("with red and blue exchanged", x[..., ::-1])
    if x.ndim == 4 and x.shape[1] == x.shape[2]:
        yield _Reading("with rows and columns exchanged", x.swapaxes(1, 2))
