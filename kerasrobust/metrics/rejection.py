"""What a model does not answer: of clean samples its false positives, under attack the caught."""

from __future__ import annotations

from kerasrobust.metrics.base import Metric, Outcome, Share
from kerasrobust.metrics.proportion import Proportion, proportion


class FalsePositiveRate(Share):
    """Share of the clean samples that a detector rejects, or the model abstains from.

    `None` for a model that answers always. A detector that rejects everything is robust and
    useless: whoever reads an accuracy with rejections in it needs this figure beside it.
    """

    key = "false_positive_rate"
    header = "false pos. %"
    narrow = "f.p.%"
    legend = (
        "False pos.: share of the clean samples that the detector rejects, or the model abstains "
        "from; they count as wrong. Under attack a rejected sample counts as defended."
    )
    rows = ("clean",)

    def compute(self, outcome: Outcome) -> Proportion | None:
        accepted = outcome.result.accepted
        return None if accepted is None else proportion(~accepted)


class Rejected(Metric):
    """Attacked samples that are rejected in the end; `None` for a model that answers always."""

    key = "rejected"
    header = "rejected"
    table = "counts"

    def compute(self, outcome: Outcome) -> int | None:
        accepted = outcome.result.accepted
        return None if accepted is None else int((outcome.attacked & ~accepted).sum())
