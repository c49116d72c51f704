"""ART's metrics on our models."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

with warnings.catch_warnings():
    # Some of ART's modules miss PyTorch aloud, which nothing here needs.
    warnings.filterwarnings("ignore", message="PyTorch not found")
    from art import metrics

from kerasrobust import checks
from kerasrobust.art.estimators import BATCH_SIZE, estimator, numpy_seed
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.source import unpack
from kerasrobust.norms import check_norm


def clever(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    targeted: bool = False,
    nb_batches: int = 10,
    batch_size: int = 10,
    radius: float = 5.0,
    norm: float | str = 2,
    pool_factor: int = 10,
    seed: int = 0,
) -> np.ndarray:
    """ART's CLEVER score of each sample, on logits.

    ART draws one pool of `pool_factor * batch_size` points from the ball around the sample and
    takes `nb_batches` times the largest gradient norm of `batch_size` of them; a reverse Weibull
    distribution fitted to these maxima bounds the local Lipschitz constant of the margin between
    the predicted class and another. The score is the margin divided by that bound, at most
    `radius`: for a target as it is, else the smallest over all other classes.

    Reference: Weng et al., "Evaluating the Robustness of Neural Networks: An Extreme Value Theory
    Approach", 2018, arXiv:1801.10578.

    Args:
        model: A `keras.Model` or a `Classifier` of one.
        x: Samples `[n, ...]`.
        y: Target classes `[n]`, with `targeted` and only then.
        targeted: Score against the classes `y` instead of all others.
        nb_batches: Maxima that the distribution is fitted to.
        batch_size: Points of one maximum.
        radius: Radius of the ball, in the unit of the inputs.
        norm: 1, 2 or inf.
        pool_factor: Size of the pool in multiples of `batch_size`.
        seed: Seed of the points.

    Returns:
        float64 `[n]`, distances in the unit of the inputs.

    Raises:
        TypeError: If the model has no gradient.
        ValueError: If an argument does not fit, or a target is the predicted class.
    """
    scorer, x = _prepare(model, x)
    checks.check_bool("targeted", targeted)
    if targeted == (y is None):
        raise ValueError(
            "`y` holds the target classes: give it with `targeted=True` and only then. "
            f"Received: targeted={targeted}, y={'None' if y is None else 'given'}"
        )
    options = {
        "nb_batches": checks.check_int("nb_batches", nb_batches, 1),
        "batch_size": checks.check_int("batch_size", batch_size, 1),
        "radius": checks.check_float("radius", radius, above=True),
        "norm": check_norm(norm),
        "pool_factor": checks.check_int("pool_factor", pool_factor, 1),
    }
    checks.check_int("seed", seed, 0, None)
    if not targeted:
        with numpy_seed(seed):
            return np.array([metrics.clever_u(scorer, one, **options, verbose=False) for one in x])
    targets = checks.check_labels(np.asarray(y), len(x), scorer.nb_classes)
    predicted = scorer.predict(x).argmax(axis=1)
    if (targets == predicted).any():
        raise ValueError(
            "A target must not be the predicted class. Received: y with the prediction of samples "
            f"{np.flatnonzero(targets == predicted).tolist()}"
        )
    with numpy_seed(seed):
        return np.array(
            [
                metrics.clever_t(scorer, one, int(target), **options)
                for one, target in zip(x, targets, strict=True)
            ]
        )


def empirical_robustness(
    model: Any,
    x: Any,
    *,
    eps: float = 1.0,
    eps_step: float = 0.1,
    norm: float | str = math.inf,
    batch_size: int = BATCH_SIZE,
) -> float:
    """ART's empirical robustness: how far the fast gradient method must go.

    The method steps along the gradient at the sample, `eps_step` by `eps_step` up to `eps`, until
    the predicted class changes. The result is the mean of `||x' - x||_p / ||x||_p` over the samples
    whose class changed, and 0 if there is none. Samples that withstood all of `eps` are left out,
    so that a model may score lower for withstanding: read it beside the success rate.

    Reference: Moosavi-Dezfooli, Fawzi & Frossard, "DeepFool: a simple and accurate method to fool
    deep neural networks", 2016, arXiv:1511.04599.

    Args:
        model: A `keras.Model` or a `Classifier` of one.
        x: Samples `[n, ...]`.
        eps: Longest perturbation tried, in the unit of the inputs.
        eps_step: Resolution.
        norm: 1, 2 or inf.
        batch_size: Samples per batch.

    Raises:
        TypeError: If the model has no gradient.
        ValueError: If an argument does not fit.
    """
    scorer, x = _prepare(model, x)
    params = {
        "eps": checks.check_float("eps", eps, above=True),
        "eps_step": checks.check_float("eps_step", eps_step, above=True),
        "norm": check_norm(norm),
        "batch_size": checks.check_int("batch_size", batch_size, 1),
    }
    return float(metrics.empirical_robustness(scorer, x, "fgsm", params))


def loss_sensitivity(model: Any, x: Any, y: Any) -> float:
    """ART's loss sensitivity: the mean over samples of `||grad_x CE(f(x), y)||_2`.

    Reference: Arpit et al., "A Closer Look at Memorization in Deep Networks", 2017,
    arXiv:1706.05394.

    Args:
        model: A `keras.Model` or a `Classifier` of one.
        x: Samples `[n, ...]`.
        y: Labels, integers `[n]` or one-hot `[n, classes]`.

    Raises:
        TypeError: If the model has no gradient.
        ValueError: If `x` or `y` do not fit.
    """
    scorer, x = _prepare(model, x)
    labels = checks.check_labels(np.asarray(y), len(x), scorer.nb_classes)
    return float(metrics.loss_sensitivity(scorer, x, labels))


def _prepare(model: Any, x: Any) -> tuple[Any, np.ndarray]:
    shared = Classifier.of(model)
    if not shared.has_gradient:
        raise TypeError(
            f"This metric needs gradients: give a keras.Model. Received: model={shared.model!r}"
        )
    samples = shared.check(unpack(x)[0])
    return estimator(shared, samples.shape[1:]), samples
