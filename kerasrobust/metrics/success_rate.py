"""Attack success rate."""

from __future__ import annotations

import numpy as np

from kerasrobust.metrics.base import Outcome, Share
from kerasrobust.metrics.proportion import Proportion, proportion


def success_rate(success, initially_adversarial, level: float = 0.95) -> Proportion | None:
    """Share of the attacked samples that the attack changed as it wanted to.

    AREB, section 2.3.1, measures success against the label the model itself gives the clean
    sample. A sample that is misclassified before the attack starts (or already at the target of a
    targeted one) leaves the attack nothing to do; it belongs to the accuracy, not to the success,
    and is left out of numerator and denominator alike. For an untargeted attack on the true labels
    the samples that remain are those where the model's label *is* the true label, so both ways
    of counting agree on them.

    Args:
        success: Booleans of shape `(n,)`: the goal is met at the end.
        initially_adversarial: Booleans of shape `(n,)`: it was met before the attack.
        level: Confidence level of the Wilson interval.

    Returns:
        A `Proportion`, or `None` when every sample was adversarial from the start.

    Raises:
        ValueError: If the shapes differ or the entries are no booleans.
    """
    success, initial = np.asarray(success), np.asarray(initially_adversarial)
    if success.ndim != 1 or success.shape != initial.shape or initial.dtype != bool:
        raise ValueError(
            "Expected two vectors of booleans of the same length. Received: "
            f"success of shape {success.shape}, initially_adversarial of shape {initial.shape} "
            f"and dtype {initial.dtype}"
        )
    return proportion(success[~initial], level)


class SuccessRate(Share):
    """Successes over the attacked samples, `None` when nothing was attacked."""

    key = "success_rate"
    header = "success %"
    narrow = "succ.%"
    legend = (
        "Success: share of the samples the model got right whose label the attack changed (a "
        "targeted attack: that reached the target)."
    )

    def compute(self, outcome: Outcome) -> Proportion | None:
        return success_rate(outcome.found, outcome.result.initially_adversarial)
