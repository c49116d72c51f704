"""Fast adversarial training: one gradient step from a random start, and a guard."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kerasrobust.attacks.projected_gradient_descent import ProjectedGradientDescent
from kerasrobust.checks import check_float, check_int
from kerasrobust.defenses.training.base import (
    CRAFTS,
    Batch,
    Context,
    Inner,
    TrainingDefense,
    check_mode,
)
from kerasrobust.defenses.training.labels import integer_labels


@keras.saving.register_keras_serializable("kerasrobust")
class Fast(TrainingDefense):
    """Trains on one signed gradient step from a random start, at the price of two passes.

    The loss of a sample is `J(x + d, y)`, `J` the rest of the chain, with

        d_0 ~ U(-eps, eps),    d = clip(d_0 + eps_step * sign(grad CE(f(x + d_0), y)), -eps, eps)

    and `x + d_0` and `x + d` clipped to the bounds.

    Such training can break down within some hundred steps ("catastrophic overfitting"): the model
    learns to blind the single step, and its accuracy under several steps falls to nothing. So
    every `guard_every` steps the accuracy `a` of the batch in training is measured under PGD from
    the same start, with `guard_max_iter` steps of `2.5 * eps / guard_max_iter`. While the last
    value is below `guard_fraction` times the best one so far, steps train on the points of that
    PGD. What the guard knows is saved with the model; `guard(model)` tells it, in a callback say.

    Wong, Rice and Kolter, "Fast is better than free: Revisiting adversarial training", 2020,
    arXiv:2001.03994, algorithm 3. The guard follows the idea of Li et al., "Towards Understanding
    Fast Adversarial Training", 2020, arXiv:2006.03089: to watch the accuracy under PGD and to
    recover by PGD steps. The rule and its numbers are this library's.

    Limits: Linf only, and weaker than PGD training at large `eps`. The guard looks at one batch at
    a time, with dropout and batch statistics off: with small batches it takes an unlucky batch for
    a breakdown now and then, which costs time only, and between two looks it knows nothing. With
    labels that a large part of the batches cannot be right on it never sees a fall.

    Args:
        eps: Budget (Linf) in the units of the inputs, above 0. Default 0.3 (MNIST in 0..1).
        eps_step: Length of the step, above 0; None (default) for the paper's `1.25 * eps`.
        guard_every: Steps from one measurement to the next; 0 for no guard. Default 100.
        guard_max_iter: Steps of the guard's PGD, at least 1. Default 10, so that the guard adds a
            tenth of a gradient pass to a step.
        guard_fraction: Share of the best accuracy below which training has broken down, above 0
            and below 1. Default 0.5.
        crafting: ``"inference"`` (default): the attack sees the model as it will serve;
            ``"training"``: it sees batch statistics and dropout. Neither moves any statistic.
        batch_norm: Mode of the adversarial pass: ``"training"`` (updates batch-norm statistics,
            the default), ``"inference"`` or ``"stateless"``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> fast = kerasrobust.defenses.get("fast", eps=8 / 255)
        >>> model = kerasrobust.wrap(model, fast)
        >>> fast.guard(model)
        {'active': False, 'accuracy': 0.0, 'best': 0.0}
    """

    name = "fast"
    rank = CRAFTS
    lengths = {"eps": 0.3, "eps_step": None}

    def __init__(
        self,
        eps: float | None = None,
        eps_step: float | None = None,
        guard_every: int = 100,
        guard_max_iter: int = 10,
        guard_fraction: float = 0.5,
        crafting: str = "inference",
        batch_norm: str = "training",
    ):
        self.eps = None if eps is None else check_float("eps", eps, above=True)
        self.eps_step = None if eps_step is None else check_float("eps_step", eps_step, above=True)
        self.guard_every = check_int("guard_every", guard_every, 0)
        self.guard_max_iter = check_int("guard_max_iter", guard_max_iter, 1)
        self.guard_fraction = check_float("guard_fraction", guard_fraction, above=True)
        if self.guard_fraction >= 1:
            raise ValueError(
                f"`guard_fraction` must be below 1. Received: guard_fraction={guard_fraction!r}"
            )
        self.crafting = check_mode("crafting", crafting, ("inference", "training"))
        self.batch_norm = check_mode("batch_norm", batch_norm)
        self.views = (crafting, "inference")

    def build(self, model: Any) -> None:
        # Accuracy at the last measurement, best accuracy so far: all that the decision needs.
        model.fast_guard = model.add_weight(
            name="fast_guard",
            shape=(2,),
            dtype="float32",
            initializer="zeros",
            trainable=False,
            aggregation="only_first_replica",
        )

    def guard(self, model: Any) -> dict[str, Any]:
        """What the guard of `model`, a `RobustModel` with this defense, knows.

        Returns:
            `active`: whether steps train on PGD now; `accuracy`: under PGD, of the batch measured
            last; `best`: the largest such accuracy so far. The last two are 0 before the first
            measurement.
        """
        accuracy, best = model.fast_guard.numpy()
        return {
            "active": bool(accuracy < self.guard_fraction * best),
            "accuracy": float(accuracy),
            "best": float(best),
        }

    def prepare(self, batch: Batch, context: Context) -> Batch:
        labels = integer_labels(batch.labels, context.classifier().nb_classes)
        start = self._start(batch, context)
        eps = self.length("eps", batch.clip_values)

        def pgd(step: float, max_iter: int) -> tf.Tensor:
            attack = ProjectedGradientDescent(
                context.classifier(self.crafting), eps=eps, eps_step=step, max_iter=max_iter
            )
            return attack.perturb(batch.x, labels, seed=context.seed(self.name), start=start)

        def single() -> tf.Tensor:
            return pgd(1.25 * eps if self.eps_step is None else self.eps_step, 1)

        def several() -> tf.Tensor:
            return pgd(2.5 * eps / self.guard_max_iter, self.guard_max_iter)

        if not self.guard_every:
            return batch.with_extra(self.name, single())

        state = context.model.fast_guard
        due = tf.equal(context.step % self.guard_every, 0)
        known = tf.identity(state.value)
        strong = tf.cond(due | self._active(known), several, lambda: batch.x)
        accuracy = self._accuracy(due, strong, labels, context)
        measured = tf.stack([accuracy, tf.maximum(accuracy, known[1])])
        known = tf.where(due, measured, known)
        # Every replica comes to the same decision: nothing of it is a replica's own.
        state.assign(known)
        adversarial = tf.cond(self._active(known), lambda: strong, single)
        return batch.with_extra(self.name, tf.ensure_shape(adversarial, batch.x.shape))

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        x, batch = batch.pop_extra(self.name)
        return inner(batch.derive(x, "adversarial", self.batch_norm))

    def _start(self, batch: Batch, context: Context) -> tf.Tensor:
        seed, shape = context.seed(self.name), batch.x.shape[1:]
        eps = self.length("eps", batch.clip_values)

        def sample(n: tf.Tensor) -> tf.Tensor:
            return eps * tf.random.stateless_uniform([n, *shape], seed, -1.0, 1.0)

        # In the paper the start may leave the box and the step alone is clipped; a model need not
        # be right about what can never be an input, so the gradient is taken inside.
        return tf.clip_by_value(batch.x + context.draw(sample), *batch.clip_values)

    def _active(self, known: tf.Tensor) -> tf.Tensor:
        return known[0] < self.guard_fraction * known[1]

    def _accuracy(
        self, due: tf.Tensor, x: tf.Tensor, labels: tf.Tensor, context: Context
    ) -> tf.Tensor:
        """Share of the global batch that the model is right about at `x`; 0 if it is not due."""

        def count() -> tf.Tensor:
            hits = tf.equal(context.classifier().decide(x)[0], labels)
            return tf.reduce_sum(tf.cast(hits, tf.float32))

        hits = tf.cond(due, count, lambda: tf.zeros([]))
        if context.replicas > 1:
            # Outside of the condition, where replicas may wait for each other.
            replica = tf.distribute.get_replica_context()
            hits = replica.all_reduce(tf.distribute.ReduceOp.SUM, hits)
        return tf.math.divide_no_nan(hits, tf.cast(context.global_size, tf.float32))

    def get_config(self) -> dict[str, Any]:
        return {
            "eps": self.eps,
            "eps_step": self.eps_step,
            "guard_every": self.guard_every,
            "guard_max_iter": self.guard_max_iter,
            "guard_fraction": self.guard_fraction,
            "crafting": self.crafting,
            "batch_norm": self.batch_norm,
        }
