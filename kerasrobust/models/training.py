"""Plain training, shared by the commands and the examples."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import keras
import numpy as np
import tensorflow as tf

from kerasrobust.checks import check_float, check_int
from kerasrobust.engine.logits import are_probabilities, as_float32, logits_head
from kerasrobust.models import registry
from kerasrobust.models.checkpoint import Checkpoint, describe_data, describe_model

if TYPE_CHECKING:
    from kerasrobust.datasets import Dataset


def fit(
    model: keras.Model,
    train: Dataset,
    *,
    epochs: int | None = None,
    batch_size: int = 64,
    learning_rate: float = 0.001,
    seed: int = 0,
    from_logits: bool | None = None,
    validation: Dataset | None = None,
    callbacks=(),
    checkpoint: str | os.PathLike[str] | None = None,
    verbose: int | str = "auto",
) -> keras.callbacks.History:
    """Compile and train a classifier: cross-entropy, Adam, cosine learning-rate decay to zero.

    A model wrapped by `kerasrobust.wrap` trains with its defenses; a single output unit is trained
    by the cross-entropy of two classes. Batches are drawn in an order
    fixed by `seed`, without touching the global random state.

    With `checkpoint` an interrupted run goes on after the last epoch it had finished, when the same
    call is made on the same network again, and ends with the same weights, bit for bit, as if it
    had not been interrupted. Of the callbacks `kerasrobust.callbacks.RobustAccuracy` goes on as
    well; Keras' own start anew. A run that had finished is not trained any further.

    Args:
        model: A `keras.Model`; it is compiled anew.
        train: The training samples, integer labels.
        epochs: Passes over the samples. Default: 3, or on few samples as many as 600 steps take.
        batch_size: Samples per step; the last, smaller batch of an epoch is used too. Default 64.
        learning_rate: Adam's step size at the start, above 0. Default 0.001.
        seed: Seed of the order of the samples. Default 0.
        from_logits: Whether the model's output is logits, not probabilities. Default: what its last
            layer says, else what its outputs for some samples look like.
        validation: Samples to measure after each epoch. Default: none.
        callbacks: Keras callbacks.
        checkpoint: Folder for the state of the run after each epoch. Default: none is kept.
        verbose: As in `keras.Model.fit`.

    Returns:
        Keras' `History` of loss and accuracy, of all epochs.

    Raises:
        ValueError: For a number out of range, a model without weights to train, samples that do not
            fit it, or a checkpoint that belongs to a run with other samples or settings.

    Example:
        >>> train = kerasrobust.datasets.load("digits", "train")
        >>> model = kerasrobust.models.digits_cnn(seed=0)
        >>> history = kerasrobust.models.fit(model, train, epochs=10)
    """
    batch_size, seed = check_int("batch_size", batch_size, 1), check_int("seed", seed, 0, None)
    learning_rate = check_float("learning_rate", learning_rate, above=True)
    steps = -(-len(train) // batch_size)
    # On a small set three epochs are too few steps to train anything.
    epochs = max(3, -(-600 // steps)) if epochs is None else check_int("epochs", epochs, 1)
    for part in (train, validation):
        if part is not None:
            _check_fits(model, part)
    if not model.trainable_weights:
        raise ValueError(
            "Expected a model with weights to train: set `trainable` of its layers. "
            f"Received: model={model.name!r}, all of it frozen"
        )
    if from_logits is None:
        from_logits = _returns_logits(model, train)
    callbacks = list(callbacks)
    saved = None
    if checkpoint is not None:
        run = {
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "seed": seed,
            "from_logits": from_logits,
            "train": describe_data(train),
            "validation": describe_data(validation),
            "network": describe_model(model),
            "defenses": [repr(defense) for defense in getattr(model, "defenses", ())],
            "defense_seed": getattr(model, "seed", None),
            **{type(c).__name__: c.get_config() for c in callbacks if hasattr(c, "get_config")},
        }
        saved = Checkpoint(checkpoint, run, list(callbacks), verbose=bool(verbose))
        callbacks.append(saved)
    loss: keras.losses.Loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    accuracy: keras.metrics.Metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    if _units(model, train) == 1:
        loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)
        threshold = 0.0 if from_logits else 0.5
        accuracy = keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)
    first = 0 if saved is None else epochs if saved.stopped else saved.epoch
    model.compile(
        optimizer=keras.optimizers.Adam(
            keras.optimizers.schedules.CosineDecay(learning_rate, steps * epochs)
        ),
        loss=loss,
        metrics=[accuracy],
    )
    history = model.fit(
        _batches(train, batch_size, epochs=range(first, epochs), seed=seed),
        initial_epoch=first,
        epochs=epochs,
        steps_per_epoch=steps,
        validation_data=None if validation is None else _batches(validation, 256),
        callbacks=callbacks,
        verbose=verbose,
        shuffle=False,  # the pipeline shuffles, with its own seed
    )
    if saved is not None:
        history.history = saved.history
        history.epoch = list(range(first)) + history.epoch
    return history


def _check_fits(model: keras.Model, data: Dataset) -> None:
    """Keras reports a wrong shape from inside the compiled step; say it before."""
    # Only a functional model knows its shapes; of any other kind Keras judges.
    expected = getattr(model, "input_shape", None)
    if isinstance(expected, tuple) and len(expected) != 4:
        raise ValueError(
            "fit expects a model of images [batch, height, width, channels]. "
            f"Received: a model with input_shape={expected}"
        )
    if isinstance(expected, tuple) and any(
        size not in (None, actual)
        for size, actual in zip(expected[1:], data.input_shape, strict=True)
    ):
        raise ValueError(
            f"The model expects images of shape {expected[1:]}. "
            f"Received: {data.name!r} with images of shape {data.input_shape}"
        )
    units = _units(model, data)
    if max(units, 2) < data.nb_classes:
        raise ValueError(
            f"The model has {units} outputs. Received: {data.name!r} with {data.nb_classes} classes"
        )


def _units(model: keras.Model, data: Dataset) -> int:
    """Number of output units: as the model says, else as it returns for a sample."""
    shape = getattr(model, "output_shape", None)
    if isinstance(shape, tuple) and len(shape) == 2 and shape[1] is not None:
        return int(shape[1])
    scores = _scores(model, data.x[:1])
    if scores.ndim != 2:
        raise ValueError(
            "fit expects a model that returns one row of scores per sample, [batch, classes]. "
            f"Received: outputs of shape {scores.shape}"
        )
    return int(scores.shape[1])


def _returns_logits(model: keras.Model, data: Dataset) -> bool:
    model = getattr(model, "base", model)  # of a wrapped one
    head = logits_head(model)
    if head is not None and head.activation is not None and not head.declared:
        return head.activation == "linear"
    return not are_probabilities(_scores(model, data.x[:256]))


def _scores(model: keras.Model, x: np.ndarray) -> np.ndarray:
    try:
        return as_float32(model)(tf.convert_to_tensor(x)).numpy()
    except (ValueError, TypeError, tf.errors.OpError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"The model takes no images of this kind: {reason} "
            f"Received: images of shape {x.shape[1:]}"
        ) from error


def _batches(
    data: Dataset, batch_size: int, *, epochs: range = range(1), seed: int | None = None
) -> tf.data.Dataset:
    """The batches (x, y) of these epochs, each in an order of its own when a seed is given.

    Whole batches are gathered from the one array, so that nothing is copied sample by sample.
    The orders are stateless: `Dataset.shuffle` would mix the global seed into its own.
    """
    count = len(data)
    with tf.device("cpu"):
        x, y = tf.convert_to_tensor(data.x), tf.convert_to_tensor(data.y)

    def epoch_of_indices(epoch):
        indices = tf.range(count, dtype=tf.int64)
        if seed is not None:
            key = tf.stack([tf.constant(seed, tf.int64), epoch])
            indices = tf.random.experimental.stateless_shuffle(indices, key)
        return tf.data.Dataset.from_tensor_slices(indices).batch(batch_size)

    batches = tf.data.Dataset.range(epochs.start, epochs.stop).flat_map(epoch_of_indices)
    batches = batches.map(lambda i: (tf.gather(x, i), tf.gather(y, i))).prefetch(2)
    # Of an unknown number of batches Keras warns that the data ran out.
    total = len(epochs) * -(-count // batch_size)
    return batches.apply(tf.data.experimental.assert_cardinality(total))


def default_name(input_shape) -> str:
    """The network that the commands take for images of this shape when none is named.

    Args:
        input_shape: (height, width, channels).

    Returns:
        `"digits_cnn"` for images smaller than 12x12 pixels, else `"areb_cnn"`.
    """
    return "digits_cnn" if min(input_shape[:2]) < 12 else "areb_cnn"


def train_default(train: Dataset, *, seed: int = 0, verbose: int | str = 0) -> keras.Model:
    """The network that a command trains when it is given no model.

    The one of `default_name`, trained as `fit` does by default.

    Args:
        train: The training samples.
        seed: Seed of the weights and of the order of the samples. Default 0.
        verbose: As in `keras.Model.fit`. Default 0.

    Returns:
        The trained `keras.Model` with a softmax output.

    Raises:
        ValueError: For images smaller than 4x4 pixels.
    """
    model = registry.get(
        default_name(train.input_shape), train.input_shape, train.nb_classes, seed=seed
    )
    fit(model, train, seed=seed, verbose=verbose)
    return model
