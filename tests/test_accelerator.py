"""The programs of `benchmarks/accelerator.py`: plain StableHLO that JAX runs to the same points."""

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest

SCRIPT = pathlib.Path(__file__).parents[1] / "benchmarks" / "accelerator.py"


@pytest.fixture(scope="module")
def accelerator():
    spec = importlib.util.spec_from_file_location("accelerator", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["accelerator"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["accelerator"]


@pytest.fixture(scope="module")
def exported(accelerator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    program = accelerator.Program(
        "digits_cnn", (8, 8, 1), 10, 8, "pgd", {"eps": 0.1, "max_iter": 2}
    )
    accelerator.export(folder, "", [program])
    return folder


def test_text_without_places_and_foreign_operations(accelerator):
    text = """#loc1 = loc("a":1:0)
module @m attributes {mhlo.is_dynamic = false} {
  %c = stablehlo.constant dense<4> : tensor<i32> loc(#loc1)
  %1 = stablehlo.set_dimension_size %0, %c, dim = 0 : (tensor<4xf32>, tensor<i32>) -> tensor<4xf32>
  %2 = stablehlo.set_dimension_size %0, %c, dim = 0 : (tensor<5xf32>, tensor<i32>) -> tensor<5xf32>
  %3 = mhlo.copy %1 : tensor<4xf32> loc(#loc1)
"""
    plain, hindrances = accelerator.plain_stablehlo(text)
    assert "loc(" not in plain and "mhlo" not in plain
    assert "%1 = stablehlo.reshape %0 : (tensor<4xf32>) -> tensor<4xf32>" in plain
    assert "%3 = stablehlo.reshape %1 : (tensor<4xf32>) -> tensor<4xf32>" in plain
    assert len(hindrances) == 1 and "%2" in hindrances[0]


@pytest.mark.slow
def test_weights_are_arguments(exported):
    manifest = json.loads((exported / "manifest.json").read_text())
    (program,) = manifest["programs"]
    assert not manifest["failed"] and not program["hindrances"]
    assert program["gradients"] == 16 and program["queries"] == 8
    text = (exported / f"{program['name']}.mlir").read_text()
    (main,) = [line for line in text.splitlines() if "func.func @main" in line]
    shapes = manifest["models"]["digits_cnn"]["shapes"]
    for i, place in enumerate(program["weights"]):
        shape = "x".join(map(str, shapes[place]))
        assert f"%arg{i + 3}: tensor<{shape}xf32>" in main
    assert "stablehlo.while" in text and "loc(" not in text


@pytest.mark.slow
def test_query_attacks_have_fixed_sizes(accelerator, tmp_path):
    program = accelerator.Program(
        "digits_cnn", (8, 8, 1), 10, 8, "square", {"eps": 0.1, "max_iter": 3}
    )
    accelerator.export(tmp_path, "", [program])
    (found,) = json.loads((tmp_path / "manifest.json").read_text())["programs"]
    assert not found["hindrances"] and found["gradients"] == 0


def test_a_plan_is_the_largest_of_three_bounds(accelerator, tmp_path, capsys):
    cost = {"flops": 1e9, "bytes": 1e6, "launches": 100}
    small = {"flops": 1e3, "bytes": 1e3, "launches": 1000}
    content = {name: {"forward": one, "gradient": one} for name, one in (("a", cost), ("b", small))}
    (tmp_path / "run.json").write_text(json.dumps({"passes": content}))
    accelerator.plan(tmp_path / "run.json", 1000)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert len(rows) == 2 * len(accelerator.PLANNED) * 2 * len(accelerator.PEAKS)
    pgd = {(row[0], *row[-5:-3]): row for row in rows if "PGD," in row}
    # 102 passes of 10,000 samples: 1 Gflop at the peak; 1,000 launches of 3 us for 1,000 samples.
    computed = pgd["a", "H100", "float32"]
    assert float(computed[-3]) == pytest.approx(102 * 1e13 / 67e12, abs=0.06)
    assert computed[-1] == "compute" and pgd["b", "H100", "tf32"][-1] == "launches"
    assert float(pgd["b", "H100", "tf32"][-3]) == pytest.approx(102 * 10 * 3e-3, abs=0.06)


@pytest.mark.slow
def test_jax_gives_the_same(exported, tmp_path):
    pytest.importorskip("jax", reason="`run` needs JAX, which is not installed")
    command = [sys.executable, exported / "accelerator.py", "run", exported, "--output", tmp_path]
    subprocess.run(command, check=True, timeout=300)
    (path,) = tmp_path.glob("*.json")
    (program,) = json.loads(path.read_text())["programs"]
    assert program["passed"] and program["gradients"] == 16
    assert program["largest_difference"] < 1e-3
