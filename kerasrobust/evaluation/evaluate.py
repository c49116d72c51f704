"""`kerasrobust.evaluate`: how hard a model is to fool, in numbers."""

from __future__ import annotations

import importlib.metadata
import math
import os
import pathlib
import tempfile
from typing import Any

import numpy as np
import tensorflow as tf

from kerasrobust import attacks as registry
from kerasrobust import metrics
from kerasrobust._version import __version__
from kerasrobust.attacks import AttackResult
from kerasrobust.attacks.base import Attack
from kerasrobust.checks import check_labels, check_samples, unpack
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.store import ResultStore, data_fingerprint
from kerasrobust.evaluation import cascade, presets, summary
from kerasrobust.evaluation.diagnosis import Finding, diagnose
from kerasrobust.evaluation.report import Report, Samples
from kerasrobust.norms import check_norm
from kerasrobust.specs import parse_spec

_VERSIONS = ("tensorflow", "keras", "numpy")
_REFERENCE = "art:"


def evaluate(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    attacks: Any = "areb",
    dataset: str | None = None,
    eps: float | None = None,
    norm: float | str | None = None,
    clip_values: tuple[float, float] | None = None,
    batch_size: int = 128,
    seed: int = 0,
    cross_check: bool = False,
    output: str | os.PathLike[str] | None = None,
    verbose: bool = False,
) -> Report:
    """Attacks a classifier and reports what is left of its accuracy.

    All attacks get the same samples and start from the true labels. One run serves two questions:

    - *accuracy* is measured against the true label, over all samples;
    - *success* is measured against the model's own label (AREB, section 2.3.1), over the
      samples the model gets right, where own and true label are the same. A sample that is wrong
      already leaves an untargeted attack nothing to do: it counts as wrong in the accuracy, as
      zero in the median distances, and not at all in the success rate.

    AutoAttack runs its attacks in a row, each on what the ones before it left: its rows hold the
    accuracy and the distances after each step, and the passes and seconds of that step.

    `robust_accuracy` is the worst case per sample: right without attack, and changed by no attack.
    A targeted attack is given, for every sample, a class other than the true one, drawn with
    `seed`.

    Args:
        model: A `keras.Model`, a `Classifier`, an ART estimator, or a callable that returns
            scores (black-box attacks only).
        x: Samples, shape `(n, ...)`, inside the bounds; or a finite `tf.data.Dataset` of
            `(x, y)`.
        y: True labels, integers of shape `(n,)` or one-hot of shape `(n, classes)`. Without them
            the model's own predictions stand in, and the report says so.
        attacks: The name of a preset (`presets.names()`), an attack specification such as
            `"fgsm:eps=0.1"`, an attack, or a list of these. An attack instance keeps its own
            batch size and seed.
        dataset: Name of the data set; `"mnist"` and `"cifar10"` choose the paper's parameters.
        eps: Budget. It replaces the budget of every attack that was not given one of its own, and
            adversarial samples beyond it do not count for *any* attack.
        norm: Norm of that budget, 1, 2 or inf (the default).
        clip_values: Smallest and largest pixel value; by default the model's own, else `(0, 1)`.
        batch_size: Samples per batch.
        seed: Seed of all randomness.
        cross_check: Run every attack that ART has through ART as well, on the same samples, and
            show both.
        output: Folder for the report. Each attack's result is stored there as soon as it is
            finished; the same call on the same folder resumes after the last finished one.
        verbose: Show a progress bar for each attack.

    Returns:
        A `Report`.

    Raises:
        ValueError: If a sample, a label, a bound or a hyperparameter is out of range, or an attack
            or preset is unknown; before any attack is run.
        TypeError: If an argument is of the wrong kind, or an attack needs gradients that the model
            does not have; before any attack is run.
        OSError: If `output` cannot be written; before any attack is run.

    Example:

    >>> report = kerasrobust.evaluate(model, x, y, attacks=["fgsm:eps=0.1", "pgd"])
    >>> report.clean_accuracy, report.robust_accuracy, report.attacks["pgd"].median_linf
    >>> report.save("report/")
    """
    if isinstance(model, Classifier) and clip_values not in (None, model.clip_values):
        raise ValueError(
            "The bounds are the Classifier's own where one is given. "
            f"Received: clip_values={clip_values!r} beside {model.clip_values}"
        )
    classifier = Classifier.of(model, clip_values)
    low, high = classifier.clip_values
    x, y = _arrays(x, y, classifier, batch_size)
    x = check_samples(x, classifier)
    if y is not None:  # how many classes a callable has is known after its first call
        y = check_labels(y, len(x), classifier.nb_classes if classifier.is_keras else None)
    channels = x.shape[-1] if x.ndim == 4 else 1
    plan, preset, budget = _plan(
        attacks,
        dataset,
        channels,
        high - low,
        classifier.known_classes,
        eps,
        norm,
        batch_size,
        seed,
        verbose,
    )
    in_a_row = preset is not None and preset.cascade
    plan = {name: attack.bind(classifier) for name, attack in plan.items()}
    checks, missing = _references(plan, classifier) if cross_check else ({}, [])
    if output is not None:
        _check_writable(output)

    labels, confidence = classifier.judge(x, batch_size)
    if not np.all(np.isfinite(confidence)):
        raise ValueError("The model's scores of the clean samples are not all finite.")
    nb_classes = classifier.nb_classes
    given = y is not None
    y = check_labels(y, len(x), nb_classes) if given else labels
    correct = labels == y
    store = None
    if output is not None:
        folder = pathlib.Path(output) / "results"
        store = ResultStore(folder, data_fingerprint(classifier, x, y, confidence))

    targets = (y + np.random.default_rng(seed).integers(1, nb_classes, len(y))) % nb_classes
    results: dict[str, AttackResult] = {}
    rows: dict[str, summary.AttackSummary] = {}
    robust = correct.copy()
    so_far = cascade.nothing_yet(x, y, labels, confidence)
    for name, attack, checked in _order(plan, checks):
        result = store.load(attack, x) if store else None
        if result is None:
            if in_a_row and checked is None:
                result = cascade.next_step(so_far, attack)
            else:
                result = attack.run(x, targets if attack.targeted else y)
            if store:
                store.save(attack, result)
        if budget is not None:
            result = summary.within(result, *budget, labels, confidence)
        so_far = so_far if checked else result
        robust &= summary.survived(result, y, correct)
        results[name] = result
        rows[name] = summary.summarise(
            name,
            attack,
            result,
            y,
            correct,
            nb_classes,
            high - low,
            knowledge="white" if attack.access == "gradient" else "black",
            checks=checked,
        )

    # Of attacks in a row the last white-box one holds what all before it broke.
    white = [name for name, row in rows.items() if row.knowledge == "white"]
    past = set(white[:-1]) if in_a_row else set()
    compared = {name: row for name, row in rows.items() if name not in past}
    findings = diagnose(compared, results) + missing
    if not given:
        findings.append(
            Finding(
                "no_labels",
                "No labels were given: the model's own predictions stand in for them, so the clean "
                "accuracy is 100 % by definition and says nothing about the model.",
            )
        )
    clean = metrics.accuracy(labels, y)
    worst = metrics.proportion(robust)
    assert clean is not None and worst is not None  # there is at least one sample
    report = Report(
        clean_accuracy=clean.value,
        clean_interval=(clean.low, clean.high),
        clean_confidence=metrics.average_confidence(confidence),
        clean_class_accuracy=summary.listed(metrics.class_accuracy(labels, y, nb_classes)),
        robust_accuracy=worst.value,
        robust_interval=(worst.low, worst.high),
        robust_class_accuracy=summary.listed(
            metrics.class_accuracy(np.where(robust, y, -1), y, nb_classes)
        ),
        attacks=rows,
        findings=findings,
        settings={
            "dataset": dataset,
            "model": str(getattr(classifier.model, "name", type(classifier.model).__name__)),
            "samples": len(x),
            "shape": list(x.shape[1:]),
            "classes": nb_classes,
            "labels": "given" if given else "predicted",
            "clip_values": [low, high],
            "batch_size": batch_size,
            "seed": seed,
            "eps": budget and budget[0],
            "norm": budget and budget[1],
            "preset": preset and preset.name,
            "preset_variant": preset and preset.variant,
            "unpublished_parameters": preset and preset.unpublished,
            "cross_check": cross_check,
        },
        versions={
            "kerasrobust": __version__,
            **{package: _version(package) for package in _VERSIONS},
            **({"adversarial-robustness-toolbox": _version(_ART)} if checks else {}),
        },
        samples=Samples(x, y, labels, robust, results),
    )
    if output is not None:
        report.save(output)
    return report


_ART = "adversarial-robustness-toolbox"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _arrays(x: Any, y: Any, classifier: Classifier, batch_size: int) -> tuple[Any, Any]:
    """Arrays out of a `tf.data.Dataset`, batched or not; everything else as it is."""
    if not isinstance(x, tf.data.Dataset):
        return np.asarray(x), None if y is None else np.asarray(y)
    if y is not None:
        raise ValueError(
            "Expected the labels inside the data set, as (x, y). Received: a tf.data.Dataset and y"
        )
    if x.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise ValueError("Expected a finite tf.data.Dataset. Received: one that repeats for ever")
    spec = x.element_spec
    if not isinstance(spec, tuple) or len(spec) != 2:
        raise ValueError(f"Expected a tf.data.Dataset of (x, y). Received: element_spec={spec!r}")
    shape = classifier.input_shape
    if shape is not None and spec[0].shape.rank == len(shape):
        x = x.batch(batch_size)
    return unpack(x, None)


def _plan(
    requested: Any,
    dataset: str | None,
    channels: int,
    value_range: float,
    nb_classes: int | None,
    eps: float | None,
    norm: float | str | None,
    batch_size: int,
    seed: int,
    verbose: bool,
) -> tuple[dict[str, Attack], presets.Preset | None, tuple[float, float] | None]:
    """The recipes to run under unique names, the preset they come from, and the budget."""
    if dataset is not None and not isinstance(dataset, str):
        raise TypeError(f"Expected the name of a data set. Received: dataset={dataset!r}")
    items = list(requested) if isinstance(requested, (list, tuple)) else [requested]
    if not items:
        raise ValueError(f"Expected at least one attack. Received: attacks={requested!r}")
    chosen: presets.Preset | None = None
    # What to make, with which parameters, which of these nothing may change, and its own name.
    wanted: list[tuple[Any, dict[str, Any], dict[str, Any], str | None]] = []
    for item in items:
        if isinstance(item, str) and item in presets.names():
            order = math.inf if norm is None else check_norm(norm)
            preset = presets.get(item, dataset, channels, value_range, eps, order, nb_classes)
            if preset.cascade and len(items) > 1:
                raise ValueError(
                    f"The preset {item!r} runs its attacks in a row and takes no others beside it. "
                    f"Received: attacks={requested!r}"
                )
            if preset.eps is not None and not preset.cascade:
                if eps is not None:
                    raise ValueError(
                        f"The preset {item!r} has a budget of its own; give no other one. "
                        f"Received: eps={eps!r}"
                    )
                eps, norm = preset.eps, preset.norm
            chosen = chosen or preset
            labels = preset.labels or (None,) * len(preset.attacks)
            for (name, parameters), label in zip(preset.attacks, labels, strict=True):
                wanted.append((name, parameters, {}, label))
        elif isinstance(item, str):
            name, parameters = parse_spec(item)
            wanted.append((name, parameters, parameters, None))
        elif isinstance(item, (Attack, dict)):
            wanted.append((item, {}, {}, None))
        else:
            raise TypeError(
                "Expected the name of a preset, a specification such as 'fgsm:eps=0.1', an attack, "
                f"or a list of these. Received: attacks={item!r}"
            )
    budget = _budget(eps, norm)
    common = {"batch_size": batch_size, "seed": seed, "verbose": verbose}
    plan: dict[str, Attack] = {}
    for item, parameters, explicit, label in wanted:
        if isinstance(item, str):
            attack = registry.get(item, **{**common, **parameters})
            if budget is not None:
                changes = _fitted(attack, explicit, *budget)
                attack = registry.get(item, **{**common, **parameters, **changes})
        else:
            attack = registry.get(item)
        plan[_unique(label or attack.name, plan)] = attack
    return plan, chosen, budget


def _budget(eps: Any, norm: Any) -> tuple[float, float] | None:
    if eps is None:
        if norm is not None:
            raise ValueError(f"Expected `eps` beside `norm`. Received: norm={norm!r}, eps=None")
        return None
    if isinstance(eps, bool) or not isinstance(eps, (int, float, np.number)):
        raise TypeError(f"Expected a number as the budget. Received: eps={eps!r}")
    if not (eps > 0 and math.isfinite(eps)):
        raise ValueError(f"Expected a positive, finite budget. Received: eps={eps!r}")
    return float(eps), check_norm(math.inf if norm is None else norm)


def _fitted(attack: Attack, explicit: dict[str, Any], eps: float, norm: float) -> dict[str, Any]:
    """The changes that bring an attack's own budget to the one of the evaluation."""
    config = attack.get_config()
    changes: dict[str, Any] = {}
    if "norm" in config and "norm" not in explicit and norm in attack.norms:
        changes["norm"] = norm
    if attack.kind == "budget" and "eps" in config and "eps" not in explicit:
        changes["eps"] = eps
        if config.get("eps_step") is not None and "eps_step" not in explicit:
            changes["eps_step"] = config["eps_step"] * eps / config["eps"]
    return changes


def _unique(name: str, taken: dict[str, Any]) -> str:
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _references(
    plan: dict[str, Attack], classifier: Classifier
) -> tuple[dict[str, Attack], list[Finding]]:
    """ART's run of each attack, bound, by the name of the attack it checks."""
    checks, missing = {}, []
    for name, attack in plan.items():
        if attack.name.startswith(_REFERENCE):
            continue
        reference = _REFERENCE + attack.name
        if reference not in registry.ATTACKS:
            missing.append(Finding("no_counterpart", f"ART has no attack to check {name} with."))
            continue
        recipe = registry.get({"name": reference, "config": attack.get_config()})
        try:
            checks[name] = recipe.bind(classifier)
        except ValueError as error:
            missing.append(Finding("no_counterpart", f"{name} is not checked: {error}"))
    return checks, missing


def _order(plan: dict[str, Attack], checks: dict[str, Attack]):
    """Each attack, followed by its cross-check: name, attack, name of the attack it checks."""
    for name, attack in plan.items():
        yield name, attack, None
        if name in checks:
            yield _unique(_REFERENCE + name, plan), checks[name], name


def _check_writable(output: str | os.PathLike[str]) -> None:
    folder = pathlib.Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
