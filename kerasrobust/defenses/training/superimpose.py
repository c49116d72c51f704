"""Superimposed images: train with each image laid under another one."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kerasrobust import losses, norms
from kerasrobust.checks import check_bool, check_float
from kerasrobust.defenses.training.base import Batch, Context, Inner, TrainingDefense, check_mode

# Halvings of [0, 1]: as many as a float32 has binary digits.
HALVINGS = 24


def superimpose(x: tf.Tensor, other: tf.Tensor, alpha: tf.Tensor) -> tf.Tensor:
    """`(1 - alpha) * x + alpha * other`, `[batch, ...]`, with one `alpha` per image, `[batch]`."""
    alpha = norms.expand(alpha, x)
    return (1.0 - alpha) * x + alpha * other


def other_rows(n: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """For each of `n` rows the index of another one, all equally likely; 0 where `n` is one."""
    shift = tf.random.stateless_uniform([n], seed, 1, tf.maximum(n, 2), tf.int32)
    return (tf.range(n) + shift) % tf.maximum(n, 1)


def beta_quantile(u: tf.Tensor, p: float, q: float) -> tf.Tensor:
    """Where the distribution function of Beta(p, q) is `u`, to about 1e-5.

    Makes Beta draws of uniform ones. TensorFlow's own stateless gamma draws, whose ratios are Beta
    distributed, cannot be compiled by XLA. What is inexact is `betainc` in float32.
    """

    def halve(i: tf.Tensor, low: tf.Tensor, width: tf.Tensor) -> tuple[tf.Tensor, ...]:
        middle = low + width
        return i + 1, tf.where(tf.math.betainc(p, q, middle) < u, middle, low), width / 2

    start = (tf.constant(0), tf.zeros_like(u), tf.constant(0.5))
    _, low, width = tf.while_loop(lambda i, *_: i < HALVINGS, halve, start, parallel_iterations=1)
    return low + width


@keras.saving.register_keras_serializable("kerasrobust")
class Superimpose(TrainingDefense):
    """Trains with `x~_i = (1 - a) x_i + a x_r`, `x_r` another image of the batch.

    `x_r` is drawn anew for every image and step, from the global batch, and is never the image
    itself unless that is alone. The label is that of `x_i`. Three forms of the loss of a sample,
    with `J` the rest of the chain:

    1. `alpha` fixed, `kl_weight=0`: `J(x~, y)`, no clean pass;
    2. `alpha` fixed, `kl_weight > 0`: `J(x, y) + kl_weight * KL(p(x) || p(x~))`;
    3. as 2, with a ~ Beta(p, q).

    The paper that introduces the gradient ensemble attack (GEA), eq. 4 and section 2.2.

    Where the paper leaves the choice open: it has a in (0, 0.5), but Beta(2, 4) exceeds 0.5 with a
    probability of 0.19 (`beyond_half`); a per image or per batch (`draw_per`); whether the clean
    prediction is a target or is pulled along (`stop_gradient`; "following the idea of" virtual
    adversarial training, which holds it constant).

    Limits: no adversary is sought. The paper finds that a fixed alpha weakens adversarial regions
    without removing them, and measures robustness to transferred attacks only. Forms 2 and 3 cost
    twice plain training.

    Args:
        alpha: Share of the other image, above 0 and below 0.5. Default: 0.4, the paper's value,
            unless `p` and `q` are given.
        p, q: Parameters of the Beta distribution instead of a fixed `alpha`, above 0; the paper
            has p = 2 and q of 4, 6 or 10. Default: none.
        kl_weight: Weight of the divergence (the paper's lambda), at least 0; at 0 the mixed image
            itself is trained on. Default: 0 (form 1) with a fixed `alpha`, else 10 (form 3), the
            paper's value.
        beyond_half: What becomes of a draw above 0.5: ``"fold"`` (default) takes 1 - a, so that the
            own image always has the larger share; ``"clip"`` takes 0.5; ``"keep"`` leaves it.
        draw_per: ``"image"`` (default) or ``"batch"``: how often a is drawn in a step.
        stop_gradient: Whether `p(x)` is held constant in the divergence. Default True.
        batch_norm: Mode of the mixed pass: ``"training"`` (updates batch-norm statistics, the
            default), ``"inference"`` or ``"stateless"``.

    Raises:
        ValueError: If an argument is out of range, only one of `p` and `q` is given, or `alpha`
            beside them.

    Example:
        >>> model = kerasrobust.wrap(model, defense="superimpose:alpha=0.4,kl_weight=10")
        >>> model = kerasrobust.wrap(model, defense="superimpose", p=2, q=4)
    """

    name = "superimpose"
    source = "GEA"
    rank = 11

    def __init__(
        self,
        alpha: float | None = None,
        p: float | None = None,
        q: float | None = None,
        kl_weight: float | None = None,
        beyond_half: str = "fold",
        draw_per: str = "image",
        stop_gradient: bool = True,
        batch_norm: str = "training",
    ):
        if (p is None) != (q is None) or (p is not None and alpha is not None):
            raise ValueError(
                "The share is either fixed (`alpha`) or drawn (`p` and `q`). "
                f"Received: alpha={alpha!r}, p={p!r}, q={q!r}"
            )
        drawn = p is not None
        self.alpha = None if drawn else check_float("alpha", 0.4 if alpha is None else alpha)
        if self.alpha is not None and not 0 < self.alpha < 0.5:
            raise ValueError(f"`alpha` must be above 0 and below 0.5. Received: alpha={alpha!r}")
        self.p = check_float("p", p, above=True) if drawn else None
        self.q = check_float("q", q, above=True) if drawn else None
        default = 10.0 if drawn else 0.0
        self.kl_weight = check_float("kl_weight", default if kl_weight is None else kl_weight)
        self.beyond_half = check_mode("beyond_half", beyond_half, ("fold", "clip", "keep"))
        self.draw_per = check_mode("draw_per", draw_per, ("image", "batch"))
        self.stop_gradient = check_bool("stop_gradient", stop_gradient)
        self.batch_norm = check_mode("batch_norm", batch_norm)

    def prepare(self, batch: Batch, context: Context) -> Batch:
        seed = context.seed(self.name)
        rows = context.draw(lambda n: other_rows(n, seed))
        batch = batch.with_extra(self.name, tf.gather(context.gather(batch.x), rows))
        seed = context.seed(f"{self.name}_alpha")
        alpha = context.draw(lambda n: self._draw(n, seed))
        return batch.with_extra(f"{self.name}_alpha", alpha)

    def _draw(self, n: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """The shares of the other images, `[n]`."""
        if self.p is None or self.q is None:
            return tf.fill([n], self.alpha)
        draws = n if self.draw_per == "image" else 1
        alpha = beta_quantile(tf.random.stateless_uniform([draws], seed), self.p, self.q)
        if self.beyond_half != "keep":
            alpha = tf.minimum(alpha, 1.0 - alpha if self.beyond_half == "fold" else 0.5)
        return tf.broadcast_to(alpha, [n])

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        other, batch = batch.pop_extra(self.name)
        alpha, batch = batch.pop_extra(f"{self.name}_alpha")
        x = superimpose(batch.x, other, alpha)
        mixed = batch.derive(x, "superimposed", self.batch_norm)
        if not self.kl_weight:
            return inner(mixed)
        value, target = inner(batch), inner.logits(batch)
        if self.stop_gradient:
            target = tf.stop_gradient(target)
        return value + self.kl_weight * losses.kl_divergence(target, inner.logits(mixed))

    def get_config(self) -> dict[str, Any]:
        return {
            "alpha": self.alpha,
            "p": self.p,
            "q": self.q,
            "kl_weight": self.kl_weight,
            "beyond_half": self.beyond_half,
            "draw_per": self.draw_per,
            "stop_gradient": self.stop_gradient,
            "batch_norm": self.batch_norm,
        }
