"""Passes that attacks save, and how often they are traced, on many samples.

    python benchmarks/passes.py --model areb_cnn.keras --dataset mnist --samples 1000 --eps 0.1

Each attack runs on its own, AutoAttack as its cascade. The naive count takes as many passes for
every sample of an attack as for the one that took most, and sends every sample that the model gets
right through all of AutoAttack; executed are those that were made, padding included. The last batch
is smaller than the others. `traces` are those of the attack's functions, one for each role (start,
step, end) of each attack if nothing is traced twice. The last line is JSON.
"""

from __future__ import annotations

import json
import time
from fractions import Fraction
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

import kerasrobust
from kerasrobust import datasets, models
from kerasrobust.engine.classifier import Classifier

ATTACKS = {
    "C&W": "cwl2:binary_search_steps=10,max_iter=100,learning_rate=0.1,initial_const=0.1",
    "DeepFool": "deepfool:max_iter=50",
    "HopSkipJump": "hsja:max_iter=10,init_eval=100,max_eval=100",
    "AutoAttack": "autoattack",
}


def measure(name: str, classifier: Classifier, data: Any, eps: float) -> dict[str, Any]:
    """Counts of all attacks behind one name, added up."""
    budget = {"eps": eps} if ATTACKS[name] == "autoattack" else {}
    classifier.traces.clear()
    begin = time.perf_counter()
    report = kerasrobust.evaluate(
        classifier, data.x, data.y, attacks=ATTACKS[name], probes=False, **budget
    )
    seconds = time.perf_counter() - begin
    assert report.samples is not None
    right = int((report.samples.labels == report.samples.y).sum())
    row: dict[str, Any] = {"attack": name, "robust": report.robust_accuracy, "seconds": seconds}
    for kind in ("queries", "gradients"):
        results = report.samples.results.values()
        row[kind] = int(sum(getattr(result, f"executed_{kind}") for result in results))
        row[f"naive_{kind}"] = right * int(sum(getattr(result, kind).max() for result in results))
    roles = (":init", ":advance", ":finish")
    row["traces"] = {k: v for k, v in classifier.traces.items() if k.endswith(roles)}
    return row


def saved(row: dict[str, Any]) -> float:
    """The share of passes that was not made."""
    made, naive = (row[f"{way}queries"] + row[f"{way}gradients"] for way in ("", "naive_"))
    return 1 - made / naive


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--model", required=True, type=click.Path(exists=True), help="Keras model file.")
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--samples", default=1000, show_default=True, type=click.IntRange(1))
@click.option("--eps", default="0.1", show_default=True, help="AutoAttack's budget, Linf.")
@click.option("--attack", "names", multiple=True, type=click.Choice(list(ATTACKS)))
def main(model: str, dataset: str, samples: int, eps: str, names: tuple[str, ...]) -> None:
    """A row for each attack."""
    data = datasets.load(dataset, "test", samples=samples)
    classifier = Classifier.of(models.load(model))
    rows = []
    columns = ("forward", "of", "with gradient", "of", "saved", "left", "traces", "seconds")
    table = Table("attack", title=f"{samples} samples")
    for name in columns:
        table.add_column(name, justify="right")
    for name in names or ATTACKS:
        row = measure(name, classifier, data, float(Fraction(eps)))
        rows.append(row)
        counts = np.array(list(row["traces"].values()))
        table.add_row(
            name,
            *(f"{row[key]:,}" for key in ("queries", "naive_queries")),
            *(f"{row[key]:,}" for key in ("gradients", "naive_gradients")),
            f"{saved(row):.0%}",
            f"{row['robust']:.1%}",
            f"{counts.min()}" if counts.min() == counts.max() else f"{row['traces']}",
            f"{row['seconds']:.0f}",
        )
    Console(width=120).print(table)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
