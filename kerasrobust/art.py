"""The bridge to ART: our models in ART, ART's attacks and metrics behind our contracts.

ART (`adversarial-robustness-toolbox`) is the referee that native results are checked against.
Nothing outside of `evaluate` and the tests needs it, and importing it takes seconds.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
import tqdm

with warnings.catch_warnings():
    # Some of ART's modules miss PyTorch aloud, which nothing here needs.
    warnings.filterwarnings("ignore", message="PyTorch not found")
    from art import metrics
    from art.attacks import evasion
    from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin
    from art.estimators.estimator import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin

from kerasrobust import checks
from kerasrobust.attacks import base, drivers
from kerasrobust.attacks.carlini_l2 import CarliniL2Method
from kerasrobust.attacks.elastic_net import ElasticNet
from kerasrobust.attacks.fast_gradient import FastGradientMethod
from kerasrobust.attacks.hop_skip_jump import HopSkipJump
from kerasrobust.attacks.projected_gradient_descent import ProjectedGradientDescent
from kerasrobust.attacks.result import AttackResult
from kerasrobust.classifier import Classifier
from kerasrobust.norms import check_norm

# Samples in one pass where ART itself does not split them.
BATCH_SIZE = 128
SIZES = ("eps", "eps_step")


class OutOfQueries(RuntimeError):
    """An attack of ART asked for more passes than its algorithm can need."""


class ScoresEstimator(ClassifierMixin, NeuralNetworkMixin, BaseEstimator):
    """A model as ART sees it: logits, and no gradient to be had.

    Attributes:
        classifier: The `Classifier` behind it.
        queries: Samples sent forward so far.
        gradients: Samples sent forward and backward so far.
        executed_queries: As `queries`, padding included.
        executed_gradients: As `gradients`, padding included.
        limit: Queries after which `predict` raises `OutOfQueries`; None for no limit.
    """

    def __init__(self, classifier: Classifier, input_shape: tuple[int, ...]):
        super().__init__(
            model=classifier.model,
            clip_values=classifier.clip_values,
            channels_first=False,
            preprocessing=None,
        )
        self.nb_classes = classifier.nb_classes
        self.classifier = classifier
        self.queries = self.gradients = 0
        self.executed_queries = self.executed_gradients = 0
        self.limit: int | None = None
        self._sample_shape = input_shape

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample."""
        return self._sample_shape

    def predict(self, x: np.ndarray, batch_size: int = BATCH_SIZE, **kwargs: Any) -> np.ndarray:
        """float32 logits `[n, classes]`."""
        if self.limit is not None and self.queries >= self.limit:
            raise OutOfQueries(f"The attack asked for more than {self.limit} queries.")
        if not self.classifier.is_keras:
            logits = self.classifier.predict(np.asarray(x, np.float32), batch_size)
            executed = len(x)
        else:
            logits, executed = self._compiled("logits", self.classifier.logits, batch_size, x)
        self.queries += len(x)
        self.executed_queries += executed
        return logits

    def fit(self, x: np.ndarray, y: np.ndarray, **kwargs: Any) -> None:
        """Not offered: train the Keras model itself."""
        raise NotImplementedError(
            "A model is not trained through the bridge to ART: call `fit` on the keras.Model."
        )

    def get_activations(
        self, x: np.ndarray, layer: int | str, batch_size: int = BATCH_SIZE, framework: bool = False
    ) -> Any:
        """Output of a layer of a functional or sequential model, by its index or name."""
        model = self.classifier.model
        if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
            raise ValueError(
                "Activations need a functional or sequential model. "
                f"Received: model={getattr(model, 'name', model)!r}"
            )
        found = model.get_layer(layer) if isinstance(layer, str) else model.layers[layer]
        outputs = keras.Model(model.inputs[0], found.output)
        if framework:
            return outputs(tf.constant(x, tf.float32))
        parts = range(0, len(x), batch_size)
        return np.concatenate([np.asarray(outputs(x[i : i + batch_size])) for i in parts])

    def _compiled(
        self, role: str, function: Callable[..., tf.Tensor], batch_size: int, *arrays: np.ndarray
    ) -> tuple[np.ndarray, int]:
        """Runs a compiled function batch by batch: its outputs, and the samples it computed.

        Without XLA one graph serves every batch size. XLA compiles for each shape, so that batches
        are padded to powers of two there.
        """
        classifier = self.classifier
        inputs = [np.asarray(a, np.int32 if a.dtype.kind in "iu" else np.float32) for a in arrays]
        key = ("art", role, *((a.shape[1:], a.dtype.str) for a in inputs))
        call = classifier.functions.get(key)
        if call is None:

            def traced(*arguments: tf.Tensor) -> tf.Tensor:
                label = f"art:{role}"
                classifier.traces[label] = classifier.traces.get(label, 0) + 1
                return function(*arguments)

            signature = [tf.TensorSpec([None, *a.shape[1:]], a.dtype) for a in inputs]
            call = tf.function(traced, signature, jit_compile=classifier.jit_compile)
            classifier.functions[key] = call
        outputs, executed = [], 0
        for first in range(0, len(inputs[0]), batch_size):
            batch = [a[first : first + batch_size] for a in inputs]
            rows = len(batch[0])
            if classifier.jit_compile:
                padding = (1 << (rows - 1).bit_length()) - rows
                batch = [np.concatenate([a, np.repeat(a[:1], padding, axis=0)]) for a in batch]
            executed += len(batch[0])
            outputs.append(call(*map(tf.constant, batch)).numpy()[:rows])
        return np.concatenate(outputs), executed


class GradientsEstimator(ClassGradientsMixin, LossGradientsMixin, ScoresEstimator):
    """A Keras model as ART sees it: logits, the cross-entropy and the gradients of both.

    The cross-entropy is summed over samples, so that the gradient of one does not depend on how
    many others are in the batch.
    """

    def compute_loss(
        self, x: np.ndarray, y: np.ndarray, reduction: str = "none", **kwargs: Any
    ) -> np.ndarray:
        """Cross-entropy `[n]`, or its mean or sum.

        Args:
            x: Samples `[n, ...]`.
            y: Integer labels `[n]` or rows of probabilities `[n, classes]`.
            reduction: ``"none"``, ``"mean"`` or ``"sum"``.
        """
        if reduction not in ("none", "mean", "sum"):
            raise ValueError(
                f"`reduction` must be 'none', 'mean' or 'sum'. Received: reduction={reduction!r}"
            )
        loss = np.asarray(_cross_entropy(tf.constant(self.predict(x)), tf.constant(self._rows(y))))
        return loss if reduction == "none" else getattr(np, reduction)(loss)

    def loss_gradient(self, x: np.ndarray, y: np.ndarray, **kwargs: Any) -> np.ndarray:
        """Gradient of the cross-entropy, float32, shape of `x`.

        Args:
            x: Samples `[n, ...]`.
            y: Integer labels `[n]` or rows of probabilities `[n, classes]`.
        """

        def gradient(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            return self.classifier.gradient(x, lambda logits: _cross_entropy(logits, y))[2]

        return self._gradient("loss_gradient", gradient, x, self._rows(y))

    def class_gradient(self, x: np.ndarray, label: Any = None, **kwargs: Any) -> np.ndarray:
        """Gradients of logits, float32.

        Args:
            x: Samples `[n, ...]`.
            label: One class, one class per sample `[n]`, or None for all.

        Returns:
            `[n, 1, ...]`, or `[n, classes, ...]` without `label`.
        """

        def gradient(x: tf.Tensor, label: tf.Tensor) -> tf.Tensor:
            return self.classifier.gradient(x, lambda z: tf.gather(z, label, batch_dims=1))[2]

        labels = range(self.nb_classes) if label is None else [label]
        columns = []
        for one in labels:
            one = np.broadcast_to(np.asarray(one).reshape(-1), (len(x),))
            columns.append(self._gradient("class_gradient", gradient, x, one))
        return np.stack(columns, axis=1)

    def _gradient(self, role: str, function: Any, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        gradient, executed = self._compiled(role, function, BATCH_SIZE, x, y)
        self.gradients += len(x)
        self.executed_gradients += executed
        return gradient

    def _rows(self, y: np.ndarray) -> np.ndarray:
        y = np.asarray(y)
        if y.ndim == 2 and y.shape[1] > 1:
            return y.astype(np.float32)
        return np.eye(self.nb_classes, dtype=np.float32)[y.reshape(-1).astype(int)]


def _cross_entropy(logits: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return tf.nn.softmax_cross_entropy_with_logits(labels=y, logits=logits)


def classifier(model: Any, clip_values: tuple[float, float] | None = None) -> ScoresEstimator:
    """A model as an ART classifier, on its recovered logits.

    Args:
        model: A `keras.Model`, a `Classifier` or a callable that returns scores.
        clip_values: Smallest and largest valid input value; see `Classifier`.

    Returns:
        An ART estimator: a `GradientsEstimator` for a Keras model, a `ScoresEstimator` for a
        callable, which ART's black-box attacks take.

    Raises:
        ValueError: If input shape or number of classes are not known; give them to `Classifier`.

    Example:
        >>> from art.attacks.evasion import SquareAttack
        >>> x_adv = SquareAttack(kerasrobust.art.classifier(model)).generate(x, y)
    """
    shared = Classifier.of(model, clip_values)
    shape = shared.input_shape
    if shape is None or None in shape:
        raise ValueError(
            "ART needs the shape of a sample: pass "
            f"`Classifier(model, input_shape=...)`. Received: input shape {shape}"
        )
    return _estimator(shared, shape)


def _estimator(shared: Classifier, shape: Any) -> ScoresEstimator:
    return (GradientsEstimator if shared.has_gradient else ScoresEstimator)(shared, tuple(shape))


# ---- ART's attacks behind our contract ------------------------------------------------------


class ArtJob(drivers.Job):
    """A run of an attack of ART: judged and counted as all others are."""

    attack: ArtAttack

    def _drive(self, rows: np.ndarray, seed: tf.Tensor, pool: Any, bar: tqdm.tqdm) -> None:
        estimator = _estimator(self.classifier, self.leaves["x"].shape[1:])
        bar.update(self.attack.max_steps() * int(self.leaves["done"][rows].sum()))
        rows = rows[~self.leaves["done"][rows]]
        # ART goes from sample to sample in HopSkipJump, and takes one size for all elsewhere.
        singly = self.attack.access == "labels" or any(
            np.ndim(getattr(self.attack, key, 0.0)) for key in SIZES
        )
        with _numpy_seed(np.asarray(seed)):
            for part in np.split(rows, len(rows)) if singly and len(rows) else [rows]:
                if len(part):
                    self._attack(estimator, part)
                    bar.update(self.attack.max_steps() * len(part))

    def _attack(self, estimator: ScoresEstimator, rows: np.ndarray) -> None:
        x, y = self.leaves["x"][rows], self.leaves["y"][rows]
        sizes = {k: float(self.leaves[k][rows[0]]) for k in SIZES if k in self.leaves}
        attack = self.attack.make(estimator, **sizes)
        mask = {"mask": self.leaves["mask"][rows]} if "mask" in self.leaves else {}
        estimator.queries = estimator.gradients = 0
        estimator.executed_queries = estimator.executed_gradients = 0
        estimator.limit = self.attack.limit()
        try:
            x_adv = attack.generate(x, y.astype(np.int64), **mask)
        except OutOfQueries:
            x_adv = x
        finally:
            for key in ("queries", "gradients"):
                share, rest = divmod(getattr(estimator, key), len(rows))
                getattr(self, key)[rows] += share + (np.arange(len(rows)) < rest)
                self.executed[f"executed_{key}"] += getattr(estimator, f"executed_{key}")
        self.x_adv[rows] = self.best[rows] = np.asarray(x_adv, np.float32)
        if self.attack.access == "labels":
            moved = np.any(self.x_adv[rows] != x, axis=tuple(range(1, x.ndim)))
            self.found[rows] = moved
            self.gave_up[rows] = ~moved


class ArtAttack(base.Attack):
    """An attack of ART that takes the arguments of the native attack of the same kind.

    The arguments have ART's names, and the native attack's defaults, so that a configuration of
    either runs both. What ART's class does not know is accepted and has no effect: `jit_compile`,
    since ART runs on the host, and `early_stop` and `abort_early`, since it takes every step.
    Success and distances are judged like any other attack's.

    ART does not say which sample a pass was for, save in HopSkipJump, which goes from sample to
    sample: `queries` and `gradients` divide the passes of a batch evenly. They include the ones in
    which ART takes stock of its own success.
    """

    original: ClassVar[Any]
    takes_mask: ClassVar[bool] = False
    job = ArtJob

    def run(self, x: Any, y: Any = None, *, mask: np.ndarray | None = None) -> AttackResult:
        """See `Attack.run`."""
        if mask is not None and not self.takes_mask:
            raise ValueError(
                f"ART's {self.original.__name__} takes no mask. Received: mask of shape "
                f"{np.shape(mask)}"
            )
        return super().run(x, y, mask=mask)

    def perturb(self, x: tf.Tensor, y: tf.Tensor, *, seed: tf.Tensor) -> tf.Tensor:
        """Not offered: ART runs on the host."""
        native = self.name.removeprefix("art:")
        raise TypeError(
            f"An attack of ART cannot be part of a graph: use {native!r}. "
            f"Received: attack={self.name!r}"
        )

    def limit(self) -> int | None:
        """Queries of one call after which ART's loop is taken for endless; None for no limit."""
        return None

    def make(self, estimator: ScoresEstimator, **sizes: float) -> Any:
        """ART's attack with these hyperparameters, `eps` and `eps_step` as given."""
        config = {name: getattr(self, name) for name in self.get_config()}
        config.update((key, size) for key, size in sizes.items() if key in config)
        config["verbose"] = False  # the job shows progress
        known = inspect.signature(self.original.__init__).parameters
        return self.original(estimator, **{k: v for k, v in config.items() if k in known})


class ArtFastGradientMethod(ArtAttack, FastGradientMethod):
    """ART's `FastGradientMethod`."""

    name = "art:fgsm"
    original = evasion.FastGradientMethod
    takes_mask = True


class ArtProjectedGradientDescent(ArtAttack, ProjectedGradientDescent):
    """ART's `ProjectedGradientDescent`."""

    name = "art:pgd"
    original = evasion.ProjectedGradientDescent
    takes_mask = True

    def make(self, estimator: ScoresEstimator, **sizes: float) -> Any:
        if self.eps_step is None:
            sizes["eps_step"] = sizes["eps"] / self.max_iter
        return super().make(estimator, **sizes)


class ArtCarliniL2Method(ArtAttack, CarliniL2Method):
    """ART's `CarliniL2Method`: a line search along the plain gradient instead of Adam.

    A step differentiates two logits in a pass each, and the line search adds up to ten queries.
    """

    name = "art:cwl2"
    original = evasion.CarliniL2Method


class ArtElasticNet(ArtAttack, ElasticNet):
    """ART's `ElasticNet`, for inputs in 0..1 only: it clips to these bounds, whatever the model's.

    A step differentiates two logits in a pass each and makes two queries.
    """

    name = "art:ead"
    original = evasion.ElasticNet

    def check(self) -> None:
        super().check()
        bounds = self._bound().clip_values
        if bounds != (0.0, 1.0):
            raise ValueError(
                "ART's ElasticNet clips to 0..1 and cannot attack a model with other bounds. "
                f"Received: clip_values={bounds}"
            )


class ArtHopSkipJump(ArtAttack, HopSkipJump):
    """ART's `HopSkipJump`, sample by sample.

    Without a target it leaves the class that the model predicts, whatever the label. Its search
    for a step that stays adversarial does not end where there is none (a point that is on the
    boundary within rounding, a model with noise): a sample that takes ten times the queries that
    the algorithm can need is given up.
    """

    name = "art:hsja"
    takes_mask = True

    class original(evasion.HopSkipJump):
        """With starts that depend on NumPy's seed, as everything else in ART does."""

        def _init_sample(self, *arguments: Any) -> Any:
            # ART makes a new generator here, without a seed.
            with mock.patch.object(np.random, "RandomState", lambda: np.random):
                return super()._init_sample(*arguments)

    def limit(self) -> int | None:
        searches = 100  # passes of a binary search and of a step size search, generously
        return 10 * (self.init_size + searches + self.max_iter * (self.max_eval + searches))


ATTACKS: dict[str, type[base.Attack]] = {
    attack.name: attack
    for attack in (
        ArtFastGradientMethod,
        ArtProjectedGradientDescent,
        ArtCarliniL2Method,
        ArtElasticNet,
        ArtHopSkipJump,
    )
}


# ---- ART's metrics --------------------------------------------------------------------------


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
    estimator, x = _prepare(model, x)
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
    checks.check_int("seed", seed, 0)
    if not targeted:
        with _numpy_seed(seed):
            return np.array(
                [metrics.clever_u(estimator, one, **options, verbose=False) for one in x]
            )
    targets = checks.check_labels(np.asarray(y), len(x), estimator.nb_classes)
    predicted = estimator.predict(x).argmax(axis=1)
    if (targets == predicted).any():
        raise ValueError(
            "A target must not be the predicted class. Received: y with the prediction of samples "
            f"{np.flatnonzero(targets == predicted).tolist()}"
        )
    with _numpy_seed(seed):
        return np.array(
            [
                metrics.clever_t(estimator, one, int(target), **options)
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
    estimator, x = _prepare(model, x)
    params = {
        "eps": checks.check_float("eps", eps, above=True),
        "eps_step": checks.check_float("eps_step", eps_step, above=True),
        "norm": check_norm(norm),
        "batch_size": checks.check_int("batch_size", batch_size, 1),
    }
    return float(metrics.empirical_robustness(estimator, x, "fgsm", params))


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
    estimator, x = _prepare(model, x)
    labels = checks.check_labels(np.asarray(y), len(x), estimator.nb_classes)
    return float(metrics.loss_sensitivity(estimator, x, labels))


def _prepare(model: Any, x: Any) -> tuple[Any, np.ndarray]:
    shared = Classifier.of(model)
    if not shared.has_gradient:
        raise TypeError(
            f"This metric needs gradients: give a keras.Model. Received: model={shared.model!r}"
        )
    samples = checks.check_samples(checks.unpack(x, None)[0], shared)
    return _estimator(shared, samples.shape[1:]), samples


@contextlib.contextmanager
def _numpy_seed(seed: Any) -> Iterator[None]:
    """NumPy's global generator, which ART draws from, seeded for a while and then put back."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
