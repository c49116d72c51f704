"""The batch, the unit of work: craft, judge, a result.

The partition of samples into batches comes from the batch size alone, a batch's randomness from the
seed and its index, and what all samples share is a prologue that is computed once. So a batch gives
the same result alone, in any order and on a resumed run.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from kerasrobust.checks import check_finite_scores, check_labels
from kerasrobust.engine.classifier import Classifier, ModelFailure
from kerasrobust.engine.drivers import Crafted, Steps, Stopped
from kerasrobust.engine.result import AttackResult
from kerasrobust.engine.source import Source

# Relative to the value range: a smaller change counts as no change in L0.
L0_TOLERANCE = 1e-6
# What a randomised model draws by in the passes before and after an attack.
BEFORE, AFTER, AGAIN = range(3)

Prologue = dict[str, np.ndarray]
# How long a prologue took: kept with it, and no part of what results depend on.
PROLOGUE_SECONDS = "seconds"


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some samples and all that an attack on them depends on beside the attack and the model.

    Attributes:
        index: Number of the batch.
        rows: Places of its samples among all `total`.
        total: Number of samples of the run.
        given: `x` and, where there are any, `mask`, `eps`, `eps_step`, `limit`, `start`, each with
            a leading sample axis; once it is crafted on `y` and `done` too.
        y: int64 labels or targets `[n]`; None for the model's own labels.
        whole: Samples of a full batch of the run, by which buckets are chosen.
    """

    index: int
    rows: np.ndarray
    total: int
    given: dict[str, np.ndarray]
    y: np.ndarray | None
    whole: int

    def part(self, rows: np.ndarray) -> Batch:
        """Some of the samples, by their places in this batch."""
        return dataclasses.replace(
            self,
            rows=self.rows[rows],
            given={key: value[rows] for key, value in self.given.items()},
            y=None if self.y is None else self.y[rows],
        )


class Crafts(Steps, Protocol):
    """What a batch needs of an attack, beside its steps; see `kerasrobust.attacks.Attack`."""

    @property
    def seed(self) -> int: ...

    @property
    def bound(self) -> Classifier: ...

    def prologue(self, source: Source) -> Prologue: ...

    def craft(
        self, batch: Batch, prologue: Prologue, progress: Callable[[int], None]
    ) -> Crafted: ...

    def get_config(self) -> dict[str, Any]: ...


def find_prologue(attack: Crafts, source: Source) -> Prologue:
    """What all samples share, and the seconds that it took: those of batch 0 (`run_batch`)."""
    begin = time.perf_counter()
    found = attack.prologue(source)
    return {**found, PROLOGUE_SECONDS: np.array(time.perf_counter() - begin)} if found else {}


def run_batch(
    attack: Crafts,
    batch: Batch,
    prologue: Prologue,
    progress: Callable[[int], None] = lambda steps: None,
) -> AttackResult:
    """Attacks a batch, then judges what came out with forward passes of its own.

    Args:
        attack: A bound attack.
        batch: The samples.
        prologue: What `find_prologue` returned for all samples.
        progress: Told of steps that are behind, summed over samples.

    Raises:
        ValueError: If the model's scores of the clean samples are not finite, or labels are out of
            range.
        Stopped: If a callable fails.
    """
    begin = time.perf_counter()
    paid = float(prologue.get(PROLOGUE_SECONDS, 0.0)) if batch.index == 0 else 0.0
    judge = attack.bound.judging
    x, n = batch.given["x"], len(batch.rows)
    passes = 0

    def ask(points: np.ndarray, stage: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        nonlocal passes
        passes += judge.votes * len(points)
        return judge.judge(points, batch.whole, (attack.seed, 3 * batch.index + stage))

    clean_labels, clean_confidence, clean_accepted = ask(x, BEFORE)
    check_finite_scores(clean_confidence)
    y = clean_labels if batch.y is None else check_labels(batch.y, n, judge.known_classes)
    criterion = attack.criterion
    initially = criterion.met(clean_labels, y, clean_accepted)
    # The nearest adversarial point of a sample that is adversarial already is the sample.
    done = initially if attack.kind == "minimal" else np.zeros(n, bool)
    given = {**batch.given, "y": y.astype(np.int32), "done": done}
    try:
        crafted = attack.craft(dataclasses.replace(batch, given=given), prologue, progress)
    except Stopped:
        raise
    except ModelFailure as error:
        raise Stopped(str(error), x, done) from error
    crafted.found |= done

    x_adv = crafted.x_adv
    try:
        labels, confidence, accepted = ask(x_adv, AFTER)
    except ModelFailure as error:
        raise Stopped(str(error), crafted.best, crafted.found) from error
    # Where scores are no numbers the label is the first class by chance.
    success = criterion.met(labels, y, accepted) & np.isfinite(confidence)
    # A budget attack whose last iterate fails returns an earlier one that did not.
    other = (crafted.best != x_adv).reshape(n, -1).any(axis=1)
    lost = np.flatnonzero(crafted.found & other & ~success)
    if len(lost):
        x_adv[lost] = crafted.best[lost]
        labels[lost], confidence[lost], accepted[lost] = ask(x_adv[lost], AGAIN)
        success = criterion.met(labels, y, accepted) & np.isfinite(confidence)
        crafted.queries[lost] += judge.votes
    if attack.kind == "minimal":
        failed = np.flatnonzero(~success)
        x_adv[failed], labels[failed] = x[failed], clean_labels[failed]
        confidence[failed], accepted[failed] = clean_confidence[failed], clean_accepted[failed]
    distances = measure(x, x_adv, judge.clip_values)
    for distance in distances.values():
        distance[initially] = 0.0
        distance[~success] = np.inf
    return AttackResult(
        name=attack.name,
        config=attack.get_config(),
        targeted=criterion.targeted,
        x=x,
        x_adv=x_adv,
        y=y.astype(np.int64),
        success=success,
        initially_adversarial=initially,
        labels=labels.astype(np.int64),
        accepted=accepted if judge.rejects else None,
        confidence=confidence,
        queries=crafted.queries + 2 * judge.votes,
        gradients=crafted.gradients,
        zero_gradients=crafted.zero_gradients,
        executed_queries=crafted.executed_queries + passes,
        executed_gradients=crafted.executed_gradients,
        gave_up=crafted.gave_up & ~success,
        seconds=time.perf_counter() - begin + paid,
        l0=distances["l0"],
        l1=distances["l1"],
        l2=distances["l2"],
        linf=distances["linf"],
    )


def measure(
    x: np.ndarray, x_adv: np.ndarray, clip_values: tuple[float, float]
) -> dict[str, np.ndarray]:
    """How far `x_adv` is from `x` in each norm, `[n]`."""
    low, high = clip_values
    size = np.abs((x_adv.astype(np.float64) - x).reshape(len(x), -1))
    return {
        "l0": (size > L0_TOLERANCE * (high - low)).sum(axis=1).astype(np.float64),
        "l1": size.sum(axis=1),
        "l2": np.sqrt((size**2).sum(axis=1)),
        "linf": size.max(axis=1, initial=0.0),
    }
