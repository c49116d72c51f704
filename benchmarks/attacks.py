"""Strength and speed of the attacks beside ART and Foolbox, in one run on one model.

    python benchmarks/attacks.py --model areb_cnn.keras --dataset mnist

All get the same samples, batch size and logits and the same number of gradient steps, or of
boundary steps and evaluations. ART runs on this library's compiled classifier, and with `--plain`
once more on its own, which is what its users have. The first table holds what each of them found
and how long it took; the second what our time is made of:

* overhead: our seconds over the summed cost of the passes that were executed, padding included.
  The cost of a pass is measured in the same run, by calling it compiled on its own at the batch
  size of the attack (for HopSkipJump at that of its estimates).
* passes saved: 1 - executed / naive, where naive takes every step for every sample, or in
  HopSkipJump as many queries for every sample as for the one that took most.
* forward limit (HopSkipJump): how many times faster than ART its own number of queries would be if
  they cost our forward pass at that batch size and nothing else, and which share of it we reach.

Seconds are the best of the repeats, after a run that compiles. Nothing else should be running.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
import warnings
from collections.abc import Callable
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
from kerasrobust.classifier import Classifier
from kerasrobust.losses import cross_entropy

PASS_REPEATS = 5
PASS_SECONDS = 0.5


@dataclasses.dataclass
class Row:
    """One attack: its registry name, settings by ART's names, and Foolbox's attack from them."""

    name: str
    norm: float
    settings: dict[str, Any]
    make: Callable[[dict[str, Any]], Any]
    random: bool = False

    def rival(self, settings: dict[str, Any]) -> Any:
        return self.make(settings)


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
ROWS = {
    "pgd": Row(
        "pgd",
        math.inf,
        {"eps": 0.3, "eps_step": 0.01, "max_iter": 40, "num_random_init": 1},
        lambda s: foolbox.attacks.LinfPGD(abs_stepsize=s["eps_step"], steps=s["max_iter"]),
        random=True,
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
    ),
    "ead": Row("ead", 1, {**ELASTIC, "binary_search_steps": 9, "max_iter": 100}, _elastic),
    "ead-20x10": Row("ead", 1, {**ELASTIC, "binary_search_steps": 20, "max_iter": 10}, _elastic),
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
        self.wrong = self.classifier.predict(x).argmax(axis=1) != y

    def judge(self, x_adv: np.ndarray, norm: float) -> tuple[np.ndarray, np.ndarray]:
        """Success, and distances with failures infinite and samples wrong from the start zero."""
        success = self.classifier.predict(x_adv).argmax(axis=1) != self.y
        distance = np.linalg.norm((x_adv - self.x).reshape(len(x_adv), -1), ord=norm, axis=1)
        return success, np.where(self.wrong, 0.0, np.where(success, distance, math.inf))

    def native(self, row: Row, prefix: str, settings: dict[str, Any], seed: int) -> Any:
        """The attack of this library, or ART's behind the same contract."""
        attack = attacks.get(prefix + row.name, **settings, seed=seed, batch_size=self.batch_size)
        return attack.bind(self.classifier)

    def foolbox(self, row: Row, settings: dict[str, Any], seed: int) -> tuple[np.ndarray, float]:
        """Foolbox's adversarial samples and seconds."""

        def logits(x: tf.Tensor) -> tf.Tensor:
            self.forwards += len(x)
            return self.classifier.logits(x)

        keras.utils.set_random_seed(seed)
        model = foolbox.models.TensorFlowModel(logits, bounds=self.classifier.clip_values)
        x, y = eagerpy.astensors(tf.constant(self.x), tf.constant(self.y, tf.int32))
        x_adv, options, rows = self.x.copy(), {}, np.ones(len(self.x), bool)
        begin = time.perf_counter()
        if row.name == "hsja":
            # One sample without a start would stop the whole batch: it fails, the others go on.
            starts = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(steps=50)
            _, points, rows = starts(model, x, y, epsilons=None)
            rows = rows.numpy()
            keep = np.flatnonzero(rows)
            x, y, options = x[keep], y[keep], {"starting_points": points[keep]}
        _, found, _ = row.rival(settings)(model, x, y, epsilons=settings.get("eps"), **options)
        x_adv[rows] = found.numpy()
        seconds = time.perf_counter() - begin
        # C&W and EAD return zeros where they fail, and a black image may well have another label.
        failed = (x_adv == 0).all(axis=tuple(range(1, x_adv.ndim)))
        x_adv[failed] = self.x[failed]
        return x_adv, seconds

    def plain_art(self, row: Row, settings: dict[str, Any], seed: int) -> tuple[np.ndarray, float]:
        """ART on its own TensorFlow classifier, as its users run it."""
        estimator = TensorFlowV2Classifier(
            self.classifier.logits,
            nb_classes=self.classifier.nb_classes,
            input_shape=self.x.shape[1:],
            loss_object=keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum"),
            clip_values=self.classifier.clip_values,
        )
        attack = self.native(row, "art:", settings, seed).make(estimator)
        np.random.seed(seed)
        begin = time.perf_counter()
        x_adv = attack.generate(self.x, self.y)
        return np.asarray(x_adv, np.float32), time.perf_counter() - begin

    def pass_cost(self, rows: int, gradient: bool) -> float:
        """Seconds of one sample in a compiled pass over `rows` samples."""
        repeats = -(-rows // len(self.x))
        x = tf.constant(np.concatenate([self.x] * repeats)[:rows])
        y = tf.constant(np.concatenate([self.y] * repeats)[:rows], tf.int32)
        classifier = self.classifier

        @tf.function(jit_compile=classifier.jit_compile)
        def one(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            if gradient:
                return classifier.gradient(x, lambda logits: cross_entropy(logits, y))[2]
            return classifier.logits(x)

        def timed(calls: int) -> float:
            begin = time.perf_counter()
            for _ in range(calls):
                result = one(x, y)
            result.numpy()
            return (time.perf_counter() - begin) / calls

        timed(2)
        calls = max(3, int(PASS_SECONDS / timed(3)))
        return min(timed(calls) for _ in range(PASS_REPEATS)) / rows


def run(
    bench: Bench,
    label: str,
    row: Row,
    override: dict[str, Any],
    repeats: int,
    seeds: list[int],
    plain: bool,
) -> dict[str, Any]:
    """All runs of one attack, the tools taking turns; the figures of both tables."""
    settings = {**row.settings, **{k: v for k, v in override.items() if k in row.settings}}
    seeds = seeds if row.random else seeds[:1]
    ours, art, own, fool = Outcome(), Outcome(), Outcome(), Outcome()
    # Compiles everything: ours by a whole run, since late steps have shapes of their own.
    bench.native(row, "", settings, seeds[0]).run(bench.x, bench.y)
    short = {**settings, "max_iter": 1}
    bench.native(row, "art:", short, seeds[0]).run(bench.x[:2], bench.y[:2])
    result = None
    for index in range(max(repeats, len(seeds))):
        seed, seen = seeds[index % len(seeds)], index >= len(seeds)
        for outcome, prefix in ((ours, ""), (art, "art:")):
            found = bench.native(row, prefix, settings, seed).run(bench.x, bench.y)
            if prefix == "" and found.seconds < outcome.seconds:
                result = found
            outcome.queries, outcome.gradients = found.queries.mean(), found.gradients.mean()
            outcome.add(*bench.judge(found.x_adv, row.norm), found.seconds, seen)
        if plain and index == 0:  # it is slow, and compiles nothing that a first run would have to
            x_adv, seconds = bench.plain_art(row, settings, seed)
            own.add(*bench.judge(x_adv, row.norm), seconds, seen)
        if not fool.failure:
            bench.forwards = 0
            try:
                x_adv, seconds = bench.foolbox(row, settings, seed)
            except AssertionError as error:  # a point on the boundary, lost to rounding
                fool.failure = f"failed, {error or 'an assertion of its own'}"
            else:
                fool.add(*bench.judge(x_adv, row.norm), seconds, seen)
                fool.queries = bench.forwards / len(bench.x)
    assert result is not None
    return {
        "label": label,
        "norm": str(row.norm),
        "settings": settings,
        "tools": {
            "kerasrobust": ours,
            "ART": art,
            **({"ART, plain": own} if plain else {}),
            "Foolbox": fool,
        },
        "cost": cost(bench, row, settings, result, ours, art),
    }


def cost(
    bench: Bench, row: Row, settings: dict[str, Any], result: Any, ours: Outcome, art: Outcome
) -> dict[str, float]:
    """What our time is made of."""
    attack = bench.native(row, "", settings, 0)
    rows = bench.batch_size
    n = len(bench.x)
    if row.name == "hsja":
        rows *= attack._draws(math.prod(bench.x.shape[1:]))
        naive = n * float(result.queries.max())
        executed = result.executed_queries
    else:
        per_step = 2 if row.name == "ead" else 1  # EAD looks at every iterate besides
        naive = per_step * n * attack.max_steps()
        # The two judging passes are no part of the algorithm.
        executed = result.executed_gradients + max(result.executed_queries - 2 * n, 0)
    query = bench.pass_cost(rows, gradient=False)
    gradient = bench.pass_cost(rows, gradient=True) if result.executed_gradients else 0.0
    passes = result.executed_gradients * gradient + result.executed_queries * query
    figures = {
        "gradient_us": 1e6 * gradient,
        "query_us": 1e6 * query,
        "rows": rows,
        "executed_gradients": result.executed_gradients,
        "executed_queries": result.executed_queries,
        "overhead": result.seconds / passes,
        "passes_saved": 1 - executed / naive,
    }
    if row.name == "hsja":
        figures["forward_limit"] = art.seconds / (art.queries * n * query)
        figures["share"] = art.seconds / ours.seconds / figures["forward_limit"]
    elif art.gradients > ours.gradients:
        figures["per_gradient"] = (art.seconds / art.gradients) / (ours.seconds / ours.gradients)
    return figures


def show(console: Console, reports: list[dict[str, Any]], n: int) -> None:
    """Prints both tables."""
    found = Table(title=f"Strength and speed, {n} samples (speed-up: times ours)")
    for name in ("attack", "tool"):
        found.add_column(name)
    columns = ("success", "median", "s", "speed-up", "gradients", "queries")
    for name in columns:
        found.add_column(name, justify="right")
    for report in reports:
        base = report["tools"]["kerasrobust"].seconds
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
    "--attacks", "names", default=",".join(ROWS), show_default=True, help="Separated by commas."
)
@click.option("--max-iter", default=None, type=click.IntRange(1), help="Instead of each attack's.")
@click.option(
    "--binary-search-steps", default=None, type=click.IntRange(1), help="Instead of each attack's."
)
@click.option("--plain", is_flag=True, help="Run ART on its own TensorFlow classifier as well.")
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
    output: str | None,
) -> None:
    """Runs the benchmark and prints its tables."""
    chosen = [name.strip() for name in names.split(",")]
    unknown = sorted(set(chosen) - set(ROWS))
    if unknown:
        raise click.BadParameter(f"unknown {', '.join(unknown)}; known: {', '.join(ROWS)}")
    if not hasattr(np, "find_common_type"):
        # eagerpy 0.30, below Foolbox, calls a function that NumPy 2 has dropped.
        np.find_common_type = lambda arrays, scalars: np.result_type(*arrays, *scalars)
    # Of packages that are not there, of functions soon to be dropped, of samples without a start.
    warnings.filterwarnings("ignore")
    tf.get_logger().setLevel("ERROR")
    logging.getLogger("art").setLevel("ERROR")
    console = Console()
    data = datasets.load(dataset, "test", data_dir=data_dir, samples=samples)
    bench = Bench(models.load(model), data.x, data.y, batch_size)
    override = {"max_iter": max_iter, "binary_search_steps": binary_search_steps}
    override = {key: value for key, value in override.items() if value is not None}
    reports = []
    for name in chosen:
        console.print(f"{name} ...", style="dim")
        outcome = run(bench, name, ROWS[name], override, repeats, list(range(seeds)), plain)
        reports.append(outcome)
    show(console, reports, len(data.x))
    if output:
        for report in reports:
            tools = {tool: dataclasses.asdict(found) for tool, found in report["tools"].items()}
            report["tools"] = tools
        Path(output).write_text(json.dumps(_plain(reports), indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
