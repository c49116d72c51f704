"""Basic iterative method."""

from __future__ import annotations

import math
from typing import Any, Unpack

from kerasrobust.attacks.projected_gradient_descent import LabelCommon, ProjectedGradientDescent


class BasicIterativeMethod(ProjectedGradientDescent):
    """The fast gradient sign method in many small steps (IFGSM).

    `x_{t+1} = clip_{x, eps}(x_t + eps_step * sign(grad CE(f(x_t), y)))` from `x_0 = x`: projected
    gradient descent in Linf without a random start.

    Reference: Kurakin, Goodfellow & Bengio, "Adversarial Examples in the Physical World", 2017,
    arXiv:1607.02533.

    Args:
        model: See `Attack`.
        eps: Budget in the unit of the inputs: a number, or one per sample `[n]`. Default: 0.3 of
            the width of the box.
        eps_step: Step length, likewise; None (default) for that of `ProjectedGradientDescent`.
            ART's default is 0.1. Steps of `eps / max_iter`, which can just reach the edge of the
            ball, are much weaker where there are many (MNIST, 100 steps: 32 % against 20 %).
        max_iter: Gradient steps.
        early_stop: End a sample at its first adversarial iterate.
        **common: `attack_labels`, `k`: see `ProjectedGradientDescent`; `targeted`, `batch_size`,
            `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = BasicIterativeMethod(model, eps=0.3, max_iter=10).generate(x, y)
    """

    name = "bim"
    source = "AREB, E2SAD"
    norms = (math.inf,)

    def __init__(
        self,
        model: Any = None,
        *,
        eps: Any = None,
        eps_step: Any = None,
        max_iter: int = 100,
        early_stop: bool = False,
        **common: Unpack[LabelCommon],
    ):
        super().__init__(
            model,
            norm=math.inf,
            eps=eps,
            eps_step=eps_step,
            max_iter=max_iter,
            early_stop=early_stop,
            **common,
        )
