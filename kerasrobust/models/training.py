"""Plain training, shared by the commands and the examples."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from kerasrobust.checks import check_bool, check_int
from kerasrobust.engine.logits import (
    are_probabilities,
    as_float32,
    logits_head,
    stays_within_unit,
)
from kerasrobust.models import augmentation, recipes, registry
from kerasrobust.models.checkpoint import Checkpoint, describe_data, describe_model
from kerasrobust.models.standardization import is_standardized

if TYPE_CHECKING:
    from kerasrobust.datasets import Dataset


def fit(
    model: keras.Model,
    train: Dataset,
    *,
    recipe: Any = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    seed: int = 0,
    from_logits: bool | None = None,
    validation: Dataset | None = None,
    callbacks=(),
    checkpoint: str | os.PathLike[str] | None = None,
    verbose: int | str = "auto",
) -> keras.callbacks.History:
    """Compile and train a classifier by cross-entropy, as a recipe says.

    By default that is Adam with a cosine decay of the learning rate to zero. A model wrapped by
    `kerasrobust.wrap` trains with its defenses; a single output unit is trained by the
    cross-entropy of two classes. Batches are drawn in an order fixed by `seed`, without touching
    the global random state.

    With `checkpoint` an interrupted run goes on after the last epoch it had finished, when the same
    call is made on the same network again, and ends with the same weights, bit for bit, as if it
    had not been interrupted. Where a pass over the samples is too long to lose, or callbacks have
    to be called after a given number of steps, the recipe's `steps_per_epoch` sets the length of an
    epoch. Of the callbacks `kerasrobust.callbacks.RobustAccuracy` and Keras'
    `EarlyStopping` and `ReduceLROnPlateau` go on as well; others start anew. A run that had
    finished is not trained any further, unless it is asked for more epochs of a recipe whose rate
    does not depend on their number (`"constant"`, `"plateau"`), and had not been stopped.

    Args:
        model: A `keras.Model`; it is compiled anew.
        train: The training samples, integer labels.
        recipe: What `kerasrobust.models.recipes.get` takes: `"areb"`, `"areb:epochs=3"`,
            `"schedule=step,weight_decay=0.01"`, or a `Recipe`. Its callbacks come after
            `callbacks`; one of these that has `restore_best` set chooses the weights in the place
            of early stopping. Default: `"plain"`.
        epochs: Passes over the samples. Default: the recipe's, else 3, or on few samples as many as
            600 steps take.
        batch_size: Samples per step; the last, smaller batch of an epoch is used too. Default: the
            recipe's, 64.
        learning_rate: The optimizer's at the start, above 0. Default: the recipe's, 0.001.
        seed: Seed of the order of the samples and of augmentation. Default 0.
        from_logits: Whether the model's output is logits, not probabilities. Default: what its last
            layer says, else what its outputs for some samples look like. It has to be said of a
            single unit that is the same for all of them, where no layer says it.
        validation: Samples to measure after each epoch. Default: none.
        callbacks: Keras callbacks.
        checkpoint: Folder for the state of the run after each epoch. Default: none is kept.
        verbose: As in `keras.Model.fit`.

    Returns:
        Keras' `History` of loss and accuracy, of all epochs.

    Raises:
        ValueError: For a number out of range, an unknown recipe or one that does not fit, a model
            without weights to train, samples or `from_logits` that do not fit it, or a checkpoint
            that belongs to a run with other samples or settings; after the first epoch for a
            `monitor` that is none of its logs, if it could not be told before.
        TypeError: For a recipe of another type, or with a field or argument that there is not.

    Example:
        >>> train = kerasrobust.datasets.load("digits", "train")
        >>> model = kerasrobust.models.digits_cnn(seed=0)
        >>> history = kerasrobust.models.fit(model, train, epochs=10)
    """
    seed = check_int("seed", seed, 0, None)
    changes = {"epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate}
    chosen = recipes.get(recipe, train.input_shape, **changes)
    steps = chosen.steps_per_epoch or -(-len(train) // chosen.batch_size)
    epochs = chosen.epochs_for(steps)
    for part in (train, validation):
        if part is not None:
            _check_fits(model, part)
    if not model.trainable_weights:
        raise ValueError(
            "Expected a model with weights to train: set `trainable` of its layers. "
            f"Received: model={model.name!r}, all of it frozen"
        )
    if chosen.standardize and not is_standardized(model):
        raise ValueError(
            "The recipe standardises each image: give fit what kerasrobust.models.standardize makes"
            f" of the model, wrapped afterwards if it is defended. Received: model={model.name!r}"
        )
    augment = augmentation.layers(chosen.augment, train.clip_values)
    augmentation.check(augment, tf.convert_to_tensor(train.x[:2]), train.clip_values)
    from_logits = _returns_logits(model, train, from_logits)
    callbacks = list(callbacks)
    restore = not any(getattr(callback, "restore_best", False) for callback in callbacks)
    watching = chosen.callbacks_for(validation is not None, restore)
    if watching:
        _check_monitor(watching[0].monitor, model, callbacks)
        callbacks.append(_Monitored(watching[0].monitor, callbacks))
    callbacks += watching
    saved = None
    if checkpoint is not None:
        run = {
            **chosen.get_config(),
            # Where the rate does not depend on the length of a run, it may be made longer.
            "epochs": epochs if chosen.depends_on_length else None,
            "steps": None,
            "seed": seed,
            "from_logits": from_logits,
            "train": describe_data(train),
            "validation": describe_data(validation),
            "network": describe_model(model),
            "defenses": [repr(defense) for defense in getattr(model, "defenses", ())],
            "defense_seed": getattr(model, "seed", None),
            "defense_bounds": getattr(model, "clip_values", None),
            **{type(c).__name__: c.get_config() for c in callbacks if hasattr(c, "get_config")},
        }
        saved = Checkpoint(checkpoint, run, epochs, list(callbacks), verbose=bool(verbose))
        callbacks.append(saved)
    loss: keras.losses.Loss = keras.losses.SparseCategoricalCrossentropy(from_logits=from_logits)
    accuracy: keras.metrics.Metric = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
    if _units(model, train) == 1:
        loss = keras.losses.BinaryCrossentropy(from_logits=from_logits)
        threshold = 0.0 if from_logits else 0.5
        accuracy = keras.metrics.BinaryAccuracy(name="accuracy", threshold=threshold)
    first = 0 if saved is None else epochs if saved.stopped else saved.epoch
    model.compile(
        optimizer=chosen.optimizer_for(steps, epochs),
        loss=loss,
        metrics=[accuracy],
    )
    history = model.fit(
        _batches(
            train,
            chosen.batch_size,
            numbers=range(first * steps, epochs * steps),
            seed=seed,
            augment=augment,
        ),
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
        history.epoch = list(range(saved.epoch)) + history.epoch
    return history


class _Monitored(keras.callbacks.Callback):
    """Ends training where what is monitored is none of the logs; Keras warns, and trains on."""

    def __init__(self, monitor: str, others: Sequence[keras.callbacks.Callback]):
        super().__init__()
        self.monitor = monitor
        # Epochs after which each callback that adds to the logs has done so.
        freqs = [getattr(callback, "freq", None) for callback in others]
        self.freq = max([1, *(freq for freq in freqs if isinstance(freq, int))])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        if (epoch + 1) % self.freq == 0 and self.monitor not in (logs or {}):
            raise _no_log(self.monitor, logs or {})


def _check_monitor(
    monitor: str, model: keras.Model, callbacks: Sequence[keras.callbacks.Callback]
) -> None:
    """Refuses a name that none of the logs will have, as far as that is known before training."""
    known = ("loss", "accuracy", "val_loss", "val_accuracy")
    # A defense may put a word in front of the accuracy of training, a callback add anything.
    open_end = callbacks or (hasattr(model, "defenses") and not monitor.startswith("val_"))
    if monitor not in known and not open_end:
        raise _no_log(monitor, known)


def _no_log(monitor: str, logs: Iterable[str]) -> ValueError:
    return ValueError(
        f"`monitor` must be one of the logs, {', '.join(sorted(logs))}. "
        f"Received: monitor={monitor!r}"
    )


def _check_fits(model: keras.Model, data: Dataset) -> None:
    """Keras reports a wrong shape from inside the compiled step; say it before."""
    # Only a functional model knows its shapes; of any other kind Keras judges.
    expected = getattr(model, "input_shape", None)
    if isinstance(expected, tuple) and (
        len(expected) != data.x.ndim
        or any(
            size not in (None, actual)
            for size, actual in zip(expected[1:], data.input_shape, strict=True)
        )
    ):
        raise ValueError(
            f"The model expects samples of shape {expected[1:]}. "
            f"Received: {data.name!r} with samples of shape {data.input_shape}"
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


def _returns_logits(model: keras.Model, data: Dataset, told: bool | None) -> bool:
    """Whether the model returns logits: as its last layer says, else as told, else as seen."""
    told = None if told is None else check_bool("from_logits", told)
    model = getattr(model, "base", model)  # of a wrapped one
    head = logits_head(model)
    if head is not None and head.activation is not None and not head.declared:
        found = head.activation == "linear"
        if told not in (None, found):
            end = "returns logits" if found else f"ends in a {head.activation}"
            raise ValueError(
                f"The model {end}: leave `from_logits` out. Received: from_logits={told}"
            )
        return found
    if told is not None:
        return told
    few = data.x[:256]
    scores = _scores(model, few)
    if scores.shape[1] == 1 and are_probabilities(scores):
        if not stays_within_unit(lambda far: _scores(model, far), few):
            return True
        if np.ptp(scores) == 0:
            raise ValueError(
                "The model's one output is the same for all samples, so whether it is a logit or a "
                "probability is not to be seen: give `from_logits`. "
                f"Received: model={model.name!r}, from_logits=None"
            )
    return not are_probabilities(scores)


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
    data: Dataset,
    batch_size: int,
    *,
    numbers: range | None = None,
    seed: int | None = None,
    augment: Sequence[keras.layers.Layer] = (),
) -> tf.data.Dataset:
    """The batches (x, y) of these numbers, by default of one pass over the samples.

    Pass follows upon pass, each in an order of its own when a seed is given. Whole batches are
    gathered from the one array, so that nothing is copied sample by sample. The orders are
    stateless: `Dataset.shuffle` would mix the global seed into its own. So is augmentation, a
    function of the seed and of the number of the batch in the run.
    """
    count = len(data)
    steps = -(-count // batch_size)
    numbers = range(steps) if numbers is None else numbers
    with tf.device("cpu"):
        x, y = tf.convert_to_tensor(data.x), tf.convert_to_tensor(data.y)

    def one_pass(number):
        indices = tf.range(count, dtype=tf.int64)
        if seed is not None:
            key = tf.stack([tf.constant(seed, tf.int64), number])
            indices = tf.random.experimental.stateless_shuffle(indices, key)
        batches = tf.data.Dataset.from_tensor_slices(indices).batch(batch_size)
        return batches.enumerate(number * steps)

    def batch(number, indices):
        images = tf.gather(x, indices)
        if augment:
            # Apart from the keys of the orders, whose second number is that of a pass.
            key = tf.stack([tf.constant(seed or 0, tf.int64), -1 - number])
            images = augmentation.apply(augment, images, key, data.clip_values)
        return images, tf.gather(y, indices)

    begun, ended = numbers.start // steps, -(-numbers.stop // steps)
    batches = tf.data.Dataset.range(begun, ended).flat_map(one_pass)
    batches = batches.skip(numbers.start - begun * steps).take(len(numbers))
    batches = batches.map(batch, num_parallel_calls=2 if augment else None).prefetch(2)
    # Of an unknown number of batches Keras warns that the data ran out.
    return batches.apply(tf.data.experimental.assert_cardinality(len(numbers)))


def default_name(input_shape) -> str:
    """The network that the commands take for samples of this shape when none is named.

    Args:
        input_shape: (height, width, channels), or (2,).

    Returns:
        `"digits_cnn"` for images smaller than 12x12 pixels, else `"areb_cnn"`; `"brelu_gda_mlp"`
        for points.
    """
    if len(input_shape) == 1:
        return "brelu_gda_mlp"
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
