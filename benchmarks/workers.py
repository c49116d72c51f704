"""Evaluation by one process and by several workers: the same report, and samples per second.

Each worker has one thread, and so has the single process, which is told to have one.

    python benchmarks/workers.py --model model.keras --dataset mnist --attacks areb --samples 256

The rate is that of the samples by which a long run goes beyond a short one: starting workers and
tracing their functions costs the same in both.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import time
from fractions import Fraction

import click
import ray
import tensorflow as tf
from interruptions import outcome

import kerasrobust
from kerasrobust import datasets, models
from kerasrobust.engine.classifier import Classifier


@click.command()
@click.option("--model", "path", required=True)
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--attacks", default="areb", show_default=True)
@click.option("--eps")
@click.option("--samples", default=256, show_default=True)
@click.option("--few", default=64, show_default=True, help="Samples of the shorter run.")
@click.option("--batch-size", default=16, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--seed", default=0, show_default=True)
def main(path, dataset, data_dir, attacks, eps, samples, few, batch_size, workers, seed) -> None:
    """Evaluate twice and compare."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    data = datasets.load(dataset, "test", samples=samples, seed=seed, data_dir=data_dir)
    options = {"attacks": attacks, "dataset": dataset, "batch_size": batch_size, "seed": seed}
    if eps:
        options["eps"] = float(Fraction(eps))
    ray.init(num_cpus=workers, include_dashboard=False, log_to_driver=False)
    reports, rates = {}, {}
    for number in (1, workers):
        seconds = {}
        for count in (few, samples):
            classifier = Classifier(models.load(path))
            with tempfile.TemporaryDirectory() as folder:
                begin = time.perf_counter()
                kerasrobust.evaluate(
                    classifier,
                    data.x[:count],
                    data.y[:count],
                    workers=number,
                    output=folder,
                    **options,
                )
                seconds[count] = time.perf_counter() - begin
                reports[number] = outcome(pathlib.Path(folder))
        # What more samples take, without the start and the traces, which both runs have.
        rates[number] = (samples - few) / (seconds[samples] - seconds[few])
        print(json.dumps({"workers": number, "seconds": seconds, "samples/s": rates[number]}))
    equal = reports[1] == reports[workers]
    print(f"reports {'equal' if equal else 'DIFFERENT'}, {rates[workers] / rates[1]:.2f} times")


if __name__ == "__main__":
    main()
