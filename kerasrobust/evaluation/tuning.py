"""`kerasrobust.tune`: which defense, at which value of its parameter, and which ones together."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pathlib
import shutil
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tqdm
from scipy.stats import binomtest

from kerasrobust import _keras, models
from kerasrobust._version import __version__
from kerasrobust.checks import check_bool, check_folder, check_int
from kerasrobust.datasets import Dataset
from kerasrobust.defenses import (
    DEFENSES,
    DecisionDefense,
    RobustModel,
    TrainingDefense,
    get,
    resolve,
    wrap,
)
from kerasrobust.defenses.layers.preprocessing import Preprocessing
from kerasrobust.defenses.search_lambda import copy_of
from kerasrobust.engine import backward
from kerasrobust.engine import store as storage
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.criterion import survived
from kerasrobust.engine.pixel_range import default_bounds
from kerasrobust.evaluation import pictures, presets
from kerasrobust.evaluation.conclusion import conclude
from kerasrobust.evaluation.diagnosis import Finding
from kerasrobust.evaluation.pieces import Evaluation
from kerasrobust.evaluation.renderers import tables as renderers
from kerasrobust.evaluation.renderers.table import WORST, Table
from kerasrobust.metrics.proportion import proportion
from kerasrobust.specs import expand_spec, jsonable, parse_spec

UNDEFENDED = "undefended"
# White box and black box, as in AREB's section 3, but within a budget.
ATTACKS = ("pgd:max_iter=40", "hsja:max_iter=10,max_eval=100")
LEVEL = 0.05
# What is swept where no values are given: an argument and its values, the mildest first; in AREB's
# order, which a combination keeps.
SWEEPS: dict[str, tuple[str, tuple[float, ...]]] = {
    "feature_squeezing": ("bit_depth", (7, 6, 5, 4, 3, 2, 1)),
    "spatial_smoothing": ("window_size", (2, 3, 4, 5)),
    "jpeg": ("quality", (95, 85, 75, 50, 25, 10, 5)),
    "tvm": ("lamb", (0.01, 0.03, 0.09, 0.2, 0.5)),
    "label_smoothing": ("k", (0.95, 0.9, 0.7, 0.5)),
}


def tune(
    model: keras.Model,
    x: Any,
    y: Any = None,
    *,
    attacks: Any = None,
    sweep: str | Sequence[str] | None = None,
    combinations: bool = False,
    max_loss: float = 0.02,
    gradient: str = "straight_through",
    draws: int | None = None,
    votes: int | None = None,
    train: Dataset | None = None,
    epochs: int | None = None,
    dataset: str | None = None,
    eps: float | None = None,
    norm: float | str | None = None,
    clip_values: tuple[float, float] | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    output: str | os.PathLike[str] | None = None,
    verbose: bool = False,
) -> Tuning:
    """Measures defenses at several values of their parameter, and all combinations if asked.

    Section 3.1 of AREB: accuracy on clean and on attacked data against the parameter (its Figure
    5), then the defenses together, each at the value chosen for it (its Table 7). It ends with a
    choice, by a rule that the outcome states (`choose`).

    Other than in the paper, attacks see the layers: by the gradient that is asked for where a layer
    offers it, else straight through. ``"ignore"`` is the paper's grey box.

    Layers stand in front of the model as it is, in the order in which their sweeps are given; what
    they do in training (`apply_fit`) has no say. Training defenses train a copy of it, once for
    each set of them, which starts from the model's weights. The model itself is left alone.

    Args:
        model: A built `keras.Model`.
        x: Samples, as of `evaluate`: a `Dataset`, say.
        y: True labels, likewise; there must be some.
        attacks: As of `evaluate`. One that looks for the nearest adversarial point needs `eps`, or
            little withstands it whatever the defense. Default: `ATTACKS`.
        sweep: Defenses with values of one argument, mildest first: ``"jpeg:quality=85,50,25"``,
            ``"feature_squeezing:bit_depth=7..1"``, or a list of these. A single value is not tuned,
            but combined. A name alone stands for the values of `SWEEPS`. Default: all of `SWEEPS`
            that suit the model, those that train only where `epochs` is given.
        combinations: Whether to measure all pairs, triples and so on of the defenses too.
        max_loss: Share of the clean accuracy that the choice may cost.
        gradient: What stands for layers without a gradient of use: ``"exact"``,
            ``"straight_through"``, ``"surrogate"`` or ``"ignore"``.
        draws: Of a `Classifier`: passes that a gradient of a randomised model is the mean of.
        votes: Of a `Classifier`: passes that its label is voted by.
        train: Samples that training defenses train on.
        epochs: Passes of theirs over the samples.
        dataset: Name of the data set, as of `evaluate`.
        eps: Budget, likewise. With the default attacks 0.3, or 8/255 on colour images, of the width
            of the box.
        norm: Its norm, likewise.
        clip_values: Smallest and largest pixel value; by default the data's, or the model's own.
        batch_size: Samples per batch; its default is that of `evaluate`.
        seed: Seed of all randomness.
        output: Folder for the tables, a picture, and a report for each setting. What is finished is
            stored there; the same call on the same folder goes on from it.
        verbose: Show a progress bar over all settings.

    Returns:
        A `Tuning`.

    Raises:
        ValueError, TypeError, OSError: If an argument is of no use; before any attack is run.
        TuningInterrupted: On Ctrl-C, with what was finished until then.

    Example:

    >>> tuning = kerasrobust.tune(model, x, y, attacks=["pgd:eps=0.1", "hsja"], output="tuning/",
    ...                           sweep=["jpeg:quality=85,50,25", "spatial_smoothing"])
    >>> tuning.chosen.name, tuning.chosen.robust_accuracy
    """
    if not isinstance(max_loss, (int, float)) or not 0 <= max_loss <= 1:
        raise ValueError(f"`max_loss` must be a share from 0 to 1. Received: max_loss={max_loss!r}")
    if gradient not in backward.MODES:
        raise ValueError(
            f"`gradient` must be one of {', '.join(backward.MODES)}. Received: {gradient=}"
        )
    check_bool("combinations", combinations)
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model. Received: model={model!r}")
    if clip_values is None and isinstance(x, Dataset):
        clip_values = x.clip_values
    if clip_values is None:
        clip_values = getattr(model, "clip_values", None) or default_bounds(model)
    if attacks is None:
        attacks = list(ATTACKS)
        if eps is None and norm is None:
            eps = usual_budget(model, clip_values)
    trainer = Trainer(model, clip_values, train, epochs, seed, output)
    sweeps = read_sweeps(sweep, trainer)
    sets = _sets([one.specs[0] for one in sweeps], sweeps) if combinations else []
    options = {
        "attacks": attacks,
        "dataset": dataset,
        "eps": eps,
        "norm": norm,
        "batch_size": batch_size,
        "seed": seed,
    }
    seen = {"gradient": gradient, "draws": draws, "votes": votes}
    runner = Runner(model, clip_values, x, y, options, seen, output)
    first = runner.first
    total = 1 + sum(len(one.specs) for one in sweeps) + len(sets)
    tuning = Tuning(
        rows={},
        sweeps=sweeps,
        combinations=[],
        settings={
            "dataset": first.settings["dataset"],
            "split": first.settings["split"],
            "indices": first.spans,
            "model": model.name,
            "samples": len(first.y),
            "attacks": {
                step.name: {"attack": step.attack.name, "config": step.attack.get_config()}
                for step in runner.steps
            },
            "unbounded": [
                step.name
                for step in runner.steps
                if step.attack.kind == "minimal" and first.plan.criterion.eps is None
            ],
            "eps": first.plan.criterion.eps,
            "norm": None if first.plan.criterion.eps is None else first.plan.criterion.norm,
            "gradient": gradient,
            "draws": draws,
            "votes": votes,
            "clip_values": list(clip_values),
            "max_loss": max_loss,
            "epochs": epochs,
            "batch_size": first.batch_size,
            "seed": seed,
            "total": total,
        },
    )
    with tqdm.tqdm(total=total * runner.work, unit="step", disable=not verbose) as bar:

        def measure(*specs: str) -> str:
            name = " + ".join(specs) or UNDEFENDED
            if name not in tuning.rows:
                bar.set_description(f"{len(tuning.rows) + 1}/{total} {name}")
                tuning.rows[name] = runner.row(name, trainer.defended(specs), bar)
            return name

        try:
            measure()
            for spec in itertools.chain.from_iterable(one.specs for one in sweeps):
                measure(spec)
            if combinations:
                for specs in _sets([tuning.best(one).name for one in sweeps], sweeps):
                    tuning.combinations.append(measure(*specs))
        except KeyboardInterrupt as stop:
            if output is not None:
                tuning.save(output)
            raise TuningInterrupted(tuning) from stop
    if output is not None:
        tuning.save(output)
    return tuning


def usual_budget(model: keras.Model, clip_values: tuple[float, float]) -> float:
    """The Linf budget where none is given: 0.3, or 8/255 on colour images, of the box's width."""
    shape = getattr(model, "input_shape", None)
    grey = not isinstance(shape, tuple) or presets.channels(shape[1:]) == 1
    return (0.3 if grey else 8 / 255) * (clip_values[1] - clip_values[0])


class TuningInterrupted(KeyboardInterrupt):
    """Ctrl-C during `tune`.

    Attributes:
        tuning: The settings that were finished.
    """

    def __init__(self, tuning: Tuning):
        super().__init__(tuning.verdict)
        self.tuning = tuning


class Sweep(NamedTuple):
    """Values of one argument of a defense.

    Attributes:
        defense: Registry name.
        parameter: The argument; None for a defense without any.
        specs: The defense at each value, as in `wrap`.
    """

    defense: str
    parameter: str | None
    specs: list[str]

    @property
    def values(self) -> list[Any]:
        """The values."""
        return [parse_spec(spec)[1].get(str(self.parameter)) for spec in self.specs]


@dataclasses.dataclass(frozen=True)
class Row:
    """One setting: what is right without attack, and what withstands.

    Attributes:
        name: The defenses with their arguments, joined by " + ", or "undefended".
        gradient: How attacks saw the layers.
        clean: Booleans of shape `(n,)`, right without attack.
        attacks: By attack, what stayed right under it.
        worst: What stayed right under all of them.
        findings: Reasons to distrust the figures.
    """

    name: str
    gradient: str
    clean: np.ndarray
    attacks: dict[str, np.ndarray]
    worst: np.ndarray
    findings: list[Finding]

    @property
    def defenses(self) -> list[str]:
        """The specifications that `name` is made of."""
        return [] if self.name == UNDEFENDED else self.name.split(" + ")

    @property
    def clean_accuracy(self) -> float:
        """Share of samples that are right without attack."""
        return float(self.clean.mean())

    @property
    def robust_accuracy(self) -> float:
        """Share of samples that are right without attack and under every attack."""
        return float(self.worst.mean())

    def to_dict(self) -> dict[str, Any]:
        """Accuracies with their 95 % Wilson intervals, and the findings, in strict JSON types."""
        return {
            "name": self.name,
            "gradient": self.gradient,
            "clean": _share(self.clean),
            "attacks": {name: _share(flags) for name, flags in self.attacks.items()},
            "robust": _share(self.worst),
            "findings": [finding.to_dict() for finding in self.findings],
        }


def chance(row: Row, undefended: Row) -> float:
    """How likely it is by chance alone that so many more samples withstand: McNemar's exact test.

    One-sided, on the samples on which the two worst cases differ.
    """
    more = int((row.worst & ~undefended.worst).sum())
    less = int((undefended.worst & ~row.worst).sum())
    if more <= less:
        return 1.0
    return float(binomtest(more, more + less, 0.5, alternative="greater").pvalue)


def choose(rows: Sequence[Row], undefended: Row, max_loss: float = 0.02) -> Row:
    """The setting to use: `undefended` where nothing is gained.

    Of the settings whose clean accuracy is at most `max_loss` below the undefended one and whose
    worst case is above it by more than chance (`chance` below 5 %, divided by the number of
    settings that were compared, after Bonferroni), the one with the highest worst case; of equal
    ones the one with the higher clean accuracy, then the first.

    Args:
        rows: The settings, the mildest first.
        undefended: The model as it is, on the same samples.
        max_loss: Share of the clean accuracy.
    """
    level = LEVEL / max(len(rows), 1)
    gains = [row for row in rows if chance(row, undefended) < level]
    return _highest([row for row in gains if _keeps(row, undefended, max_loss)]) or undefended


def _keeps(row: Row, undefended: Row, max_loss: float) -> bool:
    lost = int(undefended.clean.sum()) - int(row.clean.sum())
    return lost <= max_loss * len(row.clean) + 1e-9


def _highest(rows: Sequence[Row]) -> Row | None:
    # Of equal ones `max` takes the first.
    return max(rows, key=lambda row: (row.worst.sum(), row.clean.sum()), default=None)


def _share(flags: np.ndarray) -> dict[str, Any]:
    found = proportion(flags)
    assert found is not None
    return {"accuracy": found.value, "interval": [found.low, found.high]}


@dataclasses.dataclass(frozen=True)
class Tuning:
    """What `kerasrobust.tune` found: data, and how to show it.

    Attributes:
        rows: The settings by name, in the order they were measured, "undefended" first.
        sweeps: Which of them belong together.
        combinations: Names of those that combine defenses.
        settings: What was measured how.
    """

    rows: dict[str, Row]
    sweeps: list[Sweep]
    combinations: list[str]
    settings: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether all settings were measured."""
        return len(self.rows) == self.settings["total"]

    @property
    def undefended(self) -> Row:
        """The model as it is."""
        return self.rows[UNDEFENDED]

    @property
    def chosen(self) -> Row:
        """The setting to use, see `choose`; the undefended one where nothing is gained."""
        rows = [row for name, row in self.rows.items() if name != UNDEFENDED]
        return choose(rows, self.undefended, self.settings["max_loss"])

    def best(self, sweep: Sweep) -> Row:
        """The best value of a sweep, whether it gains anything or not: the one that is combined.

        The highest worst case among those that keep the clean accuracy; where none does, the
        highest clean accuracy.
        """
        rows = [self.rows[spec] for spec in sweep.specs]
        kept = [row for row in rows if _keeps(row, self.undefended, self.settings["max_loss"])]
        return _highest(kept) or max(rows, key=lambda row: row.clean.sum())

    @property
    def rule(self) -> str:
        """By which the choice is made."""
        return (
            "Rule: of the settings whose clean accuracy is at most "
            f"{100 * self.settings['max_loss']:.3g} points below the undefended one, and whose "
            "worst case is above it by more than chance (McNemar's exact test, one-sided, 5 % "
            "divided by the number of settings), the one with the highest worst case; of equal "
            "ones the one with the higher clean accuracy, then the one given first."
        )

    @property
    def verdict(self) -> str:
        """What the rule comes to."""
        if not self.complete:
            return f"Interrupted after {len(self.rows)} of {self.settings['total']} settings."
        chosen, before = self.chosen, self.undefended
        if chosen is before:
            return (
                "Nothing is gained: no setting that keeps the clean accuracy withstands more than "
                "the undefended model by more than chance. Chosen: undefended."
            )
        told = (
            f"Chosen: {chosen.name} (gradient: {chosen.gradient}). {_percent(chosen.worst)} % "
            f"withstand all attacks instead of {_percent(before.worst)} %, "
            f"{_percent(chosen.clean)} % are right without attack instead of "
            f"{_percent(before.clean)} %. It was chosen on these samples, which flatters it: "
            "measure it on others."
        )
        if chosen.findings:
            codes = ", ".join(dict.fromkeys(finding.code for finding in chosen.findings))
            told += f" Its report gives reasons to distrust the figures: {codes}."
        return told

    def notes(self) -> list[str]:
        """Sentences below the tables."""
        codes: dict[str, list[str]] = {}
        for row in self.rows.values():
            for code in dict.fromkeys(finding.code for finding in row.findings):
                codes.setdefault(code, []).append(row.name)
        notes = []
        for code, names in codes.items():
            every = len(names) == len(self.rows)
            notes.append(f"{code}: {'every setting' if every else ', '.join(names)}.")
        if notes:
            notes.insert(0, "Reasons to distrust figures, told in the report of each setting:")
        if self.settings["unbounded"]:
            notes.append(
                f"No budget for {', '.join(self.settings['unbounded'])}: of nearly every sample "
                "there is an adversarial point, however far, whatever the defense. Give `eps`."
            )
        if not self.complete:
            return [*notes, self.verdict]
        several = [sweep for sweep in self.sweeps if len(sweep.specs) > 1]
        if several:
            best = [self.best(sweep) for sweep in several]
            told = [
                f"{row.name} ({_percent(row.worst)} %, clean {_percent(row.clean)} %)"
                for row in best
            ]
            notes.append(f"Best value of each, chance aside: {'; '.join(told)}.")
        return [*notes, self.rule, self.verdict]

    def tables(self) -> dict[str, Table]:
        """By heading: one table for each sweep, and one of the combinations."""
        tables: dict[str, Table] = {}
        for sweep in self.sweeps:
            heading = sweep.defense + (f", {sweep.parameter}" if sweep.parameter else "")
            tables[heading] = self._table([spec for spec in sweep.specs if spec in self.rows])
        if self.combinations:
            singles = [self.best(sweep).name for sweep in self.sweeps]
            tables["combinations"] = self._table([*singles, *self.combinations])
        return {heading: table for heading, table in tables.items() if table.rows}

    def _table(self, names: Sequence[str]) -> Table:
        attacks = list(self.settings["attacks"])
        header = ["setting", "gradient", "clean %", *(f"{name} %" for name in attacks)]
        header += [f"{WORST} %", "gain"]
        body = []
        for row in [self.undefended, *(self.rows[name] for name in names)] if names else []:
            worst = _share(row.worst)
            low, high = (f"{100 * end:.1f}" for end in worst["interval"])
            cells = [row.name, row.gradient, _percent(row.clean)]
            cells += [_percent(row.attacks[name]) for name in attacks]
            cells.append(f"{_percent(row.worst)} ({low}-{high})")
            gain = 100 * (row.robust_accuracy - self.undefended.robust_accuracy)
            level = LEVEL / max(self.settings["total"] - 1, 1)
            mark = "*" if chance(row, self.undefended) < level else ""
            cells.append("" if row.name == UNDEFENDED else f"{gain:+.1f}{mark}")
            body.append(cells)
        legend = (
            f"Accuracy on {self.settings['samples']:,} samples without attack, under each attack, "
            "in the worst case per sample (95 % Wilson interval). Gradient: how attacks see the "
            "layers. Gain: points of the worst case above the undefended one; * more than chance."
        )
        return Table(header, body, [legend])

    def to_dict(self) -> dict[str, Any]:
        """The tables, the choice and its rule in strict JSON types."""
        whole = self.complete
        return {
            "version": __version__,
            "settings": jsonable(self.settings),
            "rows": [row.to_dict() for row in self.rows.values()],
            "sweeps": [
                {**sweep._asdict(), "best": self.best(sweep).name if whole else None}
                for sweep in self.sweeps
            ],
            "combinations": self.combinations,
            "chosen": self.chosen.name if whole else None,
            "rule": self.rule,
            "verdict": self.verdict,
        }

    def render(self, console: Any = None) -> None:
        """Prints tables and choice; `console` is a `rich` console, standard output by default."""
        renderers.render(self.tables(), self.notes(), console)

    def __str__(self) -> str:
        return renderers.text(self.tables(), self.notes())

    def save(self, folder: str | os.PathLike[str]) -> pathlib.Path:
        """Writes `tuning.json`, `tuning.md` and, of more than one value, `tuning.png`."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        panels = {}
        for sweep in self.sweeps:
            if len(sweep.specs) > 1 and all(spec in self.rows for spec in sweep.specs):
                panels[f"{sweep.defense}, {sweep.parameter}"] = self._curves(sweep)
        if panels:
            levels = {"clean": self.undefended.clean_accuracy}
            levels[WORST] = self.undefended.robust_accuracy
            pictures.tuning_curves(folder / "tuning.png", panels, levels)
        text = json.dumps(self.to_dict(), indent=2, allow_nan=False)
        (folder / "tuning.json").write_text(text + "\n", encoding="utf-8")
        title = (
            f"Tuning: {self.settings['dataset'] or 'data'}, {self.settings['samples']:,} samples"
        )
        shown = ["tuning.png"] if panels else []
        text = renderers.markdown(title, self.tables(), self.notes(), shown)
        (folder / "tuning.md").write_text(text, encoding="utf-8")
        return folder

    def _curves(self, sweep: Sweep) -> dict[str, dict[str, list[Any]]]:
        rows = [self.rows[spec] for spec in sweep.specs]
        lines = {"clean": [row.clean for row in rows]}
        for name in self.settings["attacks"]:
            lines[name] = [row.attacks[name] for row in rows]
        lines[WORST] = [row.worst for row in rows]
        return {
            name: {"value": sweep.values, "accuracy": [float(part.mean()) for part in flags]}
            for name, flags in lines.items()
        }


def _percent(flags: np.ndarray) -> str:
    return f"{100 * flags.mean():.1f}"


def read_sweeps(requested: Any, trainer: Trainer) -> list[Sweep]:
    """The sweeps that are asked for, each setting tried on the model, or all that suit it."""
    if requested is None:
        names = [name for name in SWEEPS if name in DEFENSES.builtin]
        if trainer.epochs is None:
            names = [n for n in names if not issubclass(DEFENSES.find(n), TrainingDefense)]
        found = [_default_sweep(name, trainer) for name in names]
        sweeps = [sweep for sweep in found if sweep.specs]
        if not sweeps:
            raise ValueError(
                f"None of {', '.join(names)} suits the model: name a defense in `sweep`. "
                f"Received: sweep=None, a model of shape {trainer.model.input_shape}"
            )
        return sweeps
    items = [requested] if isinstance(requested, str) else requested
    if not isinstance(items, (list, tuple)) or not items:
        raise ValueError(
            "`sweep` must be a specification such as 'jpeg:quality=85,50,25' or a list of these. "
            f"Received: sweep={requested!r}"
        )
    sweeps = []
    for item in items:
        sweep = Sweep(*expand_spec(item))
        if sweep.defense == item.strip() and sweep.defense in SWEEPS:
            sweep = _default_sweep(sweep.defense, trainer)
            if not sweep.specs:
                trainer.check(item)
        for spec in sweep.specs:
            trainer.check(spec)
        if sweep.defense in (other.defense for other in sweeps):
            raise ValueError(
                f"Each defense may be swept once. Received: {sweep.defense!r} twice in `sweep`"
            )
        sweeps.append(sweep)
    kinds = [DEFENSES.find(sweep.defense) for sweep in sweeps]
    if trainer.epochs is not None and not any(issubclass(k, TrainingDefense) for k in kinds):
        raise ValueError(
            "`epochs` is for training defenses, and there is none in `sweep`. "
            f"Received: epochs={trainer.epochs!r}, sweep={requested!r}"
        )
    return sweeps


def _default_sweep(name: str, trainer: Trainer) -> Sweep:
    """The values of `SWEEPS` that suit the model."""
    parameter, values = SWEEPS[name]
    specs = []
    for value in values:
        spec = f"{name}:{parameter}={value}"
        try:
            trainer.check(spec)
        except ValueError:
            if issubclass(DEFENSES.find(name), TrainingDefense):
                raise
            continue
        specs.append(spec)
    return Sweep(name, parameter, specs)


def _sets(specs: Sequence[str], sweeps: Sequence[Sweep]) -> list[tuple[str, ...]]:
    """Pairs, triples and so on of the defenses, in their order; refuses those that cannot be."""
    if len(sweeps) < 2:
        raise ValueError(
            "Combinations take two defenses or more. "
            f"Received: {', '.join(sweep.defense for sweep in sweeps)}"
        )
    sizes = range(2, len(specs) + 1)
    found = [one for size in sizes for one in itertools.combinations(specs, size)]
    for one in found:
        resolve(list(one))
    return found


class Trainer:
    """The model with defenses: in front of it, inside, or trained with them, once for each set.

    Trained models are kept: in `output`, where an interrupted training goes on, or for the duration
    of the call.

    Args:
        model: What training starts from; it is left alone.
        clip_values: Smallest and largest pixel value.
        train: Samples to train on.
        epochs: Passes over them.
        seed: Seed of all randomness.
        output: Folder; trained models are kept in its `models/`.
        recipe: As of `models.fit`.
    """

    def __init__(
        self,
        model: keras.Model,
        clip_values: tuple[float, float],
        train: Dataset | None,
        epochs: int | None,
        seed: int,
        output: str | os.PathLike[str] | None,
        recipe: models.Recipe | None = None,
    ):
        if epochs is not None:
            check_int("epochs", epochs, 1)
            if train is None:
                raise ValueError(
                    f"`epochs` needs `train`, samples to train on. Received: {epochs=}"
                )
        self.model, self.bounds = model, clip_values
        self.train, self.epochs, self.seed, self.recipe = train, epochs, seed, recipe
        self.folder = None if output is None else check_folder("output", output) / "models"
        self._trained: dict[tuple[str, ...], keras.Model] = {}

    def check(self, spec: str) -> None:
        """Refuses a defense that the model cannot have, without training anything."""
        defense = get(spec)
        if isinstance(defense, DecisionDefense):
            raise ValueError(
                "A sweep takes layers and training defenses; one that answers in the place of the "
                f"model is none. Received: sweep={spec!r}"
            )
        if isinstance(defense, TrainingDefense) and self.epochs is None:
            raise ValueError(
                "A training defense has to be trained: say how long by `epochs`. "
                f"Received: sweep={spec!r}, epochs=None"
            )
        wrap(self.model, [defense], clip_values=self.bounds, seed=self.seed)

    def defended(self, specs: Sequence[str]) -> keras.Model:
        """The model with these defenses."""
        inner: list[str] = []
        fronts: list[str] = []
        for spec in specs:
            (fronts if isinstance(get(spec), Preprocessing) else inner).append(spec)
        model = self.inner(tuple(inner)) if inner else self.model
        if not fronts:
            return model
        return wrap(model, fronts, clip_values=self.bounds, seed=self.seed)

    def inner(self, specs: tuple[str, ...]) -> keras.Model:
        """The model with these defenses, none of which stands in front of it."""
        model = wrap(self.model, list(specs), clip_values=self.bounds, seed=self.seed)
        if not any(isinstance(get(spec), TrainingDefense) for spec in specs):
            return model
        if specs not in self._trained:
            self._trained[specs] = self._fitted(copy_of(model, self.bounds, self.seed))
        return self._trained[specs]

    def _fitted(self, model: RobustModel) -> keras.Model:
        assert self.train is not None
        run: dict[str, Any] = {"epochs": self.epochs, "seed": self.seed}
        how = {**run, "recipe": self.recipe}
        if self.folder is None:
            models.fit(model, self.train, verbose=0, **how)
            return model
        parts = [
            storage.fingerprint(Classifier(model)),
            [repr(defense) for defense in model.defenses],
            storage.digest({"x": self.train.x, "y": self.train.y}),
            run if self.recipe is None else {**run, "recipe": self.recipe.get_config()},
        ]
        key = storage.digest(parts)[:16]
        path = self.folder / f"{key}.keras"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            checkpoint = self.folder / f"{key}-checkpoint"
            models.fit(model, self.train, verbose=0, checkpoint=checkpoint, **how)
            part = self.folder / f"{key}.part.keras"
            model.save(part)
            os.replace(part, path)
            shutil.rmtree(checkpoint)
        # Read back at once, so that a resumed run has the same model.
        return models.load(path)


def as_attacked(
    model: keras.Model,
    clip_values: tuple[float, float],
    *,
    gradient: str = "straight_through",
    draws: int | None = None,
    votes: int | None = None,
) -> Classifier:
    """The model as attacks see it: by the gradient that is asked for, if a layer offers it.

    Of layers that do not offer it straight through, of a model without such layers exactly.
    """
    offered = {
        mode for layer in _keras.flat_layers(model) for mode in getattr(layer, "gradients", ())
    }
    modes = [mode for mode in (gradient, "straight_through") if mode in offered]
    mode = gradient if gradient == "exact" else modes[0] if modes else "exact"
    return Classifier(model, clip_values, gradient=mode, draws=draws, votes=votes)


class Runner:
    """Evaluates models on the same samples, and keeps what is finished.

    Args:
        model: The undefended model.
        clip_values: Smallest and largest pixel value.
        x: Samples, as of `evaluate`.
        y: True labels, likewise.
        options: Of `Evaluation`, the same for all.
        seen: How attacks see the layers: arguments of `as_attacked`.
        output: Folder; reports are kept in its `settings/`.

    Raises:
        ValueError: Without labels, and as `Evaluation` does.
    """

    def __init__(
        self,
        model: keras.Model,
        clip_values: tuple[float, float],
        x: Any,
        y: Any,
        options: dict[str, Any],
        seen: dict[str, Any],
        output: str | os.PathLike[str] | None,
    ):
        self.model, self.bounds, self.x, self.y = model, clip_values, x, y
        self.options, self.seen = options, seen
        self.folder = None if output is None else check_folder("output", output) / "settings"
        # The undefended model: it checks samples, labels and attacks.
        folder = self._place(UNDEFENDED)
        undefended = as_attacked(model, clip_values, **seen)
        self.first = Evaluation(undefended, x, y, output=folder, **options)
        if not self.first.given:
            raise ValueError("Tuning needs true labels. Received: y=None")
        self.steps = [step for group in self.first.groups for step in group]
        most = sum(step.attack.max_steps() for step in self.steps)
        self.work = most * len(self.first.source)
        self._attacks = [
            [
                step.name,
                step.attack.name,
                {k: v for k, v in step.attack.get_config().items() if k != "verbose"},
                storage.source(type(step.attack)),
                [storage.fingerprint(other) for other in step.attack.other_models()],
            ]
            for step in self.steps
        ]

    def row(self, name: str, model: keras.Model, bar: tqdm.tqdm) -> Row:
        """One model, read where it is finished already.

        Args:
            name: Of its row, and of its folder.
            model: The defended model.
            bar: Moves on by `work`, or gets shorter by it.
        """
        classifier = as_attacked(model, self.bounds, **self.seen)
        place = self._place(name)
        key, store = "", None
        if place is not None:
            store = storage.Store(place / "results")
            key = self._key(classifier)
            stored = store.load_prologue("row", key)
            if stored is not None:
                bar.total -= self.work
                bar.refresh()
                return _read(name, stored)
        evaluation = self.first
        if model is not self.model:
            evaluation = Evaluation(classifier, self.x, self.y, output=place, **self.options)
        for unit in evaluation.units():
            evaluation.compute(unit, bar.update)
        report = conclude(evaluation)
        if place is not None:
            report.save(place)
        assert report.samples is not None
        attacks = {
            attack: survived(result.labels, result.accepted, evaluation.y, evaluation.correct)
            for attack, result in report.samples.results.items()
        }
        row = Row(
            name=name,
            gradient=classifier.gradient_mode,
            clean=evaluation.correct,
            attacks=attacks,
            worst=report.samples.survived,
            findings=report.findings,
        )
        if store is not None:
            store.save_prologue("row", key, _written(row))
        return row

    def _key(self, classifier: Classifier) -> str:
        criterion = dataclasses.astuple(self.first.plan.criterion)
        how = {"batch_size": self.first.batch_size, "seed": self.options["seed"]}
        return storage.digest(
            [
                storage.fingerprint(classifier),
                self.first.source.fingerprint,
                self._attacks,
                criterion,
                how,
                [storage.version(), __version__],
            ]
        )

    def _place(self, name: str) -> pathlib.Path | None:
        return None if self.folder is None else self.folder / storage.file_name(name)


def _written(row: Row) -> dict[str, np.ndarray]:
    about = {
        "gradient": row.gradient,
        "attacks": list(row.attacks),
        "findings": [finding.to_dict() for finding in row.findings],
    }
    return {
        "clean": row.clean,
        "worst": row.worst,
        "attacks": np.stack(list(row.attacks.values())),
        "about": np.array(json.dumps(about)),
    }


def _read(name: str, stored: dict[str, np.ndarray]) -> Row:
    about = json.loads(str(stored["about"]))
    return Row(
        name=name,
        gradient=about["gradient"],
        clean=stored["clean"],
        attacks=dict(zip(about["attacks"], stored["attacks"], strict=True)),
        worst=stored["worst"],
        findings=[Finding.from_dict(one) for one in about["findings"]],
    )
