"""`kerasrobust.evaluate`: how hard a model is to fool, in numbers."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import functools
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
from kerasrobust.checks import check_batch_size, check_bool, check_int, check_labels
from kerasrobust.datasets import Dataset
from kerasrobust.engine import store as storage
from kerasrobust.engine.batches import Batch, Prologue, run_batch
from kerasrobust.engine.classifier import Classifier, ModelFailure
from kerasrobust.engine.criterion import Criterion, clean_correct, survived
from kerasrobust.engine.pixel_range import pixel_range
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
from kerasrobust.evaluation.adversaries import FOLDER, Adversaries
from kerasrobust.evaluation.diagnosis import (
    Finding,
    Subject,
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
    probe,
)
from kerasrobust.evaluation.report import Report, Samples
from kerasrobust.evaluation.resolve import references, resolve, unique
from kerasrobust.evaluation.surfaces import Surface
from kerasrobust.evaluation.workers import check_ray, shared_out
from kerasrobust.metrics import Metric, Outcome, Points, registry

_VERSIONS = ("tensorflow", "keras", "numpy")
_ART = "adversarial-robustness-toolbox"
# AREB's size of a draw.
_DRAW = 100
Watch = Callable[[str, np.ndarray, AttackResult], Any]


def _unwatched(name: str, rows: np.ndarray, result: AttackResult) -> None:
    """Looks at no batch."""


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
    save_adversaries: bool = False,
    output: str | os.PathLike[str] | None = None,
    workers: int = 1,
    ray_address: str | None = None,
    probes: bool = True,
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

    `robust_accuracy` is the worst case per sample: right without attack, and changed by no attack;
    with several budgets, by no attack at any of them, which is that at the largest.

    Ctrl-C ends the run with an `EvaluationInterrupted`, which holds a report of what is finished.

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
        pictures: Further pictures of the report, of samples that are right without attack:
            `"decision_space"`, `"loss_surface"`, `"loss_against_eps"` (some 4,000 passes each;
            `evaluation.illustrations`) and `"security_curves"`.
        dataset: Name of the data set; `"mnist"` and `"cifar10"` choose the paper's parameters.
        class_names: A name for each class, for the tables and pictures.
        eps: Budget. It replaces the budget of every attack that was not given one of its own, and
            adversarial samples beyond it do not count for *any* attack. Of several budgets, rising,
            each attack has a row for each (`pgd@0.1`), by one compiled program; what is left in the
            worst case at each stands in `report.robust["budgets"]`.
        norm: Norm of that budget, 1, 2 or inf (the default).
        targets: Make every attack aim at a wrong class: `"random"`, drawn with `seed`; `"next"`,
            the one after the true class; `"least_likely"`, by the model's scores; or `"all"`, every
            wrong class in turn, of which the worst per sample counts: the sample is attacked until
            a target is reached, by minimal-norm attacks towards all, for the shortest way. Without
            it an attack that is `targeted` itself gets a random one.
        max_queries: Most queries per sample, and target, of every attack that counts them, see
            `QueryAttack`; a lower limit of an attack's own stays.
        only_correct: Attack and count only the samples that the model gets right without attack.
        repeats: Measure so many draws of `samples` samples (AREB: 10 of 100) from the arrays `x`
            and `y`, in one run. The figures are those of all draws together, which is their mean,
            and beside each accuracy stands the standard deviation of one draw.
        samples: Size of a draw, 100 by default.
        clip_values: Smallest and largest pixel value; by default the model's own, else `(0, 1)`.
        batch_size: Samples per batch. Default: 128, or as many as hold 2^22 numbers (27 images of
            224x224x3).
        seed: Seed of all randomness.
        cross_check: Run every attack that ART has through ART as well, on the same samples, and
            show both.
        keep_adversaries: Keep all adversarial samples (`report.samples`), which takes as much
            memory as the samples per attack. Without it figures per sample are kept, and a few
            samples for the pictures.
        save_adversaries: Write them to `output`, a file for each attack in `adversarial/`, batch by
            batch; see `kerasrobust.evaluation.adversaries.Adversaries`.
        output: Folder for the report, a path or a URL that `fsspec` opens. Each batch's result is
            stored there as soon as it is finished; the same call on the same folder goes on after
            the last finished one.
        workers: Processes that the batches are shared out to, by Ray (`kerasrobust[ray]`): the same
            report, within rounding where they have another number of threads.
        ray_address: Of a running Ray cluster; `output` must be where all its hosts reach it.
            By default workers are started on this machine.
        probes: Spend passes on whether the attacks can be trusted, on a few samples: whether they
            succeed where everything is allowed, beat noise, gain by more steps and find an
            adversarial example that was planted (`diagnosis.probes`). What that cost is in
            `report.settings["probes"]`.
        model_file: The file that the model was read from, for the report.
        command: The command line that repeats the evaluation, for the report; by default this call.
        verbose: Show a progress bar over the batches of all attacks, on a terminal.

    Returns:
        A `Report`.

    Raises:
        EvaluationInterrupted: On Ctrl-C.
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
    if check_bool("save_adversaries", save_adversaries) and output is None:
        raise ValueError(
            "Adversarial samples are written to `output`. Received: save_adversaries=True, "
            "output=None"
        )
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
            pictures=pictures,
            dataset=dataset,
            class_names=class_names,
            eps=eps,
            norm=norm,
            targets=targets,
            max_queries=max_queries,
            only_correct=only_correct,
            repeats=repeats,
            samples=samples,
            clip_values=clip_values,
            batch_size=batch_size,
            seed=seed,
            cross_check=cross_check,
            keep_adversaries=keep_adversaries,
            output=folder,
            probes=probes,
            model_file=model_file,
            command=command or call,
            verbose=verbose,
        )
        watch: Watch = _unwatched
        adversaries = None
        if save_adversaries:
            adversaries = stack.enter_context(Adversaries(evaluation.y, evaluation.places))
            watch = adversaries.watch
        pieces = evaluation.pieces()
        report: Report | None
        interrupt = None
        try:
            if shared:
                pieces = stack.enter_context(shared_out(evaluation, workers, ray_address))
            evaluation.run(pieces, watch)
            report = evaluation.report()
        except KeyboardInterrupt as error:
            interrupt = error
            finished = evaluation.finished()
            report = None if finished is None else finished.report()
        if output is not None and report is not None:
            storage.put(output, report.save)
            if adversaries is not None:
                storage.put(f"{os.fspath(output)}/{FOLDER}", adversaries.save)
    if interrupt is not None:
        raise EvaluationInterrupted(report) from interrupt
    assert report is not None
    return report


class EvaluationInterrupted(KeyboardInterrupt):
    """Ctrl-C in the middle of an evaluation.

    Attributes:
        report: Of the batches that were finished, `settings["partial"]` says of what; None where
            there was none. It lies in `output` as well, where there is one, and the same call on
            the same folder goes on.
    """

    def __init__(self, report: Report | None):
        super().__init__("The evaluation was interrupted.")
        self.report = report


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
        watch: Watch = _unwatched,
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
        watch: Watch = _unwatched,
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
        """What is finished, as an evaluation whose report may be asked for; None if nothing is.

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
        # What was found within a budget counts within each larger one.
        left = {eps: self.correct.copy() for eps in sorted(set(plan.budgets.values()))}
        for step in itertools.chain.from_iterable(self.groups):
            results[step.name] = result = self.result(step.name)
            stands = survived(result.labels, result.accepted, y, self.correct)
            robust &= stands
            for eps, unbroken in left.items():
                if step.criterion.eps is not None and step.criterion.eps <= eps:
                    unbroken &= stands
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
                draws=self.draws,
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
        for names in self._comparable():
            findings += diagnose(
                {name: rows[name] for name in names},
                {name: results[name] for name in names},
                self._repeat,
                plan.cascade,
                randomised,
                available=self.settings["available"],
            )
        findings += self.missing
        subject = None
        if self.probes and self.partial is None:
            subject = self._subject(randomised)
            # Of several budgets the largest, which the verdict is about.
            largest = {
                step.name: rows[step.name]
                for step in itertools.chain.from_iterable(self.groups)
                if step.criterion == plan.criterion
            }
            findings += probe(subject, largest, results)
        if plan.preset is not None and plan.preset.note:
            findings.append(Finding("few_classes", plan.preset.note, self.nb_classes, 4))
        if not self.given:
            findings.append(
                Finding(
                    "no_labels",
                    "No labels were given: the model's own predictions stand in for them, so the "
                    "clean accuracy is 100 % by definition and says nothing about the model.",
                )
            )
        findings += self._chosen()
        untouched = self._untouched(None, slice(None))
        if self._clean:
            batches = [self._clean[index] for index in range(self._batches(_CLEAN_GROUP))]
            columns = {
                key: np.concatenate([b[key] for b in batches])[: len(y)] for key in batches[0]
            }
            untouched = dataclasses.replace(untouched, columns=columns)
        clean = Outcome(
            untouched,
            y,
            self.correct,
            self.nb_classes,
            high - low,
            row="clean",
            radii=radii,
            draws=self.draws,
        )
        budgets = [row.config.get("eps") for row in rows.values() if row.norm == 2]
        worst = dataclasses.replace(
            clean,
            row="worst",
            unbroken=robust,
            left=left,
            norm=plan.criterion.norm,
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
            # Of several budgets some are found twice.
            findings=by_weight(dict.fromkeys(findings)),
            settings={
                "dataset": self.settings["dataset"],
                "split": self.settings["split"],
                "indices": self._spans(),
                "available": self.settings["available"],
                "file": self.settings["file"],
                "model": str(getattr(classifier.model, "name", type(classifier.model).__name__)),
                "parameters": None if network is None else network.count_params(),
                "weights": None if network is None else storage.weights(network),
                "samples": len(y),
                "data": self._data(),
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
                "budgets": list(left) or None,
                "targets": self.settings["targets"],
                "max_queries": self.settings["max_queries"],
                "only_correct": self._only_correct(),
                "repeats": self.repeats,
                "partial": self.partial,
                "preset": preset and preset.name,
                "preset_variant": preset and preset.variant,
                "cascade": plan.cascade,
                "unpublished_parameters": preset and preset.unpublished,
                "cross_check": self.settings["cross_check"],
                "probes": subject and subject.to_dict(),
                "pictures": list(self.pictures),
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
            examples=self._shown_examples() if len(self.shown) else None,
            surfaces=self._surfaces(),
            samples=Samples(
                self.source.whole()[0][: len(y)] if self.keep else None,
                y,
                self.labels,
                robust,
                results,
                certificate,
            ),
        )

    def _comparable(self) -> list[list[str]]:
        """Names of the attacks that may be held against each other: those of one budget."""
        apart: dict[float | None, list[str]] = {}
        for step in itertools.chain.from_iterable(self.groups):
            apart.setdefault(step.criterion.eps, []).append(step.name)
        return list(apart.values())

    def _data(self) -> str:
        """Hash of the samples that the report is about."""
        found = self.source.fingerprint
        return found if len(self.y) == len(self.source) else storage.digest([found, len(self.y)])

    def _only_correct(self) -> dict[str, Any] | None:
        """Of how many samples those are that are right, and the accuracy there."""
        if not self.only_correct:
            return None
        return {"of": self.given_samples, "accuracy": self.given_accuracy}

    def _chosen(self) -> list[Finding]:
        """What a reader must know of the choice of samples."""
        found = []
        if self.partial is not None:
            n, of, missing = (self.partial[key] for key in ("samples", "of", "missing"))
            without = f", without {', '.join(missing)}" if missing else ""
            found.append(
                Finding(
                    "partial",
                    f"The run was interrupted: the figures are those of the first {n:,} of {of:,} "
                    f"samples{without}, and nothing was repeated to look for reasons to distrust "
                    "them. The same call on the same output folder goes on.",
                )
            )
        if self.only_correct:
            found.append(
                Finding(
                    "only_correct",
                    f"Only the samples that the model gets right without attack are counted: the "
                    f"clean accuracy is 100 % by construction. On all {self.given_samples:,} it is "
                    f"{100 * self.given_accuracy:.1f} %.",
                )
            )
        if self.repeats is not None:
            found.append(
                Finding(
                    "repeated_draws",
                    f"The samples are {self.repeats['draws']} draws of {self.repeats['samples']:,} "
                    f"from {self.repeats['of']:,}, and some are in several: the intervals take "
                    "them for others each time and are too narrow where the draws are a large "
                    "part of the data. The deviation is that of one draw.",
                )
            )
        return found

    def _spans(self) -> str | None:
        """Which samples of their split these are; None where it is not known."""
        if self.indices is None:
            return None
        return provenance.spans(np.asarray(self.indices)[self.places])

    def _certificate(self) -> dict[str, np.ndarray] | None:
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

    def _subject(self, randomised: bool) -> Subject:
        """What is probed once all attacks have run."""
        return Subject(
            self.classifier,
            self._take,
            self.y,
            repeat=self._repeat,
            anywhere=functools.partial(self._repeat, criterion=Criterion()),
            batch_size=self.batch_size,
            seed=self.seed,
            randomised=randomised,
            in_a_row=self.plan.cascade,
        )

    def _take(self, rows: np.ndarray) -> np.ndarray:
        """Some samples by their places; those that were asked for before are at hand."""
        new = [row for row in rows.tolist() if row not in self._asked]
        if new:
            self._asked.update(zip(new, self.source.take(np.array(new)), strict=True))
        return np.stack([self._asked[row] for row in rows.tolist()])

    def _repeat(
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
        x, key = self._take(rows), ""
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

    def _surfaces(self) -> dict[str, Surface]:
        """What the pictures on request show beside the figures."""
        if self.partial is not None or not set(self.pictures) & set(illustrations.SIZES):
            return {}
        most = max(samples for samples, _ in illustrations.SIZES.values())
        right = np.flatnonzero(self.correct)[:most]
        rows = right if len(right) else np.arange(min(most, len(self.y)))
        eps, norm = illustrations.budget(self.plan, self.classifier)
        of = self.classifier, self.source.take(rows), self.y[rows]
        return illustrations.compute(self.pictures, *of, eps, norm, self.batch_size, self.seed)

    def _shown_examples(self) -> drawing.Examples:
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


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
