"""Hand-made attack results whose figures are known."""

import types

import numpy as np
import pytest

from kerasrobust.attacks import AttackResult


@pytest.fixture
def make_result():
    """Builds an `AttackResult` from a shift per sample: NaN failed, None wrong already."""

    def make(shifts, *, name="fake", y=None, label_after=1, config=None, **changes):
        n = len(shifts)
        initial = np.array([shift is None for shift in shifts])
        values = np.array([0.0 if shift is None else shift for shift in shifts])
        failed = np.isnan(values)
        y = np.zeros(n, np.int64) if y is None else np.asarray(y)
        x = np.full((n, 4, 4, 1), 0.25, np.float32)
        moved = np.where(failed, 0.0, values).astype(np.float32)
        x_adv = x.copy()
        x_adv[:, 0, :, 0] += moved[:, None]  # four of sixteen pixels
        size = np.abs(moved.astype(np.float64))
        distances = {
            "l0": np.where(size > 0, 4.0, 0.0),
            "l1": 4 * size,
            "l2": 2 * size,
            "linf": size,
        }
        fields = dict(
            name=name,
            config=config or {"eps": 0.5},
            targeted=False,
            x=x,
            x_adv=x_adv,
            y=y,
            success=~failed,
            initially_adversarial=initial,
            labels=np.where(failed, y, label_after),
            confidence=np.full(n, 0.75, np.float32),
            queries=np.arange(n),
            gradients=np.full(n, 3),
            zero_gradients=np.zeros(n, np.int64),
            executed_queries=20,
            executed_gradients=30,
            gave_up=np.zeros(n, bool),
            seconds=1.5,
            **{key: np.where(failed, np.inf, d) for key, d in distances.items()},
        )
        return AttackResult(**{**fields, **changes})

    return make


@pytest.fixture
def make_attack():
    """A stand-in for what a summary asks of an attack."""

    def make(kind="minimal", norm=2.0):
        return types.SimpleNamespace(kind=kind, norm=norm)

    return make
