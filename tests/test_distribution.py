"""Two workers, each a process of its own, take the steps of one."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrobust
from kerasrobust import distribution

CASES = [
    "gda:N=3,sigma=0.1",
    "adversarial_training:attack=(pgd:eps=0.1,eps_step=0.05,max_iter=2),alpha=0.5",
]
SCRIPT = Path(__file__).with_name("multi_worker_check.py")
SECONDS = 240


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def run_workers(folder):
    """What both workers print, or None where one of them failed."""
    ports = free_ports(2)
    path = os.pathsep.join([str(SCRIPT.parent.parent), os.environ.get("PYTHONPATH", "")])
    # A proxy of the machine would take the calls of one worker to the other.
    names = {"http_proxy", "https_proxy", "grpc_proxy", "all_proxy"}
    environment = {k: v for k, v in os.environ.items() if k.lower() not in names}
    workers, outputs = [], []
    for index in range(2):
        output = open(folder / f"worker_{index}.txt", "w+")
        outputs.append(output)
        command = [sys.executable, SCRIPT, str(index), json.dumps(ports), json.dumps(CASES)]
        workers.append(
            subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment, "PYTHONPATH": path},
            )
        )
    end = time.monotonic() + SECONDS
    try:
        while any(worker.poll() is None for worker in workers) and time.monotonic() < end:
            if any(worker.poll() for worker in workers):
                break  # the other one would wait for it
            time.sleep(0.2)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    texts = []
    for output in outputs:
        output.seek(0)
        texts.append(output.read())
        output.close()
    if any(worker.returncode for worker in workers):
        return None, texts
    lines = [
        next(line for line in text.splitlines() if line.startswith("RESULT")) for text in texts
    ]
    return [json.loads(line.removeprefix("RESULT ")) for line in lines], texts


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    for attempt in range(2):  # another program may take a port before the workers do
        results, texts = run_workers(tmp_path_factory.mktemp(f"workers_{attempt}"))
        if results is not None:
            return results
    pytest.fail("\n".join(text[-3000:] for text in texts))


@pytest.mark.slow  # starts three processes
@pytest.mark.parametrize("case", CASES)
def test_two_workers_equal_one(workers, case):
    """Regularised, weighted, with a last batch that leaves one worker fewer samples."""
    assert [result["replicas"] for result in workers] == [2, 2]
    for result in workers:
        assert result[case]["weights"] < 2e-6
        assert result[case]["logs"] < 2e-5
        assert result[case]["steps"] == [6, 6]
    first, second = (result[case]["checksum"] for result in workers)
    assert first == second


@pytest.mark.slow
def test_fit_of_keras_still_fails(workers):
    """When this test fails, `kerasrobust.distribution` has become superfluous."""
    assert all("PerReplica" in result["fit"] for result in workers)


def model_and_data(n=12):
    keras.utils.set_random_seed(0)
    base = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    model = kerasrobust.wrap(base, "gda:N=2")
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    rng = np.random.default_rng(0)
    x, y = rng.uniform(size=(n, 4)).astype("float32"), rng.integers(0, 3, n)
    return model, tf.data.Dataset.from_tensor_slices((x, y)).batch(4)


def test_equals_fit_on_one_device():
    ends = []
    for own in (False, True):
        model, data = model_and_data()
        fit = distribution.fit if own else keras.Model.fit
        ends.append((fit(model, data, epochs=2, verbose=0).history, model.get_weights()))
    assert set(ends[0][0]) == set(ends[1][0])
    for key, values in ends[0][0].items():
        assert values == pytest.approx(ends[1][0][key])
    for a, b in zip(ends[0][1], ends[1][1], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-7)


def test_epochs_of_endless_data_and_callbacks():
    model, data = model_and_data()
    stop = keras.callbacks.EarlyStopping("loss", mode="min", min_delta=10, patience=1)
    history = distribution.fit(
        model, data.repeat(), epochs=9, initial_epoch=1, steps_per_epoch=2, callbacks=[stop]
    )
    assert history.epoch == [1, 2] and int(model.step.numpy()) == 4


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"data": np.zeros(3)}, TypeError, "data=ndarray"),
        ({"epochs": 0}, ValueError, "epochs=0"),
        ({"epochs": 2, "initial_epoch": 2}, ValueError, "epochs=2"),
        ({"steps_per_epoch": 0}, ValueError, "steps_per_epoch=0"),
    ],
)
def test_bad_arguments(options, error, message):
    model, data = model_and_data()
    with pytest.raises(error, match=message):
        distribution.fit(model, **{"data": data, **options})
    with pytest.raises(ValueError, match="cardinality -1"):
        distribution.fit(model, data.repeat())
