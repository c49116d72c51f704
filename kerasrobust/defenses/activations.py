"""The ReLU outputs of a model, seen while it computes its logits."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from kerasrobust import _keras
from kerasrobust.defenses.layers.bounded_relu import BoundedReLU, is_plain, is_relu_name
from kerasrobust.engine.logits import logits_head


class ActivationTap:
    """A model's logits and ReLU outputs, of one pass.

    Seen are, at every place where they are used: ReLU layers and operations, `BoundedReLU`, layers
    with ``activation="relu"`` (taken to be the last thing they do, as in Keras's own), all of these
    inside nested models, and in `TimeDistributed`. What is no plain ReLU (a slope, ReLU6) is not
    counted. A ReLU that a custom layer calls by itself cannot be found.

    The model is not touched: the pass runs over shallow copies on the same variables.

    Args:
        model: A functional or sequential model that returns logits or ends in a softmax.

    Raises:
        ValueError: If the graph of the model, or of a model within it, cannot be read, or a ReLU
            sits where its output cannot be reached (inside a recurrent layer, say).
    """

    def __init__(self, model: keras.Model):
        self._name = model.name
        self._twins: dict[int, Any] = {}
        # Replicas of a mirrored model run in threads of their own.
        self._local = threading.local()
        head = logits_head(model, self._twin)
        if head is None:
            raise self._unreadable(model)
        self._head = head

    def __call__(self, x: tf.Tensor, training: bool) -> tuple[tf.Tensor, list[tf.Tensor]]:
        """float32 logits `[batch, classes]`, and float32 ReLU outputs in the order of the graph."""
        seen: list[tf.Tensor] = []
        self._local.seen = seen
        logits = self._head.call(x, training=training)
        self._local.seen = None
        return logits, seen

    def _twin(self, model: keras.Model) -> keras.Model:
        """A shallow copy of a functional or sequential model that runs through our eyes."""
        if id(model) in self._twins:
            return self._twins[id(model)]
        graph = _keras.graph_of(model) if _keras.is_its_graph(model) else None
        if graph is None:
            raise self._unreadable(model)
        views = {id(operation): self._view(operation) for operation in graph.operations}

        def call(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            del mask  # it is on the tensors
            return _keras.run_graph(graph, inputs, lambda one: views[id(one)], training)

        # The model is kept along with it, so that its id stays its own.
        twin = _keras.look_alike(model, call=call, _original=model)
        self._twins[id(model)] = twin
        return twin

    def _view(self, operation: Any) -> Callable[..., Any]:
        """What is called in place of an operation of the graph."""
        if isinstance(operation, keras.Model):
            return self._twin(operation)
        if _gives_relu(operation):

            def watched(*args: Any, **kwargs: Any) -> Any:
                output = operation(*args, **kwargs)
                self._local.seen.append(tf.cast(output, tf.float32))
                return output

            return watched
        if _holds_relu(_config(operation)):
            raise ValueError(
                "This defense needs the outputs of all ReLUs; those inside this layer cannot be "
                f"reached. Received: model={self._name!r} with layer {operation.name!r} "
                f"({type(operation).__name__})"
            )
        return operation

    def _unreadable(self, model: keras.Model) -> ValueError:
        return ValueError(
            "This defense needs the outputs of all ReLUs: the model, and any model inside it, must "
            "be functional or sequential and end in a softmax or in logits. "
            f"Received: model={self._name!r}, where {model.name!r} cannot be read"
        )


def _gives_relu(operation: Any) -> bool:
    """Whether what the operation returns is the output of a ReLU."""
    if isinstance(operation, keras.layers.TimeDistributed):
        return _gives_relu(operation.layer)
    if not isinstance(operation, keras.layers.Layer):
        return type(operation).__name__ in ("Relu", "ReLU") and is_plain(vars(operation))
    if isinstance(operation, (BoundedReLU, keras.layers.ReLU)):
        return isinstance(operation, BoundedReLU) or is_plain(_config(operation))
    # A recurrent layer applies it at every step and shows the last.
    recurrent = isinstance(operation, keras.layers.RNN)
    return not recurrent and _is_relu(_config(operation).get("activation"))


def _is_relu(value: Any) -> bool:
    """Whether a value from a layer's config is a ReLU, as a function or as a layer."""
    if is_relu_name(value):
        return True
    if not isinstance(value, dict):
        return False
    kind = value.get("class_name")
    return kind == "BoundedReLU" or (kind == "ReLU" and is_plain(value.get("config")))


def _holds_relu(config: Any) -> bool:
    if isinstance(config, (list, tuple)):
        return any(_holds_relu(value) for value in config)
    if not isinstance(config, dict):
        return False
    return _is_relu(config) or any(
        (key.endswith("activation") and _is_relu(value)) or _holds_relu(value)
        for key, value in config.items()
    )


def _config(operation: Any) -> dict[str, Any]:
    """The config of a layer; empty for an operation and for a layer that has none to tell."""
    if not isinstance(operation, keras.layers.Layer):
        return {}
    try:
        return operation.get_config()
    except NotImplementedError:
        return {}
