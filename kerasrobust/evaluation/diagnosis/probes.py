"""Findings that cost passes of their own, on a few of the samples.

An attack that fails says nothing unless it would have succeeded where it must. Each probe makes up
such a case, or looks at what the attack follows. They are about untargeted white-box attacks; each
looks at the strongest one that works to a budget, the one that broke most.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kerasrobust import losses, norms
from kerasrobust.attacks import ATTACKS
from kerasrobust.engine.classifier import Classifier, as_seed
from kerasrobust.engine.result import AttackResult
from kerasrobust.evaluation.diagnosis.evidence import (
    LUCK,
    REPEATED,
    STARTS,
    Repeat,
    attacked_by,
    below,
    beyond,
    beyond_luck,
    budget_of,
    held,
    inside,
    longer,
    nearer_and_farther,
    pgd_in_place_of,
    significant,
    some,
)
from kerasrobust.evaluation.diagnosis.finding import Finding
from kerasrobust.evaluation.diagnosis.planted import plant
from kerasrobust.evaluation.diagnosis.words import (
    Description,
    attack_again,
    percent,
    samples,
    spec,
    without_gradient,
)
from kerasrobust.evaluation.summary import AttackSummary
from kerasrobust.norms import norm_name

# Share of the samples that an attack must break when it may change all of the image.
_EVERYTHING = 0.95
# Share of the planted adversarial examples that an attack must find: Zimmermann et al., section 4.
_FOUND = 0.95
# Samples that something is planted beside, each attacked by itself.
_PLANTED = 16
# Random points of the ball, and as many on its surface.
_DRAWS = 10
# Of the samples an attack left, twice its budget may break this share more.
_GAIN = 0.05
# By this share of the median distance a minimal-norm attack may come nearer with twice its budget.
_NEARER = 0.1
# Half a grey level, as a share of the box: two images whose difference no file could hold.
_INVISIBLE = 0.5 / 255
_NEIGHBOURS = 4
# Cosine of the gradients at two such images, in the median, below which they lead nowhere.
_ALIGNED = 0.2
# The steps of PGD in the place of an attack of one step.
_STEPS = 40
# The stream of draws of these passes: none of an attack's, whose numbers count up from 0, nor of
# the clean pass's, which count down.
_STREAM = -(2**25)


@dataclasses.dataclass
class Subject:
    """What is probed, and what has been spent on it.

    Attributes:
        classifier: The model as attacks see it.
        take: Samples by their places; what was taken once is at hand.
        y: True labels, int64 `[n]`.
        repeat: Runs an attack on some samples; what leaves the budget of the evaluation fails.
        anywhere: The same, where that does not count.
        batch_size: Samples per pass.
        seed: Of the points that are drawn.
        randomised: Whether the model draws at inference.
        in_a_row: Whether each outcome holds what the ones before it broke.
        queries: Forward passes that were made.
        gradients: Forward and backward passes that were made.
        touched: Places of the samples that were looked at.
        measured: What each probe measured.
        skipped: Why a probe was not made.
    """

    classifier: Classifier
    take: Callable[[np.ndarray], np.ndarray]
    y: np.ndarray
    repeat: Repeat
    anywhere: Repeat
    batch_size: int = 128
    seed: int = 0
    randomised: bool = False
    in_a_row: bool = False
    queries: int = 0
    gradients: int = 0
    touched: set[int] = dataclasses.field(default_factory=set)
    measured: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    skipped: dict[str, str] = dataclasses.field(default_factory=dict)

    def run(self, repeat: Repeat, description: Description, rows: np.ndarray) -> Any:
        """An attack again, paid for."""
        result = repeat(description, rows)
        if result is not None:
            self.pay(rows, result.queries.sum(), result.gradients.sum())
        return result

    def pay(self, rows: np.ndarray, queries: Any = 0, gradients: Any = 0) -> None:
        """Counts passes over some samples."""
        self.queries, self.gradients = self.queries + int(queries), self.gradients + int(gradients)
        self.touched.update(rows.tolist())

    def note(self, code: str, value: float, threshold: float, rows: np.ndarray) -> None:
        """Keeps what a probe measured, whether it is a finding or not."""
        self.measured[code] = {
            "value": value,
            "threshold": threshold,
            "samples": len(rows),
        }

    def to_dict(self) -> dict[str, Any]:
        """What was measured at what cost, for the report."""
        return {
            "samples": len(self.touched),
            "queries": self.queries,
            "gradients": self.gradients,
            "measured": self.measured,
            "skipped": self.skipped,
        }


def probe(
    subject: Subject,
    summaries: Mapping[str, AttackSummary],
    results: Mapping[str, AttackResult],
) -> list[Finding]:
    """Looks at the model and its white-box attacks by passes of their own.

    - `unbounded_attack_fails`: the strongest attack, allowed to change every pixel by any amount,
      must break nearly all samples, those first that it left before (Carlini et al., "On
      evaluating adversarial robustness", 2019, section 4.6; Pintor et al., "Indicators of attack
      failure", 2022, indicator F6).
    - `non_finite_gradients`, `unstable_gradients`: the gradient of the attacks' loss at samples,
      and at neighbours half a grey level away: entries that are no numbers, and directions that
      have nothing to do with each other, as on a shattered loss surface (Pintor et al., I2, by the
      gradient in the place of the loss).
    - `noise_as_good`: random points of the ball break samples that no white-box attack broke, more
      than bad luck explains, and the attacks do not break significantly more in return (paired
      sign test).
    - `still_gains`: with twice the steps and starts the strongest attack breaks more than 5 % of
      the samples it left (exact test), or a minimal-norm attack comes nearer by more than a tenth
      (median, and paired sign test).
    - `attack_misses_planted`: see `planted`.

    Of a model that draws at inference only the first one is probed: what else a comparison of
    single samples tells there is the draws' doing.

    Args:
        subject: What is probed.
        summaries: The rows of the report, by name.
        results: The outcomes, by the same names.

    Returns:
        The findings.
    """
    whites = [
        row
        for row in summaries.values()
        if row.checks is None and row.knowledge == "white" and not row.targeted
    ]
    classifier = subject.classifier
    reason: str | None = None
    if not classifier.has_gradient:
        reason = "the model has no gradient"
    elif classifier.judging is not classifier:
        reason = "the attacks are crafted on another model than the one they are judged on"
    elif not whites:
        reason = "no untargeted white-box attack"
    if reason is not None:
        subject.skipped["all"] = reason
        return []
    known = {row.name: held(results[row.name]) for row in whites}
    attacked = attacked_by(whites, known)
    if not attacked.any():
        subject.skipped["all"] = "no sample that is right without an attack"
        return []
    with_budget = [row for row in whites if budget_of(row) is not None]
    best = max(with_budget, key=lambda row: int(known[row.name].success.sum()), default=None)
    wanted = [
        some(attacked),
        some(attacked, _PLANTED),
        _hardest(known[(best or whites[0]).name], attacked),
    ]
    if best is not None:
        wanted.append(some(_left(best, whites, known, attacked)))
    subject.take(np.unique(np.concatenate(wanted)))  # read once, at hand from then on
    findings = list(_unbounded(subject, best, whites, known, attacked))
    if subject.randomised:
        subject.skipped["others"] = "the model draws at inference"
        return findings
    findings += _gradients(subject, attacked)
    if best is not None:
        findings += _noise(subject, best, whites, known, attacked)
        findings += _planted(subject, best, attacked)
    findings += _gains(subject, best, whites, known, attacked)
    return findings


def _hardest(result: AttackResult, attacked: np.ndarray) -> np.ndarray:
    """Places of a few samples, those that an attack left before others."""
    left = attacked & ~result.success
    rows = np.concatenate([some(left), some(attacked & ~left)])[:REPEATED]
    return np.sort(rows)


def _left(
    best: AttackSummary,
    whites: Sequence[AttackSummary],
    results: Mapping[str, AttackResult],
    attacked: np.ndarray,
) -> np.ndarray:
    """Samples that no white-box attack broke in the budget of the strongest one."""
    eps = budget_of(best)
    assert eps is not None
    broken = [inside(results[row.name], best.norm, eps) for row in whites]
    return attacked & ~np.any(broken, axis=0)


def _unbounded(
    subject: Subject,
    best: AttackSummary | None,
    whites: Sequence[AttackSummary],
    results: Mapping[str, AttackResult],
    attacked: np.ndarray,
) -> Iterator[Finding]:
    """The strongest attack where everything is allowed."""
    row = whites[0] if best is None else best
    norm = math.inf if best is None else row.norm
    low, high = subject.classifier.clip_values
    rows = _hardest(results[row.name], attacked)
    features = int(np.prod(subject.take(rows[:1]).shape[1:]))
    full = (high - low) * {1.0: features, 2.0: math.sqrt(features)}.get(norm, 1.0)
    eps = None if best is None else budget_of(best)
    step = row.config.get("eps_step")
    if eps is None or not row.config.get("max_iter"):
        description = pgd_in_place_of(row, norm, full, _STEPS)
        description["config"]["eps"] = full
    else:
        config = {**row.config, "eps": full}
        if step is not None:  # as long a share of the budget as it was
            config["eps_step"] = full * float(np.max(step)) / float(np.max(eps))
        description = {"name": row.attack, "config": config}
    result = subject.run(subject.anywhere, description, rows)
    if result is None:
        subject.skipped["unbounded_attack_fails"] = f"{row.attack} cannot be repeated"
        return
    reached = float(result.success.mean())
    subject.note("unbounded_attack_fails", reached, _EVERYTHING, rows)
    if reached < _EVERYTHING:
        yield Finding(
            "unbounded_attack_fails",
            f"Allowed to change every pixel by any amount, {spec(description, 'norm')} breaks "
            f"{int(result.success.sum())} of {samples(len(rows))}. With that budget any image can "
            "be made of any other: the attack does not find what is there, because the gradient "
            "misleads or the steps do.",
            reached,
            _EVERYTHING,
            without_gradient(row.norm, eps),
        )


def _gradients(subject: Subject, attacked: np.ndarray) -> Iterator[Finding]:
    """Gradients of the attacks' loss at samples and at their neighbours."""
    classifier, rows = subject.classifier, some(attacked)
    x, y = subject.take(rows), subject.y[rows].astype(np.int32)
    low, high = classifier.clip_values

    def differentiate(points: np.ndarray) -> np.ndarray:
        subject.pay(rows, gradients=len(rows) * classifier.draws)
        (gradient,) = classifier.passes(
            "probe_gradient", slope, (points, y), min(subject.batch_size, REPEATED), (0, _STREAM)
        )
        return gradient.reshape(len(points), -1)

    def slope(points: tf.Tensor, labels: tf.Tensor, key: tf.Tensor) -> tuple[tf.Tensor, ...]:
        loss = lambda logits: losses.log_odds(logits, labels)  # noqa: E731
        return (classifier.gradient(points, loss, key=key)[2],)

    draw = np.random.default_rng(subject.seed)
    reach = _INVISIBLE * (high - low)
    at = differentiate(x)
    beside = []
    for _ in range(_NEIGHBOURS):
        moved = x + draw.uniform(-reach, reach, x.shape).astype(np.float32)
        beside.append(differentiate(np.clip(moved, low, high)))
    broken = np.any([~np.isfinite(one).all(axis=1) for one in (at, *beside)], axis=0)
    share = float(broken.mean())
    subject.note("non_finite_gradients", share, 0.0, rows)
    if share > 0:
        yield Finding(
            "non_finite_gradients",
            f"At {int(broken.sum())} of {samples(len(rows))}, or beside them, the gradient has "
            "entries that are no finite numbers. Attacks take these for zero: what they do not "
            "break there says nothing.",
            share,
            0.0,
            without_gradient(math.inf, None),
        )
    cosines = [_cosine(at, one) for one in beside]
    seen = ~broken & np.all([np.isfinite(one) for one in cosines], axis=0)
    if not seen.any():
        subject.skipped["unstable_gradients"] = "no gradient that is finite and not zero"
        return
    median = float(np.median(np.mean(cosines, axis=0)[seen]))
    subject.note("unstable_gradients", median, _ALIGNED, rows)
    if median < _ALIGNED:
        yield Finding(
            "unstable_gradients",
            "Half a grey level beside a sample the gradient leads elsewhere: the cosine of the two "
            f"is {median:.2g} in the median of {samples(int(seen.sum()))}. An attack that follows "
            "it walks at random. Take an attack that averages over a neighbourhood, or one without "
            "a gradient.",
            median,
            _ALIGNED,
            without_gradient(math.inf, None),
        )


def _cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Cosine of each pair of rows; NaN where one of them is zero."""
    one, other = (a.astype(np.float64) for a in (one, other))
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        one, other = (a / np.abs(a).max(axis=1, keepdims=True) for a in (one, other))
        lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
        return (one * other).sum(axis=1) / lengths


def _noise(
    subject: Subject,
    best: AttackSummary,
    whites: Sequence[AttackSummary],
    results: Mapping[str, AttackResult],
    attacked: np.ndarray,
) -> Iterator[Finding]:
    """Random points of the ball, and on its surface, beside what the attacks broke in it."""
    eps, norm = budget_of(best), best.norm
    assert eps is not None
    rows = some(attacked)
    broken = ~_left(best, whites, results, attacked)[rows]
    x, y, judge = subject.take(rows), subject.y[rows], subject.classifier.judging
    low, high = subject.classifier.clip_values
    radius = np.broadcast_to(eps[rows] if eps.ndim else eps, len(rows)).astype(np.float32)
    fell = np.zeros(len(rows), bool)
    for draw in range(2 * _DRAWS):
        delta = _random(x.shape, radius, norm, (subject.seed, draw), surface=draw >= _DRAWS)
        key = (subject.seed, _STREAM - draw)
        labels, _, accepted = judge.judge(np.clip(x + delta, low, high), subject.batch_size, key)
        fell |= accepted & (labels != y)
        subject.pay(rows, queries=len(rows) * judge.votes)
    more, less = int((fell & ~broken).sum()), int((broken & ~fell).sum())
    share = more / len(rows)
    subject.note("noise_as_good", share, LUCK, rows)
    if beyond_luck(more, len(rows)) and not significant(less, more):
        yield Finding(
            "noise_as_good",
            f"Of {samples(len(rows))}, {2 * _DRAWS} random points each in the budget of "
            f"{best.name} ({norm_name(norm)}) break {int(fell.sum())}, {more} of them such as no "
            f"white-box attack broke, and the attacks break {less} that noise does not. An attack "
            "that is no better than noise does not follow the gradient: its accuracy is not "
            "robustness.",
            share,
            LUCK,
            without_gradient(norm, eps),
        )


def _random(
    shape: tuple[int, ...], radius: np.ndarray, norm: float, seed: tuple[int, int], surface: bool
) -> np.ndarray:
    """Points of Lp balls around zero, uniform inside, or with a random direction on the surface."""
    points = norms.random_in_ball(shape, tf.constant(radius), norm, as_seed(*seed))
    if not surface:
        return points.numpy()
    length = norms.expand(tf.constant(radius), points)
    if norm == math.inf:  # a corner
        return (length * tf.sign(points)).numpy()
    return (length * norms.normalize(points, norm)).numpy()


def _planted(subject: Subject, best: AttackSummary, attacked: np.ndarray) -> Iterator[Finding]:
    """Adversarial examples that are there by construction."""
    code, eps = "attack_misses_planted", budget_of(best)
    assert eps is not None
    if best.attack not in ATTACKS.names() or eps.ndim:
        subject.skipped[code] = f"{best.name} cannot be repeated"
        return
    rows = some(attacked, _PLANTED)
    outcome = plant(
        subject.classifier,
        {"name": best.attack, "config": best.config},
        subject.take(rows),
        eps=float(eps),
        norm=best.norm,
        seed=subject.seed,
    )
    if isinstance(outcome, str):
        subject.skipped[code] = outcome
        return
    subject.pay(rows, outcome.queries, outcome.gradients)
    rows = rows[outcome.planted]
    if not len(rows):
        subject.skipped[code] = "no random point that a readout could tell from the others"
        return
    found = int(outcome.found[outcome.planted].sum())
    share = found / len(rows)
    subject.note(code, share, _FOUND, rows)
    if below(_FOUND, found, len(rows)):
        yield Finding(
            code,
            f"Beside each of {samples(len(rows))} an adversarial point was planted inside the "
            f"budget of {best.name}, by another linear readout of the model's logits; the attack "
            f"finds {found}. What it does not find on the model itself says as little.",
            share,
            _FOUND,
            without_gradient(best.norm, eps),
        )


def _gains(
    subject: Subject,
    best: AttackSummary | None,
    whites: Sequence[AttackSummary],
    results: Mapping[str, AttackResult],
    attacked: np.ndarray,
) -> Iterator[Finding]:
    """Attacks with twice the steps and starts: the strongest one, and the nearest in each norm."""
    if best is not None:
        yield from _breaks_more(subject, best, whites, results, attacked)
    if subject.in_a_row:
        return
    free = [row for row in whites if row.kind == "minimal" and longer(row, 2) is not None]
    for norm in sorted({row.norm for row in free}):
        those = [row for row in free if row.norm == norm]
        medians = [np.median(results[row.name].distance(norm)[attacked]) for row in those]
        yield from _comes_nearer(subject, those[int(np.argmin(medians))], whites, results, attacked)


def _breaks_more(
    subject: Subject,
    best: AttackSummary,
    whites: Sequence[AttackSummary],
    results: Mapping[str, AttackResult],
    attacked: np.ndarray,
) -> Iterator[Finding]:
    eps, norm = budget_of(best), best.norm
    assert eps is not None
    twice = longer(best, 2, restarts=True)
    if twice is None:
        twice = pgd_in_place_of(best, norm, float(np.max(eps)), _STEPS)
    rows = some(_left(best, whites, results, attacked))
    if not len(rows):
        subject.skipped[f"still_gains: {best.name}"] = "no sample was left"
        return
    result = subject.run(subject.repeat, twice, rows)
    if result is None:
        subject.skipped[f"still_gains: {best.name}"] = "cannot be repeated"
        return
    more = int(inside(result, norm, eps, rows).sum())
    share = more / len(rows)
    subject.note(f"still_gains: {best.name}", share, _GAIN, rows)
    if beyond(_GAIN, more, len(rows)):
        yield Finding(
            "still_gains",
            f"Of {samples(len(rows))} that every white-box attack left in the budget of "
            f"{best.name} ({norm_name(norm)}), {spec(twice)} breaks {more}. The attack was stopped "
            f"too early: the accuracy of {percent(best.accuracy)} under it is not robustness.",
            share,
            _GAIN,
            attack_again(twice, "eps", "norm", "eps_step", "max_iter", *STARTS),
        )


def _comes_nearer(
    subject: Subject,
    nearest: AttackSummary,
    whites: Sequence[AttackSummary],
    results: Mapping[str, AttackResult],
    attacked: np.ndarray,
) -> Iterator[Finding]:
    norm, rows = nearest.norm, some(attacked)
    twice = longer(nearest, 2, restarts=True)
    assert twice is not None
    result = subject.run(subject.repeat, twice, rows)
    if result is None:
        subject.skipped[f"still_gains: {nearest.name}"] = "cannot be repeated"
        return
    before = np.min([results[row.name].distance(norm) for row in whites], axis=0)[rows]
    # What another attack has found already is no loss.
    after = np.minimum(result.distance(norm), before)
    old, new = float(np.median(before)), float(np.median(after))
    gain = 0.0 if math.isinf(new) or not old else 1.0 if math.isinf(old) else 1 - new / old
    subject.note(f"still_gains: {nearest.name}", gain, _NEARER, rows)
    nearer, farther = nearer_and_farther(after, before, np.ones(len(rows), bool))
    if gain > _NEARER and significant(nearer, farther):
        yield Finding(
            "still_gains",
            f"With twice its steps {nearest.name} comes nearer than every white-box attack had on "
            f"{nearer} of {samples(len(rows))}: in {norm_name(norm)} their median falls from "
            f"{old:.4g} to {new:.4g}. It had been stopped too early, its distances are no measure "
            "of robustness.",
            gain,
            _NEARER,
            attack_again(twice, "norm", "max_iter", *STARTS),
        )
