"""Attacks in a row, each on what the ones before it left: how AutoAttack runs."""

from __future__ import annotations

import dataclasses

import numpy as np

from kerasrobust.attacks import AttackResult
from kerasrobust.attacks.base import Attack
from kerasrobust.engine.drivers import COUNTED

_PER_SAMPLE = (
    "x_adv",
    "success",
    "labels",
    "confidence",
    "l0",
    "l1",
    "l2",
    "linf",
    "gave_up",
)


def nothing_yet(
    x: np.ndarray, y: np.ndarray, labels: np.ndarray, confidence: np.ndarray
) -> AttackResult:
    """The state before the first attack: what is wrong already is broken, all else stands.

    Args:
        x: Clean samples `[n, ...]`.
        y: True labels `[n]`.
        labels: The model's labels of them `[n]`.
        confidence: Their probabilities `[n]`.
    """
    wrong = labels != y
    distance = np.where(wrong, 0.0, np.inf)
    return AttackResult(
        name="",
        config={},
        targeted=False,
        x=x,
        x_adv=x,
        y=y,
        success=wrong,
        initially_adversarial=wrong,
        labels=labels,
        confidence=confidence,
        l0=distance,
        l1=distance,
        l2=distance,
        linf=distance,
        queries=np.zeros(len(x), np.int64),
        gradients=np.zeros(len(x), np.int64),
        zero_gradients=np.zeros(len(x), np.int64),
        executed_queries=0,
        executed_gradients=0,
        gave_up=np.zeros(len(x), bool),
        seconds=0.0,
    )


def next_step(before: AttackResult, attack: Attack) -> AttackResult:
    """Runs an attack on the samples that stand, and adds what it broke to what was broken.

    Args:
        before: The outcome so far.
        attack: A bound, untargeted attack.

    Returns:
        The outcome for all samples: accuracy and distances after this step, passes and seconds of
        this step alone.
    """
    step = dataclasses.replace(
        before,
        name=attack.name,
        config=attack.get_config(),
        queries=np.zeros_like(before.queries),
        gradients=np.zeros_like(before.gradients),
        zero_gradients=np.zeros_like(before.gradients),
        executed_queries=0,
        executed_gradients=0,
        seconds=0.0,
    )
    rows = np.flatnonzero(~before.success)
    if not len(rows):
        return step
    part = attack.run(before.x[rows], before.y[rows])
    changes = {}
    for key in (*_PER_SAMPLE, *COUNTED):
        values = getattr(step, key).copy()
        values[rows] = getattr(part, key)
        changes[key] = values
    return dataclasses.replace(
        step,
        executed_queries=part.executed_queries,
        executed_gradients=part.executed_gradients,
        seconds=part.seconds,
        **changes,
    )
