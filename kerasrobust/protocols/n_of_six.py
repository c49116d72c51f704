"""Adversarial samples of an ensemble, on models that took no part in it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kerasrobust.attacks.gradient_ensemble import ensemble
from kerasrobust.checks import check_int
from kerasrobust.engine.criterion import Criterion
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

SIX = 6
# The attack of eq. 3: the paper's constant steps of one grey level, and its number of them.
_STEP = 1 / 255


def n_of_six(
    models: Any,
    x: Any,
    y: Any = None,
    *,
    sizes: Sequence[int] = (1, 3, 5),
    combined: int | None = None,
    others: Any = None,
    eps: float | None = None,
    dataset: str | None = None,
    clip_values: tuple[float, float] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    verbose: bool = False,
) -> ProtocolResult:
    """Crafts on the first N of six models of one kind, and tests the samples on the others.

    Section 5.3 of GEA, with its Table 2 (one kind of model, several sizes) and 3 (several kinds):
    samples are crafted by the gradient ensemble attack and kept where they fool *every* model of
    the ensemble, whatever the wrong class. Of those that are kept, every model outside of the
    ensemble gets its accuracy on them and on the same samples without attack ("true").

    Kept are only samples that the whole ensemble gets right without attack: our reading of the
    paper, whose "true" accuracies lie above those of the validation data.

    Args:
        models: Six models with different starts: by name, or a list; or, by the name of their
            kind, lists of six.
        x: Samples, as of `evaluate`: a `Dataset`, say.
        y: True labels, likewise; there must be some.
        sizes: How many models to craft on, each from 1 to 5.
        combined: Also craft on the first so many of *each* kind together; the paper's is 3.
        others: Further models to test on, defended ones say.
        eps: Linf budget in the unit of the inputs. Default: the paper's, 16/255 of the width of the
            box.
        dataset: Name of the data set, as of `evaluate`.
        clip_values: Smallest and largest pixel value; by default the data's, or the models' own.
        batch_size: Samples per batch; its default is that of `evaluate`.
        seed: Seed of all randomness.
        output: Folder for table, picture, and a report for each ensemble. The same call on the same
            folder goes on from what is finished.
        verbose: Show progress bars.

    Returns:
        A `ProtocolResult`; its rows have `ensemble`, its `members`, `kept` samples, `model`, and on
        these its accuracies `true` and `adversarial`; None where nothing was kept.

    Raises:
        ValueError, TypeError, OSError: If an argument is of no use; before any attack is run.

    Example:

    >>> found = kerasrobust.protocols.n_of_six(six, x, y, others={"superimposed": hardened})
    """
    clip_values = bounds(x, clip_values)
    kinds = models if isinstance(models, Mapping) else {"": models}
    if not all(isinstance(six, (list, tuple, Mapping)) for six in kinds.values()):
        kinds = {"": models}
    sizes = [check_int("sizes", size, 1, SIX - 1) for size in sizes]
    if not sizes or len(set(sizes)) < len(sizes):
        raise ValueError(f"`sizes` must be different numbers. Received: sizes={sizes!r}")
    if combined is not None:
        check_int("combined", combined, 1, SIX - 1)
        if len(kinds) < 2:
            raise ValueError(
                f"`combined` is for models of several kinds. Received: {combined=}, one kind"
            )
    members: dict[str, dict[str, Any]] = {}
    for kind, six in kinds.items():
        found = classifiers("models", six, clip_values)
        if len(found) != SIX:
            raise ValueError(f"`models` must be six of a kind. Received: {len(found)} of them")
        members[kind] = {f"{kind} {name}".strip(): one for name, one in found.items()}
    judges = {name: one for six in members.values() for name, one in six.items()}
    if len(judges) < SIX * len(members):
        raise ValueError(
            "Models of several kinds must have different names, each with its kind before it. "
            f"Received: {[name for six in members.values() for name in six]!r}"
        )
    for name, one in classifiers("others", others, clip_values).items() if others else ():
        if name in judges:
            raise ValueError(f"`others` must have names of their own. Received: {name!r}")
        judges[name] = one
    check_alike(judges)
    low, high = next(iter(judges.values())).clip_values
    width = high - low
    eps = 16 / 255 * width if eps is None else eps
    ensembles = {
        f"{kind} {size}".strip(): list(six)[:size]
        for kind, six in members.items()
        for size in sizes
    }
    if combined is not None:
        ensembles["combined"] = [name for six in members.values() for name in list(six)[:combined]]
    options = {
        "attacks": {
            "name": "gea",
            "config": {
                "eps": eps,
                "eps_step": _STEP * width,
                "max_iter": None,
                "batch_size": batch_size,
                "seed": seed,
            },
        },
        "dataset": dataset,
        "batch_size": batch_size,
        "seed": seed,
        "verbose": verbose,
    }
    pieces = Pieces("n_of_six", output, options)
    made = {
        name: pieces.make(name, ensemble([judges[member] for member in chosen]), x, y)
        for name, chosen in ensembles.items()
    }
    first = next(iter(made.values()))
    right = clean(judges, first)
    rows = []
    for name, chosen in ensembles.items():
        evaluation = made[name]
        jury = Jury(judges, evaluation)
        pieces.run(name, evaluation, jury.watch)
        (attack,) = jury.labels
        fooled = {
            judge: Criterion().met(labels, evaluation.y, jury.accepted[attack][judge])
            for judge, labels in jury.labels[attack].items()
        }
        kept = np.all([right[member] & fooled[member] for member in chosen], axis=0)
        for judge in judges:
            if judge not in chosen:
                rows.append(
                    {
                        "ensemble": name,
                        "members": chosen,
                        "kept": int(kept.sum()),
                        "model": judge,
                        "true": share(right[judge][kept]),
                        "adversarial": share(~fooled[judge][kept]),
                    }
                )
    return pieces.result(
        first,
        rows,
        models=list(judges),
        ensembles=ensembles,
        eps=eps,
        norm=np.inf,
        clean={name: share(flags) for name, flags in right.items()},
    )
