"""Checks of arguments and data: what passes, in which type, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from kerasrobust import checks
from kerasrobust.engine.classifier import Classifier


def test_numbers_come_back_in_plain_types():
    assert type(checks.check_int("n", np.int64(3), 0)) is int
    assert type(checks.check_float("a", np.float32(0.5))) is float
    assert type(checks.check_float("a", 1)) is float
    assert checks.check_bool("b", np.bool_(True)) is True
    assert checks.check_bounds(np.array([0, 255])) == (0.0, 255.0)


@pytest.mark.parametrize("value", [1.0, "3", None, True, -1, math.nan])
def test_check_int_refuses(value):
    with pytest.raises(ValueError, match="`n` must be an integer >= 0. Received: n="):
        checks.check_int("n", value, 0)


@pytest.mark.parametrize("value", ["1", None, True, -0.1, math.nan, math.inf, [1.0]])
def test_check_float_refuses(value):
    with pytest.raises(ValueError, match="`a` must be a number >= 0. Received: a="):
        checks.check_float("a", value)


def test_check_float_above():
    assert checks.check_float("a", 1e-9, above=True) == 1e-9
    with pytest.raises(ValueError, match="`a` must be a number > 0. Received: a=0"):
        checks.check_float("a", 0, above=True)


@pytest.mark.parametrize(
    "value", [(1, 0), (0, 0), (0, math.inf), (math.nan, 1), (0,), (0, 1, 2), 5, "ab", None]
)
def test_check_bounds_refuses(value):
    with pytest.raises(ValueError, match=r"two finite numbers.*Received: clip_values="):
        checks.check_bounds(value)


@pytest.mark.parametrize("value", [0, 1, "yes", None])
def test_check_bool_refuses(value):
    with pytest.raises(ValueError, match="`b` must be True or False. Received: b="):
        checks.check_bool("b", value)


def test_check_size():
    assert checks.check_size("eps", 0.1) == 0.1
    for given in ([0.1, 0.2], np.array([[0.1], [0.2]]), (0.1, 0.2)):
        values = checks.check_size("eps", given)
        assert values.dtype == np.float32
        np.testing.assert_allclose(values.reshape(-1), [0.1, 0.2])
        assert values.shape == np.shape(given)
    for bad in ([0.1, -0.1], [np.nan], ["a"], [[True]]):
        with pytest.raises(ValueError, match="`eps` must hold finite numbers >= 0. Received: eps="):
            checks.check_size("eps", bad)


def test_check_per_sample():
    np.testing.assert_allclose(checks.check_per_sample("eps", 0.5, 3), [0.5] * 3)
    np.testing.assert_allclose(checks.check_per_sample("eps", [1, 2, 3], 3), [1, 2, 3])
    with pytest.raises(ValueError, match=r"one per sample \(3\). Received: 2 values"):
        checks.check_per_sample("eps", [1, 2], 3)


@pytest.mark.parametrize(
    "given",
    [
        [0, 2, 1],
        np.array([0, 2, 1], np.uint8),
        [[0], [2], [1]],
        [0.0, 2.0, 1.0],
        np.eye(3)[[0, 2, 1]],
        np.eye(3, dtype=bool)[[0, 2, 1]],
    ],
)
def test_labels_in_every_form(given):
    labels = checks.check_labels(np.asarray(given), 3, 3)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, [0, 2, 1])


def test_check_mask():
    x = np.zeros((4, 3, 2))
    one = np.array([[1, 0], [0, 1], [1, 1]])
    for given in (one, one.astype(bool), one[None], np.tile(one, (4, 1, 1))):
        mask = checks.check_mask(given, x)
        assert mask.shape == x.shape and mask.dtype == np.float32
        np.testing.assert_array_equal(mask, np.tile(one, (4, 1, 1)))


def test_check_samples_keeps_values_and_forgives_rounding():
    classifier = Classifier(lambda x: np.zeros((len(x), 2)))
    x = np.array([[0.0, 1.0 + 5e-7], [0.25, -5e-7]])
    checked = classifier.check(x)
    assert checked.dtype == np.float32 and checked.min() == 0 and checked.max() == 1
    np.testing.assert_allclose(checked, x, atol=1e-6)
