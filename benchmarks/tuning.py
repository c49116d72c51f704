"""Table 7 of AREB by one `kr-tune` command, killed in the middle and run again.

    python benchmarks/tuning.py --model own.keras --dataset mnist --output tuning

Feature squeezing, JPEG, the median and label smoothing (trained once, from the model's weights),
each at the paper's value, and all of their combinations, under the paper's PGD and HopSkipJump,
both within PGD's budget (the paper's HopSkipJump has none, and breaks every row). The same command
is run twice: once in one go, once killed by SIGKILL when some settings are finished, and repeated.
Both must end with the same files, and the second must compute the rest only.

The last lines are JSON, in `benchmark.json` too. What is in the output folder is not run again.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

# Tables 13 and 14, and appendix B.
VALUES = {
    "mnist": ("bit_depth=1", "quality=6", "window_size=4"),
    "cifar10": ("bit_depth=5", "quality=85", "window_size=2"),
}
ATTACKS = {
    "mnist": (0.3, "pgd:eps=0.3,eps_step=0.01,max_iter=40"),
    "cifar10": (0.03, "pgd:eps=0.03,eps_step=0.008,max_iter=7"),
}
NAMES = ("feature_squeezing", "jpeg", "spatial_smoothing")


@click.command()
@click.option("--model", required=True)
@click.option("--dataset", type=click.Choice(list(VALUES)), default="mnist", show_default=True)
@click.option("--samples", default=60, show_default=True)
@click.option("--epochs", default=1, show_default=True, help="0: without label smoothing.")
@click.option("--kill-after", default=5, show_default=True, help="Finished settings.")
@click.option("--gradient", default="straight_through", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
def main(model, dataset, samples, epochs, kill_after, gradient, output) -> None:
    """Run, kill, run again, compare."""
    command = [str(Path(sys.executable).parent / "kr-tune"), "--model", model]
    command += ["--dataset", dataset, "--samples", str(samples), "--combinations"]
    eps, pgd = ATTACKS[dataset]
    command += ["--attacks", pgd, "--attacks", "hsja:max_iter=10,max_eval=100", "--eps", str(eps)]
    for name, value in zip(NAMES, VALUES[dataset], strict=True):
        command += ["--sweep", f"{name}:{value}"]
    if epochs:
        command += ["--sweep", "label_smoothing:k=0.9", "--epochs", str(epochs)]
    command += ["--gradient", gradient, "--output"]
    print(" ".join(command), flush=True)

    seconds = {"in one go": timed([*command, output / "whole"])}
    killed = output / "killed"
    start = time.perf_counter()
    process = subprocess.Popen([*command, killed], stdout=subprocess.DEVNULL)
    while process.poll() is None and len(finished(killed)) < kill_after:
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    seconds["until killed"] = time.perf_counter() - start
    before = finished(killed)
    seconds["again"] = timed([*command, killed])
    after = finished(killed)

    names = ("tuning.json", "tuning.md")
    same = {name: read(output / "whole" / name) == read(killed / name) for name in names}
    found = {
        "killed after settings": len(before),
        "settings": len(after),
        "finished ones written again": sum(after[path] != when for path, when in before.items()),
        "same files": same,
        "seconds": {key: round(value, 1) for key, value in seconds.items()},
    }
    print(read(killed / "tuning.md"))
    text = json.dumps(found, indent=1)
    (output / "benchmark.json").write_text(text + "\n", encoding="utf-8")
    print(text)
    if not all(same.values()):
        raise click.ClickException("The tables differ")


def timed(command: list) -> float:
    """Seconds that a command takes, which must succeed."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def finished(folder: Path) -> dict[Path, int]:
    """The finished settings, and when they were written."""
    rows = (folder / "settings").glob("*/results/row-*.npz")
    return {path: path.stat().st_mtime_ns for path in rows}


def read(path: Path) -> str:
    """A file as text."""
    return path.read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
