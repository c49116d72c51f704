"""Batch normalization folded into the convolutions before it, while an attack asks a model.

In inference mode a normalization multiplies and shifts each channel by numbers that the weights
give. Where it follows a convolution and nothing comes between, the kernel can be multiplied
instead, once for all passes of an attack: `s = gamma / sqrt(variance + epsilon)`,

    BN(k * x + b) = (s k) * x + s (b - mean) + beta.

Each pass is spared two readings and writings of every map. The products are computed from the
variables by the compiled call that uses them, so that they are those of the weights of its time.

The formula: Jacob et al., 2018, arXiv:1712.05877, section 3.2 (folding for inference).
"""

from __future__ import annotations

import collections
import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from kerasrobust import _keras

_DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
# Nothing is known of what a subclass computes.
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D, *_DEPTHWISE)


class Kernels:
    """Folded kernels and biases, each computed once, in the graph in which `scope` was entered.

    Attributes:
        used: Whether there was anything to fold so far.
    """

    def __init__(self) -> None:
        self.used = False
        self._graph = tf.compat.v1.get_default_graph() if tf.inside_function() else None
        self._found: dict[tuple[int, int], tuple[tf.Tensor, tf.Tensor]] = {}

    def of(self, convolution: Any, normalization: Any) -> tuple[tf.Tensor, tf.Tensor]:
        """The kernel and bias that give the normalized outputs of a convolution."""
        self.used = True
        if self._graph is None:
            # A graph traced in here would keep numbers of an eager pass for ever.
            return _folded_weights(convolution, normalization)
        key = id(convolution), id(normalization)
        if key not in self._found:
            # Out of the loops around the pass that asks first.
            with self._graph.as_default():
                self._found[key] = _folded_weights(convolution, normalization)
        return self._found[key]


_KERNELS: contextvars.ContextVar[Kernels | None] = contextvars.ContextVar("kernels", default=None)


@contextlib.contextmanager
def scope() -> Iterator[Kernels]:
    """Views made by `folded` fold inside. To be entered in each graph anew, before its loops."""
    kernels = Kernels()
    token = _KERNELS.set(kernels)
    try:
        yield kernels
    finally:
        _KERNELS.reset(token)


def folded(model: keras.Model) -> Callable[..., Any]:
    """A view on a model that folds batch normalizations within `scope`, in inference mode.

    Everywhere else it calls the model itself, and it is the model itself if there is nothing to
    fold. Folded are layers of Keras's own kinds, in float32, with channels last, that a functional
    or sequential model or one nested in it uses once, the convolution for the normalization alone.

    Args:
        model: Any model.

    Returns:
        A callable of the model's inputs and `training`.
    """
    graph = _keras.graph_of(model) if _keras.is_its_graph(model) else None
    views = {} if graph is None else _views(graph)
    if not views:
        return model

    def call(inputs: Any, training: bool | None = False, **given: Any) -> Any:
        if training or _KERNELS.get() is None:
            return model(inputs, training=training, **given)
        return _keras.run_graph(graph, inputs, lambda one: views.get(id(one), one), False)

    return call


def _views(graph: keras.Model) -> dict[int, Callable[..., Any]]:
    """What is called in the place of operations of a graph, by their ids."""
    views: dict[int, Callable[..., Any]] = {}
    for operation in graph.operations:
        if isinstance(operation, keras.Model):
            view = folded(operation)
            if view is not operation:
                views[id(operation)] = view
    for convolution, normalization in _pairs(graph):
        views[id(convolution)] = _convolution(convolution, normalization)
        views[id(normalization)] = _unchanged
    return views


def _pairs(graph: keras.Model) -> list[tuple[Any, Any]]:
    """Convolutions, and the normalizations that alone take their outputs."""
    calls = _keras.calls(graph)
    times = collections.Counter(id(call.operation) for call in calls)
    taken = collections.Counter(id(given) for call in calls for given in call.inputs)
    taken.update(id(output) for output in graph.outputs)
    found = []
    for call in calls:
        if type(call.operation) is not keras.layers.BatchNormalization or len(call.inputs) != 1:
            continue
        between = call.inputs[0]
        source, _ = _keras.producer(between)
        alone = taken[id(between)] == times[id(source)] == times[id(call.operation)] == 1
        if alone and _fits(source, call.operation):
            found.append((source, call.operation))
    return found


def _fits(convolution: Any, normalization: Any) -> bool:
    return (
        type(convolution) in _CONVOLUTIONS
        and convolution.activation is keras.activations.linear
        and convolution.data_format == "channels_last"
        and convolution.padding != "causal"
        and normalization.axis in (-1, convolution.rank + 1)
        and convolution.dtype_policy.name == normalization.dtype_policy.name == "float32"
    )


def _folded_weights(convolution: Any, normalization: Any) -> tuple[tf.Tensor, tf.Tensor]:
    scale = tf.math.rsqrt(normalization.moving_variance + normalization.epsilon)
    if normalization.scale:
        scale *= normalization.gamma
    bias = -normalization.moving_mean * scale
    if convolution.use_bias:
        bias += convolution.bias * scale
    if normalization.center:
        bias += normalization.beta
    kernel = tf.convert_to_tensor(convolution.kernel)
    if type(convolution) in _DEPTHWISE:
        # Each channel has as many outputs as the last axis says.
        return kernel * tf.reshape(scale, kernel.shape[-2:]), bias
    return kernel * scale, bias


def _convolution(convolution: Any, normalization: Any) -> Callable[..., tf.Tensor]:
    def call(inputs: tf.Tensor) -> tf.Tensor:
        kernels = _KERNELS.get()
        assert kernels is not None
        kernel, bias = kernels.of(convolution, normalization)
        if type(convolution) not in _DEPTHWISE:
            return tf.nn.bias_add(convolution.convolution_op(inputs, kernel), bias)
        outputs = keras.ops.depthwise_conv(
            inputs,
            kernel,
            convolution.strides,
            convolution.padding,
            convolution.data_format,
            convolution.dilation_rate,
        )
        return tf.nn.bias_add(outputs, bias)

    return call


def _unchanged(inputs: Any, **_: Any) -> Any:
    return inputs
