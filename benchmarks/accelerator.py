"""Attacks as whole compiled programs, on whatever device JAX sees.

`export` writes each attack's in-graph program with the model's weights as arguments as StableHLO,
its inputs and the outputs that TensorFlow's XLA gave on this machine, and a copy of this file.
`run` compiles the programs with JAX, compares their outputs with the recorded ones, and says what
they cost beside what the device allows. It needs JAX and NumPy and nothing else.

    python benchmarks/accelerator.py export DIR
    python DIR/accelerator.py run DIR --output RESULTS
    python DIR/accelerator.py plan RESULTS/accelerator-DEVICE-default.json

`plan` says what bounds 100 steps of PGD and AutoAttack on 10,000 samples on one and on eight
accelerators: the largest of flops over the peak, bytes over the bandwidth, and launches.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import re
import shutil
import sys
import time
import traceback
from typing import Any

import numpy as np

SEED = 7
# Dense peaks in flops per second and bytes per second. H100 SXM: NVIDIA H100 datasheet (67 TFLOPS
# float32; 989 TFLOPS TF32 with sparsity, half of it without; 3.35 TB/s). H200 SXM: NVIDIA H200
# datasheet (the same arithmetic; 4.8 TB/s).
PEAKS = {
    "H100": {"float32": 67e12, "tf32": 494.5e12, "bytes": 3.35e12},
    "H200": {"float32": 67e12, "tf32": 494.5e12, "bytes": 4.8e12},
}
# Points are stored in so many steps of 1: a rounding of 8e-6.
STEPS = 65535
# A sample in a hundred may end on the other side of the boundary by rounding alone.
STRAYS = 0.01


@dataclasses.dataclass(frozen=True)
class Program:
    """An attack on a model at a fixed batch size."""

    model: str
    shape: tuple[int, int, int]
    classes: int
    batch: int
    attack: str
    settings: dict[str, Any]

    @property
    def name(self) -> str:
        """Also of its file."""
        return f"{self.model}-{self.attack}"


# Of each model: shape, classes, samples of a batch, eps, and how many steps each attack makes.
SMALL = {"pgd": 40, "search": 20, "apgd": 20, "square": 200, "hsja": (2, 10, 20)}
MODELS: dict[str, tuple[Any, ...]] = {
    "areb_cnn_mnist": ((28, 28, 1), 10, 100, 0.1, SMALL),
    "areb_cnn_cifar10": (
        *((32, 32, 3), 10, 100, 4 / 255),
        {"pgd": 10, "search": 4, "apgd": 4, "square": 20, "hsja": (2, 10, 20)},
    ),
    "resnet32": (
        *((32, 32, 3), 10, 32, 4 / 255),
        {"pgd": 4, "search": 2, "apgd": 4, "square": 10, "hsja": (1, 8, 8)},
    ),
    # For `plan`.
    "resnet50_at_32": ((32, 32, 3), 10, 64, 4 / 255, {"pgd": 2}),
    "resnet50": (
        *((224, 224, 3), 1000, 4, 1 / 255),
        {"pgd": 2, "search": 1, "apgd": 2, "square": 4, "hsja": (1, 4, 4)},
    ),
}
# Passes of a sample, forward, and forward and backward: 100 steps of PGD, and all that AutoAttack
# makes of a sample that withstands it (four attacks, and their judgement).
PLANNED = {"PGD, 100 steps": (2, 100), "AutoAttack, at most": (5913, 1910)}
PLANNED_SAMPLES = 10_000
# Seconds from one kernel to the next where they are shorter than that, of CUDA's launches.
LAUNCH = 3e-6


def programs() -> list[Program]:
    """What `export` writes, cheapest models first."""
    rows = []
    for model, (shape, classes, batch, eps, steps) in MODELS.items():
        search = {"binary_search_steps": 2, "initial_const": 1.0}
        settings = {"pgd": {"eps": eps, "max_iter": steps["pgd"]}}
        if len(steps) > 1:
            iterations, first, most = steps["hsja"]
            settings |= {
                "cwl2": {**search, "max_iter": steps["search"]},
                "ead": {**search, "max_iter": steps["search"]},
                "ddn": {"max_iter": 2 * steps["search"]},
                "apgd": {"eps": eps, "max_iter": steps["apgd"], "nb_random_init": 1},
                "square": {"eps": eps, "max_iter": steps["square"]},
                "hsja": {"max_iter": iterations, "init_eval": first, "max_eval": most},
            }
        rows += [Program(model, shape, classes, batch, *attack) for attack in settings.items()]
    return rows


def draw_weights(names: list[str], shapes: list[list[int]], seed: int) -> list[np.ndarray]:
    """Initial weights that another machine draws alike: He et al. for kernels, ones and zeros."""
    generator = np.random.default_rng(seed)
    weights = []
    for name, shape in zip(names, shapes, strict=True):
        if name == "kernel":
            scale = math.sqrt(2 / math.prod(shape[:-1]))
            drawn = generator.standard_normal(shape, np.float32) * np.float32(scale)
        else:
            drawn = np.full(shape, name in ("gamma", "moving_variance"), np.float32)
        weights.append(drawn)
    return weights


# ---- export --------------------------------------------------------------------------------------


def plain_stablehlo(text: str) -> tuple[str, list[str]]:
    """The text without places in source files and without what only TensorFlow's XLA reads.

    `mhlo.copy`, and `set_dimension_size` to the size that there is already (branches make it),
    become reshapes that change nothing.

    Returns:
        The text, and the lines that hinder other devices: custom calls and dynamic sizes.
    """
    text = re.sub(r"^#loc.*\n", "", text, flags=re.MULTILINE)
    text = re.sub(r' loc\((?:[^()"]|"[^"]*"|\([^()]*\))*\)', "", text)
    text = re.sub(r"(mhlo\.copy) (\S+) : (.*)", r"stablehlo.reshape \2 : (\3) -> \3", text)
    text = re.sub(r" \{mhlo\.frontend_attributes = \{[^{}]*\}\}", "", text)
    text = re.sub(r"^(module @\S+) attributes \{.*\} \{$", r"\1 {", text, flags=re.MULTILINE)
    constant = re.compile(r"\s*(%\S+) = stablehlo\.constant dense<(-?\d+)> : tensor<i32>")
    sized = re.compile(
        r"(\s*%\S+ = )stablehlo\.set_dimension_size (\S+), (\S+), dim = (\d+) : "
        r"\((tensor<([^>]*)>), tensor<i32>\) -> (.*)"
    )
    # A name is used again only after the region that defined it: the last definition counts.
    constants: dict[str, int] = {}
    lines, hindrances = [], []
    for line in text.splitlines():
        if found := constant.match(line):
            constants[found[1]] = int(found[2])
        if found := sized.match(line):
            size = found[6].split("x")[int(found[4])]
            if str(constants.get(found[3])) == size and found[5] == found[7]:
                line = f"{found[1]}stablehlo.reshape {found[2]} : ({found[5]}) -> {found[5]}"
        if re.search(r"custom_call|set_dimension_size|tensor<\?|mhlo\.", line):
            hindrances.append(line.strip()[:200])
        lines.append(line)
    return "\n".join(lines) + "\n", hindrances


def lower(function: Any, *arguments: Any) -> tuple[str, list[Any], list[str]]:
    """StableHLO of a compiled function, what hinders other devices, and the variables it takes."""
    text = function.experimental_get_compiler_ir(*arguments)(stage="stablehlo")
    concrete = function.get_concrete_function(*arguments)
    handles = {id(variable.handle): variable for variable in concrete.variables}
    variables = [handles[id(handle)] for handle in concrete.captured_inputs]
    return *plain_stablehlo(text), variables


def export_program(
    program: Program, bound: Any, x: Any, y: Any, weights: list[Any], folder: pathlib.Path
) -> dict[str, Any]:
    """Writes one program; returns its entry of the manifest."""
    import tensorflow as tf

    def whole(x: Any, y: Any, seed: Any) -> tuple[Any, ...]:
        outcome = bound.outcome(x, y, seed=seed)
        labels, _ = bound.classifier.decide(outcome["x_adv"])
        passes = [tf.reduce_sum(outcome[f"executed_{key}"]) for key in ("queries", "gradients")]
        return outcome["x_adv"], bound.criterion.met(labels, y), *passes

    function = tf.function(whole, autograph=False, jit_compile=True)
    arguments = (x, y, tf.constant([SEED, 0]))
    text, hindrances, variables = lower(function, *arguments)
    start = time.perf_counter()
    x_adv, success, queries, gradients = (part.numpy() for part in function(*arguments))
    seconds = time.perf_counter() - start
    (folder / f"{program.name}.mlir").write_text(text)
    np.savez_compressed(
        folder / f"{program.name}.npz",
        x_adv=np.rint(x_adv * STEPS).astype(np.uint16),
        success=success,
    )
    return {
        **dataclasses.asdict(program),
        "name": program.name,
        "settings": bound.get_config(),
        "weights": [weights.index(id(variable)) for variable in variables],
        # The judgement of the points found is part of the program.
        "queries": int(queries) + program.batch,
        "gradients": int(gradients),
        "success": int(success.sum()),
        "hindrances": hindrances,
        "tensorflow_seconds_with_compilation": round(seconds, 3),
    }


def export_passes(
    name: str, classifier: Any, x: Any, y: Any, weights: list[Any], folder: pathlib.Path
) -> dict[str, list[int]]:
    """Writes one forward and one forward and backward pass: what attacks are made of."""
    import tensorflow as tf

    def forward(x: Any, y: Any) -> Any:
        return classifier.decide(x)[0]

    def gradient(x: Any, y: Any) -> Any:
        def loss(logits: Any) -> Any:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)

        return classifier.gradient(x, loss)[2]

    order = {}
    for function in (forward, gradient):
        compiled = tf.function(function, autograph=False, jit_compile=True)
        text, _, variables = lower(compiled, x, y)
        (folder / f"{name}-{function.__name__}.mlir").write_text(text)
        order[function.__name__] = [weights.index(id(variable)) for variable in variables]
    return order


def samples_and_model(program: Program) -> tuple[np.ndarray, np.ndarray, Any]:
    """uint8 samples, labels, and the model: briefly trained where there are data for it."""
    import keras

    import kerasrobust

    network = program.model.partition("_at_")[0]
    model = kerasrobust.models.get(network, program.shape, program.classes, seed=SEED)
    names = [variable.name for variable in model.variables]
    shapes = [list(variable.shape) for variable in model.variables]
    kept = [i for i, name in enumerate(names) if "seed" not in name]
    drawn = draw_weights([names[i] for i in kept], [shapes[i] for i in kept], SEED)
    for i, value in zip(kept, drawn, strict=True):
        model.variables[i].assign(value)
    data = {"areb_cnn_mnist": "mnist", "areb_cnn_cifar10": "cifar10"}.get(program.model)
    if data is None:
        generator = np.random.default_rng(SEED)
        pixels = generator.integers(0, 256, (program.batch, *program.shape), np.uint8)
        x = pixels / np.float32(255)
        return pixels, np.asarray(model.predict(x, verbose=0)).argmax(axis=1), model
    loaded = kerasrobust.datasets.load(data, split="train", samples=6000)
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    keras.utils.set_random_seed(SEED)
    model.fit(loaded.x[program.batch :], loaded.y[program.batch :], batch_size=64, verbose=0)
    x, y = loaded.x[: program.batch], loaded.y[: program.batch]
    return np.rint(x * 255).astype(np.uint8), np.asarray(y), model


def export(folder: pathlib.Path, only: str, chosen: list[Program] | None = None) -> None:
    """Writes all programs whose name matches `only`; one that fails does not stop the others."""
    import tensorflow as tf

    import kerasrobust

    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(__file__, folder / "accelerator.py")
    rows = [row for row in chosen or programs() if re.search(only, row.name)]
    manifest: dict[str, Any] = {"tensorflow": tf.__version__, "models": {}, "programs": []}
    failed: dict[str, str] = {}
    manifest["failed"] = failed
    for name in dict.fromkeys(row.model for row in rows):
        mine = [row for row in rows if row.model == name]
        pixels, labels, model = samples_and_model(mine[0])
        x, y = tf.constant(pixels / np.float32(255)), tf.constant(labels, tf.int32)
        variables = [variable.value for variable in model.variables]
        weights = [id(variable) for variable in variables]
        entry: dict[str, Any] = {
            "names": [variable.name for variable in model.variables],
            "shapes": [list(variable.shape) for variable in model.variables],
            "batch": mine[0].batch,
            "seed": None,
        }
        arrays = {f"w{i}": variable.numpy() for i, variable in enumerate(variables)}
        if sum(array.nbytes for array in arrays.values()) > 2**24:
            entry["seed"], arrays = SEED, {}
        np.savez_compressed(folder / f"{name}.npz", pixels=pixels, labels=labels, **arrays)
        classifier = kerasrobust.Classifier(model)
        entry["passes"] = export_passes(name, classifier, x, y, weights, folder)
        manifest["models"][name] = entry
        for row in mine:
            try:
                # As on an accelerator: with sizes that are known beforehand.
                settings = {**row.settings, "jit_compile": True, "seed": SEED}
                bound = kerasrobust.attacks.get(row.attack, **settings).bind(classifier)
                found = export_program(row, bound, x, y, weights, folder)
                manifest["programs"].append(found)
                print(
                    f"{row.name:32s} success {found['success']:3d}/{row.batch} "
                    f"passes {found['queries']} + {found['gradients']} gradients, "
                    f"{found['tensorflow_seconds_with_compilation']:.1f} s, "
                    f"{len(found['hindrances'])} hindrances",
                    flush=True,
                )
            except Exception as error:
                traceback.print_exc()
                failed[row.name] = f"{type(error).__name__}: {error}"[:500]
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=1))


# ---- run -----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Loaded:
    """A program on the device."""

    executable: Any
    compile_seconds: float
    flops: float
    bytes: float

    def __call__(self, arguments: list[Any]) -> list[Any]:
        return [part.block_until_ready() for part in self.executable.execute(arguments)]

    def best(self, arguments: list[Any], repeats: int) -> float:
        """Seconds of the fastest of several runs."""
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            self(arguments)
            seconds.append(time.perf_counter() - start)
        return min(seconds)


def load(text: str) -> Loaded:
    """Compiles StableHLO for the first device.

    JAX 0.11 has no public way from foreign StableHLO to an executable (`jax.export` reads only what
    it wrote); all private names are here.
    """
    import jax
    from jax._src import xla_bridge
    from jax._src.lib import xla_client

    devices = xla_client.DeviceList(tuple(jax.local_devices()[:1]))
    start = time.perf_counter()
    executable = xla_bridge.get_backend().compile_and_load(
        text, devices, xla_client.CompileOptions()
    )
    seconds = time.perf_counter() - start
    cost = executable.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    return Loaded(executable, seconds, cost.get("flops", 0.0), cost.get("bytes accessed", 0.0))


def multiplications(text: str) -> float:
    """Flops of a program's convolutions and matrix products, loops once.

    A compiled convolution is a library call on a GPU, which its cost analysis does not look into.
    Zeros between the entries of a strided convolution's gradient are not counted.
    """
    kind = re.compile(
        r"stablehlo\.(convolution|dot_general|dot)\b(.*) : "
        r"\(tensor<([^>]*)>, tensor<([^>]*)>\) -> tensor<([^>]*)>"
    )
    flops = 0.0
    for found in kind.finditer(text):
        left, right, out = (
            [int(size) for size in part.split("x")[:-1]] for part in found.group(3, 4, 5)
        )
        if found[1] == "convolution":
            layout = re.search(r"x\[([^\]]*)\]->", found[2])
            assert layout is not None
            outputs = right[[part.strip() for part in layout[1].split(",")].index("o")]
            inner = math.prod(right) / outputs
            dilated = re.search(r"lhs_dilate = \[([^\]]*)\]", found[2])
            if dilated:
                inner /= math.prod(int(size) for size in dilated[1].split(","))
            flops += 2 * math.prod(out) * inner
        else:
            # Without batch axes: sides of the product, each axis summed over appears in both.
            flops += 2 * math.sqrt(math.prod(left) * math.prod(right) * math.prod(out))
    return flops


def peaks() -> dict[str, float]:
    """What the device allows: from the table, or measured."""
    import jax
    import jax.numpy as jnp

    kind = jax.local_devices()[0].device_kind
    for name, figures in PEAKS.items():
        if name in kind:
            return figures
    square = jnp.ones((1024, 1024), jnp.float32)
    row = jnp.ones(2**25, jnp.float32)
    product, copy = jax.jit(lambda a: a @ a), jax.jit(lambda a: a + 1)

    def best(function: Any, argument: Any) -> float:
        function(argument).block_until_ready()
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            function(argument).block_until_ready()
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    return {"float32": 2 * 1024**3 / best(product, square), "bytes": 2**28 / best(copy, row)}


def compare(outputs: list[np.ndarray], expected: Any, x: np.ndarray) -> dict[str, Any]:
    """The check of a program's outputs against those recorded."""
    points, success = outputs[0], outputs[1]
    recorded = expected["x_adv"].astype(np.float32) / STEPS
    # A change below the rounding of what is recorded has no sign.
    signs = [
        np.sign(np.where(np.abs(part - x) > 1 / STEPS, part - x, 0)) for part in (points, recorded)
    ]
    agree = signs[0] == signs[1]
    strays = int((success != expected["success"]).sum())
    return {
        "success": int(success.sum()),
        "success_recorded": int(expected["success"].sum()),
        "strays": strays,
        "signs_agree": float(agree.mean()),
        "largest_difference": float(np.abs(points - recorded)[agree].max(initial=0.0)),
        "passed": bool(
            np.isfinite(points).all()
            and abs(int(success.sum()) - int(expected["success"].sum()))
            <= max(1, STRAYS * len(success))
        ),
    }


def at_precision(text: str, precision: str) -> str:
    """The program with its products at another precision."""
    if precision == "default":
        return text
    text = text.replace("precision = [DEFAULT, DEFAULT]", "precision = [HIGHEST, HIGHEST]")
    return text.replace("#stablehlo<precision DEFAULT>", "#stablehlo<precision HIGHEST>")


def run(options: argparse.Namespace) -> int:
    """Prints a row per program as it ends; returns the number of programs that failed."""
    import jax

    folder, output = options.folder, options.output or options.folder
    output.mkdir(parents=True, exist_ok=True)
    device, allowed = jax.local_devices()[0], peaks()
    manifest = json.loads((folder / "manifest.json").read_text())
    results: dict[str, Any] = {
        "device": device.device_kind,
        "platform": device.platform,
        "jax": jax.__version__,
        "peaks": allowed,
        "precision": options.precision,
        "passes": {},
        "programs": [],
    }
    print(f"{device.device_kind}, JAX {jax.__version__}, {allowed}, {options.precision}")
    print(
        "program                          compile s     run s  passes     gradients     Gflop"
        "       GB  Gflop/s  bound s  bound by   passes s success     largest difference"
    )
    failures = 0
    precise = options.precision == "highest" or "tf32" not in allowed
    peak = allowed["float32" if precise else "tf32"]
    arguments: dict[str, Any] = {}
    for name, entry in manifest["models"].items():
        wanted = [row for row in manifest["programs"] if row["model"] == name]
        wanted = [row for row in wanted if re.search(options.only, row["name"])]
        if not wanted:
            continue
        recorded = np.load(folder / f"{name}.npz")
        x = recorded["pixels"] / np.float32(255)
        y = recorded["labels"].astype(np.int32)
        if entry["seed"] is None:
            weights = [recorded[f"w{i}"] for i in range(len(entry["names"]))]
        else:
            weights = draw_weights(entry["names"], entry["shapes"], entry["seed"])
        arguments = {"x": jax.device_put(x), "y": jax.device_put(y)}
        weights = [jax.device_put(weight) for weight in weights]
        passes: dict[str, dict[str, float]] = {}
        try:
            for kind, order in entry["passes"].items():
                text = (folder / f"{name}-{kind}.mlir").read_text()
                loaded = load(at_precision(text, options.precision))
                given = [arguments["x"], arguments["y"], *(weights[i] for i in order)]
                loaded(given)
                passes[kind] = {
                    "flops": max(loaded.flops, multiplications(text)) / entry["batch"],
                    "bytes": loaded.bytes / entry["batch"],
                    "seconds": loaded.best(given, options.repeats) / entry["batch"],
                    # A kernel for each product, and one for what is done to its elements.
                    "launches": 2 * len(re.findall(r"stablehlo\.(?:convolution|dot)", text)),
                }
            results["passes"][name] = {"batch": entry["batch"], **passes}
        except Exception:
            traceback.print_exc()
            failures += len(wanted)
            continue
        for row in wanted:
            try:
                text = (folder / f"{row['name']}.mlir").read_text()
                loaded = load(at_precision(text, options.precision))
                seed = jax.device_put(np.array([SEED, 0], np.int32))
                given = [
                    arguments["x"],
                    arguments["y"],
                    seed,
                    *(weights[i] for i in row["weights"]),
                ]
                outputs = [np.asarray(part) for part in loaded(given)]
                found = compare(outputs, np.load(folder / f"{row['name']}.npz"), x)
                found["queries"] = int(outputs[2]) + row["batch"]
                found["gradients"] = int(outputs[3])
                found["compile_seconds"] = loaded.compile_seconds
                found["seconds"] = loaded.best(given, options.repeats)
                for key in ("flops", "bytes", "seconds"):
                    found[key if key != "seconds" else "passes_seconds"] = (
                        found["queries"] * passes["forward"][key]
                        + found["gradients"] * passes["gradient"][key]
                    )
                # The loop's body counts once there.
                found["program_flops_loops_once"] = loaded.flops
                found["program_bytes_loops_once"] = loaded.bytes
                found["flops_per_second"] = found["flops"] / found["seconds"]
                bounds = {
                    "compute": found["flops"] / peak,
                    "bandwidth": found["bytes"] / allowed["bytes"],
                }
                found["bound_seconds"] = max(bounds.values())
                found["bound_by"] = max(bounds, key=lambda key: bounds[key])
                results["programs"].append({"name": row["name"], "batch": row["batch"], **found})
                failures += not found["passed"]
                print(
                    f"{row['name']:32s} {found['compile_seconds']:9.2f} {found['seconds']:9.4f} "
                    f"{found['queries']:7d} {found['gradients']:13d} {found['flops'] / 1e9:9.1f} "
                    f"{found['bytes'] / 1e9:8.2f} {found['flops_per_second'] / 1e9:8.1f} "
                    f"{found['bound_seconds']:8.5f}  {found['bound_by']:9s} "
                    f"{found['passes_seconds']:9.4f} "
                    f"{found['success']:3d} ({found['success_recorded']:3d}) "
                    f"{'ok  ' if found['passed'] else 'FAIL'} {found['largest_difference']:.1e} "
                    f"({found['signs_agree']:.2%} of signs)",
                    flush=True,
                )
            except Exception as error:
                traceback.print_exc()
                failures += 1
                message = f"{type(error).__name__}: {error}"[:500]
                results["programs"].append({"name": row["name"], "error": message})
            kind = re.sub(r"\W+", "-", device.device_kind).strip("-").lower()
            path = output / f"accelerator-{kind}-{options.precision}.json"
            path.write_text(json.dumps(results, indent=1))
    return failures


def plan(file: pathlib.Path, batch: int) -> None:
    """Prints what bounds `PLANNED` on 10,000 samples, from the passes that `run` measured.

    Args:
        file: What `run` wrote.
        batch: Samples in a pass on the accelerator.
    """
    passes = json.loads(file.read_text())["passes"]
    print(f"{PLANNED_SAMPLES:,} samples, batches of {batch}; seconds on one and on eight devices")
    for model, costs in passes.items():
        for attack, (forwards, gradients) in PLANNED.items():
            kinds = ((forwards, costs["forward"]), (gradients, costs["gradient"]))
            for device, allowed in PEAKS.items():
                for precision in ("tf32", "float32"):
                    bounds = {
                        "compute": sum(n * c["flops"] for n, c in kinds) / allowed[precision],
                        "bandwidth": sum(n * c["bytes"] for n, c in kinds) / allowed["bytes"],
                        "launches": sum(n * c["launches"] for n, c in kinds) * LAUNCH / batch,
                    }
                    by = max(bounds, key=lambda key: bounds[key])
                    seconds = PLANNED_SAMPLES * bounds[by]
                    print(
                        f"{model:18s} {attack:20s} {device} {precision:8s} {seconds:10.1f} "
                        f"{seconds / 8:9.1f}  {by}"
                    )


def main() -> None:
    """The three commands."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("export", "run", "plan"))
    parser.add_argument("folder", type=pathlib.Path, help="or what `run` wrote, for `plan`")
    parser.add_argument("--batch", type=int, default=1024, help="samples in a pass of `plan`")
    parser.add_argument("--only", default="", help="a pattern of program names")
    parser.add_argument("--output", type=pathlib.Path, help="where `run` writes JSON")
    parser.add_argument("--repeats", type=int, default=3, help="runs of which the best counts")
    parser.add_argument("--precision", choices=("default", "highest"), default="default")
    options = parser.parse_args()
    if options.command == "export":
        export(options.folder, options.only)
    elif options.command == "plan":
        plan(options.folder, options.batch)
    else:
        sys.exit(min(run(options), 1))


if __name__ == "__main__":
    main()
