"""MagNet on MNIST: what AREB's attacks leave of it, when they know of it and when they do not.

    python benchmarks/magnet.py --output magnet

The AREB CNN is trained on clean samples but for 5,000, the paper's auto-encoders on the same, and
the thresholds are set on the 5,000. AREB (PGD, C&W, EAD, HopSkipJump with that paper's parameters)
and APGD and PGD in L2 are then run on the same test samples:

* *grey box*: crafted on the network alone. Of the points that fool it, some are rejected by the
  detectors, some are put right by the reformer, and the others fool the whole;
* *white box*: crafted on the whole. Gradients lead through reformer and detectors; HopSkipJump asks
  the whole for its decision.

A rejected sample counts as defended. The false-positive rate stands beside it, on these samples and
on all test samples. Models and finished attacks are stored in the output folder: the same call goes
on with what is missing. The last lines are JSON, in `magnet.json` too.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import kerasrobust
from kerasrobust import datasets, models
from kerasrobust.engine.classifier import Classifier

HELD_OUT = 5000
FURTHER = ("apgd:eps=0.3,max_iter=100,nb_random_init=1", "pgd:norm=2,eps=2.0,max_iter=100")


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--network", default="areb_cnn_mnist", show_default=True)
@click.option("--epochs", default=3, show_default=True, help="Of the network.")
@click.option("--autoencoder-epochs", default=100, show_default=True)
@click.option("--autoencoder-batch", default=256, show_default=True)
@click.option("--held-out", default=HELD_OUT, show_default=True)
@click.option("--rate", default=0.001, show_default=True, help="False positives of each detector.")
@click.option("--collection", default=1, show_default=True, help="Number of reformers.")
@click.option("--samples", default=100, show_default=True)
@click.option(
    "--attack", "chosen", multiple=True, help="Instead of AREB and PGD in L2. Repeatable."
)
@click.option("--seed", default=0, show_default=True)
def main(output, dataset, data_dir, samples, chosen, seed, **settings: Any) -> None:
    """Train, calibrate, attack."""
    output.mkdir(parents=True, exist_ok=True)
    magnet, learning = trained(output, dataset, data_dir, seed, **settings)
    test = datasets.load(dataset, "test", data_dir=data_dir)
    data = datasets.load(dataset, "test", samples=samples, seed=seed, data_dir=data_dir)
    views = {"bare": Classifier(magnet.base), "white": Classifier(magnet)}
    reports = {
        name: kerasrobust.evaluate(
            view,
            data.x,
            data.y,
            attacks=list(chosen) or ["areb", *FURTHER],
            dataset=dataset,
            seed=seed,
            output=output / name,
            keep_adversaries=True,
            verbose=True,
        )
        for name, view in views.items()
    }
    labels, accepted = magnet.decide(test.x, batch_size=500)
    bare = views["bare"].predict(test.x, batch_size=500).argmax(axis=1)
    rejected = magnet.scores(test.x, batch_size=500) >= np.asarray(magnet.thresholds)
    figures: dict[str, Any] = {
        "settings": {"dataset": dataset, "samples": samples, "seed": seed, **settings},
        "seconds_of_learning": learning,
        "detectors": list(magnet.detectors),
        "thresholds": np.asarray(magnet.thresholds).tolist(),
        "test_accuracy_bare": float(np.mean(bare == test.y)),
        "test_accuracy_reformed": float(np.mean(labels == test.y)),
        "test_accuracy": float(np.mean((labels == test.y) & accepted)),
        "test_false_positive_rate": float(np.mean(~accepted)),
        "test_false_positive_rate_by_detector": rejected.mean(axis=0).tolist(),
        "attacks": {},
    }
    table = Table(
        *("attack", "bare %", "grey %", "rejected", "put right", "fooled"),
        *("white %", "rejected", "L2 bare", "white"),
    )
    for name, white in reports["white"].attacks.items():
        bare_row = reports["bare"].attacks[name]
        grey = met(magnet, reports["bare"].samples.results[name], data)
        figures["attacks"][name] = {
            "bare": {"accuracy": bare_row.accuracy, "median_l2": str(bare_row.median_l2)},
            "grey": grey,
            "white": {
                "accuracy": white.accuracy,
                "rejected": white.rejected,
                "success_rate": white.success_rate,
                "median_l2": str(white.median_l2),
            },
        }
        table.add_row(
            *(name, f"{100 * bare_row.accuracy:.1f}", f"{100 * grey['accuracy']:.1f}"),
            *(str(grey[key]) for key in ("rejected", "put_right", "fooled")),
            *(f"{100 * white.accuracy:.1f}", str(white.rejected)),
            *(f"{row.median_l2:.2f}" for row in (bare_row, white)),
        )
    Console(width=120).print(table)
    text = json.dumps(figures, indent=2)
    (output / "magnet.json").write_text(text + "\n")
    print(text)


def met(magnet, result, data) -> dict[str, Any]:
    """What becomes of the points that fool the bare network, and the accuracy that is left."""
    labels, accepted = magnet.decide(result.x_adv)
    own, answered = magnet.decide(data.x)
    right = labels == data.y
    fooling = result.success & ~result.initially_adversarial
    return {
        "points": int(fooling.sum()),
        "rejected": int((fooling & ~accepted).sum()),
        "put_right": int((fooling & accepted & right).sum()),
        "fooled": int((fooling & accepted & ~right).sum()),
        "accuracy": float(np.mean((own == data.y) & answered & (right | ~accepted))),
        "false_positive_rate": float(np.mean(~answered)),
    }


def trained(
    output, dataset, data_dir, seed, network, epochs, held_out, rate, collection, **autoencoders
):
    """The guarded network, trained or read where it was before, and the seconds that it took."""
    path = output / "magnet.keras"
    if path.exists():
        return models.load(path), None
    train = datasets.load(dataset, "train", data_dir=data_dir)
    train, unseen = datasets.hold_out(train, held_out, seed)
    bare = output / "bare.keras"
    if not bare.exists():
        base = models.get(network, train.input_shape, train.nb_classes, seed=seed)
        models.fit(base, train, epochs=epochs, seed=seed, verbose=2)
        base.save(bare)
    spec = f"magnet:false_positive_rate={rate},collection={collection}"
    magnet = kerasrobust.wrap(models.load(bare), spec, seed=seed)
    begin = time.perf_counter()
    magnet.learn(
        train.x,
        unseen.x,
        epochs=autoencoders["autoencoder_epochs"],
        batch_size=autoencoders["autoencoder_batch"],
        verbose=2,
    )
    seconds = time.perf_counter() - begin
    magnet.save(path)
    return models.load(path), seconds  # read, so that the next call finds the same results


if __name__ == "__main__":
    main()
