"""Strength and speed of the attacks beside ART and Foolbox, in one run on one model.

    python benchmarks/attacks.py --model areb_cnn.keras --dataset mnist --attacks areb
    python benchmarks/attacks.py --model areb_cnn.keras --dataset mnist --attacks taxonomy

All get the same samples, batch size and logits and the same number of gradient steps, or of
candidates and evaluations. The budgets of the query attacks are small, so that ART ends within
minutes. JSMA is given the next class as its target, since ART would draw one. ART runs on this
library's compiled classifier, and with `--plain` once more on its own, which is what its users
have; its ZOO sends 128 points at a time, where ART itself sends one. Foolbox has BIM, MI-FGSM,
VAT, DeepFool and the boundary attack besides PGD, C&W, EAD and HopSkipJump, the boundary attack
with 24 steps of one or two queries for each of our iterations, which makes as many queries. VAT
differentiates at a distance of 1 in all of them, which is fixed in ART, whose `finite_diff` is the
step of a difference quotient.

The first table holds what each of them found and how long it took. A tool is marked "<" where ours
falls short of it: more than two samples fewer, or, where the nearest point is sought, a median more
than 3 % larger. The second table says what our time is made of:

* overhead: our seconds of computing over the summed cost of the passes that were executed, padding
  and judging included; on a CPU both are its own time, since one that is shared stands still at
  times. The passes are recorded in a run of their own, not timed, and their cost is measured in
  the same process, by calling them compiled on their own, at the batch sizes that were recorded,
  or at a few of these where they are many: as samples leave or find something, the others go on in
  smaller batches, which cost more per sample. DeepFool, and the universal perturbation that is
  built on it, differentiate the nine likeliest other classes on one forward pass and count nine
  gradients for it: there a gradient costs a ninth of such a pass.
* passes saved: 1 - executed / naive, where naive takes every step for every sample, or as many
  passes for every sample as for the one that took most if the number of steps is not fixed.
* forward limit (query attacks): how many times faster than ART its own number of queries would be
  if they cost our forward pass at those batch sizes and nothing else, and which share of it we
  reach.

With `--alone` only ours run, for the second table without waiting for the others. Seconds are the
best of the repeats, after a run that compiles. Nothing else should be running. The last line is
JSON.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import eagerpy
import foolbox
import keras
import numpy as np
import tensorflow as tf
from art.estimators.classification import TensorFlowV2Classifier
from rich.console import Console
from rich.table import Table

from kerasrobust import attacks, datasets, models
from kerasrobust.engine.classifier import Classifier
from kerasrobust.losses import cross_entropy

# The time that this process computes, where it computes by itself.
CLOCK = time.perf_counter if tf.config.list_physical_devices("GPU") else time.process_time
PASS_REPEATS = 5
PASS_SECONDS = 0.2
# At most so many batch sizes of a kind of pass are timed.
MOST_SIZES = 12


@dataclasses.dataclass
class Row:
    """One attack: its registry name, settings by ART's names, and Foolbox's attack from them.

    Attributes:
        make: Foolbox's attack from the settings; None where it has none.
        random: Whether it is run with every seed.
        passes: Passes of a step, where every sample takes every step.
        classes: Backward passes on one forward pass; 0 for one, of the loss.
        ours: Settings of ours where an argument means something else to ART.
    """

    name: str
    norm: float
    settings: dict[str, Any]
    make: Callable[[dict[str, Any]], Any] | None = None
    random: bool = False
    passes: int = 0
    classes: int = 0
    ours: dict[str, Any] = dataclasses.field(default_factory=dict)


def _elastic(s: dict[str, Any]) -> Any:
    return foolbox.attacks.EADAttack(
        s["binary_search_steps"],
        s["max_iter"],
        initial_stepsize=s["learning_rate"],
        initial_const=s["initial_const"],
        regularization=s["beta"],
        abort_early=False,  # as ours and ART's: all steps are taken
    )


ELASTIC = {"learning_rate": 0.01, "beta": 0.001, "initial_const": 0.001}
AREB = {
    "pgd": Row(
        "pgd",
        math.inf,
        {"eps": 0.3, "eps_step": 0.01, "max_iter": 40, "num_random_init": 1},
        lambda s: foolbox.attacks.LinfPGD(abs_stepsize=s["eps_step"], steps=s["max_iter"]),
        random=True,
        passes=1,
    ),
    "cwl2": Row(
        "cwl2",
        2,
        {
            "binary_search_steps": 10,
            "max_iter": 100,
            "learning_rate": 0.1,
            "initial_const": 0.1,
            "abort_early": False,
        },
        lambda s: foolbox.attacks.L2CarliniWagnerAttack(
            s["binary_search_steps"],
            s["max_iter"],
            stepsize=s["learning_rate"],
            initial_const=s["initial_const"],
            abort_early=s["abort_early"],
        ),
        passes=1,
    ),
    # EAD looks at every iterate besides.
    "ead": Row(
        "ead", 1, {**ELASTIC, "binary_search_steps": 9, "max_iter": 100}, _elastic, passes=2
    ),
    "ead-20x10": Row(
        "ead", 1, {**ELASTIC, "binary_search_steps": 20, "max_iter": 10}, _elastic, passes=2
    ),
    "hsja": Row(
        "hsja",
        2,
        {"max_iter": 10, "max_eval": 100, "init_eval": 100},
        lambda s: foolbox.attacks.HopSkipJumpAttack(
            None, s["max_iter"], s["init_eval"], s["max_eval"]
        ),
        random=True,
    ),
}
# VAT differentiates at this distance: ART's.
XI = 1.0
TAXONOMY = {
    "bim": Row(
        "bim",
        math.inf,
        {"eps": 0.1, "eps_step": 0.01, "max_iter": 20},
        lambda s: foolbox.attacks.LinfBasicIterativeAttack(
            abs_stepsize=s["eps_step"], steps=s["max_iter"], random_start=False
        ),
        passes=1,
    ),
    "mifgsm": Row(
        "mifgsm",
        math.inf,
        {"eps": 0.1, "eps_step": 0.01, "max_iter": 20, "decay": 1.0},
        lambda s: foolbox.attacks.LinfMomentumIterativeFastGradientMethod(
            momentum=s["decay"], abs_stepsize=s["eps_step"], steps=s["max_iter"]
        ),
        passes=1,
    ),
    "apgd": Row("apgd", math.inf, {"eps": 0.1, "max_iter": 50, "nb_random_init": 1}, random=True),
    "vat": Row(
        "vat",
        2,
        {"eps": 2.0, "finite_diff": 0.01, "max_iter": 5},
        lambda s: foolbox.attacks.VirtualAdversarialAttack(s["max_iter"], XI),
        random=True,
        ours={"finite_diff": XI},
    ),
    "jsma": Row("jsma", 0, {"theta": 1.0, "gamma": 0.145, "targeted": True}),
    "deepfool": Row(
        "deepfool",
        2,
        {"max_iter": 50, "epsilon": 0.02, "nb_grads": 10},
        lambda s: foolbox.attacks.L2DeepFoolAttack(
            steps=s["max_iter"], candidates=s["nb_grads"], overshoot=s["epsilon"]
        ),
        classes=9,
    ),
    "uap": Row(
        "uap",
        math.inf,
        {"eps": 0.3, "max_iter": 5, "delta": 0.2, "attacker_params": {"max_iter": 10}},
        random=True,
        classes=9,
    ),
    "cwl0": Row(
        "cwl0",
        0,
        {"binary_search_steps": 4, "max_iter": 10, "learning_rate": 0.1, "initial_const": 1.0},
    ),
    "cwlinf": Row(
        "cwlinf",
        math.inf,
        {
            "max_iter": 30,
            "learning_rate": 0.1,
            "initial_const": 5.0,
            "largest_const": 20.0,
            "const_factor": 2.0,
        },
    ),
    "zoo": Row(
        "zoo",
        2,
        {
            "max_iter": 30,
            "learning_rate": 0.2,
            "initial_const": 10.0,
            "nb_parallel": 128,
            "use_resize": False,
            "use_importance": False,
            "abort_early": False,
        },
        random=True,
    ),
    "boundary": Row(
        "boundary",
        2,
        {"max_iter": 100, "delta": 0.01, "epsilon": 0.01, "sample_size": 20},
        lambda s: foolbox.attacks.BoundaryAttack(
            None,
            6 * s["max_iter"] * s["sample_size"] // 5,
            spherical_step=s["delta"],
            source_step=s["epsilon"],
        ),
        random=True,
    ),
    "signopt": Row("signopt", 2, {"max_iter": 5, "k": 100, "num_trial": 50}, random=True),
    "square": Row("square", math.inf, {"eps": 0.2, "max_iter": 1000}, random=True),
    "simba": Row("simba", 2, {"attack": "px", "epsilon": 0.2, "max_iter": 500}, random=True),
}
GROUPS = {"areb": AREB, "taxonomy": TAXONOMY}
ROWS = {**AREB, **TAXONOMY}
# A smaller change is none, where changes are counted.
UNCHANGED = 1e-6


@dataclasses.dataclass
class Outcome:
    """What one tool found and used; `queries` and `gradients` are means per sample."""

    success: list[float] = dataclasses.field(default_factory=list)
    median: list[float] = dataclasses.field(default_factory=list)
    seconds: float = math.inf
    queries: float | None = None
    gradients: float | None = None
    failure: str = ""

    def add(self, success: np.ndarray, distance: np.ndarray, seconds: float, seen: bool) -> None:
        """A run; of a seed seen before only its time counts."""
        if not seen:
            self.success.append(float(success.sum()))
            self.median.append(float(np.median(distance)))
        self.seconds = min(self.seconds, seconds)


class Bench:
    """The model, the samples and how often to run."""

    def __init__(self, model: keras.Model, x: np.ndarray, y: np.ndarray, batch_size: int):
        self.model, self.x, self.y = model, x, y
        self.classifier = Classifier.of(model)
        self.batch_size = min(batch_size, len(x))
        self.forwards = 0
        self.labels = self.classifier.predict(x).argmax(axis=1)
        self.costs: dict[tuple[int, int], float] = {}

    def goal(self, row: Row) -> np.ndarray:
        """Labels, or the next class for a target."""
        return (self.y + 1) % self.classifier.nb_classes if self.targeted(row) else self.y

    @staticmethod
    def targeted(row: Row) -> bool:
        return bool(row.settings.get("targeted"))

    def judge(self, x_adv: np.ndarray, row: Row) -> tuple[np.ndarray, np.ndarray]:
        """Success, and distances with failures infinite and samples adversarial at once zero."""
        goal, aimed = self.goal(row), self.targeted(row)
        success = (self.classifier.predict(x_adv).argmax(axis=1) == goal) == aimed
        delta = (x_adv - self.x).reshape(len(x_adv), -1)
        delta[np.abs(delta) <= UNCHANGED] = 0
        distance = np.linalg.norm(delta, ord=row.norm, axis=1)
        at_once = (self.labels == goal) == aimed
        return success, np.where(at_once, 0.0, np.where(success, distance, math.inf))

    def native(
        self,
        row: Row,
        prefix: str,
        settings: dict[str, Any],
        seed: int,
        classifier: Classifier | None = None,
    ) -> Any:
        """The attack of this library, or ART's behind the same contract."""
        if not prefix:
            settings = {**settings, **row.ours}
        attack = attacks.get(prefix + row.name, **settings, seed=seed, batch_size=self.batch_size)
        return attack.bind(classifier or self.classifier)

    def foolbox(self, row: Row, settings: dict[str, Any], seed: int) -> tuple[np.ndarray, float]:
        """Foolbox's adversarial samples and seconds."""

        def logits(x: tf.Tensor) -> tf.Tensor:
            self.forwards += len(x)
            return self.classifier.logits(x)

        keras.utils.set_random_seed(seed)
        model = foolbox.models.TensorFlowModel(logits, bounds=self.classifier.clip_values)
        x, y = eagerpy.astensors(tf.constant(self.x), tf.constant(self.y, tf.int32))
        x_adv, options, rows = self.x.copy(), {}, np.ones(len(self.x), bool)
        assert row.make is not None
        begin = time.perf_counter()
        if row.name in ("hsja", "boundary"):
            # One sample without a start would stop the whole batch: it fails, the others go on.
            starts = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(steps=50)
            _, points, rows = starts(model, x, y, epsilons=None)
            rows = rows.numpy()
            keep = np.flatnonzero(rows)
            x, y, options = x[keep], y[keep], {"starting_points": points[keep]}
        _, found, _ = row.make(settings)(model, x, y, epsilons=settings.get("eps"), **options)
        x_adv[rows] = found.numpy()
        seconds = time.perf_counter() - begin
        # C&W and EAD return zeros where they fail, and a black image may well have another label.
        failed = (x_adv == 0).all(axis=tuple(range(1, x_adv.ndim)))
        x_adv[failed] = self.x[failed]
        return x_adv, seconds

    def plain_art(self, row: Row, settings: dict[str, Any], seed: int) -> tuple[np.ndarray, float]:
        """ART on its own TensorFlow classifier, as its users run it."""
        attack = self.native(row, "art:", settings, seed)
        classifier = self.classifier

        def scores(x: tf.Tensor, training: bool = False) -> tf.Tensor:
            logits = classifier.logits(x)
            return tf.nn.softmax(logits) if attack.probabilities else logits

        estimator = TensorFlowV2Classifier(
            scores,
            nb_classes=classifier.nb_classes,
            input_shape=self.x.shape[1:],
            loss_object=keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum"),
            clip_values=classifier.clip_values,
        )
        original = attack.make(estimator)
        labels = attack.labels(self.goal(row), classifier.nb_classes)
        keras.utils.set_random_seed(seed)
        begin = time.perf_counter()
        x_adv = original.generate(self.x, labels)
        return np.asarray(x_adv, np.float32), time.perf_counter() - begin

    def pass_cost(self, rows: int, backward: int) -> float:
        """Seconds of a compiled pass over `rows` samples.

        Args:
            rows: Samples in the pass.
            backward: -1 for a forward pass alone, 0 for the gradient of the loss, or as many
                classes to differentiate on one forward pass.
        """
        if (rows, backward) not in self.costs:
            self.costs[rows, backward] = self._measure(rows, backward)
        return self.costs[rows, backward]

    def record(self, row: Row, settings: dict[str, Any], seed: int) -> dict[int, np.ndarray]:
        """The sizes of all passes that a run of ours makes, by `backward` as in `pass_cost`."""
        recorder = Recorder(self.model, row.classes)
        self.native(row, "", settings, seed, recorder).run(self.x, self.goal(row))
        return {kind: np.sort(sizes) for kind, sizes in recorder.made.items()}

    def total_cost(self, sizes: np.ndarray, backward: int) -> float:
        """Seconds of passes of these sizes (sorted); of many, some stand for their neighbours."""
        some = np.unique(sizes)
        if len(some) > MOST_SIZES:
            some = np.unique(np.quantile(sizes, np.linspace(0, 1, MOST_SIZES), method="nearest"))
        costs = [self.pass_cost(int(size), backward) for size in some]
        return float(np.interp(sizes, some, costs).sum())

    def _measure(self, rows: int, backward: int) -> float:
        repeats = -(-rows // len(self.x))
        x = tf.constant(np.concatenate([self.x] * repeats)[:rows])
        y = tf.constant(np.concatenate([self.y] * repeats)[:rows], tf.int32)
        classifier = self.classifier

        @tf.function(jit_compile=classifier.jit_compile)
        def one(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            if backward < 0:
                return classifier.logits(x)
            if backward == 0:
                return classifier.gradient(x, lambda logits: cross_entropy(logits, y))[2]
            classes = tf.math.floormod(y[:, None] + tf.range(backward), classifier.nb_classes)
            return classifier.jacobian(x, lambda _: tf.one_hot(classes, classifier.nb_classes))[1]

        def timed(calls: int) -> float:
            begin = CLOCK()
            for _ in range(calls):
                result = one(x, y)
            result.numpy()
            return (CLOCK() - begin) / calls

        timed(2)
        calls = max(3, int(PASS_SECONDS / timed(3)))
        return min(timed(calls) for _ in range(PASS_REPEATS))


class Recorder(Classifier):
    """A classifier that notes the size of every pass through it.

    Args:
        model: The network.
        classes: Of the passes that differentiate several classes, see `Row`.
    """

    def __init__(self, model: keras.Model, classes: int):
        super().__init__(model)
        self.classes = classes
        self.made: dict[int, list[int]] = {}
        self._inside = False

    def _note(self, backward: int, x: tf.Tensor) -> None:
        def note(rows: np.ndarray) -> None:
            self.made.setdefault(backward, []).append(int(rows))

        if not self._inside:
            tf.numpy_function(note, [tf.shape(x)[0]], [])

    @contextlib.contextmanager
    def _within(self) -> Iterator[None]:
        inside, self._inside = self._inside, True
        try:
            yield
        finally:
            self._inside = inside

    def logits(self, x: tf.Tensor, *arguments: Any, **options: Any) -> tf.Tensor:
        self._note(-1, x)
        return super().logits(x, *arguments, **options)

    def gradient(self, x: tf.Tensor, *arguments: Any, **options: Any) -> Any:
        self._note(0, x)
        with self._within():
            return super().gradient(x, *arguments, **options)

    def jacobian(self, x: tf.Tensor, *arguments: Any, **options: Any) -> Any:
        self._note(self.classes, x)
        with self._within():
            return super().jacobian(x, *arguments, **options)


def run(
    bench: Bench,
    label: str,
    row: Row,
    override: dict[str, Any],
    repeats: int,
    seeds: list[int],
    plain: bool,
    alone: bool,
) -> dict[str, Any]:
    """All runs of one attack, the tools taking turns; the figures of both tables."""
    settings = {**row.settings, **{k: v for k, v in override.items() if k in row.settings}}
    seeds = seeds if row.random else seeds[:1]
    goal = bench.goal(row)
    ours, art, own, fool = Outcome(), Outcome(), Outcome(), Outcome()
    # Compiles everything: ours by a whole run, since late steps have shapes of their own.
    bench.native(row, "", settings, seeds[0]).run(bench.x, goal)
    if not alone:
        short = {**settings, **({"max_iter": 1} if "max_iter" in settings else {})}
        bench.native(row, "art:", short, seeds[0]).run(bench.x[:2], goal[:2])
    compiled = [(ours, "")] if alone else [(ours, ""), (art, "art:")]
    beside = row.make is not None and not alone
    result, fastest, computing = None, seeds[0], math.inf
    for index in range(max(repeats, len(seeds))):
        seed, seen = seeds[index % len(seeds)], index >= len(seeds)
        for outcome, prefix in compiled:
            attack = bench.native(row, prefix, settings, seed)
            begin = CLOCK()
            found = attack.run(bench.x, goal)
            taken = CLOCK() - begin
            if prefix == "" and taken < computing:
                result, fastest, computing = found, seed, taken
            outcome.queries, outcome.gradients = found.queries.mean(), found.gradients.mean()
            outcome.add(*bench.judge(found.x_adv, row), found.seconds, seen)
        if plain and index == 0:  # it is slow, and compiles nothing that a first run would have to
            try:
                x_adv, seconds = bench.plain_art(row, settings, seed)
            except Exception as error:  # some of ART's attacks do not run on ART's own classifier
                own.failure = f"failed, {type(error).__name__}: {error}"
            else:
                own.add(*bench.judge(x_adv, row), seconds, seen)
        if beside and not fool.failure:
            bench.forwards = 0
            try:
                x_adv, seconds = bench.foolbox(row, settings, seed)
            except AssertionError as error:  # a point on the boundary, lost to rounding
                fool.failure = f"failed, {error or 'an assertion of its own'}"
            else:
                fool.add(*bench.judge(x_adv, row), seconds, seen)
                fool.queries = bench.forwards / len(bench.x)
    assert result is not None
    return {
        "label": label,
        "norm": str(row.norm),
        "kind": attacks.get(row.name).kind,
        "settings": settings,
        "tools": {
            "kerasrobust": ours,
            **({} if alone else {"ART": art}),
            **({"ART, plain": own} if plain else {}),
            **({"Foolbox": fool} if beside else {}),
        },
        "cost": cost(bench, row, settings, result, fastest, computing, ours, art),
    }


def cost(
    bench: Bench,
    row: Row,
    settings: dict[str, Any],
    result: Any,
    seed: int,
    computing: float,
    ours: Outcome,
    art: Outcome,
) -> dict[str, float]:
    """What our time is made of; `result` is our fastest run, of that seed and so many seconds."""
    attack = bench.native(row, "", settings, seed)
    n = len(bench.x)
    made = bench.record(row, settings, seed)
    spent = {backward: bench.total_cost(sizes, backward) for backward, sizes in made.items()}
    query = spent.pop(-1)
    gradient = sum(spent.values())
    alone = query / made[-1].sum()
    every = np.concatenate(list(made.values()))
    # The two judging passes are no part of the algorithm.
    executed = result.executed_gradients + max(result.executed_queries - 2 * n, 0)
    most = float((result.queries + result.gradients).max()) - 2
    naive = n * (row.passes * attack.max_steps() if row.passes else max(most, 1.0))
    figures = {
        "rows": float((every**2).sum() / every.sum()),
        "executed_gradients": result.executed_gradients,
        "executed_queries": result.executed_queries,
        "query_us": 1e6 * alone,
        "overhead": computing / (query + gradient),
        "passes_saved": 1 - executed / naive,
    }
    if result.executed_gradients:
        figures["gradient_us"] = 1e6 * gradient / result.executed_gradients
    if math.isinf(art.seconds):
        return figures
    if attack.access != "gradient":
        figures["forward_limit"] = art.seconds / (art.queries * n * alone)
        figures["share"] = art.queries * n * alone / computing
    elif art.gradients > ours.gradients:
        figures["per_gradient"] = (art.seconds / art.gradients) / (ours.seconds / ours.gradients)
    return figures


def falls_short(kind: str, ours: Outcome, theirs: Outcome) -> bool:
    """Whether ours finds less than theirs, beyond the tolerance, or farther away."""
    if np.mean(ours.success) < np.mean(theirs.success) - 2:
        return True
    return kind == "minimal" and bool(np.mean(ours.median) > 1.03 * np.mean(theirs.median))


def show(console: Console, reports: list[dict[str, Any]], n: int) -> None:
    """Prints both tables."""
    found = Table(title=f"Strength and speed, {n} samples (speed-up: times ours)")
    for name in ("attack", "tool"):
        found.add_column(name)
    columns = ("success", "median", "s", "speed-up", "gradients", "queries")
    for name in columns:
        found.add_column(name, justify="right")
    found.add_column("ours <")
    for report in reports:
        ours = report["tools"]["kerasrobust"]
        base = ours.seconds
        for tool, outcome in report["tools"].items():
            if outcome.failure:
                console.print(f"{report['label']}, {tool}: {outcome.failure}")
                continue
            # Foolbox does not tell its gradients from its forward passes.
            gradients = "" if outcome.gradients is None else f"{outcome.gradients:.0f}"
            found.add_row(
                f"{report['label']} L{report['norm']}",
                tool,
                f"{np.mean(outcome.success):.1f}",
                f"{np.mean(outcome.median):.4g}",
                f"{outcome.seconds:.3f}",
                "" if tool == "kerasrobust" else f"{outcome.seconds / base:.1f}",
                gradients,
                "" if outcome.queries is None else f"{outcome.queries:.0f}",
                "<" if falls_short(report["kind"], ours, outcome) else "",
            )
        found.add_section()
    console.print(found)
    made = Table(title="What our seconds are made of")
    made.add_column("attack")
    names = {
        "rows": ("batch", "{:.0f}"),
        "gradient_us": ("us / gradient", "{:.1f}"),
        "query_us": ("us / query", "{:.1f}"),
        "overhead": ("overhead", "{:.2f}"),
        "passes_saved": ("passes saved", "{:.0%}"),
        "per_gradient": ("x ART per gradient", "{:.1f}"),
        "forward_limit": ("forward limit", "{:.2f}"),
        "share": ("share of it", "{:.2f}"),
    }
    for title, _ in names.values():
        made.add_column(title, justify="right")
    for report in reports:
        figures = report["cost"]
        cells = [
            form.format(figures[key]) if key in figures else "" for key, (_, form) in names.items()
        ]
        made.add_row(report["label"], *cells)
    console.print(made)


def _plain(value: Any) -> Any:
    """JSON knows no infinity: a string stands for it."""
    if isinstance(value, Outcome):
        value = dataclasses.asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--model", required=True, type=click.Path(exists=True), help="Keras model file.")
@click.option("--dataset", default="mnist", show_default=True, help="Name, as kr-eval takes it.")
@click.option("--data-dir", default=None, help="Folder of prepared TFDS data sets.")
@click.option("--samples", default=100, show_default=True, type=click.IntRange(1))
@click.option("--repeats", default=3, show_default=True, type=click.IntRange(1))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1))
@click.option(
    "--attacks",
    "names",
    default="areb",
    show_default=True,
    help=f"Separated by commas: areb, taxonomy (groups), {', '.join(ROWS)}.",
)
@click.option("--max-iter", default=None, type=click.IntRange(1), help="Instead of each attack's.")
@click.option(
    "--binary-search-steps", default=None, type=click.IntRange(1), help="Instead of each attack's."
)
@click.option("--plain", is_flag=True, help="Run ART on its own TensorFlow classifier as well.")
@click.option("--alone", is_flag=True, help="Run neither ART nor Foolbox, for what ours costs.")
@click.option("--output", default=None, type=click.Path(), help="Write the figures as JSON.")
def main(
    model: str,
    dataset: str,
    data_dir: str | None,
    samples: int,
    repeats: int,
    seeds: int,
    batch_size: int,
    names: str,
    max_iter: int | None,
    binary_search_steps: int | None,
    plain: bool,
    alone: bool,
    output: str | None,
) -> None:
    """Runs the benchmark and prints its tables."""
    if alone and plain:
        raise click.UsageError("--alone runs no ART.")
    given = [name.strip() for name in names.split(",")]
    chosen = [row for name in given for row in GROUPS.get(name, [name])]
    unknown = sorted(set(chosen) - set(ROWS))
    if unknown:
        raise click.BadParameter(
            f"unknown {', '.join(unknown)}; known: {', '.join([*GROUPS, *ROWS])}"
        )
    if not hasattr(np, "find_common_type"):
        # eagerpy 0.30, below Foolbox, calls a function that NumPy 2 has dropped.
        np.find_common_type = lambda arrays, scalars: np.result_type(*arrays, *scalars)
    # Of packages that are not there, of functions soon to be dropped, of samples without a start.
    warnings.filterwarnings("ignore")
    tf.get_logger().setLevel("ERROR")
    logging.getLogger("art").setLevel("ERROR")
    console = Console(width=None if sys.stdout.isatty() else 120)
    data = datasets.load(dataset, "test", data_dir=data_dir, samples=samples)
    bench = Bench(models.load(model), data.x, data.y, batch_size)
    override = {"max_iter": max_iter, "binary_search_steps": binary_search_steps}
    override = {key: value for key, value in override.items() if value is not None}
    reports = []
    for name in chosen:
        console.print(f"{name} ...", style="dim")
        every = list(range(seeds))
        outcome = run(bench, name, ROWS[name], override, repeats, every, plain, alone)
        reports.append(outcome)
        if output:  # after each attack: some of ART's take long, and a run may be cut short
            Path(output).write_text(json.dumps(_plain(reports), indent=2), encoding="utf-8")
    show(console, reports, len(data.x))
    print(json.dumps(_plain(reports)))


if __name__ == "__main__":
    main()
