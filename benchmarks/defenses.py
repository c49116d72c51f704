"""What a training step costs with each defense, over a plain step of the same network.

    python benchmarks/defenses.py --dataset mnist
    python benchmarks/defenses.py --dataset random --defenses pgd-7,vat --batch-size 64

The network is the AREB CNN; it first trains a little without a defense, because attacks end early
on a network that is always wrong. After that the learning rate is zero: every step does all of its
work and none changes what the next one costs. Seconds per step are those of `fit`, the best of
some epochs after one that compiles. The plain network is measured again before and after each
defense, a ratio is taken to the better of the two; how far they lie apart is printed below.

Passes are counted by the network itself, in a run of the same steps that is not timed. Its columns
are in batches of the batch size, so that ten noisy copies of a batch are ten passes:

* forward: forward passes alone, of attacks that look where they are and of teachers;
* gradient: forward and backward passes that end at the inputs;
* training: forward and backward passes that end at the weights;
* passes: the sum, where a forward pass alone counts a half;
* method: the passes that the method itself has in its paper, counted in the same way. Where
  `passes` is larger, a pass was made for something else; where it is smaller, adversaries were
  found before the last step.

Two penalties differentiate an input gradient once more. Such a pass has a cost of its own, which is
measured as that of the others: "second", a training pass through the gradient of the loss, counts
two passes; "jacobian", one through the gradient of each logit, one and one for each class. Both
stand in the column of the training passes as one.

The cost of each kind of pass is measured in the same process, compiled on its own, at every batch
size that was counted. Predicted is the plain ratio of a step made of those passes, and of what a
plain step does besides its one training pass (the optimizer, Keras's loop). Overhead is measured
over predicted; the target is 1.1. GEA is the ratio in table 1 of that paper, where it has one; it
was measured on VGG networks on a GPU.

Nothing else should be running.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from kerasrobust import datasets, models
from kerasrobust.defenses import RobustModel, wrap
from kerasrobust.engine.classifier import Classifier
from kerasrobust.losses import cross_entropy

PASS_REPEATS = 5
PASS_SECONDS = 0.3
# How often a kind of pass was made over so many rows.
Counts = collections.defaultdict[tuple[str, int], float]


def crafts(name: str, **config: Any) -> dict[str, Any]:
    """Adversarial training with an attack, by its name and arguments."""
    alpha = config.pop("alpha", 0.0)
    attack = {"name": name, "config": config}
    return {"name": "adversarial_training", "config": {"attack": attack, "alpha": alpha}}


def pgd(steps: int, **config: Any) -> dict[str, Any]:
    return crafts("pgd", eps=0.3, eps_step=0.75 / steps, max_iter=steps, **config)


@dataclasses.dataclass(frozen=True)
class Row:
    """One defense.

    Attributes:
        defense: As `wrap` takes it; None for the network itself.
        passes: Passes of the method, counted as said above; NaN where the data decide.
        how: What they are.
        gea: Ratio in GEA's table 1.
        deeper: What one of its training passes of the batch size is, where it is more than that.
    """

    defense: Any
    passes: float
    how: str
    gea: float | None = None
    deeper: str = ""


# AREB's three at a budget that a benchmark can afford.
REDUCED = [
    {"name": "pgd", "config": {"eps": 0.3, "eps_step": 0.075, "max_iter": 10}},
    {"name": "ead", "config": {"max_iter": 5, "binary_search_steps": 2, "learning_rate": 0.1}},
    {"name": "hsja", "config": {"max_iter": 2, "init_eval": 20, "max_eval": 40}},
]
ROWS: dict[str, Row] = {
    "chain": Row([], 1, "1 training: the chain without a defense"),
    "gda-10": Row("gda:sigma=0.3,N=10", 10, "10 training"),
    "fgsm": Row(crafts("fgsm", eps=0.3, alpha=0.5), 3, "1 gradient, 2 training"),
    "pgd-3": Row(pgd(3), 4, "3 gradient, 1 training", 1.73),
    "pgd-7": Row(pgd(7), 8, "7 gradient, 1 training", 3.37),
    "pgd-7-mixed": Row(pgd(7, alpha=0.5), 9, "7 gradient, 2 training"),
    "pgd-40": Row(pgd(40), 41, "40 gradient, 1 training"),
    "fast": Row("fast:eps=0.3", 2, "1 gradient, 1 training; without the guard, every 100 steps"),
    "trades-7": Row(
        "trades:eps=0.3,eps_step=0.1,max_iter=7", 9.5, "1 forward, 7 gradient, 2 training"
    ),
    "mart-7": Row("mart:eps=0.3,eps_step=0.1,max_iter=7", 9, "7 gradient, 2 training"),
    "awp": Row("awp", 2, "2 training"),
    "awp-pgd-7": Row(["awp", pgd(7)], 9, "7 gradient, 2 training"),
    "vat": Row("vat:max_iter=3", 5.5, "1 forward, 3 gradient, 2 training", 2.20),
    "superimpose-1": Row("superimpose:alpha=0.4", 1, "1 training", 1.03),
    "superimpose-2": Row("superimpose:alpha=0.4,kl_weight=10", 2, "2 training"),
    "superimpose-3": Row("superimpose:p=2,q=4,kl_weight=10", 2, "2 training", 1.02),
    "e2sad": Row("e2sad", 5, "2 gradient, 3 training"),
    "minimax": Row("minimax", 4, "1 gradient, 1 training, 1 second", deeper="second"),
    "nsloss": Row("nsloss:N=5", 6, "6 training"),
    "jacobian": Row("jacobian", 11, "1 jacobian", deeper="jacobian"),
    "nsloss-jacobian": Row(
        ["nsloss:N=5", "jacobian"], 16, "5 training, 1 jacobian", deeper="jacobian"
    ),
    "label-smoothing": Row("label_smoothing", 1, "1 training"),
    "distillation": Row("distillation", 1.5, "1 forward, 1 training; without the teacher's own"),
    "ensemble": Row(
        {"name": "ensemble_adversarial_training", "config": {"attacks": REDUCED}},
        math.nan,
        "3 training, and what PGD (10 steps), EAD (2 x 5) and HopSkipJump (2 steps) made",
    ),
}


class Bench:
    """The trained network, its data, and what passes of it cost."""

    def __init__(self, x: np.ndarray, y: np.ndarray, batch_size: int, seconds: float, repeats: int):
        self.x, self.y, self.batch_size = x, y, batch_size
        self.seconds, self.repeats = seconds, repeats
        self.model = models.get("areb_cnn", x.shape[1:], int(y.max()) + 1, seed=0)
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size, drop_remainder=True)
        self.data = data.cache().repeat()
        self._compile(self.model, 0.001)
        self.model.fit(self.data, steps_per_epoch=150, shuffle=False, verbose=0)
        self._compile(self.model, 0.0)
        self.wrapped = RobustModel(self.copy())
        self.costs: dict[tuple[str, int], float] = {}
        self.plain: list[float] = []

    def copy(self) -> keras.Model:
        """Training moves batch-norm statistics even at a rate of zero: each defense has its own."""
        copy = keras.models.clone_model(self.model)
        copy.set_weights(self.model.get_weights())
        return copy

    def defended(self, row: Row, **options: Any) -> RobustModel:
        base, defense = self.copy(), row.defense
        if defense == "distillation":  # its teacher would be trained before the first step
            defense = {"name": "distillation", "config": {"teacher": self.model}}
        model = wrap(base, defense) if defense else RobustModel(base)
        self._compile(model, 0.0, **options)
        return model

    @staticmethod
    def _compile(model: keras.Model, rate: float, **options: Any) -> None:
        loss = "sparse_categorical_crossentropy"
        model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"], **options)

    def time(self, model: keras.Model) -> float:
        """Seconds per step: the best epoch, each over the same batches."""
        self._epoch(model, 1)  # compiles
        steps = max(1, min(100, int(self.seconds / self._epoch(model, 1))))
        return min(self._epoch(model, steps) for _ in range(self.repeats)) / steps

    def time_plain(self) -> float:
        self.plain.append(self.time(self.model))
        return self.plain[-1]

    def _epoch(self, model: keras.Model, steps: int) -> float:
        clock = Clock()
        model.fit(self.data, steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=[clock])
        return clock.seconds

    def count(self, row: Row, steps: int) -> Counts:
        """Passes of a step, the mean over some."""
        model = self.defended(row, run_eagerly=True)
        model.step.assign(1)  # what a defense does once in many steps is left out
        with counting() as counts:
            for x, y in self.data.take(steps):
                model.train_on_batch(x, y)
        mean: Counts = collections.defaultdict(float)
        for (kind, rows), times in counts.items():
            mean[kind, rows] += times / steps
        if row.deeper:
            mean["training", self.batch_size] -= 1
            mean[row.deeper, self.batch_size] += 1
        return collections.defaultdict(float, {key: n for key, n in mean.items() if n})

    def predict(self, counts: Counts, plain: float) -> float:
        """Seconds of a step that makes these passes."""
        rest = plain - self.cost("training", self.batch_size)
        return rest + sum(times * self.cost(*key) for key, times in counts.items())

    def cost(self, kind: str, rows: int) -> float:
        """Seconds of a compiled pass over `rows` samples."""
        if (kind, rows) not in self.costs:
            self.costs[kind, rows] = self._measure(kind, rows)
        return self.costs[kind, rows]

    def _measure(self, kind: str, rows: int) -> float:
        indices = np.arange(rows) % len(self.x)
        x, y = tf.constant(self.x[indices]), tf.constant(self.y[indices], tf.int32)
        one = tf.function(getattr(self, f"_{kind}"))

        def timed(calls: int) -> float:
            begin = time.perf_counter()
            for _ in range(calls):
                result = one(x, y)
            np.asarray(result[0])
            return (time.perf_counter() - begin) / calls

        timed(2)
        calls = max(3, int(PASS_SECONDS / timed(3)))
        return min(timed(calls) for _ in range(PASS_REPEATS))

    # ---- the kinds of passes; each returns all that it computes, so that nothing is left out ----

    def _forward(self, x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        return [self.wrapped.classifier().logits(x)]

    def _gradient(self, x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        return [self.wrapped.classifier().gradient(x, lambda z: cross_entropy(z, y))[2]]

    def _training(self, x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(cross_entropy(self._logits(x), y))
        return tape.gradient(loss, self.wrapped.trainable_weights)

    def _second(self, x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            with tf.GradientTape(watch_accessed_variables=False) as through:
                through.watch(x)
                values = cross_entropy(self._logits(x), y)
            slope = through.gradient(values, x)
            loss = tf.reduce_mean(values) + tf.reduce_mean(slope**2)
        return tape.gradient(loss, self.wrapped.trainable_weights)

    def _jacobian(self, x: tf.Tensor, y: tf.Tensor) -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            with tf.GradientTape(persistent=True, watch_accessed_variables=False) as through:
                through.watch(x)
                logits = self._logits(x)
                columns = tf.unstack(logits, axis=1)
            slopes = [through.gradient(column, x) for column in columns]
            penalty = tf.add_n([tf.reduce_mean(slope**2) for slope in slopes])
            loss = tf.reduce_mean(cross_entropy(logits, y)) + penalty
        return tape.gradient(loss, self.wrapped.trainable_weights)

    def _logits(self, x: tf.Tensor) -> tf.Tensor:
        logits = self.wrapped.forward(x, "training")[1]
        assert logits is not None
        return logits


class Clock(keras.callbacks.Callback):
    """Seconds of an epoch, without what `fit` does before and after it."""

    seconds = math.nan

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._begin = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.seconds = time.perf_counter() - self._begin


@contextlib.contextmanager
def counting() -> Iterator[Counts]:
    """Counts the passes that models make in eager mode, by kind and rows."""
    counts: Counts = collections.defaultdict(float)
    inside: list[str] = []

    def told(kind: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(owner: Any, x: tf.Tensor, *arguments: Any, **options: Any) -> Any:
            if not inside:
                counts[kind, len(x)] += 1
            inside.append(kind)
            try:
                return original(owner, x, *arguments, **options)
            finally:
                inside.pop()

        return call

    places = [
        (Classifier, "logits", "forward"),
        (Classifier, "gradient", "gradient"),
        (RobustModel, "forward", "training"),
    ]
    originals = [getattr(owner, name) for owner, name, _ in places]
    try:
        for (owner, name, kind), original in zip(places, originals, strict=True):
            setattr(owner, name, told(kind, original))
        yield counts
    finally:
        for (owner, name, _), original in zip(places, originals, strict=True):
            setattr(owner, name, original)


# A pass forward or backward alone counts a half; what is differentiated again is passed twice.
WEIGHTS = {"forward": 0.5, "gradient": 1.0, "training": 1.0, "second": 2.0, "jacobian": 11.0}


def run(bench: Bench, row: Row, count_steps: int) -> dict[str, Any]:
    """All figures of one defense."""
    before = bench.time_plain()
    seconds = bench.time(bench.defended(row))
    plain = min(before, bench.time_plain())
    counts = bench.count(row, count_steps)
    batches: dict[str, float] = dict.fromkeys(WEIGHTS, 0.0)
    for (kind, rows), times in counts.items():
        batches[kind] += times * rows / bench.batch_size
    predicted = bench.predict(counts, plain)
    return {
        **batches,
        "passes": sum(WEIGHTS[kind] * number for kind, number in batches.items()),
        "method": None if math.isnan(row.passes) else row.passes,
        "seconds": seconds,
        "ratio": seconds / plain,
        "predicted": predicted / plain,
        "overhead": seconds / predicted,
        "gea": row.gea,
    }


def show(console: Console, bench: Bench, reports: dict[str, dict[str, Any]]) -> None:
    """Prints the table and what it rests on."""
    table = Table(title=f"Seconds per step over plain, batches of {bench.batch_size}")
    table.add_column("defense")
    columns = ("forward", "gradient", "training", "passes", "method")
    measured = ("ratio", "ratio / passes", "predicted", "overhead", "GEA")
    for title in (*columns, *measured):
        table.add_column(title, justify="right")
    for name, report in reports.items():
        training = sum(report[kind] for kind in ("training", "second", "jacobian"))
        gea = "" if report["gea"] is None else f"{report['gea']:.2f}"
        method = "" if report["method"] is None else f"{report['method']:g}"
        table.add_row(
            name,
            *(f"{value:.3g}" for value in (report["forward"], report["gradient"], training)),
            f"{report['passes']:.3g}",
            method,
            f"{report['ratio']:.2f}",
            f"{report['ratio'] / report['passes']:.2f}",
            f"{report['predicted']:.2f}",
            f"{report['overhead']:.2f}",
            gea,
        )
    console.print(table)
    spread = max(bench.plain) / min(bench.plain) - 1
    console.print(
        f"Plain: {1e3 * min(bench.plain):.1f} ms per step, {len(bench.plain)} measurements within "
        f"{spread:.0%}."
    )
    for (kind, rows), seconds in sorted(bench.costs.items()):
        console.print(f"A {kind} pass over {rows} samples: {1e3 * seconds:.1f} ms.")
    for name in reports:
        console.print(f"{name}: {ROWS[name].how}.", style="dim")


def load(dataset: str, data_dir: str | None, samples: int) -> tuple[np.ndarray, np.ndarray]:
    if dataset == "random":
        draw = np.random.default_rng(0)
        x = draw.uniform(size=(samples, 28, 28, 1)).astype(np.float32)
        return x, np.arange(samples) % 10
    data = datasets.load(dataset, "train", data_dir=data_dir, samples=samples)
    return data.x, data.y


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option(
    "--dataset",
    default="mnist",
    show_default=True,
    help="Name, as kr-train takes it, or random: noise of the shape of MNIST.",
)
@click.option("--data-dir", default=None, help="Folder of prepared TFDS data sets.")
@click.option("--defenses", "names", default=",".join(ROWS), help="Separated by commas.")
@click.option("--batch-size", default=128, show_default=True, type=click.IntRange(1))
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Epochs.")
@click.option(
    "--seconds", default=2.0, show_default=True, help="Of an epoch; it has 1 to 100 steps."
)
@click.option(
    "--count-steps", default=2, show_default=True, type=click.IntRange(1), help="Steps counted."
)
@click.option("--output", default=None, type=click.Path(), help="Write the figures as JSON.")
def main(
    dataset: str,
    data_dir: str | None,
    names: str,
    batch_size: int,
    repeats: int,
    seconds: float,
    count_steps: int,
    output: str | None,
) -> None:
    """Runs the benchmark and prints its table."""
    chosen = [name.strip() for name in names.split(",")]
    unknown = sorted(set(chosen) - set(ROWS))
    if unknown:
        raise click.BadParameter(f"unknown {', '.join(unknown)}; known: {', '.join(ROWS)}")
    tf.get_logger().setLevel("ERROR")
    console = Console(width=None if sys.stdout.isatty() else 120)
    x, y = load(dataset, data_dir, 8 * batch_size)
    bench = Bench(x, y, batch_size, seconds, repeats)
    reports = {}
    for name in chosen:
        console.print(f"{name} ...", style="dim")
        reports[name] = run(bench, ROWS[name], count_steps)
        if output:  # each time, so that an interrupted run has not been in vain
            figures = {"plain": bench.plain, "defenses": reports}
            Path(output).write_text(json.dumps(figures, indent=2), encoding="utf-8")
    show(console, bench, reports)


if __name__ == "__main__":
    main()
