"""What an attack cost: passes and seconds."""

from __future__ import annotations

import numpy as np

from kerasrobust.metrics.base import Metric, Outcome

_LEGEND = (
    "Queries (forward passes) and gradients (forward and backward passes): means per attacked "
    "sample."
)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


class Queries(Metric):
    """Forward passes per attacked sample, mean."""

    key = "queries"
    header = "queries"
    digits = 1
    legend = _LEGEND
    table = "counts"

    def compute(self, outcome: Outcome) -> float:
        return _mean(outcome.result.queries[outcome.attacked])


class Gradients(Metric):
    """Forward and backward passes per attacked sample, mean."""

    key = "gradients"
    header = "gradients"
    digits = 1
    legend = _LEGEND
    table = "counts"

    def compute(self, outcome: Outcome) -> float:
        return _mean(outcome.result.gradients[outcome.attacked])


class ExecutedQueries(Metric):
    """Forward passes executed, padding included."""

    key = "executed_queries"

    def compute(self, outcome: Outcome) -> int:
        return int(outcome.result.executed_queries)


class ExecutedGradients(Metric):
    """Forward and backward passes executed, padding included."""

    key = "executed_gradients"

    def compute(self, outcome: Outcome) -> int:
        return int(outcome.result.executed_gradients)


class Seconds(Metric):
    """Wall-clock time for all samples, compilation included."""

    key = "seconds"
    header = "seconds"
    narrow = "sec"
    digits = 1

    def compute(self, outcome: Outcome) -> float:
        return float(outcome.result.seconds)
