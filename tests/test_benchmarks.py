"""The benchmarks are run by hand; what they say of the tests is checked here."""

import ast
import importlib
import importlib.util
import json
import sys
from pathlib import Path

import click
import keras
import numpy as np
import pytest
from click.testing import CliRunner

from kerasrobust.engine.classifier import Classifier

ROOT = Path(__file__).parent.parent


def load(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_verdicts_name_tests_that_there_are(monkeypatch):
    module = load("verdicts", monkeypatch)
    assert {case.row for case in module.CASES} >= {*"abcdefghijklmnopqrs", "a2", "d0"}
    for case in module.CASES:
        path, _, name = case.test.partition("::")
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda p: p.name)
def test_what_they_import_is_there(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("kerasrobust"):
            module = importlib.import_module(node.module)
            for name in node.names:
                if not hasattr(module, name.name):
                    importlib.import_module(f"{node.module}.{name.name}")


def test_optimality_is_one_minus_the_area_between_curves(monkeypatch):
    module = load("optimality", monkeypatch)
    grid, best = np.linspace(0, 4, 4001), np.array([1.0, 2.0, 4.0, np.inf])
    far = np.array([1.5, np.inf, 4.0, np.inf])
    # The best known of 4 samples of which one stands: what is left at each budget, by the grid.
    left, least = ((part[:, None] > grid).mean(axis=0) for part in (far, best))
    area, lowest = (np.trapezoid(curve, grid) for curve in (left, least))
    expected = 1 - (area - lowest) / (4 - lowest)
    assert module.optimality(far, best) == pytest.approx(expected, abs=1e-3)
    assert module.optimality(best, best) == 1 and module.optimality(far * np.inf, best) == 0
    # No area to share out.
    alike, none = np.ones(4), np.full(4, np.inf)
    assert module.optimality(np.array([1, 1, 2, np.inf]), alike) == 0.5
    assert module.optimality(none, alike) == module.optimality(none, none) == 0


def test_optimality_keeps_what_is_of_other_samples_apart(monkeypatch, tmp_path):
    module = load("optimality", monkeypatch)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    classifier, x, y = Classifier(model), np.ones((3, 2), np.float32), np.zeros(3, int)
    for _ in range(2):
        module.check_folder(tmp_path, classifier, x, y, 100)
    model.layers[-1].kernel.assign(np.eye(2))
    for other in ((classifier, x, y, 100), (classifier, x / 2, y, 100), (classifier, x, y, 200)):
        with pytest.raises(click.UsageError, match="points of other samples, model or steps"):
            module.check_folder(tmp_path, *other)


@pytest.mark.slow
def test_one_command_for_all_of_them(monkeypatch, digits_model, tmp_path):
    module = load("speed", monkeypatch)
    digits_model.save(tmp_path / "own.keras")
    options = ["--model", str(tmp_path / "own.keras"), "--dataset", "digits"]
    options += ["--output", str(tmp_path / "speed.json"), "--only"]
    result = CliRunner().invoke(module.main, [*options, "speed"])
    assert result.exit_code == 2 and "unknown speed; known: attacks, nearest" in result.output
    CliRunner().invoke(module.main, [*options, "nearest"], catch_exceptions=False)
    (measured,) = json.loads((tmp_path / "speed.json").read_text())["kinds"].values()
    assert measured["figures"]["rows"]["ddn L2"]["passes"] == 100
    # What the calls of both kinds name is there.
    for full in (False, True):
        for script, *arguments in module.calls(full, "python", "folder", "0.3").values():
            text = (ROOT / "benchmarks" / script).read_text(encoding="utf-8")
            assert all(f'"{name}"' in text for name in arguments if name.startswith("--"))


@pytest.mark.slow
def test_ways_to_class_gradients(monkeypatch):
    """All of which give the same gradients, or the benchmark raises."""
    options = "--network digits_cnn --samples 4 --classes 3 --repeats 1"
    measured = load("speed", monkeypatch).measured(["class_gradients.py", *options.split()])
    (row,) = measured["rows"].values()
    assert {"jacobian", "vectorised", "forward mode"} < set(row)
    # A pass for each of 64 pixels.
    assert row["forward mode"] > 20 * row["forward"]


@pytest.mark.slow
def test_passes_saved_and_traces(monkeypatch, digits_model, tmp_path):
    digits_model.save(tmp_path / "own.keras")
    options = ["--model", str(tmp_path / "own.keras"), "--dataset", "digits", "--samples", "50"]
    options += ["--attack", "DeepFool", "--attack", "AutoAttack", "--eps", "0.1"]
    rows = load("speed", monkeypatch).measured(["passes.py", *options])
    for row in rows:
        # Samples leave, and what is padded for is less than that.
        assert 0 < row["gradients"] < row["naive_gradients"]
        assert row["queries"] < row["naive_queries"]
        # Two of AutoAttack's parts are APGD, with another loss each.
        most = {"apgd": 2} if row["attack"] == "AutoAttack" else {}
        assert all(n == most.get(key.split(":")[0], 1) for key, n in row["traces"].items())


@pytest.mark.slow
def test_layers_beside_art(monkeypatch):
    pytest.importorskip("skimage")
    module = load("layers", monkeypatch)
    options = (
        "--dataset digits --samples 8 --tvm-samples 4 --art-samples 2 --long 20 --iterations 9"
    )
    result = CliRunner().invoke(module.main, options.split(), catch_exceptions=False)
    rows = json.loads(result.stdout.splitlines()[-1])
    found = {row["layer"]: row["figures"] for row in rows}
    assert found["bits 5"]["max difference"] < 1e-6 and found["window 4"]["max difference"] == 0
    assert found["quality 50"]["mean"] < 0.1
    assert found["TVM norm 2, to tolerance; ART 20"]["share not above"] == 1
    assert "TVM norm inf, to tolerance" in found


@pytest.mark.slow
def test_metrics_beside_art_and_as_in_areb(monkeypatch, digits_model, tmp_path):
    module = load("metrics", monkeypatch)
    options = "art --epochs 1 --samples 2 --art-samples 1 --nb-batches 3 --batch-size 2"
    result = CliRunner().invoke(module.main, options.split(), catch_exceptions=False)
    rows = json.loads(result.stdout.splitlines()[-1])
    assert [row["way"] for row in rows] == ["kerasrobust", "ART on kerasrobust", "ART"]
    digits_model.save(tmp_path / "own.keras")
    options = "areb --dataset digits --samples 6 --clever-samples 2 --attacks fgsm:eps=0.1"
    arguments = [*options.split(), str(tmp_path / "own.keras")]
    result = CliRunner().invoke(module.main, arguments, catch_exceptions=False)
    (row,) = json.loads(result.stdout.splitlines()[-1])
    assert row["model"] == "own" and row["attack"] == "fgsm"
    assert row["psi"] > 0.06 and row["loss sens. L1"] > 0 and 0 < row["CLEVER"] <= 5


def without_seconds(path):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


@pytest.mark.slow
def test_e2sads_table_goes_on_where_it_was_killed(monkeypatch, tmp_path):
    module = load("documents", monkeypatch)
    options = "e2sad --variant e2sad-ss --dataset digits --samples 64 --every 2"
    options = [*options.split(), "--steps", "2,4", "--attacked", "12", "--output"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = CliRunner().invoke(module.main, [*options, str(whole)], catch_exceptions=False)
    assert "| e2sad-ss | 4 |" in result.stdout and "80 % power at" in result.stdout
    add = module.Study.add

    def once(self, **row):
        if row["step"] == 4:
            raise KeyboardInterrupt
        add(self, **row)

    with monkeypatch.context() as patch:
        patch.setattr(module.Study, "add", once)
        result = CliRunner().invoke(module.main, [*options, str(killed)])
        assert result.exit_code != 0
    before = without_seconds(killed / "log.jsonl")
    with (killed / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"cut off')
    CliRunner().invoke(module.main, [*options, str(killed)], catch_exceptions=False)
    text = (killed / "log.jsonl").read_text(encoding="utf-8").replace('{"cut off\n', "")
    (killed / "log.jsonl").write_text(text, encoding="utf-8")
    after, expected = (without_seconds(one / "log.jsonl") for one in (killed, whole))
    assert after == expected and after[: len(before)] == before and len(before) < len(after)
    # Further steps go on from there.
    longer = [*options[:-3], "--attacked", "12", "--output", str(killed)]
    longer[longer.index("2,4")] = "2,4,6"
    result = CliRunner().invoke(module.main, longer, catch_exceptions=False)
    assert "| e2sad-ss | 6 |" in result.stdout
    assert without_seconds(killed / "log.jsonl")[: len(after)] == after


@pytest.mark.slow
def test_nsloss_table_with_weights_that_it_searched(monkeypatch, tmp_path):
    module = load("documents", monkeypatch)
    options = "nsloss --variant nsloss-same --dataset digits --samples 256"
    options += " --every 2 --steps 2 --standard-steps 60 --attacked 8 --attacks cw,pgd --max-iter 3"
    options += f" --weights searched --searched 128 --output {tmp_path}"
    result = CliRunner().invoke(module.main, options.split(), catch_exceptions=False)
    rows = without_seconds(tmp_path / "log.jsonl")
    weights = {row["variant"]: row["weight"] for row in rows if "weight" in row}
    assert set(weights) == {"nsloss-same"} and min(weights.values()) > 0
    assert {(row["variant"], row["stage"]) for row in rows if "stage" in row} == {
        (variant, stage) for variant in ("standard", *weights) for stage in ("clean", "cw", "pgd")
    }
    left = {
        key: value.count("1") for row in rows for key, value in row.get("outcomes", {}).items()
        if row["variant"] == "standard"
    }  # fmt: skip
    assert left["cw 1"] >= left["cw 5"] and left["pgd 1"] >= left["pgd 5"]
    assert "cw 1: nsloss-same above standard" in result.stdout
