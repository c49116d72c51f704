"""Gaussian augmentation: random noise on the images."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from kerasrobust.checks import check_bool, check_float, check_int, check_length
from kerasrobust.defenses.layers.preprocessing import Preprocessing

SHARE = 0.3  # of the width of the box, that is `sigma` by default


@keras.saving.register_keras_serializable("kerasrobust")
class GaussianAugmentation(Preprocessing):
    """Adds noise to each value, drawn anew in each call.

    `clip(x + d)` with `d ~ N(0, sigma^2)`, or uniform in `[-sqrt(3) sigma, sqrt(3) sigma]`, which
    has the same standard deviation.

    Zantedeschi, Nicolae and Rawat, "Efficient Defenses Against Adversarial Attacks", 2017,
    arXiv:1707.06728, section 3.2. Uniform noise is its rival there, of a width that is not given.

    By default it acts in training only, on one copy of each sample, whatever else trains the
    model. `GaussianDataAugmentation` (``"gda"``) has the paper's mean over several copies;
    `RandomizedSmoothing` votes over noise in inference, and proves what that is worth.

    Gradients: ``"exact"`` is 1, and 0 where a value is clipped; ``"straight_through"`` is 1, and so
    is ``"surrogate"`` where another layer offers that. Where it acts in inference, attack it with
    several `draws`.

    Args:
        sigma: Standard deviation of the noise in the unit of the inputs, above 0. Default: 0.3 of
            the width of the box, the paper's for MNIST.
        distribution: ``"gaussian"`` or ``"uniform"``.
        clip: Whether the result is clipped to the bounds.
        seed: Seed of the noise.
        clip_values: Smallest and largest valid pixel. Default: what `wrap` is given, (0, 1) alone.
        apply_fit: Whether it acts in training.
        apply_predict: Whether it acts in inference.
        **kwargs: Of `keras.layers.Layer`.

    Raises:
        ValueError: If an argument is out of range, or `sigma` does not fit the bounds.

    Example:
        >>> model = kerasrobust.wrap(model, defense="gaussian_augmentation", sigma=0.1)
    """

    source = "BRELU-GDA"

    def __init__(
        self,
        sigma: float | None = None,
        distribution: str = "gaussian",
        clip: bool = True,
        seed: int = 0,
        clip_values: tuple[float, float] | None = None,
        apply_fit: bool = True,
        apply_predict: bool = False,
        **kwargs: Any,
    ):
        super().__init__(clip_values, apply_fit, apply_predict, **kwargs)
        self.sigma = None if sigma is None else check_float("sigma", sigma, above=True)
        if self.sigma is not None and self.clip_values is not None:
            check_length("sigma", self.sigma, self.clip_values, usual=SHARE)
        if distribution not in ("gaussian", "uniform"):
            raise ValueError(
                "`distribution` must be 'gaussian' or 'uniform'. "
                f"Received: distribution={distribution!r}"
            )
        self.distribution = distribution
        self.clip = check_bool("clip", clip)
        self.seed = check_int("seed", seed, 0)
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def draw(self, x: tf.Tensor) -> dict[str, Any]:
        low, high = self.bounds
        sigma = SHARE * (high - low) if self.sigma is None else self.sigma
        shape = tf.shape(x)
        if self.distribution == "gaussian":
            noise = keras.random.normal(shape, stddev=sigma, seed=self.seed_generator)
        else:
            width = math.sqrt(3) * sigma
            noise = keras.random.uniform(shape, -width, width, seed=self.seed_generator)
        return {"noise": tf.ensure_shape(noise, x.shape)}

    def transform(self, x: tf.Tensor, noise: tf.Tensor | None = None) -> tf.Tensor:
        noisy = x + (self.draw(x)["noise"] if noise is None else noise)
        return tf.clip_by_value(noisy, *self.bounds) if self.clip else noisy

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "sigma": self.sigma,
            "distribution": self.distribution,
            "clip": self.clip,
            "seed": self.seed,
        }
