"""`kerasrobust.evaluate`: how hard a model is to fool, in numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import inspect
import itertools
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tqdm

from kerasrobust._version import __version__
from kerasrobust.attacks import ATTACKS, Attack
from kerasrobust.checks import check_int, check_labels
from kerasrobust.datasets import Dataset
from kerasrobust.engine import store as storage
from kerasrobust.engine.batches import Batch, Prologue, run_batch
from kerasrobust.engine.classifier import Classifier, ModelFailure
from kerasrobust.engine.criterion import Criterion, clean_correct, survived
from kerasrobust.engine.pixel_range import pixel_range
from kerasrobust.engine.result import AttackInterrupted, AttackResult
from kerasrobust.engine.source import Block, Source
from kerasrobust.evaluation import pictures, presets, provenance, summary
from kerasrobust.evaluation.diagnosis import (
    Finding,
    by_weight,
    check_attack_labels,
    check_batches,
    check_certificate,
    check_confidence,
    check_draws,
    check_gradients,
    check_lengths,
    check_pixels,
    check_predictions,
    check_starts,
    diagnose,
)
from kerasrobust.evaluation.report import Report, Samples
from kerasrobust.evaluation.resolve import references, resolve, unique
from kerasrobust.evaluation.workers import check_ray, shared_out
from kerasrobust.metrics import Metric, Outcome, Points, registry

_VERSIONS = ("tensorflow", "keras", "numpy")
_ART = "adversarial-robustness-toolbox"
_BLOCK = 1024
Watch = Callable[[str, np.ndarray, AttackResult], Any]
# What a stored measurement was made of.
_POINTS = ("x", "x_adv", "y", "places")
# The streams of a randomised model's draws that are no attack's; those count up from 0.
_CLEAN, _AGAIN = -2, -(2**24)
# Arguments that a report need not tell to repeat it.
_UNTOLD = ("model_file", "command", "verbose")
# The number of the group that is no attack: what metrics measure on the clean samples.
_CLEAN_GROUP = -1


def evaluate(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    attacks: Any = "areb",
    metrics: str | Metric | Sequence[str | Metric] = (),
    dataset: str | None = None,
    class_names: Sequence[str] | None = None,
    eps: float | None = None,
    norm: float | str | None = None,
    clip_values: tuple[float, float] | None = None,
    batch_size: int = 128,
    seed: int = 0,
    cross_check: bool = False,
    keep_adversaries: bool = False,
    output: str | os.PathLike[str] | None = None,
    workers: int = 1,
    ray_address: str | None = None,
    model_file: str | os.PathLike[str] | None = None,
    command: str | None = None,
    verbose: bool = False,
) -> Report:
    """Attacks a classifier and reports what is left of its accuracy.

    All attacks get the same samples and start from the true labels. One run serves two questions:

    - *accuracy* is measured against the true label, over all samples;
    - *success* is measured against the model's own label (AREB, section 2.3.1), over the
      samples the model gets right, where own and true label are the same. A sample that is wrong
      already leaves an untargeted attack nothing to do: it counts as wrong in the accuracy, and
      not at all in the success rate and the median distances.

    AutoAttack runs its attacks in a row, inside each batch, each on what the ones before it left:
    its rows hold the accuracy and the distances after each step, and the passes and seconds of that
    step.

    A model that draws at inference is found out by two clean passes. It draws by `seed` from then
    on, and its figures are means over draws and votes where the model is given as
    `Classifier(model, draws=20, votes=10)`.

    A model that certifies its answers, a smoothed one say (`certify(x)`, with `labels` and L2
    `radii`), is asked for its certificates as well, and the report has a verdict from both sides.

    `robust_accuracy` is the worst case per sample: right without attack, and changed by no attack.
    A targeted attack is given, for every sample, a class other than the true one, drawn with
    `seed`.

    Args:
        model: A `keras.Model`, a `Classifier`, an ART estimator, or a callable that returns
            scores (black-box attacks only) or labels (of these, those that ask for no more). A
            callable that fails ends the run with an `AttackInterrupted`, or is asked again where
            it is given as `Classifier(model, retries=3)`.
        x: Samples, shape `(n, ...)`, inside the bounds; or a finite `tf.data.Dataset` of
            `(x, y)`, which is read once for the clean pass and once per attack and is never whole
            in memory; or a `kerasrobust.datasets.Dataset`, which brings labels, bounds, its name,
            the names of the classes, and which samples of which split these are.
        y: True labels, integers of shape `(n,)` or one-hot of shape `(n, classes)`. Without them
            the model's own predictions stand in, and the report says so.
        attacks: The name of a preset (`presets.names()`), an attack specification such as
            `"fgsm:eps=0.1"`, an attack, or a list of these. An attack instance keeps its own
            batch size and seed.
        metrics: Further figures for the report: names (`kerasrobust.metrics.names()`),
            specifications such as `"clever_l2:samples=20"`, or metrics.
        dataset: Name of the data set; `"mnist"` and `"cifar10"` choose the paper's parameters.
        class_names: A name for each class, for the tables and pictures.
        eps: Budget. It replaces the budget of every attack that was not given one of its own, and
            adversarial samples beyond it do not count for *any* attack.
        norm: Norm of that budget, 1, 2 or inf (the default).
        clip_values: Smallest and largest pixel value; by default the model's own, else `(0, 1)`.
        batch_size: Samples per batch.
        seed: Seed of all randomness.
        cross_check: Run every attack that ART has through ART as well, on the same samples, and
            show both.
        keep_adversaries: Keep all adversarial samples (`report.samples`), which takes as much
            memory as the samples per attack. Without it figures per sample are kept, and a few
            samples for the pictures.
        output: Folder for the report, a path or a URL that `fsspec` opens. Each batch's result is
            stored there as soon as it is finished; the same call on the same folder goes on after
            the last finished one.
        workers: Processes that the batches are shared out to, by Ray (`kerasrobust[ray]`): the same
            report, within rounding where they have another number of threads.
        ray_address: Of a running Ray cluster; `output` must be where all its hosts reach it.
            By default workers are started on this machine.
        model_file: The file that the model was read from, for the report.
        command: The command line that repeats the evaluation, for the report; by default this call.
        verbose: Show a progress bar for each attack.

    Returns:
        A `Report`.

    Raises:
        ValueError: If a sample, a label, a bound or a hyperparameter is out of range, or an attack
            or preset is unknown; before any attack is run.
        TypeError: If an argument is of the wrong kind, or an attack or metric needs gradients that
            the model does not have; before any attack is run.
        OSError: If `output` cannot be written; before any attack is run.

    Example:

    >>> report = kerasrobust.evaluate(model, x, y, attacks=["fgsm:eps=0.1", "pgd"])
    >>> report.clean_accuracy, report.robust_accuracy, report.attacks["pgd"].median_linf
    >>> report.save("report/")
    """
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(evaluate).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name not in _UNTOLD
    }
    given = {name: value for name, value in locals().items() if name in defaults}
    call = provenance.call(["model", "x", "y"][: 2 + (y is not None)], given, defaults)
    shared = check_int("workers", workers, 1) > 1 or ray_address is not None
    if shared:
        check_ray(workers)
    if ray_address is not None and output is None:
        raise ValueError(
            "The hosts of a cluster share an `output` folder. Received: output=None, "
            f"ray_address={ray_address!r}"
        )
    with contextlib.ExitStack() as stack:
        folder = output
        if shared and folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
        evaluation = Evaluation(
            model,
            x,
            y,
            attacks=attacks,
            metrics=metrics,
            dataset=dataset,
            class_names=class_names,
            eps=eps,
            norm=norm,
            clip_values=clip_values,
            batch_size=batch_size,
            seed=seed,
            cross_check=cross_check,
            keep_adversaries=keep_adversaries,
            output=folder,
            model_file=model_file,
            command=command or call,
            verbose=verbose,
        )
        pieces = evaluation.pieces()
        if shared:
            pieces = stack.enter_context(shared_out(evaluation, workers, ray_address))
        evaluation.run(pieces)
    report = evaluation.report()
    if output is not None:
        storage.put(output, report.save)
    return report


@dataclasses.dataclass(frozen=True)
class Step:
    """An attack of an evaluation.

    Attributes:
        name: In the report.
        attack: The attack, bound.
        checks: Name of the attack whose cross-check it is, or None.
    """

    name: str
    attack: Attack
    checks: str | None = None


@dataclasses.dataclass(frozen=True)
class Unit:
    """A batch of one attack, or of a cascade: what is computed, stored and shared out.

    Attributes:
        group: Number of the attack or cascade.
        index: Number of the batch.
    """

    group: int
    index: int


class Evaluation:
    """An evaluation in pieces that may be computed in any order, by several processes.

    Each process makes the same object, with a common `output`, and computes some of `units()`; what
    another one has finished is read, not computed again. `evaluate` computes them all in a row.

    Args: as of `evaluate`, and `targeted`, whether the attacks aim at a class.

    Attributes:
        targets: The classes that targeted attacks aim at, int64 of shape `(n,)`; other ones may be
            assigned before anything is computed, or after `forget`.

    Raises:
        ValueError, TypeError, OSError: As `evaluate`, before any attack is run.
    """

    def __init__(
        self,
        model: Any,
        x: Any,
        y: Any = None,
        *,
        attacks: Any = "areb",
        metrics: str | Metric | Sequence[str | Metric] = (),
        dataset: str | None = None,
        class_names: Sequence[str] | None = None,
        eps: float | None = None,
        norm: float | str | None = None,
        clip_values: tuple[float, float] | None = None,
        batch_size: int = 128,
        seed: int = 0,
        cross_check: bool = False,
        keep_adversaries: bool = False,
        output: str | os.PathLike[str] | None = None,
        model_file: str | os.PathLike[str] | None = None,
        command: str | None = None,
        verbose: bool = False,
        targeted: bool = False,
    ):
        self._started = datetime.datetime.now(datetime.UTC), time.perf_counter()
        self._command = command
        data = x if isinstance(x, Dataset) else None
        if data is not None:
            if y is not None:
                raise ValueError("A Dataset brings its labels. Received: a Dataset and y")
            if isinstance(model, Classifier):
                clip_values = model.clip_values if clip_values is None else clip_values
            if clip_values not in (None, data.clip_values):
                raise ValueError(
                    f"The bounds are those of the Dataset, {data.clip_values}. "
                    f"Received: clip_values={clip_values!r}"
                )
            x, y, clip_values = data.x, data.y, data.clip_values
            dataset = data.name if dataset is None else dataset
        if isinstance(model, Classifier) and clip_values not in (None, model.clip_values):
            raise ValueError(
                "The bounds are the Classifier's own where one is given. "
                f"Received: clip_values={clip_values!r} beside {model.clip_values}"
            )
        self.classifier = classifier = Classifier.of(model, clip_values)
        self.judge = classifier.judging
        self.source = Source(x, y, classifier)
        self.metrics = registry.resolve(metrics)
        self._check_metrics()
        low, high = classifier.clip_values
        shape = classifier.input_shape or self.source.sample_shape
        self.plan = resolve(
            attacks,
            eps=eps,
            norm=norm,
            dataset=dataset,
            channels=presets.channels(shape),
            value_range=high - low,
            nb_classes=classifier.known_classes,
            batch_size=batch_size,
            seed=seed,
            targeted=targeted,
        )
        bound = {name: attack.bind(classifier) for name, attack in self.plan.attacks.items()}
        checks, self.missing = references(bound, classifier) if cross_check else ({}, [])
        steps = [Step(name, attack) for name, attack in bound.items()]
        # A cascade is one group; apart from it each attack is one, followed by its cross-check.
        self.groups = [steps] if self.plan.cascade else [[step] for step in steps]
        for place, step in reversed(list(enumerate(steps))):
            if step.name in checks:
                name = unique("art:" + step.name, bound)
                check = [Step(name, checks[step.name], step.name)]
                at = len(self.groups) if self.plan.cascade else place + 1
                self.groups.insert(at, check)
        self.batch_size, self.seed, self.verbose = batch_size, seed, verbose
        self.keep = keep_adversaries
        self.settings = {
            "dataset": dataset,
            "split": None if data is None else data.split,
            "indices": _places(data),
            "available": None if data is None else data.available,
            "file": None if model_file is None else os.fspath(model_file),
            "cross_check": cross_check,
        }
        self.store = None
        if output is not None:
            self.store = storage.Store(f"{os.fspath(output)}/results")
        self._look()
        self.class_names: list[str] | None = None
        if class_names is not None:
            self.class_names = provenance.class_names(class_names, self.nb_classes)
        elif data is not None:
            # A model may have more classes than the data, which are shown by their numbers then.
            names = [*data.class_names, *map(str, range(data.nb_classes, self.nb_classes))]
            self.class_names = names[: self.nb_classes]
        self._check_metrics()  # that a callable answers labels only shows in the clean pass
        for step in itertools.chain.from_iterable(self.groups):
            if step.attack.access == "scores":
                classifier.check_scores()
        self._prologues: dict[str, Prologue] = {}
        self._parts: dict[tuple[str, int], AttackResult] = {}
        self._examples: dict[tuple[str, int], tuple[AttackResult, np.ndarray]] = {}
        self._clean: dict[int, dict[str, np.ndarray]] = {}
        self._model = storage.fingerprint(classifier) if self.store else ""

    def _check_metrics(self) -> None:
        for metric in self.metrics:
            metric.check(self.classifier)

    def _look(self) -> None:
        """The clean pass: labels, confidence, and which samples are shown in pictures."""
        judged: list[tuple[np.ndarray, ...]] = []
        given = []
        for block in self.source.blocks(_BLOCK):
            if not judged:
                for classifier in {id(one): one for one in (self.classifier, self.judge)}.values():
                    classifier.look_for_draws(block.x, self.batch_size)
            key = (self.seed, _CLEAN - block.index)
            judged.append(self.judge.judge(block.x, self.batch_size, key))
            if block.y is not None:
                given.append(block.y)
        labels, confidence, accepted = (np.concatenate(part) for part in zip(*judged, strict=True))
        if not np.all(np.isfinite(confidence)):
            raise ValueError(
                "The model must return finite scores. Received: NaN or infinite scores for "
                f"{int((~np.isfinite(confidence)).sum())} of {len(confidence)} clean samples"
            )
        self.labels, self.confidence, self.accepted = labels, confidence, accepted
        self.nb_classes = self.judge.nb_classes
        self.given = self.source.has_labels
        self.y = np.concatenate(given) if self.given else labels
        if self.judge.known_classes is None:  # labels tell of those that are never answered
            self.nb_classes = max(self.nb_classes, int(self.y.max()) + 1)
        check_labels(self.y, len(labels), self.nb_classes)
        self.correct = clean_correct(labels, accepted, self.y)
        draw = np.random.default_rng(self.seed)
        shift = draw.integers(1, self.nb_classes, len(labels))
        self.targets = (self.y + shift) % self.nb_classes
        self.shown = pictures.choose(self.y, self.correct)

    def bar(self, group: int) -> tqdm.tqdm:
        """A progress bar of the steps of one attack or cascade, or of the clean samples."""
        if group == _CLEAN_GROUP:
            return tqdm.tqdm(
                total=len(self.source), desc="clean", unit="sample", disable=not self.verbose
            )
        steps = self.groups[group]
        return tqdm.tqdm(
            total=sum(step.attack.max_steps() for step in steps) * len(self.source),
            desc=", ".join(step.name for step in steps),
            unit="step",
            disable=not self.verbose,
        )

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs to compute a piece whose samples it is given."""
        return {**self.__dict__, "_parts": {}, "_examples": {}, "_prologues": {}, "_clean": {}}

    def pieces(self) -> Iterator[tuple[Unit, Block]]:
        """All units with their samples."""
        return ((unit, self.block(unit)) for unit in self.units())

    def run(
        self,
        pieces: Iterable[tuple[Unit, Block]] | None = None,
        watch: Watch = lambda name, rows, result: None,
    ) -> None:
        """Computes pieces in a row, by default all, with a progress bar for each attack.

        Args:
            pieces: Units with their samples.
            watch: See `compute`.
        """
        pieces = self.pieces() if pieces is None else pieces
        for group, of_group in itertools.groupby(pieces, lambda piece: piece[0].group):
            with self.bar(group) as bar:
                for unit, block in of_group:
                    self.compute(unit, bar.update, block, watch)

    def units(self) -> Iterator[Unit]:
        """All units: the clean samples where metrics measure them, then attack by attack."""
        clean = [_CLEAN_GROUP] if registry.measured_clean(self.metrics) else []
        for group in (*clean, *range(len(self.groups))):
            for index in range(self._batches(group)):
                yield Unit(group, index)

    def _batches(self, group: int) -> int:
        return -(-len(self.source) // self._size(group))

    def _steps(self, group: int) -> list[Step]:
        return [] if group == _CLEAN_GROUP else self.groups[group]

    def _size(self, group: int) -> int:
        # An attack that was given keeps its own batch size; a cascade works on common batches.
        steps = self._steps(group)
        return self.batch_size if self.plan.cascade or not steps else steps[0].attack.batch_size

    def block(self, unit: Unit) -> Block:
        """The samples of a unit."""
        return self.source.block(unit.index, self._size(unit.group))

    def prepare(self, group: int) -> None:
        """Computes, or reads, what all batches of an attack or cascade share."""
        for step in self._steps(group):
            self._prologue(step)

    def forget(self) -> None:
        """Drops the results of what was computed; the store has them."""
        self._parts.clear()
        self._examples.clear()
        self._clean.clear()

    def compute(
        self,
        unit: Unit,
        progress: Callable[[int], Any] = lambda steps: None,
        block: Block | None = None,
        watch: Watch = lambda name, rows, result: None,
    ) -> None:
        """Computes a piece, or reads it where it is finished already.

        Args:
            unit: One of `units()`.
            progress: Told of steps that are behind, summed over samples.
            block: Its samples, where they are at hand.
            watch: Shown the result of each attack, while its samples are at hand: the attack's
                name in the report, the places of the samples, int64 `[batch]`, and the result.

        Raises:
            AttackInterrupted: If a callable fails. What was finished before is stored.
        """
        steps = self._steps(unit.group)
        block = self.block(unit) if block is None else block
        try:
            if steps:
                self._compute(unit, steps, block, progress, watch)
            else:
                self._measure_clean(unit, block)
                progress(len(block.x))
        except ModelFailure as error:
            name = steps[0].name if steps else "the clean samples"
            raise AttackInterrupted(
                f"{error} It failed in batch {unit.index} of {name}; what was finished "
                "before is stored where `output` was given.",
                block.x,
                np.zeros(len(block.x), bool),
                self.classifier.queries,
            ) from error

    def _compute(
        self,
        unit: Unit,
        steps: list[Step],
        block: Block,
        progress: Callable[[int], Any],
        watch: Watch,
    ) -> None:
        places = np.arange(block.rows.start, block.rows.stop)
        standing = self._untouched(block.x, places) if self.plan.cascade else None
        chain: list[Any] = []
        for step in steps:
            attack = step.attack
            wanted = self.targets if attack.targeted else self.y
            batch = attack.batch(
                unit.index, places, len(self.source), {"x": block.x}, wanted[places]
            )
            batch = dataclasses.replace(batch, whole=min(self._size(unit.group), len(self.source)))
            prologue = self._prologue(step)
            key = self._key(step, batch, prologue, chain) if self.store else ""
            result = self.store.load(step.name, key, batch) if self.store else None
            if result is None:
                result = self._run(attack, batch, prologue, standing, progress)
                if self.store:
                    self.store.save(step.name, key, result)
            else:
                progress(attack.max_steps() * len(places))
            chain.append([key, dataclasses.astuple(self.plan.criterion)])
            result = summary.within(
                result,
                self.plan.criterion,
                self.labels[places],
                self.confidence[places],
                self.accepted[places],
            )
            standing = result if standing is not None else None
            points = summary.points_of(
                result,
                self.y[places],
                norm=float(attack.norm),
                **self._context(places),
            )
            if points is not None:
                columns = {**result.columns, **self._columns(step.name, points)}
                result = dataclasses.replace(result, columns=columns)
            result = self._judged_again(result, unit)
            watch(step.name, places, result)
            shown = np.flatnonzero(np.isin(places, self.shown))
            self._examples[step.name, unit.index] = result.take(shown), places[shown]
            if not self.keep:
                result = dataclasses.replace(result, x=None, x_adv=None)
            self._parts[step.name, unit.index] = result

    def _context(self, places: np.ndarray) -> dict[str, Any]:
        low, high = self.classifier.clip_values
        return {
            "value_range": high - low,
            "classifier": self.classifier,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "places": places,
        }

    def _measure_clean(self, unit: Unit, block: Block) -> None:
        places = np.arange(block.rows.start, block.rows.stop)
        points = Points(block.x, block.x, self.y[places], row="clean", **self._context(places))
        self._clean[unit.index] = self._columns("clean", points)

    def _columns(self, name: str, points: Points) -> dict[str, np.ndarray]:
        """What the metrics measure; those worth it are read where they are stored."""
        store = self.store
        keeps = [m for m in self.metrics if m.stored and points.row in m.rows and store]
        columns = registry.measure([m for m in self.metrics if m not in keeps], points)
        for metric in keeps:
            assert store is not None
            key = self._column_key(metric, points)
            place = f"{name}-{metric.key}"
            column = store.load_column(place, key)
            if column is None:
                found = registry.measure([metric], points)
                if not found:
                    continue
                column = found[metric.key]
                store.save_column(place, key, column)
            columns[metric.key] = column
        return columns

    def _column_key(self, metric: Metric, points: Points) -> str:
        made: Any = type(metric)
        parts = {
            "model": self._model,
            "metric": metric.key,
            "config": metric.get_config(),
            "class": storage.source(made),
            "version": storage.version(),
            "data": storage.digest({key: getattr(points, key) for key in _POINTS}),
            "settings": [points.row, points.norm, points.batch_size, points.seed],
        }
        return storage.digest({**parts, **self._answers(points.places)})

    def _answers(self, places: Any) -> dict[str, Any]:
        """Of a callable, or a bare layer, nobody sees the inside: what stands for it in a key."""
        if isinstance(self.classifier.model, keras.Model):
            return {}
        return {"answers": storage.answers(self.labels[places], self.confidence[places])}

    def _judged_again(self, result: AttackResult, unit: Unit) -> AttackResult:
        """Of a model that draws, with a column `holds`: which successes count a second time.

        A callable is not asked again: that would go beyond the budget of queries.
        """
        judge = self.judge
        if not (judge.randomised and judge.is_keras):
            return result
        assert result.x_adv is not None
        key = (self.seed, _AGAIN - unit.index)
        labels, _, accepted = judge.judge(result.x_adv, self.batch_size, key)
        holds = result.success & Criterion(result.targeted).met(labels, result.y, accepted)
        return dataclasses.replace(result, columns={**result.columns, "holds": holds})

    def _untouched(self, x: np.ndarray | None, places: Any) -> AttackResult:
        """The state before the first attack: what is wrong already is broken, all else stands."""
        labels, y = self.labels[places], self.y[places]
        accepted = self.accepted[places] if self.judge.rejects else None
        wrong = Criterion().met(labels, y, accepted)
        distance, nothing = np.where(wrong, 0.0, np.inf), np.zeros(len(y), np.int64)
        return AttackResult(
            name="",
            config={},
            targeted=False,
            x=x,
            x_adv=x,
            y=y,
            success=wrong,
            initially_adversarial=wrong,
            labels=labels,
            accepted=accepted,
            confidence=self.confidence[places],
            l0=distance,
            l1=distance,
            l2=distance,
            linf=distance,
            queries=nothing,
            gradients=nothing,
            zero_gradients=nothing,
            executed_queries=0,
            executed_gradients=0,
            gave_up=np.zeros(len(y), bool),
            seconds=0.0,
        )

    def _run(
        self,
        attack: Attack,
        batch: Batch,
        prologue: Prologue,
        standing: AttackResult | None,
        progress: Callable[[int], Any],
    ) -> AttackResult:
        """An attack on a batch; in a cascade on what stands, added to what was broken before."""
        if standing is None:
            return run_batch(attack, batch, prologue, progress)
        rows = np.flatnonzero(~standing.success)
        progress(attack.max_steps() * (len(standing.success) - len(rows)))
        nothing = np.zeros(len(standing.success), np.int64)
        step = dataclasses.replace(
            standing,
            name=attack.name,
            config=attack.get_config(),
            queries=nothing,
            gradients=nothing,
            zero_gradients=nothing,
            executed_queries=0,
            executed_gradients=0,
            seconds=0.0,
        )
        if not len(rows):
            return step
        return step.overlaid(run_batch(attack, batch.part(rows), prologue, progress), rows)

    def _prologue(self, step: Step) -> Prologue:
        if step.name not in self._prologues:
            self._prologues[step.name] = self._find_prologue(step)
        return self._prologues[step.name]

    def _find_prologue(self, step: Step) -> Prologue:
        if self.store is None:
            return step.attack.prologue(self.source)
        key = storage.digest({**self._describe(step.attack), "data": self.source.fingerprint})
        found = self.store.load_prologue(step.name, key)
        if found is None:
            found = step.attack.prologue(self.source)
            if found:
                self.store.save_prologue(step.name, key, found)
        return found

    def _describe(self, attack: Attack) -> dict[str, Any]:
        """All that an attack's outcome depends on, data and place apart."""
        config = {key: value for key, value in attack.get_config().items() if key != "verbose"}
        return {
            "model": self._model,
            "attack": attack.name,
            "config": config,
            "sources": [storage.fingerprint(one) for one in attack.other_models()],
            "class": storage.source(type(attack)),
            "version": storage.version(),
        }

    def _key(self, step: Step, batch: Batch, prologue: Prologue, chain: list[Any]) -> str:
        assert batch.y is not None
        data = {"y": batch.y, **batch.given}
        parts = {
            **self._describe(step.attack),
            "data": storage.digest(data),
            "place": [batch.index, batch.total, batch.whole],
            "prologue": storage.digest(prologue) if prologue else None,
            "before": chain,
        }
        return storage.digest({**parts, **self._answers(batch.rows)})

    def result(self, name: str) -> AttackResult:
        """The outcome of one attack on all samples, its batches in a row.

        Raises:
            KeyError: If a batch has not been computed.
        """
        (group,) = [
            number
            for number, steps in enumerate(self.groups)
            if any(step.name == name for step in steps)
        ]
        batches = range(self._batches(group))
        return AttackResult.concatenate([self._parts[name, index] for index in batches])

    def report(self) -> Report:
        """The report, once all pieces are computed."""
        classifier, plan, y = self.classifier, self.plan, self.y
        low, high = classifier.clip_values
        certificate = self._certificate()
        radii = None
        if certificate is not None:
            radii = np.where(certificate["labels"] == y, certificate["radii"], -1.0)
        # Where the model was first seen to be wrong: an answer that it withholds is not.
        fell = np.where((self.labels != y) & self.accepted, 0.0, np.inf)
        results: dict[str, AttackResult] = {}
        nearest: dict[float, tuple[list[str], np.ndarray]] = {}
        rows: dict[str, summary.AttackSummary] = {}
        robust = self.correct.copy()
        for step in itertools.chain.from_iterable(self.groups):
            results[step.name] = result = self.result(step.name)
            robust &= survived(result.labels, result.accepted, y, self.correct)
            fooled = result.success & (result.labels != y)
            fell = np.minimum(fell, np.where(fooled, result.l2, np.inf))
            if step.attack.kind == "minimal" and not result.targeted:
                names, least = nearest.get(step.attack.norm, ([], np.full(len(y), np.inf)))
                least = np.minimum(least, result.distance(step.attack.norm))
                nearest[step.attack.norm] = [*names, step.name], least
            rows[step.name] = summary.summarise(
                step.name,
                step.attack,
                result,
                y,
                self.correct,
                self.nb_classes,
                high - low,
                knowledge="white" if step.attack.access == "gradient" else "black",
                checks=step.checks,
                metrics=self.metrics,
                radii=radii,
            )
        findings = check_predictions(self.labels, y if self.given else None, self.nb_classes)
        findings += check_confidence(self.confidence)
        randomised = bool(classifier.randomised or self.judge.randomised)
        if randomised:
            findings += check_draws(
                results,
                draws=classifier.draws if classifier.has_gradient else self.judge.votes,
                votes=self.judge.votes,
                repeatable=classifier.repeatable and self.judge.repeatable,
                averaged=plan.preset is not None and plan.preset.name == "autoattack-rand",
                criterion=plan.criterion,
                nb_classes=self.nb_classes,
            )
        if certificate is not None:
            findings += check_certificate(certificate["labels"], certificate["radii"], y, results)
        findings += check_batches(
            classifier.mixes_samples or self.judge.mixes_samples, self.batch_size
        )
        offered = classifier.gradients_offered if classifier.gradient_mode == "exact" else []
        findings += check_gradients(rows, results, offered)
        expected = pixel_range(classifier.model)
        findings += check_pixels(expected, classifier.clip_values)
        findings += check_lengths(rows, classifier.clip_values)
        findings += check_attack_labels(rows, results, self._repeat)
        if not plan.cascade:
            findings += check_starts(rows, results)
        findings += diagnose(rows, results, self._repeat, plan.cascade, randomised)
        findings += self.missing
        if plan.preset is not None and plan.preset.note:
            findings.append(Finding("few_classes", plan.preset.note))
        if not self.given:
            findings.append(
                Finding(
                    "no_labels",
                    "No labels were given: the model's own predictions stand in for them, so the "
                    "clean accuracy is 100 % by definition and says nothing about the model.",
                )
            )
        untouched = self._untouched(None, slice(None))
        if self._clean:
            batches = [self._clean[index] for index in range(self._batches(_CLEAN_GROUP))]
            columns = {key: np.concatenate([b[key] for b in batches]) for key in batches[0]}
            untouched = dataclasses.replace(untouched, columns=columns)
        clean = Outcome(
            untouched, y, self.correct, self.nb_classes, high - low, row="clean", radii=radii
        )
        budgets = [row.config.get("eps") for row in rows.values() if row.norm == 2]
        worst = dataclasses.replace(
            clean,
            row="worst",
            unbroken=robust,
            fell=fell,
            budgets=tuple(float(b) for b in budgets if b is not None and np.ndim(b) == 0),
            nearest=nearest,
            results=results,
        )
        preset, criterion = plan.preset, plan.criterion
        network = classifier.model if isinstance(classifier.model, keras.Model) else None
        checked = any(step.checks for group in self.groups for step in group)
        return Report(
            clean=summary.figures(clean, self.metrics),
            robust=summary.figures(worst, self.metrics),
            attacks=rows,
            findings=by_weight(findings),
            settings={
                "dataset": self.settings["dataset"],
                "split": self.settings["split"],
                "indices": self.settings["indices"],
                "available": self.settings["available"],
                "file": self.settings["file"],
                "model": str(getattr(classifier.model, "name", type(classifier.model).__name__)),
                "parameters": None if network is None else network.count_params(),
                "weights": None if network is None else storage.weights(network),
                "samples": len(y),
                "data": self.source.fingerprint,
                "shape": list(self.source.sample_shape),
                "classes": self.nb_classes,
                "class_names": self.class_names,
                "labels": "given" if self.given else "predicted",
                "classifier": classifier.settings(),
                "randomised": randomised,
                "clip_values": [low, high],
                "pixel_range": expected and dataclasses.asdict(expected),
                "batch_size": self.batch_size,
                "seed": self.seed,
                "eps": criterion.eps,
                "norm": None if criterion.eps is None else criterion.norm,
                "preset": preset and preset.name,
                "preset_variant": preset and preset.variant,
                "cascade": plan.cascade,
                "unpublished_parameters": preset and preset.unpublished,
                "cross_check": self.settings["cross_check"],
            },
            versions={
                "kerasrobust": __version__,
                **{package: _version(package) for package in _VERSIONS},
                **({_ART: _version(_ART)} if checked else {}),
            },
            run={
                "started": self._started[0].isoformat(timespec="seconds"),
                "seconds": round(time.perf_counter() - self._started[1], 3),
                "command": self._command,
                "machine": provenance.machine(),
            },
            metrics=self.metrics,
            examples=self._shown_examples(),
            samples=Samples(
                self.source.whole()[0] if self.keep else None,
                y,
                self.labels,
                robust,
                results,
                certificate,
            ),
        )

    def _certificate(self) -> dict[str, np.ndarray] | None:
        """Labels and radii that the model proves, where it does; read where they are stored.

        A radius in the unit behind a normalisation is none of the samples'.
        """
        judge, parts = self.judge, []
        if not hasattr(judge.model, "certify") or judge.preprocessing is not None:
            return None
        blocks = self.source.blocks(self.batch_size)
        for block in tqdm.tqdm(blocks, "certify", unit="batch", disable=not self.verbose):
            key = ""
            if self.store:
                data = storage.digest({"x": block.x})
                key = storage.digest([self._model, data, storage.version()])
            found = self.store.load_prologue("certify", key) if self.store else None
            if found is None:
                proven = judge.model.certify(block.x)
                found = {"labels": proven.labels, "radii": proven.radii}
                if self.store:
                    self.store.save_prologue("certify", key, found)
            parts.append(found)
        return {key: np.concatenate([part[key] for part in parts]) for key in ("labels", "radii")}

    def _repeat(self, description: dict[str, Any], rows: np.ndarray) -> AttackResult | None:
        """An attack with other parameters on some samples; None for one that has no name."""
        name, config = description["name"], dict(description["config"])
        if name not in ATTACKS.names():
            return None
        for key in ("eps", "eps_step"):  # one per sample, maybe
            if isinstance(config.get(key), list):
                config[key] = np.asarray(config[key])[rows]
        attack = ATTACKS.get({"name": name, "config": config}).bind(self.classifier)
        wanted = self.targets if attack.targeted else self.y
        result = attack.run(self.source.take(rows), wanted[rows])
        clean = self.labels[rows], self.confidence[rows], self.accepted[rows]
        return summary.within(result, self.plan.criterion, *clean)

    def _shown_examples(self) -> pictures.Examples:
        """The samples that pictures show, in the order of `shown`."""
        shown: dict[str, AttackResult] = {}
        for step in itertools.chain.from_iterable(self.groups):
            parts = [part for (name, _), part in self._examples.items() if name == step.name]
            places = np.concatenate([place for _, place in parts])
            together = AttackResult.concatenate([result for result, _ in parts])
            order = np.argsort(places)[np.searchsorted(np.sort(places), self.shown)]
            shown[step.name] = together.take(order)
        x = self.source.take(self.shown)
        return pictures.Examples(x, self.y[self.shown], self.labels[self.shown], shown)


def _places(data: Dataset | None) -> str | None:
    """Which samples of their split these are; None where it is not known."""
    return None if data is None or data.indices is None else provenance.spans(data.indices)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
