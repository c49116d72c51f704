"""Seconds per step of ensemble adversarial training, beside ART's attacks in the same loop.

    python benchmarks/ensemble_training.py --dataset mnist

The network, the batch and the attacks (PGD, EAD and HopSkipJump, "average") are those of the AREB
paper for MNIST: the CNN with one more dense layer, batches of 32, adversarial samples alone, label
smoothing, 390 epochs, for which it gives 150 hours on an RTX 2070. Both loops start from a network
that was trained for a while on clean samples (`--warm-up`), since attacks on an untrained one end
early. The paper's epochs are extrapolated from the median step. What each attack takes of ours,
which is one compiled step, is the median of steps with it alone, half as many.

ART's loop is what its users can write: ART's attacks with the same parameters on ART's own
TensorFlow classifier, which is given logits (ART's EAD takes probabilities), and then a step of
Keras on the three batches that come out. The seconds of each attack are told apart. It is slow: a
few steps are enough. Nothing else should be running.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from typing import Any

import click
import keras
import numpy as np
import tensorflow as tf
from art.estimators.classification import TensorFlowV2Classifier
from rich.console import Console
from rich.table import Table

import kerasrobust
from kerasrobust import attacks, datasets, models
from kerasrobust.defenses import EnsembleAdversarialTraining
from kerasrobust.engine.classifier import Classifier
from kerasrobust.losses import smooth

EPOCHS = 390
K = 0.9


def compiled(model: keras.Model, loss: str) -> keras.Model:
    """The model with a fresh optimizer."""
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def native(
    base: keras.Model,
    batches: list[tuple[np.ndarray, np.ndarray]],
    defense: EnsembleAdversarialTraining,
) -> list[float]:
    """Seconds of each of our steps, the first of which compiles and is left out."""
    chain = [defense, f"label_smoothing:k={K}"]
    model = compiled(kerasrobust.wrap(base, chain), "sparse_categorical_crossentropy")
    seconds = []
    for x, y in batches:
        begin = time.perf_counter()
        model.train_on_batch(x, y)
        seconds.append(time.perf_counter() - begin)
    return seconds[1:]


def with_art(
    base: keras.Model, batches: list[tuple[np.ndarray, np.ndarray]]
) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of each step with ART's attacks, and of each attack in it."""
    classifier = Classifier.of(base)
    nb_classes = classifier.nb_classes
    made: dict[str, tuple[Any, Any]] = {}
    for recipe in EnsembleAdversarialTraining().attacks:
        # Ours knows more arguments than ART's; they are at the values that ART's attack has.
        known = attacks.get(f"art:{recipe.name}").get_config()
        config = {key: value for key, value in recipe.get_config().items() if key in known}
        attack = attacks.get(f"art:{recipe.name}", **{**config, "batch_size": len(batches[0][0])})

        def scores(x: Any, training: bool = False, soft: bool = attack.probabilities) -> Any:
            logits = classifier.logits(tf.cast(x, tf.float32))
            return tf.nn.softmax(logits) if soft else logits

        estimator = TensorFlowV2Classifier(
            scores,
            nb_classes=nb_classes,
            input_shape=base.input_shape[1:],
            loss_object=keras.losses.CategoricalCrossentropy(from_logits=True, reduction="sum"),
            clip_values=(0.0, 1.0),
        )
        made[recipe.name] = attack, attack.make(estimator)
    compiled(base, "categorical_crossentropy")
    seconds: list[float] = []
    apart: dict[str, list[float]] = {name: [] for name in made}
    for x, y in batches:
        begin = time.perf_counter()
        points = []
        for name, (attack, original) in made.items():
            start = time.perf_counter()
            points.append(original.generate(x, attack.labels(y, nb_classes)))
            apart[name].append(time.perf_counter() - start)
        targets = np.asarray(smooth(tf.one_hot(np.tile(y, len(points)), nb_classes), K))
        base.train_on_batch(np.concatenate(points), targets)
        seconds.append(time.perf_counter() - begin)
    return seconds, apart


def copied(model: keras.Model) -> keras.Model:
    """The same network with the same weights."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--dataset", default="mnist", show_default=True, help="Name, as kr-train takes it.")
@click.option("--data-dir", default=None, help="Folder of prepared TFDS data sets.")
@click.option("--steps", default=30, show_default=True, type=click.IntRange(1), help="Ours.")
@click.option("--art-steps", default=3, show_default=True, type=click.IntRange(0), help="ART's.")
@click.option("--batch-size", default=32, show_default=True, type=click.IntRange(2))
@click.option("--warm-up", default=6000, show_default=True, type=click.IntRange(1), help="Samples.")
def main(
    dataset: str, data_dir: str | None, steps: int, art_steps: int, batch_size: int, warm_up: int
) -> None:
    """Runs both loops and prints the table."""
    warnings.filterwarnings("ignore")
    logging.getLogger("art").setLevel("ERROR")
    train = datasets.load(dataset, "train", data_dir)
    base = models.get("areb_cnn_robust", train.input_shape, train.nb_classes, seed=0)
    drawn = datasets.load(dataset, "train", data_dir, samples=warm_up, seed=1)
    models.fit(base, drawn, epochs=1, verbose=0)
    order = np.random.default_rng(0).permutation(len(train))

    def batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
        rows = order[: count * batch_size].reshape(count, batch_size)
        return [(train.x[some], train.y[some]) for some in rows]

    per_epoch = -(-len(train) // batch_size)
    table = Table("loop", "steps", "s / step", "slowest", f"hours for {EPOCHS} epochs", "attacks")

    def add(name: str, seconds: list[float], told: str) -> None:
        median = float(np.median(seconds))
        hours = median * per_epoch * EPOCHS / 3600
        cells = (str(len(seconds)), f"{median:.3f}", f"{max(seconds):.3f}", f"{hours:,.0f}")
        table.add_row(name, *cells, told)

    whole = EnsembleAdversarialTraining()
    alone = {
        recipe.name: native(
            copied(base), batches(steps // 2 + 1), EnsembleAdversarialTraining(attacks=[recipe])
        )
        for recipe in whole.attacks
    }
    told = ", ".join(f"{name} {np.median(values):.2f} s" for name, values in alone.items())
    add("kerasrobust", native(copied(base), batches(steps + 1), whole), told)
    if art_steps:
        seconds, apart = with_art(copied(base), batches(art_steps))
        told = ", ".join(f"{name} {np.median(values):.1f} s" for name, values in apart.items())
        add("ART", seconds, told)
    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(table)
    console.print(f"{per_epoch} steps of {batch_size} samples in an epoch.")


if __name__ == "__main__":
    main()
