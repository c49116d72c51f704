"""What two documents print for MNIST, in their own settings: E2SAD, Table 3.1; NSLOSS, Table III.

    python benchmarks/documents.py e2sad --output e2sad --variant natural-h --variant e2sad-ss
    python benchmarks/documents.py nsloss --output nsloss --steps 938 --attacked 500

Each variant is a network that is trained with the document's recipe and judged after some steps,
so that a trend can be read where the document's own number of steps is out of reach. The state of a
run is kept every few steps, each figure as soon as it is there: the same command goes on after an
interruption and ends with the same figures, and further steps go on where fewer ended. Several
processes may work in one folder on different variants. `log.jsonl` has a row for each stage.
Without `--variant` all are run; seconds per step are measured first, and `--estimate` ends there.

E2SAD names its rows H and S by the labels of training, one-hot or 0.75. Here -h, -s and -ss are
trained with hard labels, with soft ones, and with soft ones that the samples of training are
crafted for as well. All are attacked with hard labels, those of soft ones with soft ones, too.

NSLOSS trains its network further with the weights that it prints, or with those that its own search
finds (`--weights searched`), for each reading (docs/readings.md), and attacks by the preset
"nsloss". With one pass of C&W for all budgets, a sample withstands a budget if its nearest
adversarial point is farther away.

Below the figures stand the orders that the document's table has, each tested on the same samples:
"holds" or "fails" by McNemar's exact test at the 5 % level, else "not decided", with the interval
of the difference and what so many samples would have shown in 80 of 100 cases; p is not adjusted
for the number of rows. One network each: what another seed would do is not part of the interval.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np

import kerasrobust
from kerasrobust import datasets, models
from kerasrobust.datasets import Dataset
from kerasrobust.engine.classifier import Classifier
from kerasrobust.evaluation import presets
from kerasrobust.evaluation.compare import detectable, difference
from kerasrobust.evaluation.pieces import Evaluation
from kerasrobust.metrics.outcomes import flags
from kerasrobust.specs import jsonable

SOFT = 0.75
SMOOTHING = f"label_smoothing:k={SOFT}"
SMOOTHED = f",attack_labels=smoothed,k={SOFT}"
ADVERSARIAL = "adversarial_training:alpha=0.5,attack=({}{})"
CRAFTED = {
    "fgsm-0.3": "fgsm:eps=0.3",
    "fgsm-0.4": "fgsm:eps=0.4",
    "ifgsm": "bim:eps=0.3,eps_step=0.01,max_iter=30",
}
E2SAD: dict[str, list[str]] = {"natural-h": [], "natural-s": [SMOOTHING]}
for name, attack in CRAFTED.items():
    E2SAD[f"{name}-h"] = [ADVERSARIAL.format(attack, "")]
    E2SAD[f"{name}-s"] = [ADVERSARIAL.format(attack, ""), SMOOTHING]
    E2SAD[f"{name}-ss"] = [ADVERSARIAL.format(attack, SMOOTHED), SMOOTHING]
E2SAD["e2sad-h"] = ["e2sad:soft=1,crafting_labels=hard"]
E2SAD["e2sad-s"] = [f"e2sad:soft={SOFT},crafting_labels=hard"]
E2SAD["e2sad-ss"] = [f"e2sad:soft={SOFT},crafting_labels=soft"]

E2SAD_ATTACKS = {
    "fgsm-0.3": "fgsm:eps=0.3",
    "fgsm-0.4": "fgsm:eps=0.4",
    "ifgsm-10": "bim:eps=0.3,eps_step=0.03,max_iter=10",
    "ifgsm-30": "bim:eps=0.3,eps_step=0.01,max_iter=30",
}
# Table 3.1: clean and these four attacks; the rows S stand for both ways to craft.
E2SAD_PRINTED = {
    "natural-h": (99.42, 17.41, 10.27, 0.01, 0.0),
    "natural-s": (99.52, 42.56, 21.46, 10.19, 9.3),
    "fgsm-0.3-h": (99.38, 97.68, 91.36, 8.56, 8.2),
    "fgsm-0.3-s": (99.43, 98.46, 93.74, 11.66, 9.66),
    "fgsm-0.4-h": (99.21, 96.58, 97.32, 21.08, 19.68),
    "fgsm-0.4-s": (99.41, 99.19, 99.14, 1.01, 0.65),
    "ifgsm-h": (99.13, 95.19, 81.52, 93.36, 93.25),
    "ifgsm-s": (99.13, 95.95, 90.12, 94.22, 94.12),
    "e2sad-s": (99.32, 96.41, 94.99, 86.87, 86.33),
}

PENALTIES = {
    "nsloss-same": "nsloss:eps=1.0,N=5,dropout=same",
    "nsloss-other": "nsloss:eps=1.0,N=5,dropout=other",
    "jacobian-square": "jacobian:power=square",
    "jacobian-half_square": "jacobian:power=half_square",
    "jacobian-norm": "jacobian:power=norm",
}
STANDARD = "standard"
NSLOSS: dict[str, list[str]] = {
    STANDARD: [],
    **{name: [name] for name in PENALTIES},
    "both": ["nsloss-same", "jacobian-square"],
}
PRINTED_WEIGHTS = {"nsloss": 2.0, "jacobian": 0.01}
NSLOSS_SEED = 42
NSLOSS_BUDGETS = (1.0, 5.0)
# The Keras example whose network it is; the paper says "pretrained".
NSLOSS_STANDARD = "optimizer=adadelta,learning_rate=1.0,schedule=constant"
NSLOSS_STANDARD_STEPS = 12 * 469
# Table I, then Table III, untargeted, within 1 and within 5.
NSLOSS_PRINTED: dict[str, dict[str, float]] = {
    "standard": {"clean": 99.25, "cw 1": 3, "cw 5": 1, "cw-hc 1": 17, "cw-hc 5": 1}
    | {"cw-strong 1": 2, "cw-strong 5": 1, "pgd 1": 58, "pgd 5": 29},
    "jacobian": {"clean": 94.95, "cw 1": 27, "cw 5": 4, "cw-hc 1": 94, "cw-hc 5": 4}
    | {"cw-strong 1": 26, "cw-strong 5": 4, "pgd 1": 55, "pgd 5": 3},
    "nsloss": {"clean": 95.65, "cw 1": 11, "cw 5": 11, "cw-hc 1": 95, "cw-hc 5": 34}
    | {"cw-strong 1": 11, "cw-strong 5": 11, "pgd 1": 35, "pgd 5": 9},
    "both": {"clean": 96.22, "cw 1": 75, "cw 5": 10, "cw-hc 1": 96, "cw-hc 5": 69}
    | {"cw-strong 1": 73, "cw-strong 5": 10, "pgd 1": 84, "pgd 5": 31},
}


@dataclasses.dataclass(frozen=True)
class Claim:
    """That more of one variant is left than of another.

    Attributes:
        figure: Of which attack.
        better: The variant of which more is left.
        worse: The other one.
        printed: The document's figures of both, in percent.
    """

    figure: str
    better: str
    worse: str
    printed: tuple[float, float]


class Study:
    """A folder: settings that all of its figures have in common, the data, and the log.

    Args:
        name: Of the study.
        folder: Made if need be.
        settings: Without which two figures are not figures of the same thing.
        samples: To train on; None for all.
        attacked: Samples of the test split that are attacked.
    """

    def __init__(
        self, name: str, folder: Path, settings: dict[str, Any], samples: int | None, attacked: int
    ):
        self.name, self.folder, self.seed = name, folder, settings["seed"]
        self.settings = jsonable({**settings, "samples": samples, "attacked": attacked})
        dataset = settings["dataset"]
        self.train = datasets.load(dataset, "train", samples=samples, seed=self.seed)
        self.test = datasets.load(dataset, "test")
        self.few = datasets.load(dataset, "test", samples=attacked, seed=self.seed)
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / "log.jsonl"
        self._model: keras.Model | None = None

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of the log with these settings; a line that a crash cut off is none."""
        text = self._log.read_text(encoding="utf-8") if self._log.is_file() else ""
        for line in text.splitlines():
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if row["study"] == self.name and row["settings"] == self.settings:
                yield row

    def add(self, **row: Any) -> None:
        """Appends a row."""
        text = json.dumps(
            jsonable({"study": self.name, "settings": self.settings, **row}), sort_keys=True
        )
        with self._log.open("ab+") as file:
            file.seek(0, os.SEEK_END)
            if file.tell():
                file.seek(-1, os.SEEK_END)
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(f"{text}\n".encode())

    def outcomes(self) -> dict[tuple[str, int], dict[str, np.ndarray]]:
        """By variant and step, by figure: who withstood."""
        found: dict[tuple[str, int], dict[str, np.ndarray]] = {}
        for row in self.rows():
            if "outcomes" in row:
                part = {key: flags(value) for key, value in row["outcomes"].items()}
                found.setdefault((row["variant"], row["step"]), {}).update(part)
        return found

    def stage(self, variant: str, step: int, name: str, make: Callable[[], dict[str, Any]]) -> None:
        """Makes and logs a stage: outcomes and medians; nothing where it is there."""
        key = (variant, step, name)
        if any((row["variant"], row.get("step"), row.get("stage")) == key for row in self.rows()):
            return
        click.echo(f"{variant}, step {step}: {name}", err=True)
        begin = time.perf_counter()
        made = make()
        outcomes = {
            key: "".join(np.where(value, "1", "0")) for key, value in made.pop("outcomes").items()
        }
        self.add(
            variant=variant, step=step, stage=name, outcomes=outcomes, **made,
            seconds=round(time.perf_counter() - begin, 1),
        )  # fmt: skip

    def model(self, snapshot: Path) -> keras.Model:
        """The network of a snapshot: always the same object, whose attacks are compiled once."""
        loaded = models.load(snapshot)
        if self._model is None:
            self._model = loaded
            self._classifier = Classifier.of(loaded)  # shared as long as it is held
        self._model.set_weights(loaded.get_weights())
        return self._model

    def clean(self, variant: str, step: int, model: Any) -> None:
        """The stage of all clean test samples."""

        def make() -> dict[str, Any]:
            labels = Classifier.of(model).predict(self.test.x).argmax(axis=1)
            return {"outcomes": {"clean": labels == self.test.y}}

        self.stage(variant, step, "clean", make)


@dataclasses.dataclass(frozen=True)
class Run:
    """A variant's training.

    Attributes:
        folder: Of its state.
        build: Makes the network to be trained, wrapped by its defenses.
        recipe: As `fit` takes it, without its length.
        steps: After which it is judged, rising.
    """

    folder: Path
    build: Callable[[], keras.Model]
    recipe: str
    steps: tuple[int, ...]

    def snapshot(self, step: int) -> Path:
        """The file of the network after so many steps."""
        return self.folder / f"step-{step}.keras"

    def train(self, train: Dataset, every: int, seed: int, judge: Callable[[int], None]) -> None:
        """Trains what is missing, keeps the network after each of the steps, and has it judged.

        Args:
            train: The samples.
            every: Steps between two saved states.
            seed: Of `fit`.
            judge: Called with the number of steps; the snapshot is there.
        """
        run = self

        class Stages(keras.callbacks.Callback):
            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                step = (epoch + 1) * every
                if step in run.steps:
                    bare = kerasrobust.unwrap(self.model)
                    copy = keras.models.clone_model(bare)
                    copy.set_weights(bare.get_weights())
                    part = run.folder / f"part-{os.getpid()}.keras"
                    copy.save(part)
                    part.replace(run.snapshot(step))
                    judge(step)

        if not all(self.snapshot(step).is_file() for step in self.steps):
            models.fit(
                self.build(),
                train,
                recipe=f"{self.recipe},steps={self.steps[-1]},steps_per_epoch={every}",
                seed=seed,
                callbacks=[Stages()],
                checkpoint=self.folder / "state",
                verbose=2,
            )
        for step in self.steps:
            if not self.snapshot(step).is_file():
                raise click.ClickException(f"{self.folder} went past {step} without keeping it.")
            judge(step)

    def seconds_per_step(self, train: Dataset) -> float:
        """The median of the second to fourth step of a network that is thrown away."""
        ends: list[float] = []
        watch = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
        )
        size = models.recipes.get(self.recipe, train.input_shape).batch_size
        part = dataclasses.replace(train, x=train.x[:size], y=train.y[:size], indices=None)
        recipe = f"{self.recipe},steps=4,steps_per_epoch=4"
        models.fit(self.build(), part, recipe=recipe, callbacks=[watch], verbose=0)
        return float(np.median(np.diff(ends)))


def announce(study: Study, runs: dict[str, Run]) -> None:
    """Prints what the steps of the missing networks will take."""
    total = 0.0
    for variant, run in runs.items():
        if run.snapshot(run.steps[-1]).is_file():
            continue
        seconds = run.seconds_per_step(study.train)
        done = max((step for step in run.steps if run.snapshot(step).is_file()), default=0)
        hours = seconds * (run.steps[-1] - done) / 3600
        total += hours
        click.echo(f"{variant}: {seconds:.3f} s a step, {hours:.2f} h", err=True)
    if total:
        click.echo(f"Training takes about {total:.1f} h, evaluation comes beside it.", err=True)


def tables(study: Study, printed: dict[str, dict[str, float]], claims: list[Claim]) -> str:
    """The figures so far in Markdown, the document's in brackets, and its orders."""
    found = study.outcomes()
    names = list(dict.fromkeys(key for part in found.values() for key in part))
    lines = [["variant", "step", *names], ["---"] * (len(names) + 2)]
    for (variant, step), part in sorted(found.items()):
        cells = []
        for name in names:
            told = printed.get(variant, {}).get(name)
            cell = f"{100 * part[name].mean():.1f}" if name in part else ""
            cells.append(cell + (f" ({told:g})" if cell and told is not None else ""))
        lines.append([variant, str(step), *cells])
    text = [f"| {' | '.join(line)} |" for line in lines]
    text += ["", f"What is left in percent, {len(study.few)} samples attacked; printed.", ""]
    lines = [["order", "printed", "here", "difference", "p", "80 % power at", ""], ["---"] * 7]
    last: dict[str, int] = {}
    for variant, step in found:
        last[variant] = max(step, last.get(variant, 0))
    for claim in claims:
        pair = [found.get((v, last.get(v, -1)), {}) for v in (claim.worse, claim.better)]
        if not all(claim.figure in part for part in pair):
            continue
        before, after = (part[claim.figure] for part in pair)
        value, low, high, p = difference(before, after, paired=True)
        least = detectable(before, after, paired=True)
        verdict = "not decided at this size" if p >= 0.05 else "holds" if value > 0 else "fails"
        steps = "" if last[claim.better] == last[claim.worse] else " (after other steps)"
        lines.append(
            [
                f"{claim.figure}: {claim.better} above {claim.worse}{steps}",
                "{:g}, {:g}".format(*claim.printed),
                f"{100 * after.mean():.1f}, {100 * before.mean():.1f}",
                f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]",
                "< 0.001" if p < 0.001 else f"{p:.3f}",
                f"{100 * least:.1f}",
                verdict,
            ]
        )
    text += [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join(text) + "\n"


def finish(study: Study, printed: dict[str, dict[str, float]], claims: list[Claim]) -> None:
    """Prints and keeps the tables."""
    text = tables(study, printed, claims)
    (study.folder / "table.md").write_text(text, encoding="utf-8")
    click.echo(text, nl=False)


def e2sad_printed() -> dict[str, dict[str, float]]:
    """Table 3.1 by variant and figure. It does not say which labels an attack on a row S had."""
    table = {}
    for name, values in E2SAD_PRINTED.items():
        row = dict(zip(("clean", *E2SAD_ATTACKS), values, strict=True))
        table[name] = row
        if name.endswith("-s"):
            row |= {f"{key}, smoothed": row[key] for key in E2SAD_ATTACKS}
            table[f"{name}s"] = row
    return table


def e2sad_claims() -> list[Claim]:
    """The orders of Table 3.1 that its text names."""
    printed = e2sad_printed()
    orders = [("clean", "natural-h", name) for name in ("e2sad-s", "e2sad-ss")]
    for attack in E2SAD_ATTACKS:
        orders.append((attack, "fgsm-0.3-h", "natural-h"))
        for e2sad in ("e2sad-s", "e2sad-ss"):
            orders.append((attack, e2sad, "natural-h"))
            orders.append((attack, e2sad, "fgsm-0.3-h"))
            orders.append((attack, e2sad, "ifgsm-h"))
        for labels in (attack, f"{attack}, smoothed"):
            for e2sad in ("e2sad-s", "e2sad-ss"):
                orders.append((labels, e2sad, "ifgsm-s"))
                orders.append((labels, e2sad, "fgsm-0.3-s"))
    return [_as_printed(printed, *order) for order in orders]


def nsloss_claims() -> list[Claim]:
    """The orders of Tables I and III: each network beside the standard one, both beside one."""
    groups = {
        "standard": [STANDARD],
        "jacobian": [name for name in PENALTIES if name.startswith("jacobian")],
        "nsloss": [name for name in PENALTIES if name.startswith("nsloss")],
        "both": ["both"],
    }
    printed = {name: NSLOSS_PRINTED[key] for key, names in groups.items() for name in names}
    kinds = [("nsloss", "standard"), ("jacobian", "standard"), ("both", "standard")]
    kinds += [("both", "nsloss"), ("both", "jacobian")]
    return [
        _as_printed(printed, figure, one, other)
        for figure in NSLOSS_PRINTED["both"]
        for first, second in kinds
        for one, other in itertools.product(groups[first], groups[second])
    ]


def _as_printed(printed: dict[str, dict[str, float]], figure: str, one: str, other: str) -> Claim:
    """The claim with what the document has more of in front."""
    if printed[one][figure] < printed[other][figure]:
        one, other = other, one
    return Claim(figure, one, other, (printed[one][figure], printed[other][figure]))


def options(steps: str, attacked: int) -> Callable[[Any], Any]:
    """What both commands take."""

    def add(command: Any) -> Any:
        for option in reversed(
            [
                click.option("--output", required=True, type=click.Path(path_type=Path)),
                click.option("--variant", "chosen", multiple=True, help="Default: all."),
                click.option("--steps", default=steps, show_default=True, help="Judged after."),
                click.option("--every", default=20, show_default=True, help="Steps; state kept."),
                click.option("--dataset", default="mnist", show_default=True),
                click.option("--samples", type=click.IntRange(1), help="To train on. Default: all"),
                click.option("--attacked", default=attacked, show_default=True),
                click.option("--seed", default=0, show_default=True, help="Of the training."),
                click.option("--estimate", is_flag=True, help="Seconds per step, and no more."),
            ]
        ):
            command = option(command)
        return command

    return add


def check(chosen: tuple[str, ...], known: dict[str, Any], steps: str, every: int) -> Any:
    """The variants and steps that were asked for."""
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise click.BadParameter(f"unknown {', '.join(unknown)}; known: {', '.join(known)}")
    try:
        marks = tuple(sorted({int(part) for part in steps.split(",")}))
    except ValueError:
        raise click.BadParameter(f"--steps takes numbers, not {steps!r}") from None
    if marks[0] < 1 or any(mark % every for mark in marks):
        raise click.BadParameter(f"--steps must be multiples of --every, {every}: {steps}")
    return list(chosen or known), marks


@click.group(help=(__doc__ or "").split("\n")[0])
def main() -> None:
    """The two studies."""


@main.command()
@options("1000,2000,3000", 1000)
def e2sad(output, chosen, steps, every, dataset, samples, attacked, seed, estimate) -> None:
    """E2SAD, Table 3.1: its network, Adam at 0.001, batches of 256, all samples."""
    names, marks = check(chosen, E2SAD, steps, every)
    study = Study("e2sad", output, {"dataset": dataset, "seed": seed}, samples, attacked)
    shape, classes = study.train.input_shape, study.train.nb_classes

    def run(variant: str) -> Run:
        def build() -> keras.Model:
            model = models.get("e2sad_cnn_mnist", shape, classes, seed=seed)
            defenses = E2SAD[variant]
            return kerasrobust.wrap(model, defenses, seed=seed) if defenses else model

        batch = min(256, len(study.train))
        return Run(output / variant, build, f"e2sad_mnist:batch_size={batch}", marks)

    def judge(variant: str, step: int) -> None:
        model = study.model(runs[variant].snapshot(step))
        study.clean(variant, step, model)
        wanted = dict(E2SAD_ATTACKS)
        if not variant.endswith("-h"):
            wanted |= {f"{k}, smoothed": f"{v}{SMOOTHED}" for k, v in E2SAD_ATTACKS.items()}

        def attacked_by() -> dict[str, Any]:
            report = kerasrobust.evaluate(
                model, study.few.x, study.few.y, attacks=list(wanted.values()), dataset=dataset,
                seed=seed, output=output / variant / f"report-{step}",
            )  # fmt: skip
            rows = zip(wanted, report.attacks.values(), strict=True)
            return {"outcomes": {key: flags(row.figures["outcomes"]) for key, row in rows}}

        study.stage(variant, step, "attacks", attacked_by)

    runs = {variant: run(variant) for variant in names}
    announce(study, runs)
    for variant, one in () if estimate else runs.items():
        one.train(study.train, every, seed, lambda step, v=variant: judge(v, step))
    finish(study, e2sad_printed(), e2sad_claims())


@main.command()
@options("9380", 500)
@click.option(
    "--attacks", default="cw,cw-hc,pgd", show_default=True, help="Of the preset; also cw-strong."
)
@click.option("--max-iter", type=click.IntRange(1), help="Of each. Default: the document's.")
@click.option(
    "--weights", type=click.Choice(["printed", "searched"]), default="printed", show_default=True
)
@click.option("--searched", default=12000, show_default=True, help="Samples of the search.")
@click.option("--standard-steps", default=NSLOSS_STANDARD_STEPS, show_default=True)
def nsloss(
    output, chosen, steps, every, dataset, samples, attacked, seed, estimate,
    attacks, max_iter, weights, searched, standard_steps,
) -> None:  # fmt: skip
    """NSLOSS, Tables I and III: the old Keras example, then Adam at 0.0001 under the penalties."""
    names, marks = check(chosen, NSLOSS, steps, every)
    standard_steps = check((), NSLOSS, str(standard_steps), every)[1]
    preset = presets.get("nsloss", dataset)
    known = dict(zip(preset.labels, preset.attacks, strict=True))
    wanted = [label.strip() for label in attacks.split(",")]
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise click.BadParameter(f"unknown {', '.join(unknown)}; known: {', '.join(known)}")
    settings = {"dataset": dataset, "seed": seed, "weights": weights, "max_iter": max_iter}
    settings |= {"searched": searched if weights == "searched" else None}
    settings["standard_steps"] = standard_steps[0]
    study = Study("nsloss", output, settings, samples, attacked)
    shape, classes = study.train.input_shape, study.train.nb_classes
    few = datasets.load(dataset, "test", samples=attacked, seed=NSLOSS_SEED)
    batch = min(128, len(study.train))
    standard = Run(
        output / STANDARD,
        lambda: models.get("nsloss_cnn", shape, classes, seed=seed),
        f"{NSLOSS_STANDARD},batch_size={batch}",
        standard_steps,
    )

    def weight(penalty: str) -> float:
        if weights == "printed":
            return PRINTED_WEIGHTS[penalty.partition("-")[0]]
        for row in study.rows():
            if row["variant"] == penalty and "weight" in row:
                return row["weight"]
        part = datasets.load(
            dataset, "train", samples=min(searched, len(study.train)), seed=NSLOSS_SEED
        )
        click.echo(f"{penalty}: search of its weight", err=True)
        begin = time.perf_counter()
        found = kerasrobust.defenses.search_lambda(
            models.load(standard.snapshot(standard_steps[0])), PENALTIES[penalty], part.x, part.y,
            batch_size=batch, seed=seed,
        )  # fmt: skip
        click.echo(str(found), err=True)
        if found.value is None:
            raise click.ClickException(f"Of {penalty} all weights were too high.")
        study.add(
            variant=penalty, weight=found.value, search=dataclasses.asdict(found),
            seconds=round(time.perf_counter() - begin, 1),
        )  # fmt: skip
        return found.value

    def run(variant: str) -> Run:
        def build() -> keras.Model:
            model = models.load(standard.snapshot(standard_steps[0]))
            penalties = [f"{PENALTIES[name]},weight={weight(name)!r}" for name in NSLOSS[variant]]
            return kerasrobust.wrap(model, penalties, seed=seed)

        return Run(
            output / f"{variant}-{weights}", build, f"nsloss_mnist:batch_size={batch}", marks
        )

    def judge(variant: str, step: int) -> None:
        one = runs[variant]
        model = study.model(one.snapshot(step))
        study.clean(variant, step, model)
        for label in wanted:
            name, config = known[label]
            config = config if max_iter is None else {**config, "max_iter": max_iter}
            study.stage(
                variant, step, label,
                lambda n=name, c=config, at=label: withstood(
                    model, few, n, c, at, dataset, one.folder / f"report-{step}-{at}"
                ),
            )  # fmt: skip

    runs = {STANDARD: standard}
    if not estimate:
        announce(study, runs)
        standard.train(study.train, every, seed, lambda step: judge(STANDARD, step))
    elif not standard.snapshot(standard_steps[0]).is_file():
        raise click.ClickException("The standard network comes first: --variant standard.")
    runs |= {variant: run(variant) for variant in names if variant != STANDARD}
    announce(study, runs)
    for variant, one in () if estimate else runs.items():
        one.train(study.train, every, seed, lambda step, v=variant: judge(v, step))
    groups = {name: name.partition("-")[0] for name in NSLOSS}
    printed = {name: NSLOSS_PRINTED[group] for name, group in groups.items()}
    finish(study, printed, nsloss_claims())


def withstood(
    model: Any, data: Dataset, name: str, config: dict[str, Any], label: str, dataset: str,
    output: Path,
) -> dict[str, Any]:  # fmt: skip
    """Who withstands an attack of the preset within each of the budgets.

    An attack that looks for the nearest point is run once, one with a budget for each of them.
    """
    outcomes, medians = {}, {}
    for budget in NSLOSS_BUDGETS:
        own = {**config, "eps": budget} if "eps" in config else config
        evaluation = Evaluation(
            model, data.x, data.y, attacks=[{"name": name, "config": own}], dataset=dataset,
            seed=NSLOSS_SEED, output=output / f"{budget:g}" if "eps" in config else output,
        )  # fmt: skip
        evaluation.run()
        (row,) = evaluation.plan.attacks
        far = evaluation.result(row).l2
        outcomes[f"{label} {budget:g}"] = evaluation.correct & ~(far <= budget * (1 + 1e-5))
        medians[f"{label} {budget:g}"] = float(np.median(far))
    return {"outcomes": outcomes, "medians": medians}


if __name__ == "__main__":
    main()
