"""Peak memory of an evaluation: does it grow with the samples?

Each row is a process of its own: an attack on samples repeated from a data set, as an array or as a
`tf.data` stream, adversaries kept or not.

    python benchmarks/memory.py --model model.keras --dataset mnist --attack pgd:eps=0.3,max_iter=10
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys

ROWS = [(form, kept) for form in ("array", "stream") for kept in (False, True)]


def measure(options: argparse.Namespace) -> None:
    """One row, in this process: prints peak and robust accuracy as JSON."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import numpy as np
    import tensorflow as tf

    import kerasrobust

    model = kerasrobust.models.load(options.model)
    data = kerasrobust.datasets.load(options.dataset, samples=256)
    rows = np.resize(np.arange(256), options.samples)

    def batches():
        for first in range(0, options.samples, 128):
            chosen = rows[first : first + 128]
            yield data.x[chosen], data.y[chosen]

    if options.form == "array":
        x, y = data.x[rows], data.y[rows]
    else:
        spec = (
            tf.TensorSpec((None, *data.x.shape[1:]), tf.float32),
            tf.TensorSpec((None,), tf.int64),
        )
        x, y = tf.data.Dataset.from_generator(batches, output_signature=spec), None
    kerasrobust.evaluate(model, data.x[:128], data.y[:128], attacks=options.attack)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = kerasrobust.evaluate(
        model, x, y, attacks=options.attack, keep_adversaries=options.keep
    )
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([before / 1024, after / 1024, report.robust_accuracy]))


def main(options: argparse.Namespace) -> None:
    """Prints the table."""
    print("form    kept   samples  MiB at start  MiB at peak  growth  robust")
    for form, kept in ROWS:
        for samples in options.sizes:
            command = [sys.executable, __file__, "--model", options.model, "--attack"]
            command += [options.attack, "--dataset", options.dataset, "--form", form]
            command += ["--samples", str(samples)] + ["--keep"] * kept
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            before, after, robust = json.loads(run.stdout.splitlines()[-1])
            print(
                f"{form:7s} {kept!s:5s} {samples:8,d} {before:13.0f} {after:12.0f} "
                f"{after - before:7.0f} {robust:7.3f}",
                flush=True,
            )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--attack", default="pgd:eps=0.3,eps_step=0.05,max_iter=10")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--form", choices=("array", "stream"), help=argparse.SUPPRESS)
    parser.add_argument("--samples", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    measure(given) if given.form else main(given)
