"""Finding a model's logits, and proving that they are the model's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kerasrobust import _keras
from kerasrobust.engine import folding

# They pass their inputs on unchanged in inference mode; a subclass may do otherwise.
_FOR_TRAINING_ONLY = (
    keras.layers.ActivityRegularization,
    keras.layers.AlphaDropout,
    keras.layers.Dropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
)
# They change nothing where the shape stays what it was.
_SHAPES = (keras.layers.Flatten, keras.layers.Reshape)
# What may be between two readings of the same outputs, as a share of how far these spread ...
_SPREAD = 5e-3
# ... and in roundings of the largest of them.
_ROUNDINGS = 8
# From here on, as a share of the largest output, two passes differ by more than rounding.
_DRAWN = 1e-5
# Inputs are taken this many times as large to tell logits that happen to lie in 0..1 from sigmoids.
_FAR = 1e4
_EPSILON = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclasses.dataclass(frozen=True)
class LogitsHead:
    """The part of a model up to its logits, on the model's own weights.

    Attributes:
        call: `call(x, training=False)`, float32 logits `[batch, units]`.
        activation: What the model does after it: ``"softmax"``, ``"sigmoid"``, ``"linear"``, or
            None where that cannot be read from the graph.
        in_training: Whether that is all the model does after it in training mode too. It is not
            where a dropout or a penalty lies between the logits and the output.
        declared: Whether the model itself named its logits.
    """

    call: Callable[..., tf.Tensor]
    activation: str | None
    in_training: bool = True
    declared: bool = False


@dataclasses.dataclass(frozen=True)
class Proof:
    """What passes over a few samples tell of a model.

    Attributes:
        head: The head if it computes what the model computes, else the model as it is, with the
            activation None.
        scores: What the head gives for these samples, `[n, units]`.
        randomised: Whether the model draws: whether two passes differ.
        folds: Whether it gives the same where batch normalizations are folded (`folding`); None
            where there are none.
    """

    head: LogitsHead
    scores: np.ndarray
    randomised: bool
    folds: bool | None = None


def logits_head(
    model: keras.Model, view: Callable[[keras.Model], Callable[..., Any]] | None = None
) -> LogitsHead | None:
    """Finds the logits of a Keras model without touching the model.

    Functional and sequential models, nested ones too, are followed back from their output: a
    closing softmax or sigmoid, as a layer, an operation or the activation of the last layer, is
    left out. Layers after it that change nothing in inference mode are looked through: linear
    activations, casts, identity, dropout and noise, reshaping to the same shape. A model that has
    an attribute `logits_model` (a model or callable that returns logits) is taken at its word.

    The graph is what Keras shows, and layers may do more than they show: see `prove`.

    Args:
        model: The model.
        view: Given a functional part of the model, what is called in its place: a twin that
            computes the same and looks on, say. Default: `folding.folded`.

    Returns:
        The head, or None for a model whose graph cannot be read: a subclassed model, or one that
        has a `call` of its own beside its graph.

    Raises:
        ValueError: If the model has several inputs or outputs, is not built, or ends in a softmax
            over one unit.
    """
    declared = getattr(model, "logits_model", None)
    if declared is not None:
        return LogitsHead(as_float32(declared), "linear", declared=True)
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(
            "The model must be built before it is used: give it an Input layer or call it once. "
            f"Received: model={model.name!r}"
        )
    # A layer that cannot be traced leaves a sequential model built, and without a graph.
    if not _keras.has_graph(model) or _keras.graph_of(model) is None:
        return None
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "The model must have one input and one output. "
            f"Received: {len(model.inputs)} inputs and {len(model.outputs)} outputs"
        )
    if not _keras.is_its_graph(model):
        return None
    output = model.outputs[0]
    operation, sources = _keras.producer(output)
    skipped = []
    while len(sources) == 1 and _changes_nothing(operation, sources[0], output):
        skipped.append(operation)
        output = sources[0]
        operation, sources = _keras.producer(output)
    activation = _closing_activation(operation)
    if view is None:
        view = folding.folded
    if activation is None and _is_one_to_one(operation) and len(sources) == 1:
        inner = logits_head(operation, view)
        if inner is None:
            return None
        features = view(keras.Model(model.inputs, sources[0]))
        return LogitsHead(
            _compose(features, inner.call),
            inner.activation,
            inner.in_training and not any(map(_is_for_training, skipped)),
            inner.declared,
        )
    if activation in (None, "linear") or len(sources) != 1:
        return LogitsHead(as_float32(view(model)), activation)
    check_softmax(activation, output.shape[-1], model)
    in_training = not any(map(_is_for_training, [operation, *skipped]))
    features = view(keras.Model(model.inputs, sources[0]))
    if _is_pure_activation(operation):
        return LogitsHead(as_float32(features), activation, in_training)
    return LogitsHead(_compose(features, _linear_twin(operation)), activation, in_training)


def prove(model: keras.layers.Layer, head: LogitsHead | None, x: tf.Tensor) -> Proof:
    """Compares the head that was read from a model with the model, on samples.

    `activation(head(x))` has to be `model(x)`, up to rounding. Both run on the same draws, and
    leave the seeds of the model where they were. Where a model draws by means that Keras does not
    know, no two passes are alike: then they may differ by what two passes of one of them do.

    Args:
        model: The model.
        head: Of the model, or None where none could be read.
        x: Samples `[n, ...]`, float32.
    """
    whole = LogitsHead(as_float32(model), None)
    if any(not layer.built for layer in _keras.flat_layers(model)):
        whole.call(x)  # makes the variables, which a stateless scope must not do
    read = whole if head is None else head
    with keras.StatelessScope():
        first, second = (read.call(x).numpy() for _ in range(2))
    randomised = _distance(first, second) > _DRAWN * _largest(first)
    folds = folds_alike(model, read.call, x, first)
    if read.activation is None or read.declared:
        return Proof(read, first, randomised, folds)
    with keras.StatelessScope():
        wanted = whole.call(x).numpy()
    apply = keras.activations.get(read.activation)
    allowed = _SPREAD * _spread(wanted) + _ROUNDINGS * _rounding(model) * _largest(wanted)
    if randomised:
        with keras.StatelessScope():
            again = read.call(x).numpy()
        allowed += 4 * _distance(np.asarray(apply(first)), np.asarray(apply(again)))
    if first.shape == wanted.shape and _distance(np.asarray(apply(first)), wanted) <= allowed:
        return Proof(read, first, randomised, folds)
    return Proof(whole, wanted, randomised)


def folds_alike(
    model: keras.layers.Layer, call: Callable[..., tf.Tensor], x: tf.Tensor, scores: np.ndarray
) -> bool | None:
    """Whether scores stay the same, labels and all, where batch normalizations are folded.

    Args:
        model: The model.
        call: Samples to its scores, by a head of `logits_head`.
        x: Samples `[n, ...]`, float32.
        scores: What `call` gives for them otherwise, `[n, units]`, by the model's seeds as they
            are.

    Returns:
        None where there is nothing to fold.
    """
    kind = keras.layers.BatchNormalization
    if not any(isinstance(layer, kind) for layer in _keras.flat_layers(model)):
        return None
    with keras.StatelessScope(), folding.scope() as kernels:
        found = call(x).numpy()
    if not kernels.used:
        return None
    alike = _distance(found, scores) <= _DRAWN * _largest(scores)
    return alike and bool((found.argmax(axis=-1) == scores.argmax(axis=-1)).all())


def check_softmax(activation: str | None, units: int | None, model: keras.layers.Layer) -> None:
    """Refuses a softmax over one unit, which is 1 whatever the input."""
    if activation == "softmax" and units == 1:
        raise ValueError(
            "A softmax over one unit is 1 for every input: end the model in a sigmoid, or give it "
            f"one unit per class. Received: model={model.name!r}"
        )


def ends_in_lone_softmax(model: keras.layers.Layer) -> bool:
    """Whether a layer anywhere in the model is a softmax over one unit."""
    return any(
        1 in (getattr(layer, "units", None), getattr(layer, "filters", None))
        and _closing_activation(layer) == "softmax"
        for layer in _keras.flat_layers(model)
    )


def unpack_output(outputs: Any) -> Any:
    """The one tensor that a model returned, by itself or in a dictionary, a list or a tuple.

    Raises:
        ValueError: If there are several, or none.
    """
    if not isinstance(outputs, (dict, list, tuple)):
        return outputs
    tensors = keras.tree.flatten(outputs)
    if len(tensors) != 1:
        names = sorted(outputs) if isinstance(outputs, dict) else len(tensors)
        raise ValueError(f"The model must have one output. Received: outputs={names!r}")
    return tensors[0]


def within_unit(scores: np.ndarray, beyond: float = 0.0) -> bool:
    """Whether all of them lie in 0..1, or so far outside at most."""
    return bool((scores >= -beyond).all() and (scores <= 1 + beyond).all())


def stays_within_unit(call: Callable[[np.ndarray], Any], x: np.ndarray) -> bool:
    """Whether scores lie in 0..1 of inputs far outside too, where logits leave it.

    Args:
        call: Inputs to scores.
        x: Inputs `[n, ...]` whose scores lie in 0..1. Infinite scores of the far ones are let be.
    """
    far = np.asarray(call(_FAR * x))
    return within_unit(far[np.isfinite(far)])


def are_probabilities(scores: np.ndarray) -> bool:
    """Whether rows of scores are distributions over the classes, a single column one of two."""
    if not within_unit(scores):
        return False
    return scores.shape[1] == 1 or bool(np.allclose(scores.sum(axis=1), 1.0, atol=5e-3))


def as_float32(call: Callable[..., Any]) -> Callable[..., tf.Tensor]:
    """The same callable, its one output unpacked and in float32."""

    def logits(x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.cast(unpack_output(call(x, training=training)), tf.float32)

    return logits


def _is_one_to_one(operation: Any) -> bool:
    """Whether the operation is a model that can be followed further."""
    if not isinstance(operation, keras.Model) or not _keras.has_graph(operation):
        return isinstance(operation, keras.Model)
    return len(operation.inputs) == len(operation.outputs) == 1


def _changes_nothing(operation: Any, source: Any, output: Any) -> bool:
    """Whether, in inference mode, the operation gives what it is given, in another type at most."""
    if not keras.backend.is_float_dtype(output.dtype):
        return False
    kind = type(operation)
    if kind is keras.layers.Activation:
        return operation.activation is keras.activations.linear
    if kind in _SHAPES or _is_operation(operation, "Reshape", "Flatten"):
        return tuple(source.shape) == tuple(output.shape)
    return (
        kind is keras.layers.Identity
        or kind in _FOR_TRAINING_ONLY
        or _is_operation(operation, "Cast")
    )


def _is_for_training(operation: Any) -> bool:
    penalty = getattr(operation, "activity_regularizer", None)
    return type(operation) in _FOR_TRAINING_ONLY or penalty is not None


def _is_operation(operation: Any, *names: str) -> bool:
    """Whether it is one of these operations of `keras.ops`, and no layer."""
    return not isinstance(operation, keras.layers.Layer) and type(operation).__name__ in names


def _closing_activation(operation: Any) -> str | None:
    if isinstance(operation, keras.layers.Softmax):
        return "softmax" if operation.axis in (-1, 1) else None
    if _is_operation(operation, "Softmax", "Sigmoid"):
        return type(operation).__name__.lower()
    activation = getattr(operation, "activation", None)
    if activation is keras.activations.softmax:
        return "softmax"
    if activation is keras.activations.sigmoid:
        return "sigmoid"
    # Nothing is cut from the graph here, so no comparison could tell what a layer of somebody
    # else's does beside its linear activation.
    own = type(operation).__module__.startswith("keras.")
    return "linear" if own and activation is keras.activations.linear else None


def _is_pure_activation(operation: Any) -> bool:
    if isinstance(operation, (keras.layers.Softmax, keras.layers.Activation)):
        return True
    return not isinstance(operation, keras.layers.Layer)


def _linear_twin(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The same layer, on the same variables, without its activation."""
    return _keras.look_alike(layer, activation=keras.activations.linear)


def _compose(features: Callable[..., Any], head: Callable[..., Any]) -> Callable[..., tf.Tensor]:
    takes_training = not isinstance(head, keras.layers.Layer)

    def logits(x: tf.Tensor, training: bool = False) -> tf.Tensor:
        inputs = features(x, training=training)
        outputs = head(inputs, training=training) if takes_training else head(inputs)
        return tf.cast(outputs, tf.float32)

    return logits


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """Largest difference; infinite values and NaN at the same place are equal."""
    if a.shape != b.shape:
        return float("inf")
    with np.errstate(invalid="ignore"):
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        return float(np.where(same, 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf)).max(initial=0))


def _largest(values: np.ndarray) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max(initial=0.0))


def _spread(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.ptp(finite)) if finite.size else 0.0


def _rounding(model: keras.layers.Layer) -> float:
    """The relative rounding of the coarsest type that the model computes in."""
    types = [str(getattr(layer, "compute_dtype", None)) for layer in _keras.flat_layers(model)]
    return max(_EPSILON.get(name, _EPSILON["float32"]) for name in types)
