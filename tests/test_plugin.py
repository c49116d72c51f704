"""What another package brings is taken by name: `tests/plugin`, installed into a folder."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process that has the package beside ours."""
    folder = tmp_path_factory.mktemp("plugin")
    # Building writes into the tree it builds.
    source = shutil.copytree(TESTS / "plugin", folder / "source")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    pip += ["--no-build-isolation", "--target", str(folder / "site"), str(source)]
    result = subprocess.run(pip, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {**os.environ, "PYTHONPATH": str(folder / "site")}


def run(environment, *command):
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        env=environment,
        cwd=TESTS.parent,
        timeout=600,
    )


CODE = """
import keras, numpy as np, pytest, sys
import kerasrobust
from kerasrobust import attacks, defenses, metrics

names = attacks.names()
assert {"pgd", "art:pgd", "plugin-attack", "plugin:twice", "broken"} <= set(names)
assert "plugin" not in names and "plugin-defense" in defenses.names()

attack = attacks.get("plugin-attack:eps=0.2", max_iter=3)
assert (attack.eps, attack.max_iter, type(attack).__name__) == (0.2, 3, "PluginAttack")
assert type(attacks.get("plugin:twice:eps=0.3,max_iter=3")).__name__ == "Twice"
assert attacks.get({"name": "plugin-attack", "config": attack.get_config()}).eps == 0.2
with pytest.raises(ValueError, match="Did you mean 'plugin-attack'"):
    attacks.get("plugin-atack")
with pytest.raises(ValueError, match="Did you mean 'plugin:twice'"):
    attacks.get("plugin:twise")
with pytest.raises(TypeError, match="'plugin-attack': .*arguments are: eps, max_iter, targeted"):
    attacks.get("plugin-attack", steps=3)

# An error inside a plugin shows itself.
with pytest.raises(TypeError, match="^float[(][)] argument must be"):
    attacks.get("plugin:twice", eps=[0.1, 0.2])
with pytest.raises(ImportError, match="'broken' of kerasrobust-plugin .*no licence") as error:
    attacks.get("broken")
assert isinstance(error.value.__cause__, RuntimeError)
with pytest.warns(UserWarning, match="Entry point 'broken'"):
    entries = {entry.name: entry for entry in attacks.taxonomy()}
assert entries["plugin-attack"].source == "plugin" and "broken" not in entries
(row,) = [entry for entry in defenses.taxonomy() if entry.name == "plugin-defense"]
assert (row.place, row.source) == ("loss", "arXiv:1803.06373")

# The entry point's own class may be registered again, another one not.
assert kerasrobust.register(type(attack)) is type(attack)
with pytest.raises(ValueError, match="taken by kerasrobust_plugin.attack:PluginAttack"):
    kerasrobust.register(type("Other", (attacks.Attack,), {"name": "plugin-attack"}))

keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(3)])
x = np.random.default_rng(0).uniform(0.4, 0.6, (8, 4, 4, 1)).astype("float32")
report = kerasrobust.evaluate(model, x, attacks="plugin-attack:eps=0.2", metrics=["plugin_metric"])
row = report.attacks["plugin-attack"]
assert row.successes and abs(row.plugin_metric - 0.2) < 1e-5 and "plugin" in str(report)
assert metrics.names()[-1] == "plugin_metric"
with pytest.raises(ValueError, match="Did you mean 'plugin_metric'"):
    metrics.get("plugin-metric")

model = kerasrobust.wrap(model, "plugin-defense", weight=0.3)
(link,) = model.defenses
assert (link.name, link.weight) == ("plugin-defense", 0.3)
model.save(sys.argv[1])
"""


@pytest.mark.slow
def test_by_name_in_python(installed, tmp_path):
    path = tmp_path / "wrapped.keras"
    result = run(installed, sys.executable, "-c", CODE, path)
    assert result.returncode == 0, result.stderr
    # A process that has only imported ours loads it, and ART is not imported for it.
    code = "import sys, keras, kerasrobust; model = keras.saving.load_model(sys.argv[1]); "
    code += "print(model.defenses, 'kerasrobust.art.attacks' in sys.modules)"
    result = run(installed, sys.executable, "-c", code, path)
    assert result.stdout.strip() == "(PluginDefense(weight=0.3),) False", result.stderr


@pytest.mark.slow  # four commands
def test_by_name_in_both_commands(installed, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 256), ("test", 64)):
        y = rng.integers(0, 2, count)
        arrays[f"x_{split}"] = rng.random((count, 6, 6)) * 0.5 + 0.5 * y[:, None, None]
        arrays[f"y_{split}"] = y
    np.savez(tmp_path / "data.npz", **arrays)
    data, path = ("--dataset", tmp_path / "data.npz"), tmp_path / "model.keras"
    train = (BIN / "kr-train", *data, "--epochs", 2, "--output", path)
    defense = ("--defense", "plugin-defense:weight=0.01")
    result = run(installed, *train, *defense, "--robust-attack", "plugin-attack:eps=0.05")
    assert result.returncode == 0, result.stderr
    assert "val_robust_accuracy" in result.stdout
    attacks = ("--attacks", "plugin-attack:eps=0.5", "--attacks", "plugin:twice:eps=0.5")
    evaluate = (BIN / "kr-eval", "--model", path, *data, "--samples", 32)
    result = run(installed, *evaluate, *attacks, "--output", tmp_path / "report")
    assert result.returncode == 0, result.stderr
    assert "plugin-attack" in result.stdout and "plugin:twice" in result.stdout
    result = run(installed, *evaluate, "--attacks", "broken")
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: Entry point 'broken'") and last.endswith("for this attack")


@pytest.mark.slow
def test_it_goes_through_the_contract_tables(installed):
    pytest_ = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-q", "-rA"]
    pytest_ += ["-k", "plugin-attack or plugin-defense"]
    result = run(installed, *pytest_, TESTS / "contract")
    assert result.returncode == 0, result.stdout
    passed = [line for line in result.stdout.splitlines() if line.startswith("PASSED")]
    assert any("test_recipe_and_config_round_trip[plugin-attack]" in line for line in passed)
    assert any("test_config_round_trip[plugin-defense]" in line for line in passed)
