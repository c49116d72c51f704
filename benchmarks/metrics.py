"""CLEVER beside ART, and AREB's Tables 10 to 12 for models of one's own.

    python benchmarks/metrics.py art
    python benchmarks/metrics.py areb --dataset mnist original.keras pgd.keras ensemble.keras

`art` measures untargeted CLEVER of the same samples by this package and by ART: on ART's own
`TensorFlowV2Classifier` and through `kerasrobust.art`, with as many points of the ball and as many
class gradients of each. ART draws a pool of `nb_batches * batch_size` points per class (its
`pool_factor` is `nb_batches`), from which its maxima are taken again and again; here each maximum
has points of its own, which all classes share. Seconds include compilation. `--art-samples` takes
ART's seconds on fewer samples and scales them; the column says on how many.

`areb` evaluates each model by the attacks of AREB and prints a row per model and attack: CLEVER in
the attack's norm (100 samples), psi (median, mean and 1 over the mean divergence) and loss
sensitivity at the adversarial points (L1). The last line of both is JSON.
"""

from __future__ import annotations

import json
import time
import warnings
from pathlib import Path

import click
import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import kerasrobust
from kerasrobust import datasets, metrics, models

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from art.estimators.classification import TensorFlowV2Classifier
    from art.metrics import clever_u

    from kerasrobust import art as bridge

NAMES = {1.0: "clever_l1", 2.0: "clever_l2", np.inf: "clever_linf"}


@click.group()
def main() -> None:
    """CLEVER beside ART; AREB's tables."""


@main.command()
@click.option("--dataset", default="digits", show_default=True)
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--network", default="digits_cnn", show_default=True)
@click.option("--epochs", default=3, show_default=True)
@click.option("--train-samples", type=int, help="Default: all.")
@click.option("--samples", default=20, show_default=True)
@click.option("--art-samples", default=20, show_default=True)
@click.option("--nb-batches", default=50, show_default=True)
@click.option("--batch-size", default=20, show_default=True)
@click.option("--radius", default=0.5, show_default=True)
@click.option("--norm", default="2", show_default=True)
@click.option("--seed", default=0, show_default=True)
def art(
    dataset,
    data_dir,
    network,
    epochs,
    train_samples,
    samples,
    art_samples,
    nb_batches,
    batch_size,
    radius,
    norm,
    seed,
) -> None:
    """CLEVER here and in ART: seconds and scores."""
    train = datasets.load(dataset, "train", data_dir=data_dir, samples=train_samples, seed=seed)
    x = datasets.load(dataset, "test", data_dir=data_dir, samples=samples, seed=seed).x
    model = getattr(models, network)(seed=seed)
    models.fit(model, train, epochs=epochs, verbose=0)
    options = dict(nb_batches=nb_batches, batch_size=batch_size, radius=radius, norm=float(norm))

    class Plain(TensorFlowV2Classifier):
        """ART's CLEVER passes it a label of NumPy's type, which it takes for a list."""

        def class_gradient(self, x, label=None, **kwargs):
            return super().class_gradient(x, None if label is None else int(label), **kwargs)

    plain = Plain(logits_of(model), model.output_shape[-1], x.shape[1:], clip_values=(0.0, 1.0))
    few = x[:art_samples]

    def by_art(few):
        np.random.seed(seed)
        return [
            clever_u(plain, one, **options, pool_factor=nb_batches, verbose=False) for one in few
        ]

    ways = {
        "kerasrobust": (x, lambda x: metrics.clever(model, x, **options, seed=seed)),
        "ART on kerasrobust": (
            few,
            lambda x: bridge.clever(model, x, **options, pool_factor=nb_batches, seed=seed),
        ),
        "ART": (few, by_art),
    }
    points = nb_batches * batch_size * (model.output_shape[-1] - 1)
    rows = []
    for name, (given, measure) in ways.items():
        begin = time.perf_counter()
        scores = np.asarray(measure(given))
        seconds = (time.perf_counter() - begin) * samples / len(given)
        rows.append(
            {
                "way": name,
                "measured on": len(given),
                "gradients per sample": points,
                f"seconds for {samples}": round(seconds, 2),
                "times ours": round(seconds / rows[0][f"seconds for {samples}"], 1) if rows else 1,
                "mean of those": round(float(scores[: len(few)].mean()), 4),
            }
        )
    show(rows)


def logits_of(model: keras.Model) -> keras.Model:
    """The model without its softmax, as ART's CLEVER is meant."""
    found = keras.models.clone_model(model)
    found.set_weights(model.get_weights())
    if isinstance(found.layers[-1], keras.layers.Softmax):
        return keras.Model(found.inputs, found.layers[-2].output)
    found.layers[-1].activation = keras.activations.linear
    return keras.Model(found.inputs, found.layers[-1](found.layers[-2].output))


@main.command()
@click.argument("model", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--dataset", required=True)
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--samples", default=1000, show_default=True)
@click.option("--clever-samples", default=100, show_default=True)
@click.option("--paper", is_flag=True, help="CLEVER by its authors' 512,000 gradients per class.")
@click.option("--attacks", default="areb", show_default=True, help="A preset or specification.")
@click.option("--output", type=click.Path(path_type=Path), help="Finished batches are kept there.")
@click.option("--seed", default=0, show_default=True)
def areb(model, dataset, data_dir, samples, clever_samples, paper, attacks, output, seed) -> None:
    """CLEVER, psi and loss sensitivity of each model under each attack."""
    tf.get_logger().setLevel("ERROR")
    data = datasets.load(dataset, "test", data_dir=data_dir, samples=samples, seed=seed)
    preset = {"preset": "paper"} if paper else {}
    chosen = [metrics.get(name, samples=clever_samples, **preset) for name in NAMES.values()]
    rows = []
    for path in model:
        report = kerasrobust.evaluate(
            models.load(path),
            data.x,
            data.y,
            attacks=attacks,
            dataset=dataset,
            metrics=[*chosen, "psi", "loss_sensitivity_l1"],
            output=None if output is None else output / path.stem,
            seed=seed,
        )
        for name, attack in report.attacks.items():
            rows.append(
                {
                    "model": path.stem,
                    "attack": name,
                    "CLEVER": report.clean.get(NAMES.get(attack.norm)),
                    "psi": attack.psi,
                    "psi mean": attack.psi_mean,
                    "psi of mean KL": attack.psi_of_mean_kl,
                    "loss sens. L1": attack.loss_sensitivity_l1,
                    "clean loss sens. L1": report.clean["loss_sensitivity_l1"],
                }
            )
    show(rows)


def show(rows: list[dict]) -> None:
    """A table, then the same as JSON."""
    table = Table(*rows[0])
    for row in rows:
        table.add_row(
            *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
        )
    Console(width=160).print(table)
    print(json.dumps(kerasrobust.specs.jsonable(rows)))


if __name__ == "__main__":
    main()
