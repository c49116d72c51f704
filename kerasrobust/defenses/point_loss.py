"""The end of the chain: the compiled loss, one value per sample."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

# The losses that compare a class distribution, which softmax and logarithm would spoil.
_FROM_LOGITS = {
    keras.losses.sparse_categorical_crossentropy: keras.losses.SparseCategoricalCrossentropy,
    keras.losses.categorical_crossentropy: keras.losses.CategoricalCrossentropy,
    keras.losses.categorical_focal_crossentropy: keras.losses.CategoricalFocalCrossentropy,
}
# Those of single units.
_BINARY = {
    keras.losses.binary_crossentropy: keras.losses.BinaryCrossentropy,
    keras.losses.binary_focal_crossentropy: keras.losses.BinaryFocalCrossentropy,
}
_CLASSES = {**_FROM_LOGITS, **_BINARY}
_SHORT_NAMES = ("crossentropy", "ce")


class PointLoss:
    """The loss given to `compile`, unreduced.

    Where the model ends in a softmax and the loss is a categorical cross-entropy, it is computed
    from the logits, which stays exact for confident predictions.

    Labels may be distributions `[batch, classes]` with any cross-entropy: a sparse one then is the
    categorical one, and a single output unit is given the probability of the second of two classes.

    Args:
        loss: As given to `compile`: a name, a `keras.losses.Loss` or a function of
            `(y_true, y_pred)` that returns one value per sample.
        weight: Factor of the loss (`loss_weights`), or None.
        ending: What the model does to its logits: ``"softmax"``, ``"sigmoid"``, ``"linear"``
            (nothing), ``"probabilities"`` where they are not at hand in training, or None where
            nothing is known of its outputs.

    Raises:
        ValueError: If there is more than one loss, or it takes logits for probabilities or the
            other way round.
    """

    def __init__(self, loss: Any, weight: Any = None, ending: str | None = None):
        self._weight = _single(weight, "loss_weights")
        loss = _single(loss, "loss")
        self.reduction = "sum_over_batch_size"
        self._by_shape = isinstance(loss, str) and loss.lower() in _SHORT_NAMES
        self._ending = ending
        self.takes_logits = False
        self._loss: Any = None
        if not self._by_shape:
            self._resolve(keras.losses.get(loss))

    def _resolve(self, loss: Any) -> None:
        if not isinstance(loss, keras.losses.Loss):
            loss = _CLASSES[loss]() if loss in _CLASSES else loss
        elif loss.reduction not in (None, "none"):
            # A loss that leaves the reduction to others gets the usual one.
            self.reduction = loss.reduction
        if type(loss) in _CLASSES.values():
            config = loss.get_config()
            if self._ending not in ("linear", None) and config["from_logits"]:
                end = "returns" if self._ending == "probabilities" else "ends in a"
                raise ValueError(
                    f"The loss expects logits, but the model {end} {self._ending}: leave "
                    "`from_logits` out. Received: from_logits=True"
                )
            if self._ending == "linear" and not config["from_logits"]:
                raise ValueError(
                    "The loss expects probabilities, but the model returns logits: use "
                    f"keras.losses.{type(loss).__name__}(from_logits=True). "
                    "Received: from_logits=False"
                )
            if self._ending == "softmax" and type(loss) in _FROM_LOGITS.values():
                loss = type(loss).from_config({**config, "from_logits": True})
                self.takes_logits = True
        self._loss = loss

    def __call__(self, y: tf.Tensor, outputs: tf.Tensor, logits: tf.Tensor | None) -> tf.Tensor:
        """Loss per sample, float32 `[batch]`.

        Args:
            y: Labels in the form the loss takes, or distributions.
            outputs: What the model returned, `[batch, units]`.
            logits: The same before the softmax, for a model that ends in one.
        """
        if self._loss is None:
            self._resolve(_by_outputs(outputs))
        predictions = tf.cast(logits if self.takes_logits else outputs, tf.float32)
        targets = tf.cast(y, tf.float32)
        single = predictions.shape[-1] == 1
        if single and targets.shape.rank == predictions.shape.rank - 1:
            targets = targets[..., None]
        elif single and targets.shape[-1] == 2:
            targets = targets[..., 1:]
        loss = self._loss
        if type(loss) is keras.losses.SparseCategoricalCrossentropy and (
            targets.shape.rank == 2 and targets.shape[-1] == predictions.shape[-1]
        ):
            loss = _categorical_twin(loss)
        call = loss.call if isinstance(loss, keras.losses.Loss) else loss
        soft = targets.shape.rank == 2 and targets.shape[1:] == predictions.shape[1:]
        if soft and not single and type(loss) not in _CLASSES.values():
            _check_takes_soft(call, targets.shape[-1])
        values = call(targets, predictions)
        if values.shape.rank == 0:
            raise ValueError(
                "The loss must return one value per sample, [batch]. "
                f"Received: loss={self._loss!r}, which returns a scalar"
            )
        if values.shape.rank > 1:
            values = tf.reduce_mean(values, axis=list(range(1, values.shape.rank)))
        values = tf.cast(values, tf.float32)
        return values if self._weight is None else values * self._weight


def _check_takes_soft(call: Any, classes: int) -> None:
    """Refuses a loss of the user's that is one for integers, by a call on two samples.

    In a graph the number of samples is not known, and such a loss would fail far from here.
    """
    uniform = np.full((2, classes), 1 / classes, np.float32)
    try:
        with tf.init_scope():
            shape = tf.convert_to_tensor(call(tf.constant(uniform), tf.constant(uniform))).shape
        reason = f"which returned the shape {tuple(shape)} for two samples"
    except (ValueError, TypeError, tf.errors.OpError) as error:
        shape, reason = None, f"which raised {type(error).__name__}"
    if shape is None or (shape.rank and shape[0] != 2):
        raise ValueError(
            "The loss must take labels that are distributions, [batch, classes], where they come "
            "so or a defense makes them so (label smoothing): use a cross-entropy of Keras or a "
            f"loss for one-hot labels. Received: loss={call!r}, {reason}"
        )


def _by_outputs(outputs: tf.Tensor) -> keras.losses.Loss:
    if outputs.shape[-1] == 1:
        return keras.losses.BinaryCrossentropy()
    return keras.losses.SparseCategoricalCrossentropy()


def _categorical_twin(
    loss: keras.losses.SparseCategoricalCrossentropy,
) -> keras.losses.CategoricalCrossentropy:
    """The same loss for class distributions."""
    if loss.ignore_class is not None:
        raise ValueError(
            "A loss with `ignore_class` cannot take one-hot or soft labels, in which that class is "
            f"no longer to be seen. Received: ignore_class={loss.ignore_class!r}"
        )
    return keras.losses.CategoricalCrossentropy(from_logits=loss.from_logits)


def _single(value: Any, name: str) -> Any:
    values = keras.tree.flatten(value)
    if len(values) != 1:
        raise ValueError(
            f"A wrapped model has one output: `{name}` must be a single one. "
            f"Received: {name}={value!r}"
        )
    return values[0]
