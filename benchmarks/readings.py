"""What readings change that no other run measures: rows of docs/readings.md.

    python benchmarks/readings.py --model areb_cnn.keras --robust areb_cnn_pgd.keras

Defenses: the AREB CNN is trained on `--samples` MNIST images for `--epochs`, once for each reading
and seed, and attacked on the first `--attacked` test samples by PGD (20 steps, Linf 0.1) and by DDN
(100 steps, median L2). Attacks: each reading on the same samples of the two models given. Cells are
mean and half of the spread of the seeds. Models that are trained are kept nowhere. The last line is
JSON.
"""

from __future__ import annotations

import json
from typing import Any

import click
import keras
import numpy as np
from rich.console import Console
from rich.table import Table

import kerasrobust
from kerasrobust import attacks, datasets, models
from kerasrobust.engine.classifier import Classifier

DEFENSES = {
    "superimpose, alpha per image": "superimpose:p=2,q=4,kl_weight=10",
    "superimpose, alpha per batch": "superimpose:p=2,q=4,kl_weight=10,draw_per=batch",
    "superimpose, gradient through both sides": (
        "superimpose:p=2,q=4,kl_weight=10,stop_gradient=False"
    ),
    "minimax, L2": "minimax:eps=0.3",
    "minimax, L1": "minimax:eps=0.3,norm=1",
    "gda, copies alone": "gda:sigma=0.3,N=4",
    "gda, copies and originals": "gda:sigma=0.3,N=4,keep_original=True",
    "vat, eps 2.1": "vat:max_iter=3",
    "vat, eps 1.6": "vat:eps=1.6,max_iter=3",
}
ATTACKS = {
    "rand_fgsm, sign": "rand_fgsm:eps=0.15",
    "rand_fgsm, Gaussian": "rand_fgsm:eps=0.15,noise=gaussian",
    "jsma, probabilities": "jsma:gamma=0.2",
    "jsma, logits": "jsma:gamma=0.2,outputs=logits",
    "vat, eps 2.1": "vat",
    "vat, eps 1.6": "vat:eps=1.6",
    **{
        f"cwl2, confidence {kappa:g}": f"cwl2:confidence={kappa:g}"
        for kappa in (0, 0.05, 0.2, 2.3, 5)
    },
}


@click.command()
@click.option("--model", required=True, help="A natural network for MNIST.")
@click.option("--robust", required=True, help="An adversarially trained one.")
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--samples", default=6000, show_default=True)
@click.option("--epochs", default=3, show_default=True)
@click.option("--seeds", default=2, show_default=True)
@click.option("--attacked", default=200, show_default=True)
@click.option("--few", default=50, show_default=True, help="For C&W and JSMA.")
def main(model, robust, data_dir, samples, epochs, seeds, attacked, few) -> None:
    """Train, attack, tabulate."""
    train = datasets.load("mnist", "train", samples=samples, data_dir=data_dir)
    test = datasets.load("mnist", "test", samples=max(1000, attacked), data_dir=data_dir)
    rows: dict[str, Any] = {}
    table = Table("defense", "clean %", "PGD 0.1 %", "DDN, median L2")
    for name, defense in DEFENSES.items():
        drawn = [trained(defense, train, test, epochs, seed, attacked) for seed in range(seeds)]
        rows[name] = [list(column) for column in zip(*drawn, strict=True)]
        table.add_row(name, *(_cell(column) for column in rows[name]))
        print(json.dumps({name: rows[name]}), flush=True)
    Console(width=100).print(table)
    table = Table(
        "attack", "natural: right after it %", "median L0, L2", "robust: right %", "L0, L2"
    )
    for name, attack in ATTACKS.items():
        n = few if name.startswith(("jsma", "cwl2")) else attacked
        figures = [attacking(attack, path, test.x[:n], test.y[:n]) for path in (model, robust)]
        rows[f"attack {name}"] = figures
        cells = [(f"{100 * f['right']:.1f}", f"{f['l0']:.0f}, {f['l2']:.3g}") for f in figures]
        table.add_row(name, *cells[0], *cells[1])
        print(json.dumps({name: figures}), flush=True)
    Console(width=100).print(table)
    print(json.dumps({"samples": samples, "epochs": epochs, "attacked": attacked, "rows": rows}))


def trained(defense, train, test, epochs, seed, attacked) -> tuple[float, float, float]:
    """Clean accuracy and that under PGD in percent, and DDN's median distance."""
    keras.utils.set_random_seed(seed)
    network = kerasrobust.wrap(models.get("areb_cnn", seed=seed), defense)
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(train.x, train.y, batch_size=64, epochs=epochs, verbose=0)
    classifier, (x, y) = Classifier(kerasrobust.unwrap(network)), (test.x, test.y)
    clean = (classifier.predict(x).argmax(axis=1) == y).mean()
    pgd = attacks.get("pgd:eps=0.1,max_iter=20").bind(classifier).run(x[:attacked], y[:attacked])
    ddn = attacks.get("ddn:max_iter=100").bind(classifier).run(x[:attacked], y[:attacked])
    right = classifier.predict(pgd.x_adv).argmax(axis=1) == y[:attacked]
    return 100 * float(clean), 100 * float(right.mean()), float(np.median(ddn.distance(2)))


def attacking(attack, path, x, y) -> dict[str, float]:
    """Share that is right after an attack, and the median changes of those that it broke."""
    classifier = Classifier(models.load(path))
    result = attacks.get(attack).bind(classifier).run(x, y)
    right = classifier.predict(result.x_adv).argmax(axis=1) == y
    broken = result.success & (result.l2 > 0)
    changes = {key: getattr(result, key)[broken] for key in ("l0", "l2")}
    medians = {key: float(np.median(v)) if len(v) else np.nan for key, v in changes.items()}
    return {"right": float(right.mean()), **medians}


def _cell(values: list[float]) -> str:
    spread = (max(values) - min(values)) / 2
    return f"{np.mean(values):.3g} ± {spread:.2g}"


if __name__ == "__main__":
    main()
