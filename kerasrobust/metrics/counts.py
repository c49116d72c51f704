"""How many samples an attack was given, broke, and failed on."""

from __future__ import annotations

from kerasrobust.metrics.base import Metric, Outcome


class Count(Metric):
    """A number of samples."""

    table = "counts"


class Attacked(Count):
    """Samples that were not adversarial from the start."""

    key = "attacked"
    header = "attacked"

    def compute(self, outcome: Outcome) -> int:
        return int(outcome.attacked.sum())


class Successes(Count):
    """Attacked samples that became adversarial."""

    key = "successes"
    header = "broken"

    def compute(self, outcome: Outcome) -> int:
        return int(outcome.found.sum())


class Failures(Count):
    """Attacked samples that did not; they count as infinite distances."""

    key = "failures"
    header = "failed"

    def compute(self, outcome: Outcome) -> int:
        return int((outcome.attacked & ~outcome.found).sum())


class InitiallyAdversarial(Count):
    """Samples that were adversarial from the start; they count as zero distances."""

    key = "initially_adversarial"
    header = "wrong already"

    def compute(self, outcome: Outcome) -> int:
        return int(outcome.result.initially_adversarial.sum())


class GaveUp(Count):
    """Samples a decision attack found no starting point for."""

    key = "gave_up"
    header = "gave up"

    def compute(self, outcome: Outcome) -> int:
        return int(outcome.result.gave_up.sum())
