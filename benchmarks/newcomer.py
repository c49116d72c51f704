"""A newcomer's path: an own CIFAR-10 CNN, evaluated, hardened, evaluated again, deployed.

The network scales its pixels itself (`Rescaling(1 / 255)`) and is trained by plain Keras. Each
command is run as a person would type it, in a process of its own; what it printed is shown.

    python benchmarks/newcomer.py --output newcomer/
"""

from __future__ import annotations

import argparse
import os
import pathlib
import re
import subprocess
import sys
import time

COMMANDS = {
    name: [sys.executable, "-c", f"from kerasrobust_cli.{module} import main; main()"]
    for name, module in (("kr-eval", "evaluate"), ("kr-train", "train"))
}
DEPLOYED = """
import sys
sys.modules["kerasrobust"] = None  # any import of it fails
import keras, numpy as np
data = np.load(sys.argv[2])
if sys.argv[1].endswith(".keras"):
    scores = keras.saving.load_model(sys.argv[1]).predict(data["x"], verbose=0)
else:
    scores = keras.layers.TFSMLayer(sys.argv[1], call_endpoint="serve")(data["x"])
print(f"{100 * np.mean(np.argmax(scores, axis=1) == data['y']):.2f}")
"""


def own_model(options: argparse.Namespace):
    """A small CNN of 0..255, trained by plain Keras."""
    import keras
    from keras import layers

    import kerasrobust

    data = kerasrobust.datasets.load(
        "cifar10", "train", samples=options.samples, clip_values=(0, 255)
    )
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((32, 32, 3)), layers.Rescaling(1 / 255)])
    for width in (32, 64):
        for _ in range(2):
            model.add(layers.Conv2D(width, 3, padding="same", activation="relu"))
        model.add(layers.MaxPooling2D())
    for layer in (layers.Flatten(), layers.Dense(128, "relu"), layers.Dense(10, "softmax")):
        model.add(layer)
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(data.x, data.y, batch_size=64, epochs=options.epochs, verbose=2)
    return model


def images(folder: pathlib.Path) -> dict[str, pathlib.Path]:
    """The first test images as floats in 0..1 and in 0..255."""
    import numpy as np

    import kerasrobust

    files = {}
    for name, high in (("unit", 1), ("bytes", 255)):
        test = kerasrobust.datasets.load("cifar10", samples=1000, clip_values=(0, high))
        files[name] = folder / f"{name}.npz"
        np.savez(files[name], x=test.x, y=test.y)
    return files


def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a command, and prints it with its time and its last line."""
    words = [str(argument) for argument in arguments]
    start = time.perf_counter()
    done = subprocess.run([*COMMANDS[name], *words], capture_output=True, text=True)
    print(f"\n$ {name} {' '.join(words)}", flush=True)
    told = [line for line in done.stderr.splitlines() if line.startswith(("Pixels", "Test", "Epo"))]
    if done.returncode:
        told.append(done.stderr.strip().splitlines()[-1])
    for line in [*told, *done.stdout.rstrip().splitlines()]:
        print(f"    {line}")
    print(f"    ({time.perf_counter() - start:.0f} s, exit code {done.returncode})", flush=True)
    return done


def evaluated(model: pathlib.Path, data: object, *arguments: object) -> dict[str, float] | None:
    """Accuracy in percent, clean and under each attack; None where `kr-eval` refused."""
    folder = model.with_suffix("")
    words = ["--model", model, "--dataset", data, *arguments, "--output", folder, "--quiet"]
    if run("kr-eval", *words).returncode:
        return None
    import kerasrobust

    report = kerasrobust.evaluation.Report.load(folder)
    attacks = {name: 100 * one.accuracy for name, one in report.attacks.items()}
    return {"clean": 100 * report.clean_accuracy, **attacks}


def main(options: argparse.Namespace) -> None:
    """Runs the whole path and prints a table of accuracies."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    options.output.mkdir(parents=True, exist_ok=True)
    own, hard = options.output / "own.keras", options.output / "hard.keras"
    own_model(options).save(own)
    files = images(options.output)

    refused = evaluated(own, files["unit"])
    assert refused is None, "0..1 for a model of 0..255 must be refused"
    attack = ["--attacks", f"pgd:eps={options.eps:g},max_iter=20", "--samples", 500]
    for data in (files["bytes"], "cifar10"):
        before = evaluated(own, data, *attack)
    before_areb = evaluated(own, "cifar10", "--samples", options.areb)

    inner = f"pgd:eps={options.eps:g},max_iter={options.steps},num_random_init=1"
    trained = run(
        "kr-train",
        *("--model", own, "--dataset", "cifar10", "--samples", options.samples),
        *("--defense", f"adversarial_training:attack=({inner}),alpha=0"),
        *("--robust-attack", f"pgd:eps={options.eps:g},max_iter=10", "--keep-best"),
        *("--validation-samples", 200, "--epochs", options.hardening, "--output", hard),
    )
    assert not trained.returncode, trained.stderr
    after = evaluated(hard, "cifar10", *attack)
    after_areb = evaluated(hard, "cifar10", "--samples", options.areb)

    import kerasrobust

    kerasrobust.models.load(hard).export(options.output / "served", verbose=False)
    command = [sys.executable, "-c", DEPLOYED]
    deployed = {
        name: subprocess.run(
            [*command, str(options.output / name), str(files["bytes"])],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for name in ("hard.keras", "served")
    }
    print(f"\nPGD {options.eps:g}, 500 samples; AREB, {options.areb} samples; accuracy in percent")
    for name, ours, areb in (("own", before, before_areb), ("hardened", after, after_areb)):
        assert ours is not None and areb is not None
        both = ours | {k: v for k, v in areb.items() if k != "clean" and k not in ours}
        print(f"{name:9s}", "  ".join(f"{key} {value:.1f}" for key, value in both.items()))
    (test,) = re.findall(r"Test accuracy ([0-9.]+) %", trained.stdout)
    print(f"kr-train: {test} % of the test split; without kerasrobust, of 1,000: {deployed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=pathlib.Path, required=True, help="folder for the models")
    parser.add_argument("--samples", type=int, default=10000, help="training samples")
    parser.add_argument("--epochs", type=int, default=6, help="of plain Keras")
    parser.add_argument("--hardening", type=int, default=4, help="epochs of kr-train")
    parser.add_argument("--steps", type=int, default=4, help="of PGD in training")
    parser.add_argument("--eps", type=float, default=8, help="in grey levels")
    parser.add_argument("--areb", type=int, default=30, help="samples under AREB")
    main(parser.parse_args())
