"""Defaults: steps from the budget, minimal-norm attacks that succeed, and ART's own on demand."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from kerasrobust import art, attacks
from kerasrobust.attacks.projected_gradient_descent import step_share

# What changes no result of ART's, or is not this library's to say.
APART = ("batch_size", "verbose")


@pytest.mark.parametrize("name", sorted(art.ATTACKS))
def test_like_art_has_arts_defaults(name):
    """And `art_defaults` holds what differs, no more."""
    theirs = attacks.ATTACKS.find("art:" + name).original
    original = inspect.signature(theirs.__init__).parameters
    own, like = attacks.get(name).get_config(), attacks.get(name, like="art").get_config()
    for length, share in type(attacks.get(name)).lengths.items():  # in 0..1, left to its default
        for config in (own, like):
            config[length] = share if config[length] is None else config[length]
    shared = {key for key in own.keys() & original.keys() if key not in APART}
    if name == "apgd":  # ART's None is the loss of the estimator
        shared.remove("loss_type")
    theirs = {key: original[key].default for key in shared if original[key].default is not None}
    plain = {key: "inf" if value == np.inf else value for key, value in theirs.items()}
    assert {key: like[key] for key in plain} == plain
    differs = {key for key, value in plain.items() if own[key] != value}
    assert set(type(attacks.get(name)).art_defaults) == differs


def test_like_art_yields_to_what_is_given():
    recipe = attacks.get("pgd:eps=0.2", like="art", max_iter=7)
    config = recipe.get_config()
    assert (config["eps"], config["eps_step"], config["max_iter"]) == (0.2, 0.1, 7)
    assert attacks.get("pgd:eps_step=0.02", like="art").eps_step == 0.02
    with pytest.raises(ValueError, match="`like` must be None or 'art'. Received: like='foolbox'"):
        attacks.get("pgd", like="foolbox")


@pytest.mark.parametrize("norm, longest", [(1, 2.0), (2, 1.0), (np.inf, 1.0)])
def test_steps_fall_along_a_cosine(norm, longest):
    shares = step_share(np.arange(9), 8, norm).numpy()
    expected = 0.01 + (longest - 0.01) * np.cos(np.pi * np.arange(9) / 16) ** 2
    np.testing.assert_allclose(shares, expected, rtol=1e-5)


@pytest.mark.parametrize(
    "name, norm",
    [
        ("pgd", 1),
        ("pgd", np.inf),
        *(pytest.param(*one, marks=pytest.mark.slow) for one in (("pgd", 2), ("bim", np.inf))),
    ],
)
def test_the_default_walk_is_one_step_after_the_other(name, norm, classifier, digits):
    x, y = digits[0][:4], digits[1][:4]
    eps = {1: 0.6, 2: 0.1, np.inf: 0.02}[norm]
    common = {"eps": eps, **({"norm": norm} if name == "pgd" else {})}
    whole = attacks.get(name, max_iter=4, **common).bind(classifier).run(x, y)
    assert not whole.success.any()  # so that the last iterate is what comes back
    start = x
    for k in range(4):
        step = float(step_share(k, 4, norm)) * eps
        one = attacks.get(name, eps_step=step, max_iter=1, **common).bind(classifier)
        start = one.run(x, y, start=start).x_adv
    np.testing.assert_allclose(whole.x_adv, start, atol=1e-6)


@pytest.mark.parametrize("eps", [0.06, 0.12])
@pytest.mark.parametrize("name", ["pgd", "bim", "mifgsm"])
def test_a_budget_alone_is_within_two_points_of_the_best_step(name, eps, classifier, digits):
    x, y = digits[0][:200], digits[1][:200]
    rates = [
        attacks.get(name, eps=eps, eps_step=step, max_iter=40).bind(classifier).run(x, y)
        for step in (None, *(eps * share for share in (0.025, 0.05, 0.1, 0.25, 0.5)))
    ]
    success = [result.success_rate for result in rates]
    assert 0.1 < success[0] < 0.99, success
    assert success[0] >= max(success) - 0.02, success


@pytest.mark.parametrize(
    "name",
    ["cwl2", "cwlinf", "cwl0", "ead", "deepfool", "fab", "jsma"]
    + [pytest.param(n, marks=pytest.mark.slow) for n in ("ddn", "fmn", "alma", "sigma_zero")],
)
def test_a_minimal_attack_fools_a_natural_model(name, classifier, digits):
    x, y = digits[0][:32], digits[1][:32]
    assert attacks.get(name).bind(classifier).run(x, y).success_rate == 1


def test_the_lengths_tried_are_tenths_of_the_budget(classifier, digits):
    x, y = digits[0][:40], digits[1][:40]
    found = [
        attacks.get("fgsm", eps=0.5, minimal=True, **step).bind(classifier).run(x, y)
        for step in ({}, {"eps_step": 0.05})
    ]
    np.testing.assert_allclose(found[0].x_adv, found[1].x_adv, atol=1e-6)
    np.testing.assert_array_equal(found[0].queries, found[1].queries)
