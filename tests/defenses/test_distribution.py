"""MirroredStrategy on two logical CPU devices takes the steps of one device."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PGD = {"name": "pgd", "config": {"eps": 0.1, "eps_step": 0.05, "max_iter": 3}}
CASES = [
    "brelu",
    "gda:N=3,sigma=0.1",
    "gda:N=2,sigma=0.1,keep_original=True",
    "adversarial_training:attack=fgsm",
    ["gda:N=2", {"name": "adversarial_training", "config": {"attack": PGD, "alpha": 0.0}}],
    "ensemble_adversarial_training:attacks=[(pgd:eps=0.1,max_iter=2),(ead:max_iter=2)]",
    "ensemble_adversarial_training:attacks=[fgsm,(pgd:eps=0.1,max_iter=2)],strategy=max,alpha=0.5",
    "fast:eps=0.1,guard_every=2,guard_max_iter=2",
    "label_smoothing",
    "e2sad:eps1=0.1,eps2=0.05",
    "e2sad:eps1=0.1,eps2=0.05,second_step=random_start",
    "distillation:temperature=2",
    ["gda:N=2,sigma=0.1", "distillation:temperature=2"],
    "nsloss:N=2",
    "jacobian:weight=0.1",
    ["nsloss:N=2,batch_norm=inference", "jacobian:weight=0.1,projections=2"],
    "awp:gamma=0.1,steps=2",
    "mart:eps=0.1,eps_step=0.03,max_iter=3",
    ["awp:gamma=0.1,warmup=2", "trades:eps=0.1,eps_step=0.03,max_iter=3"],
    "vat:eps=0.5,max_iter=2",
    "superimpose:alpha=0.4",
    "superimpose:p=2,q=4",
    "superimpose:p=2,q=4,draw_per=batch",
    "minimax:eps=0.1",
]


@functools.cache
def differences():
    here = Path(__file__).parent
    path = os.pathsep.join([str(here.parent.parent), os.environ.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, str(here / "distribution_check.py"), json.dumps(CASES)],
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    line = next(line for line in run.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


@pytest.mark.slow  # starts a process with two devices
@pytest.mark.parametrize("case", CASES, ids=str)
def test_two_devices_equal_one(case):
    """Regularised, weighted, with a last batch that leaves one device without samples."""
    found = differences()[str(case)]
    assert found["weights"] < 2e-6
    assert found["logs"] < 2e-5


@pytest.mark.slow
def test_strategy_mismatch_is_refused():
    assert "must be built in the scope of the strategy" in differences()["mismatch"]
