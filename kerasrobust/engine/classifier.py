"""Classifier: all that an attack sees of a model."""

from __future__ import annotations

import contextlib
import functools
import logging
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tenacity
import tensorflow as tf
from scipy import special

from kerasrobust import _keras
from kerasrobust.checks import (
    check_bounds,
    check_float,
    check_int,
    check_preprocessing,
    check_scale,
    fitting,
)
from kerasrobust.engine import backward, folding
from kerasrobust.engine.box import Box
from kerasrobust.engine.logits import (
    LogitsHead,
    are_probabilities,
    as_float32,
    check_softmax,
    ends_in_lone_softmax,
    folds_alike,
    logits_head,
    prove,
    stays_within_unit,
    within_unit,
)
from kerasrobust.engine.loops import one_at_a_time, while_loop
from kerasrobust.engine.pixel_range import pixel_range

LOG = logging.getLogger("kerasrobust")
LOW_PRECISION = ("float16", "bfloat16")
# Largest entry of the gradient that enters a float16 model: high enough that input gradients do
# not underflow (2^-24), low enough that a gain of several hundred on the way does not overflow.
UPSTREAM_SCALE = 128.0
# Of noise by which a model is proven: a pass that is not compiled keeps what all layers made of it.
PROBE_SAMPLES, PROBE_VALUES = 16, 2**20
# How far outside of 0..1 rounding may bring a probability.
BEYOND_UNIT = 1e-3
# Keeps log p finite where a probability has underflown to zero.
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)
# Two passes that differ by more than this share of the largest score differ by draws, not rounding.
DRAWN, DRAWN_COARSE = 1e-5, 1e-2
# Samples that a callable, whose passes may cost money, is asked twice.
ASKED_TWICE = 32
# Samples that are asked beside others and alone.
ALONE = 8
# How far outside of the bounds samples may be, as a share of their width: what float32 loses where
# they were standardised and put back.
ROUNDING = 1e-5
# Seconds between two tries of a callable: 1, 2, 4, ..., at most so many.
LONGEST_WAIT = 60
# Share of the logits by which one must lead: 32 roundings of a float32.
CLEAR = 2.0**-18
# Backward passes of a Jacobian that are laid out side by side in the graph.
SIDE_BY_SIDE = 20
# Logits, and how far beyond its threshold a detector is, to the logits that an attack follows.
Seen = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def use_jit(jit_compile: bool | str) -> bool:
    """Keras's rule for ``"auto"``: XLA where an accelerator is present, plain graphs on a CPU.

    What is chosen and why is logged once (logger ``"kerasrobust"``, INFO).

    Raises:
        ValueError: If it is neither a bool nor ``"auto"``.
    """
    if jit_compile == "auto":
        return _on_accelerator()
    if not isinstance(jit_compile, bool):
        raise ValueError(
            f"`jit_compile` must be True, False or 'auto'. Received: jit_compile={jit_compile!r}"
        )
    return jit_compile


@functools.cache
def _on_accelerator() -> bool:
    """Whether there is one; says what follows from it for compilation and precision."""
    found = tf.config.list_physical_devices("GPU") or tf.config.list_physical_devices("TPU")
    if not found:
        LOG.info(
            "Without an accelerator attacks run as plain graphs in float32: on a CPU, XLA's "
            "gradients of convolutions take three times as long."
        )
        return False
    name, rounded = found[0].name, ""
    if found[0].device_type == "GPU":
        name = tf.config.experimental.get_device_details(found[0]).get("device_name", name)
        if tf.config.experimental.tensor_float_32_execution_enabled():
            rounded = (
                " Its products may be rounded to TF32, as "
                "tf.config.experimental.tensor_float_32_execution_enabled() says; the attacks' own "
                "arithmetic is in float32."
            )
    LOG.info("On %s attacks are compiled by XLA, which saves launches.%s", name, rounded)
    return True


class ModelFailure(RuntimeError):
    """A callable model raised, or returned neither scores nor labels."""


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
            differ, or two over samples (`look_for_draws`). None before that is known.
        repeatable: Whether what it draws is a function of the key of a pass.
        mixes_samples: Whether the answer to a sample depends on the others of its batch, as with
            batch normalization that is left in training mode (`look_for_draws`).
        answers_labels: Whether a callable answers labels only. None before it was called.
        low_precision: Whether a layer computes in half precision.

    Args:
        model: A `keras.Model`, a layer (`keras.layers.TFSMLayer`, say), another `Classifier`, an
            ART estimator, or any callable that takes a float32 array `[batch, ...]` and returns
            scores or logits `[batch, classes]`, or integer labels, `[batch]` or one-hot (it has no
            gradient: black-box attacks only, and with labels those that ask for no more). The one
            output of a Keras model may come in a dictionary or a list.
        clip_values: Smallest and largest valid input value, a pair, list or array. By default what
            the model says of itself (`model.clip_values`), else `(0, 1)`: samples are refused then
            if the model's first layers expect another range (`pixel_range`).
        preprocessing: Mean and standard deviation, `(mean, std)`: numbers, or arrays that broadcast
            against a sample, one value per channel say. The model is given `(x - mean) / std`;
            bounds, budgets and samples are in the unit before it, gradients go through it.
        nb_classes: Number of classes; of use for a callable only, whose scores tell it by the
            first call, and whose labels as they come.
        input_shape: Shape of one sample, where the model does not know it.
        from_logits: Whether an opaque model or a callable returns logits (True) or probabilities
            (False). By default this is seen from the outputs themselves.
        votes: Number of forward passes over which the label of a randomised model is voted. By
            default what the model brings (`model.classifier_options`), else 1.
        draws: Number of passes over which the gradient of a randomised model is averaged
            (expectation over transformation, Athalye et al. 2018). Default: as with `votes`.
        seed: Seed of what a randomised model draws while it is attacked and judged.
        gradient: Which backward pass stands for layers that offer a choice: ``"exact"``,
            ``"straight_through"`` or ``"surrogate"`` (BPDA), or ``"ignore"``: attacks see the model
            without these layers and are judged on the model with them (grey box).
        detector: A callable that says of samples `[batch, ...]` which ones are accepted, bool
            `[batch]`, usable inside a graph. By default what the model brings (`model.accepts`).
            Where it has, or the model has, `excess(x)` too, a differentiable measure `[batch]` that
            is 0 or more where it rejects, gradients lead through it.
        judge: A model or `Classifier` on which the outcome of an attack is judged, and from which
            clean labels come; by default this one.
        jit_compile: True, False or ``"auto"`` (XLA only where an accelerator is present).
        timeout: Seconds that one call of a callable may take; a longer one counts as a failure of
            the model. None waits for ever.
        retries: How many more times a callable is asked that raised or took too long, after 1, 2,
            4, ... seconds. Each try counts in `queries`.

    Raises:
        TypeError: If `model` is none of the above.
        ValueError: If the bounds are not increasing, or the model has several inputs or outputs.
    """

    def __init__(
        self,
        model: Any,
        clip_values: tuple[float, float] | None = None,
        *,
        preprocessing: tuple[Any, Any] | None = None,
        nb_classes: int | None = None,
        input_shape: tuple[int | None, ...] | None = None,
        from_logits: bool | None = None,
        votes: int | None = None,
        draws: int | None = None,
        seed: int | None = None,
        gradient: str | None = None,
        detector: Callable[[tf.Tensor], tf.Tensor] | None = None,
        judge: Any = None,
        jit_compile: bool | str = "auto",
        timeout: float | None = None,
        retries: int | None = None,
    ):
        # Where nobody gave bounds: what the model's first layers say instead, if anything.
        self._expected = None
        self._several_sigmoids = False
        if isinstance(model, Classifier):
            self._expected = model._expected if clip_values is None else None
            self._several_sigmoids = model._several_sigmoids
            preprocessing = model.preprocessing if preprocessing is None else preprocessing
            votes = model.votes if votes is None else votes
            draws = model.draws if draws is None else draws
            seed = model.seed if seed is None else seed
            gradient = model.gradient_mode if gradient is None else gradient
            detector = model._given_detector if detector is None else detector
            judge = model._judge if judge is None else judge
            timeout = model.timeout if timeout is None else timeout
            retries = model.retries if retries is None else retries
            clip_values = model.clip_values if clip_values is None else clip_values
            nb_classes = model.known_classes if nb_classes is None else nb_classes
            input_shape = model.input_shape if input_shape is None else input_shape
            from_logits = model._from_logits if from_logits is None else from_logits
            model = model.model
        self.no_gradient = ""
        if _is_art_estimator(model):
            model, inside = _inside_art(model, clip_values)
            self.no_gradient = inside["no_gradient"]
            clip_values = inside["clip_values"]
            nb_classes, input_shape = inside["nb_classes"], inside["input_shape"]
            preprocessing = inside["preprocessing"] if preprocessing is None else preprocessing
        if not callable(model):
            raise TypeError(
                "`model` must be a keras.Model, a Classifier, an ART estimator or a callable that "
                f"returns scores. Received: model={model!r}"
            )
        self.model: Any = model
        own = getattr(model, "classifier_options", {})
        votes, draws = (
            own.get(k) if v is None else v for k, v in (("votes", votes), ("draws", draws))
        )
        if clip_values is None:
            clip_values = getattr(model, "clip_values", None)
            unsaid = clip_values is None and preprocessing is None
            found = pixel_range(model) if unsaid else None
            self._expected = found if found and found.bounds != (0.0, 1.0) else None
        self.clip_values: tuple[float, float] = check_bounds(
            (0.0, 1.0) if clip_values is None else clip_values
        )
        # As tuples, so that they can be part of a key.
        self.preprocessing: tuple[Any, Any] | None = check_preprocessing(preprocessing)
        self.votes: int = check_int("votes", 1 if votes is None else votes, 1)
        self.draws: int = check_int("draws", 1 if draws is None else draws, 1)
        self.seed: int = check_int("seed", 0 if seed is None else seed, 0, None)
        self.gradient_mode: str = "exact" if gradient is None else gradient
        self._given_detector: Any = detector
        # Without its layers, the model is seen without its detector.
        brought = None if self.gradient_mode == "ignore" else model
        self.detector: Any = getattr(brought, "accepts", None) if detector is None else detector
        self._excess: Any = getattr(brought if detector is None else detector, "excess", None)
        # Which votes are clear enough for an answer: of a model that abstains.
        self._certain: Any = getattr(model, "certain", None) if self.votes > 1 else None
        self._judge: Classifier | None = None if judge is None else Classifier.of(judge)
        self.jit_compile = use_jit(jit_compile)
        self.is_keras = isinstance(model, keras.layers.Layer)
        if timeout is not None:
            timeout = check_float("timeout", timeout, above=True)
        self.timeout: float | None = timeout
        self.retries: int = check_int("retries", 0 if retries is None else retries, 0)
        self.answers_labels: bool | None = None
        self.has_gradient = self.is_keras
        self.queries = 0  # samples sent to a callable; a Keras model is counted by the attack
        self.traces: dict[str, int] = {}
        self.functions: dict[Any, Callable[..., Any]] = {}
        self._from_logits: bool | None = from_logits
        self._nb_classes = nb_classes
        self._more_classes = False  # whether labels may still show more of them
        self._input_shape = tuple(input_shape) if input_shape is not None else None
        self._head: Callable[..., tf.Tensor] | None = None
        self._candidate: LogitsHead | None = None
        # The shape of a sample that a Keras model was prepared for.
        self._probed: tuple[int, ...] | None = None
        self.low_precision = False
        # Whether attacks may fold batch normalizations; None where there is none to fold.
        self._folds: bool | None = None
        self.randomised: bool | None = None
        self.repeatable = True
        self.mixes_samples = False
        self._check_gradient_mode()
        if self.is_keras:
            self._read_model()

    def _check_gradient_mode(self) -> None:
        if self.gradient_mode not in backward.MODES:
            raise ValueError(
                f"`gradient` must be one of {', '.join(backward.MODES)}. "
                f"Received: gradient={self.gradient_mode!r}"
            )
        if self.gradient_mode == "exact":
            return
        offered = self.gradients_offered
        if self.gradient_mode not in offered:
            raise ValueError(
                "No layer of the model offers this gradient. "
                f"Offered: {', '.join(offered) or 'the exact one only'}. "
                f"Received: gradient={self.gradient_mode!r}"
            )

    @property
    def gradients_offered(self) -> list[str]:
        """The backward passes that layers of the model offer, by name."""
        layers = _keras.flat_layers(self.model) if self.is_keras else []
        return sorted({mode for layer in layers for mode in getattr(layer, "gradients", ())})

    @property
    def judging(self) -> Classifier:
        """The classifier that says how an attack ended: `judge`, or this one.

        One that ignores layers is judged with them.
        """
        if self._judge is None and self.gradient_mode == "ignore":
            self._judge = Classifier(self, gradient="exact")
        return self if self._judge is None else self._judge

    @property
    def rejects(self) -> bool:
        """Whether a detector may reject samples, or a vote may be too close to answer."""
        return self.detector is not None or self._certain is not None

    @property
    def unseen_detector(self) -> bool:
        """Whether a detector has a say whose gradient attacks cannot follow."""
        return self.detector is not None and self._excess is None

    @property
    def hides_logits(self) -> bool:
        """Whether the logits are logarithms of the probabilities that the model returns."""
        return self._from_logits is False and not self.answers_labels

    def settings(self) -> dict[str, Any]:
        """What an outcome depends on beside the model, in types that JSON knows."""
        own = {
            "clip_values": list(self.clip_values),
            "preprocessing": self.preprocessing,
            "votes": self.votes,
            "draws": self.draws,
            "seed": self.seed,
            "gradient": self.gradient_mode,
            "from_logits": self._from_logits,
            "detector": None if self.detector is None else repr(type(self.detector)),
        }
        judge = self.judging
        return own if judge is self else {**own, "judge": judge.settings()}

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
        if _is_art_estimator(model):
            if isinstance(getattr(model, "classifier", None), cls):  # one of ours
                return cls.of(model.classifier, clip_values, **options)
            inner, inside = _inside_art(model, clip_values)
            if isinstance(inner, keras.Model):
                del inside["no_gradient"]
                return cls.of(inner, **{**inside, **options})
        if isinstance(model, Classifier):
            if options or clip_values not in (None, model.clip_values):
                raise ValueError(
                    "A Classifier has its bounds and options already. "
                    f"Received: clip_values={clip_values!r}, {options}"
                )
            return model
        if "preprocessing" in options:
            options["preprocessing"] = check_preprocessing(options["preprocessing"])
        key = (id(model), clip_values, tuple(sorted(options.items())))
        shared = _SHARED.get(key)
        if shared is None or shared.model is not model:
            shared = cls(model, clip_values, **options)
            _SHARED[key] = shared
        return shared

    def _read_model(self) -> None:
        if _looks_up_inputs(self.model):
            raise ValueError(
                "The model must take inputs that can change by a little: an Embedding looks up "
                "whole numbers, and what lies between them has no meaning. Attack the model behind "
                f"its embeddings. Received: model={self.model.name!r}"
            )
        self._candidate = head = logits_head(self.model)
        self._head = head.call if head is not None else as_float32(self.model)
        self.low_precision = any(
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
        if not self.is_keras or self._probed is not None:
            return
        low, high = self.clip_values
        rows = fitting(PROBE_SAMPLES, sample_shape, PROBE_VALUES)
        noise = np.random.default_rng(0).uniform(low, high, (rows, *sample_shape))
        noise = self._preprocessed(noise)
        with tf.init_scope():
            proof = prove(self.model, self._candidate, tf.constant(noise, tf.float32))
        scores = proof.scores
        if scores.ndim != 2:
            raise ValueError(
                "The model must return one row of scores per sample, [batch, classes]. "
                f"Received: output shape {scores.shape}"
            )
        self._probed = sample_shape
        self._head, self.randomised = proof.head.call, proof.randomised
        self._settle_folding(proof.folds)
        self._nb_classes = max(scores.shape[1], 2)
        if proof.head.activation is not None:
            self._from_logits = True
        elif self._from_logits is None:
            self._settle_scores(scores, noise)
        elif wrong := self._no_probabilities(scores):
            raise ValueError(wrong)

    def _settle_scores(self, scores: np.ndarray, noise: np.ndarray) -> None:
        """Sees what an opaque model returns for noise: logits, or probabilities of some kind."""
        # Within rounding: there are processors on which TensorFlow's softmax of one number is less.
        ones = scores.shape[1] == 1 and np.allclose(scores, 1, rtol=0, atol=1e-3)
        if ones and ends_in_lone_softmax(self.model):
            check_softmax("softmax", 1, self.model)
        self._from_logits = not within_unit(scores)
        if not self._from_logits and (scores.shape[1] == 1 or not are_probabilities(scores)):
            # Each within 0..1 by itself: sigmoids, unless inputs far outside bring them out of it.
            head = self._head
            assert head is not None
            with tf.init_scope(), keras.StatelessScope():
                stays = stays_within_unit(lambda far: head(tf.constant(far, tf.float32)), noise)
            self._from_logits = not stays
            self._several_sigmoids = not self._from_logits and scores.shape[1] > 1
        if not self._from_logits:
            warnings.warn(
                f"The model {self.model.name!r} returns probabilities and its logits cannot be "
                "reached: attacks use log p, whose gradient vanishes where the model is very "
                "confident. Robustness may be overestimated.",
                stacklevel=2,
            )

    def _no_probabilities(self, scores: np.ndarray) -> str:
        """What is wrong with scores that were said, or seen before, to be probabilities.

        Empty where they lie in 0..1, within rounding.
        """
        if self._from_logits is not False or within_unit(scores, BEYOND_UNIT):
            return ""
        return (
            "The model's scores were taken for probabilities, and they are none: give "
            "`from_logits=True` if they are logits. "
            f"Received: from_logits=False, scores from {scores.min():.4g} to {scores.max():.4g}"
        )

    def _settle_folding(self, folds: bool | None) -> None:
        """Notes whether folding changes nothing, and says once that it is left out."""
        if self._folds is not False and folds is False:
            LOG.info(
                "Batch normalizations of the model %r are not folded into its convolutions: its "
                "scores would be others.",
                self.model.name,
            )
        self._folds = folds

    def folding(self) -> contextlib.AbstractContextManager[Any]:
        """A scope in a graph, around its loops, in which batch normalizations are folded.

        It does nothing where that would change the model's scores. See `engine.folding`.
        """
        return folding.scope() if self._folds else contextlib.nullcontext()

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: compiled functions and the way to the logits are its own."""
        own = ("functions", "traces", "_head", "_candidate")
        return {key: value for key, value in self.__dict__.items() if key not in own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        own: dict[str, Any] = {"functions": {}, "traces": {}, "_head": None, "_candidate": None}
        self.__dict__.update({**state, **own, "_probed": None})
        if self.is_keras:
            self._read_model()
        if state["_probed"] is not None:
            self.prepare(state["_probed"])
        self.__dict__.update(state)  # what samples have told since

    def check(self, x: np.ndarray) -> np.ndarray:
        """float32 samples that fit the model's input shape and bounds, and are finite.

        Raises:
            TypeError: If they are not numbers.
            ValueError: If shape, bounds or values do not fit.
        """
        if x.dtype.kind not in "fiub":
            raise TypeError(f"`x` must hold numbers. Received: x of dtype {x.dtype}")
        if x.ndim < 2 or len(x) == 0:
            raise ValueError(
                "`x` must be a batch of samples, [n, ...], with n >= 1. "
                f"Received: x of shape {x.shape}"
            )
        expected = self.input_shape
        if expected is not None and (
            len(expected) != x.ndim - 1
            or any(a not in (None, b) for a, b in zip(expected, x.shape[1:], strict=False))
        ):
            raise ValueError(
                f"`x` must have the model's input shape (n, {', '.join(map(str, expected))}). "
                f"Received: x of shape {x.shape}"
            )
        x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise ValueError("`x` must be finite. Received: x with NaN or infinite values")
        self._check_range(x)
        low, high = self.clip_values
        least, most = float(x.min()), float(x.max())
        tolerance = ROUNDING * (high - low)
        if least < low - tolerance or most > high + tolerance:
            raise ValueError(
                f"`x` must lie within the bounds clip_values=({low:g}, {high:g}). "
                f"Received: values from {least:g} to {most:g}"
            )
        check_scale(x, (low, high))
        self.prepare(x.shape[1:])
        return np.clip(x, low, high)

    def _check_range(self, x: np.ndarray) -> None:
        """Refuses samples where the bounds are the default ones and the model says otherwise."""
        if self._expected is not None:
            raise ValueError(
                f"{self._expected.told()} "
                f"Received: clip_values=None, values from {x.min():g} to {x.max():g}"
            )

    @property
    def known_classes(self) -> int | None:
        """Number of classes, None for a callable that has not said yet, or not all of them."""
        return None if self._more_classes else self._nb_classes

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

    def logits(
        self, x: tf.Tensor, training: bool = False, key: tf.Tensor | None = None
    ) -> tf.Tensor:
        """float32 logits `[batch, classes]` of `x`, `[batch, ...]`; usable inside a graph.

        Args:
            x: Samples.
            training: Run the model in training mode (dropout, batch statistics) instead.
            key: int32 `[2]`, what a randomised model draws by; without it the model's own seeds
                move on.
        """
        if not self.is_keras:
            return tf.constant(self._call(np.asarray(x, np.float32)))
        with backward.mode(self.gradient_mode), self._drawing(key):
            return self.plain_logits(x, training)

    def plain_logits(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """`logits` of a Keras model within another one, whose gradients and draws count."""
        assert self._head is not None
        scores = self._head(self._preprocessed(tf.cast(x, tf.float32)), training=training)
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

    def _preprocessed(self, x: Any) -> Any:
        """What the model is given for samples, an array or a tensor."""
        if self.preprocessing is None:
            return x
        mean, deviation = (np.asarray(part, np.float32) for part in self.preprocessing)
        return (x - mean) / deviation

    def _drawing(self, key: tf.Tensor | None) -> contextlib.AbstractContextManager[Any]:
        """A scope in which the model's seeds are functions of a key and stay where they are."""
        if key is None or not (self.randomised or self.draws > 1 or self.votes > 1):
            return contextlib.nullcontext()
        states = _keras.seed_states(self.model)
        fold = tf.random.experimental.stateless_fold_in
        mapping = [(state, tf.cast(fold(key, i), state.dtype)) for i, state in enumerate(states)]
        return keras.StatelessScope(state_mapping=mapping)

    def look_for_draws(self, x: np.ndarray, batch_size: int = 128) -> None:
        """Settles `randomised`, `repeatable` and `mixes_samples` by passes over the first batch.

        And whether attacks may fold the model's batch normalizations (`engine.folding`).
        From then on a model that draws by Keras's seed generators draws by the key of a pass alone.
        One that draws by other means cannot be repeated.

        Args:
            x: Samples `[n, ...]`.
            batch_size: Samples per pass.
        """
        x = x[: batch_size if self.is_keras else ASKED_TWICE]
        exact = self.is_keras and not self.low_precision

        def apart(one: np.ndarray, other: np.ndarray) -> float:
            """By how much of the largest score two answers differ."""
            one = _widened(one, other.shape[1])
            return float(np.abs(one - other).max() / max(np.abs(one).max(), SMALLEST_PROBABILITY))

        def differ(*keys: tuple[int, int]) -> bool:
            one, other = (self.predict(x, batch_size, key) for key in keys)
            return apart(one, other) > (DRAWN if exact else DRAWN_COARSE)

        if not self.randomised and differ((0, 0), (0, 1)):
            self.randomised = True
            self.functions.clear()  # they draw by the model's own seeds
        self.randomised = bool(self.randomised)
        if self.is_keras and self._from_logits is False:
            # What noise gave may have lain in 0..1 by chance.
            assert self._head is not None
            few = self._preprocessed(x[: fitting(PROBE_SAMPLES, x.shape[1:], PROBE_VALUES)])
            with keras.StatelessScope():
                scores = np.asarray(self._head(tf.constant(few, tf.float32)))
            if wrong := self._no_probabilities(scores):
                raise ValueError(wrong)
        self.repeatable = not (self.randomised and differ((0, 0), (0, 0)))
        if self._folds and self.repeatable:
            self._look_for_folding(tf.constant(x, tf.float32))
        if self.is_keras and not self.randomised and len(x) > 1:
            alone = x[:ALONE]
            beside = self.predict(x, batch_size)[: len(alone)]
            # Each in a batch of its own, twice: some models take no batch of one.
            alone = self.predict(np.repeat(alone, 2, axis=0), 2)[::2]
            # Rounding, which changes with the size of a batch, stays far below.
            self.mixes_samples = apart(beside, alone) > DRAWN_COARSE

    def _look_for_folding(self, x: tf.Tensor) -> None:
        """Settles by samples what noise has told of folded batch normalizations."""

        def call(x: tf.Tensor) -> tf.Tensor:
            return self.logits(x, key=as_seed(0, 0))

        self._settle_folding(folds_alike(self.model, call, x, call(x).numpy()))
        if not self._folds:
            self.functions.clear()  # they fold

    def accepts(self, x: tf.Tensor) -> tf.Tensor | None:
        """bool `[batch]`, the samples that the detector accepts; None without a detector."""
        return None if self.detector is None else tf.cast(self.detector(x), tf.bool)

    def decide(
        self, x: tf.Tensor, key: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """int32 labels `[batch]`, of one pass or by majority over `votes`, and whether they count.

        The latter is `accepts`, and of a model that abstains whether the vote is clear.
        """
        if self.votes == 1:
            return tf.argmax(self.logits(x, key=key), axis=-1, output_type=tf.int32), self.accepts(
                x
            )

        def vote(i: tf.Tensor, counts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            labels = tf.argmax(self.logits(x, key=_another(key, i)), axis=-1)
            return i + 1, counts + tf.one_hot(labels, self.nb_classes)

        counts = tf.zeros([tf.shape(x)[0], self.nb_classes])
        _, counts = while_loop(lambda i, _: i < self.votes, vote, (0, counts), differentiates=False)
        accepted = self.accepts(x)
        if self._certain is not None:
            certain = self._certain(counts)
            accepted = certain if accepted is None else certain & accepted
        return tf.argmax(counts, axis=-1, output_type=tf.int32), accepted

    def gradient(
        self,
        x: tf.Tensor,
        loss: Callable[[tf.Tensor], tf.Tensor],
        training: bool = False,
        key: tf.Tensor | None = None,
        seen: Seen | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Logits, loss and input gradient in one forward and one backward pass.

        The gradient of the loss with respect to the logits is taken in float32 and, where the
        model computes in float16, scaled per sample on its way through. Of a randomised model all
        three are means over `draws` passes, made one after the other.

        Args:
            x: Samples `[batch, ...]`.
            loss: Logits `[batch, classes]` to a loss per sample `[batch]`.
            training: Run the model in training mode instead.
            key: See `logits`.
            seen: What logits become where a detector that offers its `excess` has a say
                (`Criterion.beside_detector`): the gradient leads through the detector as well.

        Returns:
            Logits `[batch, classes]`, losses `[batch]` and the float32 gradient, shape of `x`.

        Raises:
            TypeError: If the model is a callable.
            ValueError: If no gradient leads from the outputs back to the inputs.
        """
        return self._mean_over_draws(lambda k: self._gradient(x, loss, training, k, seen), key)

    def _mean_over_draws(
        self, compute: Callable[[tf.Tensor | None], tuple[tf.Tensor, ...]], key: tf.Tensor | None
    ) -> tuple[tf.Tensor, ...]:
        if self.draws == 1:
            return compute(key)

        def add(i: tf.Tensor, *sums: tf.Tensor) -> tuple[tf.Tensor, ...]:
            drawn = compute(_another(key, i))
            return i + 1, *(total + part for total, part in zip(sums, drawn, strict=True))

        first = compute(_another(key, 0))
        _, *sums = while_loop(lambda i, *_: i < self.draws, add, (1, *first))
        return tuple(total / self.draws for total in sums)

    def _gradient(
        self,
        x: tf.Tensor,
        loss: Callable[[tf.Tensor], tf.Tensor],
        training: bool,
        key: tf.Tensor | None,
        seen: Seen | None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        if not self.has_gradient:
            raise TypeError(
                "This attack needs gradients, which a callable does not have: use a black-box "
                f"attack. Received: model={self.model!r}"
            )
        with tf.GradientTape(watch_accessed_variables=False) as through_model:
            through_model.watch(x)
            logits = self._seen(x, self.logits(x, training=training, key=key), seen)
        with tf.GradientTape(watch_accessed_variables=False) as through_loss:
            through_loss.watch(logits)
            value = loss(logits)
        upstream = through_loss.gradient(value, logits)
        if upstream is None:
            raise ValueError("The loss does not depend on the logits.")
        scale = tf.ones_like(value)
        if self.low_precision:
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

    def _seen(self, x: tf.Tensor, logits: tf.Tensor, seen: Seen | None) -> tf.Tensor:
        """The logits as an attack follows them, in a gradient tape of `x`."""
        if seen is None or self._excess is None:
            return logits
        return seen(logits, tf.cast(self._excess(x), tf.float32))

    def jacobian(
        self,
        x: tf.Tensor,
        weigh: Callable[[tf.Tensor], tf.Tensor],
        key: tf.Tensor | None = None,
        seen: Seen | None = None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Logits and the gradients of several weighted sums of them: one forward pass, k backward.

        Of a randomised model the means over `draws`.

        Args:
            x: Samples `[batch, ...]`.
            weigh: Logits `[batch, classes]` to weights `[batch, k, classes]`, k a fixed number.
            key: See `logits`.
            seen: See `gradient`.

        Returns:
            Logits and the float32 gradients of `sum_c weights[:, i, c] * z_c`, `[batch, k, ...]`.

        Raises:
            ValueError: If no gradient leads from the outputs back to the inputs.
        """
        logits, rows = self._mean_over_draws(lambda k: self._jacobian(x, weigh, k, seen), key)
        return logits, rows

    def _jacobian(
        self,
        x: tf.Tensor,
        weigh: Callable[[tf.Tensor], tf.Tensor],
        key: tf.Tensor | None,
        seen: Seen | None,
    ) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
            tape.watch(x)
            logits = self._seen(x, self.logits(x, key=key), seen)
        weights = tf.stop_gradient(weigh(tf.stop_gradient(logits)))
        scale = UPSTREAM_SCALE if self.low_precision else 1.0

        def backward(upstream: tf.Tensor) -> tf.Tensor:
            gradient = tape.gradient(logits, x, output_gradients=upstream * scale)
            if gradient is None:
                raise ValueError(
                    "The model has no gradient path from its outputs to its inputs: use a "
                    f"black-box attack. Received: model={getattr(self.model, 'name', self.model)!r}"
                )
            return tf.convert_to_tensor(gradient) / scale

        if weights.shape[1] <= SIDE_BY_SIDE:
            upstreams = tf.unstack(weights, axis=1)
            return logits, tf.stack([backward(upstream) for upstream in upstreams], axis=1)
        # A loop keeps the graph small, and takes 1.0 to 1.7 times as long.
        rows = tf.map_fn(backward, tf.transpose(weights, [1, 0, 2]), parallel_iterations=1)
        return logits, tf.transpose(rows, [1, 0, *range(2, rows.shape.rank)])

    def predict(
        self, x: np.ndarray, batch_size: int = 128, key: tuple[int, int] = (0, 0)
    ) -> np.ndarray:
        """float32 logits `[n, classes]` of an array `[n, ...]`, in batches of one fixed shape.

        For a callable they are its own scores, exactly the samples given, in one pass.

        Args:
            x: Samples.
            batch_size: Samples per pass.
            key: What a randomised model draws by; the same key, the same draws.
        """
        if not self.is_keras:
            parts = [self._call(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
            return np.concatenate([_widened(part, parts[-1].shape[1]) for part in parts])
        outputs = self.passes(
            "predict", lambda x, key: (self.logits(x, key=key),), (x,), batch_size, key
        )
        return outputs[0]

    def passes(
        self,
        role: str,
        function: Callable[..., tuple[tf.Tensor, ...]],
        arrays: tuple[np.ndarray, ...],
        batch_size: int,
        key: tuple[int, int],
    ) -> list[np.ndarray]:
        """Runs a function of samples and key, compiled once, batch by batch.

        Args:
            role: Name of the function, with all that its graph depends on beside the arguments.
            function: Of batches `[rows, ...]` of the arrays and an int32 key `[2]`, to tensors
                `[rows, ...]`.
            arrays: Samples `[n, ...]` first, then what belongs to each of them.
            batch_size: Rows of a batch; the last one is filled up with copies of its last row.
            key: See `predict`; each batch has its own.

        Returns:
            What the function returned, `[n, ...]`.
        """
        x = arrays[0]
        self.prepare(x.shape[1:])
        forward = self.functions.get(role)
        if forward is None:

            def traced(*batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
                self.traces[role] = self.traces.get(role, 0) + 1
                return function(*batch)

            # Without XLA the second batch size makes the graph one for all of them.
            forward = one_at_a_time(
                tf.function(
                    traced,
                    autograph=False,
                    jit_compile=self.jit_compile,
                    reduce_retracing=not self.jit_compile,
                )
            )
            self.functions[role] = forward
        outputs = []
        rows = min(batch_size, max(len(x), 1))
        root = tf.random.experimental.stateless_fold_in(as_seed(*key), self.seed)
        for start in range(0, len(x), rows):
            batch = [array[start : start + rows] for array in arrays]
            batch[0] = np.asarray(batch[0], np.float32)
            padding = rows - len(batch[0])
            if padding:
                batch = [np.concatenate([a, np.repeat(a[-1:], padding, axis=0)]) for a in batch]
            part = forward(
                *(tf.constant(array) for array in batch),
                tf.random.experimental.stateless_fold_in(root, start),
            )
            outputs.append([np.asarray(leaf)[: rows - padding] for leaf in part])
        return [np.concatenate(leaf) for leaf in zip(*outputs, strict=True)]

    def judge(
        self, x: np.ndarray, batch_size: int = 128, key: tuple[int, int] = (0, 0)
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels, confidence and acceptance of an array `[n, ...]`.

        Args:
            x: Samples.
            batch_size: Samples per pass.
            key: See `predict`.

        Returns:
            int64 labels `[n]`, of one forward pass or by majority over `votes` of them; the float32
            probabilities of these labels, the mean over the passes; and bool `[n]`, whether the
            detector, if there is one, accepts the sample, and a model that abstains does not.
        """
        return self.examine(x, None, batch_size, key)[:3]

    def examine(
        self,
        x: np.ndarray,
        y: np.ndarray | None,
        batch_size: int = 128,
        key: tuple[int, int] = (0, 0),
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """As `judge`, and from the same passes the loss of labels.

        Args:
            x: Samples.
            y: Integer labels `[n]`; None where no loss is asked for.
            batch_size: Samples per pass.
            key: See `predict`.

        Returns:
            What `judge` returns, and the float64 cross-entropy of `y` in nats `[n]`, the mean over
            the passes: NaN without `y`, and of a model that answers labels only.
        """
        ballots, probability = np.zeros(()), np.zeros(())
        losses = np.zeros(len(x))
        rows = np.arange(len(x))
        for vote in range(self.votes):
            scores = self.predict(x, batch_size, (key[0], key[1] * self.votes + vote))
            ballots = ballots + (scores == scores.max(axis=1, keepdims=True))
            exact = scores.astype(np.float64)
            probability = probability + special.softmax(exact, axis=1)
            if y is None or self.answers_labels:
                losses[:] = np.nan
                continue
            own = exact[rows, y]
            exact[rows, y] = -np.inf
            # log(1 + e^m) of the log-odds m: exact where -log p is rounded off.
            losses += np.logaddexp(0.0, special.logsumexp(exact, axis=1) - own) / self.votes
        labels = ballots.argmax(axis=1)
        confidence = probability[rows, labels] / self.votes
        accepted = np.ones(len(x), bool)
        if self.detector is not None:
            (accepted,) = self.passes(
                "accepts", lambda x, _: (self.accepts(x),), (x,), batch_size, key
            )
        if self._certain is not None:
            accepted &= np.asarray(self._certain(ballots))
        return labels, confidence.astype(np.float32), accepted, losses

    def _call(self, x: np.ndarray) -> np.ndarray:
        """Scores of a callable, checked, and its samples counted."""
        if len(x) == 0:
            return np.zeros((0, self._nb_classes or 2), np.float32)
        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self.retries + 1),
            wait=tenacity.wait_exponential(max=LONGEST_WAIT),
            retry=tenacity.retry_if_exception_type(Exception),
            reraise=True,
        )
        try:
            answers = tries(self._ask, x)
        except Exception as error:
            again = f" in each of {self.retries + 1} tries" if self.retries else ""
            raise ModelFailure(
                f"The model raised {type(error).__name__}{again}: {error}"
            ) from error
        if self.answers_labels is None:
            self.answers_labels = _are_labels(answers, len(x))
            self._more_classes = self.answers_labels and self._nb_classes is None
        scores = answers.astype(np.float32)
        if self.answers_labels and answers.size == len(x) and answers.dtype.kind in "iub":
            scores = self._one_hot(answers.reshape(-1).astype(np.int64))
        elif answers.ndim == 2:
            self._more_classes = False
        if scores.ndim == 2 and self._from_logits is None and len(scores) == len(x):
            # Settled by the first call, so that it does not depend on what a batch holds.
            self._from_logits = not are_probabilities(scores)
        if np.isfinite(scores).all() and (wrong := self._no_probabilities(scores)):
            raise ModelFailure(wrong)
        if scores.ndim == 2 and scores.shape[1] == 1:
            rest = np.zeros_like(scores) if self._from_logits else 1.0 - scores
            scores = np.concatenate([rest, scores], axis=1)
        n, classes = len(x), self._nb_classes
        if scores.ndim != 2 or len(scores) != n or scores.shape[1] != (classes or scores.shape[1]):
            raise ModelFailure(
                f"The model must return scores of shape ({n}, {classes or 'classes'}) or integer "
                f"labels of shape ({n},) for {n} samples. Received: answers of shape "
                f"{answers.shape} and dtype {answers.dtype}."
            )
        if not np.isfinite(scores).all():
            raise ModelFailure("The model returned scores that are not finite.")
        self._nb_classes = scores.shape[1]
        if not self._from_logits:
            scores = np.log(np.maximum(scores, SMALLEST_PROBABILITY))
        return scores

    def _ask(self, x: np.ndarray) -> np.ndarray:
        self.queries += len(x)
        answers = np.asarray(_within(self.timeout, self.model, self._preprocessed(x)))
        return answers if answers.dtype.kind in "iub" else answers.astype(np.float32)

    def _one_hot(self, labels: np.ndarray) -> np.ndarray:
        """Labels as scores of 0 and 1, as wide as classes are known by now."""
        if self._more_classes:
            if self.votes > 1:
                raise ValueError(
                    "`nb_classes` must be given where labels are voted on. "
                    f"Received: votes={self.votes}, nb_classes=None"
                )
            self._nb_classes = max(self._nb_classes or 2, int(labels.max()) + 1)
        classes = self._nb_classes or 2
        if labels.min() < 0 or labels.max() >= classes:
            raise ModelFailure(
                f"The model must return labels from 0 to {classes - 1}. "
                f"Received: labels from {labels.min()} to {labels.max()}"
            )
        return np.eye(classes, dtype=np.float32)[labels]

    def check_scores(self) -> None:
        """Refuses attacks that need scores, once the model was seen to answer labels only.

        Raises:
            TypeError: If it does.
        """
        if self.answers_labels:
            raise TypeError(
                "This attack needs scores, and the model answers labels: use hsja, boundary or "
                f"signopt. Received: model={self.model!r}"
            )

    def view(self, access: str = "gradient", key: Any = None, witness: Any = None) -> BlackBox:
        """What an attack gets to see of the model in one step.

        Args:
            access: ``"gradient"``, or anything else for an object that has none.
            key: int32 `[2]`, unique to seed, batch and step: a randomised model draws by it.
            witness: Told of all that a callable was asked; see `BlackBox`.
        """
        return (View if access == "gradient" else BlackBox)(self, key, witness)


class BlackBox:
    """What a black-box attack gets: scores and labels, and no gradient to be had.

    Whatever the unit of the model's inputs, points are in 0..1 here.

    Attributes:
        witness: Told of all that a callable was asked: sample, point and whether it fooled the
            model; None where nobody listens.
    """

    def __init__(self, classifier: Classifier, key: Any = None, witness: Any = None):
        self._classifier = classifier
        self._key = key
        self._calls = 0
        self.witness = witness
        self.clip_values = (0.0, 1.0)
        self._box = Box(*classifier.clip_values)
        self.is_keras = classifier.is_keras
        self.votes = classifier.votes
        self.draws = classifier.draws
        self.rejects = classifier.rejects

    @property
    def clear(self) -> float:
        """The share of two logits by which one leads for more than the rounding of a pass.

        0 in half precision, whose logits are a thousandth apart and mostly rounded alike in two
        passes, and where a walk ends at a gap of zero.
        """
        return 0.0 if self._classifier.low_precision else CLEAR

    @property
    def nb_classes(self) -> int:
        """Number of classes."""
        return self._classifier.nb_classes

    def _next(self, salt: Any = None) -> Any:
        """Another key for each call, and for each value of `salt` in a call that is looped."""
        if self._key is None:
            return None
        self._calls += 1
        key = _another(self._key, self._calls)
        return key if salt is None else _another(key, salt)

    def logits(self, x: tf.Tensor, salt: Any = None) -> tf.Tensor:
        """See `Classifier.logits`."""
        logits = self._classifier.logits(self._box.outwards(x), key=self._next(salt))
        self._classifier.check_scores()
        return logits

    def decide(self, x: tf.Tensor, salt: Any = None) -> tuple[tf.Tensor, tf.Tensor | None]:
        """See `Classifier.decide`."""
        return self._classifier.decide(self._box.outwards(x), key=self._next(salt))

    def accepts(self, x: tf.Tensor) -> tf.Tensor | None:
        """See `Classifier.accepts`."""
        return self._classifier.accepts(self._box.outwards(x))


class View(BlackBox):
    """What a white-box attack gets: the gradient as well."""

    def gradient(
        self,
        x: tf.Tensor,
        loss: Callable[[tf.Tensor], tf.Tensor],
        seen: Seen | None = None,
        salt: Any = None,
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """See `Classifier.gradient`."""
        x, key = self._box.outwards(x), self._next(salt)
        logits, value, gradient = self._classifier.gradient(x, loss, key=key, seen=seen)
        return logits, value, self._box.span * gradient

    def jacobian(
        self, x: tf.Tensor, weigh: Callable[[tf.Tensor], tf.Tensor], seen: Seen | None = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """See `Classifier.jacobian`."""
        x = self._box.outwards(x)
        logits, gradients = self._classifier.jacobian(x, weigh, key=self._next(), seen=seen)
        return logits, self._box.span * gradients

    def of(self, classifier: Classifier) -> View:
        """The same step's view of another model, for an attack on several."""
        return View(classifier, self._next())


def _looks_up_inputs(model: Any) -> bool:
    """Whether a functional or sequential model gives its inputs to an `Embedding`."""
    graph = _keras.graph_of(model) if _keras.has_graph(model) else None
    return graph is not None and any(
        isinstance(call.operation, keras.layers.Embedding)
        and any(given is one for given in call.inputs for one in graph.inputs)
        for call in _keras.calls(graph)
    )


def as_seed(*numbers: int) -> tf.Tensor:
    """int32 tensor of numbers, which may be as large as 2**32 - 1."""
    return tf.constant(np.array(numbers, np.int64).astype(np.int32))


def _another(key: tf.Tensor | None, salt: Any) -> tf.Tensor | None:
    return None if key is None else tf.random.experimental.stateless_fold_in(key, salt)


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


def _inside_art(estimator: Any, clip_values: Any) -> tuple[Any, dict[str, Any]]:
    """What an ART estimator is to a `Classifier`: its Keras model, and the options beside it.

    Where it does more than mean and standard deviation around the model, or holds none, it is the
    estimator's `predict`, which has no gradient, and `no_gradient` says why.

    Raises:
        TypeError: If the estimator is no classifier.
        ValueError: If it has no bounds, and none are given.
    """
    if not hasattr(estimator, "nb_classes"):
        raise TypeError(
            "An ART estimator must be a classifier. "
            f"Received: model of type {type(estimator).__name__}"
        )
    clip_values = estimator.clip_values if clip_values is None else clip_values
    if clip_values is None:
        raise ValueError(
            "An ART estimator without `clip_values` has no bounds, and attacks here stay within "
            "some: give the range of the data, `Classifier(estimator, clip_values=(low, high))`. "
            "Received: clip_values=None"
        )
    options = {
        "clip_values": clip_values,
        "nb_classes": estimator.nb_classes,
        "input_shape": tuple(estimator.input_shape),
        "preprocessing": None,
        "no_gradient": "",
    }
    inner = getattr(estimator, "model", None)
    if not isinstance(inner, keras.Model):
        options["no_gradient"] = f"the ART estimator holds {type(inner).__name__}, no Keras model"
        return estimator.predict, options
    steps = list(getattr(estimator, "preprocessing_operations", None) or ())
    # ART appends it to the defences, and runs it last.
    if steps and type(steps[-1]).__name__.startswith("StandardisationMeanStd"):
        options["preprocessing"] = _mean_and_std(estimator, steps.pop())
    steps = [step for step in steps if step.apply_predict]
    steps += getattr(estimator, "postprocessing_defences", None) or ()
    if steps:
        names = ", ".join(type(step).__name__ for step in steps)
        options["preprocessing"] = None  # `predict` sees to it
        options["no_gradient"] = (
            f"the ART estimator puts {names} around its model, which only black-box attacks see. "
            "Attack the estimator without them, or make them layers of the model "
            "(kerasrobust.defenses) with a gradient of their own"
        )
        return estimator.predict, options
    return inner, options


def _mean_and_std(estimator: Any, step: Any) -> tuple[Any, Any] | None:
    """Of ART's standardisation; None where it subtracts nothing and divides by 1."""
    mean, deviation = np.asarray(step.mean, np.float64), np.asarray(step.std, np.float64)
    if (mean == 0).all() and (deviation == 1).all():
        return None
    if estimator.channels_first:  # one value per channel, before height and width

        def ahead(values: np.ndarray) -> np.ndarray:
            return values.reshape(-1, *[1] * (len(estimator.input_shape) - 1))

        mean, deviation = (ahead(v) if v.ndim == 1 else v for v in (mean, deviation))
    return mean, deviation


def _are_labels(answers: np.ndarray, n: int) -> bool:
    """Whether they are integers, one per sample, or one-hot."""
    if answers.dtype.kind not in "iub":
        return False
    if answers.shape in ((n,), (n, 1)):
        return True
    one_hot = answers.ndim == 2 and np.isin(answers, (0, 1)).all()
    return bool(one_hot and (answers.sum(axis=1) == 1).all())


def _widened(scores: np.ndarray, classes: int) -> np.ndarray:
    """Scores with columns for classes of which nobody knew when they were made."""
    more = classes - scores.shape[1]
    return np.pad(scores, ((0, 0), (0, more)), constant_values=np.log(SMALLEST_PROBABILITY))
