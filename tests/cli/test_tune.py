"""`kr-tune`, run in this process as click runs it."""

import json

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import kerasrobust
from kerasrobust_cli import tune


def run(*arguments):
    return CliRunner().invoke(tune.main, [str(argument) for argument in arguments])


def linear():
    """Two classes by the brightness of the upper half."""
    network = keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Flatten(), keras.layers.Dense(2)], name="linear"
    )
    upper = np.repeat([1.0, 0.0], 18) / 18
    network.set_weights([np.stack([0 * upper, upper], axis=1), np.array([0.0, -0.5])])
    return network


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("tune")
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "test"):
        y = rng.integers(0, 2, 64)
        x = rng.random((64, 6, 6)) * 0.5
        x[:, :3] += 0.5 * y[:, None, None]
        arrays |= {f"x_{split}": x, f"y_{split}": y}
    np.savez(path / "halves.npz", **arrays)
    linear().save(path / "model.keras")
    return path


@pytest.fixture
def given(folder):
    return ("--model", folder / "model.keras", "--dataset", folder / "halves.npz", "--samples", 32)


@pytest.mark.slow
def test_the_whole_way(folder, given, tmp_path):
    arguments = (
        *given,
        *("--attacks", "fgsm:eps=0.2", "--samples", 40, "--combinations", "--output", tmp_path),
        *(
            "--sweep",
            "feature_squeezing:bit_depth=2,1",
            "--sweep",
            "spatial_smoothing:window_size=3",
        ),
    )
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "tuning.json").read_text())
    *names, both = [row["name"] for row in found["rows"]]
    squeezed = [f"feature_squeezing:bit_depth={bits}" for bits in (2, 1)]
    assert names == ["undefended", *squeezed, "spatial_smoothing:window_size=3"]
    assert both in [f"{name} + {names[-1]}" for name in squeezed]
    assert found["settings"]["gradient"] == "straight_through"
    # What is told is what the library finds on the same samples.
    data = kerasrobust.datasets.load(folder / "halves.npz", samples=40)
    report = kerasrobust.evaluate(linear(), data.x, data.y, attacks="fgsm:eps=0.2")
    assert found["rows"][0]["clean"]["accuracy"] == report.clean_accuracy
    assert found["rows"][0]["robust"]["accuracy"] == report.robust_accuracy
    for part in ("combinations", "Rule: of the settings", found["verdict"].split(". ")[0][:60]):
        assert part in " ".join(result.stdout.split())
    assert f"Tables written to {tmp_path}" in result.stderr
    assert run(*arguments).stdout == result.stdout


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (("--sweep", "label_smoothing:k=0.8,0.9"), 2, "it needs --epochs"),
        (("--sweep", "jpeg:quality=0,5"), 2, "quality"),
        (("--sweep", "jpeg:quality=5,5"), 2, "Each value must be given once"),
        (("--sweep", "jpg:quality=5"), 2, "Did you mean 'jpeg'?"),
        (("--sweep", "spatial_smoothing:window_size=7"), 2, "side of the images, 6"),
        (("--sweep", "jpeg:quality=5", "--combinations"), 2, "two defenses or more"),
        (("--max-loss", "2"), 2, "--max-loss is a share from 0 to 1, not 2"),
        (("--norm", "2"), 2, "--norm needs --eps"),
        (("--attacks", "pdg"), 2, "Did you mean 'pgd'?"),
        (("--gradient", "none"), 2, "'exact', 'straight_through', 'surrogate', 'ignore'"),
    ],
)
def test_a_mistake_is_one_line(arguments, code, message, given):
    result = run(*given, *arguments)
    assert result.exit_code == code
    assert message in result.stderr and "Traceback" not in result.output
    assert not result.stdout


@pytest.fixture
def asked(monkeypatch):
    """What `tune` is asked for; it answers as if it had been interrupted."""
    calls = []

    def interrupted(model, data, **options):
        calls.append({"model": model, "data": data, **options})
        flags = np.arange(len(data)) > 1
        row = kerasrobust.evaluation.tuning.Row("undefended", "exact", flags, {}, flags, [])
        settings = {
            "total": 3,
            "attacks": {},
            "unbounded": [],
            "samples": len(data),
            "max_loss": 0.02,
        }
        sweep = kerasrobust.evaluation.tuning.Sweep("jpeg", "quality", ["undefended"])
        found = kerasrobust.evaluation.Tuning({"undefended": row}, [sweep], [], settings)
        raise kerasrobust.evaluation.TuningInterrupted(found)

    monkeypatch.setattr(kerasrobust, "tune", interrupted)
    return calls


def test_interrupted(given, asked, tmp_path):
    for output, how in ((("--output", tmp_path), "The same command goes on"), ((), "--output")):
        result = run(*given, "--samples", 8, *output)
        assert result.exit_code == 1 and "Aborted!" in result.stderr
        assert "Interrupted after 1 of 3 settings." in result.stdout and "75.0" in result.stdout
        assert how in result.stderr


def test_options_reach_the_library(given, asked):
    run(
        *given,
        *("--samples", 9, "--epochs", 2, "--gradient", "ignore", "--eot", 3, "--votes", 5),
        *("--eps", "8/255", "--norm", 2, "--seed", 4, "--batch-size", 7, "--max-loss", 0.1),
    )
    (call,) = asked
    assert len(call["data"]) == 9 and call["data"].name == "halves" and len(call["train"]) == 64
    expected = {
        **{"attacks": None, "sweep": None, "combinations": False, "max_loss": 0.1},
        **{"gradient": "ignore", "draws": 3, "votes": 5, "epochs": 2},
        **{"eps": 8 / 255, "norm": 2.0, "clip_values": (0.0, 1.0), "batch_size": 7, "seed": 4},
        **{"output": None, "verbose": False},
    }
    assert {key: call[key] for key in expected} == expected


def test_the_network_of_one_who_gives_none_is_kept(folder, asked, tmp_path, monkeypatch):
    trained = []

    def train(data, seed):
        trained.append((len(data), seed))
        return linear()

    monkeypatch.setattr(kerasrobust.models, "train_default", train)
    data = ("--dataset", folder / "halves.npz", "--samples", 32)
    for seed in (0, 0, 1):
        result = run(*data, "--output", tmp_path, "--seed", seed)
        assert result.exit_code == 1, result.output
    assert trained == [(64, 0), (64, 1)]
    for call in asked:
        weights = call["model"].get_weights()
        np.testing.assert_array_equal(weights[0], linear().get_weights()[0])
