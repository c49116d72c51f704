"""PMA+ beside AutoAttack: robust accuracy, passes and seconds on the same samples, in a row.

    python benchmarks/first_look.py --model mnist.keras mnist 0.3 --model cifar.keras cifar10 8/255

Each preset runs twice, and the second, compiled run is timed, without the probes of a report, which
take passes of their own. Passes are forward ones and forward and backward ones of all samples
together. The last lines are JSON.
"""

from __future__ import annotations

import json
import time
from fractions import Fraction

import click
from rich.console import Console
from rich.table import Table

import kerasrobust
from kerasrobust import datasets, models
from kerasrobust.engine.classifier import Classifier


@click.command()
@click.option("--model", "chosen", type=(str, str, str), multiple=True, required=True)
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--samples", default=200, show_default=True)
@click.option("--warm", default=16, show_default=True, help="Samples of the first run.")
@click.option("--seed", default=0, show_default=True)
def main(chosen, data_dir, samples, warm, seed) -> None:
    """Evaluate and tabulate."""
    rows = []
    for path, name, budget in chosen:
        data = datasets.load(name, "test", samples=samples, seed=seed, data_dir=data_dir)
        classifier = Classifier(models.load(path))
        row = {"model": path, "eps": budget}
        for preset in ("pma+", "autoattack"):
            options = {"attacks": preset, "eps": float(Fraction(budget)), "seed": seed}
            options["probes"] = False
            kerasrobust.evaluate(classifier, data.x[:warm], data.y[:warm], **options)
            begin = time.perf_counter()
            report = kerasrobust.evaluate(classifier, data.x, data.y, **options)
            row[preset] = {
                "clean": report.clean_accuracy,
                "robust": report.robust_accuracy,
                "steps": {key: one.accuracy for key, one in report.attacks.items()},
                "seconds": time.perf_counter() - begin,
                "forwards": report.cost["queries"],
                "backwards": report.cost["gradients"],
            }
        rows.append(row)
        print(json.dumps(row))
    table = Table(
        *("model", "eps", "clean %", "PMA+ %", "passes", "s"),
        *("AutoAttack %", "passes", "s", "share"),
    )
    for row in rows:
        first, whole = row["pma+"], row["autoattack"]
        table.add_row(
            *(row["model"], row["eps"], f"{100 * whole['clean']:.1f}"),
            *_cells(first),
            *_cells(whole),
            f"{first['seconds'] / whole['seconds']:.2f}",
        )
    Console(width=120).print(table)
    print(json.dumps(rows))


def _cells(one) -> tuple[str, str, str]:
    passes = f"{one['forwards']}/{one['backwards']}"
    return f"{100 * one['robust']:.1f}", passes, f"{one['seconds']:.1f}"


if __name__ == "__main__":
    main()
