"""Every layer of the package in Keras's own test harness, and on two devices."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from kerasrobust import defenses
from kerasrobust.defenses import LayerDefense

CLASSES = {
    name: one for name, one in defenses.DEFENSES.classes().items() if issubclass(one, LayerDefense)
}
BUILTIN = set(CLASSES) & set(defenses.DEFENSES.builtin)
# Settings under which it changes what it is given, and predictions are not random.
SETTINGS = {
    "brelu": {"t": 0.5},
    "feature_squeezing": {"bit_depth": 2},
    "gaussian_augmentation": {"sigma": 0.1},
    "jpeg": {"quality": 50},
    "spatial_smoothing": {"window_size": 2},
    "tvm": {"lamb": 1.0, "max_iter": 10, "prob": 1.0},
}


def test_every_layer_has_settings():
    assert set(SETTINGS) == BUILTIN


@pytest.mark.parametrize(
    "name",
    [n if n in ("jpeg", "tvm") else pytest.param(n, marks=pytest.mark.slow) for n in SETTINGS],
)
def test_keras_harness(name):
    """Private to Keras: what an add-on's layers are held to is not exported."""
    case = pytest.importorskip("keras.src.testing").TestCase()
    random = name in ("gaussian_augmentation", "tvm")
    case.run_layer_test(
        CLASSES[name],
        init_kwargs=SETTINGS[name],
        input_data=np.random.default_rng(0).uniform(size=(3, 8, 9, 3)).astype("float32"),
        expected_output_shape=(3, 8, 9, 3),
        expected_output_dtype="float32",
        expected_num_trainable_weights=0,
        expected_num_non_trainable_weights=0,
        expected_num_seed_generators=int(random),
        expected_num_losses=0,
        supports_masking=name == "brelu",
    )


@functools.cache
def on_devices():
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent.parent), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, str(here / "layers_check.py"), json.dumps(SETTINGS)],
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    line = next(line for line in run.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_two_devices_equal_one(name):
    found = on_devices()[name]
    assert found["changed"] > 1e-3
    assert found["predictions"] < 1e-5
    # Each device draws noise of its own.
    assert found["trained"] < (0.1 if name == "gaussian_augmentation" else 1e-5)
