"""Targeted attacks towards every wrong class."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from kerasrobust.evaluation.aims import every
from kerasrobust.protocols.pieces import Pieces, bounds, classifiers, share
from kerasrobust.protocols.result import ProtocolResult


def all_targets(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    attacks: Any = "pgd",
    dataset: str | None = None,
    eps: float | None = None,
    norm: float | str | None = None,
    clip_values: tuple[float, float] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    verbose: bool = False,
) -> ProtocolResult:
    """Attacks each sample once towards every class but its own.

    Section IV of the paper on NsLoss: 113 samples and nine targets are 1,017 instances, of which it
    reports the adversarial test accuracy: an instance that fails leaves the sample as it was, which
    is right or not. Beside it stands the success, after Carlini & Wagner ("Towards Evaluating the
    Robustness of Neural Networks", 2017, arXiv:1608.04644) of all instances, in the attacker's best
    case, the easiest target of each sample, and in its worst case, the hardest one.

    An instance succeeds where the model answers with the target, within the budget if there is one.
    A sample that the model gets wrong already is attacked like the others; whether its target is
    reached or not, it counts as wrong in the accuracy, so that this is not the rest of the success.

    Args:
        model: A `keras.Model`, a `Classifier`, or the path of a saved model.
        x: Samples, as of `evaluate`: a `Dataset`, say.
        y: True labels, likewise; there must be some.
        attacks: As of `evaluate`; they are made to aim at a class. Attacks that are given as
            objects must do so already.
        dataset: Name of the data set, as of `evaluate`.
        eps: Budget, likewise.
        norm: Its norm, likewise.
        clip_values: Smallest and largest pixel value; by default the data's, or the model's own.
        batch_size: Samples per batch; its default is that of `evaluate`.
        seed: Seed of all randomness.
        output: Folder for table, picture, and a report for each step from the true class to the
            target. The same call on the same folder goes on from what is finished.
        verbose: Show progress bars.

    Returns:
        A `ProtocolResult`; its rows have `attack`, the `accuracy` of instances, the shares of
        success `best` and `worst` of samples and `average` of instances, `median` distance of
        instances in `norm` (a failure is infinite), and `classes`: shares of success by true class
        and target, None without any. Intervals of instances allow for those of a sample being alike
        (`metrics.proportion.clustered`).

    Raises:
        ValueError, TypeError, OSError: If an argument is of no use; before any attack is run.

    Example:

    >>> found = kerasrobust.protocols.all_targets(model, x, y, attacks="pgd:eps=0.1")
    >>> found.rows[0]["accuracy"]["value"]
    """
    clip_values = bounds(x, clip_values)
    ((name, classifier),) = classifiers("model", [model], clip_values).items()
    options = {
        "attacks": attacks,
        "dataset": dataset,
        "eps": eps,
        "norm": norm,
        "batch_size": batch_size,
        "seed": seed,
        "verbose": verbose,
        "targets": "next",
    }
    pieces = Pieces("all_targets", output, options)
    evaluation = pieces.make("targets", classifier, x, y)
    y, classes = evaluation.y, evaluation.nb_classes
    reached: dict[str, list[np.ndarray]] = {}
    distances: dict[str, list[np.ndarray]] = {}
    for shift, targets in every(y, classes):
        evaluation.forget()
        evaluation.targets = targets
        if shift > 1:
            evaluation.settings["targets"] = f"{shift} further"
        pieces.run(f"{shift} further", evaluation)
        for attack, bound in evaluation.plan.attacks.items():
            result = evaluation.result(attack)
            reached.setdefault(attack, []).append(result.success)
            distances.setdefault(attack, []).append(result.distance(bound.norm))
    rows = []
    for attack, parts in reached.items():
        success = np.stack(parts)
        rows.append(
            {
                "attack": attack,
                "norm": evaluation.plan.attacks[attack].norm,
                "accuracy": share((evaluation.correct & ~success).T),
                "best": share(success.any(axis=0)),
                "average": share(success.T),
                "worst": share(success.all(axis=0)),
                "median": float(np.median(np.stack(distances[attack]))),
                "classes": _by_classes(success, y, classes),
            }
        )
    return pieces.result(evaluation, rows, model=name, instances=len(y) * (classes - 1))


def _by_classes(success: np.ndarray, y: np.ndarray, classes: int) -> list[list[float | None]]:
    """Shares of success, a row for each true class and a column for each target."""
    table: list[list[float | None]] = [[None] * classes for _ in range(classes)]
    for true in np.unique(y):
        for shift in range(1, classes):
            share = success[shift - 1, y == true].mean()
            table[int(true)][int((true + shift) % classes)] = float(share)
    return table
