"""What an attack found, sample by sample."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class AttackResult:
    """The outcome of one attack on `n` samples: a batch of them, or all.

    Success is judged by a forward pass of its own on the returned samples. A failure counts as an
    infinite distance, a sample that was adversarial before the attack as distance zero. Both are
    also given by number, so that a weaker attack can never look better. A minimal-norm attack that
    fails returns the clean sample, a budget attack its strongest point: it may fool another model.

    Attributes:
        name: Registry name of the attack.
        config: Its hyperparameters.
        targeted: Whether `y` holds targets (true) or labels to get away from (false).
        x: Clean samples, `[n, ...]`; None where they were not kept.
        x_adv: Points found, `[n, ...]`; None where they were not kept.
        y: int64 `[n]`, labels or targets.
        success: bool `[n]`.
        initially_adversarial: bool `[n]`, adversarial before the attack began.
        labels: int64 `[n]`, the label the model gives to `x_adv`.
        accepted: bool `[n]`, whether the model's detector accepts `x_adv`; None without one.
        confidence: float32 `[n]`, the probability of that label.
        l0: Number of input values that changed by more than 1e-6 of the value range, `[n]`.
        l1: L1 distances, `[n]`.
        l2: L2 distances, `[n]`.
        linf: Linf distances, `[n]`.
        queries: int64 `[n]`, forward passes the algorithm asked for.
        gradients: int64 `[n]`, forward and backward passes the algorithm asked for.
        zero_gradients: int64 `[n]`, gradients that were zero in every entry while the sample was
            not fooled: the attack was blind there.
        executed_queries: Forward passes executed, padding included.
        executed_gradients: Forward and backward passes executed, padding included.
        gave_up: bool `[n]`, a decision attack found no adversarial starting point.
        seconds: Wall-clock time of the attack, compilation included.
        columns: Figures per sample that were measured while the samples were at hand, by name.
    """

    name: str
    config: dict[str, Any]
    targeted: bool
    x: np.ndarray | None
    x_adv: np.ndarray | None
    y: np.ndarray
    success: np.ndarray
    initially_adversarial: np.ndarray
    labels: np.ndarray
    confidence: np.ndarray
    l0: np.ndarray
    l1: np.ndarray
    l2: np.ndarray
    linf: np.ndarray
    queries: np.ndarray
    gradients: np.ndarray
    zero_gradients: np.ndarray
    executed_queries: int
    executed_gradients: int
    gave_up: np.ndarray
    seconds: float
    accepted: np.ndarray | None = None
    columns: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    def distance(self, norm: float | str) -> np.ndarray:
        """Distances `[n]` in the norm 0, 1, 2 or inf.

        Raises:
            ValueError: If the norm is none of these.
        """
        try:
            return {0.0: self.l0, 1.0: self.l1, 2.0: self.l2, np.inf: self.linf}[float(norm)]
        except (KeyError, ValueError, TypeError):
            raise ValueError(f"`norm` must be 0, 1, 2 or inf. Received: norm={norm!r}") from None

    def take(self, rows: np.ndarray) -> AttackResult:
        """The same outcome for some of the samples; passes executed and seconds stay as they are.

        Args:
            rows: Indices or booleans.
        """
        changes: dict[str, Any] = {
            field.name: getattr(self, field.name)[rows]
            for field in dataclasses.fields(self)
            if isinstance(getattr(self, field.name), np.ndarray)
        }
        columns = {key: column[rows] for key, column in self.columns.items()}
        return dataclasses.replace(self, columns=columns, **changes)

    def overlaid(self, part: AttackResult, rows: np.ndarray) -> AttackResult:
        """This result with the outcome of some rows, by their places, in place of its own.

        Costs are those of the part.
        """
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            own, other = getattr(self, field.name), getattr(part, field.name)
            if isinstance(own, np.ndarray):
                changes[field.name] = own.copy()
                changes[field.name][rows] = other
        return dataclasses.replace(
            self,
            executed_queries=part.executed_queries,
            executed_gradients=part.executed_gradients,
            seconds=part.seconds,
            **changes,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[AttackResult]) -> AttackResult:
        """One result of batches, in their order: costs are added up, the rest is put in a row."""
        first = parts[0]
        changes: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            values = [getattr(part, field.name) for part in parts]
            if isinstance(values[0], np.ndarray):
                changes[field.name] = np.concatenate(values)
            elif field.name in ("executed_queries", "executed_gradients", "seconds"):
                changes[field.name] = sum(values)
            elif field.name == "columns":
                changes[field.name] = {
                    key: np.concatenate([part[key] for part in values]) for key in values[0]
                }
        return dataclasses.replace(first, **changes)

    @property
    def success_rate(self) -> float:
        """Share of samples on which the attack succeeded."""
        return float(np.mean(self.success))


class AttackInterrupted(RuntimeError):
    """A model failed in the middle of an attack; what had been found so far is kept.

    Attributes:
        x_adv: Best samples so far, `[n, ...]`; clean where nothing was found yet.
        success: bool `[n]`, whether an adversarial point had been found.
        queries: Number of samples sent to the model until it failed, the failing call included.
    """

    def __init__(self, message: str, x_adv: np.ndarray, success: np.ndarray, queries: int):
        super().__init__(message)
        self.x_adv = x_adv
        self.success = success
        self.queries = queries

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.x_adv, self.success, self.queries)
