"""Models that are asked over a wire: labels only, and answers that fail to come."""

import numpy as np
import pytest
import tenacity

from kerasrobust import attacks, evaluate
from kerasrobust.attacks import AttackInterrupted
from kerasrobust.engine.classifier import Classifier, ModelFailure

SHAPE, CLASSES = (2, 4, 1), 4
WEIGHTS = np.random.default_rng(2).normal(size=(8, CLASSES))
HSJA = "hsja:max_iter=2,max_eval=20,init_eval=10"
DECISIONS = (HSJA, "boundary:max_iter=10", "signopt:max_iter=1,k=20,num_trial=5")


def scores(x):
    return ((np.asarray(x, np.float64).reshape(len(x), -1) - 0.5) @ WEIGHTS).astype(np.float32)


def labels(x):
    return scores(x).argmax(axis=1)


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(6).uniform(0.2, 0.8, (21, *SHAPE)).astype(np.float32)
    return x, labels(x)


@pytest.mark.parametrize(
    "spec", [DECISIONS[0], *(pytest.param(s, marks=pytest.mark.slow) for s in DECISIONS[1:])]
)
def test_labels_are_enough_for_a_decision_attack(data, spec):
    """In any form, with or without the number of classes: what scores give, point for point."""
    x, y = data
    expected = attacks.get(spec).bind(Classifier(scores)).run(x, y)
    assert expected.success.sum() > 10
    forms = {
        "labels": labels,
        "column": lambda x: labels(x)[:, None].astype(np.int32),
        "list": lambda x: labels(x).tolist(),
        "one-hot": lambda x: np.eye(CLASSES, dtype=int)[labels(x)],
    }
    for name, service in forms.items():
        classifier = Classifier(service, nb_classes=None if name in ("labels", "list") else CLASSES)
        result = attacks.get(spec).bind(classifier).run(x, y)
        np.testing.assert_array_equal(result.x_adv, expected.x_adv, err_msg=name)
        np.testing.assert_array_equal(result.labels, expected.labels)
        np.testing.assert_array_equal(result.queries, expected.queries)
        assert classifier.answers_labels and classifier.nb_classes == CLASSES


def test_classes_are_found_as_labels_come(data):
    x, _ = data
    asked = iter([[0, 1, 1], [2, 0, 5], [1]])
    classifier = Classifier(lambda x: np.array(next(asked)))
    log = classifier.predict(x[:7], batch_size=3)
    np.testing.assert_array_equal(log.argmax(axis=1), [0, 1, 1, 2, 0, 5, 1])
    assert log.shape == (7, 6) and (log.max(axis=1) == 0).all()
    assert classifier.nb_classes == 6 and classifier.known_classes is None
    # A report counts the classes that are labels and that the service never answers, too.
    two = x[labels(x) < 2]
    y = np.arange(len(two)) % 3
    report = evaluate(lambda x: labels(x) % 2, two, y, attacks=HSJA)
    assert report.settings["classes"] == 3
    assert report.clean_accuracy == np.mean(labels(two) == y)


def test_attacks_that_need_scores_refuse_labels(data):
    x, y = data
    for spec in ("square:eps=0.1,max_iter=5", "simba", "zoo"):
        with pytest.raises(TypeError, match="needs scores, and the model answers labels: use hsja"):
            evaluate(labels, x, y, attacks=[HSJA, spec])
    with pytest.raises(TypeError, match="needs scores"):
        attacks.get("square:eps=0.1").bind(labels).run(x, y)
    report = evaluate(scores, x, y, attacks="square:eps=0.1,max_iter=5")
    assert report.attacks["square"].queries > 2


@pytest.mark.parametrize(
    "answer, message",
    [
        (lambda x: np.ones((12, 7)), r"shape \(21, classes\) or integer labels of shape \(21,\)"),
        (lambda x: np.full(21, 0.25), r"for 21 samples. Received: answers of shape \(21,\)"),
        (lambda x: np.zeros(20, int), r"Received: answers of shape \(20,\) and dtype int64"),
        (lambda x: np.zeros((21, 2, 2)), r"answers of shape \(21, 2, 2\)"),
        (lambda x: np.array(3), r"answers of shape \(\)"),
        (lambda x: np.full(21, -1), "labels from 0 to 1. Received: labels from -1 to -1"),
    ],
)
def test_what_is_neither_scores_nor_labels(data, answer, message):
    with pytest.raises(ModelFailure, match=message):
        Classifier(answer).predict(data[0])


def test_labels_beyond_the_classes_and_votes_without_their_number(data):
    x, _ = data
    with pytest.raises(ModelFailure, match="labels from 0 to 2. Received: labels from 0 to 3"):
        Classifier(labels, nb_classes=3).predict(x)
    with pytest.raises(ValueError, match="`nb_classes` must be given.*Received: votes=3"):
        Classifier(labels, votes=3).judge(x)
    voted, _, _ = Classifier(labels, votes=3, nb_classes=CLASSES).judge(x)
    np.testing.assert_array_equal(voted, labels(x))


# ---- a service that fails --------------------------------------------------------------------


class Service:
    """Fails in some of its calls, by number."""

    def __init__(self, fails=(), answer=labels):
        self.fails, self.answer = fails, answer
        self.calls = self.samples = 0

    def __call__(self, x):
        self.calls += 1
        self.samples += len(x)
        if self.calls - 1 in self.fails:
            raise ConnectionError("503 Service Unavailable")
        return self.answer(x)


@pytest.fixture
def waits(monkeypatch):
    """Seconds that were waited, without waiting."""
    seconds = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", seconds.append)
    return seconds


def test_a_failing_call_is_tried_again_after_longer_and_longer_waits(data, waits):
    x, _ = data
    service = Service(fails=(1, 2, 4))
    classifier = Classifier(service, retries=2)
    np.testing.assert_array_equal(classifier.predict(x, batch_size=7).argmax(axis=1), labels(x))
    assert waits == [1, 2, 1]
    assert (service.calls, service.samples, classifier.queries) == (6, 42, 42)
    waits.clear()
    with pytest.raises(ModelFailure, match="ConnectionError in each of 3 tries: 503 Service"):
        Classifier(Service(fails=range(3)), retries=2).predict(x)
    assert waits == [1, 2]
    with pytest.raises(ModelFailure, match="raised ConnectionError: 503"):
        Classifier(Service(fails=(0,))).predict(x)
    assert waits == [1, 2]
    assert Classifier(classifier).retries == 2
    with pytest.raises(ValueError, match="Received: retries=-1"):
        Classifier(labels, retries=-1)


def test_a_wrong_answer_is_not_asked_for_again(data, waits):
    service = Service(answer=lambda x: np.ones(len(x) + 1))
    with pytest.raises(ModelFailure, match="must return scores"):
        Classifier(service, retries=5).predict(data[0])
    assert service.calls == 1 and not waits


@pytest.mark.slow
def test_an_evaluation_goes_on_where_a_service_failed(data, tmp_path, waits):
    x, y = data
    call = {"attacks": list(DECISIONS[:2]), "batch_size": 6, "keep_adversaries": True}
    whole = Service()
    expected = evaluate(whole, x, y, **call)
    first = Service(fails=range(whole.calls * 2 // 3, 10**6))
    with pytest.raises(AttackInterrupted, match="503"):
        evaluate(Classifier(first, retries=1), x, y, output=tmp_path, **call)
    stored = len(list((tmp_path / "results").glob("*.npz")))
    assert 1 < stored < 9
    second = Service()
    report = evaluate(second, x, y, output=tmp_path, **call)
    assert 0 < second.samples < whole.samples * 2 / 3
    for name, result in expected.samples.results.items():
        np.testing.assert_array_equal(report.samples.results[name].x_adv, result.x_adv)
        np.testing.assert_array_equal(report.samples.results[name].queries, result.queries)


@pytest.mark.slow
def test_the_budget_of_queries_is_per_sample_and_attack_and_covers_judging(data):
    x, y = data
    for spec in DECISIONS:
        for votes, most in ((1, 25), (3, 31)):
            service = Service()
            classifier = Classifier(service, nb_classes=CLASSES, votes=votes)
            attack = attacks.get(spec, max_queries=most).bind(classifier)
            result = attack.run(x, y)
            assert 2 * votes < result.queries.max() <= most
            assert service.samples == result.queries.sum()


def test_a_service_that_draws_is_asked_no_more_than_the_budget(data):
    x, y = data
    draw = np.random.default_rng(9)
    for spec in ("square:eps=0.01,max_iter=50", HSJA):
        service = Service(answer=lambda x: scores(x) + 0.2 * draw.normal(size=(len(x), CLASSES)))
        attack = attacks.get(spec, max_queries=17).bind(service)
        result = attack.run(x, y)
        assert result.queries.max() == 17
        assert service.samples == result.queries.sum()
