"""The whole way on real data: train by command, attack by command, judge independently."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from kerasrobust import datasets
from kerasrobust.evaluation.report import Report


@pytest.mark.slow
def test_train_and_attack_the_areb_cnn(real_data, tmp_path):
    from kerasrobust_cli import evaluate, train

    data_dir = str(real_data("mnist"))
    model, folder = tmp_path / "model.keras", tmp_path / "report"
    common = ["--dataset", "mnist", "--data-dir", data_dir]
    arguments = [*common, "--model", "areb_cnn", "--epochs", "3", "--output", str(model)]
    trained = CliRunner().invoke(train.main, arguments, catch_exceptions=False)
    assert trained.exit_code == 0, trained.output
    network = keras.saving.load_model(model)
    test = datasets.load("mnist", "test", data_dir=data_dir)
    accuracy = (network.predict(test.x, batch_size=500, verbose=0).argmax(axis=1) == test.y).mean()
    assert accuracy >= 0.99

    arguments = [*common, "--model", str(model), "--attacks", "areb", "--samples", "100"]
    run = CliRunner().invoke(
        evaluate.main, [*arguments, "--output", str(folder)], catch_exceptions=False
    )
    assert run.exit_code == 0, run.output
    report = Report.load(folder)
    limits = {"cwl2": ("median_l2", 1.7), "ead": ("median_l1", 12.0), "hsja": ("median_l2", 2.3)}
    for name, (median, limit) in limits.items():
        assert getattr(report.attacks[name], median) <= limit
    for stored in (folder / "results").glob("*.npz"):
        if "prologue" in stored.name:
            continue
        with np.load(stored) as result:
            labels = network.predict(result["x_adv"], batch_size=17, verbose=0).argmax(axis=1)
            assert (labels == result["y"]).mean() <= 0.02
            np.testing.assert_array_equal(labels != result["y"], result["success"])
