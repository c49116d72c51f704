"""A loop in a graph around gradients of the model, whose body is a function of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def while_loop(
    alive: Callable[..., tf.Tensor], body: Callable[..., tuple[Any, ...]], start: tuple[Any, ...]
) -> tuple[Any, ...]:
    """`tf.while_loop` for a body that differentiates a model, one iteration after the other.

    Several iterations at once keep every iterate alive and cost a third of the speed. And the body
    is kept from being merged into the loop: TensorFlow's rewriting for oneDNN takes a pooling's
    gradient only after the pooling itself, and in the circle that a loop is its order is a matter
    of chance. On a CPU more than half of all traces of an attack on a CNN with max pooling came out
    1.4 times slower than the others.

    Args:
        alive: Loop variables to a bool, whether to go on.
        body: Loop variables to their next values.
        start: Their first values.

    Returns:
        Their last values.
    """
    if tf.inside_function():
        body = tf.function(body, autograph=False, experimental_attributes={"_noinline": True})
    return tf.while_loop(alive, body, start, parallel_iterations=1)
