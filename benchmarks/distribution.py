"""Steps per second on one and on two workers of `MultiWorkerMirroredStrategy`, on this machine.

    python benchmarks/distribution.py --model areb_cnn --batch-size 128 --steps 20

Every worker is a process with one thread (`intra_op` and `inter_op` parallelism 1) on a core of its
own, so that two workers have twice what one has. The global batch is the same: two workers halve
it, and add up their gradients over the loopback interface. What two can reach at most is what one
does with half the batch. Both run `kerasrobust.distribution.fit`; data are random, the first epoch
compiles and is not counted, and the best of the others is. Nothing else should be running.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time

import click

# What is trained, and its name in the table.
TRAININGS = {
    "plain": None,
    "gda": "gda:N=4",
    "PGD, 7 steps": "adversarial_training:attack=(pgd:eps=0.3,eps_step=0.1,max_iter=7),alpha=0",
}


@click.command()
@click.option("--model", default="areb_cnn", show_default=True)
@click.option("--batch-size", default=128, show_default=True, help="The global one.")
@click.option("--steps", default=20, show_default=True, help="Of an epoch.")
@click.option("--epochs", default=3, show_default=True, help="Timed.")
@click.option("--timeout", default=1800.0, show_default=True, help="Seconds, of all workers.")
@click.option("--worker", hidden=True, help="Set for the processes that this one starts.")
def main(model, batch_size, steps, epochs, timeout, worker) -> None:
    """Print steps per second for one and two workers."""
    if worker is not None:
        click.echo("RESULT " + json.dumps(measure(model, batch_size, steps, epochs)))
        return
    rates = {count: run(count, timeout) for count in (1, 2)}
    from rich.console import Console
    from rich.table import Table

    table = Table("training", "1 worker", "2 workers", "factor")
    for name in TRAININGS:
        one, two = rates[1][name], rates[2][name]
        table.add_row(name, f"{one:.2f}", f"{two:.2f}", f"{two / one:.2f}")
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(table)
    console.print(f"Steps per second, {model}, global batch {batch_size}, one thread per worker.")


def run(count: int, timeout: float) -> dict[str, float]:
    """Starts the workers and returns what the first of them measured."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    processes = []
    for index in range(count):
        task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        processes.append(
            subprocess.Popen(
                [sys.executable, __file__, *sys.argv[1:], "--worker", str(index)],
                env={**os.environ, "TF_CONFIG": json.dumps(task), "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE if index == 0 else subprocess.DEVNULL,
                text=True,
            )
        )
    try:
        text, _ = processes[0].communicate(timeout=timeout)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    line = next((line for line in text.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise click.ClickException("The workers failed; see above.")
    return json.loads(line.removeprefix("RESULT "))


def measure(name: str, batch_size: int, steps: int, epochs: int) -> dict[str, float]:
    """Steps per second of each training; the other workers measure the same."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
        os.sched_setaffinity(0, {cores[index % len(cores)]})
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import kerasrobust

    class Clock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seconds = []

        def on_epoch_begin(self, epoch, logs=None):
            self.begin = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds.append(time.perf_counter() - self.begin)

    rates = {}
    for title, defense in TRAININGS.items():
        with strategy.scope():
            model = kerasrobust.models.get(name, seed=0)
            if defense is not None:
                model = kerasrobust.wrap(model, defense)
            model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        rng, shape = np.random.default_rng(0), model.input_shape[1:]
        x = rng.uniform(size=(steps * batch_size, *shape)).astype("float32")
        y = rng.integers(0, 10, len(x))
        data = tf.data.Dataset.from_tensor_slices((x, y)).batch(batch_size)
        clock = Clock()
        kerasrobust.distribution.fit(model, data, epochs=epochs + 1, callbacks=[clock])
        rates[title] = steps / min(clock.seconds[1:])
    return rates


if __name__ == "__main__":
    main()
