"""Classifier: all that an attack sees of a model."""

from __future__ import annotations

import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from scipy import special

from kerasrobust import _keras
from kerasrobust.checks import check_bounds, check_float, check_int
from kerasrobust.engine.logits import (
    LogitsHead,
    as_float32,
    check_softmax,
    ends_in_lone_softmax,
    logits_head,
    prove,
)

LOW_PRECISION = ("float16", "bfloat16")
# Largest entry of the gradient that enters a float16 model: high enough that input gradients do
# not underflow (2^-24), low enough that a gain of several hundred on the way does not overflow.
UPSTREAM_SCALE = 128.0
PROBE_SAMPLES = 16
# Noise is taken this many times as large to tell logits that happen to lie in 0..1 from sigmoids.
FAR = 1e4
# Keeps log p finite where a probability has underflown to zero.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)
# Backward passes of a Jacobian that are laid out side by side in the graph.
UNROLLED = 20


def use_jit(jit_compile: bool | str) -> bool:
    """Keras's rule for ``"auto"``: XLA where an accelerator is present, plain graphs on a CPU.

    Raises:
        ValueError: If it is neither a bool nor ``"auto"``.
    """
    if jit_compile == "auto":
        return bool(
            tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU")
        )
    if not isinstance(jit_compile, bool):
        raise ValueError(
            f"`jit_compile` must be True, False or 'auto'. Received: jit_compile={jit_compile!r}"
        )
    return jit_compile


class ModelFailure(RuntimeError):
    """A callable model raised, or returned something that is no score."""


class Classifier:
    """All that an attack sees of a model: logits, labels, bounds, and the gradient if there is one.

    A Keras model runs in inference mode and is never changed; what counts is the function that
    `model(x)` computes. Its logits are recovered when it ends in a softmax or sigmoid
    (`logits_head`) and on a few samples of noise give what the model gives (`prove`). For an opaque
    model that returns probabilities `p` they are `log p`, or `log p / (1 - p)` for several
    sigmoids, with a warning, because confident predictions lose their gradient there. A single
    output unit counts as two classes with the logits `(0, z)`. Input gradients are float32 and
    scaled through float16 models, so that they do not underflow.

    Attributes:
        randomised: Whether the model draws at inference: whether two passes over the same noise
            differ. None for a callable, and until the shape of a sample is known.

    Args:
        model: A `keras.Model`, a layer (`keras.layers.TFSMLayer`, say), another `Classifier`, an
            ART estimator, or any callable that takes a float32 array `[batch, ...]` and returns
            scores or logits `[batch, classes]` (it has no gradient: black-box attacks only). The
            one output of a Keras model may come in a dictionary or a list.
        clip_values: Smallest and largest valid input value, a pair, list or array. By default what
            the model says of itself (`model.clip_values`), else `(0, 1)`.
        nb_classes: Number of classes; needed only for a callable, and found by the first call
            otherwise.
        input_shape: Shape of one sample, where the model does not know it.
        from_logits: Whether an opaque model or a callable returns logits (True) or probabilities
            (False). By default this is seen from the outputs themselves.
        votes: Number of forward passes over which the label of a randomised model is voted.
        jit_compile: True, False or ``"auto"`` (XLA only where an accelerator is present).
        timeout: Seconds that one call of a callable may take; a longer one counts as a failure of
            the model. None waits for ever.

    Raises:
        TypeError: If `model` is none of the above.
        ValueError: If the bounds are not increasing, or the model has several inputs or outputs.
    """

    def __init__(
        self,
        model: Any,
        clip_values: tuple[float, float] | None = None,
        *,
        nb_classes: int | None = None,
        input_shape: tuple[int | None, ...] | None = None,
        from_logits: bool | None = None,
        votes: int = 1,
        jit_compile: bool | str = "auto",
        timeout: float | None = None,
    ):
        self._several_sigmoids = False
        if isinstance(model, Classifier):
            self._several_sigmoids = model._several_sigmoids
            timeout = model.timeout if timeout is None else timeout
            clip_values = model.clip_values if clip_values is None else clip_values
            nb_classes = model.known_classes if nb_classes is None else nb_classes
            input_shape = model.input_shape if input_shape is None else input_shape
            from_logits = model._from_logits if from_logits is None else from_logits
            model = model.model
        if _is_art_estimator(model):
            clip_values = model.clip_values if clip_values is None else clip_values
            nb_classes, input_shape = model.nb_classes, tuple(model.input_shape)
            model = _inside_art(model)
        if not callable(model):
            raise TypeError(
                "`model` must be a keras.Model, a Classifier, an ART estimator or a callable that "
                f"returns scores. Received: model={model!r}"
            )
        self.model: Any = model
        if clip_values is None:
            clip_values = getattr(model, "clip_values", None)
        self.clip_values: tuple[float, float] = check_bounds(
            (0.0, 1.0) if clip_values is None else clip_values
        )
        self.votes = check_int("votes", votes, 1)
        self.jit_compile = use_jit(jit_compile)
        self.is_keras = isinstance(model, keras.layers.Layer)
        self.randomised: bool | None = None
        if timeout is not None:
            timeout = check_float("timeout", timeout, above=True)
        self.timeout: float | None = timeout
        self.has_gradient = self.is_keras
        self.queries = 0  # samples sent to a callable; a Keras model is counted by the attack
        self.traces: dict[str, int] = {}
        self.functions: dict[Any, Callable[..., Any]] = {}
        self._from_logits: bool | None = from_logits
        self._nb_classes = nb_classes
        self._input_shape = tuple(input_shape) if input_shape is not None else None
        self._head: Callable[..., tf.Tensor] | None = None
        self._candidate: LogitsHead | None = None
        self._prepared = not self.is_keras
        self._low_precision = False
        if self.is_keras:
            self._read_model()

    @classmethod
    def of(
        cls, model: Any, clip_values: tuple[float, float] | None = None, **options: Any
    ) -> Classifier:
        """The classifier of a model, shared by all who ask for it while one of them holds it.

        Sharing means sharing the compiled functions. They are held weakly: when the last attack on
        a model goes, so do they, and the model is not kept alive.
        """
        if clip_values is not None:
            clip_values = check_bounds(clip_values)
        if isinstance(model, Classifier):
            if options or clip_values not in (None, model.clip_values):
                raise ValueError(
                    "A Classifier has its bounds and options already. "
                    f"Received: clip_values={clip_values!r}, {options}"
                )
            return model
        key = (id(model), clip_values, tuple(sorted(options.items())))
        shared = _SHARED.get(key)
        if shared is None or shared.model is not model:
            shared = cls(model, clip_values, **options)
            _SHARED[key] = shared
        return shared

    def _read_model(self) -> None:
        self._candidate = head = logits_head(self.model)
        self._head = head.call if head is not None else as_float32(self.model)
        self._low_precision = any(
            getattr(layer, "compute_dtype", None) in LOW_PRECISION
            for layer in _keras.flat_layers(self.model)
        )
        if self._input_shape is None:
            shape = getattr(self.model, "input_shape", None)
            if isinstance(shape, tuple) and len(shape) > 1:
                self._input_shape = tuple(shape[1:])
        shape = getattr(self.model, "output_shape", None)
        if isinstance(shape, tuple) and len(shape) == 2 and shape[1] is not None:
            self._nb_classes = max(shape[1], 2)
        known = tuple(size for size in self._input_shape or () if size is not None)
        if known and known == self._input_shape:
            self.prepare(known)

    def prepare(self, sample_shape: tuple[int, ...]) -> None:
        """Settles what only a sample's shape tells of a Keras model, by passes over noise.

        That is whether its logits are the model's, whether it draws, its classes and, for an opaque
        one, what kind of scores it returns.
        """
        if self._prepared:
            return
        low, high = self.clip_values
        noise = np.random.default_rng(0).uniform(low, high, (PROBE_SAMPLES, *sample_shape))
        with tf.init_scope():
            proof = prove(self.model, self._candidate, tf.constant(noise, tf.float32))
        scores = proof.scores
        if scores.ndim != 2:
            raise ValueError(
                "The model must return one row of scores per sample, [batch, classes]. "
                f"Received: output shape {scores.shape}"
            )
        self._prepared = True
        self._head, self.randomised = proof.head.call, proof.randomised
        self._nb_classes = max(scores.shape[1], 2)
        if proof.head.activation is not None:
            self._from_logits = True
        elif self._from_logits is None:
            self._settle_scores(scores, noise)

    def _settle_scores(self, scores: np.ndarray, noise: np.ndarray) -> None:
        """Sees what an opaque model returns for noise: logits, or probabilities of some kind."""
        if (scores == 1).all() and scores.shape[1] == 1 and ends_in_lone_softmax(self.model):
            check_softmax("softmax", 1, self.model)
        self._from_logits = not _are_probabilities(scores)
        if self._from_logits and _within_unit(scores):
            # Each within 0..1 by itself: sigmoids, unless inputs far outside bring them out of it.
            assert self._head is not None
            with tf.init_scope(), keras.StatelessScope():
                far = np.asarray(self._head(tf.constant(FAR * noise, tf.float32)))
            self._several_sigmoids = _within_unit(far[np.isfinite(far)])
            self._from_logits = not self._several_sigmoids
        if not self._from_logits:
            warnings.warn(
                f"The model {self.model.name!r} returns probabilities and its logits cannot be "
                "reached: attacks use log p, whose gradient vanishes where the model is very "
                "confident. Robustness may be overestimated.",
                stacklevel=2,
            )

    @property
    def known_classes(self) -> int | None:
        """Number of classes, None for a callable that has not said yet."""
        return self._nb_classes

    @property
    def nb_classes(self) -> int:
        """Number of classes."""
        if self._nb_classes is None:
            raise ValueError(
                "The number of classes is not known before the model is called: give `nb_classes`."
            )
        return self._nb_classes

    @property
    def input_shape(self) -> tuple[int | None, ...] | None:
        """Shape of one sample; None, as an entry or whole, where the model leaves it open."""
        return self._input_shape

    def logits(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """float32 logits `[batch, classes]` of `x`, `[batch, ...]`; usable inside a graph.

        Args:
            x: Samples.
            training: Run the model in training mode (dropout, batch statistics) instead.
        """
        if not self.is_keras:
            return tf.constant(self._call(np.asarray(x, np.float32)))
        assert self._head is not None
        scores = self._head(tf.cast(x, tf.float32), training=training)
        if self._from_logits is False:
            if scores.shape[-1] == 1:
                scores = tf.concat([1.0 - scores, scores], axis=-1)
            logits = tf.math.log(tf.maximum(scores, SMALLEST_PROBABILITY))
            if self._several_sigmoids:
                logits -= tf.math.log(tf.maximum(1.0 - scores, SMALLEST_PROBABILITY))
            return logits
        if scores.shape[-1] == 1:
            return tf.concat([tf.zeros_like(scores), scores], axis=-1)
        return scores

    def decide(self, x: tf.Tensor) -> tf.Tensor:
        """int32 labels `[batch]`: of one forward pass, or by majority over `votes` of them."""
        if self.votes == 1:
            return tf.argmax(self.logits(x), axis=-1, output_type=tf.int32)
        counts = tf.add_n(
            [
                tf.one_hot(tf.argmax(self.logits(x), axis=-1), self.nb_classes)
                for _ in range(self.votes)
            ]
        )
        return tf.argmax(counts, axis=-1, output_type=tf.int32)

    def gradient(
        self, x: tf.Tensor, loss: Callable[[tf.Tensor], tf.Tensor], training: bool = False
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Logits, loss and input gradient in one forward and one backward pass.

        The gradient of the loss with respect to the logits is taken in float32 and, where the
        model computes in float16, scaled per sample on its way through.

        Args:
            x: Samples `[batch, ...]`.
            loss: Logits `[batch, classes]` to a loss per sample `[batch]`.
            training: Run the model in training mode instead.

        Returns:
            Logits `[batch, classes]`, losses `[batch]` and the float32 gradient, shape of `x`.

        Raises:
            TypeError: If the model is a callable.
            ValueError: If no gradient leads from the outputs back to the inputs.
        """
        if not self.has_gradient:
            raise TypeError(
                "This attack needs gradients, which a callable does not have: use a black-box "
                f"attack. Received: model={self.model!r}"
            )
        with tf.GradientTape(watch_accessed_variables=False) as through_model:
            through_model.watch(x)
            logits = self.logits(x, training=training)
        with tf.GradientTape(watch_accessed_variables=False) as through_loss:
            through_loss.watch(logits)
            value = loss(logits)
        upstream = through_loss.gradient(value, logits)
        if upstream is None:
            raise ValueError("The loss does not depend on the logits.")
        scale = tf.ones_like(value)
        if self._low_precision:
            largest = tf.reduce_max(tf.abs(upstream), axis=-1)
            scale = tf.where(largest > 0, UPSTREAM_SCALE / tf.maximum(largest, 1e-30), scale)
        gradient = through_model.gradient(logits, x, output_gradients=upstream * scale[:, None])
        if gradient is None:
            raise ValueError(
                "The model has no gradient path from its outputs to its inputs: use a black-box "
                f"attack. Received: model={getattr(self.model, 'name', self.model)!r}"
            )
        gradient = tf.convert_to_tensor(gradient)
        scale = tf.reshape(scale, tf.concat([tf.shape(scale), [1] * (gradient.shape.rank - 1)], 0))
        return logits, value, gradient / scale

    def jacobian(
        self, x: tf.Tensor, weigh: Callable[[tf.Tensor], tf.Tensor]
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Logits and the gradients of several weighted sums of them: one forward pass, k backward.

        Args:
            x: Samples `[batch, ...]`.
            weigh: Logits `[batch, classes]` to weights `[batch, k, classes]`, k a fixed number.

        Returns:
            Logits and the float32 gradients of `sum_c weights[:, i, c] * z_c`, `[batch, k, ...]`.

        Raises:
            ValueError: If no gradient leads from the outputs back to the inputs.
        """
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = self.logits(x)
        weights = tf.stop_gradient(weigh(tf.stop_gradient(logits)))
        scale = UPSTREAM_SCALE if self._low_precision else 1.0

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            gradient = tape.gradient(logits, x, output_gradients=upstream * scale)
            if gradient is None:
                raise ValueError(
                    "The model has no gradient path from its outputs to its inputs: use a "
                    f"black-box attack. Received: model={getattr(self.model, 'name', self.model)!r}"
                )
            return tf.convert_to_tensor(gradient) / scale

        if weights.shape[1] <= UNROLLED:
            upstreams = tf.unstack(weights, axis=1)
            return logits, tf.stack([backward(upstream) for upstream in upstreams], axis=1)
        # A loop keeps the graph small, and takes twice as long.
        rows = tf.map_fn(backward, tf.transpose(weights, [1, 0, 2]), parallel_iterations=1)
        return logits, tf.transpose(rows, [1, 0, *range(2, rows.shape.rank)])

    def predict(self, x: np.ndarray, batch_size: int = 128) -> np.ndarray:
        """float32 logits `[n, classes]` of an array `[n, ...]`, in batches of one fixed shape.

        For a callable they are its own scores, exactly the samples given, in one pass.
        """
        if not self.is_keras:
            return np.concatenate(
                [self._call(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
            )
        self.prepare(x.shape[1:])
        forward = self.functions.get("predict")
        if forward is None:

            def traced(batch: tf.Tensor) -> tf.Tensor:
                self.traces["predict"] = self.traces.get("predict", 0) + 1
                return self.logits(batch)

            # Without XLA the second batch size makes the graph one for all of them.
            forward = tf.function(
                traced,
                autograph=False,
                jit_compile=self.jit_compile,
                reduce_retracing=not self.jit_compile,
            )
            self.functions["predict"] = forward
        outputs = []
        rows = min(batch_size, max(len(x), 1))
        for start in range(0, len(x), rows):
            batch = np.asarray(x[start : start + rows], np.float32)
            padding = rows - len(batch)
            if padding:
                batch = np.concatenate([batch, np.repeat(batch[-1:], padding, axis=0)])
            outputs.append(np.asarray(forward(tf.constant(batch)))[: rows - padding])
        return np.concatenate(outputs)

    def judge(self, x: np.ndarray, batch_size: int = 128) -> tuple[np.ndarray, np.ndarray]:
        """Labels and confidence of an array `[n, ...]`.

        Returns:
            int64 labels `[n]`, of one forward pass or by majority over `votes` of them, and the
            float32 probabilities of these labels, the mean over the passes.
        """
        scores = np.stack([self.predict(x, batch_size) for _ in range(self.votes)])
        ballots = (scores == scores.max(axis=2, keepdims=True)).sum(axis=0)
        labels = ballots.argmax(axis=1)
        probability = special.softmax(scores.astype(np.float64), axis=2).mean(axis=0)
        return labels, probability[np.arange(len(x)), labels].astype(np.float32)

    def _call(self, x: np.ndarray) -> np.ndarray:
        """Scores of a callable, checked, and its samples counted."""
        if len(x) == 0:
            return np.zeros((0, self._nb_classes or 2), np.float32)
        self.queries += len(x)
        try:
            scores = np.asarray(_within(self.timeout, self.model, x), np.float32)
        except Exception as error:
            raise ModelFailure(f"The model raised {type(error).__name__}: {error}") from error
        if scores.ndim == 2 and self._from_logits is None and len(scores) == len(x):
            # Settled by the first call, so that it does not depend on what a batch holds.
            self._from_logits = not _are_probabilities(scores)
        if scores.ndim == 2 and scores.shape[1] == 1:
            rest = np.zeros_like(scores) if self._from_logits else 1.0 - scores
            scores = np.concatenate([rest, scores], axis=1)
        expected = (len(x), self._nb_classes or (scores.shape[-1] if scores.ndim else 0))
        if scores.shape != expected:
            raise ModelFailure(
                f"The model must return scores of shape {expected}. Received: shape {scores.shape}"
            )
        if not np.isfinite(scores).all():
            raise ModelFailure("The model returned scores that are not finite.")
        self._nb_classes = scores.shape[1]
        if not self._from_logits:
            scores = np.log(np.maximum(scores, SMALLEST_PROBABILITY))
        return scores

    def black_box(self) -> BlackBox:
        """The same model without its gradient."""
        return BlackBox(self)


class BlackBox:
    """What a black-box attack gets: scores and labels, and no gradient to be had."""

    def __init__(self, classifier: Classifier):
        self._classifier = classifier
        self.clip_values = classifier.clip_values
        self.is_keras = classifier.is_keras
        self.votes = classifier.votes

    @property
    def nb_classes(self) -> int:
        """Number of classes."""
        return self._classifier.nb_classes

    def logits(self, x: tf.Tensor) -> tf.Tensor:
        """See `Classifier.logits`."""
        return self._classifier.logits(x)

    def decide(self, x: tf.Tensor) -> tf.Tensor:
        """See `Classifier.decide`."""
        return self._classifier.decide(x)


def _within(timeout: float | None, call: Callable[[np.ndarray], Any], x: np.ndarray) -> Any:
    """`call(x)`, or a `TimeoutError` when it takes longer.

    Python cannot end a call from outside: it goes on in a thread that keeps no program from ending.
    """
    if timeout is None:
        return call(x)
    outcome: dict[str, Any] = {}

    def work() -> None:
        try:
            outcome["scores"] = call(x)
        except BaseException as error:
            outcome["error"] = error

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout)
    if thread.is_alive():
        raise TimeoutError(f"no answer within {timeout:g} s")
    if "error" in outcome:
        raise outcome["error"]
    return outcome["scores"]


_SHARED: weakref.WeakValueDictionary[Any, Classifier] = weakref.WeakValueDictionary()


def _is_art_estimator(model: Any) -> bool:
    return any(base.__module__.startswith("art.estimators") for base in type(model).__mro__)


def _inside_art(estimator: Any) -> Any:
    """The Keras model of an ART estimator, or `predict` where the estimator does more than it."""
    inner = getattr(estimator, "model", None)
    around = [
        *(getattr(estimator, "preprocessing_operations", None) or ()),
        *(getattr(estimator, "postprocessing_defences", None) or ()),
    ]
    # (0, 1), the default: nothing is subtracted and nothing divided.
    around = [step for step in around if not _changes_nothing(step)]
    return inner if isinstance(inner, keras.Model) and not around else estimator.predict


def _changes_nothing(step: Any) -> bool:
    if not type(step).__name__.startswith("StandardisationMeanStd"):
        return False
    return bool(np.all(np.asarray(step.mean) == 0) and np.all(np.asarray(step.std) == 1))


def _within_unit(scores: np.ndarray) -> bool:
    return bool((scores >= 0).all() and (scores <= 1).all())


def _are_probabilities(scores: np.ndarray) -> bool:
    if not _within_unit(scores):
        return False
    return scores.shape[1] == 1 or bool(np.allclose(scores.sum(axis=1), 1.0, atol=5e-3))
