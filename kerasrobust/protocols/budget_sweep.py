"""Accuracy against the budget."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from kerasrobust.engine.criterion import survived
from kerasrobust.evaluation.pieces import Evaluation
from kerasrobust.evaluation.resolve import check_budgets
from kerasrobust.norms import norm_name
from kerasrobust.protocols.pieces import Pieces, bounds, check_alike, classifiers, share
from kerasrobust.protocols.result import ProtocolResult


def budget_sweep(
    models: Any,
    x: Any,
    y: Any = None,
    *,
    eps: Sequence[float],
    attacks: Any = "pgd",
    norm: float | str | None = None,
    dataset: str | None = None,
    clip_values: tuple[float, float] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    verbose: bool = False,
) -> ProtocolResult:
    """Runs budget attacks at several budgets: `evaluate` with a list of them, model by model.

    Figure 2 of the paper on NsLoss and Figure 3 of the one on bounded ReLU; a `Classifier` with a
    `judge` gives transfer against the budget, Figure 3 of the former. The budget is no part of the
    compiled program: there is one for all of them.

    An attack that looks for the nearest adversarial point gives the whole curve in one run of
    `evaluate` (`budget_curve` of its row), and is refused here.

    Args:
        models: One or more: by name, or a list. A `keras.Model`, a `Classifier` or a path each.
        x: Samples, as of `evaluate`: a `Dataset`, say.
        y: True labels, likewise; there must be some.
        eps: The budgets in the unit of the inputs, rising.
        attacks: As of `evaluate`, without an `eps` of their own, in the norm of the budgets.
        norm: Of the budgets; 1, 2 or inf (the default).
        dataset: Name of the data set, as of `evaluate`.
        clip_values: Smallest and largest pixel value; by default the data's, or the models' own.
        batch_size: Samples per batch; its default is that of `evaluate`.
        seed: Seed of all randomness.
        output: Folder for table, picture, and a report for each model. The same call on the same
            folder goes on from what is finished.
        verbose: Show progress bars.

    Returns:
        A `ProtocolResult`; its rows have `model`, `attack`, `eps` (0 without attack) and
        `accuracy`.

    Raises:
        ValueError, TypeError, OSError: If an argument is of no use; before any attack is run.

    Example:

    >>> found = kerasrobust.protocols.budget_sweep(model, x, y, eps=[0.05, 0.1, 0.2])
    """
    clip_values = bounds(x, clip_values)
    budgets = check_budgets(eps)
    found = classifiers("models", models, clip_values)
    check_alike(found)
    options = {
        "attacks": attacks,
        "norm": norm,
        "dataset": dataset,
        "batch_size": batch_size,
        "seed": seed,
        "verbose": verbose,
    }
    pieces = Pieces("budget_sweep", output, options)
    made = {
        name: pieces.make(name, classifier, x, y, eps=budgets) for name, classifier in found.items()
    }

    def budget(evaluation: Evaluation, attack_name: str) -> float:
        # One alone stands for all attacks.
        return evaluation.plan.budgets.get(attack_name, budgets[0])

    for evaluation in made.values():
        for attack_name, attack in evaluation.plan.attacks.items():
            own = attack.get_config().get("eps")
            if attack.kind != "budget" or own != budget(evaluation, attack_name):
                raise ValueError(
                    "`attacks` must be of the kind that keeps to a budget, and leave it to `eps`. "
                    f"Received: {attack.name} with eps={own!r}"
                )
            if attack.norm != evaluation.plan.criterion.norm:
                raise ValueError(
                    "`attacks` must keep to the budgets in their norm. Received: "
                    f"{attack.name} in {norm_name(attack.norm)}, budgets in "
                    f"{norm_name(evaluation.plan.criterion.norm)}"
                )
    rows = []
    for name, evaluation in made.items():
        report = pieces.run(name, evaluation)
        right = evaluation.correct
        for attack_name in report.attacks:
            reached = budget(evaluation, attack_name)
            row = {"model": name, "attack": attack_name.rpartition("@")[0] or attack_name}
            if reached == budgets[0]:
                rows.append({**row, "eps": 0.0, "accuracy": share(right)})
            result = evaluation.result(attack_name)
            stands = survived(result.labels, result.accepted, evaluation.y, right)
            rows.append({**row, "eps": reached, "accuracy": share(stands)})
        evaluation.forget()
    first = next(iter(made.values()))
    return pieces.result(first, rows, models=list(found), eps=budgets)
