"""Finding a model's logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class LogitsHead:
    """The part of a model up to its logits, on the model's own weights.

    Attributes:
        call: `call(x, training=False)`, float32 logits `[batch, units]`.
        activation: What the model does after it: ``"softmax"``, ``"sigmoid"``, ``"linear"``, or
            None where that cannot be read from the graph.
    """

    call: Callable[..., tf.Tensor]
    activation: str | None


def logits_head(
    model: keras.Model, view: Callable[[keras.Model], Callable[..., Any]] | None = None
) -> LogitsHead | None:
    """Finds the logits of a Keras model without touching the model.

    Functional and sequential models, nested ones too, are followed back from their output: a
    closing softmax or sigmoid, as a layer, an operation or the activation of the last layer, is
    left out. A model that has an attribute `logits_model` (a model or callable that returns
    logits) is taken at its word.

    Args:
        model: The model.
        view: Given a functional part of the model, what is called in its place: a twin that
            computes the same and looks on, say. Default: the part itself.

    Returns:
        The head, or None for a model whose graph cannot be read (a subclassed model).

    Raises:
        ValueError: If the model has several inputs or outputs, or is not built.
    """
    declared = getattr(model, "logits_model", None)
    if declared is not None:
        return LogitsHead(as_float32(declared), "linear")
    if isinstance(model, keras.Sequential) and not model.built:
        raise ValueError(
            "The model must be built before it is used: give it an Input layer or call it once. "
            f"Received: model={model.name!r}"
        )
    if not isinstance(model, (keras.Sequential, keras.src.models.Functional)):
        return None
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise ValueError(
            "The model must have one input and one output. "
            f"Received: {len(model.inputs)} inputs and {len(model.outputs)} outputs"
        )
    operation, node_index, _ = model.outputs[0]._keras_history
    sources = operation._inbound_nodes[node_index].input_tensors
    activation = _closing_activation(operation)
    if view is None:
        view = _itself
    if activation is None and isinstance(operation, keras.Model) and len(sources) == 1:
        inner = logits_head(operation, view)
        if inner is None:
            return None
        features = view(keras.Model(model.inputs, sources[0]))
        return LogitsHead(_compose(features, inner.call), inner.activation)
    if activation in (None, "linear") or len(sources) != 1:
        return LogitsHead(as_float32(view(model)), activation)
    features = view(keras.Model(model.inputs, sources[0]))
    if _is_pure_activation(operation):
        return LogitsHead(as_float32(features), activation)
    return LogitsHead(_compose(features, _linear_twin(operation)), activation)


def _itself(model: keras.Model) -> Callable[..., Any]:
    return model


def _closing_activation(operation: Any) -> str | None:
    if isinstance(operation, keras.layers.Softmax):
        return "softmax" if operation.axis in (-1, 1) else None
    if type(operation).__name__ in ("Softmax", "Sigmoid") and _is_pure_activation(operation):
        return type(operation).__name__.lower()
    activation = getattr(operation, "activation", None)
    if activation is keras.activations.softmax:
        return "softmax"
    if activation is keras.activations.sigmoid:
        return "sigmoid"
    return "linear" if activation is keras.activations.linear else None


def _is_pure_activation(operation: Any) -> bool:
    if isinstance(operation, (keras.layers.Softmax, keras.layers.Activation)):
        return True
    return not isinstance(operation, keras.layers.Layer)


def _linear_twin(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The same layer, on the same variables, without its activation.

    A shallow copy of the attributes: the variables are shared, the layer itself is not touched.
    """
    twin = object.__new__(type(layer))
    twin.__dict__.update(layer.__dict__)
    twin.__dict__["activation"] = keras.activations.linear
    return twin


def as_float32(call: Callable[..., Any]) -> Callable[..., tf.Tensor]:
    def logits(x: tf.Tensor, training: bool = False) -> tf.Tensor:
        return tf.cast(call(x, training=training), tf.float32)

    return logits


def _compose(features: Callable[..., Any], head: Callable[..., Any]) -> Callable[..., tf.Tensor]:
    takes_training = not isinstance(head, keras.layers.Layer)

    def logits(x: tf.Tensor, training: bool = False) -> tf.Tensor:
        inputs = features(x, training=training)
        outputs = head(inputs, training=training) if takes_training else head(inputs)
        return tf.cast(outputs, tf.float32)

    return logits
