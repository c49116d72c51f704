"""Which backward pass stands for a layer whose own gradient is useless.

A preprocessing layer that quantises, compresses or picks at random has no gradient worth following.
It calls `substitute` instead of computing directly; a `Classifier` says by `mode` what an attack is
to see. The forward pass is the layer's own in every mode but ``"ignore"``.

Athalye, Carlini & Wagner, "Obfuscated Gradients Give a False Sense of Security", 2018,
arXiv:1802.00420, section 4.1 (BPDA).
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import tensorflow as tf

MODES = ("exact", "straight_through", "surrogate", "ignore")
_MODE: contextvars.ContextVar[str] = contextvars.ContextVar("gradient", default="exact")


@contextlib.contextmanager
def mode(name: str) -> Iterator[None]:
    """Layers that are called inside are differentiated this way."""
    token = _MODE.set(name)
    try:
        yield
    finally:
        _MODE.reset(token)


def substitute(
    x: tf.Tensor,
    forward: Callable[[tf.Tensor], tf.Tensor],
    surrogate: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> tf.Tensor:
    """`forward(x)`, with the gradient that the caller of the model asked for.

    Args:
        x: Input of a layer, `[batch, ...]`.
        forward: What the layer computes, of the same shape for a straight-through gradient.
        surrogate: A differentiable function near to it; without one ``"surrogate"`` is the
            straight-through gradient.

    Returns:
        `forward(x)` with its own gradient (``"exact"``), that of the identity
        (``"straight_through"``) or that of `surrogate`; `x` itself for ``"ignore"``.
    """
    chosen = _MODE.get()
    if chosen == "exact":
        return forward(x)
    if chosen == "ignore":
        return x

    @tf.custom_gradient
    def replaced(x: tf.Tensor) -> tuple[tf.Tensor, Callable[..., tf.Tensor]]:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            if chosen == "straight_through" or surrogate is None:
                return tf.cast(upstream, x.dtype)
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(x)
                near = surrogate(x)
            return tape.gradient(near, x, output_gradients=tf.cast(upstream, near.dtype))

        return forward(x), backward

    return replaced(tf.convert_to_tensor(x))
