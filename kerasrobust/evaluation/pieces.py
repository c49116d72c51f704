"""An evaluation in pieces: batches of attacks that are computed, stored and measured apart."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tqdm

from kerasrobust.attacks import ATTACKS, Attack
from kerasrobust.checks import (
    check_batch_size,
    check_bool,
    check_finite_scores,
    check_int,
    check_labels,
)
from kerasrobust.datasets import Dataset
from kerasrobust.engine import store as storage
from kerasrobust.engine.batches import PROLOGUE_SECONDS, Batch, Prologue, find_prologue, run_batch
from kerasrobust.engine.classifier import Classifier, ModelFailure
from kerasrobust.engine.criterion import Criterion, clean_correct
from kerasrobust.engine.result import AttackInterrupted, AttackResult
from kerasrobust.engine.source import Block, Source, is_stream
from kerasrobust.evaluation import (
    aims,
    draws,
    illustrations,
    presets,
    progress,
    provenance,
    summary,
)
from kerasrobust.evaluation import pictures as drawing
from kerasrobust.evaluation.diagnosis import Finding, look_for_unit
from kerasrobust.evaluation.resolve import references, resolve, unique
from kerasrobust.metrics import Metric, Points, registry

# AREB's size of a draw.
_DRAW = 100
# What a stored measurement was made of.
_POINTS = ("x", "x_adv", "y", "places")
# The streams of a randomised model's draws that are no attack's; those count up from 0.
_CLEAN, _AGAIN = -2, -(2**24)
# The number of the group that is no attack: what metrics measure on the clean samples.
_CLEAN_GROUP = -1
# Is shown an attack's name, the places of samples and the result.
Watch = Callable[[str, np.ndarray, AttackResult], Any]


def unwatched(name: str, rows: np.ndarray, result: AttackResult) -> None:
    """Looks at no batch."""


@dataclasses.dataclass(frozen=True)
class Step:
    """An attack of an evaluation.

    Attributes:
        name: In the report.
        attack: The attack, bound.
        criterion: When what it finds counts.
        checks: Name of the attack whose cross-check it is, or None.
    """

    name: str
    attack: Attack
    criterion: Criterion
    checks: str | None = None


@dataclasses.dataclass(frozen=True)
class Unit:
    """A batch of one attack, or of a cascade: what is computed, stored and shared out.

    An attack that does not depend on the budget is one, however many there are.

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

    Args: as of `evaluate`. There are no `probes` unless they are asked for.

    Attributes:
        targets: The classes that targeted attacks aim at, int64 of shape `(n,)`; other ones may be
            assigned before anything is computed, or after `forget`.
        places: Of the samples in what was given, int64 of shape `(n,)`.

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
        pictures: str | Sequence[str] = (),
        dataset: str | None = None,
        class_names: Sequence[str] | None = None,
        eps: float | Sequence[float] | None = None,
        norm: float | str | None = None,
        targets: str | None = None,
        max_queries: int | None = None,
        only_correct: bool = False,
        repeats: int = 1,
        samples: int | None = None,
        clip_values: tuple[float, float] | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        cross_check: bool = False,
        keep_adversaries: bool = False,
        output: str | os.PathLike[str] | None = None,
        probes: bool = False,
        model_file: str | os.PathLike[str] | None = None,
        command: str | None = None,
        verbose: bool = False,
    ):
        self.started = datetime.datetime.now(datetime.UTC), time.perf_counter()
        self.command = command
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
        self.aims = aims.check_aims(targets)
        self.draws: np.ndarray | None = None
        self.repeats, places = _repeats(x, y, repeats, samples, seed)
        if places is not None:
            x, y = np.asarray(x)[places], np.asarray(y)[places]
            self.draws = np.repeat(np.arange(repeats), len(places) // repeats)
        if check_bool("only_correct", only_correct) and y is None and not is_stream(x):
            raise ValueError("Which samples are right only labels tell. Received: y=None")
        self.source = Source(x, y, classifier)
        self.metrics = registry.resolve(metrics)
        self._check_metrics()
        self.pictures = illustrations.check(pictures, classifier)
        low, high = classifier.clip_values
        shape = classifier.input_shape
        if shape is None or None in shape:
            shape = self.source.sample_shape
        batch_size = check_batch_size(batch_size, shape)
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
            targeted=self.aims is not None,
            max_queries=max_queries,
        )
        once = {id(attack): attack.bind(classifier) for attack in self.plan.attacks.values()}
        bound = {name: once[id(attack)] for name, attack in self.plan.attacks.items()}
        checks, self.missing = references(bound, classifier) if cross_check else ({}, [])
        # A cascade is one group; apart from it each attack is one, followed by its cross-check.
        self.groups: list[list[Step]] = []
        late: list[list[Step]] = []
        for names in self.plan.groups():
            criteria = {name: self.plan.criterion_of(name) for name in names}
            self.groups.append([Step(name, bound[name], criteria[name]) for name in names])
            for name in names:
                if name in checks:
                    full = unique("art:" + name, bound)
                    check = [Step(full, checks[name], criteria[name], name)]
                    (late if self.plan.cascade else self.groups).append(check)
        self.groups += late
        self.batch_size, self.seed, self.verbose = batch_size, seed, verbose
        self.keep, self.probes = keep_adversaries, check_bool("probes", probes)
        self.settings: dict[str, Any] = {
            "dataset": dataset,
            "split": None if data is None else data.split,
            "available": None if data is None else data.available,
            "file": None if model_file is None else os.fspath(model_file),
            "cross_check": cross_check,
            "targets": self.aims,
            "max_queries": max_queries,
        }
        self.partial: dict[str, Any] | None = None
        self.unit: list[Finding] = []  # whether the model expects other inputs
        self.store = None
        if output is not None:
            self.store = storage.Store(f"{os.fspath(output)}/results")
        self._look()
        self.places = np.arange(len(self.y)) if places is None else places
        self.given_samples, self.given_accuracy = len(self.y), float(self.correct.mean())
        self.only_correct = only_correct
        if only_correct:
            self._keep_correct()
        self.shown = drawing.choose(self.y, self.correct)
        # Places of the samples in their split.
        self.indices = None if data is None else data.indices
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
        # Samples that were asked for again by their places: few.
        self._asked: dict[int, np.ndarray] = {}
        self._model = storage.fingerprint(classifier) if self.store else ""

    @property
    def budgets(self) -> list[float]:
        """The budgets that attacks have, rising; empty where there is none."""
        return sorted(set(self.plan.budgets.values()))

    @property
    def spans(self) -> str | None:
        """Which samples of their split these are; None where it is not known."""
        if self.indices is None:
            return None
        return provenance.spans(np.asarray(self.indices)[self.places])

    def _check_metrics(self) -> None:
        for metric in self.metrics:
            metric.check(self.classifier)

    def _look(self) -> None:
        """The clean pass: labels, confidence, and which samples are shown in pictures."""
        judged: list[tuple[np.ndarray, ...]] = []
        given, unlikely = [], []
        for block in self.source.blocks(self.source.at_once):
            if not judged:
                for classifier in {id(one): one for one in (self.classifier, self.judge)}.values():
                    classifier.look_for_draws(block.x, self.batch_size)
                if self.probes and self.judge.is_keras and block.y is not None:
                    self.unit = look_for_unit(self.judge, block.x, block.y, self.batch_size)
            key = (self.seed, _CLEAN - block.index)
            judged.append(self.judge.judge(block.x, self.batch_size, key))
            if block.y is not None:
                given.append(block.y)
            if self.aims == "least_likely":
                self.judge.check_scores()
                scores = self.judge.predict(block.x, self.batch_size, key)
                wanted = judged[-1][0] if block.y is None else block.y
                unlikely.append(aims.least_likely(scores, wanted))
        labels, confidence, accepted = (np.concatenate(part) for part in zip(*judged, strict=True))
        check_finite_scores(confidence)
        self.labels, self.confidence, self.accepted = labels, confidence, accepted
        self.nb_classes = self.judge.nb_classes
        self.given = self.source.has_labels
        self.y = np.concatenate(given) if self.given else labels
        if self.judge.known_classes is None:  # labels tell of those that are never answered
            self.nb_classes = max(self.nb_classes, int(self.y.max()) + 1)
        check_labels(self.y, len(labels), self.nb_classes)
        self.correct = clean_correct(labels, accepted, self.y)
        self.targets = aims.choose(
            self.aims,
            self.y,
            self.nb_classes,
            self.seed,
            np.concatenate(unlikely) if unlikely else None,
        )

    def _keep_correct(self) -> None:
        """Leaves out the samples that the model gets wrong without attack."""
        right = self.correct
        if not self.given or not right.any():
            raise ValueError(
                "There must be labels, and samples that the model gets right. Received: "
                f"{int(right.sum())} of {len(right)} samples right, only_correct=True"
            )
        self.source.keep(right)
        for name in ("y", "labels", "confidence", "accepted", "targets", "places", "draws"):
            if getattr(self, name) is not None:
                setattr(self, name, getattr(self, name)[right])
        self.correct = right[right]

    def __getstate__(self) -> dict[str, Any]:
        """What a worker needs to compute a piece whose samples it is given."""
        own = ("_parts", "_examples", "_prologues", "_clean", "_asked")
        return {**self.__dict__, **{name: {} for name in own}}

    def pieces(self) -> Iterator[tuple[Unit, Block]]:
        """All units with their samples."""
        return ((unit, self.block(unit)) for unit in self.units())

    def run(
        self,
        pieces: Iterable[tuple[Unit, Block]] | None = None,
        watch: Watch = unwatched,
    ) -> None:
        """Computes pieces in a row, by default all, with a progress bar over their number.

        Args:
            pieces: Units with their samples.
            watch: See `compute`.
        """
        pieces = self.pieces() if pieces is None else pieces
        total = sum(1 for _ in self.units())
        with progress.bar(total, self.verbose) as bar:
            for unit, block in pieces:
                steps = self._steps(unit.group)
                name = ", ".join(step.name for step in steps) or "clean"
                with bar.batch(name, self._work(steps) * len(block.x)) as update:
                    self.compute(unit, update, block, watch)

    def _work(self, steps: list[Step]) -> int:
        """Steps per sample, at most."""
        runs = self.nb_classes - 1 if self.aims == "all" else 1
        return runs * sum(step.attack.max_steps() for step in steps) or 1

    def units(self) -> Iterator[Unit]:
        """All units: the clean samples where metrics measure them, then attack by attack."""
        clean = [_CLEAN_GROUP] if registry.measured_clean(self.metrics) else []
        for group in (*clean, *range(len(self.groups))):
            for index in range(self._batches(group)):
                yield Unit(group, index)

    def _batches(self, group: int) -> int:
        return -(-len(self.y) // self._size(group))

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
        watch: Watch = unwatched,
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
        standing = self.untouched(block.x, places) if self.plan.cascade else None
        chain: list[Any] = []
        # What attacks found, before the budget: one that stands here for several runs once.
        raw: dict[int, AttackResult] = {}
        for step in steps:
            attack = step.attack
            aimed = attack.targeted and self.aims != "all"
            wanted = self.targets if aimed else self.y
            batch = attack.batch(
                unit.index, places, len(self.source), {"x": block.x}, wanted[places]
            )
            batch = dataclasses.replace(batch, whole=min(self._size(unit.group), len(self.source)))
            prologue = self._prologue(step)
            result = raw.get(id(attack)) if standing is None else None
            if result is None:
                key = self._key(step, batch, prologue, chain) if self.store else ""
                result = self.store.load(step.name, key, batch) if self.store else None
                if result is None:
                    result = self._run(step, batch, prologue, standing, progress)
                    if self.store:
                        self.store.save(step.name, key, result)
                else:
                    progress(self._work([step]) * len(places))
                chain.append([key, dataclasses.astuple(step.criterion)])
                raw = {id(attack): result}
            else:  # read again, at no cost
                result = dataclasses.replace(
                    result, executed_queries=0, executed_gradients=0, seconds=0.0
                )
                progress(self._work([step]) * len(places))
            result = self._within(result, step, places)
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

    def _within(self, result: AttackResult, step: Step, places: np.ndarray) -> AttackResult:
        """What counts of it."""
        clean = self.labels[places], self.confidence[places], self.accepted[places]
        return summary.within(result, step.criterion, *clean)

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

    def untouched(self, x: np.ndarray | None, places: Any) -> AttackResult:
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
        step: Step,
        batch: Batch,
        prologue: Prologue,
        standing: AttackResult | None,
        progress: Callable[[int], Any],
    ) -> AttackResult:
        """An attack on a batch; in a cascade on what stands, added to what was broken before."""
        attack = step.attack
        if self.aims == "all":
            return self._towards_all(step, batch, prologue, progress)
        if standing is None:
            return run_batch(attack, batch, prologue, progress)
        rows = np.flatnonzero(~standing.success)
        progress(attack.max_steps() * (len(standing.success) - len(rows)))
        nothing = np.zeros(len(standing.success), np.int64)
        result = dataclasses.replace(
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
            return result
        return result.overlaid(run_batch(attack, batch.part(rows), prologue, progress), rows)

    def _towards_all(
        self,
        step: Step,
        batch: Batch,
        prologue: Prologue,
        progress: Callable[[int], Any],
    ) -> AttackResult:
        """An attack towards every wrong class, of which the worst outcome per sample counts.

        What is out of the budget is not kept: it would stand for a target that counts.
        """
        attack = step.attack

        def run(part: Batch) -> AttackResult:
            return self._within(run_batch(attack, part, prologue, progress), step, part.rows)

        return aims.worst(
            batch,
            self.y[batch.rows],
            self.nb_classes,
            run,
            attack.norm,
            whole=attack.kind == "minimal",
            skipped=lambda samples: progress(attack.max_steps() * samples),
        )

    def _prologue(self, step: Step) -> Prologue:
        if step.name not in self._prologues:
            self._prologues[step.name] = self._find_prologue(step)
        return self._prologues[step.name]

    def _find_prologue(self, step: Step) -> Prologue:
        if self.store is None:
            return find_prologue(step.attack, self.source)
        key = storage.digest({**self._describe(step.attack), "data": self.source.fingerprint})
        found = self.store.load_prologue(step.name, key)
        if found is None:
            found = find_prologue(step.attack, self.source)
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
        shared = {key: value for key, value in prologue.items() if key != PROLOGUE_SECONDS}
        parts = {
            **self._describe(step.attack),
            "data": storage.digest(data),
            "place": [batch.index, batch.total, batch.whole],
            "prologue": storage.digest(shared) if shared else None,
            "before": chain,
        }
        if self.aims == "all":
            parts["all targets"] = [self.nb_classes, dataclasses.astuple(step.criterion)]
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
        parts = [self._parts[name, index] for index in batches]
        return AttackResult.concatenate(parts).take(np.arange(len(self.y)))

    def finished(self) -> Evaluation | None:
        """What is finished, as an evaluation that may be concluded; None if nothing is.

        It is of the attacks that have begun, and of the samples that all of these have finished.
        Its report makes no further passes.
        """
        done = {}
        for number, steps in enumerate(self.groups):
            count = 0
            while all((step.name, count) in self._parts for step in steps):
                count += 1
            if count:
                done[number] = min(count * self._size(number), len(self.y))
        if not done:
            return None
        part = Evaluation.__new__(Evaluation)
        part.__dict__.update(self.__dict__)
        n = min(done.values())
        for name in ("y", "labels", "confidence", "accepted", "correct", "targets", "places"):
            setattr(part, name, getattr(self, name)[:n])
        part.shown = self.shown[self.shown < n]
        part.draws = None  # not all of them are whole
        missing = [
            step.name
            for number, steps in enumerate(self.groups)
            for step in steps
            if number not in done
        ]
        part.groups = [self.groups[number] for number in done]
        if self.plan.budgets:  # the figures are about the largest that an attack has begun with
            begun = {k: eps for k, eps in self.plan.budgets.items() if k not in missing}
            largest = dataclasses.replace(self.plan.criterion, eps=max(begun.values()))
            part.plan = dataclasses.replace(self.plan, budgets=begun, criterion=largest)
        part.partial = {"samples": n, "of": len(self.y), "missing": missing}
        return part

    def clean_columns(self) -> dict[str, np.ndarray]:
        """What metrics measured on the clean samples, `[n]` each; empty where none does."""
        if not self._clean:
            return {}
        batches = [self._clean[index] for index in range(self._batches(_CLEAN_GROUP))]
        n = len(self.y)
        return {key: np.concatenate([b[key] for b in batches])[:n] for key in batches[0]}

    def examples(self) -> drawing.Examples:
        """The samples that pictures show, in the order of `shown`."""
        shown: dict[str, AttackResult] = {}
        for step in itertools.chain.from_iterable(self.groups):
            parts = [part for (name, _), part in self._examples.items() if name == step.name]
            places = np.concatenate([place for _, place in parts])
            together = AttackResult.concatenate([result for result, _ in parts])
            order = np.argsort(places)[np.searchsorted(np.sort(places), self.shown)]
            shown[step.name] = together.take(order)
        x = self.source.take(self.shown)
        return drawing.Examples(x, self.y[self.shown], self.labels[self.shown], shown)

    def certificate(self) -> dict[str, np.ndarray] | None:
        """Labels and radii that the model proves, where it does; read where they are stored.

        A radius in the unit behind a normalisation is none of the samples'.
        """
        judge, parts = self.judge, []
        if self.partial is not None:
            return None
        if not hasattr(judge.model, "certify") or judge.preprocessing is not None:
            return None
        blocks = self.source.blocks(self.batch_size)
        quiet = None if self.verbose else True  # None: shown on a terminal
        for block in tqdm.tqdm(blocks, "certify", unit="batch", disable=quiet):
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

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some samples by their places; those that were asked for before are at hand."""
        new = [row for row in rows.tolist() if row not in self._asked]
        if new:
            self._asked.update(zip(new, self.source.take(np.array(new)), strict=True))
        return np.stack([self._asked[row] for row in rows.tolist()])

    def repeat(
        self, description: dict[str, Any], rows: np.ndarray, criterion: Criterion | None = None
    ) -> AttackResult | None:
        """An attack with other parameters on some samples; None for one that has no name.

        Args:
            description: Its `name` and `config`.
            rows: Places of the samples.
            criterion: The budget outside of which success does not count; by default that of the
                evaluation.
        """
        name, config = description["name"], dict(description["config"])
        if self.partial is not None or name not in ATTACKS.names():
            return None
        for key in ("eps", "eps_step"):  # one per sample, maybe
            if isinstance(config.get(key), list):
                config[key] = np.asarray(config[key])[rows]
        attack = ATTACKS.get({"name": name, "config": config}).bind(self.classifier)
        wanted = (self.targets if attack.targeted else self.y)[rows]
        x, key = self.take(rows), ""
        result = None
        if self.store:
            data = storage.digest({"x": x, "y": wanted})
            key = storage.digest({**self._describe(attack), "data": data, **self._answers(rows)})
            batch = Batch(0, rows, len(rows), {"x": x}, wanted, len(rows))
            result = self.store.load(f"{name}-again", key, batch)
        if result is None:
            result = attack.run(x, wanted)
            if self.store:
                self.store.save(f"{name}-again", key, result)
        clean = self.labels[rows], self.confidence[rows], self.accepted[rows]
        return summary.within(result, criterion or self.plan.criterion, *clean)


def _repeats(
    x: Any, y: Any, repeats: int, samples: int | None, seed: int
) -> tuple[dict[str, int] | None, np.ndarray | None]:
    """How many draws of how many samples out of how many, and their places."""
    check_int("repeats", repeats, 1)
    if repeats == 1:
        if samples is not None:
            raise ValueError(
                f"`samples` is the size of a draw: give `repeats`. Received: {samples=}"
            )
        return None, None
    samples = _DRAW if samples is None else samples
    places = draws.draw(x, y, repeats, samples, seed)
    return {"draws": repeats, "samples": samples, "of": len(x)}, np.concatenate(places)
