"""Seconds of the attacks of one pass a step, beside adv-lib's and beside their passes.

    python benchmarks/nearest.py --model areb_cnn.keras --dataset mnist --torch-python PYTHON

DDN, FMN, ALMA and sigma-zero, and PMA, which adv-lib does not have, take `--steps` passes of each
sample, on one thread, all samples in one batch. `--torch-python` names a Python with PyTorch and
adv-lib, as for `optimality.py`, which carries the weights over; adv-lib's time is that of one run
in a process of its own, ours the best of `--repeats` after one that compiles. The limit is what the
passes cost alone, compiled, at the batch sizes that were recorded (`attacks.py`), adv-lib's that of
as many passes in PyTorch; the overhead is the time over the limit. Nothing else should be running.
The last line is JSON.
"""

from __future__ import annotations

import json
import math
import subprocess
import tempfile
from pathlib import Path

import click
import numpy as np
import tensorflow as tf
from attacks import Bench, Row
from optimality import NORMS, export
from rich import box
from rich.console import Console
from rich.table import Table

from kerasrobust import datasets, models


def rows(steps: int) -> dict[str, Row]:
    """The attacks, by name and norm, as adv-lib's in `optimality_torch.py`."""
    every = {"max_iter": steps}
    found = {
        "ddn L2": Row("ddn", 2, every),
        "sigma_zero L0": Row("sigma_zero", 0, every),
        "alma L1": Row("alma", 1, {**every, "norm": 1}),
        "alma L2": Row("alma", 2, {**every, "norm": 2}),
        **{f"fmn {name}": Row("fmn", p, {**every, "norm": p}) for name, p in NORMS.items()},
    }
    halves = {"max_iter": steps // 2, "num_random_init": 2, "early_stop": False}
    return {**found, "pma Linf": Row("pma", math.inf, halves)}


@click.command()
@click.option("--model", required=True)
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--samples", default=128, show_default=True)
@click.option("--steps", default=200, show_default=True, help="Passes of a sample; hundreds.")
@click.option("--repeats", default=3, show_default=True)
@click.option("--torch-python", help="Python with PyTorch and adv-lib.")
@click.option("--attack", "names", multiple=True, help='Attacks, as in "alma L1".')
@click.option("--markdown", is_flag=True, help="A table for a document.")
def main(model, dataset, data_dir, samples, steps, repeats, torch_python, names, markdown):
    """Time, tabulate."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    data = datasets.load(dataset, "test", samples=samples, data_dir=data_dir)
    bench = Bench(models.load(model), data.x, data.y, samples)
    chosen = {name: row for name, row in rows(steps).items() if not names or name in names}
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        if torch_python:
            export(bench.classifier, data.x, data.y, Path(folder))
        for name, row in chosen.items():
            found[name] = ours(bench, row, repeats)
            if torch_python and row.name != "pma":
                found[name] |= theirs(torch_python, Path(folder), steps, name)
            print(json.dumps({"attack": name, **found[name]}))
    show(found, markdown)
    print(json.dumps({"model": model, "samples": samples, "steps": steps, "rows": found}))


def ours(bench: Bench, row: Row, repeats: int) -> dict[str, float]:
    """Seconds, passes of a sample, and seconds of the passes alone."""
    attack = bench.native(row, "", row.settings, 0)
    attack.run(bench.x, bench.y)
    results = [attack.run(bench.x, bench.y) for _ in range(repeats)]
    best = min(results, key=lambda result: result.seconds)
    made = bench.record(row, row.settings, 0)
    bench.costs.clear()  # measured beside each attack: a machine is not always as fast
    limit = sum(bench.total_cost(sizes, kind) for kind, sizes in made.items())
    return {
        "seconds": best.seconds,
        "passes": float(best.gradients.mean()),
        "limit": limit,
        "overhead": best.seconds / limit,
    }


def theirs(python: str, folder: Path, steps: int, name: str) -> dict[str, float]:
    """The same of adv-lib's attack."""
    script = Path(__file__).with_name("optimality_torch.py")
    command = [python, str(script), str(folder), str(steps), name, "passes"]
    subprocess.run(command, check=True, capture_output=True)
    with (
        np.load(folder / f"adv-lib {name}.npz") as run,
        np.load(folder / "adv-lib passes.npz") as p,
    ):
        passes = float(run["passes"][1])
        limit = float(p["seconds"]) * passes / float(p["passes"][1])
        seconds = float(run["seconds"])
    return {
        "adv-lib seconds": seconds,
        "adv-lib passes": passes,
        "adv-lib limit": limit,
        "adv-lib overhead": seconds / limit,
    }


def show(found: dict[str, dict[str, float]], markdown: bool) -> None:
    """One table; "times ours" is adv-lib's time over ours."""
    table = Table(
        *("attack", "s", "passes", "limit s", "overhead", "adv-lib: s", "passes", "limit s"),
        *("overhead", "times ours"),
        box=box.MARKDOWN if markdown else box.HEAVY_HEAD,
    )
    for name, row in found.items():
        cells = []
        for prefix in ("", "adv-lib "):
            for key, form in (("seconds", ".2f"), ("passes", ".0f"), ("limit", ".2f")):
                cells.append(format(row[prefix + key], form) if prefix + key in row else "")
            cells.append(format(row[prefix + "overhead"], ".2f") if prefix + key in row else "")
        times = row["adv-lib seconds"] / row["seconds"] if "adv-lib seconds" in row else math.nan
        table.add_row(name, *cells, "" if math.isnan(times) else f"{times:.2f}")
    Console(width=130).print(table)


if __name__ == "__main__":
    main()
