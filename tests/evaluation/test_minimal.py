"""The preset of minimal-norm attacks on a linear model, whose distances have a closed form."""

import math

import keras
import numpy as np
import pytest

import kerasrobust
from kerasrobust.evaluation import presets
from kerasrobust.evaluation.resolve import resolve

DUAL = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}


def linear(classes=3, size=6):
    """A linear model, samples far from the box, and their exact distances by norm."""
    draw = np.random.default_rng(1)
    kernel = draw.normal(0, 1, (size, classes)).astype(np.float32)
    model = keras.Sequential([keras.Input((size,)), keras.layers.Dense(classes)])
    model.layers[-1].set_weights([kernel, -0.5 * kernel.sum(axis=0)])
    x = draw.uniform(0.45, 0.55, (6, size)).astype(np.float32)
    scores = (x.astype(np.float64) - 0.5) @ kernel
    y = scores.argmax(axis=1)
    other = np.arange(classes) != y[:, None]
    gaps = scores[np.arange(6), y][:, None] - scores
    exact = {}
    for norm, dual in DUAL.items():
        slopes = np.linalg.norm(kernel.T[y][:, None] - kernel.T[None], ord=dual, axis=2)
        exact[norm] = np.where(other, gaps / np.maximum(slopes, 1e-9), np.inf).min(axis=1)
    return model, x, y, exact


def test_what_it_is_made_of():
    chosen = presets.get("minimal")
    assert len(chosen.attacks) == len(set(chosen.labels)) == 8
    of_two = presets.get("minimal", eps=0.3, norm=2.0)
    assert of_two.labels == ("alma-l2", "ddn") and not of_two.cascade
    norms = [kerasrobust.attacks.get(name, **own).norm for name, own in chosen.attacks]
    assert norms == [0, 0, 1, 1, 2, 2, math.inf, math.inf]
    with pytest.raises(ValueError, match="norm=3"):
        presets.get("minimal", eps=0.3, norm=3)


@pytest.mark.parametrize("brings", ["l2-0.5", "nsloss"])
@pytest.mark.parametrize("turned", [False, True])
def test_beside_a_preset_that_brings_a_budget(brings, turned):
    """Rows are what they are called, whatever the order."""
    requested = ["minimal", brings][:: -1 if turned else 1]
    plan = resolve(requested)
    own = {label: attack.norm for label, attack in plan.attacks.items()}
    assert {"alma-l2", "ddn"} < set(own) and set(own.values()) == {2.0}
    assert not any(name.endswith(("l0", "l1", "linf")) for name in own)


@pytest.mark.slow
def test_it_gives_the_shortest_per_sample(tmp_path):
    model, x, y, exact = linear()
    report = kerasrobust.evaluate(model, x, y, attacks="minimal", output=tmp_path)
    nearest = {row["norm"]: row for row in report.robust["nearest"]}
    assert list(nearest) == [0, 1, 2, math.inf]
    for norm, row in nearest.items():
        assert len(row["attacks"]) == 2 and row["fooled"] == len(x)
        found = [report.samples.results[name].distance(norm) for name in row["attacks"]]
        shortest = np.minimum(*found)
        assert row["median"] == np.median(shortest)
        if norm:
            np.testing.assert_allclose(shortest, exact[norm], rtol=0.01)
            assert (shortest >= exact[norm] * (1 - 1e-5)).all()
    text = str(report)
    assert "Nearest adversaries" in text and "alma-l2, ddn" in text
    assert "In L0: changed values" in " ".join(text.split())
    assert "## Nearest adversaries" in (tmp_path / "report.md").read_text()
    assert (
        kerasrobust.evaluation.Report.load(tmp_path).robust["nearest"] == report.robust["nearest"]
    )
