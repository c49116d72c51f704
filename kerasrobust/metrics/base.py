"""The contract of a metric: one figure of a report, declared in one place."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.criterion import survived
from kerasrobust.engine.result import AttackResult
from kerasrobust.metrics.proportion import Proportion

Row = Literal["clean", "attack", "worst"]
Needs = Literal["samples", "scores", "gradient"]


@dataclasses.dataclass(frozen=True)
class Points:
    """Samples while they are in memory, and the model to ask about them: what a metric measures.

    Attributes:
        x: Clean samples of one batch, shape `(n, ...)`.
        x_adv: What the attack made of them, same shape; in the row `"clean"` the samples again.
        y: True labels, int64 of shape `(n,)`.
        value_range: Upper minus lower bound of the pixel values.
        norm: Norm the attack works in.
        row: `"attack"` or `"clean"`.
        classifier: The model as attacks see it, or `None` where there are only the samples.
        batch_size: Samples, or points, that may go through the model at once.
        seed: Seed of all randomness.
        places: Places of the samples among all, shape `(n,)`: what is drawn for a sample by seed
            and place does not depend on the batch that it is in.
    """

    x: np.ndarray
    x_adv: np.ndarray
    y: np.ndarray
    value_range: float = 1.0
    norm: float = math.inf
    row: Row = "attack"
    classifier: Classifier | None = None
    batch_size: int = 128
    seed: int = 0
    places: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if len(self.places) != len(self.x):
            object.__setattr__(self, "places", np.arange(len(self.x)))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """All that a metric may ask when it computes its figure of one row of the report.

    Attributes:
        result: What the attack found, sample by sample. `x` and `x_adv` may be `None` in it: what
            is to be read off them is read by `Metric.measure` and lies in `result.columns`.
        y: True labels, int64 of shape `(n,)`.
        clean_correct: Booleans of shape `(n,)`, right (and not rejected) without attack.
        nb_classes: Number of classes.
        value_range: Upper minus lower bound of the pixel values.
        kind: `"budget"` or `"minimal"`.
        norm: Norm the attack works in.
        row: `"attack"`; `"clean"`, where `result` is the clean samples as they are; or `"worst"`,
            where only `survived`, `y` and `nb_classes` have a meaning.
        unbroken: Booleans of shape `(n,)` in place of `survived` in the row `"worst"`.
        radii: L2 radius within which the true label is certified, shape `(n,)`, -1 where it is not;
            `None` for a model that certifies nothing.
        fell: In the row `"worst"` the L2 distance at which the model was first seen to give a wrong
            label, shape `(n,)`, `inf` where it was not.
        budgets: In the row `"worst"` the L2 budgets of the attacks.
        nearest: In the row `"worst"`, by norm, the untargeted minimal-norm attacks of that norm and
            the shortest distance that one of them found, shape `(n,)`: `inf` where none did, 0 for
            a sample that is wrong already.
        results: In the row `"worst"` what each attack found, by name.
        left: In the row `"worst"`, where the attacks had several budgets, by budget, rising,
            booleans of shape `(n,)`: what no attack within it changed. `norm` is theirs.
        draws: Of samples that are several draws the number of each one's, int64 of shape `(n,)`.
        alone: Whether all distances are this attack's: in a cascade its row holds what was broken
            before it as well.
    """

    result: AttackResult
    y: np.ndarray
    clean_correct: np.ndarray
    nb_classes: int
    value_range: float
    kind: str = "budget"
    norm: float = math.inf
    row: Row = "attack"
    unbroken: np.ndarray | None = None
    radii: np.ndarray | None = None
    fell: np.ndarray | None = None
    budgets: tuple[float, ...] = ()
    nearest: Mapping[float, tuple[list[str], np.ndarray]] = dataclasses.field(default_factory=dict)
    results: Mapping[str, AttackResult] = dataclasses.field(default_factory=dict)
    left: Mapping[float, np.ndarray] = dataclasses.field(default_factory=dict)
    draws: np.ndarray | None = None
    alone: bool = True

    @functools.cached_property
    def attacked(self) -> np.ndarray:
        """Samples that were not adversarial from the start."""
        return ~self.result.initially_adversarial

    @functools.cached_property
    def found(self) -> np.ndarray:
        """Attacked samples that became adversarial."""
        return self.result.success & self.attacked

    @functools.cached_property
    def survived(self) -> np.ndarray:
        """Samples that are right without attack, and right or rejected after it."""
        if self.unbroken is not None:
            return self.unbroken
        result = self.result
        return survived(result.labels, result.accepted, self.y, self.clean_correct)

    def distances(self, values: np.ndarray) -> np.ndarray:
        """These values as distances: a failure infinite, a sample adversarial already zero."""
        return np.where(self.attacked, np.where(self.found, values, np.inf), 0.0)


class Metric:
    """One figure of the report: its name, how it is shown, how it is computed.

    A metric is found by its `key` in `kerasrobust.metrics.registry`; the row of an attack, the
    table, the Markdown and the JSON are all made from these declarations.

    Attributes:
        key: Name in the JSON and attribute of an attack's row, unique.
        header: Its column in the tables; `None` shows it in none.
        narrow: The same on a narrow terminal; `header` where empty.
        digits: Decimals of a number.
        legend: A sentence for the foot of the table; equal sentences are shown once.
        table: `"main"`, `"counts"` (the second table of the Markdown), or `"classes"`: the figure
            is a list with one entry per class and gets a table of its own.
        rows: The rows it is computed for: `"clean"`, `"attack"`, `"worst"` (over all attacks).
            It measures the samples of the first two.
        needs: What `measure` asks of the model: nothing (`"samples"`), its `"scores"`, or its
            `"gradient"`.
        stored: Whether measured values are kept beside a batch's result, which they are worth if
            they take longer than to read. They are found again by the metric's `get_config`.
    """

    key: str
    header: str | None = None
    narrow: str = ""
    digits: int = 3
    legend: str = ""
    table: Literal["main", "counts", "classes"] = "main"
    rows: tuple[Row, ...] = ("attack",)
    needs: Needs = "samples"
    stored: bool = False

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor, in types that JSON knows."""
        return {}

    def check(self, classifier: Classifier) -> None:
        """Refuses a model that it cannot be measured on, before anything is.

        Args:
            classifier: The model. Whether a callable answers labels only is known once it was
                called.

        Raises:
            TypeError: If the model has no gradient, or no scores, and the metric needs them.
            ValueError: In subclasses, if an argument is lacking.
        """
        if self.needs == "gradient" and not classifier.has_gradient:
            lacking = "gradients, which this model does not have: give a Keras model"
        elif self.needs == "scores" and classifier.judging.answers_labels:
            lacking = "scores, and the model answers labels"
        else:
            return
        raise TypeError(
            f"The metric {self.key!r} needs {lacking}. Received: model={classifier.model!r}"
        )

    def measure(self, points: Points) -> np.ndarray | None:
        """A value per sample that needs the samples or the model, read while they are in memory.

        Args:
            points: Samples of one batch.

        Returns:
            Values of shape `(n,)`, which `compute` finds in `outcome.result.columns[self.key]`;
            `None` where there is nothing to read.
        """
        return None

    def compute(self, outcome: Outcome) -> Any:
        """The figure: a number, a string, `None` where it has no value, or a list or dict of them.

        Args:
            outcome: The row that it is computed for.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `compute`.")

    def figures(self, outcome: Outcome) -> dict[str, Any]:
        """What it adds to the row, by name: the figure, and in subclasses what belongs to it."""
        return {self.key: self.compute(outcome)}

    def format(self, value: Any) -> str:
        """One value as text."""
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return "-"
        if isinstance(value, float):
            return f"{value:.{self.digits}f}"  # an infinite one as "inf"
        return str(value)

    def cell(self, row: Mapping[str, Any], samples: int, narrow: bool = False) -> str:
        """The text in its column of a row; empty where the row has no such figure.

        Args:
            row: The figures of the row.
            samples: Number of samples they were computed from.
            narrow: For a narrow terminal, without what can be left out.
        """
        return self.format(row[self.key]) if self.key in row else ""


class Share(Metric):
    """A share of samples with its 95 % Wilson interval, which stands beside it as `<key>_interval`.

    `compute` returns a `Proportion`, or `None` where there is no sample to share.
    """

    digits = 1

    def compute(self, outcome: Outcome) -> Proportion | None:
        raise NotImplementedError(f"{type(self).__name__} must define `compute`.")

    def figures(self, outcome: Outcome) -> dict[str, Any]:
        share = self.compute(outcome)
        interval = None if share is None else [share.low, share.high]
        value = None if share is None else share.value
        return {self.key: value, f"{self.key}_interval": interval}

    def format(self, value: Any) -> str:
        return super().format(None if value is None else 100.0 * value)

    def cell(self, row: Mapping[str, Any], samples: int, narrow: bool = False) -> str:
        text = super().cell(row, samples, narrow)
        interval = row.get(f"{self.key}_interval")
        if narrow or interval is None:
            return text
        # A decimal of an interval's end says something from about a thousand samples on.
        digits = int(samples >= 1000)
        low, high = (100.0 * end for end in interval)
        return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"
