"""AutoAttack beside its authors' own, on the same samples, weights and budget, one thread each.

    python benchmarks/reference_autoattack.py --model areb_cnn.keras --dataset mnist --eps 0.3 \\
        --torch-python .venv-torch/bin/python --repository auto-attack

The reference is a checkout of github.com/fra31/auto-attack, in PyTorch (`--torch-python` as for
`optimality.py`), on weights that are carried over; it runs once, in a process of its own and in
one batch. Ours runs once on `--warm` samples, which compiles it, and is timed on all. Passes are
those of all samples together, forward and backward; both verdicts are by the Keras model. Nothing
else should be running. The last line is JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from fractions import Fraction
from pathlib import Path

import click
import numpy as np
import tensorflow as tf
from optimality import export
from rich.console import Console
from rich.table import Table

import kerasrobust
from kerasrobust import datasets, models
from kerasrobust.engine.classifier import Classifier
from kerasrobust.norms import check_norm, norm_name


@click.command()
@click.option("--model", required=True)
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--eps", required=True)
@click.option("--norm", default="inf", show_default=True)
@click.option("--samples", default=100, show_default=True)
@click.option("--warm", default=16, show_default=True, help="Samples of the run that compiles.")
@click.option("--torch-python", required=True, help="Python with PyTorch.")
@click.option("--repository", required=True, type=click.Path(exists=True, path_type=Path))
def main(model, dataset, data_dir, eps, norm, samples, warm, torch_python, repository) -> None:
    """Run both, tabulate."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    data = datasets.load(dataset, "test", samples=samples, data_dir=data_dir)
    classifier, eps = Classifier(models.load(model)), float(Fraction(eps))
    options = {"attacks": "autoattack", "eps": eps, "norm": norm, "batch_size": samples}
    options["probes"] = False
    kerasrobust.evaluate(classifier, data.x[:warm], data.y[:warm], **options)
    begin = time.perf_counter()
    report = kerasrobust.evaluate(classifier, data.x, data.y, **options)
    seconds = time.perf_counter() - begin
    rows = {
        "kerasrobust": {
            "left": round(report.robust_accuracy * samples),
            "seconds": seconds,
            "forwards": sum(row.executed_queries for row in report.attacks.values()),
            "backwards": sum(row.executed_gradients for row in report.attacks.values()),
        }
    }
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        export(classifier, data.x, data.y, folder)
        script = Path(__file__).with_name("reference_autoattack_torch.py")
        subprocess.run(
            [torch_python, str(script), str(folder), norm_name(check_norm(norm)), str(eps)],
            check=True,
            env={**os.environ, "PYTHONPATH": str(repository)},
        )
        with np.load(folder / "reference.npz") as found:
            right = classifier.predict(found["x_adv"]).argmax(axis=1) == data.y
            forwards, backwards = (int(number) for number in found["passes"])
            rows["reference"] = {
                "left": int(right.sum()),
                "seconds": float(found["seconds"]),
                "forwards": forwards,
                "backwards": backwards,
            }
    table = Table("AutoAttack", "right after it", "s", "times ours", "forward", "backward")
    for name, row in rows.items():
        table.add_row(
            *(name, f"{row['left']} of {samples}", f"{row['seconds']:.1f}"),
            *(f"{row['seconds'] / seconds:.2f}", f"{row['forwards']:,}", f"{row['backwards']:,}"),
        )
    Console(width=100).print(table)
    print(json.dumps({"model": model, "eps": eps, "norm": norm, "samples": samples, "rows": rows}))


if __name__ == "__main__":
    main()
