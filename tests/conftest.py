"""Fixtures and settings for all tests."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def pytest_collection_finish():
    """What the libraries hold is looked at no more, nor is each graph as often: saves a 20th."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(autouse=True)
def names_of_others(monkeypatch):
    """What a test registers is forgotten after it."""
    from kerasrobust.attacks import ATTACKS
    from kerasrobust.defenses import DEFENSES
    from kerasrobust.metrics.registry import METRICS

    for registry in (ATTACKS, DEFENSES, METRICS):
        monkeypatch.setattr(registry, "_registered", dict(registry._registered))


@pytest.fixture(scope="session", autouse=True)
def without_probes():
    """No passes on whether attacks can be trusted, but in tests that ask for `probes`."""
    from kerasrobust.evaluation import conclusion, diagnosis, pieces

    real = [
        (conclusion, "probe", diagnosis.probe),
        (pieces, "look_for_unit", diagnosis.look_for_unit),
    ]
    with pytest.MonkeyPatch.context() as patch:
        for module, name, _ in real:
            patch.setattr(module, name, lambda *given: [])
        yield real


@pytest.fixture
def probes(without_probes, monkeypatch):
    """Evaluations in this test probe."""
    for module, name, probe in without_probes:
        monkeypatch.setattr(module, name, probe)


@pytest.fixture(scope="session")
def digits():
    """The test split of the digits: x `[n, 8, 8, 1]` in 0..1 and integer y `[n]`."""
    from kerasrobust import datasets

    data = datasets.load("digits", "test")
    return data.x, data.y


@pytest.fixture(scope="session")
def digits_model():
    """A small CNN with a softmax output, trained on the digits; tests must not train it on."""
    import keras

    from kerasrobust import datasets
    from kerasrobust.engine.classifier import Classifier

    train = datasets.load("digits", "train")
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(train.x, train.y, epochs=10, batch_size=32, verbose=0)
    # Held for the whole session, so that all tests share its compiled functions.
    classifier = Classifier.of(model)
    yield model
    del classifier


@pytest.fixture
def timeless():
    """A report as data, without what differs from run to run."""
    from kerasrobust.evaluation.report import timeless

    return lambda report: timeless(report.to_dict())


@pytest.fixture
def real_data():
    """Call it with a TFDS name: the folder that holds it, or else the test is skipped.

    With KERASROBUST_REQUIRE_DATA=1 the skip is a failure, see below.
    """

    def folder(name: str) -> Path:
        data_dir = os.environ.get("TFDS_DATA_DIR")
        if data_dir is None or not (Path(data_dir) / name).is_dir():
            pytest.skip(f"needs the TFDS data set {name!r} prepared in TFDS_DATA_DIR")
        return Path(data_dir)

    return folder


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Where the real data must be there, a test that skips for want of them has failed."""
    report = yield
    required = os.environ.get("KERASROBUST_REQUIRE_DATA") == "1"
    if report.skipped and required and "real_data" in item.fixturenames:
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} skipped although KERASROBUST_REQUIRE_DATA=1"
    return report
