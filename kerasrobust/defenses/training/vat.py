"""Virtual adversarial training: predict the same where the prediction changes fastest."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kerasrobust import attacks, losses, norms
from kerasrobust.checks import check_float, check_int
from kerasrobust.defenses.training.base import (
    CRAFTS,
    Batch,
    Context,
    Inner,
    TrainingDefense,
    check_mode,
)


def virtual_adversarial_loss(clean: tf.Tensor, moved: tf.Tensor) -> tf.Tensor:
    """`KL(p(x) || p(x + r))` of logits `[batch, classes]`, `[batch]`; `p(x)` is a constant."""
    return losses.kl_divergence(tf.stop_gradient(clean), moved)


@keras.saving.register_keras_serializable("kerasrobust")
class VirtualAdversarialTraining(TrainingDefense):
    """Adds how far the prediction moves under the step `r` that moves it most, label unseen.

    The loss of a sample is

        J(x, y) + alpha * KL(p(x) || p(x + r)),    r = eps * d

    with `J` the rest of the chain, `p(x)` in the divergence held constant, and `d` the unit
    vector that `max_iter` power iterations

        d <- g / ||g||_2,    g = grad_r KL(p(x) || p(x + r)) at r = xi * d

    make of a random direction. They are those of `kerasrobust.attacks.VirtualAdversarialMethod`,
    without its choice between `d` and `-d`: as in the paper the random start decides. `x + r` is
    clipped to the bounds, which the paper does not do.

    Miyato et al., "Virtual Adversarial Training: A Regularization Method for Supervised and
    Semi-Supervised Learning", 2018, arXiv:1704.03976, sections 3.2 and 3.3.

    `eps` is the L2 length of the whole step, in the units of the inputs. GEA gives its eps, 5 to
    25, neither norm nor unit; of its images (128 x 128 x 3, 0..255) a whole-image length of 25
    would be a tenth of a grey level per pixel. Read as the root mean square over pixels, in grey
    levels, its eps is here `eps / 255 * sqrt(number of inputs)` for inputs in 0..1: 0.55 to 2.7 on
    MNIST and 1.1 to 5.4 on CIFAR-10; on its own images, 4.3 to 21.7, that is nearly its number.

    Limits: smooths the prediction within `eps` in L2 and in the direction found; GEA reports that
    adversarial regions are pushed away, not removed. A step costs `max_iter + 2` forward and
    backward passes and one more forward pass.

    Args:
        eps: Length of `r`, L2, in the units of the inputs, above 0. Default 2.1 in 0..1: what
            BRELU-GDA takes for MNIST and CIFAR-10, after Miyato et al.; the only budget of the
            documents whose unit is beyond doubt.
        xi: Length of the step at which the divergence is differentiated (ART's `finite_diff`),
            likewise. Default 0.1. The 1e-6 often seen leaves little but rounding in float32, and
            nothing in float16.
        max_iter: Power iterations, at least 1. Default 3, as in GEA; Miyato et al. make one.
        alpha: Weight of the divergence, above 0. Default 1.
        crafting: ``"inference"`` (default): `r` is sought on the model as it will serve;
            ``"training"``: with batch statistics and dropout. Neither moves any statistic.
        batch_norm: Mode of the pass at `x + r`: ``"training"`` (updates batch-norm statistics,
            the default), ``"inference"`` or ``"stateless"``.

    Raises:
        ValueError: If an argument is out of range.

    Example:
        >>> model = kerasrobust.wrap(model, defense="vat", eps=2.1, max_iter=1)
    """

    name = "vat"
    source = "GEA, BRELU-GDA"
    rank = CRAFTS
    lengths = {"eps": 2.1, "xi": 0.1}
    norm = 2.0

    def __init__(
        self,
        eps: float | None = None,
        xi: float | None = None,
        max_iter: int = 3,
        alpha: float = 1.0,
        crafting: str = "inference",
        batch_norm: str = "training",
    ):
        self.eps = None if eps is None else check_float("eps", eps, above=True)
        self.xi = None if xi is None else check_float("xi", xi, above=True)
        self.max_iter = check_int("max_iter", max_iter, 1)
        self.alpha = check_float("alpha", alpha, above=True)
        self.crafting = check_mode("crafting", crafting, ("inference", "training"))
        self.batch_norm = check_mode("batch_norm", batch_norm)
        self.views = (crafting,)

    def prepare(self, batch: Batch, context: Context) -> Batch:
        seed, shape = context.seed(self.name), batch.x.shape[1:]
        attack = _PowerIteration(
            context.classifier(self.crafting),
            eps=self.length("eps", batch.clip_values),
            finite_diff=self.length("xi", batch.clip_values),
            max_iter=self.max_iter,
        )
        low, high = batch.clip_values

        def sample(n: tf.Tensor) -> tf.Tensor:
            return (high - low) * tf.random.stateless_normal([n, *shape], seed)

        # Drawn here and not by the attack, so that several devices start where one does.
        start = batch.x + context.draw(sample)
        # An attack has to be given labels; this one does not look at them.
        unseen = tf.zeros(tf.shape(batch.x)[:1], tf.int32)
        adversarial = attack.perturb(batch.x, unseen, seed=seed, start=start)
        return batch.with_extra(self.name, adversarial)

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        x, batch = batch.pop_extra(self.name)
        value = inner(batch)
        moved = inner.logits(batch.derive(x, "adversarial", self.batch_norm))
        return value + self.alpha * virtual_adversarial_loss(inner.logits(batch), moved)

    def get_config(self) -> dict[str, Any]:
        return {
            "eps": self.eps,
            "xi": self.xi,
            "max_iter": self.max_iter,
            "alpha": self.alpha,
            "crafting": self.crafting,
            "batch_norm": self.batch_norm,
        }


class _PowerIteration(attacks.VirtualAdversarialMethod):
    """The attack from a given start and without the two passes that choose a sign."""

    takes_start = True

    def max_steps(self) -> int:
        return self.max_iter

    def init(self, model: Any, state: Any, params: Any, seed: Any) -> Any:
        state = super().init(model, state, params, seed)
        return {**state, "direction": norms.normalize(state["start"] - state["x"], 2)}

    def step(self, model: Any, state: Any, params: Any, seed: Any, t: Any) -> Any:
        return self._iterate_power(model, state, params)

    def done(self, state: Any, params: Any) -> tf.Tensor:
        return state["steps"] >= params["max_iter"]
