"""The state of an attack: a dictionary of tensors, each with a leading sample axis.

The leaves that drivers read or write are declared here. Whatever else an attack keeps it names in
its own `state_leaves`; a leaf that is declared nowhere is an error, because nobody would carry it
to the result.
"""

from __future__ import annotations

from collections.abc import Iterable

import tensorflow as tf

State = dict[str, tf.Tensor]
Params = dict[str, tf.Tensor]

# What the algorithm asked for, per sample.
COUNTERS = ("queries", "gradients", "zero_gradients")
# What a pass costs is counted whether or not the sample is still at work.
EXECUTED = ("executed_queries", "executed_gradients")
RESERVED = {
    "x": "clean samples",
    "y": "labels to leave, or targets",
    "mask": "where samples may change; absent without a mask",
    "eps": "budget",
    "eps_step": "length of a step",
    "limit": "most queries that the algorithm may make; absent without a limit",
    "start": "where to begin, for attacks that are given a place",
    "has_start": "whether the pool held such a place; absent where the caller gave it",
    "done": "whether the algorithm has ended",
    "best": "a point to return where the last one fails",
    "found": "whether `best` is adversarial",
    "gave_up": "whether no starting point was found",
    "queries": "forward passes asked for",
    "gradients": "forward and backward passes asked for",
    "zero_gradients": "gradients that were zero in every entry",
    "executed_queries": "forward passes executed",
    "executed_gradients": "forward and backward passes executed",
}


def check_leaves(name: str, state: State, own: Iterable[str]) -> None:
    """Raises for a leaf that neither the drivers know nor the attack declares.

    Args:
        name: Name of the attack.
        state: What its `init` returned.
        own: Its `state_leaves`.

    Raises:
        ValueError: If a leaf is declared nowhere.
    """
    unknown = sorted(set(state) - set(RESERVED) - set(own))
    if unknown:
        raise ValueError(
            f"The state of {name!r} must hold the leaves that drivers know ({', '.join(RESERVED)}) "
            f"and those in the attack's `state_leaves` ({', '.join(own) or 'none'}). "
            f"Received: {', '.join(unknown)}"
        )


def check_same_leaves(name: str, before: State, after: State) -> None:
    """Raises where a step gains or loses a leaf.

    Raises:
        ValueError: If the two states do not have the same leaves.
    """
    if set(before) != set(after):
        gained, lost = sorted(set(after) - set(before)), sorted(set(before) - set(after))
        raise ValueError(
            f"A step of {name!r} must return the leaves that `init` returned. "
            f"Received: {gained} more, {lost} missing"
        )
