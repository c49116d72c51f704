"""Batches shared out to other processes."""

import json
import os
import pathlib
import signal
import sys
import threading
import time

import keras
import numpy as np
import pytest

import kerasrobust
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.store import Store, put


@pytest.fixture
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(16, "relu"),
            keras.layers.Dense(4, "softmax"),
        ]
    )


@pytest.fixture
def samples(model):
    x = np.random.default_rng(0).uniform(0.1, 0.9, (10, 6, 6, 1)).astype(np.float32)
    return x, model.predict(x, verbose=0).argmax(1)


def test_without_ray_it_says_what_to_install(model, samples, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'kerasrobust\[ray\]'"):
        kerasrobust.evaluate(model, *samples, attacks="fgsm:eps=0.1", workers=2)


def test_a_cluster_needs_a_folder(model, samples, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", sys)
    with pytest.raises(ValueError, match="share an `output`"):
        kerasrobust.evaluate(model, *samples, attacks="fgsm", workers=2, ray_address="auto")


def test_results_are_stored_where_fsspec_reaches(model, samples, timeless):
    options = {"attacks": "fgsm:eps=0.1", "output": "memory://report"}
    first = kerasrobust.evaluate(model, *samples, **options)
    store = Store("memory://report/results")
    assert len(store.files.ls(store.folder)) == 1
    again = kerasrobust.evaluate(model, *samples, **options)
    assert again.cost == first.cost  # seconds as well: it was read
    assert timeless(again) == timeless(first)
    assert json.loads(store.files.cat("/report/report.json")) == again.to_dict()


def test_files_are_put_into_a_folder_here(tmp_path):
    put(tmp_path / "new", lambda folder: os.makedirs(folder))
    assert (tmp_path / "new").is_dir()


def test_a_classifier_in_another_process(model, samples):
    cloudpickle = pytest.importorskip("ray.cloudpickle")
    classifier = Classifier(model, votes=3, seed=5)
    classifier.look_for_draws(samples[0], 4)
    twin = cloudpickle.loads(cloudpickle.dumps(classifier))
    assert twin.settings() == classifier.settings()
    assert (twin.randomised, twin.known_classes) == (False, 4)
    attack = kerasrobust.attacks.get("pgd", eps=0.1)
    np.testing.assert_array_equal(
        attack.bind(twin).generate(*samples), attack.bind(classifier).generate(*samples)
    )


@pytest.mark.slow
@pytest.mark.parametrize("attacks", ["areb", "autoattack"])
def test_two_workers_and_one_that_dies(model, samples, timeless, tmp_path, attacks):
    ray = pytest.importorskip("ray")
    x, y = samples
    options = {"attacks": attacks, "batch_size": 3, "dataset": "mnist"}
    if attacks == "autoattack":
        options["eps"] = 0.02
    alone = kerasrobust.evaluate(model, x, y, **options)
    killed = []

    def kill():
        """Ends a worker that is at work, once something is stored."""
        results = tmp_path / "results"
        while not (results.exists() and list(results.glob("*.npz"))):
            time.sleep(0.05)
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            if (folder / "cmdline").read_bytes().startswith(b"ray::_Worker"):
                os.kill(int(folder.name), signal.SIGKILL)
                return killed.append(folder.name)

    thread = threading.Thread(target=kill)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        thread.start()
        together = kerasrobust.evaluate(model, x, y, workers=2, output=tmp_path, **options)
        thread.join()
    finally:
        ray.shutdown()
    assert killed
    assert timeless(together) == timeless(alone)
