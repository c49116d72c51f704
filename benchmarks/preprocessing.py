"""What preprocessing defenses hold, by how much the attacker knows: Tables 5 and 6 of AREB.

    python benchmarks/preprocessing.py --dataset mnist --output preprocessing

Each defense stands with the paper's parameter in front of the same network, label smoothing trains
it. The same test samples are attacked

* by AREB's PGD that does *not* know of the defense (crafted on the network, judged on the whole),
* by the same PGD with each gradient that the defense offers, and with the better of these averaged
  over 10 draws where the defense draws,
* by AREB's HopSkipJump on the whole, and by C&W on the network without a layer,
* by AutoAttack, in the norm and budget of that PGD, with the gradient that left the least.

Networks and finished attacks are stored in the output folder: the same call goes on with what is
missing. The table is accuracy in percent. The last lines, with the findings of each report, are
JSON, in a file named after the data set too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import kerasrobust
from kerasrobust import datasets, models
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import presets

# The paper's parameters (Tables 13 and 14) and its accuracy under PGD and HSJA (Tables 5 and 6).
DEFENSES = {
    "mnist": {
        "none": None,
        "label_smoothing:k=0.9": (100, 1),
        "feature_squeezing:bit_depth=1": (79, 0),
        "spatial_smoothing:window_size=4": (25, 2),
        "jpeg:quality=6": (0, 4),
        "tvm:lamb=0.2": (7, 3),
    },
    "cifar10": {
        "none": None,
        "label_smoothing:k=0.9": (64, 8),
        "feature_squeezing:bit_depth=5": (0, 8),
        "spatial_smoothing:window_size=2": (26, 4),
        "jpeg:quality=85": (1, 7),
        "tvm:lamb=0.09": (0, 6),
    },
}
GRADIENTS = ("ignore", "straight_through", "exact", "surrogate")
DRAWS = 10


@click.command()
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--dataset", type=click.Choice(list(DEFENSES)), default="mnist", show_default=True)
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--epochs", default=3, show_default=True, help="Of each network.")
@click.option("--samples", default=1000, show_default=True)
@click.option("--asked", default=1000, show_default=True, help="Of these by all but PGD.")
@click.option("--defense", "chosen", multiple=True, help="Only these. Repeatable.")
@click.option("--seed", default=0, show_default=True)
def main(output, dataset, data_dir, epochs, samples, asked, chosen, seed) -> None:
    """Train where needed, attack, tabulate."""
    data = datasets.load(dataset, "test", samples=samples, seed=seed, data_dir=data_dir)
    areb = dict(presets.get("areb", dataset, data.x.shape[-1]).attacks)
    figures: dict[str, Any] = {}
    for spec in chosen or DEFENSES[dataset]:
        trains = spec.startswith("label_smoothing")
        network = trained(output, dataset, data_dir, epochs, seed, spec if trains else None)
        layer = spec != "none" and not trains
        whole = kerasrobust.wrap(network, spec) if layer else network
        row: dict[str, Any] = {"findings": {}}

        def left(name, attacks, count=samples, model=whole, row=row, spec=spec, **seen):
            """Accuracy that the last attack leaves of the first samples; the report's findings."""
            report = kerasrobust.evaluate(
                Classifier(model, **seen),
                data.x[:count],
                data.y[:count],
                attacks=attacks,
                dataset=dataset,
                seed=seed,
                output=output / dataset / spec.replace(":", "-") / name.replace(" ", "-"),
                verbose=True,
                **({"eps": areb["pgd"]["eps"]} if attacks == "autoattack" else {}),
            )
            row.setdefault("clean", report.clean_accuracy)
            row[name] = list(report.attacks.values())[-1].accuracy
            row["findings"][name] = [finding.code for finding in report.findings]
            print(json.dumps({spec: {name: row[name], "findings": row["findings"][name]}}))
            return row[name]

        pgd, hsja, cwl2 = (kerasrobust.attacks.get(n, **areb[n]) for n in ("pgd", "hsja", "cwl2"))
        offered = kerasrobust.defenses.get(spec).gradients if layer else ("exact",)
        choices = [choice for choice in GRADIENTS if choice in offered]
        under = {choice: left(f"pgd {choice}", [pgd], gradient=choice) for choice in choices}
        best = min((choice for choice in choices if choice != "ignore"), key=under.get)
        if spec.startswith("tvm"):
            left(f"pgd {best}, {DRAWS} draws", [pgd], gradient=best, draws=DRAWS)
        if not layer:
            left("cwl2", [pgd, cwl2], asked)
        # Beside the white box, so that the report can compare them.
        left("hsja", [pgd, hsja], asked, gradient=best)
        row["gradient"] = best
        left("autoattack", "autoattack", asked, gradient=best)
        figures[spec] = row
    show(figures, dataset)
    text = json.dumps(figures, indent=2)
    (output / f"{dataset}.json").write_text(text + "\n")
    print(text)


def show(figures: dict[str, Any], dataset: str) -> None:
    """The table: accuracy in percent."""
    columns = ["clean", *(f"pgd {choice}" for choice in GRADIENTS), "hsja", "cwl2", "autoattack"]
    table = Table("defense", *columns, "with draws", "paper: PGD, HSJA")
    for spec, row in figures.items():
        cells = [f"{100 * row[name]:.1f}" if name in row else "" for name in columns]
        drawn = [f"{100 * value:.1f}" for name, value in row.items() if name.endswith("draws")]
        paper = DEFENSES[dataset].get(spec)
        table.add_row(spec, *cells, "".join(drawn), str(paper or ""))
    Console(width=160).print(table)


def trained(output, dataset, data_dir, epochs, seed, spec):
    """The network, or one that a defense trained, read where it was before."""
    path = output / dataset / f"{(spec or 'natural').replace(':', '-')}.keras"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        train = datasets.load(dataset, "train", data_dir=data_dir)
        name = {"mnist": "areb_cnn_mnist", "cifar10": "areb_cnn_cifar10"}[dataset]
        base = models.get(name, train.input_shape, train.nb_classes, seed=seed)
        model = kerasrobust.wrap(base, spec, seed=seed) if spec else base
        models.fit(model, train, epochs=epochs, seed=seed, verbose=2)
        kerasrobust.unwrap(model).save(path)
    return models.load(path)


if __name__ == "__main__":
    main()
