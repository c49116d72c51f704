"""Passes of a model, one after the other: in a loop of a graph, and from several threads.

Never two at a time of one graph, not for speed alone: a kernel may keep between its calls what it
works on. oneDNN's convolution fused with an addition does in TensorFlow 2.21: of two runs at a time
one reads memory that the other has freed, which gives wrong numbers or ends the process.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any

import tensorflow as tf


def while_loop(
    alive: Callable[..., tf.Tensor],
    body: Callable[..., tuple[Any, ...]],
    start: tuple[Any, ...],
    differentiates: bool = True,
) -> tuple[Any, ...]:
    """`tf.while_loop` for a body that asks a model, one iteration after the other.

    Several iterations at once keep every iterate alive and cost a third of the speed. And a body
    with gradients is kept from being merged into the loop: TensorFlow's rewriting for oneDNN takes
    a pooling's gradient only after the pooling itself, and in the circle that a loop is its order
    is a matter of chance. On a CPU more than half of all traces of an attack on a CNN with max
    pooling came out 1.4 times slower than the others.

    Args:
        alive: Loop variables to a bool, whether to go on.
        body: Loop variables to their next values.
        start: Their first values.
        differentiates: Whether the body differentiates the model.

    Returns:
        Their last values.
    """
    if differentiates and tf.inside_function():
        body = tf.function(body, autograph=False, experimental_attributes={"_noinline": True})
    return tf.while_loop(alive, body, start, parallel_iterations=1)


def one_at_a_time(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """A compiled function for which several threads wait in turn."""
    lock = threading.Lock()

    @functools.wraps(compiled)
    def call(*arguments: Any) -> Any:
        with lock:
            return compiled(*arguments)

    return call
