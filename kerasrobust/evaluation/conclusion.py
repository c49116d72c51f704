"""What an evaluation comes to: its report, with figures, findings and settings."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import itertools
import time
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kerasrobust._version import __version__
from kerasrobust.engine import store as storage
from kerasrobust.engine.criterion import Criterion, survived
from kerasrobust.engine.pixel_range import pixel_range
from kerasrobust.engine.result import AttackResult
from kerasrobust.evaluation import illustrations, provenance, summary
from kerasrobust.evaluation.diagnosis import (
    Finding,
    Subject,
    by_weight,
    check_attack_labels,
    check_batches,
    check_certificate,
    check_confidence,
    check_detector,
    check_detector_seen,
    check_draws,
    check_gradients,
    check_lengths,
    check_pixels,
    check_predictions,
    check_scores,
    check_starts,
    diagnose,
    probe,
)
from kerasrobust.evaluation.pieces import Evaluation, Step
from kerasrobust.evaluation.report import Report, Samples
from kerasrobust.evaluation.surfaces import Surface
from kerasrobust.metrics import Outcome

_VERSIONS = ("tensorflow", "keras", "numpy")
_ART = "adversarial-robustness-toolbox"


def conclude(evaluation: Evaluation) -> Report:
    """The report.

    Args:
        evaluation: All of whose pieces are computed.
    """
    certificate = evaluation.certificate()
    results = {step.name: evaluation.result(step.name) for step in _steps(evaluation)}
    radii = None
    if certificate is not None:
        radii = np.where(certificate["labels"] == evaluation.y, certificate["radii"], -1.0)
    rows = _rows(evaluation, results, radii)
    clean, worst = _outcomes(evaluation, results, rows, radii)
    assert worst.unbroken is not None
    subject = None
    if evaluation.probes and evaluation.partial is None:
        subject = _subject(evaluation)
    # Of several budgets some are found twice.
    found = dict.fromkeys(_findings(evaluation, results, rows, certificate, subject))
    kept = evaluation.source.whole()[0][: len(evaluation.y)] if evaluation.keep else None
    checked = any(step.checks for step in _steps(evaluation))
    return Report(
        clean=summary.figures(clean, evaluation.metrics),
        robust=summary.figures(worst, evaluation.metrics),
        attacks=rows,
        findings=by_weight(found),
        # What was probed is told by the subject once the findings are there.
        settings={**_settings(evaluation), "probes": subject and subject.to_dict()},
        versions={
            "kerasrobust": __version__,
            **{package: _version(package) for package in _VERSIONS},
            **({_ART: _version(_ART)} if checked else {}),
        },
        run={
            "started": evaluation.started[0].isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - evaluation.started[1], 3),
            "command": evaluation.command,
            "machine": provenance.machine(),
        },
        metrics=evaluation.metrics,
        examples=evaluation.examples() if len(evaluation.shown) else None,
        surfaces=_surfaces(evaluation),
        samples=Samples(
            kept, evaluation.y, evaluation.labels, worst.unbroken, results, certificate
        ),
    )


def _steps(evaluation: Evaluation) -> Iterator[Step]:
    return itertools.chain.from_iterable(evaluation.groups)


def _randomised(evaluation: Evaluation) -> bool:
    return bool(evaluation.classifier.randomised or evaluation.judge.randomised)


def _rows(
    evaluation: Evaluation, results: dict[str, AttackResult], radii: np.ndarray | None
) -> dict[str, summary.AttackSummary]:
    """The row of each attack."""
    low, high = evaluation.classifier.clip_values
    return {
        step.name: summary.summarise(
            step.name,
            step.attack,
            results[step.name],
            evaluation.y,
            evaluation.correct,
            evaluation.nb_classes,
            high - low,
            knowledge="white" if step.attack.access == "gradient" else "black",
            checks=step.checks,
            metrics=evaluation.metrics,
            radii=radii,
            draws=evaluation.draws,
            alone=not evaluation.plan.cascade,
        )
        for step in _steps(evaluation)
    }


def _outcomes(
    evaluation: Evaluation,
    results: dict[str, AttackResult],
    rows: dict[str, summary.AttackSummary],
    radii: np.ndarray | None,
) -> tuple[Outcome, Outcome]:
    """Of the samples as they are, and after all attacks together."""
    y, plan = evaluation.y, evaluation.plan
    low, high = evaluation.classifier.clip_values
    # Where the model was first seen to be wrong: an answer that it withholds is not.
    fell = np.where((evaluation.labels != y) & evaluation.accepted, 0.0, np.inf)
    nearest: dict[float, tuple[list[str], np.ndarray]] = {}
    robust = evaluation.correct.copy()
    # What was found within a budget counts within each larger one.
    left = {eps: evaluation.correct.copy() for eps in evaluation.budgets}
    for step in _steps(evaluation):
        result = results[step.name]
        stands = survived(result.labels, result.accepted, y, evaluation.correct)
        robust &= stands
        for eps, unbroken in left.items():
            if step.criterion.eps is not None and step.criterion.eps <= eps:
                unbroken &= stands
        fooled = result.success & (result.labels != y)
        fell = np.minimum(fell, np.where(fooled, result.l2, np.inf))
        # Of several budgets the largest, within which the others' points lie.
        whole = step.criterion == plan.criterion and not plan.cascade
        if whole and step.attack.kind == "minimal" and not result.targeted:
            start = np.where(evaluation.correct, np.inf, 0.0)
            names, least = nearest.get(step.attack.norm, ([], start))
            least = np.minimum(least, result.distance(step.attack.norm))
            nearest[step.attack.norm] = [*names, step.name], least
    untouched = evaluation.untouched(None, slice(None))
    clean = Outcome(
        dataclasses.replace(untouched, columns=evaluation.clean_columns()),
        y,
        evaluation.correct,
        evaluation.nb_classes,
        high - low,
        row="clean",
        radii=radii,
        draws=evaluation.draws,
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
    return clean, worst


def _findings(
    evaluation: Evaluation,
    results: dict[str, AttackResult],
    rows: dict[str, summary.AttackSummary],
    certificate: dict[str, np.ndarray] | None,
    subject: Subject | None,
) -> list[Finding]:
    """Reasons to distrust the figures, and what must be known to read them."""
    classifier, judge, plan = evaluation.classifier, evaluation.judge, evaluation.plan
    y, randomised = evaluation.y, _randomised(evaluation)
    given = y if evaluation.given else None
    found = check_predictions(evaluation.labels, given, evaluation.nb_classes)
    found += check_detector(evaluation.accepted)
    climbed = any(step.attack.access in ("gradient", "scores") for step in _steps(evaluation))
    found += check_confidence(evaluation.confidence, classifier.hides_logits, climbed)
    if randomised:
        found += check_draws(
            results,
            draws=classifier.draws if classifier.has_gradient else judge.votes,
            votes=judge.votes,
            repeatable=classifier.repeatable and judge.repeatable,
            averaged=plan.preset is not None and plan.preset.name == "autoattack-rand",
            criterion=plan.criterion,
            nb_classes=evaluation.nb_classes,
        )
    if certificate is not None:
        found += check_certificate(certificate["labels"], certificate["radii"], y, results)
    found += check_batches(classifier.mixes_samples or judge.mixes_samples, evaluation.batch_size)
    offered = classifier.gradients_offered if classifier.gradient_mode == "exact" else []
    found += check_gradients(rows, results, offered)
    if classifier.unseen_detector and judge is classifier:
        found += check_detector_seen(rows, results)
    found += check_scores(results)
    found += evaluation.unit
    found += check_pixels(pixel_range(classifier.model), classifier.clip_values)
    found += check_lengths(rows, classifier.clip_values)
    found += check_attack_labels(rows, results, evaluation.repeat)
    if not plan.cascade:
        found += check_starts(rows, results)
    for names in _comparable(evaluation):
        found += diagnose(
            {name: rows[name] for name in names},
            {name: results[name] for name in names},
            evaluation.repeat,
            plan.cascade,
            randomised,
            available=evaluation.settings["available"],
        )
    found += evaluation.missing
    if subject is not None:
        # Of several budgets the largest, which the verdict is about.
        names = [s.name for s in _steps(evaluation) if s.criterion == plan.criterion]
        found += probe(subject, {name: rows[name] for name in names}, results)
    return found + _chosen(evaluation)


def _comparable(evaluation: Evaluation) -> list[list[str]]:
    """Names of the attacks that may be held against each other: those of one budget."""
    apart: dict[float | None, list[str]] = {}
    for step in itertools.chain.from_iterable(evaluation.groups):
        apart.setdefault(step.criterion.eps, []).append(step.name)
    return list(apart.values())


def _chosen(evaluation: Evaluation) -> list[Finding]:
    """What a reader must know of the samples, their labels and the preset."""
    found = []
    note = evaluation.plan.preset.note if evaluation.plan.preset is not None else None
    if note:
        found.append(Finding("few_classes", note, evaluation.nb_classes, 4))
    if not evaluation.given:
        found.append(
            Finding(
                "no_labels",
                "No labels were given: the model's own predictions stand in for them, so the "
                "clean accuracy is 100 % by definition and says nothing about the model.",
            )
        )
    if evaluation.partial is not None:
        n, of, missing = (evaluation.partial[key] for key in ("samples", "of", "missing"))
        without = f", without {', '.join(missing)}" if missing else ""
        found.append(
            Finding(
                "partial",
                f"The run was interrupted: the figures are those of the first {n:,} of {of:,} "
                f"samples{without}, and nothing was repeated to look for reasons to distrust "
                "them. The same call on the same output folder goes on.",
            )
        )
    if evaluation.only_correct:
        found.append(
            Finding(
                "only_correct",
                "Only the samples that the model gets right without attack are counted: the "
                "clean accuracy is 100 % by construction. On all "
                f"{evaluation.given_samples:,} it is {100 * evaluation.given_accuracy:.1f} %.",
            )
        )
    repeats = evaluation.repeats
    if repeats is not None:
        found.append(
            Finding(
                "repeated_draws",
                f"The samples are {repeats['draws']} draws of {repeats['samples']:,} "
                f"from {repeats['of']:,}, and some are in several: the intervals take "
                "them for others each time and are too narrow where the draws are a large "
                "part of the data. The deviation is that of one draw.",
            )
        )
    return found


def _settings(evaluation: Evaluation) -> dict[str, Any]:
    """What the figures are of."""
    classifier, plan, source = evaluation.classifier, evaluation.plan, evaluation.source
    preset, criterion, n = plan.preset, plan.criterion, len(evaluation.y)
    network = classifier.model if isinstance(classifier.model, keras.Model) else None
    expected, data = pixel_range(classifier.model), source.fingerprint
    chosen = None
    if evaluation.only_correct:
        chosen = {"of": evaluation.given_samples, "accuracy": evaluation.given_accuracy}
    return {
        **evaluation.settings,
        "indices": evaluation.spans,
        "model": str(getattr(classifier.model, "name", type(classifier.model).__name__)),
        "parameters": None if network is None else network.count_params(),
        "weights": None if network is None else storage.weights(network),
        "samples": n,
        "data": data if n == len(source) else storage.digest([data, n]),
        "shape": list(source.sample_shape),
        "classes": evaluation.nb_classes,
        "class_names": evaluation.class_names,
        "labels": "given" if evaluation.given else "predicted",
        "classifier": classifier.settings(),
        "randomised": _randomised(evaluation),
        "clip_values": list(classifier.clip_values),
        "pixel_range": expected and dataclasses.asdict(expected),
        "batch_size": evaluation.batch_size,
        "seed": evaluation.seed,
        "eps": criterion.eps,
        "norm": None if criterion.eps is None else criterion.norm,
        "budgets": evaluation.budgets or None,
        "only_correct": chosen,
        "repeats": evaluation.repeats,
        "partial": evaluation.partial,
        "preset": preset and preset.name,
        "preset_variant": preset and preset.variant,
        "cascade": plan.cascade,
        "unpublished_parameters": preset and preset.unpublished,
        "pictures": list(evaluation.pictures),
    }


def _subject(evaluation: Evaluation) -> Subject:
    """What is probed once all attacks have run."""
    return Subject(
        evaluation.classifier,
        evaluation.take,
        evaluation.y,
        repeat=evaluation.repeat,
        anywhere=functools.partial(evaluation.repeat, criterion=Criterion()),
        batch_size=evaluation.batch_size,
        seed=evaluation.seed,
        randomised=_randomised(evaluation),
        in_a_row=evaluation.plan.cascade,
    )


def _surfaces(evaluation: Evaluation) -> dict[str, Surface]:
    """What the pictures on request show beside the figures."""
    if evaluation.partial is not None or not set(evaluation.pictures) & set(illustrations.SIZES):
        return {}
    most = max(samples for samples, _ in illustrations.SIZES.values())
    right = np.flatnonzero(evaluation.correct)[:most]
    rows = right if len(right) else np.arange(min(most, len(evaluation.y)))
    eps, norm = illustrations.budget(evaluation.plan, evaluation.classifier)
    of = evaluation.classifier, evaluation.source.take(rows), evaluation.y[rows]
    return illustrations.compute(
        evaluation.pictures, *of, eps, norm, evaluation.batch_size, evaluation.seed
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
