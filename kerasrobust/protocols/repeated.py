"""The same evaluation on several draws of samples."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from kerasrobust.datasets import Dataset
from kerasrobust.evaluation.draws import draw
from kerasrobust.evaluation.renderers.table import WORST
from kerasrobust.metrics.accuracy import deviation
from kerasrobust.protocols.pieces import Pieces, bounds, classifiers
from kerasrobust.protocols.result import ProtocolResult


def repeated(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    attacks: Any = "areb",
    draws: int = 10,
    samples: int = 100,
    dataset: str | None = None,
    eps: float | None = None,
    norm: float | str | None = None,
    clip_values: tuple[float, float] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    verbose: bool = False,
) -> ProtocolResult:
    """Mean and standard deviation of the accuracy over draws of the samples.

    AREB reports "the average of 10 measurements taken from 100 test samples that each time were
    randomly selected". A draw is without replacement; two of them may have samples in common, and
    where they take a large part of the data their deviation is smaller than that of other data.
    Attacks that are not given as objects draw anew as well.

    Args:
        model: A `keras.Model`, a `Classifier`, or the path of a saved model.
        x: All samples to draw from, an array of shape `(n, ...)` or a `Dataset`.
        y: Their true labels; those of a `Dataset` are its own.
        attacks: As of `evaluate`.
        draws: How many, at least 2.
        samples: Size of each.
        dataset: Name of the data set, as of `evaluate`.
        eps: Budget, likewise.
        norm: Its norm, likewise.
        clip_values: Smallest and largest pixel value; by default the data's, or the model's own.
        batch_size: Samples per batch; its default is that of `evaluate`.
        seed: Seed of all randomness.
        output: Folder for table, picture, and a report for each draw. The same call on the same
            folder goes on from what is finished.
        verbose: Show progress bars.

    Returns:
        A `ProtocolResult`; its rows have `attack` ("clean" and "worst case" among them), the
        accuracies `values` of the draws, their `mean` and their standard `deviation`, of a sample
        (`n - 1`).

    Raises:
        ValueError, TypeError, OSError: If an argument is of no use; before any attack is run.

    Example:

    >>> found = kerasrobust.protocols.repeated(model, x, y, attacks="pgd:eps=0.1", samples=100)
    """
    clip_values = bounds(x, clip_values)
    data = x if isinstance(x, Dataset) else None
    whole, labels = (x, y) if data is None else (data.x, data.y)
    drawn = draw(whole, labels, draws, samples, seed)
    whole, labels = np.asarray(whole), np.asarray(labels)
    ((name, classifier),) = classifiers("model", [model], clip_values).items()
    options = {
        "attacks": attacks,
        "dataset": dataset,
        "eps": eps,
        "norm": norm,
        "batch_size": batch_size,
        "verbose": verbose,
    }
    pieces = Pieces("repeated", output, options)
    made = {}
    for number, rows in enumerate(drawn):
        piece = f"draw {number + 1}"
        part = (whole[rows], labels[rows]) if data is None else (data.take(rows), y)
        made[piece] = pieces.make(piece, classifier, *part, seed=seed + number)
    values: dict[str, list[float]] = {}
    for piece, evaluation in made.items():
        report = pieces.run(piece, evaluation)
        accuracy = {attack: row.accuracy for attack, row in report.attacks.items()}
        every = {"clean": report.clean_accuracy, **accuracy, WORST: report.robust_accuracy}
        for attack, value in every.items():
            values.setdefault(attack, []).append(value)
        evaluation.forget()
    found = [
        {
            "attack": attack,
            "values": of,
            "mean": float(np.mean(of)),
            "deviation": deviation(of),
        }
        for attack, of in values.items()
    ]
    first = next(iter(made.values()))
    settings = {"model": name, "draws": draws, "of": len(whole), "seed": seed, "indices": None}
    return pieces.result(first, found, **settings)
