"""Decoupled direction and norm attack."""

from __future__ import annotations

from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks import base, nearest

# What is left of the step at the end.
LAST_SHARE = 0.01


class DecoupledDirectionNorm(base.Attack):
    """Unit steps along the gradient on a sphere that shrinks where it is adversarial.

    With `g_k` the gradient of the cross-entropy at `x + d_k`, which is judged by the same pass:
    `e_{k+1} = (1 - gamma) e_k` where `x + d_k` is adversarial and `(1 + gamma) e_k` where it is
    not, `d_{k+1} = clip(x + e_{k+1} u / ||u||_2) - x` with `u = d_k + a_k g_k / ||g_k||_2`. The
    direction thus needs no weighing against the length. `a_k` falls from 1 to 0.01 along a cosine.
    The nearest adversarial iterate is returned. Where the gradient is zero the direction is random,
    one for a batch.

    What is climbed is `log((1 - p_y) / p_y)`, whose direction is that of the cross-entropy and
    which does not vanish where the model is sure, with `p` of a temperature that falls along the
    cosine, too, from 1 to a fiftieth, where the odds are the margin (`losses.log_odds`): 1.4 %
    nearer than at 1 on a CNN for CIFAR-10, and as near on one for MNIST. Values are not rounded to
    grey levels, as in each step of the paper they are. 1,000 steps are the longest of the paper's
    runs.

    Reference: Rony et al., "Decoupling Direction and Norm for Efficient Gradient-Based L2
    Adversarial Attacks and Defenses", 2019, arXiv:1811.09600, algorithm 1.

    Args:
        model: See `Attack`.
        max_iter: Number of steps, at least 2: each judges, by one pass, where the last one led.
        gamma: Share by which the sphere shrinks or grows in a step, below 1.
        init_eps: Its first radius, in the unit of the inputs. Default: the width of the box, the
            paper's.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = DecoupledDirectionNorm(model, max_iter=300).generate(x, y)
    """

    name = "ddn"
    kind = "minimal"
    strategy = "optimization"
    source = "beyond the documents"
    norm = 2.0
    norms = (2.0,)
    lengths = {"init_eps": 1.0}
    traced = ("max_iter", "gamma", "init_eps")
    state_leaves = ("radius", *nearest.LEAVES)

    def __init__(
        self,
        model: Any = None,
        *,
        max_iter: int = 1000,
        gamma: float = 0.05,
        init_eps: float | None = None,
        **common: Unpack[base.Common],
    ):
        self.max_iter = checks.check_int("max_iter", max_iter, 2)
        self.gamma = checks.check_float("gamma", gamma, above=True, below=1.0)
        self.init_eps = (
            None if init_eps is None else checks.check_float("init_eps", init_eps, above=True)
        )
        super().__init__(model, **common)

    def max_steps(self) -> int:
        return self.max_iter

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        rows = tf.shape(state["x"])[0]
        return {**nearest.init(state), "radius": tf.fill([rows], params["init_eps"])}

    def step(
        self, model: Any, state: base.State, params: base.Params, seed: Any, t: Any
    ) -> base.State:
        x, iterate = state["x"], state["iterate"]
        loss = nearest.odds(state, params["max_iter"], self.targeted)
        logits, _, gradient, state = self.differentiate(model, state, iterate, loss)
        fooled = self.fools(model, state, iterate, logits)
        state = nearest.keep(model, state, logits, fooled, norms.norm(iterate - x, 2))

        gamma = params["gamma"]
        back = nearest.goes_back(fooled, logits)
        radius = state["radius"] * tf.where(back, 1 - gamma, 1 + gamma)
        radius = tf.minimum(radius, nearest.farthest(model, state, 2))
        length = nearest.fall(state, params["max_iter"], 1.0, LAST_SHARE)
        moved = iterate - x + norms.expand(length, x) * nearest.direction(state, gradient, seed)
        moved = x + norms.expand(radius, x) * norms.normalize(moved, 2)
        return {
            **state,
            "iterate": self.clip(model, moved),
            "radius": radius,
            "steps": state["steps"] + 1,
        }

    def done(self, state: base.State, params: base.Params) -> tf.Tensor:
        return nearest.done(state, params)

    def finish(self, model: Any, state: base.State, params: base.Params) -> tf.Tensor:
        return state["best"]
