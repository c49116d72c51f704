"""Speed of every attack, metric and preprocessing layer beside its peers: all in one command.

    python benchmarks/speed.py --model areb_cnn.keras --dataset mnist --output speed.json
    python benchmarks/speed.py --model areb_cnn.keras --dataset mnist --output speed.json --full \\
        --torch-python .venv-torch/bin/python --repository auto-attack

It calls the benchmarks of each kind one after the other, with one thread, and each prints its
table: `attacks.py` (ART and Foolbox), `nearest.py` (adv-lib), `metrics.py art` (CLEVER),
`layers.py` (ART, Pillow), `class_gradients.py` (ways to differentiate classes), `passes.py` (those
that were saved), and with `--full` and `--repository` also `reference_autoattack.py`. What they
measured goes into one JSON file, with the machine, the versions and the commands, so that runs can
be compared. The quick run takes few attacks and samples, two minutes or so, and tells an accident
from none; figures to quote come from `--full`, which takes an hour or more, with nothing else
running.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
NETWORKS = ("--network", "areb_cnn_mnist", "--network", "areb_cnn_cifar10")
VERSIONS = ("tensorflow", "keras", "numpy", "adversarial-robustness-toolbox", "foolbox")


def calls(full: bool, torch_python: str | None, repository: str | None, eps: str) -> dict[str, Any]:
    """The arguments of each benchmark by what it measures; "MODEL" and "DATA" are filled in."""
    shared = ["--model", "MODEL", "--dataset", "DATA"]
    torch = ["--torch-python", torch_python] if torch_python else []
    few = ["--samples", "16", "--repeats", "1"]
    short = ["--attacks", "pgd,deepfool,square", "--seeds", "1"]
    chosen = ["--attacks", "areb,taxonomy", "--plain"] if full else [*few, *short]
    found = {
        "attacks": ["attacks.py", *shared, *chosen],
        "nearest": ["nearest.py", *shared, *torch, *([] if full else few)],
        "metrics": ["metrics.py", "art"],
        "layers": ["layers.py", *(["--samples", "500"] if full else [])],
        "classes": ["class_gradients.py", *(NETWORKS if full else [])],
        "passes": ["passes.py", *shared, "--eps", eps, "--samples", "1000" if full else "100"],
    }
    if not full:
        found["nearest"] += ["--steps", "100", "--attack", "ddn L2"]
        found["metrics"] += ["--samples", "4", "--art-samples", "1", "--epochs", "1"]
        found["metrics"] += ["--nb-batches", "10", "--train-samples", "200"]
        found["layers"] += ["--dataset", "mnist", "--samples", "40", "--tvm-samples", "4"]
        found["layers"] += ["--art-samples", "1", "--long", "20"]
        found["passes"] += ["--attack", "DeepFool"]
    elif repository and torch_python:
        reference = ["--eps", eps, *torch, "--repository", repository]
        found["autoattack"] = ["reference_autoattack.py", *shared, *reference]
    return found


def measured(arguments: list[str]) -> Any:
    """What a benchmark prints in its last line, as JSON; its tables go to the terminal."""
    command = [sys.executable, str(HERE / arguments[0]), *arguments[1:]]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **ONE_THREAD}
    )
    assert process.stdout is not None
    last = ""
    for line in process.stdout:
        if not line.startswith(("{", "[")):
            click.echo(line, nl=False)
        last = line
    if process.wait():
        raise click.ClickException(f"{arguments[0]} failed with status {process.returncode}.")
    return json.loads(last)


@click.command(help=(__doc__ or "").split("\n")[0])
@click.option("--model", required=True, type=click.Path(exists=True), help="Keras model file.")
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--eps", default="0.3", show_default=True, help="AutoAttack's budget.")
@click.option("--full", is_flag=True, help="Every attack, and sizes to quote.")
@click.option(
    "--only",
    multiple=True,
    help="Kinds: attacks, nearest, metrics, layers, classes, passes, autoattack.",
)
@click.option("--torch-python", help="Python with PyTorch and adv-lib.")
@click.option("--repository", type=click.Path(exists=True), help="The reference AutoAttack.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="A JSON file.")
def main(model, dataset, eps, full, only, torch_python, repository, output) -> None:
    """Runs them all."""
    kinds = calls(full, torch_python, repository, eps)
    unknown = set(only) - set(kinds)
    if unknown:
        raise click.BadParameter(f"unknown {', '.join(sorted(unknown))}; known: {', '.join(kinds)}")
    fill = {"MODEL": model, "DATA": dataset}
    record: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"platform": platform.platform(), "processors": os.cpu_count()},
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "model": Path(model).name,
        "dataset": dataset,
        "kinds": {},
    }
    for kind, arguments in kinds.items():
        if only and kind not in only:
            continue
        begin = time.perf_counter()
        figures = measured([fill.get(argument, argument) for argument in arguments])
        seconds = time.perf_counter() - begin
        record["kinds"][kind] = {"call": arguments, "seconds": seconds, "figures": figures}
        # After each: a long run may be cut short.
        output.write_text(json.dumps(record, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
