"""Training on several workers, where Keras' own `fit` does not start."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from kerasrobust import _keras
from kerasrobust.checks import check_int


def fit(
    model: keras.Model,
    data: tf.data.Dataset,
    *,
    epochs: int = 1,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    verbose: int = 0,
) -> keras.callbacks.History:
    """Train under any `tf.distribute` strategy by the model's own `train_step`.

    `keras.Model.fit` is enough on one machine (`MirroredStrategy`). Under
    `MultiWorkerMirroredStrategy` it fails as of Keras 3.15, before the first step
    (https://github.com/keras-team/keras/issues/20585): it reduces the batch and the logs with
    operations that do not take the single replica a worker holds. This loop leaves both out. Every
    worker runs the same program:

        strategy = tf.distribute.MultiWorkerMirroredStrategy()   # first of all; reads TF_CONFIG
        with strategy.scope():
            model = kerasrobust.wrap(build_model(), defense="gda")
            model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        kerasrobust.distribution.fit(model, data, epochs=3)
        model.save(path)                                         # another path on every worker

    Steps, metrics and logged names are those of `fit`, and a wrapped model takes on several workers
    the steps that it takes on one.

    Limits: no validation data and no class weights (put sample weights into `data`), no
    `steps_per_execution`, no XLA, and none of the work that a defense does before training (give
    distillation its `teacher`). Batch statistics (batch normalization) are those of a replica, and
    dropout draws on each for itself, as under every strategy.

    Args:
        model: A compiled `keras.Model`, wrapped or not, built in the strategy's scope.
        data: Batches `(x, y)` or `(x, y, sample_weight)`, the same on every worker; each batch is
            the global one, which the workers share among themselves.
        epochs: Number of the last epoch, from 1. Default 1.
        initial_epoch: Epochs made before, below `epochs`. Default 0.
        steps_per_epoch: Steps of an epoch; `data` then goes on from epoch to epoch and must hold
            enough of them. Default: all of `data`, anew every epoch.
        callbacks: Keras callbacks. They are called on every worker, and not after every batch.
        verbose: 0, or 2 for one line per epoch. Default 0.

    Returns:
        Keras' `History`.

    Raises:
        TypeError: If `data` is no `tf.data.Dataset`.
        ValueError: If a number is out of range, or `data` does not say how many batches it has.

    Example:
        >>> history = kerasrobust.distribution.fit(model, data, epochs=3)
    """
    if not isinstance(data, tf.data.Dataset):
        raise TypeError(
            f"`data` must be a tf.data.Dataset of batches. Received: data={type(data).__name__}"
        )
    initial_epoch = check_int("initial_epoch", initial_epoch, 0)
    epochs = check_int("epochs", epochs, initial_epoch + 1)
    steps = _steps(data, steps_per_epoch)
    strategy = model.distribute_strategy
    with strategy.scope():
        _build(model, data)
    # One iterator for all epochs: TensorFlow lets go of one only after seconds, in which all wait.
    batches = data if steps_per_epoch else data.repeat()
    iterator = iter(strategy.experimental_distribute_dataset(_shard_samples(batches)))

    @tf.function(autograph=False)
    def step(iterator: Any) -> None:
        strategy.run(model.train_step, args=(iterator.get_next(),))

    listed = keras.callbacks.CallbackList(
        list(callbacks),
        add_history=True,
        add_progbar=verbose != 0,
        model=model,
        verbose=verbose,
        epochs=epochs,
        steps=steps,
    )
    model.stop_training = False
    listed.on_train_begin()
    logs: dict[str, Any] = {}
    for epoch in range(initial_epoch, epochs):
        model.reset_metrics()
        listed.on_epoch_begin(epoch)
        for _ in range(steps):
            step(iterator)
        # All workers take part in the sum of a metric.
        results = model.get_metrics_result()
        logs = model.name_logs(results) if isinstance(model, _keras.NamedLogs) else results
        listed.on_epoch_end(epoch, logs)
        if model.stop_training:
            break
    listed.on_train_end(logs)
    return model.history


def _steps(data: tf.data.Dataset, steps_per_epoch: int | None) -> int:
    if steps_per_epoch is not None:
        return check_int("steps_per_epoch", steps_per_epoch, 1)
    steps = int(data.cardinality())
    if steps < 1:
        raise ValueError(
            "`data` must know its number of batches: give `steps_per_epoch`, or use "
            f"`tf.data.experimental.assert_cardinality`. Received: data with cardinality {steps}"
        )
    return steps


def _build(model: keras.Model, data: tf.data.Dataset) -> None:
    """Creates the variables of optimizer and metrics, which no replica may do by itself."""
    model.make_train_function(force=True)
    _keras.build_for_training(model, data.element_spec)


def _shard_samples(data: tf.data.Dataset) -> tf.data.Dataset:
    """Every worker reads all of the data and keeps its share of each batch."""
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return data.with_options(options)
