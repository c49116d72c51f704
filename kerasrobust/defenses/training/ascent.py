"""What TRADES and MART share: adversaries by PGD from a small Gaussian step away."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import tensorflow as tf

from kerasrobust import norms
from kerasrobust.attacks.projected_gradient_descent import ProjectedGradientDescent
from kerasrobust.checks import check_float, check_int
from kerasrobust.defenses.training.base import (
    CRAFTS,
    Batch,
    Context,
    TrainingDefense,
    check_mode,
)
from kerasrobust.defenses.training.crafting import craft

# Standard deviation of the start, as a share of the range of the inputs: that of both references.
START = 1e-3


class InputAscent(TrainingDefense):
    """A defense that trains on the points where PGD ends; subclasses have the objective.

    The start is drawn for the global batch, so that several devices take the step of one.

    Attributes:
        ascent: The PGD whose loss is climbed.
    """

    rank = CRAFTS
    lengths = {"eps": 0.031, "eps_step": 0.007}
    ascent: ClassVar[type[ProjectedGradientDescent]] = ProjectedGradientDescent

    def __init__(
        self,
        eps: float | None,
        eps_step: float | None,
        max_iter: int,
        norm: float | str,
        beta: float,
        crafting: str,
        batch_norm: str,
    ):
        self.eps = None if eps is None else check_float("eps", eps)
        self.eps_step = None if eps_step is None else check_float("eps_step", eps_step)
        self.max_iter = check_int("max_iter", max_iter, 1)
        self.norm = norms.check_norm(norm, (2.0, math.inf))
        self.beta = check_float("beta", beta)
        self.crafting = check_mode("crafting", crafting, ("inference", "training"))
        self.batch_norm = check_mode("batch_norm", batch_norm)
        self.views = (crafting,)

    def prepare(self, batch: Batch, context: Context) -> Batch:
        attack = self.ascent(
            norm=self.norm,
            eps=self.length("eps", batch.clip_values),
            eps_step=self.length("eps_step", batch.clip_values),
            max_iter=self.max_iter,
        )
        start = self._start(batch, context)
        adversarial = craft(attack, batch, context, self.crafting, self.name, start=start)
        return batch.with_extra(self.name, adversarial)

    def _start(self, batch: Batch, context: Context) -> tf.Tensor:
        low, high = batch.clip_values
        seed, shape = context.seed(self.name), batch.x.shape[1:]

        def sample(n: tf.Tensor) -> tf.Tensor:
            return tf.random.stateless_normal([n, *shape], seed, stddev=START * (high - low))

        # The references let the start, and it alone, stick out of the box.
        return tf.clip_by_value(batch.x + context.draw(sample), low, high)

    def get_config(self) -> dict[str, Any]:
        return {
            "eps": self.eps,
            "eps_step": self.eps_step,
            "max_iter": self.max_iter,
            "norm": "inf" if self.norm == math.inf else self.norm,
            "beta": self.beta,
            "crafting": self.crafting,
            "batch_norm": self.batch_norm,
        }
