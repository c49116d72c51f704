"""CLEVER, an estimate of the distance within which no adversarial point lies."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.engine.classifier import SIDE_BY_SIDE, Classifier
from kerasrobust.metrics.base import Metric, Outcome, Points
from kerasrobust.metrics.extreme_value import right_endpoint

# The authors' numbers of maxima and of points for each.
PAPER = {"nb_batches": 500, "batch_size": 1024}
TARGETS = ("runner_up", "least_likely", "random")
# Float32 numbers of the gradients that are held at once: 128 MiB.
_HELD = 2**25
# Maxima that wait for their fits.
_WAITING = 2**16
# Repeated samples that are held at once, in float32 numbers.
_COPIES = 2**22
_DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}


def clever(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    targeted: bool = False,
    nb_batches: int = 50,
    batch_size: int = 20,
    radius: float = 5.0,
    norm: float | str = 2,
    nb_grads: int | None = None,
    chunk: int | None = None,
    seed: int = 0,
    places: np.ndarray | None = None,
) -> np.ndarray:
    """CLEVER score of each sample: its margin over the steepest slope nearby.

    With `g = z_c - z_j`, `c` the predicted class, `score_j = min(g(x) / L, R)`, where `L` is the
    local Lipschitz constant of `g`: the largest dual norm of its gradient in the ball of radius `R`
    around the sample. `nb_batches` times the largest of `batch_size` random points is taken, and
    `right_endpoint` says where these maxima tend to. The score is that of the target, or the
    smallest over all other classes.

    It is an estimate and no bound: slopes between the points go unseen, and a model that masks
    its gradients scores high. Points are clipped to the bounds of the pixels, as in ART.

    Cost: `nb_batches * batch_size` gradients per sample for a target, times the number of other
    classes without one. The authors' 500 * 1024 are 512,000 per sample and class, 4.6 million per
    sample of ten classes.

    Reference: Weng et al., "Evaluating the Robustness of Neural Networks: An Extreme Value Theory
    Approach", 2018, arXiv:1801.10578, algorithms 1 and 2.

    Args:
        model: A `keras.Model` or a `Classifier` with gradients.
        x: Samples, shape `(n, ...)`, in the unit of the model's bounds.
        y: Target classes `(n,)`, with `targeted` and only then.
        targeted: Score against the classes `y` instead of all others.
        nb_batches: Maxima that the distribution is fitted to.
        batch_size: Points of one maximum.
        radius: `R`, in the unit of the samples.
        norm: 1, 2 or inf: of the ball and of the score.
        nb_grads: Without targets, only the so many likeliest other classes: the score can only rise
            by that. `None` takes all.
        chunk: Points that go through the model at once. Default: 128, or as many as hold 2^22
            numbers (27 images of 224x224x3).
        seed: Seed of the points.
        places: Integers `(n,)` by which a sample's points are drawn; by default its number here.

    Returns:
        float64 of shape `(n,)`, distances in the unit of the samples.

    Raises:
        TypeError: If the model has no gradient.
        ValueError: If an argument does not fit, a target is the predicted class, or a gradient is
            not finite.

    Example:

    >>> kerasrobust.metrics.clever(model, x[:10], norm="inf").mean()
    """
    classifier = Classifier.of(model)
    if not classifier.has_gradient:
        raise TypeError(
            f"CLEVER needs gradients: give a Keras model. Received: model={classifier.model!r}"
        )
    checks.check_bool("targeted", targeted)
    if targeted == (y is None):
        raise ValueError(
            "`y` holds the target classes: give it with `targeted=True` and only then. "
            f"Received: targeted={targeted}, y={'None' if y is None else 'given'}"
        )
    nb_batches = checks.check_int("nb_batches", nb_batches, 1)
    batch_size = checks.check_int("batch_size", batch_size, 1)
    radius = checks.check_float("radius", radius, above=True)
    order = norms.check_norm(norm)
    checks.check_int("seed", seed, 0, None)
    x = classifier.check(np.asarray(x))
    chunk = checks.check_batch_size(chunk, x.shape[1:], "chunk")
    places = np.arange(len(x)) if places is None else places
    logits = _logits(classifier, x, chunk, seed)
    own = logits.argmax(axis=1).astype(np.int32)
    if targeted:
        others = checks.check_labels(np.asarray(y), len(x), logits.shape[1]).astype(np.int32)
        if (others == own).any():
            raise ValueError(
                "A target must not be the predicted class. Received: y with the prediction of "
                f"samples {np.flatnonzero(others == own).tolist()}"
            )
        others = others[:, None]
    else:
        k = logits.shape[1] - 1
        if nb_grads is not None:
            k = min(checks.check_int("nb_grads", nb_grads, 1), k)
        # The likeliest class is the own one; of equal ones argmax takes the first, as here.
        others = np.argsort(-logits, axis=1, kind="stable")[:, 1 : k + 1].astype(np.int32)
    margins = np.take_along_axis(logits, own[:, None], 1) - np.take_along_axis(logits, others, 1)
    slopes = np.empty(margins.shape)
    waiting: list[np.ndarray] = []  # for their fits, which are made of many samples at once
    for i, (sample, place) in enumerate(zip(x, places, strict=True)):
        maxima = _maxima(
            classifier, sample, own[i], others[i], nb_batches, batch_size, radius, order, chunk,
            (seed, int(place)),
        )  # fmt: skip
        if not np.isfinite(maxima).all():
            raise ValueError(
                f"CLEVER needs finite gradients. Received: NaN or infinite ones near sample {i}"
            )
        waiting.append(maxima.T)
        if i + 1 == len(x) or len(waiting) * maxima.size >= _WAITING:
            ends = right_endpoint(np.concatenate(waiting))
            slopes[i + 1 - len(waiting) : i + 1] = ends.reshape(len(waiting), -1)
            waiting = []
    reach = np.divide(
        margins.astype(np.float64),
        slopes,
        out=np.where(margins > 0, np.inf, 0.0),
        where=slopes > 0,
    )
    return np.minimum(reach.min(axis=1), radius)


def _logits(classifier: Classifier, x: np.ndarray, chunk: int, seed: int) -> np.ndarray:
    """Of a randomised model means over its draws, as its gradients are."""

    def mean(x: tf.Tensor, key: tf.Tensor) -> tuple[tf.Tensor]:
        return (classifier.gradient(x, lambda z: tf.reduce_max(z, axis=-1), key=key)[0],)

    return classifier.passes("clever:logits", mean, (x,), chunk, (seed, 0))[0]


def _maxima(
    classifier: Classifier,
    sample: np.ndarray,
    own: np.ndarray,
    others: np.ndarray,
    nb_batches: int,
    batch_size: int,
    radius: float,
    order: float,
    chunk: int,
    key: tuple[int, int],
) -> np.ndarray:
    """The largest dual norms of the margins' gradients, float64 `(nb_batches, classes)`."""
    part = min(batch_size, chunk)  # points of a maximum that go through the model together
    parts = -(-batch_size // part)
    together = max(1, chunk // part)
    held = _HELD // (together * part * sample.size)
    columns = max(1, min(held, SIDE_BY_SIDE, len(others)))
    blocks = -(-len(others) // columns)
    columns = -(-len(others) // blocks)
    sizes = np.full((nb_batches, parts), part, np.int32)
    sizes[:, -1] = batch_size - part * (parts - 1)
    counts = sizes.ravel()
    slopes = _slopes(classifier, part, columns, radius, order)
    role = f"clever:{part}:{columns}:{radius!r}:{order}"
    copies = max(1, _COPIES // sample.size // together) * together
    found = np.zeros((len(counts), blocks * columns), np.float32)
    for block in range(blocks):
        inside = np.arange(block * columns, (block + 1) * columns)
        classes = others[np.minimum(inside, len(others) - 1)]
        for start in range(0, len(counts), copies):
            rows = counts[start : start + copies]
            n = len(rows)
            arrays = (
                np.broadcast_to(sample, (n, *sample.shape)),
                np.full(n, own, np.int32),
                np.broadcast_to(classes, (n, columns)),
                rows,
            )
            # Each class sees the same points; those of a place differ from call to call.
            salt = key[1] * -(-len(counts) // copies) + start // copies
            (best,) = classifier.passes(role, slopes, arrays, together, (key[0], salt))
            found[start : start + n, inside] = best
    return found.reshape(nb_batches, parts, -1).max(axis=1)[:, : len(others)].astype(np.float64)


def _slopes(classifier: Classifier, part: int, columns: int, radius: float, order: float) -> Any:
    """The graph of a few maxima: points around samples, gradients, their norms, the largest."""
    low, high = classifier.clip_values

    def slopes(
        x: tf.Tensor, own: tf.Tensor, others: tf.Tensor, count: tf.Tensor, key: tf.Tensor
    ) -> tuple[tf.Tensor]:
        drawn, asked = tf.unstack(tf.random.split(key, 2))
        centre = tf.repeat(x, part, axis=0)
        rows = tf.shape(centre)[0]
        delta = norms.random_in_ball(tf.shape(centre), tf.fill([rows], radius), order, drawn)
        points = tf.ensure_shape(tf.clip_by_value(centre + delta, low, high), centre.shape)
        own, others = tf.repeat(own, part), tf.repeat(others, part, axis=0)

        def weigh(logits: tf.Tensor) -> tf.Tensor:
            classes = tf.shape(logits)[-1]
            difference = tf.one_hot(own, classes)[:, None] - tf.one_hot(others, classes)
            return tf.ensure_shape(difference, [None, columns, None])

        if columns == 1:
            _, _, gradient = classifier.gradient(
                points, lambda z: tf.reduce_sum(z * weigh(z)[:, 0], axis=-1), key=asked
            )
        else:
            _, gradient = classifier.jacobian(points, weigh, key=asked)
        size = norms.norm(tf.reshape(gradient, [rows * columns, -1]), _DUAL[order])
        size = tf.reshape(size, [-1, part, columns])
        counts = tf.range(part)[None] < count[:, None]
        return (tf.reduce_max(tf.where(counts[..., None], size, 0.0), axis=1),)

    return slopes


class Clever(Metric):
    """Mean CLEVER score of the samples that the model gets right, without any attack.

    `<key>_median` stands beside it, `<key>_samples`, how many they were, and `<key>_gradients`,
    what they cost: `nb_batches * batch_size` each for a target, times the other classes without.

    Args:
        target: None (untargeted), or the class to be scored against: `"runner_up"`,
            `"least_likely"` or `"random"`.
        preset: `"paper"`: the authors' 500 maxima of 1,024 points each, 512,000 gradients per
            sample and class.
        nb_batches: Maxima that the distribution is fitted to; 50 by default.
        batch_size: Points of one maximum; 20 by default.
        radius: Of the ball, in the unit of the samples; no score is larger.
        nb_grads: See `clever`.
        samples: Only the first so many of all samples; None for all. AREB takes 100.

    Raises:
        ValueError: If one of them does not fit, or `preset` comes with numbers of its own.
    """

    norm: float
    rows = ("clean",)
    needs = "gradient"
    stored = True
    legend = (
        "CLEVER: estimated distance without adversarial points, mean over samples that are right, "
        "in the unit of the inputs."
    )

    def __init__(
        self,
        target: str | None = None,
        preset: str | None = None,
        nb_batches: int | None = None,
        batch_size: int | None = None,
        radius: float = 5.0,
        nb_grads: int | None = None,
        samples: int | None = 100,
    ):
        if target is not None and target not in TARGETS:
            raise ValueError(
                f"`target` must be None, {', '.join(map(repr, TARGETS))}. "
                f"Received: target={target!r}"
            )
        if preset not in (None, "paper") or (preset and (nb_batches or batch_size)):
            raise ValueError(
                "`preset` must be None or 'paper', which has numbers of its own. Received: "
                f"preset={preset!r}, nb_batches={nb_batches}, batch_size={batch_size}"
            )
        numbers = PAPER if preset else {"nb_batches": 50, "batch_size": 20}
        self.target = target
        self.preset = preset
        self.nb_batches = checks.check_int("nb_batches", nb_batches or numbers["nb_batches"], 1)
        self.batch_size = checks.check_int("batch_size", batch_size or numbers["batch_size"], 1)
        self.radius = checks.check_float("radius", radius, above=True)
        self.nb_grads = None if nb_grads is None else checks.check_int("nb_grads", nb_grads, 1)
        self.samples = None if samples is None else checks.check_int("samples", samples, 1)

    def get_config(self) -> dict[str, Any]:
        names = ("target", "nb_batches", "batch_size", "radius", "nb_grads", "samples")
        return {name: getattr(self, name) for name in names}

    def measure(self, points: Points) -> np.ndarray | None:
        if points.classifier is None:
            return None
        scores = np.full(len(points.x), np.nan)
        logits = _logits(points.classifier, points.x, points.batch_size, points.seed)
        rows = logits.argmax(axis=1) == points.y
        if self.samples is not None:
            rows &= points.places < self.samples
        if rows.any():
            targets = self._targets(logits[rows], points.seed, points.places[rows])
            scores[rows] = clever(
                points.classifier,
                points.x[rows],
                targets,
                targeted=targets is not None,
                nb_batches=self.nb_batches,
                batch_size=self.batch_size,
                radius=self.radius,
                norm=self.norm,
                nb_grads=self.nb_grads,
                chunk=points.batch_size,
                seed=points.seed,
                places=points.places[rows],
            )
        return scores

    def _targets(self, logits: np.ndarray, seed: int, places: np.ndarray) -> np.ndarray | None:
        if self.target is None:
            return None
        order = np.argsort(-logits, axis=1, kind="stable")
        last = logits.shape[1]
        if self.target == "random":
            draws = [np.random.default_rng((seed, place)).integers(1, last) for place in places]
            return order[np.arange(len(order)), draws]
        return order[:, 1 if self.target == "runner_up" else -1]

    def compute(self, outcome: Outcome) -> float | None:
        scores = self._scores(outcome)
        return float(scores.mean()) if len(scores) else None

    def figures(self, outcome: Outcome) -> dict[str, Any]:
        scores = self._scores(outcome)
        others = outcome.nb_classes - 1 if self.target is None else 1
        others = min(others, self.nb_grads or others)
        return {
            self.key: self.compute(outcome),
            f"{self.key}_median": float(np.median(scores)) if len(scores) else None,
            f"{self.key}_samples": len(scores),
            f"{self.key}_gradients": len(scores) * self.nb_batches * self.batch_size * others,
        }

    def _scores(self, outcome: Outcome) -> np.ndarray:
        scores = outcome.result.columns.get(self.key, np.zeros(0))
        return scores[np.isfinite(scores)]


class CleverL1(Clever):
    """CLEVER in L1; see `Clever`."""

    key = "clever_l1"
    header = "CLEVER L1"
    norm = 1.0


class CleverL2(Clever):
    """CLEVER in L2; see `Clever`."""

    key = "clever_l2"
    header = "CLEVER L2"
    norm = 2.0


class CleverLinf(Clever):
    """CLEVER in Linf; see `Clever`."""

    key = "clever_linf"
    header = "CLEVER Linf"
    digits = 4
    norm = math.inf
