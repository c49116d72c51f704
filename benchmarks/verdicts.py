"""Wrong answers from the field, tried again: what comes out, and whether it is right.

Each case is one that a public report or a newcomer's first hour brought up, with numbers of its
own here; all of them are tests too, named beside them. The script asks nothing of the version that
it runs on but the public names, so that two versions can be put side by side:

    PYTHONPATH=OLDER python benchmarks/verdicts.py --save before.json
    python benchmarks/verdicts.py --beside before.json
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import math
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import kerasrobust
from kerasrobust import Classifier, attacks, evaluate

# Seconds after which a case counts as a hang.
PATIENCE = 240
Outcome = tuple[str, bool]


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing that was tried.

    Attributes:
        row: Letter of the row in the list of reports.
        tried: What was done.
        right: What should come out.
        test: The test that holds it.
        run: Gives what came out, and whether it is right.
    """

    row: str
    tried: str
    right: str
    test: str
    run: Callable[[], Outcome]


CASES: list[Case] = []


def case(row: str, tried: str, right: str, test: str) -> Callable[[Callable[[], Outcome]], Any]:
    """Puts a function into the list."""

    def put(run: Callable[[], Outcome]) -> Callable[[], Outcome]:
        CASES.append(Case(row, tried, right, test, run))
        return run

    return put


def told(error: BaseException) -> str:
    """An error in one short line."""
    text = " ".join(str(error).split())
    return textwrap.shorten(f"{type(error).__name__}: {text}", 110, placeholder=" ...")


def refusal(call: Callable[[], Any], *words: str) -> Outcome:
    """Right if the call raises a ValueError or TypeError that has all of these words."""
    try:
        call()
    except Exception as error:  # whatever comes is the outcome
        text = " ".join(str(error).split())
        return told(error), isinstance(error, (ValueError, TypeError)) and all(
            word in text for word in words
        )
    return "accepted", False


def share(value: float) -> str:
    """A share in percent."""
    return f"{100 * value:.1f} %"


def codes(report: Any) -> list[str]:
    """Codes of the findings."""
    return [finding.code for finding in report.findings]


def command(name: str, *arguments: Any) -> tuple[int, str, str]:
    """Exit code, output and error stream of a command in this process."""
    from click.testing import CliRunner

    from kerasrobust_cli import evaluate as kr_eval
    from kerasrobust_cli import train as kr_train

    main = {"kr-eval": kr_eval.main, "kr-train": kr_train.main}[name]
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return result.exit_code, result.stdout, f"traceback of {told(result.exception)}"
    return result.exit_code, result.stdout, result.stderr


def last_line(text: str) -> str:
    """The last line that is not empty, cut short."""
    lines = [line for line in text.splitlines() if line.strip(" │╰╯─╭╮")] or [""]
    return textwrap.shorten(lines[-1], 110, placeholder=" ...")


@functools.cache
def folder() -> pathlib.Path:
    """A scratch folder."""
    return pathlib.Path(tempfile.mkdtemp(prefix="verdicts_"))


@functools.cache
def digits() -> tuple[np.ndarray, np.ndarray]:
    """80 test digits in 0..1."""
    data = kerasrobust.datasets.load("digits", samples=80, seed=5)
    return data.x, data.y


@functools.cache
def cnn(bytes_: bool = False) -> keras.Model:
    """A plain CNN for digits; the same weights behind `Rescaling(1 / 255)` if asked."""
    if bytes_:
        inputs = keras.Input((8, 8, 1))
        return keras.Model(inputs, cnn()(layers.Rescaling(1 / 255)(inputs)))
    train = kerasrobust.datasets.load("digits", "train")
    keras.utils.set_random_seed(4)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(12, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(24, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(train.x, train.y, batch_size=32, epochs=15, verbose=0)
    return model


def linear(shape: tuple[int, ...], classes: int, *end: layers.Layer, seed: int = 0) -> keras.Model:
    """A linear model around the middle of 0..1."""
    features = math.prod(shape)
    model = keras.Sequential([keras.Input(shape), layers.Flatten(), layers.Dense(classes), *end])
    kernel = np.random.default_rng(seed).normal(size=(features, classes)).astype("float32")
    model.layers[1].set_weights([kernel, -kernel.sum(axis=0) / 2])
    return model


def points(n: int, *shape: int) -> np.ndarray:
    """Samples in 0.2..0.8."""
    return np.random.default_rng(8).uniform(0.2, 0.8, (n, *shape)).astype("float32")


# ---- a: a call beside the graph -------------------------------------------------------------


@keras.saving.register_keras_serializable("verdicts")
class Negative(keras.Model):
    """A functional model that computes something else than its graph."""

    def call(self, x, training=None, mask=None):
        return super().call(0.9 - x, training=training)


def negative() -> keras.Model:
    inputs = keras.Input((7,))
    model = Negative(inputs, layers.Dense(4, "softmax")(inputs))
    kernel = np.random.default_rng(2).normal(size=(7, 4)).astype("float32")
    model.set_weights([4 * kernel, np.zeros(4, "float32")])
    return model


@case(
    "a",
    "functional model with a `call` of its own (0.9 - x), labels from its `predict`",
    "clean accuracy 100 %",
    "tests/test_logits.py::test_a_call_beside_the_graph_is_what_counts",
)
def a_evaluation() -> Outcome:
    model, x = negative(), points(60, 7)
    report = evaluate(model, x, model.predict(x, verbose=0).argmax(1), attacks="fgsm:eps=0.01")
    return f"clean {share(report.clean_accuracy)}", report.clean_accuracy == 1.0


@case(
    "a",
    "the same model wrapped, trained on labels that a rule gives",
    "it learns them: over 90 %",
    "tests/test_logits.py::test_wrapped_training_trains_what_the_model_computes",
)
def a_training() -> Outcome:
    keras.utils.set_random_seed(0)
    model, x = negative(), points(400, 7)
    y = (x[:, 0] > x[:, 1]).astype(int) + 2 * (x[:, 2] > x[:, 3])
    wrapped = kerasrobust.wrap(model, "gda:sigma=0.01,N=1")
    wrapped.compile(keras.optimizers.Adam(0.1), "sparse_categorical_crossentropy")
    wrapped.fit(x, y, epochs=40, verbose=0)
    right = float((model.predict(x, verbose=0).argmax(1) == y).mean())
    return share(right), right > 0.9


@case(
    "a",
    "wrapping a model with a `train_step` of its own",
    "refused or honoured",
    "tests/defenses/test_wrap.py::test_a_training_step_of_its_own_is_refused",
)
def a_step() -> Outcome:
    class Stepping(keras.Model):
        def train_step(self, data):
            return super().train_step(data)

    inputs = keras.Input((7,))
    model = Stepping(inputs, layers.Dense(4, "softmax")(inputs))
    return refusal(lambda: kerasrobust.wrap(model, "label_smoothing"), "train_step")


# ---- a2: pixels in another unit -------------------------------------------------------------


@functools.cache
def own_file() -> pathlib.Path:
    path = folder() / "own.keras"
    cnn(bytes_=True).save(path)
    return path


@case(
    "a2",
    "`kr-eval` on an own model with `Rescaling(1/255)` inside, without bounds, `--eps 6`",
    "its range is taken and said, clean over 90 %",
    "tests/test_pixel_range.py::test_command_takes_the_range_and_says_so",
)
def a2_evaluation() -> Outcome:
    arguments = ("--model", own_file(), "--attacks", "fgsm", "--eps", 6, "--samples", 60)
    code, _, error = command("kr-eval", *arguments, "--output", folder() / "a2")
    if code:
        return last_line(error), False
    clean = kerasrobust.evaluation.Report.load(folder() / "a2").clean_accuracy
    said = "Pixels in 0..255" in error
    return f"clean {share(clean)}, range {'said' if said else 'not said'}", clean > 0.9 and said


@case(
    "a2",
    "`kr-train --model own.keras --defense gda:sigma=9,N=1`, without bounds",
    "goes on in 0..255: over 90 %",
    "tests/cli/test_own_model.py::test_goes_on_and_opens_without_this_package",
)
def a2_training() -> Outcome:
    arguments = ("--model", own_file(), "--defense", "gda:sigma=9,N=1", "--epochs", 1)
    code, out, error = command("kr-train", *arguments, "--output", folder() / "hard.keras")
    return last_line(error if code else out), not code and float(out.split()[-2]) > 90


@case(
    "a2",
    "an untrained model",
    "the first finding says so",
    "tests/evaluation/test_diagnosis.py::test_constant_predictions_and_chance_level",
)
def a2_untrained() -> Outcome:
    keras.utils.set_random_seed(11)
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(10)])
    found = codes(evaluate(model, *digits(), attacks="fgsm:eps=0.1"))
    right = bool(found) and found[0] in ("chance_level", "constant_predictions")
    return f"findings: {', '.join(found) or 'none'}", right


# ---- b: gradients that vanish in float32 ----------------------------------------------------


@case(
    "b",
    "one sigmoid unit of weight 40 and bias -16, x = 1, label 1 (logit 24), eps 0.7",
    "FGSM, PGD, BIM, MI-FGSM leave 0 %",
    "tests/attacks/test_exact_gradient.py::test_a_sure_unit_is_broken",
)
def b_sigmoid() -> Outcome:
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1, "sigmoid")])
    model.set_weights([np.array([[40.0]]), np.array([-16.0])])
    x, y = np.ones((3, 1), "float32"), np.ones(3, int)
    specs = [f"{name}:eps=0.7" for name in ("fgsm", "pgd", "bim", "mifgsm")]
    names = set(attacks.names())
    specs = [s if s.partition(":")[0] in names else s.replace("mifgsm", "mi_fgsm") for s in specs]
    report = evaluate(model, x, y, attacks=specs)
    left = [one.accuracy for one in report.attacks.values()]
    return ", ".join(map(share, left)), max(left) == 0


@case(
    "b",
    "a linear model of two classes and the same with logits times 300: PGD's success, eps 0.02",
    "the same samples",
    "tests/attacks/test_exact_gradient.py::test_the_scale_of_the_logits_changes_nothing",
)
def b_scale() -> Outcome:
    x, results = points(60, 20), []
    for scale in (1.0, 300.0):
        model = linear((20,), 2, layers.Softmax())
        model.set_weights([scale * weight for weight in model.get_weights()])
        y = model.predict(x, verbose=0).argmax(1)
        attack = attacks.get("pgd", eps=0.02, eps_step=0.005, max_iter=20, num_random_init=0)
        results.append(attack.bind(model).run(x, y).success)
    return " and ".join(share(one.mean()) for one in results), bool(
        (results[0] == results[1]).all()
    )


# ---- c: closing layers that change nothing --------------------------------------------------


def closed(scale: float = 1.0) -> keras.Model:
    """A softmax behind which mixed-precision guides put one more layer."""
    end = layers.Activation("linear", dtype="float32")
    model = linear((5,), 3, layers.Softmax(), end, seed=3)
    model.set_weights([scale * weight for weight in model.get_weights()])
    return model


@case(
    "c",
    "softmax behind a linear float32 activation: DeepFool's median L2 over the exact distance",
    "1.0",
    "tests/test_logits.py::test_attacks_see_through_it_too",
)
def c_deepfool() -> Outcome:
    model, x = closed(9.0), points(40, 5)
    kernel, bias = model.get_weights()
    logits = x @ kernel + bias
    y = logits.argmax(1)
    gaps = logits[np.arange(40), y][:, None] - logits
    lengths = np.linalg.norm(kernel[:, y].T[:, :, None] - kernel[None], axis=1)
    exact = np.where(lengths > 0, gaps / np.maximum(lengths, 1e-9), np.inf).min(axis=1)
    result = attacks.get("deepfool").bind(Classifier(model, (0, 1))).run(x, y)
    ratio = float(np.median(result.l2) / np.median(exact))
    return f"{ratio:.3f}", abs(ratio - 1) < 0.05


@case(
    "c",
    "the same: C&W L2, samples left",
    "0 %",
    "tests/test_logits.py::test_attacks_see_through_it_too",
)
def c_carlini() -> Outcome:
    model, x = closed(30.0), points(40, 5)
    y = model.predict(x, verbose=0).argmax(1)
    result = attacks.get("cwl2", max_iter=100).bind(Classifier(model, (-5, 5))).run(x, y)
    return share(1 - result.success.mean()), bool(result.success.all())


@case(
    "c",
    "the same, wrapped and trained with the loss for probabilities",
    "trains",
    "tests/test_logits.py::test_wrap_knows_the_right_loss_behind_it",
)
def c_wrap() -> Outcome:
    model = kerasrobust.wrap(closed(), "label_smoothing")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy())
    history = model.fit(points(20, 5), np.arange(20) % 3, verbose=0)
    return f"loss {history.history['loss'][0]:.2f}", True


# ---- d0, d: units of the pixels --------------------------------------------------------------


@case(
    "d0",
    "EAD by default on 0..1 and on 0..255: success and median L1 in units of 0..1",
    "the same within 5 %",
    "tests/contract/test_units.py::test_attack_with_its_defaults",
)
def d0_ead() -> Outcome:
    (x, y), figures = digits(), []
    for scale in (1, 255):
        classifier = Classifier(cnn(scale > 1), (0, scale))
        result = attacks.get("ead", max_iter=20).bind(classifier).run(scale * x[:30], y[:30])
        figures.append((result.success.mean(), np.median(result.l1) / scale))
    (one, near), (other, far) = figures
    right = one == other and abs(near / far - 1) < 0.05
    return f"{share(one)}, {near:.2f} and {share(other)}, {far:.2f}", bool(right)


@case(
    "d0",
    "`gda:sigma=0.2` beside pixels of 0..255",
    "refused: no noise at all there",
    "tests/evaluation/test_lengths.py::test_a_length_of_a_defense_likewise_when_it_wraps",
)
def d0_defense() -> Outcome:
    wrap = functools.partial(kerasrobust.wrap, cnn(True), clip_values=(0, 255))
    return refusal(lambda: wrap("gda:sigma=0.2"), "sigma")


@case(
    "d0",
    "`fgsm:minimal=true` beside pixels of 0..255",
    "runs: success over 90 %",
    "tests/contract/test_units.py::test_attack_with_its_defaults",
)
def d0_minimal() -> Outcome:
    (x, y), classifier = digits(), Classifier(cnn(True), (0, 255))
    result = attacks.get("fgsm:minimal=true").bind(classifier).run(255 * x[:30], y[:30])
    return share(result.success.mean()), bool(result.success.mean() > 0.9)


@case(
    "d",
    "PGD with eps of 40 grey levels, step left out, and the same in 0..1",
    "the same accuracy",
    "tests/evaluation/test_lengths.py::test_grey_levels_with_the_step_left_out",
)
def d_step() -> Outcome:
    (x, y), left = digits(), []
    for scale, eps in ((1, 40 / 255), (255, 40)):
        report = evaluate(
            cnn(scale > 1), scale * x, y, attacks=f"pgd:eps={eps}", clip_values=(0, scale)
        )
        left.append(report.robust_accuracy)
    return " and ".join(map(share, left)), abs(left[0] - left[1]) < 0.02


@case(
    "d",
    "`pgd` with an L2 budget of 0.4 beside pixels of 0..255",
    "refused, or a finding",
    "tests/evaluation/test_lengths.py::test_a_length_that_cannot_be_in_the_unit_is_an_error",
)
def d_budget() -> Outcome:
    x, y = digits()

    def run() -> None:
        settings = {"attacks": "pgd", "eps": 0.4, "norm": 2, "clip_values": (0, 255)}
        report = evaluate(cnn(True), 255 * x, y, **settings)
        raise LookupError(f"{share(report.robust_accuracy)} left, {', '.join(codes(report))}")

    outcome, right = refusal(run, "eps")
    return outcome.removeprefix("LookupError: "), right or "small_budget" in outcome


# ---- e, f, g, h ------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("verdicts")
class Noisy(layers.Layer):
    """Draws at inference too."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(6)

    def call(self, x):
        return x + keras.random.normal(keras.ops.shape(x), stddev=0.25, seed=self.generator)


@functools.cache
def noisy_reports() -> list[Any]:
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, cnn()(Noisy()(inputs)))
    return [evaluate(model, *digits(), attacks="pgd:eps=0.08,max_iter=8", seed=3) for _ in range(2)]


@case(
    "e",
    "a model with noise at inference, twice with one seed",
    "the same answer twice",
    "tests/evaluation/test_randomised.py::test_the_same_seed_gives_the_same_answer",
)
def e_repeats() -> Outcome:
    pairs = [(one.clean_accuracy, one.robust_accuracy) for one in noisy_reports()]
    text = " and ".join(f"{share(clean)} / {share(left)}" for clean, left in pairs)
    return text, pairs[0] == pairs[1]


@case(
    "e",
    "what the report says of it",
    "a finding with votes, draws, autoattack-rand",
    "tests/evaluation/test_randomised.py::test_the_finding_says_what_holds_and_what_to_do",
)
def e_finding() -> Outcome:
    report = noisy_reports()[0]
    # An older version had the command in the message.
    told = [one for one in report.findings if one.code == "randomised"]
    found = [f"{one.message} {getattr(one, 'command', '')}" for one in told]
    right = bool(found) and "votes" in found[0] and "autoattack-rand" in found[0]
    return f"findings: {', '.join(codes(report)) or 'none'}", right


@case(
    "f",
    "wrapped training under XLA on a `tf.data` of 0..255, bounds forgotten",
    "refused",
    "tests/defenses/test_chain.py::test_data_out_of_bounds_are_stopped",
)
def f_xla() -> Outcome:
    model = kerasrobust.wrap(keras.models.clone_model(cnn()), "gda:sigma=0.1,N=1")
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile=True)
    x, y = digits()
    data = tf.data.Dataset.from_tensor_slices((255 * x, y)).batch(20)
    return refusal(lambda: model.fit(data, verbose=0), "clip_values")


@case(
    "g",
    "AutoAttack into a folder, then Square alone into it; Square without a folder",
    "the same",
    "tests/engine/test_batches.py::test_the_store_tells_a_cascade_from_an_attack",
)
def g_store() -> Outcome:
    model, x = linear((4, 4, 1), 5, seed=5), points(12, 4, 4, 1)
    y = model.predict(x, verbose=0).argmax(1)
    settings = {"eps": 0.03, "norm": "inf"}
    evaluate(model, x, y, attacks="autoattack", output=folder() / "g", **settings)
    stored = evaluate(model, x, y, attacks="square", output=folder() / "g", **settings)
    alone = evaluate(model, x, y, attacks="square", **settings)
    rows = [report.attacks["square"] for report in (stored, alone)]
    text = " and ".join(f"{share(row.accuracy)} ({row.queries:.0f} queries)" for row in rows)
    return text, rows[0].accuracy == rows[1].accuracy and rows[0].queries == rows[1].queries


def multi_hot(defense: str) -> Outcome:
    model = kerasrobust.wrap(linear((6,), 4, layers.Softmax()), defense)
    model.compile("adam", "categorical_crossentropy")
    y = np.eye(4, dtype="float32")[np.arange(20) % 4]
    y[3], y[7, 2] = 0, 1
    return refusal(lambda: model.fit(points(20, 6), y, verbose=0), "one")


for _defense in (
    "adversarial_training:attack=(fgsm:eps=0.05)",
    "fast:eps=0.05",
    "minimax:eps=0.05",
):
    case(
        "h",
        f"`{_defense.partition(':')[0]}` on rows of several classes and of none",
        "refused",
        "tests/defenses/test_chain.py::test_labels_of_several_classes_are_refused",
    )(functools.partial(multi_hot, _defense))


# ---- i, j, k, l ------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("verdicts")
class Hidden(keras.Model):
    """Sigmoids that cannot be read from a graph."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, "sigmoid")

    def call(self, x):
        return self.dense(x)


@case(
    "i",
    "four sigmoids behind an end that cannot be read",
    "the warning that softmaxes get",
    "tests/test_logits.py::test_several_sigmoids_are_warned_of_where_they_cannot_be_read",
)
def i_sigmoids() -> Outcome:
    model, x = Hidden(), points(20, 6)
    model(x)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate(model, x, np.arange(20) % 4, attacks="fgsm:eps=0.05")
    found = [str(one.message) for one in caught if "logits cannot be" in str(one.message)]
    return ("warned" if found else "no warning"), bool(found)


@case(
    "i",
    "a model that ends in `Dense(1, 'softmax')`",
    "refused",
    "tests/test_logits.py::test_a_softmax_over_one_unit_is_refused",
)
def i_softmax() -> Outcome:
    model = keras.Sequential([keras.Input((6,)), layers.Dense(1, "softmax")])
    run = functools.partial(evaluate, model, points(20, 6), np.arange(20) % 2, attacks="fgsm")
    return refusal(run, "softmax")


def clean_of(model: Any, x: Any = None, y: Any = None, **settings: Any) -> Outcome:
    """Clean accuracy on digits, which must be that of the CNN."""
    own_x, own_y = digits()
    labels = cnn().predict(own_x, verbose=0).argmax(1)
    if x is None:
        x, y = own_x, own_y
    report = evaluate(model, x, y, attacks="fgsm:eps=0.01", **settings)
    return f"clean {share(report.clean_accuracy)}", report.clean_accuracy == (
        labels == own_y
    ).mean()


@case(
    "j",
    "one output in a dictionary: evaluated, wrapped, trained",
    "as without it",
    "tests/test_logits.py::test_a_dictionary_is_wrapped_trained_and_saved",
)
def j_dictionary() -> Outcome:
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, {"scores": keras.models.clone_model(cnn())(inputs)})
    model.set_weights(cnn().get_weights())
    outcome, right = clean_of(model)
    wrapped = kerasrobust.wrap(model, "gda:sigma=0.1,N=1")
    wrapped.compile("adam", "sparse_categorical_crossentropy")
    history = wrapped.fit(*digits(), verbose=0)
    return f"{outcome}, loss {history.history['loss'][0]:.2f}", right


@case(
    "j",
    "an exported model as `TFSMLayer`",
    "evaluated",
    "tests/test_logits.py::test_a_loaded_saved_model",
)
def j_saved_model() -> Outcome:
    cnn().export(folder() / "served", verbose=False)
    return clean_of(keras.layers.TFSMLayer(folder() / "served", call_endpoint="serve"))


@case(
    "j",
    "data as `keras.utils.PyDataset`",
    "evaluated",
    "tests/engine/test_source.py::test_a_pydataset_is_the_array",
)
def j_pydataset() -> Outcome:
    class Batches(keras.utils.PyDataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            rows = slice(20 * index, 20 * index + 20)
            return digits()[0][rows], digits()[1][rows]

    return clean_of(cnn(), Batches())


@case(
    "j",
    "data of unknown size that do not end",
    "an error",
    "tests/engine/test_source.py::test_data_of_unknown_size_that_do_not_end",
)
def j_endless() -> Outcome:
    def slowly(x: np.ndarray) -> np.ndarray:
        time.sleep(0.05)  # so that waiting in vain does not fill the memory
        return x

    x = np.zeros((250_000, 1), "float32")
    endless = tf.data.Dataset.from_tensors((x, np.zeros(len(x), "int64"))).repeat()
    endless = endless.filter(lambda x, y: True)
    endless = endless.map(
        lambda x, y: (tf.ensure_shape(tf.numpy_function(slowly, [x], tf.float32), x.shape), y)
    )
    attack = attacks.get("fgsm").bind(linear((1,), 2))
    signal.alarm(20)
    return refusal(lambda: attack.run(endless), "must end")


for _bounds in ([0, 1], np.array([0.0, 1.0])):
    case(
        "j",
        f"`clip_values` as {type(_bounds).__name__}",
        "accepted",
        "tests/test_logits.py::test_bounds_in_any_form",
    )(lambda bounds=_bounds: clean_of(cnn(), clip_values=bounds))


@case(
    "k",
    "AREB on grey images with the channel first, (1, 9, 9): eps of its PGD",
    "0.3, that of grey images",
    "tests/evaluation/test_lengths.py::test_areb_on_images_whose_channel_comes_first",
)
def k_channels() -> Outcome:
    model, x = linear((1, 9, 9), 3, seed=2), points(2, 1, 9, 9)
    report = evaluate(model, x, model.predict(x, verbose=0).argmax(1), attacks="areb")
    eps = report.attacks["pgd"].config["eps"]
    return f"{eps:g}", abs(eps - 0.3) < 1e-6


def saved_as_h5(save: Callable[[keras.Model, str], None]) -> Outcome:
    model = kerasrobust.wrap(linear((6,), 3, layers.Softmax()), "label_smoothing")
    path = str(folder() / "wrapped.h5")
    try:
        save(model, path)
    except ValueError as error:
        return told(error), ".keras" in str(error)
    try:
        keras.saving.load_model(path, compile=False)
    except Exception as error:
        return f"saved, and cannot be loaded: {told(error)}", False
    return "saved and loaded", True


for _name, _save in (
    ("`model.save`", lambda model, path: model.save(path)),
    ("`keras.saving.save_model`", lambda model, path: keras.saving.save_model(model, path)),
):
    case(
        "l",
        f"a wrapped model saved as `.h5` by {_name}",
        "refused when it is saved",
        "tests/defenses/test_wrap.py::test_hdf5_is_refused_when_saving",
    )(functools.partial(saved_as_h5, _save))


# ---- n: findings -----------------------------------------------------------------------------


def masked(specs: list[str]) -> Outcome:
    report = evaluate(cnn(), *digits(), attacks=specs)
    found = codes(report)
    words = ("gradient_masking", "black_box_stronger")
    return f"findings: {', '.join(found) or 'none'}", not any(word in found for word in words)


@case(
    "n",
    "a plain CNN under `fgsm`, `pgd` and `square` at eps 0.2",
    "no word of masking",
    "tests/evaluation/test_diagnosis.py::test_what_another_white_box_attack_broke_is_not_masked",
)
def n_three() -> Outcome:
    return masked(["fgsm:eps=0.2", "pgd:eps=0.2,max_iter=40", "square:eps=0.2,max_iter=300"])


@case(
    "n",
    "the CNN under `pgd` with a step of 0.14 at eps 0.14 (ART's kind of step), and `square`",
    "no word of masking",
    "tests/evaluation/test_diagnosis.py::test_a_repetition_decides_between_masking_and_a_long_step",
)
def n_long_step() -> Outcome:
    return masked(["pgd:eps=0.14,eps_step=0.14,max_iter=9", "square:eps=0.14,max_iter=1500"])


@case(
    "n",
    "C&W at four steps of 0.9 beside EAD",
    "a finding: not converged",
    "tests/evaluation/test_diagnosis.py::"
    "test_an_attack_far_behind_another_in_its_own_norm_has_not_converged",
)
def n_converged() -> Outcome:
    short = "cwl2:max_iter=4,binary_search_steps=1,learning_rate=0.9,initial_const=5"
    report = evaluate(cnn(), *digits(), attacks=[short, "ead:max_iter=50"])
    medians = ", ".join(f"{k} {one.median_l2:.2f}" for k, one in report.attacks.items())
    found = codes(report)
    return f"median L2 {medians}; {', '.join(found) or 'no finding'}", "not_converged" in found


# ---- o, p ------------------------------------------------------------------------------------


class Service:
    """Labels of a linear model; fails at some calls."""

    def __init__(self, fails: tuple[int, ...] = ()):
        self.model, self.fails, self.calls, self.samples = linear((6,), 4, seed=9), fails, 0, 0

    def scores(self, x: np.ndarray) -> np.ndarray:
        kernel, bias = self.model.get_weights()
        return np.asarray(x) @ kernel + bias

    def __call__(self, x: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls in self.fails:
            raise ConnectionError("503 Service Unavailable")
        self.samples += len(x)
        return self.answer(x)

    def answer(self, x: np.ndarray) -> np.ndarray:
        return self.scores(x).argmax(1)


HSJA = "hsja:max_iter=2,max_eval=60,init_eval=10"


@case(
    "o",
    "HopSkipJump against a service that answers labels only",
    "success on all samples",
    "tests/engine/test_services.py::test_labels_are_enough_for_a_decision_attack",
)
def o_labels() -> Outcome:
    service, x = Service(), points(9, 6)
    result = attacks.get(HSJA).bind(Classifier(service)).run(x, service.answer(x))
    return share(result.success.mean()), bool(result.success.all())


@case(
    "o",
    "a service that fails once with 503",
    "asked again, evaluated",
    "tests/engine/test_services.py::"
    "test_a_failing_call_is_tried_again_after_longer_and_longer_waits",
)
def o_retries() -> Outcome:
    service, x = Service(fails=(4,)), points(9, 6)
    service.answer = service.scores
    y = service.scores(x).argmax(1)
    report = evaluate(Classifier(service, retries=2), x, y, attacks=HSJA)
    return f"clean {share(report.clean_accuracy)}", report.clean_accuracy == 1


@case(
    "o",
    "`max_queries=40` on nine samples: most queries of a sample, judging included",
    "at most 40, and as many as the service saw",
    "tests/engine/test_services.py::"
    "test_the_budget_of_queries_is_per_sample_and_attack_and_covers_judging",
)
def o_budget() -> Outcome:
    service, x = Service(), points(9, 6)
    service.answer = service.scores
    classifier = Classifier(service, nb_classes=4)
    attack = attacks.get(HSJA, max_queries=40).bind(classifier)
    result = attack.run(x, service.scores(x).argmax(1))
    most, seen = int(np.max(result.queries)), service.samples
    return f"{most}, {seen} of {int(np.sum(result.queries))} in all", most <= 40 and seen == np.sum(
        result.queries
    )


@case(
    "p",
    "`preprocessing=(mean, std)`, one of each per channel, beside the same as a layer",
    "the same accuracy",
    "tests/test_preprocessing.py::test_attacks_are_those_on_the_model_with_the_layer_inside",
)
def p_preprocessing() -> Outcome:
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    model, x = linear((5, 5, 3), 4, seed=7), points(40, 5, 5, 3)
    inputs = keras.Input((5, 5, 3))
    normal = layers.Normalization(mean=mean, variance=np.square(std))
    inside = keras.Model(inputs, model(normal(inputs)))
    y = inside.predict(x, verbose=0).argmax(1)
    settings = {"attacks": "pgd:eps=0.01", "clip_values": (0, 1)}
    whole = evaluate(inside, x, y, **settings)
    try:
        outside = Classifier(model, (0, 1), preprocessing=(mean, std))
    except TypeError:
        from art.estimators.classification import TensorFlowV2Classifier

        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        outside = TensorFlowV2Classifier(
            model, 4, (5, 5, 3), loss, clip_values=(0, 1), preprocessing=(mean, std)
        )
    report = evaluate(outside, x, y, attacks="pgd:eps=0.01")
    pairs = [(one.clean_accuracy, one.robust_accuracy) for one in (report, whole)]
    text = " and ".join(f"{share(clean)} / {share(left)}" for clean, left in pairs)
    return text, pairs[0] == pairs[1]


# ---- m: small ones ---------------------------------------------------------------------------


@functools.cache
def unit_file() -> pathlib.Path:
    path = folder() / "unit.npz"
    np.savez(path, x=digits()[0], y=digits()[1])
    return path


@case(
    "m",
    "`kr-eval --clip-max 255` alone",
    "accepted",
    "tests/test_pixel_range.py::test_flags_replace_one_bound_each",
)
def m_clip_max() -> Outcome:
    arguments = ("--model", own_file(), "--attacks", "fgsm", "--eps", 9, "--samples", 20)
    code, _, error = command("kr-eval", *arguments, "--clip-max", 255)
    return (last_line(error) if code else "accepted"), not code


@case(
    "m",
    "lines of TensorFlow's own before the result of `kr-eval`",
    "0",
    "tests/cli/test_commands.py::test_only_the_result_is_printed",
)
def m_chatter() -> Outcome:
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    code = "from kerasrobust_cli.evaluate import main; main()"
    words = ["--model", own_file(), "--clip-min", 0, "--clip-max", 255, "--attacks", "fgsm"]
    words += ["--eps", 9, "--samples", 5]
    run = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
    )
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    return f"{len(lines)}, exit code {run.returncode}", not lines and not run.returncode


@case(
    "m",
    "a model of 0..255 on data of 0..1",
    "an error that names the bounds",
    "tests/test_pixel_range.py::test_default_bounds_that_the_layers_contradict_are_an_error",
)
def m_unit_data() -> Outcome:
    x, y = digits()

    def run() -> None:
        report = evaluate(cnn(True), x, y, attacks="fgsm:eps=0.1")
        raise LookupError(f"clean {share(report.clean_accuracy)}, {', '.join(codes(report))}")

    outcome, right = refusal(run, "clip_values")
    return outcome.removeprefix("LookupError: "), right


@case(
    "m",
    "uint8 images of 0 and 1 for a model of 0..255",
    "an error, or a finding before all others",
    "tests/evaluation/test_evaluate.py::test_a_model_that_answers_one_class_is_found_out_first",
)
def m_binary_images() -> Outcome:
    x, y = digits()
    binary = (x > 0.5).astype("uint8")

    def run() -> None:
        settings = {"attacks": "fgsm:eps=9", "clip_values": (0, 255)}
        report = evaluate(cnn(True), binary, y, **settings)
        raise LookupError(f"clean {share(report.clean_accuracy)}, {', '.join(codes(report))}")

    outcome, right = refusal(run, "clip_values")
    found = outcome.partition("%, ")[2].partition(",")[0]
    return outcome.removeprefix("LookupError: "), right or found in (
        "chance_level",
        "constant_predictions",
    )


for _argument, _spec in (("max_iter", "pgd"), ("max_queries", "hsja")):
    case(
        "m",
        f"`{_argument}` of 2**31 + 7",
        "refused",
        "tests/test_bad_input.py::test_numbers_beyond_32_bits",
    )(
        lambda argument=_argument, spec=_spec: refusal(
            lambda: (
                attacks.get(spec, **{argument: 2**31 + 7}).bind(linear((6,), 3)).run(points(2, 6))
            ),
            argument,
        )
    )


@case(
    "m",
    "`kr-train --learning-rate 1e38`",
    "an error, nothing saved",
    "tests/cli/test_commands.py::test_weights_that_are_not_finite_are_not_saved",
)
def m_diverged() -> Outcome:
    path = folder() / "nan.keras"
    arguments = ("--epochs", 1, "--learning-rate", "1e38", "--samples", 256, "--output", path)
    code, out, error = command("kr-train", *arguments)
    text = f"{last_line(error if code else out)} (exit code {code})"
    return text, bool(code) and not path.exists()


@case(
    "m",
    "an `--output` of 400 characters",
    "a usage error",
    "tests/cli/test_commands.py::test_a_name_that_is_too_long",
)
def m_long_name() -> Outcome:
    code, _, error = command("kr-eval", "--output", folder() / ("n" * 400))
    return f"{last_line(error)} (exit code {code})"[-110:], code == 2


@case(
    "m",
    "a `.keras` file cut short",
    "an error that says so",
    "tests/cli/test_commands.py::test_a_model_that_was_cut_short",
)
def m_cut() -> Outcome:
    path = folder() / "cut.keras"
    path.write_bytes(own_file().read_bytes()[:3000])
    code, _, error = command("kr-eval", "--model", path)
    return last_line(error), code == 1 and "cut short" in error


@case(
    "m",
    "label smoothing with a loss of one's own for integers",
    "an error that says what the loss must take",
    "tests/defenses/test_label_smoothing.py::test_a_custom_loss_for_integers_is_told_what_it_gets",
)
def m_custom_loss() -> Outcome:
    def own_loss(y, p):
        return keras.losses.sparse_categorical_crossentropy(y, p) ** 2

    model = kerasrobust.wrap(linear((6,), 4, layers.Softmax()), "label_smoothing")
    model.compile("adam", own_loss)
    fit = functools.partial(model.fit, points(20, 6), np.arange(20) % 4, verbose=0)
    return refusal(fit, "loss must take labels that are distributions")


@case(
    "m",
    "JSMA on a single input value",
    "refused",
    "tests/test_bad_input.py::test_saliency_map_of_a_single_value",
)
def m_jsma() -> Outcome:
    attack = attacks.get("jsma")
    return refusal(lambda: attack.bind(linear((1,), 4)).run(points(3, 1)), "two")


# ---- q, r, s: from ART -----------------------------------------------------------------------


def art_targets(spec: str) -> Outcome:
    model, x = linear((6,), 4, seed=1), points(10, 6)
    targets = (model.predict(x, verbose=0).argmax(1) + 1) % 4
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        attack = attacks.get(spec).bind(model)
        result = attack.run(x, targets)
    said = any(
        "adversarial before" in str(w.message) or "targeted" in str(w.message) for w in caught
    )
    reached = model.predict(result.x_adv, verbose=0).argmax(1) == targets
    changed = int((result.x_adv != x).any(axis=1).sum())
    text = (
        f"{changed} of 10 changed, {int(reached.sum())} on target, {'said' if said else 'silent'}"
    )
    return text, said or bool(reached.all())


for _spec in ("jsma", "boundary:max_iter=3", "signopt:max_iter=2,k=5"):
    case(
        "q",
        f"targets in `y` of `{_spec.partition(':')[0]}`, as ART takes them",
        "ART's meaning, or told",
        "tests/evaluation/test_lengths.py::test_targets_where_labels_are_meant_are_told",
    )(functools.partial(art_targets, _spec))


@case(
    "r",
    "`norm` set on a living attack, then a new, correct one: what each breaks, and a fresh model",
    "all the same, or the assignment refused",
    "tests/engine/test_state.py::test_a_hyperparameter_that_is_assigned",
)
def r_norm() -> Outcome:
    x, y = digits()
    living = attacks.get("pgd", eps=0.25, eps_step=0.05, norm=2).bind(cnn())
    living.run(x[:20], y[:20])
    try:
        living.norm = "inf"
    except (ValueError, TypeError, AttributeError) as error:
        return told(error), True
    settings = {"eps": 0.25, "eps_step": 0.05, "norm": np.inf}
    first = living.run(x, y).success.mean()
    second = attacks.get("pgd", **settings).bind(cnn()).run(x, y).success.mean()
    fresh = attacks.get("pgd", **settings).bind(Classifier(cnn())).run(x, y).success.mean()
    return ", ".join(map(share, (first, second, fresh))), first == second == fresh


@case(
    "r",
    "`eps = -0.2` set on a living attack",
    "refused",
    "tests/engine/test_state.py::test_a_hyperparameter_that_is_assigned",
)
def r_eps() -> Outcome:
    attack = attacks.get("fgsm", eps=0.1).bind(cnn())

    def put() -> None:
        attack.eps = -0.2

    return refusal(put, "eps")


@case(
    "s",
    "`eps` of shape (3,) for three RGB images",
    "refused as ambiguous",
    "tests/test_bad_input.py::test_budgets_of_samples_or_of_channels",
)
def s_shape() -> Outcome:
    model, x = linear((5, 5, 3), 4), points(3, 5, 5, 3)
    eps = np.array([0.02, 0.05, 0.09])
    return refusal(lambda: attacks.get("pgd", eps=eps).bind(model).run(x), "eps")


def outcome_of(one: Case) -> tuple[str, bool]:
    """What came out, an error or a hang too."""

    def late(*_: Any) -> None:
        raise TimeoutError("no end in sight")

    signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return one.run()
    except Exception as error:  # an error is an outcome
        return told(error), False
    finally:
        signal.alarm(0)


def cell(text: str) -> str:
    """Text that fits between the bars of a table."""
    return text.replace("|", "\\|").replace(str(folder()) + "/", "")


def main(options: argparse.Namespace) -> int:
    """Plays the cases, prints the table; 1 where one is wrong."""
    chosen = [one for one in CASES if not options.rows or one.row in options.rows]
    found = []
    for one in chosen:
        text, right = outcome_of(one)
        found.append({"tried": one.tried, "outcome": cell(text), "right": bool(right)})
        print(f"{one.row:3s} {'ok   ' if right else 'wrong'} {one.tried}: {text}", file=sys.stderr)
    if options.save is not None:
        options.save.write_text(json.dumps(found, indent=1), encoding="utf-8")
    before = {}
    if options.beside is not None:
        older = json.loads(options.beside.read_text(encoding="utf-8"))
        before = {one["tried"]: one for one in older}
    print("| | tried | right | before | after | test |")
    print("| --- | --- | --- | --- | --- | --- |")
    for one, now in zip(chosen, found, strict=True):
        columns = [before.get(one.tried), now]
        marked = [
            "" if c is None else f"{'ok' if c['right'] else '**wrong**'}: {c['outcome']}"
            for c in columns
        ]
        test = one.test.removeprefix("tests/")
        print("|", " | ".join([one.row, one.tried, one.right, *marked, f"`{test}`"]), "|")
    wrong = sum(not one["right"] for one in found)
    print(f"\n{len(found) - wrong} of {len(found)} right.", file=sys.stderr)
    return int(wrong > 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", nargs="+", help="letters; default: all")
    parser.add_argument("--save", type=pathlib.Path, help="file for what came out")
    parser.add_argument("--beside", type=pathlib.Path, help="such a file of another version")
    sys.exit(main(parser.parse_args()))
