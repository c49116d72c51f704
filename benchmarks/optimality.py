"""How near attacks come to the nearest adversarial points known: AttackBench's optimality.

    python benchmarks/optimality.py --model areb_cnn.keras --model areb_cnn_pgd.keras \\
        --dataset mnist --samples 500 --output optimality --torch-python .venv-torch/bin/python

Every attack of ours, ART, Foolbox and adv-lib that looks for the nearest point of a norm by
gradients gets the same samples, all of which the model gets right, and about the same number of
passes, fewer where it ends. adv-lib's run on the same weights, where `--torch-python` names a
Python that has it (`pip install torch torchvision pillow tqdm requests`, `pip install --no-deps
adv-lib`, and an empty module `visdom` with a class `Visdom`); the Brendel-Bethge attacks of ART and
Foolbox want `pip install numba`. What came out is judged here, by one forward pass of the Keras
model. What has no gradient (HopSkipJump, boundary, Sign-OPT, GeoDA, ZOO, SimBA, Pointwise and
blended noise) needs far more than so many passes and is left out, as are attacks within a budget
(`benchmarks/attacks.py`), StrAttack, which minimises a norm of groups of pixels, and attacks on
tables or colours.

With `r(eps)` the share of samples that an attack has not broken within `eps`, `r*(eps)` that of the
shortest distance of all attacks per sample, and `e` where `r*` is 0, the optimality of Cina et al.
(AttackBench, AAAI 2025, arXiv:2404.19460) is `1 - (A - A*) / (r(0) e - A*)`, `A` and `A*` the areas
below the two curves up to `e`: 1 for an attack that finds the best point of each sample, 0 for one
that finds none. Areas are those of the staircases; the authors' program joins their corners.

The first table has a row for each attack. Passes are forward and backward; those of Foolbox and
adv-lib are counted by the model that is attacked, the others' by the attack. "Ours" is the mean of
our attack of that name over the mean of this one, on the samples that both fool. The second table
has each library's best attack of a norm, and what is left when the shortest of all of its attacks
is taken for each sample.

Finished attacks are stored in the output folder, one file each: the same call goes on with what is
missing, and one on other samples, weights or steps is refused there. One that took longer than
`--limit` is noted in a file as well and not tried again; delete the file to try it. The last line
for each model is JSON.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import click
import keras
import numpy as np
import tensorflow as tf
from rich import box
from rich.console import Console
from rich.table import Table

from kerasrobust import attacks, datasets, models
from kerasrobust.engine import store
from kerasrobust.engine.classifier import Classifier
from kerasrobust.specs import jsonable

NORMS = {"L0": 0.0, "L1": 1.0, "L2": 2.0, "Linf": math.inf}
LIBRARIES = ("kerasrobust", "adv-lib", "Foolbox", "ART")
UNCHANGED = 1e-6
# Of attacks that search for a constant by rounds of so many steps.
ROUND = 100
# Instead of the name of an attack: the shortest distance of all of a library's.
ALL = "all"

# Attacks the samples of a bench: their points, and passes per sample, forward and backward.
Runner = Callable[["Bench"], tuple[np.ndarray, tuple[float, float]]]


def ours(steps: int) -> dict[str, Runner]:
    """Our minimal-norm attacks that use gradients, by name and norm."""
    rounds = steps // ROUND
    search = {"binary_search_steps": rounds, "max_iter": ROUND, "initial_const": 0.1}
    found: dict[str, tuple[str, dict[str, Any]]] = {
        "ddn L2": ("ddn", {"max_iter": steps}),
        "sigma_zero L0": ("sigma_zero", {"max_iter": steps}),
        "deepfool L2": ("deepfool", {}),
        "cwl2 L2": ("cwl2", {**search, "learning_rate": 0.1}),
        "cwl2, defaults L2": ("cwl2", {}),
        "ead L1": ("ead", {**search, "learning_rate": 0.01}),
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
            # A step of ten passes: one for each class of MNIST and CIFAR-10.
            found[f"fab {name}"] = ("fab", {"norm": norm, "max_iter": steps // 10})
    return {
        name: lambda bench, a=attack, s=settings: bench.native(a, s)
        for name, (attack, settings) in found.items()
    }


def art(steps: int) -> dict[str, Runner]:
    """ART's: those that have a counterpart here, and what it has besides."""
    from art.attacks import evasion

    search = {"binary_search_steps": steps // ROUND, "max_iter": ROUND}
    settings: dict[tuple[str, str], dict[str, Any]] = {
        ("cwl2", "L2"): search,
        ("ead", "L1"): search,
        ("deepfool", "L2"): {},
        ("cwl0", "L0"): {},
        ("cwlinf", "Linf"): {},
        ("jsma", "L0"): {},
    }
    found: dict[str, Runner] = {
        f"{attack} {norm}": lambda bench, a="art:" + attack, s=given: bench.native(a, s)
        for (attack, norm), given in settings.items()
    }
    found["newtonfool L2"] = lambda bench: bench.art(
        lambda estimator, size: evasion.NewtonFool(
            estimator, max_iter=ROUND, batch_size=size, verbose=False
        )
    )
    for name, norm in NORMS.items():
        found[f"brendel_bethge {name}"] = lambda bench, norm=norm: bench.art(
            lambda estimator, size: evasion.BrendelBethgeAttack(
                estimator, norm=norm, steps=steps, batch_size=size
            )
        )
    return found


def foolbox(steps: int) -> dict[str, Runner]:
    """Foolbox's `MinimizationAttack`s that use gradients."""
    from foolbox import attacks as box

    rounds = steps // ROUND
    # Lengths of FMN's first step, by norm, as ours.
    found: dict[str, Callable[[], Any]] = {
        "fmn L0": lambda: box.L0FMNAttack(steps=steps, max_stepsize=10.0),
        "fmn L1": lambda: box.L1FMNAttack(steps=steps, max_stepsize=1.0),
        "fmn L2": lambda: box.L2FMNAttack(steps=steps, max_stepsize=1.0),
        "fmn Linf": lambda: box.LInfFMNAttack(steps=steps, max_stepsize=10.0),
        "ddn L2": lambda: box.DDNAttack(steps=steps),
        "deepfool L2": lambda: box.L2DeepFoolAttack(steps=ROUND),
        "deepfool Linf": lambda: box.LinfDeepFoolAttack(steps=ROUND),
        "newtonfool L2": lambda: box.NewtonFoolAttack(steps=ROUND),
        "cwl2 L2": lambda: box.L2CarliniWagnerAttack(
            rounds, ROUND, stepsize=0.1, initial_const=0.1, abort_early=False
        ),
        "ead L1": lambda: box.EADAttack(
            rounds, ROUND, initial_stepsize=0.01, initial_const=0.1, abort_early=False
        ),
        "brendel_bethge L0": lambda: box.L0BrendelBethgeAttack(steps=steps),
        "brendel_bethge L1": lambda: box.L1BrendelBethgeAttack(steps=steps),
        "brendel_bethge L2": lambda: box.L2BrendelBethgeAttack(steps=steps),
        "brendel_bethge Linf": lambda: box.LinfinityBrendelBethgeAttack(steps=steps),
    }
    return {name: lambda bench, make=make: bench.foolbox(make()) for name, make in found.items()}


# What adv-lib is asked for; `optimality_torch.py` says how.
ADV_LIB = (
    *("ddn L2", "sigma_zero L0", "alma L2", "alma L1", "fmn L0", "fmn L1", "fmn L2", "fmn Linf"),
    *("pdgd L2", "pdpgd L0", "pdpgd L1", "pdpgd L2", "pdpgd Linf", "fab L1", "fab L2", "fab Linf"),
    *("deepfool L2", "deepfool Linf", "superdeepfool L2", "trust_region L2", "trust_region Linf"),
    *("cwl2 L2", "cwlinf Linf", "vfga L0", "apgd L1", "apgd L2", "apgd Linf"),
)


@click.command()
@click.option("--model", "paths", required=True, multiple=True, help="One or more, one data set.")
@click.option("--dataset", default="mnist", show_default=True)
@click.option("--data-dir", help="Folder of prepared TFDS data sets. Default: $TFDS_DATA_DIR.")
@click.option("--samples", default=100, show_default=True)
@click.option("--steps", default=1000, show_default=True, help="Passes of a sample; hundreds.")
@click.option("--batch-size", default=128, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), required=True)
@click.option("--torch-python", help="Python with PyTorch and adv-lib.")
@click.option("--only", multiple=True, type=click.Choice(LIBRARIES), help="Libraries.")
@click.option("--attack", "names", multiple=True, help='Attacks, as in "alma L1".')
@click.option("--limit", default=0, help="Seconds after which an attack is ended; 0: never.")
@click.option("--markdown", is_flag=True, help="Tables for a document.")
def main(
    paths,
    dataset,
    data_dir,
    samples,
    steps,
    batch_size,
    seed,
    output,
    torch_python,
    only,
    names,
    limit,
    markdown,
):
    """Attack what is missing, then tabulate."""
    if steps < ROUND or steps % ROUND:
        raise click.UsageError(f"--steps must be a multiple of {ROUND}")
    if len({Path(path).stem for path in paths}) < len(paths):
        raise click.UsageError("--model: two files have the same name")
    data = datasets.load(dataset, "test", samples=2 * samples, seed=seed, data_dir=data_dir)
    for path in paths:
        classifier = Classifier(models.load(path))
        right = classifier.predict(data.x).argmax(axis=1) == data.y
        x, y = data.x[right][:samples], data.y[right][:samples]
        folder = output / Path(path).stem
        folder.mkdir(parents=True, exist_ok=True)
        check_folder(folder, classifier, x, y, steps)
        bench = Bench(classifier, x, y, folder, batch_size, limit)
        for library, made in (("kerasrobust", ours), ("Foolbox", foolbox), ("ART", art)):
            if library in (only or LIBRARIES):
                for name, run in made(steps).items():
                    if not names or name in names:
                        bench.keep(library, name, run)
        if torch_python and "adv-lib" in (only or LIBRARIES):
            bench.adv_lib(torch_python, steps, [n for n in ADV_LIB if not names or n in names])
        rows = bench.rows()
        show(path, rows, markdown)
        described = {"model": path, "samples": len(x), "steps": steps}
        print(json.dumps(jsonable({**described, "rows": rows, "missing": bench.missing})))


def check_folder(folder: Path, classifier: Classifier, x, y, steps: int) -> None:
    """Notes what a folder's points are of; refuses others beside them."""
    weights = store.weights(classifier.model)
    asked = {"samples": store.digest({"x": x, "y": y}), "weights": weights, "steps": steps}
    note = folder / "asked.json"
    if note.exists() and json.loads(note.read_text()) != asked:
        raise click.UsageError(f"--output: {folder} holds points of other samples, model or steps")
    note.write_text(json.dumps(asked))


class Bench:
    """Samples, and what attacks made of them.

    Attributes:
        missing: Why there are no points of an attack, by library and name.
    """

    def __init__(self, classifier: Classifier, x, y, output: Path, batch_size: int, limit: int):
        self.classifier, self.x, self.y = classifier, x, y
        self.output, self.batch_size, self.limit = output, batch_size, limit
        self.missing: dict[str, str] = {}
        self.forwards = self.backwards = 0
        self.logits = tf.function(classifier.logits, reduce_retracing=True)

    def keep(self, library: str, name: str, run: Runner) -> None:
        """Runs an attack and stores what it found, if that has not been done."""
        path = self._pending(library, name)
        if path is None:
            return
        begin = time.perf_counter()
        try:
            with warnings.catch_warnings(), alarm(self.limit):
                warnings.simplefilter("ignore")
                x_adv, passes = run(self)
        except TimeoutError as error:
            self._too_slow(path, error)
            return
        except Exception as error:  # another library's
            self._tell(path.stem, error)
            return
        seconds = time.perf_counter() - begin
        np.savez_compressed(path, x_adv=x_adv, passes=np.array(passes), seconds=seconds)
        print(json.dumps({"library": library, "attack": name, "seconds": round(seconds, 1)}))

    def _pending(self, library: str, name: str) -> Path | None:
        """Where the points are to go; None if the attack is done with."""
        path = self.output / f"{library} {name}.npz"
        given_up = path.with_suffix(".txt")
        if given_up.exists():
            self.missing[path.stem] = given_up.read_text()
        return None if path.exists() or given_up.exists() else path

    def _too_slow(self, path: Path, error: Exception) -> None:
        path.with_suffix(".txt").write_text(str(error))
        self._tell(path.stem, error)

    def _tell(self, name: str, error: Exception) -> None:
        self.missing[name] = f"{type(error).__name__}: {error}"[:200]
        print(json.dumps({"attack": name, "failed": self.missing[name]}))

    def native(self, name: str, settings: dict[str, Any]):
        """An attack of the registry, ART's among them."""
        attack = attacks.get(name, **settings, batch_size=self.batch_size)
        result = attack.bind(self.classifier).run(self.x, self.y)
        n = len(self.x)
        return result.x_adv, (result.queries.sum() / n, result.gradients.sum() / n)

    def art(self, make: Callable[[Any, int], Any]):
        """An attack of ART's that the registry does not have."""
        from kerasrobust.art import estimators

        estimator = estimators.estimator(self.classifier, self.x.shape[1:])
        estimator.queries = estimator.gradients = 0
        with estimators.numpy_seed([0]):
            found = make(estimator, self.batch_size).generate(self.x.copy(), self.y)
        n = len(self.x)
        return found, (estimator.queries / n, estimator.gradients / n)

    def foolbox(self, attack):
        import eagerpy
        import foolbox

        @tf.custom_gradient
        def counted(logits):
            def gradient(above):
                self.backwards += len(above)
                return above

            return tf.identity(logits), gradient

        def logits(x):
            self.forwards += len(x)
            return counted(self.logits(x))

        self.forwards = self.backwards = 0
        tf.random.set_seed(0)
        model = foolbox.models.TensorFlowModel(logits, bounds=self.classifier.clip_values)
        x, y = eagerpy.astensors(tf.constant(self.x), tf.constant(self.y, tf.int32))
        # Foolbox's arithmetic wants a function that NumPy 2 no longer has.
        promote = mock.patch.object(
            np, "find_common_type", lambda types, _: np.result_type(*types), create=True
        )
        with promote:
            _, found, _ = attack(model, x, y, epsilons=None)
        return found.numpy(), (self.forwards / len(self.x), self.backwards / len(self.x))

    def adv_lib(self, python: str, steps: int, names: list[str]) -> None:
        """The weights and samples to PyTorch, and what adv-lib made of them back."""
        pending = {name: path for name in names if (path := self._pending("adv-lib", name))}
        if pending:
            export(self.classifier, self.x, self.y, self.output)
        script = Path(__file__).with_name("optimality_torch.py")
        for name, path in pending.items():  # each in a process: one that fails stops no other
            command = [python, str(script), str(self.output), str(steps), name]
            try:
                subprocess.run(command, check=True, timeout=self.limit or None)
            except subprocess.TimeoutExpired as error:
                self._too_slow(path, TimeoutError(f"longer than {error.timeout:.0f} s"))
            except subprocess.CalledProcessError as error:
                self._tell(path.stem, error)

    def rows(self) -> list[dict[str, Any]]:
        """Figures of all attacks that are stored, norm by norm, and of all of a library's."""
        distances: dict[str, dict[tuple[str, str], np.ndarray]] = {name: {} for name in NORMS}
        costs = {}
        for path in sorted(self.output.glob("* *.npz")):
            library, _, rest = path.stem.partition(" ")
            attack, _, norm = rest.rpartition(" ")
            with np.load(path) as stored:
                distances[norm][library, attack] = self.distance(stored["x_adv"], NORMS[norm])
                costs[library, attack, norm] = (*stored["passes"].tolist(), stored["seconds"])
        rows = []
        for norm, found in distances.items():
            if not found:
                continue
            best = np.min(list(found.values()), axis=0)
            of_norm = []
            for (library, attack), far in found.items():
                forwards, backwards, seconds = costs[library, attack, norm]
                row = {"norm": norm, "library": library, "attack": attack, **figures(far, best)}
                row |= {"forwards": forwards, "backwards": backwards, "seconds": float(seconds)}
                mine = found.get(("kerasrobust", attack))
                if mine is not None and library != "kerasrobust":
                    both = np.isfinite(mine) & np.isfinite(far)
                    row["ours"] = (
                        float(mine[both].mean() / far[both].mean()) if both.any() else None
                    )
                of_norm.append(row)
            rows += sorted(of_norm, key=lambda row: -row["optimality"])
            for library in LIBRARIES:
                every = [far for (owner, _), far in found.items() if owner == library]
                if every:
                    far = np.min(every, axis=0)
                    row = {"norm": norm, "library": library, "attack": ALL}
                    rows.append({**row, **figures(far, best)})
        return rows

    def distance(self, x_adv: np.ndarray, norm: float) -> np.ndarray:
        """How far points lie that are inside the box and adversarial; infinite for all others."""
        low, high = self.classifier.clip_values
        # Some libraries return points that are no numbers: failures.
        numbers = np.isfinite(x_adv).reshape(len(x_adv), -1).all(axis=1)
        inside = np.clip(np.nan_to_num(x_adv), low, high)
        fools = numbers & (self.classifier.predict(inside).argmax(axis=1) != self.y)
        delta = (inside.astype(np.float64) - self.x).reshape(len(inside), -1)
        delta[np.abs(delta) <= UNCHANGED * (high - low)] = 0
        return np.where(fools, np.linalg.norm(delta, ord=norm, axis=1), math.inf)


def figures(far: np.ndarray, best: np.ndarray) -> dict[str, float]:
    """What a row says of distances, infinite for a failure, beside the shortest known."""
    broken = np.isfinite(far)
    return {
        "success": float(broken.mean()),
        "median": float(np.median(far)),
        "mean": float(far[broken].mean()) if broken.any() else math.nan,
        "optimality": optimality(far, best),
    }


def optimality(distances: np.ndarray, best: np.ndarray) -> float:
    """1 minus the area between two curves of accuracy, over the largest that it could be.

    Args:
        distances: Of an attack, `[n]`, infinite for a failure.
        best: The shortest known, `[n]`.

    Returns:
        Where all of the shortest are alike, which leaves no area between the curves, the share of
        samples that fell there; 0 where none is known.
    """
    known = np.isfinite(best)
    end = best[known].max(initial=0.0)
    # The area below a staircase that loses 1/n at each distance is their mean, cut at the end.
    area, least = (np.minimum(part, end).mean() for part in (distances, best))
    if least == end:
        return float((distances <= end).mean())
    return float(1 - (area - least) / (end - least))


def chain(model: keras.Model) -> Iterator[keras.Layer]:
    """The layers in order, those of models inside it, of a wrapped one say, in their place."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from chain(layer)
        else:
            yield layer


def described(model: keras.Model) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """A chain of layers as data, without the closing softmax, and their weights by place."""
    layers: list[dict[str, Any]] = []
    arrays = {}
    for layer in chain(model):
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


def export(classifier: Classifier, x: np.ndarray, y: np.ndarray, folder: Path) -> None:
    """Writes what `optimality_torch.py` reads: layers, weights, samples and their logits."""
    layers, arrays = described(classifier.model)
    logits = classifier.logits(tf.constant(x)).numpy()
    (folder / "network.json").write_text(json.dumps(layers))
    np.savez(folder / "arrays.npz", x=x, y=y, logits=logits, **arrays)


@contextlib.contextmanager
def alarm(seconds: int) -> Iterator[None]:
    """Raises TimeoutError in what it encloses after so many seconds; 0 for never."""

    def ring(number: int, frame: Any) -> None:
        raise TimeoutError(f"longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    # Again and again: a callback of foreign code swallows what is raised in it.
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def show(model: str, rows: list[dict[str, Any]], markdown: bool) -> None:
    """Two tables, norm by norm, the best first."""
    kind = box.MARKDOWN if markdown else box.HEAVY_HEAD
    every = Table(
        *("norm", "attack", "library", "optimality", "success %", "median", "mean", "ours"),
        *("passes", "s"),
        box=kind,
        title=model,
    )
    nearest = Table(
        *("norm", "library", "best attack", "median", "mean", "all: median", "mean"),
        box=kind,
    )
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for row in rows:
        medians = (f"{row['median']:.4g}", f"{row['mean']:.4g}")
        best = first.setdefault((row["norm"], row["library"]), row)
        if row["attack"] == ALL:
            nearest.add_row(
                *(row["norm"], row["library"], best["attack"]),
                *(f"{best['median']:.4g}", f"{best['mean']:.4g}", *medians),
            )
            continue
        ours = row.get("ours")
        every.add_row(
            *(row["norm"], row["attack"], row["library"], f"{100 * row['optimality']:.1f}"),
            *(f"{100 * row['success']:.1f}", *medians, "" if ours is None else f"{ours:.3f}"),
            *(f"{row['forwards']:.0f}/{row['backwards']:.0f}", f"{row['seconds']:.0f}"),
        )
    console = Console(width=130)
    console.print(every)
    console.print(nearest)


if __name__ == "__main__":
    main()
