"""The universal perturbation: the paper's algorithm in NumPy, and beside ART."""

from __future__ import annotations

import time

import numpy as np
import pytest
import tensorflow as tf
from art.attacks import evasion

import kerasrobust
from kerasrobust import art, attacks
from kerasrobust.engine.classifier import Classifier

N = 48
INF = np.inf


@pytest.fixture(scope="module")
def samples(digits):
    return digits[0][:N], digits[1][:N]


@pytest.mark.parametrize("norm", [INF, 2])
def test_one_sample_at_a_time_is_the_papers_algorithm(norm, classifier, samples):
    """Algorithm 1 in NumPy around our DeepFool, in the same random order."""
    x, y = samples[0][:12], samples[1][:12]
    eps = {INF: 0.2, 2: 1.0}[norm]
    order = np.random.default_rng(5).permutation(12)
    noise = np.zeros_like(x[0])
    inner = attacks.get("deepfool").bind(classifier)
    for i in order:
        point = np.clip(x[i] + noise, 0, 1)[None]
        if classifier.predict(point).argmax() != y[i]:
            continue
        noise = noise + (inner.generate(point, y[i : i + 1]) - point)[0]
        if norm == INF:
            noise = np.clip(noise, -eps, eps)
        else:
            noise = noise * min(1, eps / np.linalg.norm(noise))
    attack = attacks.get("uap", norm=norm, eps=eps, max_iter=1, group_size=1, seed=5)
    attack = attack.bind(classifier)
    result = attack.run(x, y)
    np.testing.assert_allclose(attack.noise, noise, atol=1e-4)
    fooled = classifier.predict(np.clip(x + noise, 0, 1)).argmax(axis=1) != y
    np.testing.assert_array_equal(result.success, fooled)
    assert attack.fooling_rate == fooled.mean()


def test_one_perturbation_for_all(classifier, samples):
    x, y = samples
    attack = attacks.get("uap", eps=0.5, delta=0.4).bind(classifier)
    result = attack.run(x, y)
    assert attack.converged and attack.fooling_rate == result.success.mean() >= 0.6
    assert np.abs(attack.noise).max() <= 0.5 * (1 + 1e-6)
    expected = np.clip(x + attack.noise, 0, 1)
    np.testing.assert_array_equal(result.x_adv[result.success], expected[result.success])
    # The passes are those of the search, shared out evenly.
    assert result.gradients.max() - result.gradients.min() <= 1 <= result.gradients.min()


def test_it_stops_when_enough_are_fooled(classifier, samples):
    few = attacks.get("uap", eps=0.4, delta=0.6).bind(classifier)
    many = attacks.get("uap", eps=0.4, delta=0.0, max_iter=4).bind(classifier)
    assert few.run(*samples).gradients.sum() < many.run(*samples).gradients.sum()
    assert few.fooling_rate >= 0.4


def test_any_inner_attack(classifier, samples):
    inner = attacks.get("pgd", eps=0.1, eps_step=0.05, max_iter=3)
    by_name = attacks.get(
        "uap",
        eps=0.4,
        max_iter=2,
        attacker="pgd",
        attacker_params={"eps": 0.1, "eps_step": 0.05, "max_iter": 3},
    )
    given = attacks.get("uap", eps=0.4, max_iter=2, attacker=inner)
    first, second = (a.bind(classifier).run(*samples) for a in (by_name, given))
    np.testing.assert_array_equal(first.x_adv, second.x_adv)
    assert first.success.mean() > 0.5
    again = attacks.get({"name": "uap", "config": given.get_config()})
    assert again.get_config() == given.get_config()


def test_a_black_box_inner_attack_runs_on_a_callable(digits_model, samples):
    sent = []

    def service(batch):
        sent.append(len(batch))
        return digits_model(batch, training=False).numpy()

    attack = attacks.get(
        "uap",
        eps=0.5,
        max_iter=1,
        attacker="hsja",
        attacker_params={"max_iter": 1, "max_eval": 20, "init_eval": 20},
    ).bind(Classifier(service))
    result = attack.run(samples[0][:8], samples[1][:8])
    assert result.queries.sum() == sum(sent)
    assert attack.noise is not None and np.abs(attack.noise).max() > 0


@pytest.mark.slow
def test_at_least_arts_fooling_rate(digits_model, samples):
    x, y = samples[0][:20], samples[1][:20]
    estimator = art.classifier(digits_model)
    # At a budget at which neither fools everything, for the same pass over the data.
    rival = evasion.UniversalPerturbation(
        estimator, "deepfool", eps=0.3, delta=0.0, max_iter=1, verbose=False
    )
    np.random.seed(0)
    theirs = (digits_model.predict(rival.generate(x, y), verbose=0).argmax(axis=1) != y).sum()
    ours = attacks.get("uap", eps=0.3, delta=0.0, max_iter=1).bind(digits_model).run(x, y)
    print("ours", ours.success.sum(), "theirs", theirs)
    assert ours.success.sum() >= theirs - 2
    assert 0 < ours.success.sum() < 20


def test_messages(classifier):
    with pytest.raises(ValueError, match="`delta` must be in 0..1. Received: delta=2"):
        attacks.get("uap", delta=2)
    with pytest.raises(ValueError, match="untargeted attack on single samples"):
        attacks.get("uap", attacker="pgd", attacker_params={"targeted": True})
    with pytest.raises(ValueError, match="Received: attack='deepfoul'"):
        attacks.get("uap", attacker="deepfoul")
    with pytest.raises(TypeError, match="cannot be part of a graph"):
        attacks.get("uap").bind(classifier).perturb(
            tf.zeros([1, 8, 8, 1]), tf.zeros([1], tf.int32), seed=tf.constant([0, 0])
        )


def test_the_search_is_part_of_the_seconds(classifier, samples, monkeypatch, tmp_path):
    """Once, whatever the number of batches, and in what is stored as well."""
    x, y = samples[0][:20], samples[1][:20]
    attack = attacks.get("uap", eps=0.5, max_iter=1, batch_size=8)
    search = type(attack).prologue

    def slow(self, source):
        time.sleep(2)
        return search(self, source)

    attack.bind(classifier).run(x, y)  # compiles
    monkeypatch.setattr(type(attack), "prologue", slow)
    assert 2 < attack.bind(classifier).run(x, y).seconds < 5.9

    def seconds():
        report = kerasrobust.evaluate(
            classifier, x, y, attacks=attack, batch_size=8, output=tmp_path
        )
        return report.attacks["uap"].figures["seconds"]

    taken = seconds()
    assert 2 < taken < 5.9
    monkeypatch.setattr(type(attack), "prologue", None)  # nothing is looked for again
    assert seconds() == taken
