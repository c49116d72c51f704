"""The benchmarks are run by hand; what they say of the tests is checked here."""

import ast
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

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


@pytest.mark.slow
def test_layers_beside_art(monkeypatch):
    pytest.importorskip("skimage")
    module = load("layers", monkeypatch)
    options = (
        "--dataset digits --samples 8 --tvm-samples 4 --art-samples 2 --long 20 --iterations 9"
    )
    result = CliRunner().invoke(module.main, options.split(), catch_exceptions=False)
    rows = json.loads(result.stdout[result.stdout.index("\n[\n") :])
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
