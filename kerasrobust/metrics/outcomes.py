"""Who withstood, sample by sample."""

from __future__ import annotations

import numpy as np

from kerasrobust.metrics.base import Metric, Outcome


class Outcomes(Metric):
    """A character per sample: `1` where it keeps its true label or is rejected, `0` where not.

    In no table: it is what two reports on the same samples are compared by.
    """

    key = "outcomes"
    rows = ("clean", "attack", "worst")

    def compute(self, outcome: Outcome) -> str:
        return "".join(np.where(outcome.survived, "1", "0"))


def flags(outcomes: str) -> np.ndarray:
    """The booleans that `Outcomes` wrote, shape `(n,)`."""
    return np.frombuffer(outcomes.encode("ascii"), np.uint8) == ord("1")
