"""Our models as ART's estimators, on their recovered logits."""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy import special

with warnings.catch_warnings():
    # Some of ART's modules miss PyTorch aloud, which nothing here needs.
    warnings.filterwarnings("ignore", message="PyTorch not found")
    from art.estimators.classification.classifier import ClassGradientsMixin, ClassifierMixin
    from art.estimators.estimator import BaseEstimator, LossGradientsMixin, NeuralNetworkMixin

from kerasrobust.checks import check_batch_size
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.loops import one_at_a_time

# Samples in one pass where ART itself does not split them.
BATCH_SIZE = 128


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
            call = classifier.functions[key] = one_at_a_time(call)
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


class ProbabilitiesEstimator(ScoresEstimator):
    """A model as some of ART's black-box attacks want it: probabilities."""

    def predict(self, x: np.ndarray, batch_size: int = BATCH_SIZE, **kwargs: Any) -> np.ndarray:
        """float64 probabilities `[n, classes]`, none of them zero that are not tiny indeed."""
        return special.softmax(super().predict(x, batch_size).astype(np.float64), axis=1)


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
        rows = check_batch_size(None, np.shape(x)[1:])
        gradient, executed = self._compiled(role, function, rows, x, y)
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
    return estimator(shared, shape)


def estimator(shared: Classifier, shape: Any) -> ScoresEstimator:
    return (GradientsEstimator if shared.has_gradient else ScoresEstimator)(shared, tuple(shape))


@contextlib.contextmanager
def numpy_seed(seed: Any) -> Iterator[None]:
    """The global generators that ART draws from, seeded for a while and then put back.

    They are NumPy's and, in two attacks, Python's.
    """
    state, pythons = np.random.get_state(), random.getstate()
    np.random.seed(seed)
    random.seed(str(np.asarray(seed).tolist()))
    try:
        yield
    finally:
        np.random.set_state(state)
        random.setstate(pythons)
