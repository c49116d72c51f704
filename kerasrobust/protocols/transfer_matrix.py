"""Which model's adversarial samples fool which other model."""

from __future__ import annotations

import os
from typing import Any

from kerasrobust.engine.criterion import Criterion, survived
from kerasrobust.protocols.pieces import (
    Jury,
    Pieces,
    bounds,
    check_alike,
    classifiers,
    clean,
    share,
)
from kerasrobust.protocols.result import ProtocolResult


def transfer_matrix(
    models: Any,
    x: Any,
    y: Any = None,
    *,
    attacks: Any = "pgd",
    substitutes: Any = None,
    dataset: str | None = None,
    eps: float | None = None,
    norm: float | str | None = None,
    clip_values: tuple[float, float] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    verbose: bool = False,
) -> ProtocolResult:
    """Crafts on each model and judges the samples by every one.

    Rows are the models that samples were crafted on, columns those that judge them; on the diagonal
    stands the white box. A cell is the share of samples that the judge gets right without attack
    and under it, as everywhere in a report. Of a budget attack the strongest point is judged even
    where it fails on its own model, of an attack that looks for the nearest point the clean sample.
    A cascade, AutoAttack say, attacks only what is still right on its own model: the rest is judged
    as it is, and the judge looks better than under one attack of all samples.

    Beside it (`adversarial`) stands the share that the judge gets right under the attack, whatever
    it said without: an attack on another model puts some of its errors right.

    Tables 4 and 5 of the paper on bounded ReLU and Gaussian data augmentation; with `substitutes`
    as the rows Table 3.2 of the one on e2SAD. Both print `adversarial`.

    Args:
        models: Two or more: by name, or a list. A `keras.Model`, a `Classifier` or a path each.
        x: Samples, as of `evaluate`: a `Dataset`, say.
        y: True labels, likewise; there must be some.
        attacks: As of `evaluate`.
        substitutes: Models to craft on instead; then one model is enough.
        dataset: Name of the data set, as of `evaluate`.
        eps: Budget, likewise.
        norm: Its norm, likewise.
        clip_values: Smallest and largest pixel value; by default the data's, or the models' own.
        batch_size: Samples per batch; its default is that of `evaluate`.
        seed: Seed of all randomness.
        output: Folder for table, picture, and a report for each model that is crafted on. The same
            call on the same folder goes on from what is finished.
        verbose: Show progress bars.

    Returns:
        A `ProtocolResult`; its rows have `attack`, `crafted_on`, `judged_by`, `accuracy`,
        `adversarial`, and `clean`, the judge's accuracy without attack.

    Raises:
        ValueError, TypeError, OSError: If an argument is of no use; before any attack is run.

    Example:

    >>> found = kerasrobust.protocols.transfer_matrix({"plain": model, "gda": hardened}, x, y)
    """
    clip_values = bounds(x, clip_values)
    judges = classifiers("models", models, clip_values, least=1 if substitutes else 2)
    sources = judges
    if substitutes is not None:
        sources = classifiers("substitutes", substitutes, clip_values)
    check_alike({**{f"substitute {name}": one for name, one in sources.items()}, **judges})
    options = {
        "attacks": attacks,
        "dataset": dataset,
        "eps": eps,
        "norm": norm,
        "batch_size": batch_size,
        "seed": seed,
        "verbose": verbose,
    }
    pieces = Pieces("transfer_matrix", output, options)
    made = {name: pieces.make(name, source, x, y) for name, source in sources.items()}
    first = next(iter(made.values()))
    right = clean(judges, first)
    rows = []
    for source, evaluation in made.items():
        jury = Jury(judges, evaluation)
        pieces.run(source, evaluation, jury.watch)
        for attack, by_judge in jury.labels.items():
            for name, labels in by_judge.items():
                accepted = jury.accepted[attack][name]
                stands = survived(labels, accepted, evaluation.y, right[name])
                fooled = Criterion().met(labels, evaluation.y, accepted)
                rows.append(
                    {
                        "attack": attack,
                        "crafted_on": source,
                        "judged_by": name,
                        "accuracy": share(stands),
                        "adversarial": share(~fooled),
                        "clean": share(right[name]),
                    }
                )
    return pieces.result(first, rows, models=list(judges), crafted_on=list(sources))
