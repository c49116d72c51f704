"""Random plus fast gradient method."""

from __future__ import annotations

import math
from typing import Any, Unpack

import tensorflow as tf

from kerasrobust import checks, norms
from kerasrobust.attacks import base
from kerasrobust.attacks.projected_gradient_descent import LabelCommon, ProjectedGradientDescent

# Of the budget that the random step takes.
SHARE = 0.1


class RandomFastGradientMethod(ProjectedGradientDescent):
    """A small random step first, then the fast gradient sign method with what is left of `eps`.

    `x' = clip(x + a * sign(n))`, `n` Gaussian, and `x_adv = clip(x' + (eps - a) sign(grad
    CE(f(x'), y)))` with `a = min(alpha, eps)`. The random step leaves the place where a model
    trained on single-step attacks hides its gradient. With `noise="gaussian"` the step is the
    noise itself, `clip(0.5 * a * n, -a, a)`.

    Zantedeschi et al. add "Gaussian noise (within a range of alpha)" and deduct alpha from the
    budget; the sign is Tramèr et al.'s, who uses the whole of alpha.

    Reference: Tramèr et al., "Ensemble Adversarial Training: Attacks and Defenses", 2018,
    arXiv:1705.07204, eq. 7; Zantedeschi, Nicolae & Rawat, "Efficient Defenses Against Adversarial
    Attacks", 2017, arXiv:1707.06728, section 4.1.

    Args:
        model: See `Attack`.
        eps: Budget of both steps in the unit of the inputs: a number, or one per sample `[n]`.
            Default: 0.3 of the width of the box.
        alpha: Length of the random step, which is deducted from `eps`; None (default) for a tenth
            of it (MNIST, `eps` 0.2: 37 % left, against 42 % at the papers' 0.05).
        noise: ``"sign"`` or ``"gaussian"``.
        num_random_init: Number of random steps tried, each followed by the second step, until the
            sample is fooled.
        **common: `attack_labels`, `k`: see `ProjectedGradientDescent`; `targeted`, `batch_size`,
            `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = RandomFastGradientMethod(model, eps=0.3, alpha=0.05).generate(x, y)
    """

    name = "rand_fgsm"
    source = "BRELU-GDA"
    norms = (math.inf,)
    lengths = {"eps": 0.3, "alpha": None}
    state_leaves = ("noise",)

    def __init__(
        self,
        model: Any = None,
        *,
        eps: Any = None,
        alpha: float | None = None,
        noise: str = "sign",
        num_random_init: int = 1,
        **common: Unpack[LabelCommon],
    ):
        self.alpha = None if alpha is None else checks.check_float("alpha", alpha)
        if noise not in ("sign", "gaussian"):
            raise ValueError(f"`noise` must be 'sign' or 'gaussian'. Received: noise={noise!r}")
        self.noise = noise
        super().__init__(
            model,
            norm=math.inf,
            eps=eps,
            eps_step=None,
            max_iter=1,
            num_random_init=checks.check_int("num_random_init", num_random_init, 1),
            **common,
        )

    def init(self, model: Any, state: base.State, params: base.Params, seed: Any) -> base.State:
        alpha = SHARE * state["eps"] if self.alpha is None else self.in_unit("alpha")
        noise = tf.minimum(alpha, state["eps"])
        return super().init(model, {**state, "noise": noise}, params, seed)

    def _step_length(self, state: base.State, params: base.Params) -> tf.Tensor:
        return state["eps"] - state["noise"]

    def _random_start(self, model: Any, state: base.State, seed: Any) -> tf.Tensor:
        noise = tf.random.stateless_normal(tf.shape(state["x"]), seed)
        noise = tf.sign(noise) if self.noise == "sign" else tf.clip_by_value(noise / 2, -1.0, 1.0)
        delta = norms.expand(state["noise"], noise) * noise
        if "mask" in state:
            delta *= state["mask"]
        return self.clip(model, state["x"] + tf.ensure_shape(delta, state["x"].shape))
