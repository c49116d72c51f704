"""Is an evaluation that is killed again and again the one that was not?

Runs `kr-eval` once undisturbed and once killed (SIGKILL) at random moments, each time started anew
on the same folder until it is through, and compares the two reports: everything but the times.

    python benchmarks/interruptions.py --model model.keras --dataset mnist --attacks areb --kills 20
"""

from __future__ import annotations

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import time
from typing import Any

from kerasrobust.evaluation.report import timeless

COMMAND = [sys.executable, "-c", "from kerasrobust_cli.evaluate import main; main()"]


def outcome(folder: pathlib.Path) -> dict[str, Any]:
    """A report without times and the command, which names the folder."""
    return timeless(json.loads((folder / "report.json").read_text(encoding="utf-8")))


def start(arguments: list[str], folder: pathlib.Path) -> subprocess.Popen[bytes]:
    """The command, writing to a folder."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*COMMAND, *arguments, "--output", str(folder)], **quiet)


def main(options: argparse.Namespace) -> int:
    """Prints what was compared; 1 where the reports differ."""
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole, torn = pathlib.Path(scratch, "whole"), pathlib.Path(scratch, "torn")
        begin = time.perf_counter()
        if start(options.arguments, whole).wait():
            raise RuntimeError("The undisturbed run failed.")
        took = time.perf_counter() - begin
        kills = 0
        while True:
            process = start(options.arguments, torn)
            try:
                # Loading the libraries is no time to be interrupted at: nothing is under way.
                limit = draw.uniform(options.load, took) if kills < options.kills else None
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                continue
            if code:
                raise RuntimeError(f"A run failed with exit code {code}.")
            if kills >= options.kills:
                break
            # It was through before its time: from the beginning, for the kills that are left.
            for path in sorted((torn / "results").glob("*.npz"))[::2]:
                path.unlink()
        equal = outcome(whole) == outcome(torn)
    print(f"{took:.0f} s undisturbed, {kills} kills, reports {'equal' if equal else 'DIFFERENT'}")
    return int(not equal)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--load", type=float, default=6.0, help="seconds before the first kill")
    parser.add_argument("--seed", type=int, default=0)
    known, rest = parser.parse_known_args()
    known.arguments = rest
    sys.exit(main(known))
