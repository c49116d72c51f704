"""The programs of `benchmarks/accelerator.py`: plain StableHLO that JAX runs to the same points."""

import importlib.util
import json
import math
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import kerasrobust
from kerasrobust.engine.classifier import Classifier

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
@pytest.mark.parametrize(
    "attack, settings",
    [("square", {"eps": 0.1, "max_iter": 3}), ("hsja", {"max_iter": 1, "max_eval": 100})],
)
def test_query_attacks_have_fixed_sizes(attack, settings, accelerator, tmp_path):
    # HopSkipJump asks in loops inside of the loop.
    program = accelerator.Program("digits_cnn", (8, 8, 1), 10, 8, attack, settings)
    accelerator.export(tmp_path, "", [program])
    (found,) = json.loads((tmp_path / "manifest.json").read_text())["programs"]
    assert not found["hindrances"] and found["gradients"] == 0


CONVOLUTION = (
    "dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f], window = {stride = [1, 1], "
    "pad = [[1, 1], [1, 1]], lhs_dilate = [1, 1], rhs_dilate = [1, 1], reverse = [false, false]} "
    "{batch_group_count = 1 : i64, feature_group_count = 1 : i64}"
)
# Two samples of 4x4x3: a convolution to 5 channels, a pooling, a dense layer, and two products
# that lead to nothing, one of which reads the samples only.
PASS = f"""module @m {{
  func.func private @max(%arg0: tensor<f32>, %arg1: tensor<f32>) -> tensor<f32> {{
    %0 = stablehlo.maximum %arg0, %arg1 : tensor<f32>
    return %0 : tensor<f32>
  }}
  func.func @main(%arg0: tensor<2x4x4x3xf32>, %arg1: tensor<2xi32>, %arg2: tensor<3x3x3x5xf32>, \
%arg3: tensor<20x7xf32>) -> tensor<2x7xf32> {{
    %0 = stablehlo.convolution(%arg0, %arg2) {CONVOLUTION} : \
(tensor<2x4x4x3xf32>, tensor<3x3x3x5xf32>) -> tensor<2x4x4x5xf32>
    %cst = stablehlo.constant dense<0.000000e+00> : tensor<f32>
    %1 = "stablehlo.reduce_window"(%0, %cst) <{{window_strides = array<i64: 1, 2, 2, 1>}}> ({{
    ^bb0(%arg4: tensor<f32>, %arg5: tensor<f32>):
      %6 = stablehlo.maximum %arg4, %arg5 : tensor<f32>
      stablehlo.return %6 : tensor<f32>
    }}) : (tensor<2x4x4x5xf32>, tensor<f32>) -> tensor<2x2x2x5xf32>
    %2 = stablehlo.reshape %1 : (tensor<2x2x2x5xf32>) -> tensor<2x20xf32>
    %3 = stablehlo.negate %arg3 : tensor<20x7xf32>
    %4 = stablehlo.dot %2, %3, precision = [DEFAULT, DEFAULT] : \
(tensor<2x20xf32>, tensor<20x7xf32>) -> tensor<2x7xf32>
    %5 = stablehlo.dot_general %2, %4, contracting_dims = [0] x [0] : \
(tensor<2x20xf32>, tensor<2x7xf32>) -> tensor<20x7xf32>
    %6 = stablehlo.convolution(%arg0, %arg2) {CONVOLUTION} : \
(tensor<2x4x4x3xf32>, tensor<3x3x3x5xf32>) -> tensor<2x4x4x5xf32>
    return %4 : tensor<2x7xf32>
  }}
}}
"""


def test_what_a_pass_costs(accelerator):
    found = accelerator.cost(PASS)
    assert found.batch == 2 and found.launches == 4
    assert found.flops == 2 * (2 * 16 * 5 * 27 + 2 * 20 * 7)
    assert found.weight_bytes == 4 * (27 * 5 + 1 + 20 * 7)
    # Read and written by the convolution, the pooling, whose constant is a weight, and the product.
    read_and_written = (2 * 16 * 3 + 2 * 16 * 5) + (2 * 16 * 5 + 2 * 4 * 5) + (2 * 20 + 2 * 7)
    assert found.activation_bytes == 4 * read_and_written
    one, many = found.per_sample(1), found.per_sample(100)
    assert one["bytes"] - many["bytes"] == pytest.approx(0.99 * found.weight_bytes)
    assert one["flops"] == many["flops"] == found.flops / 2
    assert many["launches"] == 0.04


@pytest.mark.slow
def test_cost_of_exported_passes(accelerator, exported):
    """From the layers of the network; of a gradient only the part for the samples counts."""
    model = kerasrobust.models.digits_cnn()
    forward, kernels, maps = 0, 0, 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            size = math.prod(layer.kernel.shape)
            kernels += size
            forward += 2 * math.prod(layer.output.shape[1:-1]) * size
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense | keras.layers.MaxPooling2D):
            maps += math.prod(layer.input.shape[1:]) + math.prod(layer.output.shape[1:])
    texts = [(exported / f"digits_cnn-{kind}.mlir").read_text() for kind in ("forward", "gradient")]
    one, both = map(accelerator.cost, texts)
    assert one.batch == both.batch == 8
    assert one.flops == 8 * forward and both.flops == 2 * one.flops
    assert one.activation_bytes == 8 * 4 * maps
    assert one.weight_bytes == pytest.approx(4 * kernels, rel=1e-4)
    assert both.weight_bytes == pytest.approx(8 * kernels, rel=1e-4)
    assert both.launches == 2 * one.launches


def test_a_plan_is_the_largest_of_three_bounds(accelerator, tmp_path, capsys, monkeypatch):
    (tmp_path / "manifest.json").write_text(json.dumps({"models": {"a": {}}}))
    for kind in ("forward", "gradient"):
        (tmp_path / f"a-{kind}.mlir").write_text(PASS)
    cost = accelerator.cost(PASS)

    def planned(batch, allowed):
        monkeypatch.setattr(accelerator, "PEAKS", {"H100": allowed})
        accelerator.plan(tmp_path, batch)
        rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
        assert len(rows) == 2 * len(accelerator.PLANNED)
        row = rows[0]
        assert float(row[-2]) == pytest.approx(float(row[-3]) / 8, abs=0.1)
        return float(row[-3]), row[-1]

    # 102 passes of 10,000 samples; a launch is 3 us.
    plenty = {"tf32": 1e30, "float32": 1e30, "bytes": 1e30}
    assert planned(1000, plenty | {"tf32": 1e6}) == (
        pytest.approx(1.02e6 * cost.flops / 2 / 1e6, abs=0.06),
        "compute",
    )
    for batch in (1, 1000):
        assert planned(batch, plenty | {"bytes": 1e6}) == (
            pytest.approx(1.02 * (cost.activation_bytes / 2 + cost.weight_bytes / batch), abs=0.06),
            "bandwidth",
        )
    assert planned(100, plenty) == (pytest.approx(1.02e6 * 4 / 100 * 3e-6, abs=0.06), "launches")


def compared(accelerator, change=None, *, by_pixel=True, flags=None, samples=200, allowed=0):
    """Samples whose 225 pixels were raised by 0.1, and the same points once more, changed."""
    x = np.full((samples, 15, 15, 1), 0.5, np.float32)
    success = np.arange(samples) % 2 == 0
    points = x + np.float32(0.1)
    recorded = {"x_adv": points.copy(), "success": success}
    if change:
        change(points)
    flags = success if flags is None else flags(success.copy())
    return accelerator.compare([points, flags], recorded, x, by_pixel, allowed)


def moved(samples, pixels, by):
    def change(points):
        points[:samples, 0, :pixels] += by

    return change


def test_equal_points_pass(accelerator):
    found = compared(accelerator)
    assert found["passed"] and found["strays"] == 0 and found["success"] == 100
    assert found["largest_difference"] == found["differing"] == 0 and found["signs_agree"] == 1


def test_samples_whose_points_are_others(accelerator):
    """Of 225 pixels two may differ by more than 2 % of the largest change, of 200 samples two."""
    found = compared(accelerator, moved(2, 3, 0.0021))
    assert found["passed"] and found["strays"] == 2
    assert found["largest_difference"] == pytest.approx(0.0021, rel=1e-3)
    assert found["largest_change"] == pytest.approx(0.1, rel=1e-3)
    assert found["differing"] == pytest.approx(6 / (200 * 225))
    assert not compared(accelerator, moved(3, 3, 0.0021))["passed"]
    # Beside those that rounding turns.
    assert compared(accelerator, moved(5, 3, 0.0021), allowed=3)["passed"]
    assert not compared(accelerator, moved(6, 3, 0.0021), allowed=3)["passed"]
    assert compared(accelerator, moved(3, 3, 0.0021), by_pixel=False)["passed"]
    assert compared(accelerator, moved(200, 15, 0.0019))["passed"]
    # Pixels that went the opposite way are as other ones, and named apart.
    found = compared(accelerator, moved(200, 2, -0.2))
    assert found["passed"] and found["largest_difference"] < 1e-6
    assert found["signs_agree"] == pytest.approx(223 / 225)
    assert not compared(accelerator, moved(200, 3, -0.2))["passed"]
    # Of fewer than a hundred samples none may stray.
    assert not compared(accelerator, moved(1, 3, 0.0021), samples=99)["passed"]
    assert compared(accelerator, moved(1, 3, 0.0021), samples=100)["passed"]


@pytest.mark.parametrize("by_pixel", [True, False])
def test_flags_and_lengths_that_are_others(accelerator, by_pixel):
    def flipped(samples):
        def flags(success):
            success[:samples] ^= True
            return success

        return flags

    # Equal numbers of successes are not equal successes.
    found = compared(accelerator, flags=flipped(4), by_pixel=by_pixel)
    assert found["success"] == found["success_recorded"] and not found["passed"]
    assert not compared(accelerator, flags=flipped(4), by_pixel=by_pixel, allowed=9)["passed"]
    assert compared(accelerator, flags=flipped(2), by_pixel=by_pixel)["passed"]
    for by, passed in ((1.009, True), (0.991, True), (1.011, False), (0.989, False)):

        def scaled(points, by=by):
            points[...] = 0.5 + 0.1 * by

        assert compared(accelerator, scaled, by_pixel=by_pixel)["passed"] == passed
    assert not compared(accelerator, moved(1, 1, np.nan), by_pixel=by_pixel)["passed"]


@pytest.mark.slow
def test_a_random_network_that_tells_samples_apart(accelerator):
    model = kerasrobust.models.areb_resnet((8, 8, 1), depth=8, seed=0)
    x = np.random.default_rng(0).random((40, 8, 8, 1), np.float32)
    assert np.bincount(model.predict(x, verbose=0).argmax(axis=1)).max() > 35
    labels = accelerator.calibrate(model, x)
    np.testing.assert_array_equal(model.predict(x, verbose=0).argmax(axis=1), labels)
    assert np.bincount(labels).max() < 20
    scales = set()
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            normal = keras.Model(model.inputs, layer.output).predict(x, verbose=0)
            np.testing.assert_allclose(normal.mean(axis=(0, 1, 2)), 0, atol=1e-3)
            np.testing.assert_allclose(normal.std(axis=(0, 1, 2)), layer.gamma, rtol=0.02)
            scales.add(round(float(layer.gamma[0]), 6))
    # What blocks add to their shortcuts is damped.
    assert scales == {1.0, accelerator.DAMPED}

    # Budgets that break a third in one step, half of which break less.
    y = tf.constant(labels, tf.int32)
    eps = accelerator.budgets(Classifier(model), tf.constant(x), y)
    with tf.GradientTape() as tape:
        moving = tf.constant(x)
        tape.watch(moving)
        loss = keras.losses.sparse_categorical_crossentropy(y, model(moving))
    signs = np.sign(tape.gradient(loss, moving))

    def broken(length):
        return np.mean(model(np.clip(x + length * signs, 0, 1)).numpy().argmax(axis=1) != labels)

    assert broken(eps["pgd"]) >= 1 / 3 > broken(eps["pgd"] / 2)
    assert eps["apgd"] == eps["pgd"] < eps["square"]


@pytest.mark.slow
def test_jax_gives_the_same(exported, tmp_path):
    pytest.importorskip("jax", reason="`run` needs JAX, which is not installed")
    command = [sys.executable, exported / "accelerator.py", "run", exported, "--output", tmp_path]
    subprocess.run(command, check=True, timeout=300)
    (path,) = tmp_path.glob("*.json")
    (program,) = json.loads(path.read_text())["programs"]
    assert program["passed"] and program["gradients"] == 16
    assert program["largest_difference"] < 1e-3 and not program["strays"]
