"""The worst over many targets: merged one by one, with one result in memory."""

import gc
import weakref

import numpy as np
import pytest

from kerasrobust.engine.batches import Batch
from kerasrobust.evaluation import aims


def batch(n):
    x = np.zeros((n, 2), np.float32)
    return Batch(0, np.arange(n), n, {"x": x}, np.zeros(n, np.int64), n)


@pytest.mark.parametrize("whole", [True, False])
def test_the_worst_of_a_thousand_classes(make_result, whole):
    """Sample i falls towards the classes whose number it divides, the nearer the larger."""
    n, classes = 6, 1000
    y = np.zeros(n, np.int64)
    divisors = np.array([7, 11, 13, 500, 999, 1001])
    alive, most, asked = weakref.WeakSet(), 0, np.zeros(n, int)

    class Held:
        pass

    def run(part):
        nonlocal most
        target = part.y
        hit = target % divisors[part.rows] == 0
        shifts = np.where(hit, 1.0 / target, np.nan)
        count = len(target)
        found = make_result(
            shifts,
            targeted=True,
            y=target,
            labels=np.where(hit, target, 0),
            queries=np.ones(count, int),
            gradients=np.full(count, 2),
        )
        asked[part.rows] += 1
        token = Held()
        alive.add(token)
        object.__setattr__(found, "_token", token)
        most = max(most, len(alive))
        return found

    gc.disable()
    try:
        found = aims.worst(batch(n), y, classes, run, 2.0, whole)
    finally:
        gc.enable()
    assert most <= 2
    reached = divisors < classes
    np.testing.assert_array_equal(found.success, reached)
    last = 999 // divisors * divisors
    expected = np.where(reached, last if whole else divisors, 0)
    np.testing.assert_array_equal(found.y[reached], expected[reached])
    np.testing.assert_allclose(found.l2[reached], 2.0 / expected[reached], rtol=1e-6)
    tries = np.full(n, classes - 1) if whole else np.where(reached, divisors, classes - 1)
    np.testing.assert_array_equal(asked, tries)
    np.testing.assert_array_equal(found.queries, tries)
    np.testing.assert_array_equal(found.gradients, 2 * tries)
    assert found.executed_queries == 20 * tries.max()


def test_another_wrong_label_is_worse_than_none(make_result):
    """Sample 0 never reaches its target, but another class on the way to the second one."""

    def run(part):
        labels = np.where(part.y == 2, 1, 0)
        return make_result([np.nan], targeted=True, y=part.y, labels=labels)

    found = aims.worst(batch(1), np.zeros(1, np.int64), 3, run, 2.0, False)
    assert not found.success[0] and found.labels[0] == 1 and found.y[0] == 2


def test_least_likely_is_a_wrong_class():
    scores = np.array([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    assert aims.least_likely(scores, np.array([0, 0])).tolist() == [1, 1]
    assert [t.tolist() for _, t in aims.every(np.array([2, 0]), 3)] == [[0, 1], [1, 2]]
