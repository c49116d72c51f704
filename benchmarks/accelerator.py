"""Attacks as whole compiled programs, on whatever device JAX sees.

`export` writes each attack's in-graph program with the model's weights as arguments as StableHLO,
its inputs and the outputs that TensorFlow's XLA gave on this machine, and a copy of this file.
`run` compiles the programs with JAX, compares their outputs with the recorded ones, and says what
they cost beside what the device allows. It needs JAX and NumPy and nothing else.

    python benchmarks/accelerator.py export DIR
    python DIR/accelerator.py run DIR --output RESULTS
    python DIR/accelerator.py plan DIR

`plan` reads the exported passes, needs no device, and says what bounds 100 steps of PGD and
AutoAttack on 10,000 samples on one and on eight accelerators: the largest of flops over the peak,
bytes over the bandwidth, and launches.
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
# One sample in a hundred, of fewer than a hundred none, may have another flag. As many more may go
# another way as do where pixels differ by `ROUNDING` of their value, about as sums of float32 do.
STRAYS = 0.01
ROUNDING = 2.0**-22
# The parameters up to which a network is trained, for a minute; kernels of larger ones are drawn.
TRAINED = 2**20
# By what a block of a drawn network multiplies what it adds to its shortcut.
DAMPED = 0.1
# Attacks whose points are compared pixel by pixel: their steps are those of a gradient. Decisions
# steer the others, where one that rounding turns leads to another point that is as good.
BY_GRADIENT = ("pgd", "apgd", "ddn", "cwl2", "ead")
# By how much a pixel may differ, of the sample's largest change; and of how many it may be more. Of
# some pixels the gradient is zero but for rounding, and the sign of a step anything.
PIXEL, PIXELS = 0.02, 0.01
# By how much the mean length of the changes may differ, relatively.
LENGTH = 0.01


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


# Of each model: shape, classes, samples of a batch, and how many steps each attack makes.
SMALL = {"pgd": 40, "search": 20, "apgd": 20, "square": 200, "hsja": (2, 10, 20)}
FEW = {"pgd": 4, "search": 2, "apgd": 4, "square": 10, "hsja": (1, 8, 8)}
MODELS: dict[str, tuple[Any, ...]] = {
    "areb_cnn_mnist": ((28, 28, 1), 10, 100, SMALL),
    "areb_cnn_cifar10": ((32, 32, 3), 10, 100, FEW),
    "resnet18": ((32, 32, 3), 10, 16, FEW),
    "resnet50_at_32": ((32, 32, 3), 10, 64, {"pgd": 2}),
    # Beside the first layers, the maps of a ResNet-50 that sees 32x32 pixels at full resolution.
    "resnet50_at_128": ((128, 128, 3), 10, 8, {"pgd": 2}),
    "resnet50": (
        *((224, 224, 3), 1000, 4),
        {"pgd": 2, "search": 2, "apgd": 3, "square": 4, "hsja": (1, 4, 4)},
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
    for model, (shape, classes, batch, steps) in MODELS.items():
        search = {"binary_search_steps": 2, "initial_const": 1.0}
        settings = {"pgd": {"max_iter": steps["pgd"]}}
        if len(steps) > 1:
            iterations, first, most = steps["hsja"]
            settings |= {
                "cwl2": {**search, "max_iter": steps["search"]},
                "ead": {**search, "max_iter": steps["search"], "learning_rate": 0.1},
                "ddn": {"max_iter": 2 * steps["search"]},
                "apgd": {"max_iter": steps["apgd"], "nb_random_init": 1},
                "square": {"max_iter": steps["square"]},
                "hsja": {"max_iter": iterations, "init_eval": first, "max_eval": most},
            }
        rows += [Program(model, shape, classes, batch, *attack) for attack in settings.items()]
    return rows


def draw_kernels(names: list[str], shapes: list[list[int]], seed: int) -> dict[int, np.ndarray]:
    """Initial kernels, by their place, that another machine draws alike (He et al.)."""
    generator = np.random.default_rng(seed)
    drawn = {}
    for i, (name, shape) in enumerate(zip(names, shapes, strict=True)):
        if name == "kernel":
            scale = np.float32(math.sqrt(2 / math.prod(shape[:-1])))
            drawn[i] = generator.standard_normal(shape, np.float32) * scale
    return drawn


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
    expected = {"x_adv": x_adv, "success": success}
    ways = np.random.default_rng(SEED).choice([-1.0, 1.0], x.shape).astype(np.float32)
    nearby = x * (1 - ROUNDING / 2 + ROUNDING / 2 * ways)  # none above 1
    others = [part.numpy() for part in function(nearby, *arguments[1:])]
    by_rounding = compare(others, expected, x.numpy(), program.attack in BY_GRADIENT)["strays"]
    (folder / f"{program.name}.mlir").write_text(text)
    np.savez_compressed(folder / f"{program.name}.npz", **expected)
    return {
        **dataclasses.asdict(program),
        "name": program.name,
        "settings": bound.get_config(),
        "weights": [weights.index(id(variable)) for variable in variables],
        # The judgement of the points found is part of the program.
        "queries": int(queries) + program.batch,
        "gradients": int(gradients),
        "success": int(success.sum()),
        "strays_by_rounding": by_rounding,
        "hindrances": hindrances,
        "tensorflow_seconds_with_compilation": round(seconds, 3),
    }


def loss_gradient(classifier: Any, x: Any, y: Any) -> Any:
    """The gradient of the cross-entropy."""
    import tensorflow as tf

    def loss(logits: Any) -> Any:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=y, logits=logits)

    return classifier.gradient(x, loss)[2]


def budgets(classifier: Any, x: Any, y: Any) -> dict[str, float]:
    """For each attack within a budget an eps that breaks a part of the samples.

    It is the first of 2^-14, 2^-13, ... of which one step breaks a third of them: along the signs
    of the gradient, and in the best of four patterns of stripes, as Square begins. A few steps then
    break some more and not all. Flags that are all alike would compare nothing.
    """
    import tensorflow as tf

    right = (classifier.decide(x)[0] == y).numpy()

    def first(steps: list[Any]) -> float:
        for exponent in range(-14, 0):
            broken = np.zeros_like(right)
            for step in steps:
                moved = tf.clip_by_value(x + 2.0**exponent * step, 0.0, 1.0)
                broken |= right & (classifier.decide(moved)[0] != y).numpy()
            if 3 * broken.sum() >= right.sum():
                break
        return 2.0**exponent

    generator = np.random.default_rng(SEED)
    stripes = generator.choice(np.float32([-1, 1]), (4, x.shape[0], 1, *x.shape[2:]))
    by_gradient = first([tf.sign(loss_gradient(classifier, x, y))])
    return {"pgd": by_gradient, "apgd": by_gradient, "square": first(list(stripes))}


def export_passes(
    name: str, classifier: Any, x: Any, y: Any, weights: list[Any], folder: pathlib.Path
) -> dict[str, list[int]]:
    """Writes one forward and one forward and backward pass: what attacks are made of."""
    import tensorflow as tf

    def forward(x: Any, y: Any) -> Any:
        return classifier.decide(x)[0]

    def gradient(x: Any, y: Any) -> Any:
        return loss_gradient(classifier, x, y)

    order = {}
    for function in (forward, gradient):
        compiled = tf.function(function, autograph=False, jit_compile=True)
        text, _, variables = lower(compiled, x, y)
        (folder / f"{name}-{function.__name__}.mlir").write_text(text)
        order[function.__name__] = [weights.index(id(variable)) for variable in variables]
    return order


def samples_and_model(program: Program) -> tuple[np.ndarray, np.ndarray, Any]:
    """uint8 samples, labels, and the model: briefly trained, or `calibrated` where that is long."""
    import keras

    import kerasrobust

    network = program.model.partition("_at_")[0]
    model = kerasrobust.models.get(network, program.shape, program.classes, seed=SEED)
    names, shapes = described(model)
    for i, value in draw_kernels(names, shapes, SEED).items():
        model.variables[i].assign(value)
    data = {8: "digits", 28: "mnist"}.get(program.shape[0], "cifar10")
    samples = None if data == "digits" else 6000
    loaded = kerasrobust.datasets.load(data, split="train", samples=samples)
    x, y = loaded.x[: program.batch], loaded.y[: program.batch]
    for axis in (1, 2):
        x = x.repeat(program.shape[0] // x.shape[axis], axis)
    pixels = np.rint(x * 255).astype(np.uint8)
    if model.count_params() > TRAINED:
        return pixels, calibrate(model, pixels / np.float32(255)), model
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    keras.utils.set_random_seed(SEED)
    model.fit(loaded.x[program.batch :], loaded.y[program.batch :], batch_size=64, verbose=0)
    return pixels, np.asarray(y), model


def described(model: Any) -> tuple[list[str], list[list[int]]]:
    """Name and shape of each variable."""
    names = [variable.name for variable in model.variables]
    return names, [list(variable.shape) for variable in model.variables]


def calibrate(model: Any, x: np.ndarray) -> np.ndarray:
    """Lets a random network tell samples apart; returns the labels that it gives them.

    Batch normalization takes the statistics of the samples, as after training, and the last bias
    their mean logits: without, all samples are of one class, which no small change leaves. What a
    block adds to its shortcut is damped, as it is where training begins at 0 (Goyal et al. 2017,
    5.1): gradients through undamped blocks are so steep that rounding turns signs, and no two
    devices would find the same.
    """
    import keras

    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
        if isinstance(layer, keras.layers.Add):
            made = [tensor._keras_history.operation for tensor in layer.input]
            ends = [one for one in made if isinstance(one, keras.layers.BatchNormalization)]
            if len(ends) == 1:  # of two one is the shortcut
                ends[0].gamma.assign(DAMPED * ends[0].gamma)
    model(x, training=True)
    last = model.get_layer("logits")
    logits = np.asarray(keras.Model(model.inputs[0], last.output)(x))
    last.bias.assign_sub(logits.mean(axis=0))
    return (logits - logits.mean(axis=0)).argmax(axis=1)


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
        names, shapes = described(model)
        entry = {"names": names, "shapes": shapes, "batch": mine[0].batch, "seed": SEED}
        arrays = {
            f"w{i}": variable.numpy()
            for i, variable in enumerate(variables)
            if names[i] != "kernel" or model.count_params() <= TRAINED
        }
        np.savez_compressed(folder / f"{name}.npz", pixels=pixels, labels=labels, **arrays)
        classifier = kerasrobust.Classifier(model)
        eps = budgets(classifier, x, y)
        entry["passes"] = export_passes(name, classifier, x, y, weights, folder)
        manifest["models"][name] = entry
        for row in mine:
            try:
                # As on an accelerator: with sizes that are known beforehand.
                settings = {**row.settings, "jit_compile": True, "seed": SEED}
                if row.attack in eps:
                    settings = {"eps": eps[row.attack], **settings}
                bound = kerasrobust.attacks.get(row.attack, **settings).bind(classifier)
                found = export_program(row, bound, x, y, weights, folder)
                manifest["programs"].append(found)
                print(
                    f"{row.name:32s} eps {settings.get('eps', math.nan):.5f} "
                    f"success {found['success']:3d}/{row.batch} "
                    f"passes {found['queries']} + {found['gradients']} gradients, "
                    f"{found['tensorflow_seconds_with_compilation']:.1f} s, "
                    f"{found['strays_by_rounding']} strays by rounding, "
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

    def __call__(self, arguments: list[Any]) -> list[Any]:
        return [part.block_until_ready() for part in self.executable.execute(arguments)]

    def best(self, arguments: list[Any], repeats: int, at_least: float = 0.0) -> float:
        """Seconds of the fastest of several runs, which together take `at_least` seconds."""
        return fastest(lambda: self(arguments), repeats, at_least)


def fastest(function: Any, repeats: int, at_least: float = 0.0) -> float:
    """Seconds of the fastest of several calls, which together take `at_least` seconds.

    On a CPU, which may be shared, seconds of computing, summed over cores.
    """
    import jax

    clock = time.process_time if jax.default_backend() == "cpu" else time.perf_counter
    seconds: list[float] = []
    while len(seconds) < repeats or sum(seconds) < at_least:
        start = clock()
        function()
        seconds.append(clock() - start)
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
    return Loaded(executable, time.perf_counter() - start)


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a pass over a batch costs at least.

    Products and poolings read their operands and write their result once; what is done element by
    element is fused into them and costs nothing. Weights are read once per pass whatever the batch.
    """

    batch: int
    flops: float
    weight_bytes: float
    activation_bytes: float
    launches: int

    def per_sample(self, batch: int) -> dict[str, float]:
        """Flops, bytes and launches for each sample of a batch of that size."""
        return {
            "flops": self.flops / self.batch,
            "bytes": self.activation_bytes / self.batch + self.weight_bytes / batch,
            "launches": self.launches / batch,
        }


KERNEL = re.compile(
    r"stablehlo\.(convolution|dot_general|dot|reduce_window|select_and_scatter)\b"
    r"(.*) : \((.*)\) -> (tensor<[^>]*>)"
)


def sizes(types: str) -> list[list[int]]:
    """The shapes in a list of tensor types."""
    return [[int(n) for n in part.split("x")[:-1]] for part in re.findall(r"<([^<>]*)>", types)]


def cost(text: str) -> Cost:
    """The cost of a pass that `export_passes` wrote, in float32.

    Read from the text and not asked of a compiler, whose analysis looks neither into the library
    calls of a GPU nor into the fusions of a CPU. What leads to no result (the gradients of the
    weights) is left out, as every compiler does. What depends on the first argument, the samples,
    is an activation, other operands are weights. Zeros between the entries of a strided
    convolution's gradient are not counted.
    """
    body = text[text.index("func.func @main") :]
    batch = sizes(body)[0][0]
    # Regions hold scalars only. A statement is a line then.
    body = re.sub(r"\(\{.*?\n    \}\)", "", body, flags=re.DOTALL)
    statements = []
    active = {"%arg0"}
    for line in body.splitlines()[1:]:
        left, found, right = line.strip().partition(" = ")
        if not found:
            left, right = "", left
        read = re.findall(r"%\w+", right)
        name = left.partition(":")[0]
        if active.intersection(read):
            active.add(name)
        statements.append((name, right, read))
    flops, moved, launches = 0.0, {True: 0, False: 0}, 0
    wanted: set[str] = set()
    for name, right, read in reversed(statements):
        if name not in wanted and not right.startswith("return"):
            continue
        wanted.update(read)
        kernel = KERNEL.search(right)
        if not kernel:
            continue
        operands, (out,) = sizes(kernel[3]), sizes(kernel[4])
        for operand, shape in zip([*read[: len(operands)], name], [*operands, out], strict=True):
            moved[operand in active] += 4 * math.prod(shape)
        if kernel[1] in ("convolution", "dot", "dot_general"):
            flops += products(kernel[1], kernel[2], *operands, out)
            # A kernel for each product, and one for what is done to its elements.
            launches += 2
    return Cost(batch, flops, moved[False], moved[True], launches)


def products(kind: str, layout: str, left: list[int], right: list[int], out: list[int]) -> float:
    """Flops of a convolution or matrix product."""
    if kind != "convolution":
        # Without batch axes: sides of the product, each axis summed over appears in both.
        return 2 * math.sqrt(math.prod(left) * math.prod(right) * math.prod(out))
    axes = re.search(r"x\[([^\]]*)\]->", layout)
    assert axes is not None
    outputs = right[[part.strip() for part in axes[1].split(",")].index("o")]
    inner = math.prod(right) / outputs
    dilated = re.search(r"lhs_dilate = \[([^\]]*)\]", layout)
    if dilated:
        inner /= math.prod(int(size) for size in dilated[1].split(","))
    return 2 * math.prod(out) * inner


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
        return fastest(lambda: function(argument).block_until_ready(), 5)

    return {"float32": 2 * 1024**3 / best(product, square), "bytes": 2**28 / best(copy, row)}


def compare(
    outputs: list[np.ndarray], expected: Any, x: np.ndarray, by_pixel: bool, allowed: int = 0
) -> dict[str, Any]:
    """The check of a program's outputs against those recorded.

    Flags are compared sample by sample, and the mean length of the changes; `by_pixel` the points
    as well. A sample strays whose flag is another, or of whose pixels more than `PIXELS` differ by
    more than `PIXEL`; `allowed` do by rounding alone, whose flags are to be the same.
    """
    points, success = outputs[0], outputs[1]
    recorded = expected["x_adv"]
    axes = tuple(range(1, x.ndim))
    differences = np.abs(points - recorded)
    largest = np.abs(recorded - x).max(axis=axes, keepdims=True)
    # Of a sample that stays where it is, by rounding alone.
    differing = differences > PIXEL * largest + 1e-6
    turned = success != expected["success"]
    stray = turned
    if by_pixel:
        stray = turned | (differing.mean(axis=axes) > PIXELS)
    lengths = [
        float(np.sqrt(np.square(part - x).sum(axis=axes)).mean()) for part in (points, recorded)
    ]
    few = int(STRAYS * len(success))
    agree = (points - x) * (recorded - x) >= 0
    return {
        "success": int(success.sum()),
        "success_recorded": int(expected["success"].sum()),
        "turned": int(turned.sum()),
        "strays": int(stray.sum()),
        "differing": float(differing.mean()),
        "signs_agree": float(agree.mean()),
        "largest_difference": float(differences[agree].max(initial=0.0)),
        "largest_change": float(largest.max()),
        "mean_length": lengths[0],
        "mean_length_recorded": lengths[1],
        "passed": bool(
            np.isfinite(points).all()
            and turned.sum() <= few
            and stray.sum() <= allowed + few
            and abs(lengths[0] - lengths[1]) <= LENGTH * lengths[1]
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
        "program                          compile s     run s  passes  gradients     Gflop       GB"
        "  bound s  bound by   passes s  success        strays  difference   change  differing"
        "   length"
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
        drawn = draw_kernels(entry["names"], entry["shapes"], entry["seed"])
        arguments = {"x": jax.device_put(x), "y": jax.device_put(y)}
        weights = [
            jax.device_put(recorded[f"w{i}"] if f"w{i}" in recorded else drawn[i])
            for i in range(len(entry["names"]))
        ]
        passes: dict[str, dict[str, float]] = {}
        try:
            for kind, order in entry["passes"].items():
                text = (folder / f"{name}-{kind}.mlir").read_text()
                loaded = load(at_precision(text, options.precision))
                given = [arguments["x"], arguments["y"], *(weights[i] for i in order)]
                loaded(given)
                # Passes are short: seconds of them, so that a moment's load does not count.
                seconds = loaded.best(given, options.repeats, at_least=3.0)
                passes[kind] = {
                    **cost(text).per_sample(entry["batch"]),
                    "seconds": seconds / entry["batch"],
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
                by_pixel = precise and row["attack"] in BY_GRADIENT
                expected = np.load(folder / f"{row['name']}.npz")
                found = compare(outputs, expected, x, by_pixel, row["strays_by_rounding"])
                found["queries"] = int(outputs[2]) + row["batch"]
                found["gradients"] = int(outputs[3])
                found["compile_seconds"] = loaded.compile_seconds
                found["seconds"] = loaded.best(given, options.repeats)
                for key in ("flops", "bytes", "seconds"):
                    found[key if key != "seconds" else "passes_seconds"] = (
                        found["queries"] * passes["forward"][key]
                        + found["gradients"] * passes["gradient"][key]
                    )
                bounds = {
                    "compute": found["flops"] / peak,
                    "bandwidth": found["bytes"] / allowed["bytes"],
                }
                found["bound_seconds"] = max(bounds.values())
                found["bound_by"] = max(bounds, key=lambda key: bounds[key])
                results["programs"].append({"name": row["name"], "batch": row["batch"], **found})
                failures += not found["passed"]
                made, length = found["mean_length"], found["mean_length_recorded"]
                longer = 0.0 if made == length else made / length - 1 if length else math.inf
                print(
                    f"{row['name']:32s} {found['compile_seconds']:9.2f} {found['seconds']:9.4f} "
                    f"{found['queries']:7d} {found['gradients']:10d} {found['flops'] / 1e9:9.1f} "
                    f"{found['bytes'] / 1e9:8.2f} {found['bound_seconds']:8.5f}  "
                    f"{found['bound_by']:9s} {found['passes_seconds']:9.4f} "
                    f"{found['success']:3d} ({found['success_recorded']:3d}) "
                    f"{'ok  ' if found['passed'] else 'FAIL'} {found['strays']:2d} "
                    f"({row['strays_by_rounding']:2d}) "
                    f"{found['largest_difference']:10.1e} {found['largest_change']:8.1e} "
                    f"{found['differing']:10.3%} "
                    f"{longer:+8.3%}",
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


def plan(folder: pathlib.Path, batch: int) -> None:
    """Prints what bounds `PLANNED` on 10,000 samples, from the passes that `export` wrote.

    Args:
        folder: Where `export` wrote them.
        batch: Samples in a pass on the accelerator.
    """
    print(f"{PLANNED_SAMPLES:,} samples, batches of {batch}; seconds on one and on eight devices")
    for model in json.loads((folder / "manifest.json").read_text())["models"]:
        forward, gradient = (
            cost((folder / f"{model}-{kind}.mlir").read_text()).per_sample(batch)
            for kind in ("forward", "gradient")
        )
        for attack, (forwards, gradients) in PLANNED.items():
            total = {
                key: PLANNED_SAMPLES * (forwards * forward[key] + gradients * gradient[key])
                for key in forward
            }
            for device, allowed in PEAKS.items():
                for precision in ("tf32", "float32"):
                    bounds = {
                        "compute": total["flops"] / allowed[precision],
                        "bandwidth": total["bytes"] / allowed["bytes"],
                        "launches": total["launches"] * LAUNCH,
                    }
                    by = max(bounds, key=lambda key: bounds[key])
                    print(
                        f"{model:18s} {attack:20s} {device} {precision:8s} {bounds[by]:10.1f} "
                        f"{bounds[by] / 8:9.1f}  {by}"
                    )


def main() -> None:
    """The three commands."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("export", "run", "plan"))
    parser.add_argument("folder", type=pathlib.Path, help="where `export` writes")
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
