"""Gaussian data augmentation: train on noisy copies of each sample."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kerasrobust.checks import check_bool, check_float, check_int
from kerasrobust.defenses.training.base import Batch, Context, Inner, TrainingDefense, check_mode


@keras.saving.register_keras_serializable("kerasrobust")
class GaussianDataAugmentation(TrainingDefense):
    """Trains on `N` Gaussian copies of each sample instead of, or beside, the sample itself.

    The loss of a sample `x` is the Monte Carlo mean

        1/N * sum_i J(clip(x + d_i), y),    d_i ~ N(0, sigma^2)

    of the rest of the chain; with `keep_original` the sample itself is one more term and the mean
    is over `N + 1`. All copies of a batch go through the model in one pass of `N` times its size.

    Zantedeschi, Nicolae and Rawat, "Efficient Defenses Against Adversarial Attacks", 2017,
    arXiv:1707.06728, section 3.2. The paper's objective has only the copies; its augmented
    training set keeps the originals.

    Limits: smooths the model in directions drawn at random, so it gains most against small,
    undirected and transferred perturbations and little against a strong white-box attack at large
    budgets. A step costs `N` (plus one) times that of plain training.

    Args:
        sigma: Standard deviation of the noise, in the units of the inputs, above 0. Default 0.3,
            the paper's value for MNIST in 0..1 (0.05 for CIFAR-10).
        N: Copies per sample, at least 1. Default 10, the paper's value.
        keep_original: Whether the unchanged sample is trained on as well. Default False.
        batch_norm: Mode of the noisy pass: ``"training"`` (updates batch-norm statistics, the
            default), ``"inference"`` or ``"stateless"``.
        clip: Whether the copies are clipped to the bounds. Default True; a model that is to be
            smoothed (`RandomizedSmoothing`) is shown noise that is not.

    Raises:
        ValueError: If an argument is out of range; in training, if `sigma` does not fit the bounds.

    Example:
        >>> model = kerasrobust.wrap(model, defense="gda", sigma=0.1, N=5)
    """

    name = "gda"
    source = "BRELU-GDA"
    rank = 10
    lengths = {"sigma": 0.3}

    def __init__(
        self,
        sigma: float | None = None,
        N: int = 10,
        keep_original: bool = False,
        batch_norm: str = "training",
        clip: bool = True,
    ):
        self.sigma = None if sigma is None else check_float("sigma", sigma, above=True)
        self.N = check_int("N", N, 1)
        self.keep_original = check_bool("keep_original", keep_original)
        self.batch_norm = check_mode("batch_norm", batch_norm)
        self.clip = check_bool("clip", clip)

    def prepare(self, batch: Batch, context: Context) -> Batch:
        sigma = self.length("sigma", context.clip_values)
        seed, shape = context.seed(self.name), batch.x.shape[1:]

        def sample(n: tf.Tensor) -> tf.Tensor:
            return tf.random.stateless_normal([n, self.N, *shape], seed, stddev=sigma)

        return batch.with_extra(self.name, context.draw(sample))

    def objective(self, batch: Batch, inner: Inner) -> tf.Tensor:
        noise, batch = batch.pop_extra(self.name)
        noisy = tf.reshape(batch.x[:, None] + noise, [-1, *batch.x.shape[1:]])
        copies = batch.repeat(self.N).derive(noisy, "noisy", self.batch_norm, clip=self.clip)
        original = inner(batch) if self.keep_original else None
        losses = tf.reshape(inner(copies), [-1, self.N])
        if original is None:
            return tf.reduce_mean(losses, axis=1)
        return (original + tf.reduce_sum(losses, axis=1)) / (self.N + 1)

    def get_config(self) -> dict[str, Any]:
        return {
            "sigma": self.sigma,
            "N": self.N,
            "keep_original": self.keep_original,
            "batch_norm": self.batch_norm,
            "clip": self.clip,
        }
