"""How near attacks come to the nearest adversarial points known: AttackBench's optimality.

    python benchmarks/optimality.py --model areb_cnn.keras --dataset mnist --output optimality \\
        --torch-python .venv-torch/bin/python

Every minimal-norm attack of ours, of ART's and Foolbox's attacks the same samples, all of which the
model gets right, with about the same number of passes. So do adv-lib's, on the same weights, where
`--torch-python` names a Python that has it (`pip install torch torchvision pillow tqdm requests`,
`pip install --no-deps adv-lib`, and an empty module `visdom` with a class `Visdom`). What came out
is judged here, by one forward pass of the Keras model.

With `r(eps)` the share of samples that an attack has not broken within `eps`, `r*(eps)` that of the
shortest distance of all attacks per sample, and `e` where `r*` is 0, the optimality of Cina et al.
(AttackBench, AAAI 2025, arXiv:2404.19460) is `1 - (A - A*) / (r(0) e - A*)`, `A` and `A*` the areas
below the two curves up to `e`: 1 for an attack that finds the best point of each sample, 0 for one
that finds none. Areas are those of the staircases; the authors' program joins their corners.

Forward passes of Foolbox and both passes of adv-lib are counted by the model that is attacked, ours
by the attack. Finished attacks are stored in the output folder: the same call goes on with what is
missing. The last line is JSON.
"""

from __future__ import annotations

import json
import math
import subprocess
import time
import warnings
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from kerasrobust import attacks, datasets, models
from kerasrobust.engine.classifier import Classifier

NORMS = {"L0": 0.0, "L1": 1.0, "L2": 2.0, "Linf": math.inf}
UNCHANGED = 1e-6


def ours(steps: int) -> dict[str, tuple[str, dict[str, Any]]]:
    """Our minimal-norm attacks, by name and norm."""
    rounds = steps // 100
    search = {"binary_search_steps": rounds, "max_iter": 100, "learning_rate": 0.1}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "ddn L2": ("ddn", {"max_iter": steps}),
        "sigma_zero L0": ("sigma_zero", {"max_iter": steps}),
        "deepfool L2": ("deepfool", {}),
        "cwl2 L2": ("cwl2", {**search, "initial_const": 0.1}),
        "cwl2, defaults L2": ("cwl2", {}),
        "ead L1": ("ead", {**search, "learning_rate": 0.01, "initial_const": 0.1}),
        "ead, defaults L1": ("ead", {}),
        "cwl0 L0": ("cwl0", {}),
        "cwlinf Linf": ("cwlinf", {}),
        "jsma L0": ("jsma", {}),
    }
    for name, norm in NORMS.items():
        found[f"fmn {name}"] = ("fmn", {"norm": norm, "max_iter": steps})
        if name in ("L1", "L2"):
            found[f"alma {name}"] = ("alma", {"norm": norm, "max_iter": steps})
        if name != "L0":
            found[f"fab {name}"] = ("fab", {"norm": norm, "max_iter": rounds * 10})
    return found


def theirs(steps: int) -> dict[str, dict[str, Any]]:
    """Foolbox's and ART's, by library."""
    import foolbox

    box, rounds = foolbox.attacks, steps // 100
    lengths = {"L0": 10.0, "L1": 1.0, "L2": 1.0, "Linf": 10.0}  # as ours
    fmn = {"L0": box.L0FMNAttack, "L1": box.L1FMNAttack, "L2": box.L2FMNAttack}
    fmn["Linf"] = box.LInfFMNAttack
    return {
        "Foolbox": {
            **{
                f"fmn {name}": kind(steps=steps, max_stepsize=lengths[name])
                for name, kind in fmn.items()
            },
            "ddn L2": box.DDNAttack(steps=steps),
            "deepfool L2": box.L2DeepFoolAttack(steps=100),
            "deepfool Linf": box.LinfDeepFoolAttack(steps=100),
            "cwl2 L2": box.L2CarliniWagnerAttack(
                rounds, 100, stepsize=0.1, initial_const=0.1, abort_early=False
            ),
            "ead L1": box.EADAttack(rounds, 100, initial_stepsize=0.01, initial_const=0.1),
        },
        "ART": {
            "cwl2 L2": ("cwl2", {"binary_search_steps": rounds, "max_iter": 100}),
            "ead L1": ("ead", {"binary_search_steps": rounds, "max_iter": 100}),
            "deepfool L2": ("deepfool", {"max_iter": 100}),
        },
    }


# What adv-lib is asked for; `optimality_torch.py` says how.
ADV_LIB = (
    *("ddn L2", "sigma_zero L0", "alma L2", "alma L1", "fmn L0", "fmn L1", "fmn L2", "fmn Linf"),
    *("pdgd L2", "pdpgd L1", "pdpgd L2", "pdpgd Linf", "fab L1", "fab L2", "fab Linf"),
    *("deepfool L2", "superdeepfool L2", "trust_region L2", "trust_region Linf", "cwl2 L2"),
)


@click.command()
@click.option("--model", "path", required=True)
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--samples", default=100, show_default=True)
@click.option("--steps", default=1000, show_default=True, help="Passes of a sample; hundreds.")
@click.option("--batch-size", default=128, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--torch-python", help="Python with PyTorch and adv-lib.")
@click.option("--only", multiple=True, help="Libraries: kerasrobust, adv-lib, Foolbox, ART.")
def main(path, dataset, data_dir, samples, steps, batch_size, seed, output, torch_python, only):
    """Attack what is missing, then tabulate."""
    if steps < 100 or steps % 100:
        raise click.UsageError("--steps must be a multiple of 100")
    classifier = Classifier(models.load(path))
    data = datasets.load(dataset, "test", samples=2 * samples, seed=seed, data_dir=data_dir)
    right = classifier.predict(data.x).argmax(axis=1) == data.y
    x, y = data.x[right][:samples], data.y[right][:samples]
    output.mkdir(parents=True, exist_ok=True)
    bench = Bench(classifier, x, y, output, batch_size)
    wanted = set(only or ("kerasrobust", "adv-lib", "Foolbox", "ART"))
    if "kerasrobust" in wanted:
        for name, (attack, settings) in ours(steps).items():
            bench.keep("kerasrobust", name, lambda a=attack, s=settings: bench.native(a, s))
    if torch_python and "adv-lib" in wanted:
        bench.adv_lib(torch_python, steps)
    for library, found in theirs(steps).items():
        if library in wanted:
            run = bench.foolbox if library == "Foolbox" else bench.art
            for name, attack in found.items():
                bench.keep(library, name, lambda a=attack, run=run: run(a))
    rows = bench.rows()
    show(rows)
    print(json.dumps({"model": path, "samples": len(x), "steps": steps, "rows": rows}))


class Bench:
    """Samples, and what attacks made of them."""

    def __init__(self, classifier: Classifier, x, y, output: Path, batch_size: int):
        self.classifier, self.x, self.y = classifier, x, y
        self.output, self.batch_size = output, batch_size
        self.forwards = 0

    def keep(self, library: str, name: str, run) -> None:
        """Runs an attack and stores what it found, if that has not been done."""
        path = self.output / f"{library} {name}.npz"
        if path.exists():
            return
        self.forwards, begin = 0, time.perf_counter()
        try:
            x_adv, passes = run()
        except Exception as error:  # another library's
            print(json.dumps({"library": library, "attack": name, "failed": repr(error)[:200]}))
            return
        seconds = time.perf_counter() - begin
        np.savez_compressed(path, x_adv=x_adv, passes=np.array(passes), seconds=seconds)
        print(json.dumps({"library": library, "attack": name, "seconds": round(seconds, 1)}))

    def native(self, name: str, settings: dict[str, Any]):
        attack = attacks.get(name, **settings, batch_size=self.batch_size)
        result = attack.bind(self.classifier).run(self.x, self.y)
        n = len(self.x)
        return result.x_adv, (result.queries.sum() / n, result.gradients.sum() / n)

    def art(self, described: tuple[str, dict[str, Any]]):
        name, settings = described
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attack = attacks.get("art:" + name, **settings, batch_size=self.batch_size)
            result = attack.bind(self.classifier).run(self.x, self.y)
        return result.x_adv, (math.nan, math.nan)

    def foolbox(self, attack):
        import eagerpy
        import foolbox

        def logits(x):
            self.forwards += len(x)
            return self.classifier.logits(x)

        model = foolbox.models.TensorFlowModel(logits, bounds=self.classifier.clip_values)
        x, y = eagerpy.astensors(tf.constant(self.x), tf.constant(self.y, tf.int32))
        _, found, _ = attack(model, x, y, epsilons=None)
        return found.numpy(), (self.forwards / len(self.x), math.nan)

    def adv_lib(self, python: str, steps: int) -> None:
        """The weights and samples to PyTorch, and what adv-lib made of them back."""
        missing = [name for name in ADV_LIB if not (self.output / f"adv-lib {name}.npz").exists()]
        if not missing:
            return
        layers, arrays = described(self.classifier.model)
        logits = self.classifier.logits(tf.constant(self.x)).numpy()
        (self.output / "network.json").write_text(json.dumps(layers))
        np.savez(self.output / "arrays.npz", x=self.x, y=self.y, logits=logits, **arrays)
        script = Path(__file__).with_name("optimality_torch.py")
        for name in missing:  # each in a process of its own: one that fails stops no other
            subprocess.run([python, str(script), str(self.output), str(steps), name], check=False)

    def rows(self) -> list[dict[str, Any]]:
        """Figures of all attacks that are stored, norm by norm."""
        distances: dict[str, dict[tuple[str, str], np.ndarray]] = {name: {} for name in NORMS}
        passes = {}
        for path in sorted(self.output.glob("* *.npz")):
            library, _, rest = path.stem.partition(" ")
            attack, _, norm = rest.rpartition(" ")
            with np.load(path) as stored:
                distances[norm][library, attack] = self.distance(stored["x_adv"], NORMS[norm])
                passes[library, attack, norm] = (
                    stored["passes"].tolist(),
                    float(stored["seconds"]),
                )
        rows = []
        for norm, found in distances.items():
            if not found:
                continue
            best = np.min(list(found.values()), axis=0)
            for (library, attack), far in found.items():
                counts, seconds = passes[library, attack, norm]
                broken = np.isfinite(far)
                rows.append(
                    {
                        "norm": norm,
                        "library": library,
                        "attack": attack,
                        "success": float(broken.mean()),
                        "median": float(np.median(far)),
                        "mean": float(far[broken].mean()) if broken.any() else math.nan,
                        "optimality": optimality(far, best),
                        "forwards": counts[0],
                        "backwards": counts[1],
                        "seconds": seconds,
                    }
                )
        return sorted(rows, key=lambda row: (row["norm"], -row["optimality"]))

    def distance(self, x_adv: np.ndarray, norm: float) -> np.ndarray:
        """How far points lie that are inside the box and adversarial; infinite for all others."""
        low, high = self.classifier.clip_values
        inside = np.clip(x_adv, low, high)
        fools = self.classifier.predict(inside).argmax(axis=1) != self.y
        delta = (inside.astype(np.float64) - self.x).reshape(len(inside), -1)
        delta[np.abs(delta) <= UNCHANGED] = 0
        return np.where(fools, np.linalg.norm(delta, ord=norm, axis=1), math.inf)


def optimality(distances: np.ndarray, best: np.ndarray) -> float:
    """1 minus the area between two curves of accuracy, over the largest that it could be.

    Args:
        distances: Of an attack, `[n]`, infinite for a failure.
        best: The shortest known, `[n]`.
    """
    known = np.isfinite(best)
    end = best[known].max()
    # The area below a staircase that loses 1/n at each distance is their mean, cut at the end.
    area, least = (np.minimum(part, end).mean() for part in (distances, best))
    return float(1 - (area - least) / (end - least))


def described(model: keras.Model) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """A chain of layers as data, without the closing softmax, and their weights by place."""
    layers: list[dict[str, Any]] = []
    arrays = {}
    for layer in model.layers:
        kind = type(layer).__name__
        if kind in ("InputLayer", "Dropout"):
            continue
        if kind == "Activation" or kind in ("ReLU", "Softmax"):
            name = kind.lower() if kind != "Activation" else layer.activation.__name__
            if name == "relu":
                layers[-1]["relu"] = True
            elif name != "softmax":
                raise click.UsageError(f"no twin in PyTorch is known of the activation {name}")
            continue
        config = layer.get_config()
        kept = ("padding", "strides", "pool_size", "epsilon")
        entry = {key: config[key] for key in kept if key in config}
        weights = layer.get_weights()
        if kind == "BatchNormalization":
            scale = weights.pop(0) if layer.scale else np.ones_like(weights[-1])
            center = weights.pop(0) if layer.center else np.zeros_like(weights[-1])
            weights = [scale, center, *weights]
        activation = getattr(layer, "activation", None)
        relu = getattr(activation, "__name__", "") == "relu"
        rank = len(layer.input.shape)
        entry |= {"kind": kind, "weights": len(weights), "relu": relu, "rank": rank}
        for j, weight in enumerate(weights):
            arrays[f"{len(layers)}.{j}"] = weight
        layers.append(entry)
    return layers, arrays


def show(rows: list[dict[str, Any]]) -> None:
    """One table, norm by norm, the best first."""
    table = Table(
        "norm", "attack", "library", "optimality", "success %", "median", "mean", "passes", "s"
    )
    for row in rows:
        passes = "/".join(
            "?" if math.isnan(v) else f"{v:.0f}" for v in (row["forwards"], row["backwards"])
        )
        table.add_row(
            *(row["norm"], row["attack"], row["library"], f"{100 * row['optimality']:.1f}"),
            *(f"{100 * row['success']:.0f}", f"{row['median']:.4g}", f"{row['mean']:.4g}"),
            *(passes, f"{row['seconds']:.0f}"),
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
