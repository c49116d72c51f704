"""Noise on the images: its moments, when it acts, its gradient."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from kerasrobust.defenses import GaussianAugmentation, unwrap, wrap
from kerasrobust.engine import backward


@pytest.mark.parametrize(("distribution", "kurtosis"), [("gaussian", 3.0), ("uniform", 1.8)])
def test_moments(distribution, kurtosis):
    x = np.full((100, 20, 20, 1), 90.0, "float32")
    layer = GaussianAugmentation(5.0, distribution, clip_values=(0, 255))
    noise = layer(x, training=True).numpy() - x
    assert abs(noise.mean()) < 0.1 and abs(noise.std() - 5) < 0.1
    assert abs(np.mean(noise**4) / noise.var() ** 2 - kurtosis) < 0.15
    if distribution == "uniform":
        assert np.abs(noise).max() <= 5 * np.sqrt(3) * (1 + 1e-5)
    # No two samples have the same.
    assert np.abs(np.corrcoef(noise[0].reshape(-1), noise[1].reshape(-1))[0, 1]) < 0.2


def test_default_is_a_share_of_the_box():
    x = np.zeros((50, 20, 20, 1), "float32")
    for bounds in ((-1.0, 1.0), (0.0, 255.0)):
        layer = GaussianAugmentation(clip=False, clip_values=bounds)
        assert abs(np.std(layer(x, training=True)) / (bounds[1] - bounds[0]) - 0.3) < 0.01


def test_clipping_and_its_gradient():
    x = tf.constant(np.random.default_rng(0).uniform(size=(20, 6, 6, 1)), tf.float32)
    noise = GaussianAugmentation(0.5).draw(x)["noise"].numpy()
    free = x.numpy() + noise
    inside = (free > 0) & (free < 1)
    assert 0.2 < inside.mean() < 0.8
    for clip in (True, False):
        for mode in ("exact", "straight_through"):
            layer = GaussianAugmentation(0.5, clip=clip)
            with backward.mode(mode), tf.GradientTape() as tape:
                tape.watch(x)
                y = layer(x, training=True)
            np.testing.assert_allclose(y, np.clip(free, 0, 1) if clip else free, atol=1e-6)
            expected = inside if clip and mode == "exact" else np.ones_like(free)
            np.testing.assert_array_equal(tape.gradient(y, x), expected)


def test_in_training_only(cnn, images):
    """Wrapped: predictions are those of the bare model, and the steps are of noisy samples."""
    x, y = images
    base = cnn()
    model = wrap(base, "gaussian_augmentation:sigma=0.5")
    np.testing.assert_allclose(model.predict(x, verbose=0), base.predict(x, verbose=0), atol=1e-6)
    model.compile("sgd", "sparse_categorical_crossentropy")
    clean = keras.losses.sparse_categorical_crossentropy(y, base(x)).numpy().mean()
    noisy = model.fit(x, y, epochs=1, verbose=0, batch_size=20).history["loss"][0]
    assert np.isfinite(noisy) and abs(noisy - clean) > 1e-3
    assert unwrap(model) is base
