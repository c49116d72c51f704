"""Projected gradient descent."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Unpack

import tensorflow as tf

from kerasrobust import checks, losses, norms
from kerasrobust.attacks import base

LABELS = ("hard", "smoothed")
# What the smoothed labels of the e2SAD thesis give the true class.
SMOOTHED = 0.75
# Length of the last step as a share of the budget, where steps fall.
SHORTEST = 0.01


def step_share(steps: Any, max_iter: Any, norm: float) -> tf.Tensor:
    """Length of the step after `steps` of `max_iter` ones, as a share of the budget.

    It falls along a cosine from the whole budget, in L1, where a step moves few pixels, from twice
    that, to a hundredth: long steps cross the ball, short ones climb to the top of where they
    arrive. Measured on 200 samples, what 100 steps leave of a natural and of a PGD-trained MNIST
    CNN: 10.5 and 63.5 % (Linf 0.1 and 0.3), 33 and 52 % (L2 1 and 2), 13 and 35 % (L1 8 and 12);
    the best of constant steps of 0.1, 0.25 and 0.5 of the budget 18 and 65.5, 35.5 and 53.5, 18 and
    47.5 %.
    """
    longest = 2.0 if norm == 1 else 1.0
    done = tf.cast(steps, tf.float32) / tf.cast(max_iter, tf.float32)
    return SHORTEST + (longest - SHORTEST) * (1 + tf.cos(math.pi * done)) / 2


class LabelCommon(base.Common, total=False):
    """The arguments that every attack takes that is made of this one."""

    attack_labels: str
    k: float | None


class ProjectedGradientDescent(base.Attack):
    """Steepest ascent of the cross-entropy inside an Lp ball and the box.

    `x_{t+1} = P_eps(clip(x_t + eps_step * argmax_{||d||_p <= 1} <d, grad CE(f(x_t), y)>))`.
    The iteration runs to its last step and returns the last iterate, as the paper and ART do; if
    that one fails and an earlier iterate did not, the earlier one with the largest loss is
    returned. One step equals ART's for Linf and L2. For L1 the step fills the largest entries of
    the gradient up to the box and the projection is Euclidean, where ART moves one entry, which
    stalls at the edge of the box, and rescales (`norms.ascent_direction`, `norms.project`).

    What is climbed is `log((1 - p_y) / p_y)`, which rises with the cross-entropy and has the same
    ascent direction, at any gap between the logits (`losses.log_odds`). The gradient that ART and
    Foolbox take loses the part that leads away from the true class where logits are more than
    about 17 apart, and is zero above about 100.

    Reference: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", 2018,
    arXiv:1706.06083.

    Args:
        model: See `Attack`.
        norm: inf, 1 or 2.
        eps: Budget in the unit of the inputs: a number, or one per sample `[n]`. Default: 0.3 of
            the width of the box.
        eps_step: Step length, likewise; None (default) for steps that fall from `eps` (L1: twice
            that) to a hundredth of it, see `step_share`. The paper's are constant, ART's default is
            0.1, whatever the budget.
        max_iter: Gradient steps per start.
        num_random_init: Number of starts drawn uniformly from the ball; 0 is one start at the
            sample. A sample that is adversarial at the end of a start takes no further start.
        early_stop: End a sample at its first adversarial iterate. The result is as successful
            and less confident.
        attack_labels: Labels of the cross-entropy that is climbed. ``"hard"`` (default): the class,
            which is what an attacker wants to be left. ``"smoothed"``: the class with the
            probability `k`, all others with equal shares of the rest, as a model may have been
            trained: to reproduce figures that were found so, and nothing else. Its gradient is
            `f(x) - q`: where the model is surer of the class than `k` the attack makes it surer
            still. As a rule that is weaker than the hard one, and evaluations say so.
        k: Probability of the class in smoothed labels, above `1 / classes` and at most 1 (the same
            points as hard labels); None (default) for 0.75, that of the e2SAD thesis, whose rows
            "S" were probably attacked so.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> attack = ProjectedGradientDescent(model, eps=0.3, max_iter=40)
        >>> x_adv = attack.generate(x, y)
    """

    name = "pgd"
    kind = "budget"
    strategy = "sensitivity"
    source = "all"
    lengths: ClassVar[dict[str, float | None]] = {"eps": 0.3, "eps_step": None}
    traced: ClassVar[tuple[str, ...]] = ("max_iter",)
    state_leaves: ClassVar[tuple[str, ...]] = ("iterate", "steps", "best_loss")
    takes_start = True
    common: ClassVar[Any] = LabelCommon
    art_defaults: ClassVar[dict[str, Any]] = {"eps_step": 0.1}

    def __init__(
        self,
        model: Any = None,
        *,
        norm: float | str = math.inf,
        eps: Any = None,
        eps_step: Any = None,
        max_iter: int = 100,
        num_random_init: int = 0,
        early_stop: bool = False,
        attack_labels: str = "hard",
        k: float | None = None,
        **common: Unpack[base.Common],
    ):
        self.norm = norms.check_norm(norm)
        self.eps = None if eps is None else checks.check_size("eps", eps)
        self.eps_step = None if eps_step is None else checks.check_size("eps_step", eps_step)
        self.max_iter = checks.check_int("max_iter", max_iter, 1)
        self.num_random_init = checks.check_int("num_random_init", num_random_init, 0)
        self.early_stop = checks.check_bool("early_stop", early_stop)
        if attack_labels not in LABELS:
            raise ValueError(
                f"`attack_labels` must be one of {', '.join(LABELS)}. "
                f"Received: attack_labels={attack_labels!r}"
            )
        self.attack_labels = attack_labels
        if attack_labels == "hard" and k is not None:
            raise ValueError(
                "`k` is the share of the class in smoothed labels: give attack_labels='smoothed' "
                f"with it. Received: k={k!r}, attack_labels={attack_labels!r}"
            )
        if attack_labels == "smoothed":
            k = checks.check_float("k", SMOOTHED if k is None else k, above=True)
            if k > 1:
                raise ValueError(f"`k` must be at most 1. Received: k={k!r}")
        self.k = k
        super().__init__(model, **common)

    def check(self) -> None:
        super().check()
        classes = self.bound.known_classes
        if self.k is not None and classes is not None and self.k * classes <= 1:
            raise ValueError(
                f"`k` must be above 1 / {classes}, or the class is not the likeliest one. "
                f"Received: k={self.k!r}"
            )

    def max_steps(self) -> int:
        return self.max_iter * max(self.num_random_init, 1)

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        rows = tf.shape(state["x"])[0]
        if "start" in state:
            iterate = state["start"]
        elif self.num_random_init:
            iterate = self._random_start(model, state, seed)
        else:
            iterate = state["x"]
        return {
            **state,
            "iterate": iterate,
            "steps": tf.zeros([rows], tf.int32),
            "best": state["x"],
            "best_loss": tf.fill([rows], -math.inf),
            "found": tf.zeros([rows], tf.bool),
        }

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        logits, loss, gradient, state = self._ascend(model, state)
        state = self._keep_best(model, state, state["iterate"], logits, loss)
        low, high = model.clip_values
        moved = state["iterate"] + norms.ascent_direction(
            gradient,
            self._step_length(state, params),
            self.norm,
            low - state["iterate"],
            high - state["iterate"],
        )
        delta = norms.project(self.clip(model, moved) - state["x"], state["eps"], self.norm)
        state = {**state, "iterate": state["x"] + delta, "steps": state["steps"] + 1}
        if self.num_random_init > 1:
            ended = tf.equal((t + 1) % params["max_iter"], 0)
            state = tf.cond(ended, lambda: self._restart(model, state, seed), lambda: state)
        return state

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        if self.early_stop:
            at_rest = state["found"]
        else:
            at_rest = state["found"] & tf.equal(state["steps"] % params["max_iter"], 0)
        starts = max(self.num_random_init, 1)
        return tf.greater_equal(state["steps"], params["max_iter"] * starts) | at_rest

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        if not self.early_stop:
            return state["iterate"]
        found = norms.expand(state["found"], state["x"])
        return tf.where(found, state["best"], state["iterate"])

    def _ascend(
        self, model: Any, state: base.State
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, base.State]:
        """Logits, loss and the vector to follow at the iterate: what the variants change."""
        return self.differentiate(
            model, state, state["iterate"], lambda z: self._objective(z, state)
        )

    def _step_length(self, state: base.State, params: base.Params) -> tf.Tensor:
        """Length of the next step, `[batch]`."""
        if self.eps_step is not None:
            return state["eps_step"]
        steps = state["steps"] % params["max_iter"]
        return state["eps"] * step_share(steps, params["max_iter"], self.norm)

    def _objective(self, logits: tf.Tensor, state: base.State) -> tf.Tensor:
        """The loss to climb, `[batch]`: for a subclass with a loss of its own to replace."""
        loss = self._loss(logits, state["y"])
        return -loss if self.targeted else loss

    def _loss(self, logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        """Rises with the cross-entropy of the labels that were asked for, `[batch]`."""
        if self.k is None:
            return losses.log_odds(logits, labels)
        return losses.log_smoothed(logits, labels, self.k)

    def _random_start(self, model: Any, state: base.State, seed: Any) -> tf.Tensor:
        delta = norms.random_in_ball(tf.shape(state["x"]), state["eps"], self.norm, seed)
        if "mask" in state:
            delta *= state["mask"]
        return self.clip(model, state["x"] + tf.ensure_shape(delta, state["x"].shape))

    def _keep_best(
        self, model: Any, state: base.State, x: tf.Tensor, logits: tf.Tensor, loss: tf.Tensor
    ) -> base.State:
        better = self.fools(model, state, x, logits) & (loss > state["best_loss"])
        return {
            **state,
            "best": norms.select(better, x, state["best"]),
            "best_loss": tf.where(better, loss, state["best_loss"]),
            "found": state["found"] | better,
        }

    def _restart(self, model: Any, state: base.State, seed: Any) -> base.State:
        """Looks at the last iterate of a start, and draws the next one where it failed."""
        logits, state = self.score(model, state, state["iterate"])
        loss = self._objective(logits, state)
        state = self._keep_best(model, state, state["iterate"], logits, loss)
        fresh = self._random_start(model, state, seed)
        return {**state, "iterate": norms.select(state["found"], state["iterate"], fresh)}
