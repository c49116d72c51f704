"""Fast gradient method."""

from __future__ import annotations

import math
from typing import Any

from typing_extensions import Unpack

from kerasrobust.attacks import base
from kerasrobust.attacks.projected_gradient_descent import ProjectedGradientDescent


class FastGradientMethod(ProjectedGradientDescent):
    """One step of length `eps` along the gradient of the cross-entropy.

    `x_adv = clip(x + eps * argmax_{||d||_p <= 1} <d, grad CE(f(x), y)>)`, for Linf
    `x + eps * sign(grad)`: projected gradient descent with one step as long as the budget. It
    equals ART's method for Linf and L2; L1 differs as described there.

    Reference: Goodfellow, Shlens & Szegedy, "Explaining and Harnessing Adversarial Examples",
    2015, arXiv:1412.6572.

    Args:
        model: See `Attack`.
        norm: inf, 1 or 2.
        eps: Budget in the unit of the inputs: a number, or one per sample `[n]`.
        num_random_init: Number of starts drawn uniformly from the ball; 0 starts at the sample.
        **common: `targeted`, `batch_size`, `seed`, `verbose`, `jit_compile`: see `Attack`.

    Example:
        >>> x_adv = FastGradientMethod(model, eps=0.1).generate(x, y)
    """

    name = "fgsm"

    def __init__(
        self,
        model: Any = None,
        *,
        norm: float | str = math.inf,
        eps: Any = 0.3,
        num_random_init: int = 0,
        **common: Unpack[base.Common],
    ):
        super().__init__(
            model,
            norm=norm,
            eps=eps,
            eps_step=eps,
            max_iter=1,
            num_random_init=num_random_init,
            **common,
        )
