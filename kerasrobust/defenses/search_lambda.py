"""search_lambda: how much of a penalty a model bears."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np
import tensorflow as tf
import tqdm
from scipy import special

from kerasrobust.checks import check_bool, check_float, check_int, check_labels
from kerasrobust.defenses import registry
from kerasrobust.defenses.robust_model import RobustModel
from kerasrobust.defenses.training.base import Batch, Context
from kerasrobust.defenses.training.penalty import Penalty
from kerasrobust.engine.classifier import Classifier
from kerasrobust.engine.source import unpack


@dataclasses.dataclass(frozen=True)
class LambdaTrial:
    """What became of the model under one weight.

    Attributes:
        weight: The weight.
        cross_entropy: Mean over the training data after the trial, in nats, inference mode.
        accuracy: On the training data.
        validation_accuracy: On the validation data, None without any.
        too_high: Whether the cross-entropy reached that of a random guess.
    """

    weight: float
    cross_entropy: float
    accuracy: float
    validation_accuracy: float | None
    too_high: bool


@dataclasses.dataclass(frozen=True)
class LambdaSearch:
    """The outcome of `search_lambda`; printed, it is the table of its trials.

    Attributes:
        value: The largest weight tried that was not too high, None if all were.
        start: The weight of the first trial, `log2(classes) / initial`.
        initial: Mean of the penalty on the given model.
        random_guess: Cross-entropy of a random guess in nats, `ln(classes)`.
        trials: The trials in the order they were made.
    """

    value: float | None
    start: float
    initial: float
    random_guess: float
    trials: tuple[LambdaTrial, ...]

    def __str__(self) -> str:
        rows = [f"{'weight':>10}  {'cross-entropy':>13}  {'accuracy':>8}  {'validation':>10}"]
        for trial in self.trials:
            held_out = trial.validation_accuracy
            validation = "" if held_out is None else f"{held_out:.4f}"
            note = "  too high" if trial.too_high else ""
            rows.append(
                f"{trial.weight:10.4g}  {trial.cross_entropy:13.4f}  {trial.accuracy:8.4f}"
                f"  {validation:>10}{note}"
            )
        found = "none: all were too high" if self.value is None else f"{self.value:.4g}"
        return "\n".join([*rows, f"random guess: {self.random_guess:.4f}; weight found: {found}"])


def search_lambda(
    model: keras.Model,
    defense: Any,
    x: Any,
    y: Any = None,
    *,
    validation_data: Any = None,
    trials: int = 5,
    factor: float = 10.0,
    epochs: int = 1,
    batches: int = 10,
    batch_size: int = 128,
    optimizer: Any = None,
    loss: Any = None,
    tolerance: float = 0.01,
    clip_values: tuple[float, float] | None = None,
    seed: int = 0,
    verbose: bool = False,
) -> LambdaSearch:
    """Searches the largest weight of a penalty that the model still learns under.

    The protocol of the NsLoss paper, section III-C: with `R0` the mean of the penalty over some
    batches, the first weight is `log2(classes) / R0`. From there the weight is bisected, on a
    logarithmic scale, between `start / factor` and `start * factor`: for each weight the model is
    trained for an epoch, and the weight was too high if the cross-entropy of the training data then
    reaches that of a random guess. The paper writes the latter as `log2(classes)`; cross-entropy is
    in nats here, so it is `ln(classes)`. "The same order of magnitude" is read as less than a
    factor of ten up or down.

    Every trial starts from the weights of `model` and sees the same batches. All of it happens on a
    copy: `model`, its compilation included, stays as it is. Where it is wrapped, its defenses take
    part in the trials.

    Args:
        model: The trained model to be defended, functional or sequential, wrapped or not.
        defense: A penalty: ``"nsloss"``, ``"jacobian"``, with arguments, or an instance. Its weight
            is what is searched.
        x: Training inputs `[n, ...]`, or a finite, batched `tf.data.Dataset` of `(x, y)`.
        y: Labels, integers or one-hot; none beside a data set.
        validation_data: `(x, y)` or a data set. It takes part in `R0`, and the table shows the
            accuracy on it; it decides nothing. Default: none.
        trials: Weights to try, at least 1. Default 5, after which the lowest weight that was too
            high is 1.15 times the one found.
        factor: How far above and below the first weight to look, above 1. Default 10.
        epochs: Epochs of a trial, at least 1. Default 1.
        batches: Batches for `R0`, drawn from training and validation data taken together; fewer if
            there are not as many. Default 10.
        batch_size: Samples per batch, at least 1. Default 128.
        optimizer: Optimizer of the trials, as for `compile`; each starts with a fresh one. Default:
            Adam with the paper's learning rate of 1e-4.
        loss: Loss of the trials, as for `compile`. Default: cross-entropy.
        tolerance: Share of `ln(classes)` by which cross-entropy may stay below it and still counts
            as having reached it, at least 0 and below 1. A collapsed model that knows how frequent
            each class is stays a little below. Default 0.01.
        clip_values: Smallest and largest valid input value. Default: what a wrapped `model` has,
            else (0, 1).
        seed: Seed of the order of the samples and of what the defense draws. Default 0.
        verbose: Show a progress bar. Default False.

    Returns:
        The weight found and the table of the trials.

    Raises:
        TypeError: If `defense` is no penalty, or an argument of the wrong type.
        ValueError: If an argument is out of range, data and model do not fit, or the penalty of the
            given model is zero.

    Example:
        >>> found = kerasrobust.defenses.search_lambda(model, "nsloss:eps=1.0,N=5", x, y)
        >>> print(found)
        >>> model = kerasrobust.wrap(model, defense="nsloss", weight=found.value)
    """
    trials, epochs = check_int("trials", trials, 1), check_int("epochs", epochs, 1)
    batches, batch_size = check_int("batches", batches, 1), check_int("batch_size", batch_size, 1)
    factor, seed = check_float("factor", factor, 1.0, above=True), check_int("seed", seed, 0, None)
    tolerance, verbose = check_float("tolerance", tolerance), check_bool("verbose", verbose)
    if tolerance >= 1:
        raise ValueError(f"`tolerance` must be below 1. Received: tolerance={tolerance!r}")
    link = registry.get(defense)
    if not isinstance(link, Penalty):
        raise TypeError(f"`defense` must be a penalty with a weight. Received: defense={defense!r}")
    train = _arrays("y", *unpack(x, y))
    held_out = None
    if validation_data is not None:
        pair = validation_data if isinstance(validation_data, tuple) else (validation_data, None)
        held_out = _arrays("validation_data", *unpack(*pair))

    scratch = copy_of(model, clip_values, seed)
    base, classifier = scratch.base, Classifier(scratch.base, scratch.clip_values)
    begin = [np.array(variable) for variable in base.variables]
    labels = check_labels(train[1], len(train[0]), classifier.nb_classes)
    order = np.random.default_rng(seed).permutation(len(train[0]))
    settings = keras.optimizers.serialize(
        keras.optimizers.get(keras.optimizers.Adam(1e-4) if optimizer is None else optimizer)
    )

    def attempt(weight: float) -> LambdaTrial:
        for variable, value in zip(base.variables, begin, strict=True):
            variable.assign(value)
        robust = RobustModel(scratch, [_weighted(link, weight)])
        with robust.distribute_strategy.scope():
            robust.compile(keras.optimizers.deserialize(settings), loss or _cross_entropy(robust))
        robust.fit(
            train[0][order],
            train[1][order],
            batch_size=batch_size,
            epochs=epochs,
            shuffle=False,
            verbose=0,
        )
        entropy, accuracy = _measure(classifier, train[0], labels)
        return LambdaTrial(
            weight,
            entropy,
            accuracy,
            None if held_out is None else _measure(classifier, *held_out)[1],
            # Written so that a cross-entropy that is no number counts as too high.
            too_high=not entropy < (1.0 - tolerance) * guess,
        )

    guess = math.log(classifier.nb_classes)
    pool = train[0] if held_out is None else np.concatenate([train[0], held_out[0]])
    rows = np.random.default_rng([seed, 1]).permutation(len(pool))[: batches * batch_size]
    initial = _mean_penalty(RobustModel(scratch, [link]), link, pool[rows], batch_size)
    if not (math.isfinite(initial) and initial > 0):
        raise ValueError(
            "The penalty of the given model must be a number above 0 for a weight to start from. "
            f"Received: a mean penalty of {initial:g}"
        )
    start = math.log2(classifier.nb_classes) / initial
    low, high, weight = start / factor, start * factor, start
    value: float | None = None
    table: list[LambdaTrial] = []
    for _ in tqdm.trange(trials, desc="search_lambda", disable=not verbose):
        table.append(attempt(weight))
        if table[-1].too_high:
            high = weight
        else:
            low = value = weight
        weight = math.sqrt(low * high)
    return LambdaSearch(value, start, initial, guess, tuple(table))


def _mean_penalty(model: RobustModel, link: Penalty, x: np.ndarray, batch_size: int) -> float:
    """Mean of a term without its weight over samples in batches, as training would compute it."""

    @tf.function(autograph=False, reduce_retracing=True)
    def total(x: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        # No term looks at labels.
        labels = tf.zeros([tf.shape(x)[0]], tf.int32)
        batch = Batch(x, labels, labels, model.clip_values)
        batch = link.prepare(batch, Context(model, step, x))
        return tf.reduce_sum(link.penalty(batch, model.end())[0])

    parts = [
        float(total(tf.constant(x[begin : begin + batch_size], tf.float32), tf.constant(step)))
        for step, begin in enumerate(range(0, len(x), batch_size))
    ]
    return sum(parts) / len(x)


def _measure(classifier: Classifier, x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Mean cross-entropy in nats, and accuracy."""
    logits = classifier.predict(x).astype(np.float64)
    labels = check_labels(y, len(x), classifier.nb_classes)
    entropy = -special.log_softmax(logits, axis=1)[np.arange(len(x)), labels]
    return float(entropy.mean()), float((logits.argmax(axis=1) == labels).mean())


def copy_of(model: Any, clip_values: tuple[float, float] | None, seed: int) -> RobustModel:
    """A wrapped model with the same weights that shares nothing with the given one."""
    robust = RobustModel(model, clip_values=clip_values)
    with robust.distribute_strategy.scope():
        base = keras.models.clone_model(robust.base)
        base.set_weights(robust.base.get_weights())
        links = [type(link).from_config(link.get_config()) for link in robust.defenses]
        twin = RobustModel(base, links, clip_values=robust.clip_values, seed=seed)
        twin.inherit(robust)
    return twin


def _weighted(link: Penalty, weight: float) -> Penalty:
    config: dict[str, Any] = {**link.get_config(), "weight": weight}
    return type(link)(**config)


def _cross_entropy(model: RobustModel) -> keras.losses.Loss:
    single = model.output_shape[-1] == 1
    kind = keras.losses.BinaryCrossentropy if single else keras.losses.SparseCategoricalCrossentropy
    return kind(from_logits=model.ending == "linear")


def _arrays(name: str, x: np.ndarray, y: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    if y is None or len(x) == 0 or len(x) != len(y):
        raise ValueError(
            f"`{name}` must hold one label per sample, of one sample at least. "
            f"Received: {len(x)} samples, {'no' if y is None else len(y)} labels"
        )
    return x, y
