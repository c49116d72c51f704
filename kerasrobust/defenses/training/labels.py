"""Labels in the forms that links need: integers, and distributions over the classes."""

from __future__ import annotations

import math

import tensorflow as tf


def integer_labels(y: tf.Tensor, nb_classes: int) -> tf.Tensor:
    """int32 labels `[batch]` of labels in any form; of a distribution the most probable class.

    Args:
        y: Integers `[batch]` or `[batch, 1]`, or one-hot or soft labels `[batch, classes]`.
        nb_classes: Number of classes.
    """
    if _is_distribution(y, nb_classes):
        return tf.argmax(y, axis=-1, output_type=tf.int32)
    y = tf.reshape(y, [-1])
    return tf.cast(tf.round(y) if y.dtype.is_floating else y, tf.int32)


def class_distribution(y: tf.Tensor, nb_classes: int) -> tf.Tensor:
    """float32 probabilities `[batch, classes]` of labels in any form.

    `Batch.y` may hold them whatever cross-entropy was compiled. A label that is no class becomes
    NaN, so that the loss shows it.

    Args:
        y: As for `integer_labels`. With two classes a column of floats is the probability of the
            second class, which is how soft labels of a single output unit look.
        nb_classes: Number of classes.
    """
    if _is_distribution(y, nb_classes):
        return tf.cast(y, tf.float32)
    if nb_classes == 2 and y.dtype.is_floating:
        second = tf.cast(tf.reshape(y, [-1]), tf.float32)
        return tf.stack([1.0 - second, second], axis=-1)
    labels = integer_labels(y, nb_classes)
    valid = (labels >= 0) & (labels < nb_classes)
    return tf.where(valid[:, None], tf.one_hot(labels, nb_classes), math.nan)


def _is_distribution(y: tf.Tensor, nb_classes: int) -> bool:
    return y.shape.rank == 2 and y.shape[-1] == nb_classes
